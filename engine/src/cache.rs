// SPDX-License-Identifier: GPL-2.0-only
//! Honest flush: what servers with a volatile cache have answered and no flush has covered.
//!
//! Shared by all queues of a device. A write that is answered, and not durable by itself, is of the present
//! *era*. Fetching a flush ends the era, and the flush covers what is of that era or older: its server carried
//! those writes out before it was told of the flush. A successful flush so moves the line below which all is
//! durable.
//!
//! A server that attaches has the cache of the one before it only if it says so. Otherwise what that one had
//! answered and no flush has covered counts as lost, as does what it answers later. Flushes fail from then on, until one
//! has failed that was sent after the last of the lost writes had ended: only the submitter of such a flush can rely on
//! those writes. Which flush that is, `loss.rs` says for each queue; one queue's report counts for the device. A
//! write that was answered and whose block request is not ended yet when its server is taken over from counts as lost,
//! too, and as answered when it is ended; until then every flush fails.
//!
//! Called with the lock of some queue held, of another one by each caller, so everything is atomic. The order
//! that counts comes from the requests themselves: a submitter who may rely on a write has seen its end before
//! he sends the flush.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::loss::Loss;

/// The volatile cache of a device's servers, as the engine sees it from outside.
#[derive(Debug)]
pub struct Cache {
    /// Of writes that are answered now; from 1 on.
    era: AtomicU64,
    /// Writes of older eras are durable.
    durable: AtomicU64,
    /// When the last of the lost writes had ended; 0: none was lost.
    lost_ns: AtomicU64,
    /// How often writes were lost.
    losses: AtomicU64,
    /// The last loss that was reported to a submitter.
    reported: AtomicU64,
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
            losses: AtomicU64::new(0),
            reported: AtomicU64::new(0),
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

    /// Writes that had ended until this time are lost.
    pub(crate) fn lose(&self, ended_ns: u64) {
        self.lost_ns.fetch_max(ended_ns.max(1), Ordering::Relaxed);
        // After that: a loss that is seen has its time.
        self.losses.fetch_add(1, Ordering::Release);
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

    /// Whether lost writes have not ended, so that flushes fail and none can report the loss.
    #[must_use]
    pub(crate) fn losing(&self) -> bool {
        self.unended.load(Ordering::Acquire) > 0
    }

    /// The last loss, if it was not reported yet.
    #[must_use]
    pub(crate) fn unreported(&self) -> Option<Loss> {
        let number = self.losses.load(Ordering::Acquire);
        let ended_ns = self.lost_ns.load(Ordering::Relaxed);
        (number > self.reported.load(Ordering::Relaxed)).then_some(Loss { number, ended_ns })
    }

    /// A submitter was told of this loss, who could rely on what was lost.
    pub(crate) fn report(&self, loss: Loss) {
        self.reported.fetch_max(loss.number, Ordering::Relaxed);
    }

    /// How often writes were lost.
    #[must_use]
    pub(crate) fn losses(&self) -> u64 {
        self.losses.load(Ordering::Acquire)
    }

    /// When the last of the lost writes had ended; 0: none was lost.
    #[inline]
    #[must_use]
    pub(crate) fn lost_ns(&self) -> u64 {
        self.lost_ns.load(Ordering::Relaxed)
    }

    /// Whether the next flush will fail.
    #[must_use]
    pub fn lost(&self) -> bool {
        self.losing() || self.unreported().is_some()
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
            losses: AtomicU64::new(self.losses.load(Ordering::Relaxed)),
            reported: AtomicU64::new(self.reported.load(Ordering::Relaxed)),
            unended: AtomicU64::new(self.unended.load(Ordering::Relaxed)),
        }
    }
}
