// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mappings: a large sparse memory that threads, or processes, share, and plain buffers.
//!
//! [`SparseMemory`]: any thread may call any function at any time. No function lends the bytes out. The
//! functions copy bytes in and out under a lock for that part of the address space, so two threads access the
//! same byte at the same time only if both read it. A [`Region`] names bytes that the kernel copies without
//! these locks, so the functions copy as if byte by byte with atomic accesses ([`racing`]). A [`Buffer`] has one owner, like a box. Dropping a mapping unmaps all of it.
//!
//! Reading takes no memory. A read through the mapping costs page tables, and in a file the page itself. So a
//! part that was never written is read from constant zeros, or from the file by a call.

mod buffer;
mod file;
mod racing;
mod region;
mod touched;

pub use buffer::Buffer;
pub use region::Region;

use self::buffer::{map, zeros};
use self::file::MemoryFile;
use self::touched::Touched;
use crate::{Errno, MemoryError};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};
use std::fs::File;
use std::marker::PhantomData;
use std::ptr::NonNull;
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
///
/// If the file system of the file is full, the operation that needs more memory fails, such as with `ENOSPC` on
/// a tmpfs; the part of a write before that is written. Private memory has no such limit: the kernel kills a
/// process when the system has no memory left.
pub struct SparseMemory {
    base: NonNull<u8>,
    bytes: usize,
    page: usize,
    locks: Box<[Stripe]>,
    /// The parts whose access through the mapping allocates no memory. Private memory: the parts that have
    /// page tables. A file: the pages that this process allocated.
    touched: Touched,
    /// The mapped file, unless the memory is private.
    file: Option<MemoryFile>,
}

