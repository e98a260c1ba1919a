// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mappings: a large sparse memory that threads, or processes, share, and plain buffers.
//!
//! [`SparseMemory`]: any thread may call any function at any time. The bytes are never lent out: they are
//! copied in and out under a lock that covers their part of the address space, so that no two threads touch
//! a byte at the same time unless both read. After an error nothing was changed. [`Region`] names bytes for
//! the kernel to copy, which takes none of these locks. [`Buffer`] belongs to one owner, like a box. Dropping
//! a mapping returns all of it.

use crate::{Errno, MemoryError};
use rustix::fs::{FallocateFlags, fallocate, fstat, ftruncate};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use std::fs::File;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU8;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Bytes of the address space that one lock covers at a stretch.
const STRIPE: usize = 1 << 20;
/// Number of locks; stripe `n` is covered by lock `n % LOCKS`.
const LOCKS: usize = 128;

/// One lock on a cache line of its own, so that neighbours do not slow each other down.
#[repr(align(64))]
#[derive(Default)]
struct Stripe(RwLock<()>);

/// A memory of fixed size, all zeros at first, that occupies only what was written and not discarded.
///
/// It is the process's own, or that of a file in memory (`/dev/shm`), and then outlives the process: whoever maps the
/// file next has the same bytes. Locks hold between threads, not between processes: those who have the same file at
/// the same time, as two servers during a take-over, must not work on the same bytes.
///
/// An operation is atomic within each aligned MiB and not beyond: a reader may see one part of a larger
/// concurrent write and not the other, as on a disk. The kernel's copies to and from a [`Region`] are not
/// covered by the locks: concurrent requests that overlap may mix byte by byte, as on a disk.
pub struct SparseMemory {
    base: NonNull<u8>,
    bytes: usize,
    page: usize,
    locks: Box<[Stripe]>,
    /// Whose memory it is, if not ours.
    file: Option<File>,
}

// SAFETY: the mapping belongs to this value alone and is not tied to a thread.
unsafe impl Send for SparseMemory {}
// SAFETY: every access to the mapping's bytes happens under the lock of its stripe: shared for reads,
// exclusive for changes.
unsafe impl Sync for SparseMemory {}

