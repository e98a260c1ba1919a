// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device that accepts all data and stores none.

use std::sync::atomic::AtomicU8;

use zosbd2::{Backend, Capabilities, Errno, Region, Zero};

/// Longest request of the interface.
const SCRATCH_BYTES: usize = zosbd2::v2::abi::MAX_IO_BYTES as usize;

/// Measures the cost of serving: the kernel moves the data of every request to or from the same memory, so
/// reads return the data of some write, or zeros.
#[derive(Debug)]
pub struct Null {
    size: u64,
    scratch: Box<[AtomicU8]>,
}

impl Null {
    /// A device of `size` bytes.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self { size, scratch: std::iter::repeat_with(AtomicU8::default).take(SCRATCH_BYTES).collect() }
    }
}

impl Backend for Null {
    fn size(&self) -> u64 {
        self.size
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.discard = true;
        capabilities.write_zeroes = true;
        capabilities
    }

    fn read(&self, _: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        buffer.fill(0);
        Ok(())
    }

    fn write(&self, _: u64, _: &mut [u8], _: bool) -> Result<(), Errno> {
        Ok(())
    }

    fn discard(&self, _: u64, _: u64) -> Result<(), Errno> {
        Ok(())
    }

    fn write_zeroes(&self, _: u64, _: u64, _: Zero) -> Result<(), Errno> {
        Ok(())
    }

    #[inline]
    fn region(&self, _: u64, length: usize) -> Option<Region<'_>> {
        self.scratch.get(..length).map(Region::from)
    }
}
