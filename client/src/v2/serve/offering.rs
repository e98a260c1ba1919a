// SPDX-License-Identifier: MIT OR Apache-2.0
//! The buffers that a lane's calls offer for the data of writes: how many, and how long.
//!
//! As many are offered as writes came lately, and one more, each as long as the longest write lately. A write that is longer than
//! its buffer, or finds none, comes without its data. One thread uses an offering.

use crate::sys::enter::Offer;
use crate::v2::pool::Pool;
use crate::v2::{Buffer, Buffers};

/// See the module.
pub(super) struct Offering {
    offered: Offer,
    /// Most buffers.
    most: usize,
    /// Number of buffers to offer.
    wanted: usize,
    /// Writes of this round.
    writes: usize,
    /// Length of the offered buffers: that of the longest write lately.
    expected: usize,
    /// Longest write since the last trim.
    longest: usize,
    /// The pool was trimmed, so shorter writes may set the length of the offered buffers.
    trimmed: bool,
}

impl Offering {
    /// Offers up to this many buffers.
    pub(super) fn new(most: usize) -> Self {
        let offered = Offer::with_capacity(most);
        Self { offered, most, wanted: 1, writes: 0, expected: 0, longest: 0, trimmed: false }
    }

    /// Notes that a write of this length came, with or without its data.
    #[inline]
    pub(super) fn note_write(&mut self, bytes: usize) {
        self.writes += 1;
        self.longest = self.longest.max(bytes);
    }

    /// Takes the buffer of this number with its data, and puts another one in its place if there is memory.
    #[inline]
    pub(super) fn take(&mut self, number: usize, pool: &mut Pool) -> Option<Buffer> {
        self.offered.replace(number, pool.take_spare(self.expected))
    }

    /// Ends a round in which requests came: twice as many buffers if all were used, and otherwise one less.
    #[inline]
    pub(super) fn adapt(&mut self) {
        let writes = std::mem::take(&mut self.writes);
        let wanted = if writes >= self.wanted { writes * 2 } else { self.wanted - 1 };
        self.wanted = wanted.clamp(1, self.most);
    }

    /// The pool gives memory back: the offered buffers may become shorter.
    pub(super) fn trim(&mut self) {
        self.trimmed = true;
    }

    /// The lane is idle: at most these bytes stay offered, or one buffer.
    #[inline]
    pub(super) fn rest(&mut self, pool: &mut Pool, kept: usize) {
        while self.offered.len() > 1 && self.offered.len() * self.expected > kept {
            self.offered.pop().into_iter().for_each(|buffer| pool.give(buffer));
            self.wanted = self.offered.len();
        }
    }

    /// The buffers for a call that fetches up to `looks` requests. If there is no memory, fewer are offered. The offered
    /// buffers have no data here: all writes that came with data were taken.
    #[inline]
    pub(super) fn prepare(&mut self, pool: &mut Pool, looks: usize) -> Buffers<'_> {
        if self.longest > self.expected || self.trimmed {
            self.set_length(pool);
        }
        let wanted = self.wanted.min(looks);
        // A buffer's number is its place, so unused ones move to the front if others could not be replaced.
        self.offered.close_gaps();
        while self.offered.len() > wanted {
            self.offered.pop().into_iter().for_each(|buffer| pool.give(buffer));
        }
        while self.offered.len() < wanted {
            // The reserve is for writes that have arrived.
            let Some(buffer) = pool.take_spare(self.expected) else { break };
            self.offered.push(buffer);
        }
        self.offered.buffers()
    }

    /// Offers buffers of another length from now on, if it has changed.
    #[cold]
    fn set_length(&mut self, pool: &mut Pool) {
        if self.longest != self.expected {
            self.expected = self.longest;
            while self.offered.len() > 0 {
                self.offered.pop().into_iter().for_each(|buffer| pool.give(buffer));
            }
        }
        if std::mem::take(&mut self.trimmed) {
            self.longest = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_and_length_follow_the_writes() {
        let mut pool = Pool::new(64 << 10, 8, false).expect("memory");
        let mut offering = Offering::new(8);
        // Number of buffers, and length of the first.
        let offered = |offering: &mut Offering, pool: &mut Pool| {
            let buffers = offering.prepare(pool, 8);
            (buffers.len(), buffers.room(0))
        };
        assert_eq!(offered(&mut offering, &mut pool), (1, Some(4096)));
        for _ in 0..3 {
            offering.note_write(8192);
        }
        offering.adapt();
        assert_eq!(offered(&mut offering, &mut pool), (6, Some(8192)));
        assert_eq!(offering.take(0, &mut pool).map(|buffer| buffer.len()), Some(8192));
        for wanted in [5, 4, 3] {
            offering.adapt();
            assert_eq!(offered(&mut offering, &mut pool), (wanted, Some(8192)));
        }
        // Shorter again when the pool has been trimmed twice: the first time, a long write was seen before.
        offering.trim();
        offering.prepare(&mut pool, 8);
        offering.note_write(512);
        offering.trim();
        assert_eq!(offered(&mut offering, &mut pool).1, Some(4096));
        assert_eq!(offering.prepare(&mut pool, 2).len(), 2);
    }

    #[test]
    fn an_idle_lane_offers_few_bytes() {
        let mut pool = Pool::new(64 << 10, 8, false).expect("memory");
        let mut offering = Offering::new(8);
        (0..4).for_each(|_| offering.note_write(8192));
        offering.adapt();
        assert_eq!(offering.prepare(&mut pool, 8).len(), 8);
        for (kept, left) in [(8 * 8192, 8), (3 * 8192, 3), (0, 1)] {
            offering.rest(&mut pool, kept);
            assert_eq!(offering.prepare(&mut pool, 8).len(), left);
        }
    }
}
