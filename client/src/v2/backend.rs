// SPDX-License-Identifier: MIT OR Apache-2.0
//! The storage behind a device.

use crate::sys::memory::Region;
use crate::{Errno, SparseMemory};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Storage behind a device. The serving threads of [`serve`](super::Server::serve) call it.
///
/// Offsets and lengths are in bytes, multiples of the logical block, and inside the device. Reads and writes
/// are never empty. Each call is one request, and its submitter waits until the call returns. An error
/// reaches the submitter as an I/O error. So does a panic, and the thread continues.
///
/// An operation that a backend does not implement is either not offered ([`Capabilities`]) or emulated by the
/// kernel. A backend over another one takes care of what it does not forward: see "A backend over another one" in
/// docs/backends.md.
///
/// # What a backend may not do
///
/// The system may depend on a serving thread to free memory, because the serving thread writes the dirty
/// pages of its own device. While a serving thread carries out a request, it must not wait for I/O on its own
/// device, directly or through a file system on it, nor for a process that does such I/O. Each serving thread
/// is an I/O flusher (`PR_SET_IO_FLUSHER`), so the kernel does not wait for such I/O in allocations on its
/// behalf.
pub trait Backend: Sync {
    /// Size of the device in bytes. The library asks for it when it creates the device, after each
    /// [`Server::resize`](super::Server::resize), and every second on the thread that called
    /// [`Server::serve`](super::Server::serve), whatever the [`ThreadModel`]. If the size has changed, the
    /// library resizes the device. A backend that grows must accept requests beyond the old end before it
    /// returns the new size.
    fn size(&self) -> u64;

    /// Capabilities of the backend. Called once, when the device is created.
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    /// Fills all of `buffer` with the bytes from `offset` on. The buffer holds unrelated older data at first.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno>;

    /// Stores `data` at `offset`. The buffer is the backend's until the call returns: it may change the bytes, for
    /// example encrypt them in place. With `fua` the data must be durable on return. `fua` is only set if
    /// [`Capabilities::fua`] is declared.
    fn write(&self, offset: u64, data: &mut [u8], fua: bool) -> Result<(), Errno>;

    /// Makes durable every write, discard and write-zeroes whose call returned before this call began. Only
    /// called if [`Capabilities::volatile_cache`] is declared.
    ///
    /// A backend with a `flush` of its own that declares neither `volatile_cache` nor
    /// [`Capabilities::write_through`] is refused when serving begins, because it would lose data silently. To
    /// find out, the library calls `flush` once before the first request.
    fn flush(&self) -> Result<(), Errno> {
        default_flush()
    }

    /// Discards bytes that are no longer needed. The backend decides what later reads return. Only called if
    /// [`Capabilities::discard`] is declared.
    fn discard(&self, offset: u64, length: u64) -> Result<(), Errno> {
        let _ = (offset, length);
        Err(Errno::OPNOTSUPP)
    }

    /// Makes the bytes read as zeros. Unless `zero.unmap` is set, their space must stay allocated. Only
    /// called if [`Capabilities::write_zeroes`] is declared.
    fn write_zeroes(&self, offset: u64, length: u64, zero: Zero) -> Result<(), Errno> {
        let _ = (offset, length, zero);
        Err(Errno::OPNOTSUPP)
    }

    /// Makes the bytes unrecoverable. Only called if [`Capabilities::secure_erase`] is declared.
    fn secure_erase(&self, offset: u64, length: u64) -> Result<(), Errno> {
        let _ = (offset, length);
        Err(Errno::OPNOTSUPP)
    }

    /// The memory that holds the bytes, for backends that keep all bytes in memory. The kernel then copies
    /// directly between this memory and the submitter, and the library calls neither [`read`](Self::read) nor
    /// [`write`](Self::write) for this request. [`Region::length`] must be `length`. Called for every read,
    /// and for every write without FUA. For writes it is only called if it returned a region for the first
    /// block before serving began, because the data of writes comes with the requests otherwise.
    fn region(&self, offset: u64, length: usize) -> Option<Region<'_>> {
        let _ = (offset, length);
        None
    }

    /// Like [`region`](Self::region), for reads only; defaults to it. For backends with sparse memory:
    /// [`region`](Self::region) must return allocated memory for a write, but a read should not allocate
    /// memory. Without a region the library calls [`read`](Self::read).
    fn read_region(&self, offset: u64, length: usize) -> Option<Region<'_>> {
        self.region(offset, length)
    }
}

