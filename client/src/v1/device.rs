// SPDX-License-Identifier: MIT OR Apache-2.0
//! An open block node, for serving it.
//!
//! Any number of threads may use one `Device` at a time. While it is open, a destroy without force fails.
//! Dropping it does not return fetched requests to the kernel.

use super::{Control, DeviceName, Handle, OperationBuffer};
use crate::sys::ioctl;
use crate::{Errno, Error, Result};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Time between two attempts to open a node that does not exist yet.
const POLL: Duration = Duration::from_millis(5);

/// Where a [`Worker`](super::Worker) answers and fetches: a [`Device`], or a fake in tests.
pub trait Channel: Sync {
    /// The one call of a server: answers what `buffer` says, sleeps until there is a request, and puts that
    /// request into `buffer`. `ENOENT` means that the device is gone for good.
    fn operation(&self, buffer: &mut OperationBuffer) -> Result<(), Errno>;
    /// Handle of the device, which each call carries.
    fn handle(&self) -> Handle;
    /// Name of the device, for messages.
    fn name(&self) -> &DeviceName;
    /// Size of the device in bytes.
    fn size_bytes(&self) -> u64;
}

/// An open block node.
#[derive(Debug)]
pub struct Device {
    node: OwnedFd,
    name: DeviceName,
    handle: Handle,
    size_bytes: u64,
}

impl Device {
    /// Opens `/dev/NAME` of the device with this handle for reading and writing. Retries for `patience` while
    /// the node is missing or access is denied, because udev may still be working on it.
    pub fn open(control: &Control, handle: Handle, patience: Duration) -> Result<Self> {
        let status = control.status(handle)?;
        let path = status.name.path();
        let node = open_node(&path, patience)?;
        let wrong = |problem| Error::WrongNode { path: path.clone(), problem: Cow::Borrowed(problem) };
        let kind = rustix::fs::fstat(&node).map(|stat| FileType::from_raw_mode(stat.st_mode));
        if kind != Ok(FileType::BlockDevice) {
            return Err(wrong("it is not a block device"));
        }
        ioctl::block_ping(node.as_fd()).map_err(|_| wrong("it is not a device of zosbd2"))?;
        Ok(Self { node, name: status.name, handle, size_bytes: status.size_bytes })
    }

    /// Opens an existing device by name. A new server takes over that way.
    pub fn open_by_name(control: &Control, name: &DeviceName, patience: Duration) -> Result<Self> {
        Self::open(control, control.handle_by_name(name)?, patience)
    }

    /// Path of the block node.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.name.path()
    }
}

impl Channel for Device {
    fn operation(&self, buffer: &mut OperationBuffer) -> Result<(), Errno> {
        ioctl::operation(self.node.as_fd(), buffer.bytes_mut())
    }

    fn handle(&self) -> Handle {
        self.handle
    }

    fn name(&self) -> &DeviceName {
        &self.name
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

fn open_node(path: &Path, patience: Duration) -> Result<OwnedFd> {
    let begin = Instant::now();
    loop {
        match rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
            Ok(node) => return Ok(node),
            Err(Errno::NOENT | Errno::NXIO | Errno::ACCESS | Errno::PERM | Errno::INTR)
                if begin.elapsed() < patience =>
            {
                std::thread::sleep(POLL);
            }
            Err(source) => {
                let hint = match source {
                    Errno::NOENT | Errno::NXIO => " (the node did not appear)",
                    Errno::ACCESS | Errno::PERM => " (are you root?)",
                    _ => "",
                };
                return Err(Error::Open { path: path.to_owned(), hint: hint.into(), source });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_never_appears_is_named() {
        let error = open_node(Path::new("/dev/zosbd2-none"), Duration::from_millis(12)).expect_err("no node");
        assert_eq!(error.to_string(), "open /dev/zosbd2-none (the node did not appear)");
    }
}
