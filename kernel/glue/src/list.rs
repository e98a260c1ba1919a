// SPDX-License-Identifier: GPL-2.0-only
//! A short list on the stack. Unused places are not initialised and cost nothing. Dropping the list does not
//! drop its items.

use core::mem::MaybeUninit;
use core::slice;

/// At most `N` items.
#[derive(Debug)]
pub struct List<T, const N: usize> {
    /// The first `count` places are initialised.
    places: [MaybeUninit<T>; N],
    count: usize,
}

impl<T, const N: usize> List<T, N> {
    /// An empty list.
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        // `[const { MaybeUninit::uninit() }; N]` is the same, but rustc 1.85 writes zeroes into the places.
        // SAFETY: every place may be uninitialised.
        let places = unsafe { MaybeUninit::<[MaybeUninit<T>; N]>::uninit().assume_init() };
        Self { places, count: 0 }
    }

    /// Appends an item if there is room; the callers ensure that there is.
    #[inline]
    pub fn push(&mut self, item: T) {
        if let Some(place) = self.places.get_mut(self.count) {
            place.write(item);
            self.count = self.count.wrapping_add(1);
        }
    }

    /// Removes the newest item.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        self.count = self.count.checked_sub(1)?;
        let place = self.places.get(self.count)?;
        // SAFETY: `push` initialised it, and the list no longer contains it.
        Some(unsafe { place.assume_init_read() })
    }

    /// Number of items.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether the list is empty.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The items, the oldest first.
    #[inline]
    #[must_use]
    pub const fn items(&self) -> &[T] {
        // SAFETY: `push` initialised the first `count` places, which is at most `N`.
        unsafe { slice::from_raw_parts(self.places.as_ptr().cast(), self.count) }
    }

    /// The items, the oldest first.
    #[inline]
    pub const fn items_mut(&mut self) -> &mut [T] {
        // SAFETY: `push` initialised the first `count` places, which is at most `N`.
        unsafe { slice::from_raw_parts_mut(self.places.as_mut_ptr().cast(), self.count) }
    }
}

impl<T: Copy, const N: usize> List<T, N> {
    /// Removes the item at `index`; later items move up.
    #[cold]
    pub fn remove(&mut self, index: usize) {
        let mut rest = self.items_mut().get_mut(index..).unwrap_or_default();
        if rest.is_empty() {
            return;
        }
        while let [place, next, ..] = rest {
            *place = *next;
            rest = rest.get_mut(1..).unwrap_or_default();
        }
        self.count = self.count.saturating_sub(1);
    }

    /// Removes the first `count` items; later items move up.
    #[inline]
    pub fn remove_first(&mut self, count: usize) {
        let left = self.count.saturating_sub(count);
        for index in 0..left {
            let next = self.items().get(index.wrapping_add(count)).copied();
            if let (Some(next), Some(place)) = (next, self.items_mut().get_mut(index)) {
                *place = next;
            }
        }
        self.count = left;
    }

    /// Appends `count` items of the default value; the callers ensure that there is room. Returns them.
    #[inline]
    pub fn append(&mut self, count: usize) -> &mut [T]
    where
        T: Default,
    {
        let before = self.count;
        for _ in 0..count {
            self.push(T::default());
        }
        self.items_mut().get_mut(before..).unwrap_or_default()
    }

    /// Removes all items.
    #[inline]
    pub const fn clear(&mut self) {
        self.count = 0;
    }
}

impl<T, const N: usize> Default for List<T, N> {
    fn default() -> Self {
        Self::new()
    }
}