/// How to write zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Zero {
    /// The space may be freed.
    pub unmap: bool,
    /// The zeros must be durable on return; only set if [`Capabilities::fua`] is declared.
    pub fua: bool,
}

/// The capabilities of a backend. The kernel does not offer a missing capability, or emulates it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "the flags are independent of each other")]
#[non_exhaustive]
pub struct Capabilities {
    /// An answered write may be lost until [`Backend::flush`] returns. Without this flag the kernel sends no
    /// flushes: when [`Backend::write`] returns, the data is as durable as it will ever be.
    pub volatile_cache: bool,
    /// Answered writes outlive the process: a backend that is opened anew has every write that its
    /// predecessor answered, flushed or not. That holds if the volatile cache is that of the kernel or of
    /// another machine. If a device has a volatile cache and this flag is not set, and a server goes with
    /// answered writes that no flush covered, the next flush fails
    /// ([`Control::attach_for`](super::Control::attach_for)).
    pub cache_survives: bool,
    /// [`Backend::flush`] exists, but no flush is needed: a write is durable when its call returns, for example
    /// because of how a file was opened. Without meaning if `volatile_cache` is set.
    pub write_through: bool,
    /// All data is gone with the process: another process that serves this backend begins with other data. So
    /// [`Builder::serve`](super::Builder::serve) does not follow a device that has lost its server. With
    /// [`auto_destroy`](super::Builder::auto_destroy) and a grace of 0 the device goes with its process.
    pub ephemeral: bool,
    /// [`Backend::write`] can make one write durable. Without this flag the kernel sends a flush after such a
    /// write.
    pub fua: bool,
    /// [`Backend::discard`] works.
    pub discard: bool,
    /// [`Backend::write_zeroes`] works. Without this flag the kernel writes zeros.
    pub write_zeroes: bool,
    /// [`Backend::secure_erase`] works.
    pub secure_erase: bool,
    /// The kernel refuses writes, and everything else that changes data. [`Backend::write`] is never called; it can return
    /// `EROFS`.
    pub read_only: bool,
    /// Seeking costs time.
    pub rotational: bool,
    /// Smallest unit that can be read or written, in bytes: a power of two, 512 to the page size.
    pub logical_block_size: u32,
    /// Smallest unit that can be written without a read before, in bytes; 0: the logical block.
    pub physical_block_size: u32,
    /// Optimal I/O size, in bytes; 0: none.
    pub io_opt: u32,
    /// Preferred unit of discards, in bytes: a power of two, at least the logical block; 0: the physical
    /// block.
    pub discard_granularity: u32,
    /// Which threads may call the backend.
    pub threads: ThreadModel,
}

impl Default for Capabilities {
    /// Reads and writes in blocks of 512 bytes, durable at once, by any number of threads.
    fn default() -> Self {
        Self {
            volatile_cache: false,
            cache_survives: false,
            write_through: false,
            ephemeral: false,
            fua: false,
            discard: false,
            write_zeroes: false,
            secure_erase: false,
            read_only: false,
            rotational: false,
            logical_block_size: 512,
            physical_block_size: 0,
            io_opt: 0,
            discard_granularity: 0,
            threads: ThreadModel::Any,
        }
    }
}

macro_rules! setters {
    ($($name:ident: $type:ty),*) => {
        /// Setters, because other crates cannot write the struct.
        ///
        /// ```
        /// let capabilities = zosbd2::Capabilities::default().volatile_cache(true).logical_block_size(4096);
        /// assert!(capabilities.volatile_cache);
        /// ```
        impl Capabilities {
            $(#[doc = concat!("Sets `", stringify!($name), "`.")]
            #[must_use]
            pub const fn $name(mut self, $name: $type) -> Self {
                self.$name = $name;
                self
            })*
        }
    };
}

