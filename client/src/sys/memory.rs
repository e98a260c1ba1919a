// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mappings: a large sparse memory that threads, or processes, share, and plain buffers.
//!
//! [`SparseMemory`]: any thread may call any function at any time. No function lends the bytes out. The
//! functions copy bytes in and out under a lock for that part of the address space, so two threads access the
//! same byte at the same time only if both read it. A function that fails has changed nothing. A [`Region`]
//! names bytes that the kernel copies without these locks. A [`Buffer`] has one owner, like a box. Dropping a
//! mapping unmaps all of it.

use crate::{Errno, MemoryError};
use rustix::fs::{FallocateFlags, fallocate, fstat, ftruncate};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use std::fs::File;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU8;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Bytes of the address space that one lock covers without a break.
const STRIPE: usize = 1 << 20;
/// Number of locks; stripe `n` is covered by lock `n % LOCKS`.
const LOCKS: usize = 128;

/// One lock per cache line, so that threads on neighbouring locks do not slow each other down.
#[repr(align(64))]
#[derive(Default)]
struct Stripe(RwLock<()>);

/// A memory of fixed size, zeroed at first. It occupies only pages that were written and not discarded.
///
/// The memory is private to the process, or it is that of a file in memory (`/dev/shm`) and outlives the
/// process: the next process that maps the file has the same bytes. The locks work between threads, not
/// between processes. Two processes that map the same file at the same time, such as two servers during a
/// take-over, must not access the same bytes.
///
/// An operation is atomic within each aligned MiB and not beyond: a reader may see one part of a larger
/// concurrent write and not the other, as on a disk. The kernel's copies to and from a [`Region`] take no
/// lock: concurrent requests that overlap may mix byte by byte, as on a disk.
pub struct SparseMemory {
    base: NonNull<u8>,
    bytes: usize,
    page: usize,
    locks: Box<[Stripe]>,
    /// The mapped file, unless the memory is private.
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
    /// Maps `bytes` zeros, at least 1. Fails if the address space has no room, or if the system never
    /// overcommits and has less free memory.
    pub fn new(bytes: u64) -> Result<Self, MemoryError> {
        let length = length(bytes)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        let base = map(length, flags)?;
        // A huge page would take 2 MiB for one written block. A kernel without huge pages refuses the advice
        // and needs none.
        // SAFETY: the range is the mapping just made; the advice changes no content.
        let _ = unsafe { madvise(base.as_ptr().cast(), length, Advice::LinuxNoHugepage) };
        let locks = std::iter::repeat_with(Stripe::default).take(LOCKS).collect();
        Ok(Self { base, bytes: length, page: rustix::param::page_size(), locks, file: None })
    }

    /// Maps a file. An empty file becomes `bytes` long. The file must be on a file system in memory that can
    /// punch holes, such as `/dev/shm`; elsewhere the kernel writes the bytes back to a disk when it likes.
    /// If another process shortens the file, access to the missing part kills this process.
    ///
    /// # Errors
    ///
    /// [`MemoryError::File`] if the file has another size, or if a call on it fails; [`MemoryError::Size`]
    /// and [`MemoryError::Map`] as for [`new`](Self::new).
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
        // SAFETY: with a null hint the kernel chooses an unused range. Other processes may change the bytes,
        // but no reference to the bytes is ever made.
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

    /// Makes `length` bytes from `offset` on read as zeros, and frees whole pages.
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

    /// Overwrites `length` bytes from `offset` on with zeros, and keeps their pages.
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

    /// Names `length` bytes from `offset` on for direct copies by the kernel.
    #[inline]
    pub fn region(&self, offset: u64, length: usize) -> Result<Region<'_>, MemoryError> {
        let at = self.check("region", offset, length as u64)?;
        // SAFETY: `check` found the range inside the mapping.
        let start = unsafe { self.base.add(at) };
        Ok(Region { start, length, owner: PhantomData })
    }

    /// Frees the whole pages `first..last`, which then read as zeros.
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
        // SAFETY: the callers checked that the range is inside the mapping.
        let start = unsafe { self.base.add(first) };
        // SAFETY: page-aligned range inside our private mapping, whose lock the caller holds; the bytes
        // become zeros, which is a valid value.
        let given = unsafe { madvise(start.as_ptr().cast(), last - first, Advice::LinuxDontNeed) };
        if given.is_err() {
            // The pages are locked into memory (mlockall) and stay, so their content is overwritten.
            self.zero(guard, first, last);
        }
    }

    /// Fills `first..last` with zeros.
    fn zero(&self, _guard: &RwLockWriteGuard<'_, ()>, first: usize, last: usize) {
        // SAFETY: the callers checked that the range is inside the mapping.
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

    // A poisoned lock means that a thread panicked while it changed bytes. Any mixture of old and new bytes
    // is valid.
    fn read_lock(&self, at: usize) -> RwLockReadGuard<'_, ()> {
        self.locks[at / STRIPE % LOCKS].0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_lock(&self, at: usize) -> RwLockWriteGuard<'_, ()> {
        self.locks[at / STRIPE % LOCKS].0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SparseMemory {
    fn drop(&mut self) {
        // SAFETY: `new` made the mapping with this size, and nobody can use it after `drop`. `munmap` cannot
        // fail for such a range.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// The size of a mapping, if such a mapping is possible.
fn length(bytes: u64) -> Result<usize, MemoryError> {
    usize::try_from(bytes)
        .ok()
        .filter(|length| *length != 0 && isize::try_from(*length).is_ok())
        .ok_or(MemoryError::Size(bytes))
}

/// How many of the `length` bytes from `at` on the lock of `at` covers.
fn within_stripe(at: usize, length: usize) -> usize {
    length.min(STRIPE - at % STRIPE)
}

/// Maps `length` fresh zeros, readable and writable.
fn map(length: usize, flags: MapFlags) -> Result<NonNull<u8>, MemoryError> {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: with a null hint the kernel chooses an unused range.
    let base = unsafe { mmap_anonymous(std::ptr::null_mut(), length, protection, flags) }
        .map_err(|source| MemoryError::Map { bytes: length as u64, source })?;
    NonNull::new(base.cast::<u8>()).ok_or(MemoryError::Size(length as u64))
}

/// Bytes of a backend that the kernel copies from and to, while others may access them too.
///
/// The bytes are never lent out as references. The memory stays mapped for `'a`.
#[derive(Clone, Copy)]
pub struct Region<'a> {
    start: NonNull<u8>,
    length: usize,
    owner: PhantomData<&'a [AtomicU8]>,
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
        Ok(Self { base: map(bytes, MapFlags::PRIVATE | populate)?, bytes })
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
    }
}
