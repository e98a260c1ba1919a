// SPDX-License-Identifier: MIT OR Apache-2.0
//! Latencies as the kernel counts them: buckets, each twice as wide as the one before.
//!
//! The kernel knows in which bucket a time fell, not the time. So a percentile is the upper bound of its bucket, and is
//! shown with `<`.

use std::ops::Sub;
use std::time::Duration;
use zosbd2::v2::{Latency, abi::LATENCY_BUCKETS};

/// Counts of times, by bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Histogram(pub(crate) [u64; LATENCY_BUCKETS]);

impl Histogram {
    /// Adds the counts of another queue.
    pub(crate) fn add(&mut self, counts: &[u64; LATENCY_BUCKETS]) {
        for (sum, count) in self.0.iter_mut().zip(counts) {
            *sum = sum.wrapping_add(*count);
        }
    }

    /// The number of times.
    pub(crate) fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The bucket in which a percentile falls, in thousandths: 500 is the median. `None` if nothing was counted.
    pub(crate) fn percentile(&self, thousandths: u64) -> Option<usize> {
        let total = self.total();
        let rank = (u128::from(total) * u128::from(thousandths)).div_ceil(1000).max(1);
        let mut sum = 0;
        (total > 0).then(|| {
            self.0.iter().position(|count| {
                sum += u128::from(*count);
                sum >= rank
            })
        })?
    }
}

/// What was counted since an earlier look. The counters wrap.
impl Sub for Histogram {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        let mut counts = self.0;
        for (count, earlier) in counts.iter_mut().zip(earlier.0) {
            *count = count.wrapping_sub(earlier);
        }
        Self(counts)
    }
}

/// The upper bound of a bucket in nanoseconds; `None` for the last one, which has none.
pub(crate) fn bound(bucket: usize) -> Option<u64> {
    Latency::bound(bucket).map(|bound| u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX))
}

/// A bucket for a table: `<16µs`, or `≥18m` for the last one. At most 6 characters.
pub(crate) fn below(bucket: usize) -> String {
    match Latency::bound(bucket) {
        Some(bound) => format!("<{}", short(bound)),
        None => bucket
            .checked_sub(1)
            .and_then(Latency::bound)
            .map_or_else(String::new, |least| format!("≥{}", short(least))),
    }
}

/// A time in at most 5 characters: `1.0µs`, `131µs`, `8.6s`, `18m`.
pub(crate) fn short(time: Duration) -> String {
    let nanoseconds = time.as_nanos();
    let (unit, word) = match nanoseconds {
        0..1_000 => (1, "ns"),
        1_000..1_000_000 => (1_000, "µs"),
        1_000_000..1_000_000_000 => (1_000_000, "ms"),
        1_000_000_000..600_000_000_000 => (1_000_000_000, "s"),
        _ => (60_000_000_000, "m"),
    };
    let tenths = nanoseconds * 10 / unit;
    if tenths < 100 && unit > 1 {
        format!("{}.{}{word}", tenths / 10, tenths % 10)
    } else {
        format!("{}{word}", tenths / 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(counts: &[(usize, u64)]) -> Histogram {
        let mut histogram = Histogram::default();
        for (bucket, count) in counts {
            histogram.0[*bucket] = *count;
        }
        histogram
    }

    #[test]
    fn percentiles_are_buckets_by_rank() {
        assert_eq!(Histogram::default().percentile(500), None);
        let one = histogram(&[(7, 1)]);
        assert_eq!([500, 990, 999].map(|part| one.percentile(part)), [Some(7); 3]);
        let many = histogram(&[(3, 500), (4, 490), (9, 9), (31, 1)]);
        assert_eq!(many.total(), 1000);
        assert_eq!(
            [500, 501, 990, 991, 999, 1000].map(|part| many.percentile(part)),
            [3, 4, 4, 9, 9, 31].map(Some)
        );
        let huge = histogram(&[(0, u64::MAX / 2), (1, u64::MAX / 2)]);
        assert_eq!(huge.percentile(999), Some(1));
    }

    #[test]
    fn an_interval_is_a_difference_of_wrapping_counters() {
        let later = histogram(&[(2, 3), (5, 10)]);
        let earlier = histogram(&[(2, u64::MAX - 1), (5, 4)]);
        assert_eq!(later - earlier, histogram(&[(2, 5), (5, 6)]));
        let mut sum = later;
        sum.add(&earlier.0);
        assert_eq!(sum, histogram(&[(2, 1), (5, 14)]));
    }

    #[test]
    fn bounds_fit_a_column() {
        assert_eq!(bound(0), Some(1024));
        assert_eq!(bound(LATENCY_BUCKETS - 1), None);
        let shown: Vec<String> = (0..LATENCY_BUCKETS).map(below).collect();
        assert_eq!(shown[..5], ["<1.0µs", "<2.0µs", "<4.0µs", "<8.1µs", "<16µs"]);
        assert_eq!(shown[LATENCY_BUCKETS - 2..], ["<18m", "≥18m"]);
        assert!(shown.iter().all(|text| text.chars().count() <= 6), "{shown:?}");
    }
}
