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
//! succeed fails, once, instead of vouching for it.
//!
//! Called with the lock of some queue held, of another one by each caller, so everything is atomic. The order
//! that counts comes from the requests themselves: a submitter who may rely on a write has seen its end before
//! he sends the flush.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The volatile cache of a device's servers, as the engine sees it from outside.
#[derive(Debug)]
pub struct Cache {
    /// Of writes that are answered now; from 1 on.
    era: AtomicU64,
    /// Writes of older eras are durable.
    durable: AtomicU64,
    /// Writes were lost of which no submitter was told.
    lost: AtomicBool,
}

impl Cache {
    /// Nothing was written.
    #[must_use]
    pub const fn new() -> Self {
        Self { era: AtomicU64::new(1), durable: AtomicU64::new(1), lost: AtomicBool::new(false) }
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

    /// Answered writes are lost, or as good as that.
    pub(crate) fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    /// Whether something is lost of which no submitter was told. The caller tells one.
    #[must_use]
    pub(crate) fn take_loss(&self) -> bool {
        self.lost.load(Ordering::Relaxed) && self.lost.swap(false, Ordering::Relaxed)
    }

    /// Whether the next flush will fail.
    #[must_use]
    pub fn lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
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
            lost: AtomicBool::new(self.lost()),
        }
    }
}
