// SPDX-License-Identifier: GPL-2.0-only
//! Honest flush: what servers with a volatile cache have answered and no flush has covered.
//!
//! Shared by all queues of a device. A write that is answered, and not durable by itself, is of the present
//! *era*. Fetching a flush ends the era, and the flush covers what is of that era or older: its server carried
//! those writes out before it was told of the flush. A successful flush so moves the line below which all is
//! durable.
//!
//! A server that attaches has the cache of the one before it only if it says so. Otherwise what that one had
//! answered and no flush has covered counts as lost, as does what it answers later: the next flush that would
//! succeed fails, once, instead of vouching for it. That must be one which was submitted after the last of the
//! lost writes was answered, since only such a flush can be relied on for it: one that is older fails too, if it
//! would succeed meanwhile, and leaves the loss to the next. A write that was answered and whose block request is not ended yet when its
//! server is taken over from counts as lost, too, and as answered when it is ended; until then every flush fails.
//!
//! Called with the lock of some queue held, of another one by each caller, so everything is atomic. The order
//! that counts comes from the requests themselves: a submitter who may rely on a write has seen its end before
//! he sends the flush.

use core::sync::atomic::{AtomicU64, Ordering};

/// The volatile cache of a device's servers, as the engine sees it from outside.
#[derive(Debug)]
pub struct Cache {
    /// Of writes that are answered now; from 1 on.
    era: AtomicU64,
    /// Writes of older eras are durable.
    durable: AtomicU64,
    /// When the last write was answered that is lost, and of which no submitter was told; 0: none is.
    lost_ns: AtomicU64,
    /// Writes that are lost, or as good as that, and whose submitters do not know yet that they were answered.
    unended: AtomicU64,
}

impl Cache {
    /// Nothing was written.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            era: AtomicU64::new(1),
            durable: AtomicU64::new(1),
            lost_ns: AtomicU64::new(0),
            unended: AtomicU64::new(0),
        }
    }

    /// A write was answered. Returns its era.
    #[inline]
    #[must_use]
    pub(crate) fn written(&self) -> u64 {
        self.era.load(Ordering::Relaxed)
    }

    /// A flush was fetched. Returns the last era that it covers.
    #[must_use]
    pub(crate) fn flush_begins(&self) -> u64 {
        self.era.fetch_add(1, Ordering::Relaxed)
    }

    /// A flush succeeded that covers eras up to this one.
    pub(crate) fn flushed(&self, era: u64) {
        self.durable.fetch_max(era.wrapping_add(1), Ordering::Relaxed);
    }

    /// Whether a write of this era may be in nothing but a server's cache; 0: no write.
    #[must_use]
    pub(crate) fn holds(&self, era: u64) -> bool {
        era >= self.durable.load(Ordering::Relaxed)
    }

    /// Writes that were answered until this time are lost, or as good as that.
    pub(crate) fn lose(&self, answered_ns: u64) {
        self.lost_ns.fetch_max(answered_ns.max(1), Ordering::Relaxed);
    }

    /// So many writes that were answered until now are lost, and are not ended yet.
    pub(crate) fn lose_unended(&self, writes: u64) {
        self.unended.fetch_add(writes, Ordering::Relaxed);
    }

    /// So many of those are ended by now, so that their submitters can send flushes that are to tell of them.
    pub(crate) fn ended(&self, writes: u64, now_ns: u64) {
        self.lose(now_ns);
        // After that: who sees none any more sees the loss.
        self.unended.fetch_sub(writes, Ordering::Release);
    }

    /// Whether something is lost of which no submitter was told, so that a flush submitted at this time fails. If it is
    /// younger than what is lost, its submitter is the one who is told.
    #[must_use]
    pub(crate) fn take_loss(&self, submitted_ns: u64) -> bool {
        let unended = self.unended.load(Ordering::Acquire) > 0;
        let lost_ns = self.lost_ns.load(Ordering::Relaxed);
        if !unended && lost_ns > 0 && submitted_ns.max(1) >= lost_ns {
            // If more was lost just now, the next flush tells of it.
            let _told_or_more =
                self.lost_ns.compare_exchange(lost_ns, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
        unended || lost_ns > 0
    }

    /// Whether the next flush will fail.
    #[must_use]
    pub fn lost(&self) -> bool {
        self.unended.load(Ordering::Acquire) > 0 || self.lost_ns.load(Ordering::Relaxed) > 0
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self::new()
    }
}

impl Clone for Cache {
    fn clone(&self) -> Self {
        Self {
            era: AtomicU64::new(self.era.load(Ordering::Relaxed)),
            durable: AtomicU64::new(self.durable.load(Ordering::Relaxed)),
            lost_ns: AtomicU64::new(self.lost_ns.load(Ordering::Relaxed)),
            unended: AtomicU64::new(self.unended.load(Ordering::Relaxed)),
        }
    }
}
