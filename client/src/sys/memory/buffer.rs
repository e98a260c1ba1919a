// SPDX-License-Identifier: MIT OR Apache-2.0
//! Plain mappings: a buffer with one owner, and zeros for all readers.

use crate::MemoryError;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use zosbd2_abi::v2;

/// Maps `length` fresh zeros, readable and writable.
pub(super) fn map(length: usize, flags: MapFlags) -> Result<NonNull<u8>, MemoryError> {
    map_as(length, ProtFlags::READ | ProtFlags::WRITE, flags)
}

fn map_as(length: usize, protection: ProtFlags, flags: MapFlags) -> Result<NonNull<u8>, MemoryError> {
    // SAFETY: with a null hint the kernel chooses an unused range.
    let base = unsafe { mmap_anonymous(std::ptr::null_mut(), length, protection, flags) }
        .map_err(|source| MemoryError::Map { bytes: length as u64, source })?;
    NonNull::new(base.cast::<u8>()).ok_or(MemoryError::Size(length as u64))
}

/// As many zeros as the longest request has bytes, for reads of unwritten parts. Nobody can change them, and
/// they use only page tables: all pages are the kernel's one page of zeros. `None` if the mapping fails.
pub(super) fn zeros() -> Option<&'static [u8]> {
    static ZEROS: OnceLock<Option<&'static [u8]>> = OnceLock::new();
    *ZEROS.get_or_init(|| {
        let length = v2::MAX_IO_BYTES as usize;
        let base = map_as(length, ProtFlags::READ, MapFlags::PRIVATE | MapFlags::NORESERVE).ok()?;
        // SAFETY: the mapping is this long, initialised, never unmapped, and nobody can write to it.
        Some(unsafe { std::slice::from_raw_parts(base.as_ptr(), length) })
    })
}

/// A page-aligned buffer with its own mapping, zeroed at first.
pub struct Buffer {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping belongs to this value alone and is not tied to a thread.
unsafe impl Send for Buffer {}
// SAFETY: a shared reference gives no more than shared references to the bytes.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Maps `bytes`, at least 1. With `populated` the pages are allocated now, not on first use.
    pub fn new(bytes: usize, populated: bool) -> Result<Self, MemoryError> {
        if bytes == 0 || isize::try_from(bytes).is_err() {
            return Err(MemoryError::Size(bytes as u64));
        }
        let populate = if populated { MapFlags::POPULATE } else { MapFlags::empty() };
        let base = map(bytes, MapFlags::PRIVATE | populate)?;
        #[cfg(test)]
        crate::sys::counting::count_mapped(bytes, true);
        Ok(Self { base, bytes })
    }

    /// The bytes as words that threads share; bytes beyond the last whole word are left out. The buffer must
    /// not have been used as bytes.
    #[inline]
    pub(super) fn words(&self) -> &[AtomicU64] {
        let count = self.bytes / size_of::<u64>();
        // SAFETY: the mapping is page-aligned, this long, and initialised, and any bytes are a valid word.
        // The words live in `UnsafeCell`s. `deref`, through which they would change, needs the same shared
        // borrow, and the only user of this function, in this module, never calls `deref`.
        unsafe { std::slice::from_raw_parts(self.base.cast::<AtomicU64>().as_ptr(), count) }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is this long, initialised, and changes only through `&mut self`.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.bytes) }
    }
}

impl DerefMut for Buffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.bytes) }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: `new` made the mapping with this size, and nobody can use it after `drop`. `munmap` cannot
        // fail for such a range.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
        #[cfg(test)]
        crate::sys::counting::count_mapped(self.bytes, false);
    }
}
