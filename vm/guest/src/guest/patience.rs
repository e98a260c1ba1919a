// SPDX-License-Identifier: MIT OR Apache-2.0
//! Time limits that a slow machine does not exceed.
//!
//! A limit bounds the time without progress. While the guest works (its processors are busy, or a disk
//! completes requests), time counts a tenth of the time in which the guest is idle. So a stuck test fails
//! after its limit, a slow test has ten times as long, and a test that works without end fails, too.
//!
//! A processor is busy if it is not idle. Its own count of busy ticks is not used, because the guest of a
//! loaded host misses ticks.

use std::fs;
use std::time::{Duration, Instant};

/// Time between two samples of the guest's state.
const PERIOD: Duration = Duration::from_millis(500);
/// Divisor for working time.
const STRETCH: u32 = 10;

/// Work of the guest since boot.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    /// Idle time, summed over all processors.
    idle: Duration,
    processors: u32,
    /// Sectors that disks have read and written.
    sectors: u64,
}

impl Sample {
    fn take() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self::parse(&read("/proc/stat"), &read("/proc/diskstats"))
    }

    fn parse(stat: &str, disks: &str) -> Self {
        let mut sample = Self::default();
        for line in stat.lines().filter(|line| line.starts_with("cpu")) {
            let numbers: Vec<u64> =
                line.split_whitespace().skip(1).map_while(|word| word.parse().ok()).collect();
            if line.starts_with("cpu ") {
                // Waiting for I/O counts as idle, too, because stuck I/O makes no progress. In units of 10
                // ms.
                let idle = numbers.iter().skip(3).take(2).sum::<u64>();
                sample.idle = Duration::from_millis(idle.saturating_mul(10));
            } else {
                sample.processors += 1;
            }
        }
        for line in disks.lines() {
            // "MAJOR MINOR NAME READS MERGED SECTORS MS WRITES MERGED SECTORS ..."
            let mut numbers = line.split_whitespace().skip(3).map(|word| word.parse().unwrap_or(0));
            sample.sectors += numbers.nth(2).unwrap_or(0) + numbers.nth(3).unwrap_or(0);
        }
        sample
    }

    /// Whether the guest has worked since an earlier sample.
    fn worked_since(self, earlier: Self, passed: Duration) -> bool {
        let idle = self.idle.saturating_sub(earlier.idle);
        let busy = (passed * self.processors).saturating_sub(idle);
        // Waiting itself uses some time of a processor, because conditions are checked every few
        // milliseconds.
        busy * 4 >= passed || self.sectors != earlier.sectors
    }
}

/// A running limit.
#[derive(Debug)]
pub(crate) struct Patience {
    limit: Duration,
    spent: Duration,
    seen: Instant,
    sample: Sample,
}

impl Patience {
    /// This many seconds, multiplied by the plan's slowness.
    pub(crate) fn seconds(seconds: u64) -> Self {
        Self::new(Duration::from_secs(seconds) * super::wait::slowness())
    }

    /// Exactly this long.
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, spent: Duration::ZERO, seen: Instant::now(), sample: Sample::take() }
    }

    /// Whether the limit is used up.
    pub(crate) fn over(&mut self) -> bool {
        let passed = self.seen.elapsed();
        if passed >= PERIOD.min(self.limit.saturating_sub(self.spent)) {
            let now = Sample::take();
            self.spent += if now.worked_since(self.sample, passed) { passed / STRETCH } else { passed };
            self.seen += passed;
            self.sample = now;
        }
        self.spent >= self.limit
    }
}

#[cfg(test)]
mod checks {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn sample(idle: u64, waiting: u64, sectors: u64) -> Sample {
        let stat = format!("cpu  9 9 9 {idle} {waiting} 9 9\ncpu0 1 1 1 1\ncpu1 1 1 1 1\nintr 5\n");
        let disks = format!(" 254 0 vda 10 0 {sectors} 7 10 0 8 7 0 1 1\n");
        Sample::parse(&stat, &disks)
    }

    #[test]
    fn an_idle_guest_does_not_work() {
        let earlier = sample(1000, 500, 80);
        // Two processors were idle for a second; one of them waited for I/O.
        assert!(!sample(1100, 600, 80).worked_since(earlier, SECOND));
        assert!(!sample(1095, 595, 80).worked_since(earlier, SECOND), "polling is not work");
    }

    #[test]
    fn work_is_a_busy_processor_or_moved_data() {
        let earlier = sample(1000, 500, 80);
        assert!(sample(1100, 500, 80).worked_since(earlier, SECOND), "one of two processors was busy");
        assert!(sample(1000, 500, 80).worked_since(earlier, SECOND), "both were, or got no time of the host");
        assert!(sample(1100, 600, 88).worked_since(earlier, SECOND), "sectors were read");
    }

    #[test]
    fn this_machine_can_be_sampled() {
        let sample = Sample::take();
        assert!(sample.processors > 0 && sample.idle > Duration::ZERO, "{sample:?}");
    }

    #[test]
    fn a_limit_is_never_over_early_and_ends_even_if_there_is_work() {
        let limit = Duration::from_millis(30);
        let (begin, mut patience) = (Instant::now(), Patience::new(limit));
        while !patience.over() {
            assert!(begin.elapsed() < SECOND * 60);
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(begin.elapsed() >= limit);
    }
}
