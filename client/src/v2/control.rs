// SPDX-License-Identifier: MIT OR Apache-2.0
//! The control node: creates, finds, lists and destroys devices.
//!
//! Any thread may call any function; calls are independent of each other. Devices belong to the system, not
//! to the `Control`: they outlive it and the process.

use super::{Backend, Builder, Info, Listed, Observer, Server, Settings, Status, Users, Which, name};
use crate::node;
use crate::sys::fork::OwnFd;
use crate::sys::ioctl2;
use crate::{Errno, Error, Result};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::FileType;
use std::borrow::Cow;
use std::path::Path;
use zosbd2_abi::v2;

/// Whether an attach may take over from a live server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TakeOver {
    /// Fail with `EBUSY` if the device has a server.
    #[default]
    No,
    /// Take over. The old server gets no more requests, but may answer those it holds.
    Yes,
}

/// An open control node.
#[derive(Debug)]
pub struct Control {
    node: OwnedFd,
    info: Info,
}

#[expect(single_use_lifetimes, reason = "`impl Trait` takes no other yet")]
impl Control {
    /// Opens `/dev/zosbd2ctl` and checks that it is the control node of a module with interface version 2.
    pub fn open() -> Result<Self> {
        Self::open_at(Path::new(zosbd2_abi::CONTROL_PATH))
    }

    /// Like [`open`](Self::open), with another path to the node, such as a bind mount in a container.
    pub fn open_at(path: &Path) -> Result<Self> {
        let node = node::open(path)?;
        let wrong = |problem| Error::WrongNode { path: path.to_owned(), problem: Cow::Borrowed(problem) };
        let kind = rustix::fs::fstat(&node).map(|stat| FileType::from_raw_mode(stat.st_mode));
        // The ping comes first: it carries no pointer, so it is harmless with a foreign driver.
        if kind != Ok(FileType::CharacterDevice) || ioctl2::ping(node.as_fd()).is_err() {
            return Err(wrong("it is not a control node of zosbd2"));
        }
        let mut raw = v2::Info::default();
        match ioctl2::info(node.as_fd(), &mut raw) {
            Ok(()) if raw.version >= 2 => Ok(Self { node, info: Info::from(&raw) }),
            Ok(()) | Err(Errno::NOTTY | Errno::INVAL) => {
                Err(Error::WrongNode { path: path.to_owned(), problem: too_old(raw.version) })
            }
            Err(source) => Err(failed("get the limits of", "the kernel module zosbd2", source)),
        }
    }

    /// Abilities and limits of the module, read when the node was opened.
    #[must_use]
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Creates a device. It has no block node until [`Server::start`] or [`Server::serve`].
    pub fn create(&self, builder: &Builder) -> Result<Server> {
        self.create_silently(builder).map_err(|error| match error {
            Error::Control { operation, object, source: source @ Errno::EXIST, .. } => {
                let hint = super::same::existing(self, builder.name()).into();
                Error::Control { operation, object, hint, source }
            }
            other => other,
        })
    }

    /// Like [`create`](Self::create), but does not look for the server of a device that exists.
    pub(super) fn create_silently(&self, builder: &Builder) -> Result<Server> {
        let mut raw = builder.to_raw(&self.info)?;
        let fd = ioctl2::create(self.fd(), &mut raw)
            .map_err(|source| failed("create device", builder.name(), source))?;
        let server = Server::from_own(fd)?;
        if !builder.blob().is_empty() {
            // A device that was not started goes with its server, so none is left without its blob.
            server.set_blob(builder.blob())?;
        }
        Ok(server)
    }