impl std::fmt::Debug for SparseMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SparseMemory").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl SparseMemory {
    /// A memory of `bytes` zeros, at least 1. Fails when the address space has no room for it, or when the
    /// system is set to never overcommit and has less free memory.
    pub fn new(bytes: u64) -> Result<Self, MemoryError> {
        let length = length(bytes)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        let base = map(length, flags)?;
        // A huge page would take 2 MiB for one written block. A kernel without huge pages refuses the
        // advice and needs none.
        // SAFETY: the range is the mapping just made; the advice changes no content.
        let _ = unsafe { madvise(base.as_ptr().cast(), length, Advice::LinuxNoHugepage) };
        let locks = std::iter::repeat_with(Stripe::default).take(LOCKS).collect();
        Ok(Self { base, bytes: length, page: rustix::param::page_size(), locks, file: None })
    }

    /// The memory of a file, which becomes `bytes` long if it is empty. It must be on a file system in memory that
    /// can punch holes, such as `/dev/shm`: elsewhere the bytes are written back to a disk as the kernel likes. Whoever
    /// makes the file shorter kills this process when it touches what is gone.
    ///
    /// # Errors
    ///
    /// [`MemoryError::File`] when the file has another size, or something fails; [`MemoryError::Size`] and
    /// [`MemoryError::Map`] as for [`new`](Self::new).
    pub fn in_file(file: File, bytes: u64) -> Result<Self, MemoryError> {
        let length = length(bytes)?;
        let failed = |operation: &'static str| move |source| MemoryError::File { operation, bytes, source };
        let present = fstat(&file).map_err(failed("look at"))?.st_size;
        if present == 0 {
            ftruncate(&file, bytes).map_err(failed("set the size of"))?;
        } else if u64::try_from(present) != Ok(bytes) {
            return Err(failed("find the same size in")(Errno::INVAL));
        }
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: with a null hint the kernel chooses a range that nothing else uses. Other processes may change the
        // bytes: no reference to them is ever made.
        let base = unsafe { mmap(std::ptr::null_mut(), length, protection, MapFlags::SHARED, &file, 0) }
            .map_err(|source| MemoryError::Map { bytes, source })?;
        let base = NonNull::new(base.cast::<u8>()).ok_or(MemoryError::Size(bytes))?;
        let locks = std::iter::repeat_with(Stripe::default).take(LOCKS).collect();
        Ok(Self { base, bytes: length, page: rustix::param::page_size(), locks, file: Some(file) })
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.bytes as u64
    }

    /// Fills `buffer` with the bytes from `offset` on.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let mut at = self.check("read", offset, buffer.len() as u64)?;
        let mut rest = buffer;
        while !rest.is_empty() {
            let (part, tail) = rest.split_at_mut(within_stripe(at, rest.len()));
            let guard = self.read_lock(at);
            // SAFETY: `check` found the range inside the mapping, whose bytes are initialised (zeros).
            let source = unsafe { self.base.add(at) };
            let target = part.as_mut_ptr();
            // SAFETY: both are valid for `part.len()` bytes. They cannot overlap, because no reference
            // to the mapping exists. The stripe's lock keeps writers of these bytes away.
            unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), target, part.len()) };
            drop(guard);
            at += part.len();
            rest = tail;
        }
        Ok(())
    }

    /// Stores `data` at `offset`.
    pub fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), MemoryError> {
        let mut at = self.check("write", offset, data.len() as u64)?;
        let mut rest = data;
        while !rest.is_empty() {
            let (part, tail) = rest.split_at(within_stripe(at, rest.len()));
            let guard = self.write_lock(at);
            // SAFETY: `check` found the range inside the mapping.
            let target = unsafe { self.base.add(at) };
            // SAFETY: both are valid for `part.len()` bytes. They cannot overlap, because no reference
            // to the mapping exists. The stripe's lock keeps everyone else away from these bytes.
            unsafe { std::ptr::copy_nonoverlapping(part.as_ptr(), target.as_ptr(), part.len()) };
            drop(guard);
            at += part.len();
            rest = tail;
        }
        Ok(())
    }

    /// Makes `length` bytes from `offset` on read as zeros. Whole pages go back to the system.
    pub fn discard(&self, offset: u64, length: u64) -> Result<(), MemoryError> {
        let mut at = self.check("discard", offset, length)?;
        // `check` made sure that the range fits a `usize`.
        let end = at + usize::try_from(length).map_err(|_| MemoryError::Size(length))?;
        while at < end {
            let part = within_stripe(at, end - at);
            let guard = self.write_lock(at);
            let first = at.next_multiple_of(self.page).min(at + part);
            let last = ((at + part) / self.page * self.page).max(first);
            self.zero(&guard, at, first);
            self.give_back(&guard, first, last);
            self.zero(&guard, last, at + part);
            drop(guard);
            at += part;
        }
        Ok(())
    }

    /// Makes `length` bytes from `offset` on zeros and keeps their pages.
    pub fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), MemoryError> {
        let mut at = self.check("write of zeros", offset, length)?;
        // `check` made sure that the range fits a `usize`.
        let end = at + usize::try_from(length).map_err(|_| MemoryError::Size(length))?;
        while at < end {
            let part = within_stripe(at, end - at);
            let guard = self.write_lock(at);
            self.zero(&guard, at, at + part);
            drop(guard);
            at += part;
        }
        Ok(())
    }

    /// Names `length` bytes from `offset` on for the kernel to copy to and from.
    #[inline]
    pub fn region(&self, offset: u64, length: usize) -> Result<Region<'_>, MemoryError> {
        let at = self.check("region", offset, length as u64)?;
        // SAFETY: `check` found the range inside the mapping.
        let start = unsafe { self.base.add(at) };
        Ok(Region { start, length, owner: PhantomData })
    }

    /// Returns whole pages `first..last` to the system; they read as zeros afterwards.
    fn give_back(&self, guard: &RwLockWriteGuard<'_, ()>, first: usize, last: usize) {
        if first == last {
            return;
        }
        if let Some(file) = &self.file {
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            if fallocate(file, punch, first as u64, (last - first) as u64).is_err() {
                self.zero(guard, first, last);
            }
            return;
        }
        // SAFETY: the callers' range was checked to be inside the mapping.
        let start = unsafe { self.base.add(first) };
        // SAFETY: page-aligned range inside our private mapping, whose lock the caller holds; the bytes
        // become zeros, which is a valid value.
        let given = unsafe { madvise(start.as_ptr().cast(), last - first, Advice::LinuxDontNeed) };
        if given.is_err() {
            // The pages are locked into memory (mlockall), so they stay and only their content goes.
            self.zero(guard, first, last);
        }
    }

    /// Fills `first..last` with zeros.
    fn zero(&self, _guard: &RwLockWriteGuard<'_, ()>, first: usize, last: usize) {
        // SAFETY: the callers' range was checked to be inside the mapping.
        let start = unsafe { self.base.add(first) };
        // SAFETY: as above, and the caller holds the stripe's lock exclusively, as the guard shows.
        unsafe { start.write_bytes(0, last - first) };
    }

    /// The offset as an index, if the range is inside the memory.
    fn check(&self, operation: &'static str, offset: u64, length: u64) -> Result<usize, MemoryError> {
        let size = self.bytes as u64;
        let outside = MemoryError::Bounds { operation, offset, length, size };
        if offset > size || length > size - offset {
            return Err(outside);
        }
        usize::try_from(offset).map_err(|_| outside)
    }

    // A poisoned lock means that a thread panicked between bytes that are valid in any mixture.
    fn read_lock(&self, at: usize) -> RwLockReadGuard<'_, ()> {
        self.locks[at / STRIPE % LOCKS].0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_lock(&self, at: usize) -> RwLockWriteGuard<'_, ()> {
        self.locks[at / STRIPE % LOCKS].0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SparseMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this size and nobody can use it after `drop`.
        // An error is impossible for such a range, and there would be nothing to do about it.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// The size of a mapping, if there can be one.
