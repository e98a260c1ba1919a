// SPDX-License-Identifier: MIT OR Apache-2.0
//! How many requests a blocking lane takes at a time.
//!
//! A lane answers all requests of a batch when the last one is done. That saves calls if requests take
//! microseconds, and makes submitters wait for each other, and other threads idle, if requests take
//! milliseconds. So the lane begins with one request, takes twice as many after each full batch that was quick,
//! and goes back to one after a slow batch. The clock has the resolution of the kernel's tick (1 to 10 ms).
//! Reading it can cost a few hundred instructions, so batches are only measured from time to time, except while
//! the pace is one or could grow.

use rustix::time::{ClockId, Timespec, clock_gettime};
use std::time::Duration;

/// A batch that takes this long is slow.
const SLOW: Duration = Duration::from_millis(8);
/// The batches that are not measured, for each one that is.
const UNMEASURED: u32 = 7;

/// The pace of one lane.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    most: usize,
    now: usize,
    adapts: bool,
    unmeasured: u32,
}

impl Pace {
    /// Up to `most` requests at a time; always that many unless the pace adapts.
    pub(super) const fn new(most: usize, adapts: bool) -> Self {
        Self { most, now: if adapts { 1 } else { most }, adapts, unmeasured: 0 }
    }

    /// Most requests to take.
    #[inline]
    pub(super) const fn limit(&self) -> usize {
        self.now
    }

    /// Begins a batch of this many requests. Returns the time if the batch is to be measured.
    #[inline]
    pub(super) fn begin(&mut self, requests: usize) -> Option<Timespec> {
        if !self.adapts || requests == 0 {
            return None;
        }
        let grows = requests >= self.now && self.now < self.most;
        if self.now > 1 && !grows && self.unmeasured < UNMEASURED {
            self.unmeasured += 1;
            return None;
        }
        self.unmeasured = 0;
        Some(clock_gettime(ClockId::MonotonicCoarse))
    }

    /// Ends a batch that was measured.
    #[inline]
    pub(super) fn end(&mut self, began: Option<Timespec>, requests: usize) {
        if let Some(began) = began {
            let elapsed = clock_gettime(ClockId::MonotonicCoarse) - began;
            self.judge(requests, Duration::try_from(elapsed).unwrap_or_default());
        }
    }

    #[inline]
    fn judge(&mut self, requests: usize, elapsed: Duration) {
        if elapsed >= SLOW {
            self.now = 1;
        } else if requests >= self.now && self.now < self.most {
            self.now = (self.now * 2).min(self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_batches_grow_and_a_slow_one_ends_that() {
        let mut pace = Pace::new(32, true);
        let mut limits = Vec::new();
        for _ in 0..6 {
            limits.push(pace.limit());
            pace.judge(pace.limit(), Duration::from_millis(4));
        }
        assert_eq!(limits, [1, 2, 4, 8, 16, 32]);
        pace.judge(3, Duration::ZERO);
        assert_eq!(pace.limit(), 32);
        pace.judge(32, SLOW);
        assert_eq!(pace.limit(), 1);
        pace.judge(1, SLOW);
        assert_eq!(pace.limit(), 1);
        pace.judge(1, Duration::ZERO);
        pace.judge(1, Duration::ZERO);
        assert_eq!(pace.limit(), 2, "a batch that is not full says nothing");
    }

    #[test]
    fn a_fixed_pace_is_never_measured() {
        let mut pace = Pace::new(7, false);
        assert_eq!((pace.limit(), pace.begin(7)), (7, None));
    }

    #[test]
    fn batches_that_change_nothing_are_measured_from_time_to_time() {
        let mut pace = Pace::new(2, true);
        assert!(pace.begin(1).is_some(), "while the pace is one");
        pace.judge(1, Duration::ZERO);
        for requests in [1, 2] {
            let measured = (0..64).filter(|_| pace.begin(requests).is_some()).count();
            assert_eq!(measured, 64 / (UNMEASURED as usize + 1));
        }
        let mut pace = Pace { now: 2, ..Pace::new(4, true) };
        assert!(pace.begin(2).is_some(), "the pace could grow");
        assert!(pace.begin(1).is_none());
    }
}
