// SPDX-License-Identifier: MIT OR Apache-2.0
//! Honest flush: which answered writes were lost with a server's cache, and which flushes have to say so. Pure.

/// The caches of a device's servers.
#[derive(Debug, Default)]
pub(super) struct Cache {
    volatile: bool,
    /// Writes that were answered and are not durable by themselves, ever.
    answered: u64,
    /// Of these, the first ones that a flush has covered, or whose loss is being reported.
    covered: u64,
    /// Number of requests that had been submitted when the last of these writes ended.
    submitted: u64,
    /// Servers from this epoch on do not have what earlier ones answered.
    from: u32,
    /// Flushes that still have to fail.
    to_fail: u32,
}

impl Cache {
    pub(super) fn new(volatile: bool) -> Self {
        Self { volatile, ..Self::default() }
    }

    /// Whether flushes fail.
    pub(super) fn lost(&self) -> bool {
        self.to_fail > 0
    }

    /// A server other than the first one fetches for the first time, and has not claimed the cache.
    pub(super) fn begins_without(&mut self, epoch: u32) {
        self.from = epoch;
        if self.volatile && self.answered > self.covered {
            self.lose();
        }
    }

    fn lose(&mut self) {
        self.covered = self.answered;
        self.to_fail = 2;
    }

    /// What a flush that is fetched now will cover.
    pub(super) fn covers(&self) -> u64 {
        self.answered
    }

    /// A server has carried out a write that is not durable by itself. `submitted` requests were submitted so far.
    pub(super) fn written(&mut self, epoch: u32, submitted: u64) {
        self.answered += 1;
        self.submitted = submitted;
        if self.volatile && epoch < self.from {
            self.lose();
        }
    }

    /// A server has carried out a flush that covers this many writes and was submitted as this one. Returns whether
    /// it succeeds.
    pub(super) fn flushed(&mut self, epoch: u32, covers: u64, number: u64) -> bool {
        if epoch < self.from {
            return true;
        }
        if self.to_fail > 0 {
            self.to_fail -= u32::from(number >= self.submitted);
            return false;
        }
        self.covered = self.covered.max(covers);
        true
    }
}
