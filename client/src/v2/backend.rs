// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stores the bytes of a device.

use super::FaultPlan;
use crate::sys::memory::Region;
use crate::{Errno, SparseMemory};

/// Storage behind a device, called by [`serve`](super::Server::serve) from its serving threads.
///
/// Offsets and lengths are in bytes, multiples of the logical block, and inside the device; reads and writes
/// are never empty. Each call is one request, whose submitter waits until the call returns. An error
/// reaches him as an I/O error; a panic does too, and the thread lives on.
///
/// What is not overridden is either not offered to the kernel ([`Capabilities`]) or emulated by it.
///
/// # What a backend may not do
///
/// A serving thread may be all that lets the system free memory: dirty pages of its own device are written
/// by it. So while it works on a request it must not wait for I/O on its own device, directly or through a
/// file system on it, nor for a process that does. Each serving thread is an I/O flusher
/// (`PR_SET_IO_FLUSHER`), which keeps the kernel from such waits in allocations on its behalf.
pub trait Backend: Sync {
    /// Size of the device in bytes. Asked when the device is made, after each
    /// [`Server::resize`](super::Server::resize), and every second by the thread that called
    /// [`Server::serve`](super::Server::serve), whatever the [`ThreadModel`]: when it has changed, the device
    /// is resized. One that grows must be ready for requests behind the old end before it says so.
    fn size(&self) -> u64;

    /// What it can do. Asked once, when the device is made.
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    /// Fills all of `buffer`, which holds unrelated older data at first, with the bytes from `offset` on.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno>;

    /// Stores `data` at `offset`. With `fua`, which only comes if [`Capabilities::fua`] is declared, it must
    /// be durable on return.
    fn write(&self, offset: u64, data: &[u8], fua: bool) -> Result<(), Errno>;

    /// Makes durable every write, discard and write-zeroes whose call had returned when this one began.
    /// Only called if [`Capabilities::volatile_cache`] is declared.
    fn flush(&self) -> Result<(), Errno> {
        Err(Errno::OPNOTSUPP)
    }

    /// The bytes are of no use any more; what reads of them give afterwards is up to the backend. Only
    /// called if [`Capabilities::discard`] is declared.
    fn discard(&self, offset: u64, length: u64) -> Result<(), Errno> {
        let _ = (offset, length);
        Err(Errno::OPNOTSUPP)
    }

    /// The bytes read as zeros afterwards; unless `zero.unmap`, their space must stay allocated. Only called
    /// if [`Capabilities::write_zeroes`] is declared.
    fn write_zeroes(&self, offset: u64, length: u64, zero: Zero) -> Result<(), Errno> {
        let _ = (offset, length, zero);
        Err(Errno::OPNOTSUPP)
    }

    /// The bytes cannot be recovered afterwards. Only called if [`Capabilities::secure_erase`] is declared.
    fn secure_erase(&self, offset: u64, length: u64) -> Result<(), Errno> {
        let _ = (offset, length);
        Err(Errno::OPNOTSUPP)
    }

    /// Where the bytes are, for backends that keep all of them in memory: the kernel then copies between
    /// there and the submitter, and neither [`read`](Self::read) nor [`write`](Self::write) is called for
    /// this request. Must be [`Region::length`] = `length`. Asked for every read and every write without FUA;
    /// for writes only when it named the first block before serving began, because their data comes with
    /// them otherwise.
    fn region(&self, offset: u64, length: usize) -> Option<Region<'_>> {
        let _ = (offset, length);
        None
    }

    /// What is to go wrong while it is served, for tests: see [`Faulty`](super::Faulty). Asked once, when serving
    /// begins.
    fn faults(&self) -> Option<&FaultPlan> {
        None
    }
}

/// How zeros are to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Zero {
    /// The space may be given back.
    pub unmap: bool,
    /// Must be durable on return; only if [`Capabilities::fua`] is declared.
    pub fua: bool,
}

/// What a backend can do; what it cannot do is not offered, or done by the kernel in another way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent of each other")]
#[non_exhaustive]
pub struct Capabilities {
    /// A write that was answered may be lost until [`Backend::flush`] returns. Without it the kernel sends
    /// no flushes: what [`Backend::write`] stored is as durable as it will ever be.
    pub volatile_cache: bool,
    /// What was answered outlives the process: a backend that is opened anew has every write that the one before it
    /// answered, flushed or not. So it is if the volatile cache is that of the kernel or of another machine. Without it,
    /// and with a volatile cache, the kernel fails the next flush when a server is followed that had answered writes
    /// which no flush had covered ([`Control::attach_for`](super::Control::attach_for)).
    pub cache_survives: bool,
    /// [`Backend::write`] can make one write durable. Without it the kernel sends a flush afterwards.
    pub fua: bool,
    /// [`Backend::discard`] works.
    pub discard: bool,
    /// [`Backend::write_zeroes`] works. Without it the kernel writes zeros.
    pub write_zeroes: bool,
    /// [`Backend::secure_erase`] works.
    pub secure_erase: bool,
    /// Writes are refused by the kernel.
    pub read_only: bool,
    /// Seeking costs time.
    pub rotational: bool,
    /// Smallest unit that can be read or written, in bytes: a power of two, 512 to the page size.
    pub logical_block_size: u32,
    /// Smallest unit that is written without reading first, in bytes; 0: the logical block.
    pub physical_block_size: u32,
    /// Best size of I/O, in bytes; 0: none.
    pub io_opt: u32,
    /// Which threads may call it.
    pub threads: ThreadModel,
}

impl Default for Capabilities {
    /// Reads and writes of blocks of 512 bytes, durable at once, by any number of threads.
    fn default() -> Self {
        Self {
            volatile_cache: false,
            cache_survives: false,
            fua: false,
            discard: false,
            write_zeroes: false,
            secure_erase: false,
            read_only: false,
            rotational: false,
            logical_block_size: 512,
            physical_block_size: 0,
            io_opt: 0,
            threads: ThreadModel::Any,
        }
    }
}

/// Which threads may call a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ThreadModel {
    /// Any number at once.
    #[default]
    Any,
    /// One for each queue, at once.
    OnePerQueue,
    /// One in all.
    One,
}

/// A RAM disk of blocks of 512 bytes; what does not fill the last one is left out.
impl Backend for SparseMemory {
    fn size(&self) -> u64 {
        SparseMemory::size(self) / 512 * 512
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            discard: true,
            write_zeroes: true,
            physical_block_size: 4096,
            ..Capabilities::default()
        }
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.read_at(offset, buffer).map_err(|_| Errno::INVAL)
    }

    fn write(&self, offset: u64, data: &[u8], _: bool) -> Result<(), Errno> {
        self.write_at(offset, data).map_err(|_| Errno::INVAL)
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), Errno> {
        SparseMemory::discard(self, offset, length).map_err(|_| Errno::INVAL)
    }

    fn write_zeroes(&self, offset: u64, length: u64, zero: Zero) -> Result<(), Errno> {
        let written = if zero.unmap {
            SparseMemory::discard(self, offset, length)
        } else {
            SparseMemory::write_zeroes(self, offset, length)
        };
        written.map_err(|_| Errno::INVAL)
    }

    #[inline]
    fn region(&self, offset: u64, length: usize) -> Option<Region<'_>> {
        SparseMemory::region(self, offset, length).ok()
    }
}
