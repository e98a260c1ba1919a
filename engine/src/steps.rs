// SPDX-License-Identifier: GPL-2.0-only
//! Since when those may wait whom a flush answers.
//!
//! The block layer collects flushes. Those that come while one is on its way, or a write that belongs to one, are all
//! answered by the next, which is made when that has ended; and so are writes that are to be durable when their data is
//! written. Who could not rely on another write yet must not be taken for somebody who could (`cache.rs`), so of each
//! flush this says a time at or before which the first of them was sent, and as late a one as it can.
//!
//! What is seen are *steps*: the flushes, and the data of writes that need one, each from when it comes to the driver
//! until the block layer has been told of its end. When none is there a new one waits for nothing, as far as is seen.
//! But a flush that was made when the last step ended can still be on its way, behind a write that came straight: it
//! tells by the time at which it was made.
//!
//! Called with the queue's lock held. Times are those of the block layer, in nanoseconds of the monotonic clock.

/// What is known of a queue's steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    /// Those that came and whose end is not over.
    running: u32,
    /// When the first of those was made that overlap until now.
    busy_ns: u64,
    /// When the last end was over; the end of time while a flush's is not known to be.
    over_ns: u64,
    /// `over_ns` when `busy_ns` was set last because none was running, and what that was until then.
    before: (u64, u64),
    /// When the last flush was made.
    made_ns: u64,
    /// When the first of those writes was made that ended since that flush came, and between the two before, and may
    /// wait for a flush.
    written_ns: [u64; 2],
}

impl Steps {
    /// There was none.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            running: 0,
            busy_ns: 0,
            over_ns: 0,
            before: (0, u64::MAX),
            made_ns: 0,
            written_ns: [u64::MAX; 2],
        }
    }

    /// A flush comes. Returns the time at or before which all whom it answers were sent.
    #[cold]
    pub fn flush_comes(&mut self, made_ns: u64) -> u64 {
        self.comes(made_ns);
        let (over_ns, busy_ns) = self.before;
        if made_ns <= over_ns {
            // It was on its way when none seemed to be there.
            self.busy_ns = self.busy_ns.min(busy_ns);
        }
        // One at a time: no other one is on its way, and the one before is over.
        self.before = (0, u64::MAX);
        if self.over_ns == u64::MAX {
            self.over_ns = made_ns;
        }
        // All who came before the last one was made were answered by it.
        let first_ns = self.made_ns.min(self.written_ns[0]).min(self.written_ns[1]);
        self.made_ns = made_ns;
        // A write that ends between the making of this one and now waits for the next.
        self.written_ns = [u64::MAX, self.written_ns[0]];
        // None has waited for longer than there was something to wait for.
        first_ns.max(self.busy_ns)
    }

    /// The data of a write comes that needs a flush.
    #[cold]
    pub fn write_comes(&mut self, made_ns: u64) {
        self.comes(made_ns);
    }

    /// As [`write_comes`](Self::write_comes), if nobody knows when it was made: it may belong to what went on before, all
    /// of which it may have waited for.
    #[cold]
    pub const fn untimed_write_comes(&mut self) {
        self.running = self.running.saturating_add(1);
    }

    fn comes(&mut self, made_ns: u64) {
        if self.running == 0 && made_ns > self.over_ns {
            self.before = (self.over_ns, self.before.1.min(self.busy_ns));
            self.busy_ns = made_ns;
        } else {
            self.busy_ns = self.busy_ns.min(made_ns);
        }
        self.running = self.running.saturating_add(1);
    }

    /// The block layer will be told of the end of such a write, which was made then.
    #[cold]
    pub fn write_ends(&mut self, made_ns: u64) {
        self.written_ns[0] = self.written_ns[0].min(made_ns);
    }

    /// The block layer has been told of the end of a step.
    #[cold]
    pub const fn over(&mut self, now_ns: u64) {
        if self.over_ns != u64::MAX {
            self.over_ns = now_ns;
        }
        self.running = self.running.saturating_sub(1);
    }

    /// As [`over`](Self::over), of a flush which somebody holds on to, so that its end may come later.
    #[cold]
    pub const fn over_later(&mut self) {
        self.over_ns = u64::MAX;
        self.running = self.running.saturating_sub(1);
    }
}

impl Default for Steps {
    fn default() -> Self {
        Self::new()
    }
}
