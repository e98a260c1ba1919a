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
#[inline]
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

/// The latencies of one queue. Counts wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    /// From the submission to the fetch by the server that answered.
    pub waiting: Histogram,
    /// From that fetch to the answer.
    pub serving: Histogram,
    /// From the submission to the answer.
    pub total: Histogram,
}

impl Latencies {
    /// A request was answered.
    #[inline]
    pub(crate) fn count(&mut self, submitted_ns: u64, fetched_ns: u64, answered_ns: u64) {
        one_more(&mut self.waiting, fetched_ns.saturating_sub(submitted_ns));
        one_more(&mut self.serving, answered_ns.saturating_sub(fetched_ns));
        one_more(&mut self.total, answered_ns.saturating_sub(submitted_ns));
    }
}

#[inline]
fn one_more(histogram: &mut Histogram, ns: u64) {
    if let Some(count) = histogram.get_mut(bucket(ns)) {
        *count = count.wrapping_add(1);
    }
}
