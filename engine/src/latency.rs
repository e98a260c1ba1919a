// SPDX-License-Identifier: GPL-2.0-only
//! How long requests take, in histograms of powers of two.
//!
//! A request counts when a server's answer to it is accepted, in all three histograms at once; one that is failed by a
//! deadline or a teardown does not. Times are of any monotonic clock, in nanoseconds.

use zosbd2_abi::v2 as abi;

/// Number of buckets.
pub const BUCKETS: usize = abi::LATENCY_BUCKETS;

/// Bucket 0 has all below 2^10 ns; bucket n those from 2^(9 + n) ns to below 2^(10 + n) ns; the last one all
/// others, too.
const FIRST_BITS: u32 = 10;

/// The bucket that so long a time belongs to.
#[must_use]
pub const fn bucket(ns: u64) -> usize {
    let bits = u64::BITS.wrapping_sub((ns | 1).leading_zeros());
    let bucket = bits.saturating_sub(FIRST_BITS) as usize;
    if bucket < BUCKETS { bucket } else { BUCKETS.wrapping_sub(1) }
}

/// What all in this bucket are below; none for the last one.
#[must_use]
pub const fn bound_ns(bucket: usize) -> Option<u64> {
    if bucket.wrapping_add(1) < BUCKETS {
        Some(1 << (FIRST_BITS as usize).wrapping_add(bucket))
    } else {
        None
    }
}

/// How many requests took how long.
pub type Histogram = [u64; BUCKETS];

/// Those of one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Histograms {
    /// From the submission to the fetch by the server that answered.
    pub waiting: Histogram,
    /// From that fetch to the answer.
    pub serving: Histogram,
    /// From the submission to the answer.
    pub total: Histogram,
}

/// Counts of one histogram as they are kept: place n has the times of n + 1 significant bits, so that no bound has to be
/// looked at where they are counted.
type Raw = [u64; u64::BITS as usize];

/// The latencies of one queue. Counts wrap.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Nothing was counted.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            waiting: [0; u64::BITS as usize],
            serving: [0; u64::BITS as usize],
            total: [0; u64::BITS as usize],
        }
    }

    /// The histograms, as interface version 2 has them.
    #[inline(never)]
    #[must_use]
    pub fn histograms(&self) -> Histograms {
        Histograms { waiting: fold(&self.waiting), serving: fold(&self.serving), total: fold(&self.total) }
    }

    /// A request was answered. Times that go back, which only a handle that was guessed can cause, count as long ones.
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
        // The shortest time of that place.
        if let Some(count) = histogram.get_mut(bucket(1 << place)) {
            *count = counted.wrapping_add(*count);
        }
    }
    histogram
}
