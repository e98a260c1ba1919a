// SPDX-License-Identifier: GPL-2.0-only
//! The life of a device, and how long a teardown waits for its server.
//!
//! ```text
//!            destroy                give up              disk deleted
//!   LIVE ------------> DRAINING --------------> FAILING --------------> GONE
//!                          |                                              ^
//!                          +----------------------------------------------+
//!                                          disk deleted
//! ```
//!
//! * LIVE: opened, served, listed.
//! * DRAINING: not listed, not opened any more; what is dirty is written through the server.
//! * FAILING: the server did not keep up; every request ends with `EIO`, present and future ones.
//! * GONE: no request exists or can come; servers are told to go.

/// Where a device is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Phase {
    /// In service.
    #[default]
    Live,
    /// Being destroyed, with its server still asked.
    Draining,
    /// Being destroyed, without its server.
    Failing,
    /// Destroyed.
    Gone,
}

impl Phase {
    /// Whether requests are queued for servers; otherwise they fail at once.
    #[must_use]
    pub const fn takes_requests(self) -> bool {
        matches!(self, Self::Live | Self::Draining)
    }
}

/// Every edge of the drawing as (from, to).
pub const EDGES: &[(Phase, Phase)] = &[
    (Phase::Live, Phase::Draining),
    (Phase::Draining, Phase::Failing),
    (Phase::Draining, Phase::Gone),
    (Phase::Failing, Phase::Gone),
];

/// How often a teardown looks at its server's progress, in milliseconds.
pub const DRAIN_TICK_MS: u32 = 100;
/// How long a teardown waits for the next answer while requests are outstanding, in milliseconds.
pub const DRAIN_STALL_MS: u64 = 5_000;
/// How long a teardown lets a server work in all, in milliseconds.
pub const DRAIN_TOTAL_MS: u64 = 60_000;

/// Watches over one teardown. Times are milliseconds of any monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Drain {
    started_ms: u64,
    progress_ms: u64,
    answers: u64,
}

impl Drain {
    /// A teardown that begins now, with so many answers accepted until now.
    #[must_use]
    pub const fn begin(now_ms: u64, answers: u64) -> Self {
        Self { started_ms: now_ms, progress_ms: now_ms, answers }
    }

    /// Whether to stop asking the server: it owes answers and gave none for [`DRAIN_STALL_MS`], or all of it
    /// takes longer than [`DRAIN_TOTAL_MS`].
    #[must_use]
    pub const fn gives_up(&mut self, now_ms: u64, answers: u64, outstanding: u32) -> bool {
        if answers != self.answers || outstanding == 0 {
            self.answers = answers;
            self.progress_ms = now_ms;
        }
        now_ms.wrapping_sub(self.progress_ms) >= DRAIN_STALL_MS
            || now_ms.wrapping_sub(self.started_ms) >= DRAIN_TOTAL_MS
    }
}
