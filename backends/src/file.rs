// SPDX-License-Identifier: MIT OR Apache-2.0
//! A disk kept in a file or on another block device.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, OFlags, SeekFrom, fallocate, fdatasync, fstat, seek};
use rustix::io::{IoSlice, ReadWriteFlags, pwritev2};
use zosbd2::{Backend, Capabilities, Errno, MemoryError, Zero};

/// Zeros are written in pieces of this size where the file has no better way.
const ZEROES: usize = 1 << 20;

/// How a [`FileDisk`] uses its file.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileOptions {
    direct: bool,
    read_only: bool,
    logical_block_size: Option<u32>,
    successor: bool,
}

impl FileOptions {
    /// Bypasses the page cache (`O_DIRECT`). The disk's blocks are then at least as large as the file needs.
    #[must_use]
    pub fn direct(mut self, direct: bool) -> Self {
        self.direct = direct;
        self
    }

    /// Opens the file for reading alone.
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Logical block size in bytes, a power of two from 512 on; by default 512, or what direct I/O needs.
    #[must_use]
    pub fn logical_block_size(mut self, bytes: u32) -> Self {
        self.logical_block_size = Some(bytes);
        self
    }

    /// Opens the file even while another server has it, in order to take over from that one, and from no other. The
    /// lock is taken as soon as it can be had.
    #[must_use]
    pub fn successor(mut self, successor: bool) -> Self {
        self.successor = successor;
        self
    }

    /// Opens the disk.
    ///
    /// The file is locked for this process alone (advisory): two servers of one file would destroy it, unless one
    /// takes over from the other: the kernel gives each request to one of them.
    ///
    /// # Errors
    ///
    /// See [`FileError`].
    pub fn open(self, path: &Path) -> Result<FileDisk, FileError> {
        let failed = |operation| move |source| FileError::Io { operation, path: path.to_owned(), source };
        let flags = if self.direct { OFlags::DIRECT } else { OFlags::empty() };
        let file = OpenOptions::new()
            .read(true)
            .write(!self.read_only)
            .custom_flags(i32::try_from(flags.bits()).unwrap_or_default())
            .open(path)
            .map_err(failed("open"))?;
        let kind = file.metadata().map_err(failed("look at"))?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(FileError::Kind { path: path.to_owned() });
        }
        let locked = match file.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) if self.successor => false,
            Err(TryLockError::WouldBlock) => return Err(FileError::Locked { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(failed("lock")(source)),
        };
        let needed = if self.direct { direct_alignment(&file).map_err(failed("look at"))? } else { 512 };
        let block = self.logical_block_size.unwrap_or(needed);
        if !block.is_power_of_two() || block < needed || block > 4096 {
            return Err(FileError::BlockSize { path: path.to_owned(), block, needed });
        }
        let disk = FileDisk {
            file,
            block,
            read_only: self.read_only,
            device: kind.is_block_device(),
            locked: AtomicBool::new(locked),
            size: AtomicU64::new(0),
        };
        if disk.size() == 0 {
            return Err(FileError::Empty { path: path.to_owned(), block });
        }
        Ok(disk)
    }
}

/// Smallest unit of direct I/O on the file: the largest of 512, 1024, ... up to 4096 that a read needs.
fn direct_alignment(file: &File) -> io::Result<u32> {
    let mut storage = vec![0_u8; 3 * 4096];
    let start = storage.as_ptr().align_offset(4096);
    for block in [512_u16, 1024, 2048, 4096] {
        // At an odd multiple of the unit both in the file and in memory, which a larger unit would not allow.
        let at = start + usize::from(block);
        match file.read_at(&mut storage[at..at + usize::from(block)], block.into()) {
            Ok(_) => return Ok(block.into()),
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(4096)
}

/// Why a file cannot be a disk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// A system call failed.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Neither a regular file nor a block device.
    #[error("{} is neither a regular file nor a block device", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
    },
    /// Another process has it locked.
    #[error("{} is in use by another process", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The block size cannot be had.
    #[error("{}: logical block size {block} is not a power of two from {needed} to 4096", path.display())]
    BlockSize {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        block: u32,
        /// The smallest possible one.
        needed: u32,
    },
    /// It cannot be mapped.
    #[error("{} as a disk in memory", path.display())]
    Memory {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: MemoryError,
    },
    /// It is shorter than a block.
    #[error("{} is shorter than a block of {block} bytes", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// Logical block size.
        block: u32,
    },
}

