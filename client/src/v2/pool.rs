// SPDX-License-Identifier: MIT OR Apache-2.0
//! The buffers for the requests that a lane has handed out.
//!
//! A pool belongs to one lane, and only the lane's thread uses it. A buffer belongs to its request until the request is
//! answered; the lane then gives it back here. Buffers come in powers of two from a page to the longest
//! request. They are mapped when needed, so only pages that were used take memory, and the sum is bounded by
//! the most bytes that were in flight at a time. [`Pool::trim`] unmaps what the last while did not need.
//!
//! Two buffers for the longest request are mapped from the beginning, one for a read and one for a write, and are used
//! if the system has no memory for more. So a lane always makes progress, if only one request at a time.

use super::Buffer;
use crate::{MemoryError, Result};

/// For which kind of request a buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// A read.
    Read,
    /// A write.
    Write,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pool {
    page: usize,
    page_bits: u32,
    /// Unused buffers of one page, of two, of four, ...
    unused: Vec<Vec<Buffer>>,
    /// The buffers for want of others: for a read and for a write.
    reserve: [Option<Buffer>; 2],
    /// Sums of bytes without the reserve: handed out, and mapped.
    in_use: usize,
    mapped: usize,
    /// Most bytes handed out since the last trim, as far as [`note_peak`](Self::note_peak) was called.
    peak: usize,
}

impl Pool {
    /// A pool for requests of up to `longest` bytes, of which up to `depth` are in flight. With `populated` the reserve is
    /// in memory from the beginning.
    pub(super) fn new(longest: usize, depth: usize, populated: bool) -> Result<Self, MemoryError> {
        let page = rustix::param::page_size();
        let longest = longest.max(page).next_power_of_two();
        let classes = (longest / page).trailing_zeros() as usize + 1;
        let reserve = || Buffer::new(longest, populated).map(Some);
        Ok(Self {
            page,
            page_bits: page.trailing_zeros(),
            unused: (0..classes).map(|_| Vec::with_capacity(depth)).collect(),
            reserve: [reserve()?, reserve()?],
            in_use: 0,
            mapped: 0,
            peak: 0,
        })
    }

    /// A buffer of at least `length` bytes with any content. `None` if the system has no memory, the reserve is
    /// in use, or the length is too large.
    #[inline]
    pub(super) fn take(&mut self, length: usize, for_a: Use) -> Option<Buffer> {
        let class = self.class(length);
        let buffer = match self.unused.get_mut(class)?.pop() {
            Some(buffer) => buffer,
            None => self.map(class).or_else(|| self.take_reserve(for_a))?,
        };
        self.in_use += buffer.len();
        Some(buffer)
    }

    /// Like [`take`](Self::take), but leaves the reserve alone.
    #[inline]
    pub(super) fn take_spare(&mut self, length: usize) -> Option<Buffer> {
        let class = self.class(length);
        let buffer = match self.unused.get_mut(class)?.pop() {
            Some(buffer) => buffer,
            None => self.map(class)?,
        };
        self.in_use += buffer.len();
        Some(buffer)
    }

    /// Takes a buffer back.
    #[inline]
    pub(super) fn give(&mut self, buffer: Buffer) {
        self.in_use = self.in_use.saturating_sub(buffer.len());
        // The length is a power of two.
        let class = (buffer.len() >> self.page_bits).trailing_zeros() as usize;
        if class + 1 == self.unused.len() {
            if let Some(empty) = self.reserve.iter_mut().find(|place| place.is_none()) {
                self.mapped = self.mapped.saturating_sub(buffer.len());
                *empty = Some(buffer);
                return;
            }
        }
        self.unused[class].push(buffer);
    }

    /// Length of the longest buffers.
    pub(super) fn longest(&self) -> usize {
        self.page << (self.unused.len() - 1)
    }

    /// Notes how much is handed out. To be called before buffers are taken back.
    #[inline]
    pub(super) fn note_peak(&mut self) {
        self.peak = self.peak.max(self.in_use);
    }

    /// Unmaps unused buffers, the largest first, until no more than the most bytes since the last call remain.
    pub(super) fn trim(&mut self) {
        self.note_peak();
        let wanted = std::mem::replace(&mut self.peak, self.in_use);
        for class in self.unused.iter_mut().rev() {
            while self.mapped > wanted {
                let Some(buffer) = class.pop() else { break };
                self.mapped -= buffer.len();
            }
        }
    }