// SAFETY: the mapping belongs to this value alone and is not tied to a thread.
unsafe impl Send for SparseMemory {}
// SAFETY: every access of this type to the mapping's bytes happens under the lock of its stripe: shared for reads,
// exclusive for changes. The kernel's copies to and from regions take no lock; the accesses of this type are atomic ones
// (`racing`), so that these copies are no data races.
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
        let page = rustix::param::page_size();
        // One page of page-table entries covers this many bytes.
        let touched = Touched::new(length, page * (page / size_of::<u64>()))?;
        let base = map(length, MapFlags::PRIVATE | MapFlags::NORESERVE)?;
        // A huge page would take 2 MiB for one written block. A kernel without huge pages refuses the advice
        // and needs none.
        // SAFETY: the range is the mapping just made; the advice changes no content.
        let _ = unsafe { madvise(base.as_ptr().cast(), length, Advice::LinuxNoHugepage) };
        Ok(Self::mapped(base, length, page, touched, None))
    }

    /// Maps a file. An empty file becomes `bytes` long. The file must be on a file system in memory that can
    /// punch holes, such as `/dev/shm`; elsewhere the kernel writes the bytes back to a disk when it likes.
    ///
    /// # Errors
    ///
    /// [`MemoryError::File`] if the file has another size, or if a call on it fails;
    /// [`MemoryError::FileLimit`] if this process may not write files of that size; [`MemoryError::Size`] and
    /// [`MemoryError::Map`] as for [`new`](Self::new).
    pub fn in_file(file: File, bytes: u64) -> Result<Self, MemoryError> {
        let length = length(bytes)?;
        let page = rustix::param::page_size();
        let touched = Touched::new(length, page)?;
        let file = MemoryFile::new(file, bytes)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: with a null hint the kernel chooses an unused range. Other processes may change the bytes,
        // but no reference to the bytes is ever made.
        let base =
            unsafe { mmap(std::ptr::null_mut(), length, protection, MapFlags::SHARED, file.file(), 0) }
                .map_err(|source| MemoryError::Map { bytes, source })?;
        let base = NonNull::new(base.cast::<u8>()).ok_or(MemoryError::Size(bytes))?;
        Ok(Self::mapped(base, length, page, touched, Some(file)))
    }

    fn mapped(
        base: NonNull<u8>,
        bytes: usize,
        page: usize,
        touched: Touched,
        file: Option<MemoryFile>,
    ) -> Self {
        // A core dump of the server should not contain the disk. If the kernel refuses the advice, it does.
        // SAFETY: the range is the mapping just made; the advice changes no content.
        let _ = unsafe { madvise(base.as_ptr().cast(), bytes, Advice::LinuxDontDump) };
        let locks = std::iter::repeat_with(Stripe::default).take(LOCKS).collect();
        Self { base, bytes, page, locks, touched, file }
    }

    /// Whether the bytes are in a file, and outlive this value.
    #[must_use]
    pub fn is_in_file(&self) -> bool {
        self.file.is_some()
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
            match &self.file {
                Some(file) => file.read(at, part).map_err(self.failed("read"))?,
                None => self.copy_out(&guard, at, part),
            }
            drop(guard);
            at += part.len();
            rest = tail;
        }
        Ok(())
    }

    /// Stores `data` at `offset`.
    pub fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), MemoryError> {
        let at = self.check("write", offset, data.len() as u64)?;
        let mut rest = data;
        self.change(at, data.len(), |guard, at, length| {
            let (part, tail) = rest.split_at(length);
            rest = tail;
            match &self.file {
                Some(file) => file.write(at, part).map_err(self.failed("write"))?,
                None => self.copy_in(guard, at, part),
            }
            self.touched.set(at, length);
            Ok(())
        })
    }

    /// Makes `length` bytes from `offset` on read as zeros, and frees whole pages.
    pub fn discard(&self, offset: u64, length: u64) -> Result<(), MemoryError> {
        let at = self.check("discard", offset, length)?;
        let length = usize::try_from(length).map_err(|_| MemoryError::Size(length))?;
        self.change(at, length, |guard, at, length| {
            if let Some(file) = &self.file {
                file.punch(at, length).map_err(self.failed("discard"))?;
                self.touched.clear_whole(at, length);
            } else if !self.touched.none(at, length) {
                let first = at.next_multiple_of(self.page).min(at + length);
                let last = ((at + length) / self.page * self.page).max(first);
                self.zero(guard, at, first);
                self.give_back(guard, first, last);
                self.zero(guard, last, at + length);
            }
            Ok(())
        })
    }

    /// Overwrites `length` bytes from `offset` on with zeros, and keeps their pages.
    pub fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), MemoryError> {
        let at = self.check("write of zeros", offset, length)?;
        let length = usize::try_from(length).map_err(|_| MemoryError::Size(length))?;
        self.change(at, length, |guard, at, length| {
            match &self.file {
                Some(file) => file.write_zeros(at, length).map_err(self.failed("write of zeros"))?,
                None => self.zero(guard, at, at + length),
            }
            self.touched.set(at, length);
            Ok(())
        })
    }

    /// Names `length` bytes from `offset` on for direct copies by the kernel, and allocates the pages of a file.
    #[inline]
    pub fn region(&self, offset: u64, length: usize) -> Result<Region<'_>, MemoryError> {
        let at = self.check("region", offset, length as u64)?;
        if !self.touched.all(at, length) {
            self.take(at, length)?;
        }
        Ok(self.mapping(at, length))
    }

    /// Names `length` bytes from `offset` on for the kernel to copy from. `None` if the copy would allocate
    /// memory; [`read_at`](Self::read_at) allocates none.
    #[inline]
    pub fn read_region(&self, offset: u64, length: usize) -> Result<Option<Region<'_>>, MemoryError> {
        let at = self.check("region", offset, length as u64)?;
        if self.touched.all(at, length) {
            return Ok(Some(self.mapping(at, length)));
        }
        if self.file.is_some() || !self.touched.none(at, length) {
            return Ok(None);
        }
        let bytes = zeros().and_then(|zeros| zeros.get(..length));
        Ok(bytes.map(|bytes| Region {
            start: NonNull::from(bytes).cast(),
            length,
            writable: false,
            owner: PhantomData,
        }))
    }

    #[inline]
    fn mapping(&self, at: usize, length: usize) -> Region<'_> {
        // SAFETY: the callers checked that the range is inside the mapping.
        let start = unsafe { self.base.add(at) };
        Region { start, length, writable: true, owner: PhantomData }
    }

    /// Allocates the bytes.
    #[cold]
    fn take(&self, at: usize, length: usize) -> Result<(), MemoryError> {
        self.change(at, length, |_, at, length| {
            if let Some(file) = &self.file {
                // Discards take the same lock, so a mark never outlives its page.
                file.allocate(at, length).map_err(self.failed("get room in"))?;
            }
            self.touched.set(at, length);
            Ok(())
        })
    }

    /// Calls `change` for the part of the range in each stripe, with its lock.
    fn change(
        &self,
        mut at: usize,
        mut length: usize,
        mut change: impl FnMut(&RwLockWriteGuard<'_, ()>, usize, usize) -> Result<(), MemoryError>,
    ) -> Result<(), MemoryError> {
        while length > 0 {
            let part = within_stripe(at, length);
            let guard = self.write_lock(at);
            change(&guard, at, part)?;
            drop(guard);
            at += part;
            length -= part;
        }
        Ok(())
    }

    fn failed(&self, operation: &'static str) -> impl Fn(Errno) -> MemoryError {
        let bytes = self.bytes as u64;
        move |source| MemoryError::File { operation, bytes, source }
    }

    /// Copies bytes of private memory to `part`.
    fn copy_out(&self, _guard: &RwLockReadGuard<'_, ()>, at: usize, part: &mut [u8]) {
        // A stripe is never in more than one unit.
        if self.touched.none(at, part.len()) {
            return part.fill(0);
        }
        // SAFETY: the callers checked that the range is inside the mapping, whose bytes are initialised (zeros).
        let source = unsafe { self.base.add(at) };
        let target = part.as_mut_ptr();
        // SAFETY: both are valid for `part.len()` bytes. They cannot overlap, because no reference
        // to the mapping exists. The stripe's lock keeps other writers of this type away; the kernel may write, as
        // it does for a region. Nobody else can reach the bytes of `part`.
        unsafe { racing::copy(source.as_ptr(), target, part.len()) };
    }

    /// Copies `part` to private memory.
    fn copy_in(&self, _guard: &RwLockWriteGuard<'_, ()>, at: usize, part: &[u8]) {
        // SAFETY: the callers checked that the range is inside the mapping.
        let target = unsafe { self.base.add(at) };
        // SAFETY: both are valid for `part.len()` bytes. They cannot overlap, because no reference
        // to the mapping exists. The stripe's lock keeps every other user of this type away from these bytes; the kernel may
        // access them, as it does for a region. Nobody changes `part` meanwhile.
        unsafe { racing::copy(part.as_ptr(), target.as_ptr(), part.len()) };
    }

    /// Frees the whole pages `first..last` of private memory, which then read as zeros.
    fn give_back(&self, guard: &RwLockWriteGuard<'_, ()>, first: usize, last: usize) {
        if first == last {
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

    /// Fills `first..last` of private memory with zeros.
    fn zero(&self, _guard: &RwLockWriteGuard<'_, ()>, first: usize, last: usize) {
        // SAFETY: the callers checked that the range is inside the mapping.
        let start = unsafe { self.base.add(first) };
        // SAFETY: as above, and the caller holds the stripe's lock exclusively, as the guard shows; the kernel may access
        // the bytes, as it does for a region.
        unsafe { racing::zero(start.as_ptr(), last - first) };
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
