// SPDX-License-Identifier: MIT OR Apache-2.0
//! A disk kept in a file or on another block device: its I/O.

use super::FileError;
use super::lock::{self, Locked};
use super::store::Store;
use crate::sys;
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, fdatasync, fstat, seek};
use rustix::io::{IoSlice, ReadWriteFlags, pwritev2};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use zosbd2::v2::abi::MAX_PHYSICAL_BLOCK_SIZE;
use zosbd2::{Backend, Capabilities, Errno, OwnFile, Zero};

/// Size of the pieces in which zeros are written if the store has no better way.
const ZEROES: usize = 1 << 20;

/// The largest alignment that direct I/O needs.
const ALIGNMENT: usize = 4096;

/// A disk kept in a file or on another block device.
///
/// Writes are durable when they are flushed or have FUA. The size is the current size of the file, without an
/// incomplete last block: [`Server::serve`](zosbd2::Server::serve) notices changes.
///
/// The file must not be on a file system on this disk. A write leaves its data unchanged, so a backend can pass the same
/// data to several disks.
#[derive(Debug)]
pub struct FileDisk {
    /// Not for forked children, which would keep the lock.
    file: OwnFile,
    path: PathBuf,
    store: Store,
    block: u32,
    /// Zeros to write if the store has no better way, with room to align them for direct I/O. They are never
    /// modified, so they only use the kernel's page of zeros.
    zeros: Vec<u8>,
    /// False while the previous server still holds the lock.
    locked: AtomicBool,
    /// Result of the last call of `size`. A write beyond it would extend a file.
    size: AtomicU64,
}

/// Whether an operation was carried out: `false` if the store does not support it, or not for this range, for
/// example for a part of a device's unit.
fn done(result: Result<(), Errno>) -> Result<bool, Errno> {
    match result {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NODEV | Errno::NOSYS | Errno::NOTTY | Errno::INVAL) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

impl FileDisk {
    pub(super) fn new(file: File, path: &Path, store: Store, block: u32, locked: bool) -> Self {
        let zeros = vec![0; ZEROES + ALIGNMENT];
        Self {
            file: file.into(),
            path: path.to_owned(),
            store,
            block,
            zeros,
            locked: AtomicBool::new(locked),
            size: AtomicU64::new(0),
        }
    }

    /// Waits until this process has the lock of the file, at most for this time. Only a disk that was opened with
    /// [`FileOptions::successor`](super::FileOptions::successor) may have none: call this after
    /// [`HandOver::take_over`](zosbd2::HandOver::take_over) and before serving.
    ///
    /// # Errors
    ///
    /// [`FileError::Locked`] names the processes that still have the lock.
    pub fn wait_for_lock(&self, patience: Duration) -> Result<(), FileError> {
        if self.locked.load(Ordering::Relaxed) {
            return Ok(());
        }
        let failed = |source| FileError::Io { operation: "lock", path: self.path.clone(), source };
        match lock::lock(&self.file, patience).map_err(failed)? {
            Locked::Yes => {
                self.locked.store(true, Ordering::Relaxed);
                Ok(())
            }
            Locked::No(holders) => {
                Err(FileError::Locked { path: self.path.clone(), holders, waited: patience })
            }
        }
    }

    /// Tries a fallocate. Returns `false` if the store does not support it, or not for this range.
    fn fallocate(&self, flags: FallocateFlags, offset: u64, length: u64) -> Result<bool, Errno> {
        loop {
            match fallocate(&self.file, flags, offset, length) {
                Err(Errno::INTR) => {}
                result => return done(result),
            }
        }
    }

    fn write_zeros(&self, mut offset: u64, mut length: u64) -> Result<(), Errno> {
        let start = self.zeros.as_ptr().align_offset(ALIGNMENT);
        while length > 0 {
            let part = length.min(ZEROES as u64);
            let bytes = usize::try_from(part).unwrap_or(ZEROES);
            self.file
                .write_all_at(&self.zeros[start..start + bytes], offset)
                .map_err(|error| errno(&error))?;
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
        // Called every second.
        if !self.locked.load(Ordering::Relaxed) && lock::try_lock(&self.file).is_ok_and(|locked| locked) {
            self.locked.store(true, Ordering::Relaxed);
        }
        let bytes = if self.store.device {
            seek(&self.file, SeekFrom::End(0))
        } else {
            fstat(&self.file).map(|stat| u64::try_from(stat.st_size).unwrap_or(0))
        };
        // A file whose size is unknown has size 0.
        let size = bytes.unwrap_or(0) / u64::from(self.block) * u64::from(self.block);
        self.size.store(size, Ordering::Relaxed);
        size
    }

    fn capabilities(&self) -> Capabilities {
        let store = &self.store;
        let mut capabilities = Capabilities::default();
        capabilities.volatile_cache = store.volatile_cache;
        capabilities.write_through = !store.volatile_cache;
        // The cache is that of the kernel, or of the disk below.
        capabilities.cache_survives = true;
        capabilities.fua = store.volatile_cache;
        capabilities.discard = store.discard;
        capabilities.write_zeroes = true;
        capabilities.read_only = store.read_only;
        capabilities.rotational = store.rotational;
        capabilities.logical_block_size = self.block;
        // The builder refuses invalid values, and devices may report such values.
        let physical = store.physical.max(self.block);
        if physical.is_power_of_two() && physical <= MAX_PHYSICAL_BLOCK_SIZE {
            capabilities.physical_block_size = physical;
            if store.io_opt % physical == 0 && store.io_opt <= MAX_PHYSICAL_BLOCK_SIZE {
                capabilities.io_opt = store.io_opt;
            }
        }
        let granularity = store.discard_granularity;
        if granularity.is_power_of_two() && granularity <= MAX_PHYSICAL_BLOCK_SIZE {
            capabilities.discard_granularity = granularity.max(self.block);
        }
        capabilities
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.file.read_exact_at(buffer, offset).map_err(|error| errno(&error))
    }

    fn write(&self, offset: u64, data: &mut [u8], fua: bool) -> Result<(), Errno> {
        self.check(offset, data.len() as u64)?;
        if !fua {
            return self.file.write_all_at(data, offset).map_err(|error| errno(&error));
        }
        let (mut offset, mut data) = (offset, &*data);
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
        // If the store does not support it, keeping the data is harmless.
        if self.store.device {
            return done(sys::discard(&self.file, offset, length)).map(drop);
        }
        self.fallocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length).map(drop)
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
