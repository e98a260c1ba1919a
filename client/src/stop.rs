// SPDX-License-Identifier: MIT OR Apache-2.0
//! A request to stop serving, from any thread.
//!
//! A token is cheap to clone, and all clones share one state. Do not use it inside a signal handler, because
//! it takes a lock: let a thread wait for signals and call it. A request that comes before serving begins is
//! not lost.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Asks the serve loop that uses this token to destroy its device and return: see [`Server::serve`] and
/// `v1::serve`. There are two kinds of requests: to [stop](Self::request) as soon as the device is
/// unused, and to stop by [force](Self::force).
///
/// [`Server::serve`]: crate::Server::serve
#[derive(Clone, Debug, Default)]
pub struct StopToken {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    requests: Mutex<Requests>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
struct Requests {
    /// Of both kinds.
    count: u64,
    forced: bool,
}

impl StopToken {
    /// A token without a request.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Requests a stop. [`Server::serve`](crate::Server::serve) destroys the device as soon as it is not open, however
    /// often this is called. `v1::serve` destroys it by force, and retries a failed destroy at
    /// the next request.
    pub fn request(&self) {
        self.add(false);
    }

    /// Requests a stop by force: the device is destroyed at once, although it may be in use. What cannot be written in
    /// time is lost. If the device was in use, serving ends with [`Error::Forced`](crate::Error::Forced).
    pub fn force(&self) {
        self.add(true);
    }

    fn add(&self, force: bool) {
        let mut requests = self.lock();
        requests.count = requests.count.saturating_add(1);
        requests.forced |= force;
        self.shared.changed.notify_all();
    }

    /// Whether a stop was requested.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.requests() != 0
    }

    /// Whether a stop by force was requested.
    #[must_use]
    pub fn is_forced(&self) -> bool {
        self.lock().forced
    }

    /// Number of requests so far.
    pub(crate) fn requests(&self) -> u64 {
        self.lock().count
    }

    /// Sleeps until `done` returns true or there are more than `seen` requests. Returns the number of
    /// requests.
    pub(crate) fn wait(&self, seen: u64, done: impl Fn() -> bool) -> u64 {
        let requests = self.lock();
        self.shared
            .changed
            .wait_while(requests, |requests| requests.count == seen && !done())
            .unwrap_or_else(PoisonError::into_inner)
            .count
    }

    /// Like [`wait`](Self::wait), but sleeps for at most `time`.
    pub(crate) fn wait_for(&self, time: Duration, seen: u64, done: impl Fn() -> bool) -> u64 {
        let requests = self.lock();
        let same = |requests: &mut Requests| requests.count == seen && !done();
        let waited = self.shared.changed.wait_timeout_while(requests, time, same);
        waited.unwrap_or_else(PoisonError::into_inner).0.count
    }

    /// Sleeps for `time`, or until the next request.
    pub fn pause(&self, time: Duration) {
        self.pause_unless(time, || false);
    }

    /// Sleeps for `time`, or until the next request, or until `done` returns true.
    pub(crate) fn pause_unless(&self, time: Duration, done: impl Fn() -> bool) {
        let end = Instant::now() + time;
        let mut requests = self.lock();
        let before = requests.count;
        while requests.count == before && !done() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let woken = self.shared.changed.wait_timeout(requests, left);
            requests = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Makes the sleepers check their condition again.
    pub(crate) fn wake(&self) {
        let _requests = self.lock();
        self.shared.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Requests> {
        self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