fn length(bytes: u64) -> Result<usize, MemoryError> {
    usize::try_from(bytes)
        .ok()
        .filter(|length| *length != 0 && isize::try_from(*length).is_ok())
        .ok_or(MemoryError::Size(bytes))
}

/// How many of `length` bytes from `at` on are covered by the lock of `at`.
fn within_stripe(at: usize, length: usize) -> usize {
    length.min(STRIPE - at % STRIPE)
}

/// Maps `length` fresh zeros, readable and writable.
fn map(length: usize, flags: MapFlags) -> Result<NonNull<u8>, MemoryError> {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: with a null hint the kernel chooses a range that nothing else uses.
    let base = unsafe { mmap_anonymous(std::ptr::null_mut(), length, protection, flags) }
        .map_err(|source| MemoryError::Map { bytes: length as u64, source })?;
    NonNull::new(base.cast::<u8>()).ok_or(MemoryError::Size(length as u64))
}

/// Bytes of a backend that the kernel copies to and from, while others may use them too.
///
/// They are never lent as references. The memory stays as long as `'a`.
#[derive(Clone, Copy)]
pub struct Region<'a> {
    start: NonNull<u8>,
    length: usize,
    owner: PhantomData<&'a [AtomicU8]>,
}

// SAFETY: a region gives no access to its bytes but through the kernel, as `&[AtomicU8]` would.
unsafe impl Send for Region<'_> {}
// SAFETY: as above.
unsafe impl Sync for Region<'_> {}

impl Region<'_> {
    /// A region anywhere in memory, such as in a shared mapping.
    ///
    /// # Safety
    ///
    /// For as long as `'a`, `length` bytes from `start` on can be read and written, and no reference to them
    /// exists except to atomics and cells.
    #[must_use]
    pub const unsafe fn from_raw(start: NonNull<u8>, length: usize) -> Self {
        Self { start, length, owner: PhantomData }
    }

    /// Length in bytes.
    #[must_use]
    pub const fn length(&self) -> usize {
        self.length
    }

    pub(super) fn address(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl<'a> From<&'a [AtomicU8]> for Region<'a> {
    fn from(bytes: &'a [AtomicU8]) -> Self {
        Self { start: NonNull::from(bytes).cast(), length: bytes.len(), owner: PhantomData }
    }
}

impl std::fmt::Debug for Region<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Region").field("length", &self.length).finish_non_exhaustive()
    }
}

/// A page-aligned buffer of its own mapping, all zeros at first.
pub struct Buffer {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping belongs to this value alone and is not tied to a thread.
unsafe impl Send for Buffer {}
// SAFETY: a shared reference gives no more than shared references to the bytes.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// A buffer of `bytes`, at least 1. With `populated` all pages are taken now, not when they are used.
    pub fn new(bytes: usize, populated: bool) -> Result<Self, MemoryError> {
        if bytes == 0 || isize::try_from(bytes).is_err() {
            return Err(MemoryError::Size(bytes as u64));
        }
        let populate = if populated { MapFlags::POPULATE } else { MapFlags::empty() };
        Ok(Self { base: map(bytes, MapFlags::PRIVATE | populate)?, bytes })
    }
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is this long, initialised, and changed through `&mut self` only.
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
        // SAFETY: the mapping was made by `new` with this size and nobody can use it after `drop`.
        // An error is impossible for such a range, and there would be nothing to do about it.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
