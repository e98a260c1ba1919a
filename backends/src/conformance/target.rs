// SPDX-License-Identifier: MIT OR Apache-2.0
//! The targets of the suite.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{FallocateFlags, OFlags, fallocate, fdatasync};
use rustix::io::{IoSlice, ReadWriteFlags, pwritev2};
use zosbd2::{Backend, Capabilities, Errno, ThreadModel, Zero};

/// Something with the operations of a disk.
pub trait Target: Sync {
    /// Size in bytes.
    fn size(&self) -> u64;
    /// Smallest unit, in bytes.
    fn block_size(&self) -> u32;
    /// Whether writes are refused.
    fn read_only(&self) -> bool;
    /// Whether [`discard`](Self::discard) works.
    fn can_discard(&self) -> bool;
    /// Whether [`write_zeroes`](Self::write_zeroes) works.
    fn can_write_zeroes(&self) -> bool;
    /// Whether requests beyond the end reach the backend.
    fn sees_the_outside(&self) -> bool;
    /// Whether several threads may use it.
    fn any_thread(&self) -> bool;
    /// Like [`Backend::read`].
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno>;
    /// Like [`Backend::write`].
    fn write(&self, offset: u64, data: &[u8], fua: bool) -> Result<(), Errno>;
    /// Like [`Backend::flush`]; does nothing without a volatile cache.
    fn flush(&self) -> Result<(), Errno>;
    /// Like [`Backend::discard`].
    fn discard(&self, offset: u64, length: u64) -> Result<(), Errno>;
    /// Like [`Backend::write_zeroes`].
    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> Result<(), Errno>;
}

/// A backend that the suite calls directly.
#[derive(Debug)]
pub struct Direct<'a, B: ?Sized> {
    backend: &'a B,
    capabilities: Capabilities,
}

impl<'a, B: Backend + ?Sized> Direct<'a, B> {
    /// Wraps a backend.
    pub fn new(backend: &'a B) -> Self {
        Self { backend, capabilities: backend.capabilities() }
    }
}

impl<B: Backend + ?Sized> Target for Direct<'_, B> {
    fn size(&self) -> u64 {
        self.backend.size()
    }

    fn block_size(&self) -> u32 {
        self.capabilities.logical_block_size
    }

    fn read_only(&self) -> bool {
        self.capabilities.read_only
    }

    fn can_discard(&self) -> bool {
        self.capabilities.discard
    }

    fn can_write_zeroes(&self) -> bool {
        self.capabilities.write_zeroes
    }

    fn sees_the_outside(&self) -> bool {
        true
    }

    fn any_thread(&self) -> bool {
        self.capabilities.threads == ThreadModel::Any
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.backend.read(offset, buffer)
    }

    fn write(&self, offset: u64, data: &[u8], fua: bool) -> Result<(), Errno> {
        let own_fua = fua && self.capabilities.fua;
        // The backend may change the data.
        self.backend.write(offset, &mut data.to_vec(), own_fua)?;
        // The kernel does the same for devices without FUA.
        if fua && !own_fua { self.flush() } else { Ok(()) }
    }

    fn flush(&self) -> Result<(), Errno> {
        if self.capabilities.volatile_cache { self.backend.flush() } else { Ok(()) }
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), Errno> {
        self.backend.discard(offset, length)
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> Result<(), Errno> {
        self.backend.write_zeroes(offset, length, Zero { unmap, fua: false })
    }
}

/// A block device, used with direct I/O.
#[derive(Debug)]
pub struct Disk {
    file: File,
    size: u64,
    block: u32,
    discards: bool,
    zeroes: bool,
    read_only: bool,
}

/// Alignment of memory for direct I/O.
const ALIGNMENT: usize = 4096;

impl Disk {
    /// Opens a block node. Reads the limits from its folder in sysfs, such as `/sys/block/zosbd2-NAME`.
    ///
    /// # Errors
    ///
    /// If a file cannot be opened, read or parsed.
    pub fn open(node: &Path, sysfs: &Path) -> io::Result<Self> {
        let number = |name: &str| -> io::Result<u64> {
            let text = std::fs::read_to_string(sysfs.join(name))?;
            text.trim().parse().map_err(|_| io::Error::other(format!("{name} is not a number: {text}")))
        };
        let read_only = number("ro")? != 0;
        let flags = i32::try_from(OFlags::DIRECT.bits()).unwrap_or_default();
        let file = OpenOptions::new().read(true).write(!read_only).custom_flags(flags).open(node)?;
        Ok(Self {
            file,
            size: number("size")? * 512,
            block: u32::try_from(number("queue/logical_block_size")?).map_err(io::Error::other)?,
            discards: number("queue/discard_max_bytes")? != 0,
            zeroes: number("queue/write_zeroes_max_bytes")? != 0,
            read_only,
        })
    }
}

/// Calls `with` with an aligned buffer of `length` bytes.
fn aligned<R>(length: usize, with: impl FnOnce(&mut [u8]) -> R) -> R {
    let mut storage = vec![0_u8; length + ALIGNMENT];
    let start = storage.as_ptr().align_offset(ALIGNMENT);
    with(&mut storage[start..start + length])
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

impl Target for Disk {
    fn size(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> u32 {
        self.block
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn can_discard(&self) -> bool {
        self.discards
    }

    fn can_write_zeroes(&self) -> bool {
        self.zeroes
    }

    fn sees_the_outside(&self) -> bool {
        false
    }

    fn any_thread(&self) -> bool {
        true
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        aligned(buffer.len(), |own| {
            self.file.read_exact_at(own, offset).map_err(|error| errno(&error))?;
            buffer.copy_from_slice(own);
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8], fua: bool) -> Result<(), Errno> {
        aligned(data.len(), |own| {
            own.copy_from_slice(data);
            let flags = if fua { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
            match pwritev2(&self.file, &[IoSlice::new(own)], offset, flags) {
                Ok(written) if written == own.len() => Ok(()),
                Ok(_) => Err(Errno::IO),
                Err(errno) => Err(errno),
            }
        })
    }

    fn flush(&self) -> Result<(), Errno> {
        fdatasync(&self.file)
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), Errno> {
        // The third mode of fallocate on block devices: a plain discard.
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE | FallocateFlags::NO_HIDE_STALE;
        match fallocate(&self.file, flags, offset, length) {
            // Kernels from 6.13 on lack that mode. Zeroing with unmap is the nearest.
            Err(Errno::OPNOTSUPP | Errno::INVAL) => self.write_zeroes(offset, length, true),
            result => result,
        }
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> Result<(), Errno> {
        let mode = if unmap { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
        fallocate(&self.file, mode | FallocateFlags::KEEP_SIZE, offset, length)
    }
}
