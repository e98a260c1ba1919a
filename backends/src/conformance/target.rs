// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the suite works on: the trait, and backends that it calls directly.

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
