// SPDX-License-Identifier: MIT OR Apache-2.0
//! The control node of version 1: creates, finds, lists and destroys devices.
//!
//! Any thread may call any function; calls are independent of each other. Devices belong to the system, not
//! to the `Control`: they outlive it and the process.

use super::{CreateOptions, DeviceName, DeviceStatus, Handle};
use crate::sys::{ioctl, ioctl2};
use crate::{Errno, Error, Result, node};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::FileType;
use std::borrow::Cow;
use std::path::Path;
use zosbd2_abi::v1;

/// An open control node.
#[derive(Debug)]
pub struct Control {
    node: OwnedFd,
}

impl Control {
    /// Opens `/dev/zosbd2ctl` and checks that it is the control node of the module.
    pub fn open() -> Result<Self> {
        Self::open_at(Path::new(zosbd2_abi::CONTROL_PATH))
    }

    /// Like [`open`](Self::open), with another path to the node, such as a bind mount in a container.
    pub fn open_at(path: &Path) -> Result<Self> {
        let node = node::open(path)?;
        let wrong = |problem| Error::WrongNode { path: path.to_owned(), problem: Cow::Borrowed(problem) };
        let kind = rustix::fs::fstat(&node).map(|stat| FileType::from_raw_mode(stat.st_mode));
        if kind != Ok(FileType::CharacterDevice) || ioctl2::ping(node.as_fd()).is_err() {
            return Err(wrong("it is not a control node of zosbd2"));
        }
        Ok(Self { node })
    }

    /// Checks that the module answers.
    pub fn ping(&self) -> Result<()> {
        ioctl2::ping(self.fd()).map_err(|source| failed("ping", "the control node", source))
    }

    /// Creates a device. On return `/dev/NAME` exists and queues requests until a server fetches them or
    /// their timeout expires.
    pub fn create(&self, options: &CreateOptions) -> Result<Handle> {
        let mut raw = options.to_raw()?;
        self.create_raw(&mut raw).map_err(|source| failed("create device", options.name(), source))?;
        Ok(Handle::from_raw(raw.handle))
    }

    /// Destroys one device. Without `force` it fails with `EBUSY` while the device is open; its server
    /// counts, too. With `force` all remaining requests fail with I/O errors.
    pub fn destroy(&self, handle: Handle, force: bool) -> Result<()> {
        let mut raw = v1::DestroyByHandle { handle: handle.raw(), error: 0, force: force.into() };
        self.destroy_by_handle_raw(&mut raw)
            .map_err(|source| failed("destroy device with handle", &handle, source))
    }

    /// Like [`destroy`](Self::destroy), by name.
    pub fn destroy_by_name(&self, name: &DeviceName, force: bool) -> Result<()> {
        let mut raw = v1::DestroyByName { name: name.field(), error: 0, force: force.into() };
        self.destroy_by_name_raw(&mut raw).map_err(|source| failed("destroy device", name, source))
    }

    /// Destroys all devices, no matter which process created them. Succeeds if there are none.
    pub fn destroy_all(&self, force: bool) -> Result<()> {
        let mut raw = v1::DestroyAll { force: force.into() };
        ioctl::destroy_all(self.fd(), &mut raw).map_err(|source| failed("destroy", "all devices", source))
    }

    /// The handle of a device.
    pub fn handle_by_name(&self, name: &DeviceName) -> Result<Handle> {
        let mut raw = v1::HandleByName { name: name.field(), ..v1::HandleByName::default() };
        self.handle_by_name_raw(&mut raw).map_err(|source| failed("look up device", name, source))?;
        Ok(Handle::from_raw(raw.handle))
    }

    /// The handles of all devices, oldest first; the interface has room for 50.
    pub fn list(&self) -> Result<Vec<Handle>> {
        let mut raw = v1::List { count: 0, handles: [0; v1::LIST_ENTRIES] };
        self.list_raw(&mut raw).map_err(|source| failed("list", "devices", source))?;
        let used = raw.handles.iter().take(raw.count as usize);
        Ok(used.copied().map(Handle::from_raw).collect())
    }

    /// The properties of a device.
    pub fn status(&self, handle: Handle) -> Result<DeviceStatus> {
        let mut raw = v1::Status { query: handle.raw(), ..v1::Status::default() };
        self.status_raw(&mut raw).map_err(|source| failed("get the status of handle", &handle, source))?;
        Ok(DeviceStatus::from(&raw))
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.node.as_fd()
    }
}

/// The raw calls, without checks or translation, for tests and tools.
impl Control {
    /// The create call.
    pub fn create_raw(&self, argument: &mut v1::Create) -> Result<(), Errno> {
        ioctl::create(self.fd(), argument)
    }

    /// The destroy-by-handle call.
    pub fn destroy_by_handle_raw(&self, argument: &mut v1::DestroyByHandle) -> Result<(), Errno> {
        ioctl::destroy_by_handle(self.fd(), argument)
    }

    /// The destroy-by-name call.
    pub fn destroy_by_name_raw(&self, argument: &mut v1::DestroyByName) -> Result<(), Errno> {
        ioctl::destroy_by_name(self.fd(), argument)
    }

    /// The handle-by-name call.
    pub fn handle_by_name_raw(&self, argument: &mut v1::HandleByName) -> Result<(), Errno> {
        ioctl::handle_by_name(self.fd(), argument)
    }

    /// The list call.
    pub fn list_raw(&self, argument: &mut v1::List) -> Result<(), Errno> {
        ioctl::list(self.fd(), argument)
    }

    /// The status call.
    pub fn status_raw(&self, argument: &mut v1::Status) -> Result<(), Errno> {
        ioctl::status(self.fd(), argument)
    }
}

/// An error of a control call, with the meaning of the number for this operation.
fn failed(operation: &'static str, object: &(impl ToString + ?Sized), source: Errno) -> Error {
    let hint = match source {
        Errno::EXIST => " (a device or node of that name exists)",
        Errno::BUSY => " (it is in use)",
        Errno::NOENT => " (there is no such device)",
        _ => "",
    };
    Error::Control { operation, object: object.to_string(), hint: hint.into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn a_missing_node_asks_for_the_module() {
        let error = Control::open_at(Path::new("/nonexistent/zosbd2ctl")).expect_err("no node");
        assert_eq!(error.to_string(), "open /nonexistent/zosbd2ctl (is the kernel module zosbd2 loaded?)");
        assert!(error.source().is_some());
    }

    #[test]
    fn a_foreign_node_is_refused() {
        for path in ["/dev/null", "/proc/self/status", "/"] {
            let error = Control::open_at(Path::new(path)).expect_err("foreign node");
            assert!(matches!(error, Error::WrongNode { .. }), "{path}: {error}");
        }
    }

    #[test]
    fn errors_name_operation_and_object() {
        let error = failed("create device", "zosbd2ramdisk", Errno::EXIST);
        assert_eq!(error.to_string(), "create device zosbd2ramdisk (a device or node of that name exists)");
    }
}
