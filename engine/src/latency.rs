// SPDX-License-Identifier: GPL-2.0-only
//! Latency histograms with powers of two as bounds.
//!
//! An accepted answer counts its request once in each of the three histograms. A request that a deadline or a
//! teardown fails is not counted. Times are in nanoseconds of any monotonic clock.

use zosbd2_abi::v2 as abi;

/// Number of buckets.
pub const BUCKETS: usize = abi::LATENCY_BUCKETS;

/// Bucket 0 counts times below 2^10 ns. Bucket n counts times from 2^(9 + n) ns to below 2^(10 + n) ns; the
/// last bucket also counts all longer times.
const FIRST_BITS: u32 = 10;

/// The bucket of a time.
#[must_use]
pub const fn bucket(ns: u64) -> usize {
    let bits = u64::BITS.wrapping_sub((ns | 1).leading_zeros());
    let bucket = bits.saturating_sub(FIRST_BITS) as usize;
    if bucket < BUCKETS { bucket } else { BUCKETS.wrapping_sub(1) }
}

/// Upper bound of a bucket, which counts times below it; `None` for the last bucket.
#[must_use]
pub const fn bound_ns(bucket: usize) -> Option<u64> {
    if bucket.wrapping_add(1) < BUCKETS {
        Some(1 << (FIRST_BITS as usize).wrapping_add(bucket))
    } else {
        None
    }
}

/// Number of requests in each bucket.
pub type Histogram = [u64; BUCKETS];

/// The histograms of one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Histograms {
    /// Time from the submission to the fetch by the server that answered.
    pub waiting: Histogram,
    /// Time from that fetch to the answer.
    pub serving: Histogram,
    /// Time from the submission to the answer.
    pub total: Histogram,
}

/// Counts of one histogram in memory: place n counts the times with n + 1 significant bits, so counting needs
/// no comparison with bounds.
type Raw = [u64; u64::BITS as usize];

/// The latencies of one queue. Counts wrap. Answers change them, so they share no cache line with what submissions use.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(align(64))]
pub struct Latencies {
    waiting: Raw,
    serving: Raw,
    total: Raw,
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl Latencies {
    /// Empty histograms.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            waiting: [0; u64::BITS as usize],
            serving: [0; u64::BITS as usize],
            total: [0; u64::BITS as usize],
        }
    }

    /// The histograms in the form of interface version 2.
    #[inline(never)]
    #[must_use]
    pub fn histograms(&self) -> Histograms {
        Histograms { waiting: fold(&self.waiting), serving: fold(&self.serving), total: fold(&self.total) }
    }

    /// Counts an answered request. A negative time, which only a guessed handle can cause, wraps and counts
    /// as a long one.
    #[inline]
    pub(crate) fn count(&mut self, submitted_ns: u64, fetched_ns: u64, answered_ns: u64) {
        one_more(&mut self.waiting, fetched_ns.wrapping_sub(submitted_ns));
        one_more(&mut self.serving, answered_ns.wrapping_sub(fetched_ns));
        one_more(&mut self.total, answered_ns.wrapping_sub(submitted_ns));
    }
}

#[inline]
fn one_more(raw: &mut Raw, ns: u64) {
    if let Some(count) = raw.get_mut((ns | 1).ilog2() as usize) {
        *count = count.wrapping_add(1);
    }
}

fn fold(raw: &Raw) -> Histogram {
    let mut histogram = [0; BUCKETS];
    for (place, counted) in raw.iter().enumerate() {
        // The shortest time that is counted in this place.
        if let Some(count) = histogram.get_mut(bucket(1 << place)) {
            *count = counted.wrapping_add(*count);
        }
    }
    histogram
}