    /// Unmaps unused buffers, the largest first, until no more than this many bytes of them remain.
    #[cold]
    pub(super) fn shrink(&mut self, kept: usize) {
        self.peak = self.in_use;
        for class in self.unused.iter_mut().rev() {
            while self.mapped.saturating_sub(self.in_use) > kept {
                let Some(buffer) = class.pop() else { break };
                self.mapped -= buffer.len();
            }
        }
    }

    /// Bytes of all buffers, without the reserve.
    #[inline]
    pub(super) fn mapped(&self) -> usize {
        self.mapped
    }

    /// Bytes of unused buffers, without the reserve.
    #[inline]
    pub(super) fn spare(&self) -> usize {
        self.mapped.saturating_sub(self.in_use)
    }

    #[cold]
    fn map(&mut self, class: usize) -> Option<Buffer> {
        let buffer = Buffer::new(self.page << class, false).ok()?;
        self.mapped += buffer.len();
        Some(buffer)
    }

    #[cold]
    fn take_reserve(&mut self, for_a: Use) -> Option<Buffer> {
        let buffer = self.reserve[usize::from(for_a == Use::Write)].take()?;
        self.mapped += buffer.len();
        Some(buffer)
    }

    /// The smallest class whose buffers have this length.
    #[inline]
    fn class(&self, length: usize) -> usize {
        let more_pages = length.saturating_sub(1) >> self.page_bits;
        (usize::BITS - more_pages.leading_zeros()) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Pool {
        Pool::new(64 << 10, 8, false).expect("memory")
    }

    #[test]
    fn a_buffer_is_the_next_power_of_two() {
        let mut pool = pool();
        for (length, expected) in [(1, 4096), (4096, 4096), (4097, 8192), (40_000, 65536), (65536, 65536)] {
            assert_eq!(pool.take(length, Use::Read).expect("memory").len(), expected);
        }
        assert!(pool.take(65537, Use::Read).is_none());
    }

    #[test]
    fn what_was_in_flight_is_kept_and_no_more() {
        let mut pool = pool();
        let taken: Vec<_> = (0..5).map(|_| pool.take(8192, Use::Read).expect("memory")).collect();
        assert_eq!((pool.in_use, pool.spare()), (5 * 8192, 0));
        pool.note_peak();
        for buffer in taken {
            pool.give(buffer);
        }
        pool.trim();
        assert_eq!(pool.spare(), 5 * 8192, "needed since the last trim");
        let one = pool.take(8192, Use::Read).expect("memory");
        assert_eq!(pool.spare(), 4 * 8192, "used again");
        pool.trim();
        pool.give(one);
        pool.trim();
        assert_eq!(pool.spare(), 8192);
        pool.trim();
        assert_eq!((pool.in_use, pool.spare()), (0, 0));
    }

    #[test]
    fn an_idle_pool_keeps_little() {
        let mut pool = pool();
        let mut taken: Vec<_> = (0..8).map(|_| pool.take(4096, Use::Read).expect("memory")).collect();
        taken.push(pool.take(65536, Use::Write).expect("memory"));
        let last = taken.swap_remove(0);
        for buffer in taken {
            pool.give(buffer);
        }
        pool.shrink(3 * 4096);
        assert_eq!((pool.in_use, pool.spare()), (4096, 3 * 4096));
        pool.give(last);
        pool.shrink(0);
        assert_eq!((pool.in_use, pool.spare()), (0, 0));
    }

    #[test]
    fn the_reserve_serves_one_read_and_one_write() {
        let mut pool = pool();
        let mut reserve = |for_a| pool.take_reserve(for_a).map(|buffer| buffer.len());
        // As if the system had no memory.
        assert_eq!(
            [Use::Read, Use::Read, Use::Write, Use::Write].map(&mut reserve),
            [Some(65536), None, Some(65536), None]
        );
        assert!(pool.reserve.iter().all(Option::is_none));
        let three: Vec<_> = (0..3).map(|_| pool.take(65536, Use::Read).expect("memory")).collect();
        for buffer in three {
            pool.give(buffer);
        }
        assert!(pool.reserve.iter().all(Option::is_some), "filled before anything else");
        assert_eq!(pool.unused[4].len(), 1);
    }
}
