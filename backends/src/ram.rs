// SPDX-License-Identifier: MIT OR Apache-2.0
//! A RAM disk.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::FileError;
use zosbd2::{Backend, Capabilities, Errno, MemoryError, Region, SparseMemory, Zero};

/// A disk in memory that occupies only pages that were written and not discarded since. The kernel copies between it
/// and the submitter, so each byte is moved once. It is gone with the process, unless it is [shared](Self::shared).
///
/// Requests that overlap and are under way at the same time may mix, as on a disk.
#[derive(Debug)]
pub struct Ram(SparseMemory);

impl Ram {
    /// A disk of `size` bytes, all zeros. Fails when the address space has no room for it.
    pub fn new(size: u64) -> Result<Self, MemoryError> {
        SparseMemory::new(size).map(Self)
    }

    /// A disk of `size` bytes in a file in memory, such as `/dev/shm/NAME`, which outlives the process and may have
    /// another server next, or at the same time during a take-over. The file is made if it is not there.
    ///
    /// # Errors
    ///
    /// The file cannot be opened or made, or is of another size.
    pub fn shared(path: &Path, size: u64) -> Result<Self, FileError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|source| FileError::Io { operation: "open", path: path.to_owned(), source })?;
        Self::in_file(file, size).map_err(|source| FileError::Memory { path: path.to_owned(), source })
    }

    /// Like [`shared`](Self::shared), in an open file, such as a memfd.
    pub fn in_file(file: File, size: u64) -> Result<Self, MemoryError> {
        SparseMemory::in_file(file, size).map(Self)
    }
}

impl Backend for Ram {
    fn size(&self) -> u64 {
        Backend::size(&self.0)
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.0.capabilities();
        capabilities.secure_erase = true;
        capabilities
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        Backend::read(&self.0, offset, buffer)
    }

    fn write(&self, offset: u64, data: &mut [u8], fua: bool) -> Result<(), Errno> {
        Backend::write(&self.0, offset, data, fua)
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), Errno> {
        Backend::discard(&self.0, offset, length)
    }

    fn write_zeroes(&self, offset: u64, length: u64, zero: Zero) -> Result<(), Errno> {
        Backend::write_zeroes(&self.0, offset, length, zero)
    }

    fn secure_erase(&self, offset: u64, length: u64) -> Result<(), Errno> {
        // The kernel clears freed pages before anybody else sees them, but not at once.
        Backend::write_zeroes(&self.0, offset, length, Zero::default())?;
        Backend::discard(&self.0, offset, length)
    }

    #[inline]
    fn region(&self, offset: u64, length: usize) -> Option<Region<'_>> {
        Backend::region(&self.0, offset, length)
    }

    #[inline]
    fn read_region(&self, offset: u64, length: usize) -> Option<Region<'_>> {
        Backend::read_region(&self.0, offset, length)
    }
}