setters!(
    volatile_cache: bool,
    cache_survives: bool,
    write_through: bool,
    ephemeral: bool,
    fua: bool,
    discard: bool,
    write_zeroes: bool,
    secure_erase: bool,
    read_only: bool,
    rotational: bool,
    logical_block_size: u32,
    physical_block_size: u32,
    io_opt: u32,
    discard_granularity: u32,
    threads: ThreadModel
);

thread_local! {
    static DEFAULT_FLUSH: Cell<bool> = const { Cell::new(false) };
}

/// What a flush does that no backend has overridden. Notes that it was called: a backend that only forwards to
/// another one has no flush of its own either.
pub(super) fn default_flush() -> Result<(), Errno> {
    DEFAULT_FLUSH.set(true);
    Err(Errno::OPNOTSUPP)
}

/// Whether `flush` is the default one. Calls it; a panic counts as a flush of its own.
pub(super) fn is_default<T>(flush: impl FnOnce() -> T) -> bool {
    DEFAULT_FLUSH.set(false);
    // The result does not matter: the device is not started yet, or its data was written by others.
    drop(catch_unwind(AssertUnwindSafe(flush)));
    DEFAULT_FLUSH.get()
}

macro_rules! forward {
    ($($type:ty: $also:ident),*) => {
        $(impl<B: Backend + $also + ?Sized> Backend for $type {
            fn size(&self) -> u64 {
                (**self).size()
            }

            fn capabilities(&self) -> Capabilities {
                (**self).capabilities()
            }

            #[inline]
            fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
                (**self).read(offset, buffer)
            }

            #[inline]
            fn write(&self, offset: u64, data: &mut [u8], fua: bool) -> Result<(), Errno> {
                (**self).write(offset, data, fua)
            }

            fn flush(&self) -> Result<(), Errno> {
                (**self).flush()
            }

            fn discard(&self, offset: u64, length: u64) -> Result<(), Errno> {
                (**self).discard(offset, length)
            }

            fn write_zeroes(&self, offset: u64, length: u64, zero: Zero) -> Result<(), Errno> {
                (**self).write_zeroes(offset, length, zero)
            }

            fn secure_erase(&self, offset: u64, length: u64) -> Result<(), Errno> {
                (**self).secure_erase(offset, length)
            }

            #[inline]
            fn region(&self, offset: u64, length: usize) -> Option<Region<'_>> {
                (**self).region(offset, length)
            }

            #[inline]
            fn read_region(&self, offset: u64, length: usize) -> Option<Region<'_>> {
                (**self).read_region(offset, length)
            }
        })*
    };
}

forward!(&B: Sync, Box<B>: Sync, Arc<B>: Send);

/// Which threads may call a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ThreadModel {
    /// Any number of threads at once.
    #[default]
    Any,
    /// At most one thread per queue at once.
    OnePerQueue,
    /// Only one thread.
    One,
}

/// A RAM disk with blocks of 512 bytes. A last, incomplete block is left out.
impl Backend for SparseMemory {
    fn size(&self) -> u64 {
        SparseMemory::size(self) / 512 * 512
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            ephemeral: !self.is_in_file(),
            discard: true,
            write_zeroes: true,
            physical_block_size: 4096,
            ..Capabilities::default()
        }
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.read_at(offset, buffer).map_err(|error| error.errno())
    }

    fn write(&self, offset: u64, data: &mut [u8], _: bool) -> Result<(), Errno> {
        self.write_at(offset, data).map_err(|error| error.errno())
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), Errno> {
        SparseMemory::discard(self, offset, length).map_err(|error| error.errno())
    }

    fn write_zeroes(&self, offset: u64, length: u64, zero: Zero) -> Result<(), Errno> {
        let written = if zero.unmap {
            SparseMemory::discard(self, offset, length)
        } else {
            SparseMemory::write_zeroes(self, offset, length)
        };
        written.map_err(|error| error.errno())
    }

    #[inline]
    fn region(&self, offset: u64, length: usize) -> Option<Region<'_>> {
        SparseMemory::region(self, offset, length).ok()
    }

    #[inline]
    fn read_region(&self, offset: u64, length: usize) -> Option<Region<'_>> {
        SparseMemory::read_region(self, offset, length).ok().flatten()
    }
}
