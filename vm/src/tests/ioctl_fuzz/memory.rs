// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory of one thread that it hands to the kernel: good, bad, and of its own devices.
//!
//! Bad addresses are never made of random numbers: the kernel may only write to pages that nothing else looks at.

use std::os::fd::AsFd as _;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use super::process::Node;
use crate::guest::Random;
use crate::guest::raw::{FilePages, PAGE, Pages};

/// Bytes of memory for the data of requests.
pub(super) const DATA: usize = 256 << 10;
/// Bytes of a device that are mapped.
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
    /// Cannot be written.
    sealed: Pages,
    /// For what only begins here.
    edge: Pages,
    /// Pages of a device: whoever touches them makes I/O on it.
    disk: Option<FilePages>,
}

/// What happens to who uses an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// `EFAULT`, always.
    Unmapped,
    /// What is there cannot be written, or may be unreadable: it is a device's.
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

    /// An address that is not fit for `bytes` bytes.
    pub(super) fn bad(&self, random: &mut Random, bytes: usize) -> (usize, Place) {
        if let Some(disk) = &self.disk
            && random.chance(40)
        {
            return (disk.address() + usize::try_from(random.below(64)).expect("small") * 8, Place::Odd);
        }
        match random.below(6) {
            0 => (0, Place::Unmapped),
            1 => (1 << 63, Place::Unmapped),
            2 => (usize::MAX - 7, Place::Unmapped),
            // The second half is missing.
            3 => (self.edge.at_end(bytes.min(PAGE) / 2), Place::Unmapped),
            _ => (self.sealed.at_end(bytes.min(2 * PAGE)), Place::Odd),
        }
    }

    /// Maps the beginning of a disk.
    pub(super) fn map(&mut self, node: &Node) -> Result<(), Errno> {
        self.disk = None;
        let file = open(node.path(), OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        // Refused if nothing may be written there.
        self.disk = Some(FilePages::attempt(file.as_fd(), MAPPED)?);
        Ok(())
    }

    /// Maps none.
    pub(super) fn unmap(&mut self) {
        self.disk = None;
    }
}
