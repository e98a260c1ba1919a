// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory that one thread passes to the kernel: valid, invalid, and mapped from the fuzzer's own devices.
//!
//! Invalid addresses are never random numbers: the kernel may only write to pages that nothing else uses.

use std::os::fd::AsFd as _;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use super::process::Node;
use crate::guest::Random;
use crate::guest::raw::{FilePages, PAGE, Pages};

/// Bytes of memory for the data of requests.
pub(super) const DATA: usize = 256 << 10;
/// Mapped bytes of a device.
const MAPPED: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Memory {
    /// For arguments.
    pub(super) argument: Pages,
    /// For arrays of commits, of requests, and of pieces.
    pub(super) commits: Pages,
    pub(super) requests: Pages,
    pub(super) iovecs: Pages,
    /// For data.
    pub(super) data: Pages,
    /// Read-only memory.
    sealed: Pages,
    /// Memory that ends too early.
    edge: Pages,
    /// Mapped pages of a device: an access to them causes I/O on the device.
    disk: Option<FilePages>,
}

/// Effect of an access to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// `EFAULT`, always.
    Unmapped,
    /// The memory is read-only, or it belongs to a device and may be unreadable.
    Odd,
}

impl Memory {
    pub(super) fn new() -> Self {
        let sealed = Pages::new(2 * PAGE);
        sealed.forbid_writing();
        Self {
            argument: Pages::new(3 * PAGE),
            commits: Pages::new(PAGE),
            requests: Pages::new(PAGE),
            iovecs: Pages::new(PAGE),
            data: Pages::new(DATA),
            sealed,
            edge: Pages::new(PAGE),
            disk: None,
        }
    }

    /// An address that is not valid for `bytes` bytes.
    pub(super) fn bad(&self, random: &mut Random, bytes: usize) -> (usize, Place) {
        if let Some(disk) = self.disk.as_ref().filter(|_| random.chance(40)) {
            return (disk.address() + usize::try_from(random.below(64)).expect("small") * 8, Place::Odd);
        }
        match random.below(6) {
            0 => (0, Place::Unmapped),
            1 => (1 << 63, Place::Unmapped),
            2 => (usize::MAX - 7, Place::Unmapped),
            // The second half is unmapped.
            3 => (self.edge.at_end(bytes.min(PAGE) / 2), Place::Unmapped),
            _ => (self.sealed.at_end(bytes.min(2 * PAGE)), Place::Odd),
        }
    }

    /// Maps the beginning of a disk.
    pub(super) fn map(&mut self, node: &Node) -> Result<(), Errno> {
        self.disk = None;
        let file = open(node.path(), OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        // Fails if the disk is read-only.
        self.disk = Some(FilePages::attempt(file.as_fd(), MAPPED)?);
        Ok(())
    }

    /// Unmaps the disk.
    pub(super) fn unmap(&mut self) {
        self.disk = None;
    }
}
