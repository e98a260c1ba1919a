// SPDX-License-Identifier: GPL-2.0-only
//! Notices what no call reports: requests that nobody serves, and the loss of a cache. A worker looks every [`WATCH_MS`], so
//! that the calls of servers need not count themselves.
//!
//! # Requests that nobody serves
//!
//! Each queue is watched by itself, because a thread that waits for requests of one queue does not serve another.
//! A queue is unserved while no thread waits in ENTER for its requests, no thread fetches or answers any, and
//!
//! * requests are queued: its threads are stuck, overloaded or gone; or
//! * requests are held, and nobody is left who could answer them: the process that called ENTER last has ended, and so
//!   has every thread that fetched one of them. As long as that process lives, the server may just be slow, because a
//!   process may answer from any thread.

/// Time between two looks, in milliseconds.
pub const WATCH_MS: u32 = 2_000;
/// How long requests are unserved before that is told, in milliseconds.
pub const UNSERVED_MS: u64 = 5_000;

/// A queue at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Requests that wait for a server.
    pub queued: u32,
    /// Requests that a server has fetched and not answered.
    pub held: u32,
    /// Whether the held requests may be answered: the process that called ENTER last lives, or a thread that fetched one
    /// of them.
    pub holder_lives: bool,
    /// Threads that wait for requests in ENTER.
    pub waiting: u32,
    /// A number that changes with every ENTER that slept, fetched or answered.
    pub calls: u64,
}

impl Seen {
    /// Number of requests that nobody serves.
    #[must_use]
    pub const fn unserved(&self) -> u32 {
        if self.waiting > 0 {
            return 0;
        }
        let abandoned = if self.holder_lives { 0 } else { self.held };
        self.queued.saturating_add(abandoned)
    }
}

/// Watches one queue for requests that nobody serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueWatch {
    /// [`Seen::calls`] at the last look, and since when each look saw this number and unserved requests.
    calls: u64,
    since_ms: Option<u64>,
    told: bool,
}

impl QueueWatch {
    /// A new watch.
    #[must_use]
    pub const fn new() -> Self {
        Self { calls: 0, since_ms: None, told: false }
    }

    /// Looks at the queue. `live`: the device has a server. Returns whether to tell that requests are unserved.
    #[must_use]
    pub fn look(&mut self, now_ms: u64, seen: &Seen, live: bool) -> bool {
        if !live || self.since(seen).is_none() {
            let since_ms = (live && seen.unserved() > 0).then_some(now_ms);
            *self = Self { calls: seen.calls, since_ms, told: false };
            return false;
        }
        let tell = !self.told && self.unserved_ms(now_ms, seen) >= UNSERVED_MS;
        self.told |= tell;
        tell
    }

    /// For how long requests have been unserved, in milliseconds; 0 if the last look saw no such requests, or if a thread
    /// has called since.
    #[must_use]
    pub fn unserved_ms(&self, now_ms: u64, seen: &Seen) -> u64 {
        self.since(seen).map_or(0, |since_ms| now_ms.saturating_sub(since_ms))
    }

    fn since(&self, seen: &Seen) -> Option<u64> {
        self.since_ms.filter(|_| seen.unserved() > 0 && seen.calls == self.calls)
    }
}

/// Watches a device for the loss of a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheWatch {
    lost_flushes: u64,
    told: bool,
}

impl CacheWatch {
    /// A new watch.
    #[must_use]
    pub const fn new() -> Self {
        Self { lost_flushes: 0, told: false }
    }

    /// Looks at a device. `lost_flushes`: number of flushes that failed because a cache was lost. `served`: the device's
    /// server has called ENTER. `lost`: the next flush will fail, because a cache was lost. Returns whether to tell that.
    #[must_use]
    pub const fn look(&mut self, lost_flushes: u64, served: bool, lost: bool) -> bool {
        let failed = lost_flushes != self.lost_flushes;
        self.lost_flushes = lost_flushes;
        if !lost && !failed {
            self.told = false;
            return false;
        }
        // A server may say that the cache survived until its first call, so the loss is no news before.
        let tell = (served || failed) && !self.told;
        self.told |= tell;
        tell
    }
}
