// SPDX-License-Identifier: MIT OR Apache-2.0
//! Access to a file in memory by system calls only.
//!
//! Access to a mapped page fails with a signal: SIGBUS kills the process if the file system has no room for
//! the page, or if the file became shorter. A system call fails with an error instead. So this process never
//! accesses the mapping of a file. Only the kernel does, when it copies to and from a region, and gets
//! `EFAULT`.

use crate::{Errno, MemoryError};
use rustix::fs::{FallocateFlags, fallocate, fstat, fstatfs, ftruncate};
use rustix::process::{Resource, getrlimit};
use std::fs::File;
use std::os::unix::fs::FileExt as _;

/// `f_type` of hugetlbfs, whose files no system call can write.
const HUGETLBFS: u64 = 0x9584_58f6;

/// Size of the pieces in which zeros are written.
const ZEROS: usize = 1 << 16;

/// A file that serves as memory.
#[derive(Debug)]
pub(super) struct MemoryFile(File);

impl MemoryFile {
    /// Takes a file that is `bytes` long. An empty file becomes `bytes` long.
    pub(super) fn new(file: File, bytes: u64) -> Result<Self, MemoryError> {
        let failed = |operation: &'static str| move |source| MemoryError::File { operation, bytes, source };
        // Otherwise the first call would cause SIGXFSZ.
        if let Some(limit) = getrlimit(Resource::Fsize).current.filter(|limit| *limit < bytes) {
            return Err(MemoryError::FileLimit { bytes, limit });
        }
        let kind = fstatfs(&file).map_err(failed("look at"))?.f_type;
        #[expect(clippy::cast_sign_loss, reason = "magic numbers have 32 bits")]
        if kind as u64 & u64::from(u32::MAX) == HUGETLBFS {
            return Err(failed("write to huge pages, on hugetlbfs,")(Errno::OPNOTSUPP));
        }
        let present = fstat(&file).map_err(failed("look at"))?.st_size;
        if present == 0 {
            ftruncate(&file, bytes).map_err(failed("set the size of"))?;
        } else if u64::try_from(present) != Ok(bytes) {
            return Err(failed("find the same size in")(Errno::INVAL));
        }
        Ok(Self(file))
    }

    pub(super) fn file(&self) -> &File {
        &self.0
    }

    pub(super) fn read(&self, at: usize, part: &mut [u8]) -> Result<(), Errno> {
        self.0.read_exact_at(part, at as u64).map_err(|error| errno(&error))
    }

    pub(super) fn write(&self, at: usize, part: &[u8]) -> Result<(), Errno> {
        self.0.write_all_at(part, at as u64).map_err(|error| errno(&error))
    }

    pub(super) fn write_zeros(&self, at: usize, length: usize) -> Result<(), Errno> {
        static PIECE: [u8; ZEROS] = [0; ZEROS];
        let mut done = 0;
        while done < length {
            let part = (length - done).min(ZEROS);
            self.write(at + done, &PIECE[..part])?;
            done += part;
        }
        Ok(())
    }

    /// Allocates the bytes, so that a later access to them cannot fail.
    pub(super) fn allocate(&self, at: usize, length: usize) -> Result<(), Errno> {
        self.fallocate(FallocateFlags::KEEP_SIZE, at, length)
    }

    /// Zeroes the bytes, and frees their pages if the file system can.
    pub(super) fn punch(&self, at: usize, length: usize) -> Result<(), Errno> {
        match self.fallocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, length) {
            Err(Errno::OPNOTSUPP | Errno::NODEV | Errno::NOSYS | Errno::INVAL) => {
                self.write_zeros(at, length)
            }
            result => result,
        }
    }

    fn fallocate(&self, flags: FallocateFlags, at: usize, length: usize) -> Result<(), Errno> {
        loop {
            match fallocate(&self.0, flags, at as u64, length as u64) {
                Err(Errno::INTR) => {}
                result => return result,
            }
        }
    }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
