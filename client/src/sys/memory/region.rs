// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names bytes of a backend for the kernel to copy; they are never lent as references.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU8;

/// Bytes of a backend that the kernel copies from and to, while others may access them too.
///
/// The bytes are never lent out as references. The memory stays mapped for `'a`. Some regions may only be read, such as the
/// zeros of [`SparseMemory::read_region`](crate::SparseMemory::read_region): the data of a write cannot go there.
#[derive(Clone, Copy)]
pub struct Region<'a> {
    pub(super) start: NonNull<u8>,
    pub(super) length: usize,
    pub(super) writable: bool,
    pub(super) owner: PhantomData<&'a [AtomicU8]>,
}

// SAFETY: a region gives access to its bytes only through the kernel, like `&[AtomicU8]`.
unsafe impl Send for Region<'_> {}
// SAFETY: as above.
unsafe impl Sync for Region<'_> {}

impl Region<'_> {
    /// A region anywhere in memory, such as in a shared mapping.
    ///
    /// # Safety
    ///
    /// For the lifetime `'a`, the `length` bytes from `start` on are readable and writable, and no reference
    /// to them exists except to atomics and cells.
    #[must_use]
    pub const unsafe fn from_raw(start: NonNull<u8>, length: usize) -> Self {
        Self { start, length, writable: true, owner: PhantomData }
    }

    /// Length in bytes.
    #[must_use]
    pub const fn length(&self) -> usize {
        self.length
    }

    /// Whether the data of a write may go there.
    #[must_use]
    pub const fn is_writable(&self) -> bool {
        self.writable
    }

    pub(in crate::sys) fn address(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl<'a> From<&'a [AtomicU8]> for Region<'a> {
    fn from(bytes: &'a [AtomicU8]) -> Self {
        Self { start: NonNull::from(bytes).cast(), length: bytes.len(), writable: true, owner: PhantomData }
    }
}

impl std::fmt::Debug for Region<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Region").field("length", &self.length).finish_non_exhaustive()
    }
}
