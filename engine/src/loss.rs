// SPDX-License-Identifier: GPL-2.0-only
//! How far the flushes of one queue have reported a loss.
//!
//! A lost write is reported when a flush has failed that was sent after the write had ended (`cache.rs`). A flush of the
//! block layer is not that of one submitter: while it is under way the block layer collects all that need a flush, and
//! the next flush answers them. A flush therefore may answer only submitters who sent theirs before the write had
//! ended, even if the flush itself was made later.
//!
//! The rule: when a flush was made after the loss, all submitters who waited at that moment are answered by it, and the
//! flush that follows it in the same queue answers later ones only. So the second of the two reports the loss; both
//! fail. A quiet disk has two failed flushes in a row.
//!
//! One kind of submitter can have waited elsewhere: a write that must be durable, on a device without FUA, is sent as
//! an ordinary write, and waits for a flush when that write has ended. If such a write was sent before the loss and
//! ends after it, it can be the only one whom the second flush answers: the block layer makes flushes although such a
//! write is under way when others have waited for long. Nothing tells such a write from others, so the end of any
//! write that was sent before the loss begins the count anew.
//!
//! All this relies on three things: a queue has one flush under way at a time; a flush answers all that waited when it
//! was made; the time at which a request was made is not later than told.
//!
//! Called with the queue's lock held. Times are in nanoseconds of the monotonic clock.

/// What a queue knows of the last loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueLoss {
    /// Number of the loss that the rest is about.
    number: u64,
    /// Flushes that were made at this time or before do not count.
    since_ns: u64,
    /// A write that was sent before the loss may be answered, and its end not told.
    unended: bool,
    /// A flush that was made after the loss has failed.
    failed: bool,
}

/// A loss that was not reported yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Counts losses, from 1 on.
    pub number: u64,
    /// When the last of the lost writes had ended.
    pub ended_ns: u64,
}

impl QueueLoss {
    /// Nothing was lost.
    #[must_use]
    pub const fn new() -> Self {
        Self { number: 0, since_ns: 0, unended: false, failed: false }
    }

    /// A flush that was made at `made_ns` fails for this loss. `ended_ns`: when the last write of the queue had ended;
    /// `unended`: whether writes are answered and have not. Returns whether the loss is now reported.
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

    /// A write was answered that was sent before the last loss. Its end is told later.
    #[cold]
    pub const fn old_write_answered(&mut self) {
        self.unended = true;
        self.failed = false;
    }

    /// Ends of writes were told, at the latest at `now_ns`. `number` is that of the last loss; `unended`: whether other
    /// writes are answered and have not ended.
    pub const fn writes_ended(&mut self, number: u64, now_ns: u64, unended: bool) {
        if self.unended || self.number != number {
            *self = Self { number, since_ns: now_ns, unended, failed: false };
        }
    }
}
