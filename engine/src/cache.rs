// SPDX-License-Identifier: GPL-2.0-only
//! Honest flush: the writes that servers with a volatile cache have answered and no flush has covered.
//!
//! All queues of a device share one [`Cache`]. An answered write that is not durable by itself belongs to the
//! current *era*. The fetch of a flush ends the era, and the flush covers that era and all older ones,
//! because its server carried those writes out before it got the flush. So a successful flush moves the
//! boundary below which all writes are durable.
//!
//! A server has the caches of the servers before it only if it says so, before its first fetch. Otherwise their
//! answered writes that no flush has covered are lost with that fetch, and so are their later ones. Between its
//! attaching and its first fetch nothing is lost: a flush that an older server still holds is answered by the
//! server that has the cache, and younger flushes wait in the queue. Flushes fail from the first fetch on,
//! until one has failed that was sent after the last of the lost writes had ended: only the submitter of such
//! a flush can rely on those writes. `loss.rs` determines that flush for each queue; the report of one queue
//! counts for the device. A write whose block request has not ended when its server is superseded is lost,
//! too, and the loss counts from its end; until then every flush fails.
//!
//! Each caller holds the lock of some queue, not of the same one, so all fields are atomic. The requests
//! themselves provide the order that matters: a submitter that may rely on a write has seen the end of the
//! write before it sends the flush.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::loss::Loss;

/// The volatile cache of a device's servers, as far as the engine can observe it. All queues write it, so it has
/// cache lines of its own.
#[derive(Debug)]
#[repr(align(64))]
pub struct Cache {
    /// Era of writes that are answered now; starts at 1.
    era: AtomicU64,
    /// Writes of eras before this one are durable.
    durable: AtomicU64,
    /// When the last lost write had ended; 0: no write was lost.
    lost_ns: AtomicU64,
    /// Number of losses.
    losses: AtomicU64,
    /// The last loss that was reported to a submitter.
    reported: AtomicU64,
    /// Writes that are lost, or as good as that, and whose submitters do not know yet that they were answered.
    unended: AtomicU64,
}

impl Cache {
    /// An empty cache.
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

    /// A flush was fetched. Returns the newest era that it covers.
    #[must_use]
    pub(crate) fn flush_begins(&self) -> u64 {
        self.era.fetch_add(1, Ordering::Relaxed)
    }

    /// A flush that covers eras up to this one succeeded.
    pub(crate) fn flushed(&self, era: u64) {
        self.durable.fetch_max(era.wrapping_add(1), Ordering::Relaxed);
    }

    /// Whether a write of this era may be only in a server's cache; 0: no write.
    #[must_use]
    pub(crate) fn holds(&self, era: u64) -> bool {
        era >= self.durable.load(Ordering::Relaxed)
    }

    /// Writes that had ended by this time are lost.
    pub(crate) fn lose(&self, ended_ns: u64) {
        self.lost_ns.fetch_max(ended_ns.max(1), Ordering::Relaxed);
        // Last, so that a reader that sees the loss also sees its time.
        self.losses.fetch_add(1, Ordering::Release);
    }

    /// This many writes that were answered so far are lost, and have not ended.
    pub(crate) fn lose_unended(&self, writes: u64) {
        self.unended.fetch_add(writes, Ordering::Relaxed);
    }

    /// This many of those writes have ended, so their submitters can send flushes that must report the loss.
    pub(crate) fn ended(&self, writes: u64, now_ns: u64) {
        self.lose(now_ns);
        // Last, so that a reader that sees no unended write sees the loss.
        self.unended.fetch_sub(writes, Ordering::Release);
    }

    /// Whether lost writes have not ended. Flushes then fail, and none can report the loss.
    #[must_use]
    pub(crate) fn losing(&self) -> bool {
        self.unended.load(Ordering::Acquire) > 0
    }

    /// The last loss, if it is not reported yet.
    #[must_use]
    pub(crate) fn unreported(&self) -> Option<Loss> {
        let number = self.losses.load(Ordering::Acquire);
        let ended_ns = self.lost_ns.load(Ordering::Relaxed);
        (number > self.reported.load(Ordering::Relaxed)).then_some(Loss { number, ended_ns })
    }

    /// A submitter that could rely on the lost writes was told of this loss.
    pub(crate) fn report(&self, loss: Loss) {
        self.reported.fetch_max(loss.number, Ordering::Relaxed);
    }

    /// Number of losses.
    #[must_use]
    pub(crate) fn losses(&self) -> u64 {
        self.losses.load(Ordering::Acquire)
    }

    /// When the last lost write had ended; 0: no write was lost.
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
