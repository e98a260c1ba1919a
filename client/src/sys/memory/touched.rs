// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records which parts of a memory were written: one bit per unit, for any number of threads.

use super::Buffer;
use crate::MemoryError;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};

/// One bit per unit of a memory, all clear at first. The bits are in sparse memory, too, so the bits of
/// unused memory use none.
#[derive(Debug)]
pub(super) struct Touched {
    words: Buffer,
    shift: u32,
}

impl Touched {
    /// Bits for `bytes` bytes, in units of `unit` bytes; `unit` is a power of two.
    pub(super) fn new(bytes: usize, unit: usize) -> Result<Self, MemoryError> {
        let shift = unit.trailing_zeros();
        let words = (bytes >> shift) / 64 + 1;
        Ok(Self { words: Buffer::new(words * size_of::<u64>(), false)?, shift })
    }

    /// Whether every unit with any of these bytes is marked.
    #[inline]
    pub(super) fn all(&self, at: usize, length: usize) -> bool {
        self.each(at, length, |marks, mask| marks == mask)
    }

    /// Whether no unit with any of these bytes is marked.
    #[inline]
    pub(super) fn none(&self, at: usize, length: usize) -> bool {
        self.each(at, length, |marks, _| marks == 0)
    }

    /// Marks every unit with any of these bytes.
    pub(super) fn set(&self, at: usize, length: usize) {
        for (word, mask) in self.masks(self.units(at, length)) {
            if word.load(Ordering::Relaxed) & mask != mask {
                word.fetch_or(mask, Ordering::Release);
            }
        }
    }

    /// Clears the marks of the units that lie completely within these bytes.
    pub(super) fn clear_whole(&self, at: usize, length: usize) {
        let (first, end) = (at.div_ceil(1 << self.shift), (at + length) >> self.shift);
        if first < end {
            for (word, mask) in self.masks(first..=end - 1) {
                word.fetch_and(!mask, Ordering::Release);
            }
        }
    }

    /// Whether this holds for the marks of every unit with any of these bytes, word by word. Most ranges are in
    /// one word.
    #[inline]
    fn each(&self, at: usize, length: usize, holds: impl Fn(u64, u64) -> bool) -> bool {
        let units = self.units(at, length);
        let (first, last) = (*units.start(), *units.end());
        if first / 64 == last / 64 {
            let (word, mask) = self.mask(first / 64, first, last);
            return holds(word.load(Ordering::Acquire) & mask, mask);
        }
        self.masks(units).all(|(word, mask)| holds(word.load(Ordering::Acquire) & mask, mask))
    }

    #[inline]
    fn units(&self, at: usize, length: usize) -> RangeInclusive<usize> {
        at >> self.shift..=(at + length.max(1) - 1) >> self.shift
    }

    /// The words of these units, each with the bits of these units.
    fn masks(&self, units: RangeInclusive<usize>) -> impl Iterator<Item = (&AtomicU64, u64)> {
        let (first, last) = units.into_inner();
        (first / 64..=last / 64).map(move |index| self.mask(index, first, last))
    }

    /// One word, with its bits of the units from `first` to `last`.
    #[inline]
    fn mask(&self, index: usize, first: usize, last: usize) -> (&AtomicU64, u64) {
        let low = first.saturating_sub(index * 64);
        let high = (last - index * 64).min(63);
        (&self.words.words()[index], (u64::MAX >> (63 - high)) & (u64::MAX << low))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: usize = 4096;

    #[test]
    fn units_are_marked_whole_and_cleared_whole() {
        let touched = Touched::new(1000 * UNIT, UNIT).unwrap();
        assert!(touched.none(0, 1000 * UNIT));
        touched.set(70 * UNIT + 1, 1);
        assert!(touched.all(70 * UNIT, UNIT));
        assert!(!touched.all(70 * UNIT, UNIT + 1) && !touched.all(70 * UNIT - 1, 2));
        assert!(!touched.none(0, 1000 * UNIT) && touched.none(0, 70 * UNIT));
        touched.clear_whole(70 * UNIT + 1, UNIT);
        assert!(touched.all(70 * UNIT, UNIT), "a part of a unit");
        touched.clear_whole(70 * UNIT, UNIT);
        assert!(touched.none(0, 1000 * UNIT));
    }

    #[test]
    fn ranges_may_span_words() {
        for (first, count) in [(0, 64), (0, 65), (63, 2), (1, 62), (5, 500), (64, 64), (999, 1)] {
            let touched = Touched::new(1000 * UNIT, UNIT).unwrap();
            touched.set(first * UNIT, count * UNIT);
            for unit in 0..1000 {
                let inside = (first..first + count).contains(&unit);
                assert_eq!(touched.all(unit * UNIT, UNIT), inside, "{first}+{count}: {unit}");
                assert_eq!(touched.none(unit * UNIT, UNIT), !inside, "{first}+{count}: {unit}");
            }
            assert!(touched.all(first * UNIT, count * UNIT));
            touched.clear_whole(0, 1000 * UNIT);
            assert!(touched.none(0, 1000 * UNIT), "{first}+{count}");
        }
    }
}