    /// Becomes the server of a device. Unanswered requests come again, marked `REQUEST_MAYBE_EXECUTED`.
    ///
    /// If the device has a volatile cache, the caches of earlier servers count as lost from the first fetch on, unless
    /// this server makes the [claim](Server::claim_cache) that they survived.
    pub fn attach<'a>(&self, device: impl Into<Which<'a>>, take_over: TakeOver) -> Result<Server> {
        self.attach_with(device, take_over, false)
    }

    /// Like [`attach`](Self::attach), to serve this backend.
    /// [`Capabilities::cache_survives`](super::Capabilities::cache_survives) says whether to make the claim, as
    /// [`attach_with`](Self::attach_with) does.
    pub fn attach_for<'a, B: Backend + ?Sized>(
        &self,
        device: impl Into<Which<'a>>,
        take_over: TakeOver,
        backend: &B,
    ) -> Result<Server> {
        self.attach_with(device, take_over, backend.capabilities().cache_survives)
    }

    /// Like [`attach`](Self::attach). With `cache_survived`, the server also makes the claim of
    /// [`Server::claim_cache`], at once, when older servers may still answer what they hold. So the cache must have what they
    /// answer until they end. [`HandOver`](super::HandOver) makes the claim after their end.
    pub fn attach_with<'a>(
        &self,
        device: impl Into<Which<'a>>,
        take_over: TakeOver,
        cache_survived: bool,
    ) -> Result<Server> {
        let take_over = if take_over == TakeOver::Yes { v2::ATTACH_TAKE_OVER } else { 0 };
        let server = Server::from_own(self.attached(device.into(), take_over)?)?;
        if cache_survived {
            server.claim_cache()?;
        }
        Ok(server)
    }

    /// Returns an observer of a device of either version. As for an attach, the caller must own the device or
    /// have `CAP_SYS_ADMIN`.
    pub fn observe<'a>(&self, device: impl Into<Which<'a>>) -> Result<Observer> {
        let device = device.into();
        Ok(Observer::new(self.attached(device, v2::ATTACH_OBSERVE)?.into_fd(), device.name()))
    }

    fn attached(&self, device: Which<'_>, flags: u32) -> Result<OwnFd> {
        let mut raw = device.attach(flags)?;
        ioctl2::attach(self.fd(), &mut raw).map_err(|source| {
            let hint = match source {
                Errno::BUSY => {
                    let whose = self.status(device.name()).map(|status| {
                        let server = super::same::served_by(&status);
                        super::same::whose(&status, &server)
                    });
                    format!(" (it has a server{})", whose.unwrap_or_default()).into()
                }
                other => hint(other),
            };
            Error::Control { operation: "attach to device", object: device.name().to_owned(), hint, source }
        })
    }

    /// Destroys a device of either version and returns when it is gone. Without `force` the call fails with
    /// `EBUSY` while the block node is open, and the server writes out all dirty data first. With `force`,
    /// dirty data that cannot be written in bounded time fails with I/O errors. The error of a device that is in use
    /// names what uses it, as far as this process can see: mounts, swap, disks made of it, and processes.
    ///
    /// A name alone may belong to another device by now; [`Which`] identifies one device.
    pub fn destroy<'a>(&self, device: impl Into<Which<'a>>, force: bool) -> Result<()> {
        let device = device.into();
        self.destroy_silently(device, force).map_err(|error| match error {
            Error::Control { operation, object, source: source @ Errno::BUSY, .. } => {
                let status = self.status(device.name()).ok();
                let opens = status.as_ref().map_or(0, |status| status.opens);
                let users = status.and_then(|status| status.device_number).map(Users::of).unwrap_or_default();
                let hint = in_use(&users, opens).into();
                Error::Control { operation, object, hint, source }
            }
            other => other,
        })
    }

    /// Like [`destroy`](Self::destroy), but does not look for what uses a device that is in use.
    pub(super) fn destroy_silently(&self, device: Which<'_>, force: bool) -> Result<()> {
        let mut raw = device.destroy(if force { v2::DESTROY_FORCE } else { 0 })?;
        ioctl2::destroy(self.fd(), &mut raw).map_err(|source| failed("destroy device", device.name(), source))
    }

    /// All devices of both versions, oldest first.
    pub fn list(&self) -> Result<Vec<Listed>> {
        let mut room = 16;
        loop {
            let mut entries = vec![v2::ListEntry::default(); room];
            let (count, total) =
                ioctl2::list(self.fd(), &mut entries).map_err(|source| failed("list", "devices", source))?;
            if total <= room {
                return Ok(entries.iter().take(count).map(Listed::from).collect());
            }
            // Leaves room for devices that are created between the two calls.
            room = total.saturating_add(16);
        }
    }

    /// Properties and state of a device of either version.
    pub fn status(&self, name: &str) -> Result<Status> {
        let mut raw = v2::Status { name: name::field(name)?, ..v2::Status::default() };
        ioctl2::status(self.fd(), &mut raw)
            .map_err(|source| failed("get the status of device", name, source))?;
        Ok(Status::from(&raw))
    }

    /// Changes settings of a device in use. As for an attach, the caller must own the device or have `CAP_SYS_ADMIN`.
    pub fn set<'a>(&self, device: impl Into<Which<'a>>, settings: &Settings) -> Result<()> {
        let device = device.into();
        let mut raw = device.settings(settings.to_raw(device.name())?)?;
        ioctl2::settings(self.fd(), &mut raw)
            .map_err(|source| failed("change settings of device", device.name(), source))
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.node.as_fd()
    }
}