/// A disk kept in a file or on another block device.
///
/// Writes are durable when they are flushed or have FUA. The size is that of the file at any time, less what
/// is beyond the last whole block: [`Server::serve`](zosbd2::Server::serve) notices when it changes.
///
/// The file must not be on a file system that is on this very disk.
#[derive(Debug)]
pub struct FileDisk {
    file: File,
    block: u32,
    read_only: bool,
    device: bool,
    /// Not yet, while the server before us has it.
    locked: AtomicBool,
    /// As of the last call of `size`. A write beyond it would make a file grow.
    size: AtomicU64,
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

impl FileDisk {
    /// Tries a fallocate; `false` when the file system has no such thing.
    fn fallocate(&self, flags: FallocateFlags, offset: u64, length: u64) -> Result<bool, Errno> {
        loop {
            return match fallocate(&self.file, flags, offset, length) {
                Ok(()) => Ok(true),
                Err(Errno::OPNOTSUPP | Errno::NODEV | Errno::NOSYS) => Ok(false),
                Err(Errno::INTR) => continue,
                Err(errno) => Err(errno),
            };
        }
    }

    fn write_zeros(&self, mut offset: u64, mut length: u64) -> Result<(), Errno> {
        // Aligned for direct I/O.
        let storage = vec![0_u8; ZEROES + 4096];
        let start = storage.as_ptr().align_offset(4096);
        while length > 0 {
            let part = length.min(ZEROES as u64);
            let bytes = usize::try_from(part).unwrap_or(ZEROES);
            self.file.write_all_at(&storage[start..start + bytes], offset).map_err(|error| errno(&error))?;
            offset += part;
            length -= part;
        }
        Ok(())
    }

    #[inline]
    fn check(&self, offset: u64, length: u64) -> Result<(), Errno> {
        let end = offset.checked_add(length);
        if end.is_some_and(|end| end <= self.size.load(Ordering::Relaxed)) {
            Ok(())
        } else {
            Err(Errno::INVAL)
        }
    }

    fn sync_range(&self, fua: bool) -> Result<(), Errno> {
        if fua { self.flush() } else { Ok(()) }
    }
}

impl Backend for FileDisk {
    fn size(&self) -> u64 {
        // Asked for every second.
        if !self.locked.load(Ordering::Relaxed) && self.file.try_lock().is_ok() {
            self.locked.store(true, Ordering::Relaxed);
        }
        let bytes = if self.device {
            seek(&self.file, SeekFrom::End(0))
        } else {
            fstat(&self.file).map(|stat| u64::try_from(stat.st_size).unwrap_or(0))
        };
        // A file that does not tell its size any more has none.
        let size = bytes.unwrap_or(0) / u64::from(self.block) * u64::from(self.block);
        self.size.store(size, Ordering::Relaxed);
        size
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.volatile_cache = true;
        // It is that of the kernel, or of the disk below.
        capabilities.cache_survives = true;
        capabilities.fua = true;
        capabilities.discard = true;
        capabilities.write_zeroes = true;
        capabilities.read_only = self.read_only;
        capabilities.logical_block_size = self.block;
        // The page cache and most file systems work in pages.
        capabilities.physical_block_size = 4096;
        capabilities
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.file.read_exact_at(buffer, offset).map_err(|error| errno(&error))
    }

    fn write(&self, offset: u64, data: &[u8], fua: bool) -> Result<(), Errno> {
        self.check(offset, data.len() as u64)?;
        if !fua {
            return self.file.write_all_at(data, offset).map_err(|error| errno(&error));
        }
        let (mut offset, mut data) = (offset, data);
        while !data.is_empty() {
            match pwritev2(&self.file, &[IoSlice::new(data)], offset, ReadWriteFlags::DSYNC) {
                Ok(0) => return Err(Errno::IO),
                Ok(written) => {
                    offset += written as u64;
                    data = &data[written..];
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), Errno> {
        loop {
            match fdatasync(&self.file) {
                Err(Errno::INTR) => {}
                result => return result,
            }
        }
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), Errno> {
        self.check(offset, length)?;
        // Where holes cannot be punched nothing is lost by keeping the bytes.
        self.fallocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length).map(|_| ())
    }

    fn write_zeroes(&self, offset: u64, length: u64, zero: Zero) -> Result<(), Errno> {
        self.check(offset, length)?;
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let keep = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        let done =
            (zero.unmap && self.fallocate(punch, offset, length)?) || self.fallocate(keep, offset, length)?;
        if !done {
            self.write_zeros(offset, length)?;
        }
        self.sync_range(zero.fua)
    }
}
