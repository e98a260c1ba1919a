// SPDX-License-Identifier: GPL-2.0-only
//! How far the flushes of one queue have reported a loss.
//!
//! A lost write is reported when a flush has failed that was sent after the write had ended (`cache.rs`). A
//! flush of the block layer has several submitters: while a flush is in flight, the block layer collects all
//! requests that need a flush, and the next flush answers them. So a flush may answer only submitters that
//! sent their flushes before the write had ended, even if the flush itself was made later.
//!
//! The rule: if a flush was made after the loss, it answers all submitters that waited at that moment, and
//! the next flush of the same queue answers only later ones. So the second of these two flushes reports the
//! loss. Both fail, so a quiet disk has two consecutive failed flushes.
//!
//! One kind of request may have waited elsewhere: a durable write on a device without FUA is sent as an
//! ordinary write, and waits for a flush when that write has ended. If such a write was sent before the loss
//! and ends after it, the second flush may answer only this write: the block layer makes flushes during such
//! a write if other requests have waited for long. Such a write looks like any other, so the end of any write
//! that was sent before the loss restarts the count.
//!
//! The rule relies on three facts: a queue has one flush in flight at a time; a flush answers all requests
//! that waited when it was made; a request was not made earlier than its stated time. The third fact does not hold
//! for writes while the disk's iostats are off (docs/recovery.md).
//!
//! Called with the queue's lock held. Times are in nanoseconds of the monotonic clock.

/// A queue's knowledge of the last loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueLoss {
    /// Number of the loss to which the other fields belong.
    number: u64,
    /// Flushes that were made by this time do not count.
    since_ns: u64,
    /// A write that was sent before the loss may be answered without its end being reported.
    unended: bool,
    /// A flush that was made after the loss has failed.
    failed: bool,
}

/// A loss that is not reported yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Number of the loss, from 1 on.
    pub number: u64,
    /// When the last lost write had ended.
    pub ended_ns: u64,
}

impl QueueLoss {
    /// No loss.
    #[must_use]
    pub const fn new() -> Self {
        Self { number: 0, since_ns: 0, unended: false, failed: false }
    }

    /// A flush that was made at `made_ns` fails because of this loss. `ended_ns`: when the last write of the
    /// queue had ended. `unended`: whether answered writes have not ended. Returns whether the loss is now
    /// reported.
    #[cold]
    pub fn flush_fails(&mut self, loss: Loss, made_ns: u64, ended_ns: u64, unended: bool) -> bool {
        if self.number != loss.number {
            *self = Self { number: loss.number, since_ns: ended_ns, unended, failed: false };
        }
        if self.unended {
            return false;
        }
        let reported = self.failed;
        self.failed |= made_ns > self.since_ns.max(loss.ended_ns);
        reported
    }

    /// A write that was sent before the last loss was answered. Its end is reported later.
    #[cold]
    pub const fn old_write_answered(&mut self) {
        self.unended = true;
        self.failed = false;
    }

    /// Ends of writes were reported, at `now_ns` at the latest. `number` is that of the last loss. `unended`:
    /// whether other answered writes have not ended.
    pub const fn writes_ended(&mut self, number: u64, now_ns: u64, unended: bool) {
        if self.unended || self.number != number {
            *self = Self { number, since_ns: now_ns, unended, failed: false };
        }
    }
}