impl AsFd for Control {
    /// For calls that this library does not make.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd()
    }
}

/// What is wrong with a module that has no interface version 2.
fn too_old(interface: u32) -> Cow<'static, str> {
    let module = node::module_version().map_or_else(String::new, |version| format!(" {version}"));
    let (own, interface) = (env!("CARGO_PKG_VERSION"), interface.max(1));
    format!(
        "the kernel module zosbd2{module} has interface version {interface}, but the library {own} of this program \
         needs version 2"
    )
    .into()
}

/// What is said of a device in use. `opens`: how often it is open.
fn in_use(users: &Users, opens: u32) -> String {
    // Users of other namespaces and of the kernel cannot be seen, but the kernel counts them.
    let times = if opens == 1 { "once" } else { &format!("{opens} times") };
    if users.is_empty() && opens > 0 {
        format!(" (it is in use: open {times}, {users})")
    } else {
        format!(" (it is in use: {users})")
    }
}

/// An error of a control call, with the meaning of the number for this operation.
pub(super) fn failed(operation: &'static str, object: &str, source: Errno) -> Error {
    Error::Control { operation, object: object.to_owned(), hint: hint(source), source }
}

fn hint(source: Errno) -> Cow<'static, str> {
    let hint = match source {
        Errno::EXIST => " (a device of that name exists)",
        Errno::BUSY => " (it is in use)",
        Errno::NOENT => " (there is no such device)",
        Errno::NODEV => " (the device is gone)",
        Errno::STALE => " (the name belongs to another device, or another server has the device)",
        Errno::SHUTDOWN => " (another server has taken over)",
        Errno::NOSPC => " (there are as many devices as the module allows)",
        Errno::INVAL | Errno::RANGE | Errno::OVERFLOW => " (the kernel module does not accept these values)",
        Errno::PERM | Errno::ACCESS => " (it belongs to another user)",
        Errno::TOOBIG | Errno::NOTTY => return node::older_module(),
        _ => "",
    };
    hint.into()
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
    fn a_device_in_use_names_its_users_or_counts_them() {
        let nobody = Users::default();
        assert_eq!(in_use(&nobody, 0), " (it is in use: by nothing that this process can see)");
        assert_eq!(in_use(&nobody, 1), " (it is in use: open once, by nothing that this process can see)");
        assert_eq!(in_use(&nobody, 2), " (it is in use: open 2 times, by nothing that this process can see)");
        let mut users = Users::default();
        users.mounts.push("/mnt".into());
        assert_eq!(in_use(&users, 2), " (it is in use: mounted on /mnt)");
    }

    #[test]
    fn errors_name_operation_and_object() {
        let error = failed("create device", "mydisk", Errno::EXIST);
        assert_eq!(error.to_string(), "create device mydisk (a device of that name exists)");
    }
}
