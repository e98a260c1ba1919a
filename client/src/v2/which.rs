// SPDX-License-Identifier: MIT OR Apache-2.0
//! Identification of a device in control calls.

use super::{Listed, Server, Status, name};
use crate::Result;
use zosbd2_abi::v2;

/// Identifies the device that a call of [`Control`](super::Control) is for: by its name, and optionally by its handle and the
/// epoch of its newest server.
///
/// A name can be used again after its device is gone. A call with a handle fails with `ESTALE` when the name belongs to
/// another device by then, so a late clean-up cannot destroy the next device. A call with a name alone is for
/// whichever device has that name.
///
/// ```
/// # use zosbd2::v2::Which;
/// # fn clean_up(control: &zosbd2::v2::Control, server: &zosbd2::v2::Server) -> zosbd2::Result<()> {
/// // This device, unless another server has attached to it.
/// control.destroy(Which::from(server).with_epoch(server.created().epoch), true)?;
/// // Any device with this name.
/// control.destroy("disk", true)
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Which<'a> {
    name: &'a str,
    handle: u32,
    epoch: u32,
}

impl<'a> Which<'a> {
    /// The device of this name.
    #[must_use]
    pub const fn named(name: &'a str) -> Self {
        Self { name, handle: 0, epoch: 0 }
    }

    /// The device must have this handle ([`Status::handle`], [`Listed::handle`]); 0 for any.
    #[must_use]
    pub const fn with_handle(self, handle: u32) -> Self {
        Self { handle, ..self }
    }

    /// The newest server of the device must have this epoch ([`Status::epoch`]); 0 for any.
    #[must_use]
    pub const fn with_epoch(self, epoch: u32) -> Self {
        Self { epoch, ..self }
    }

    /// Name of the device.
    #[must_use]
    pub const fn name(&self) -> &'a str {
        self.name
    }

    pub(super) fn destroy(self, flags: u32) -> Result<v2::Destroy> {
        let Self { handle, epoch, .. } = self;
        Ok(v2::Destroy { flags, name: name::field(self.name)?, handle, epoch, ..v2::Destroy::default() })
    }

    pub(super) fn settings(self, settings: v2::Settings) -> Result<v2::Settings> {
        let Self { handle, epoch, .. } = self;
        Ok(v2::Settings { name: name::field(self.name)?, handle, epoch, ..settings })
    }

    pub(super) fn attach(self, flags: u32) -> Result<v2::Attach> {
        let Self { handle, epoch, .. } = self;
        Ok(v2::Attach { flags, name: name::field(self.name)?, handle, epoch, ..v2::Attach::default() })
    }
}

impl<'a> From<&'a str> for Which<'a> {
    fn from(name: &'a str) -> Self {
        Self::named(name)
    }
}

impl<'a> From<&'a String> for Which<'a> {
    fn from(name: &'a String) -> Self {
        Self::named(name)
    }
}

impl<'a> From<&'a Status> for Which<'a> {
    /// The device that the status is of.
    fn from(status: &'a Status) -> Self {
        Self::named(&status.name).with_handle(status.handle)
    }
}

impl<'a> From<&'a Listed> for Which<'a> {
    /// The device that was listed.
    fn from(listed: &'a Listed) -> Self {
        Self::named(&listed.name).with_handle(listed.handle)
    }
}

impl<'a> From<&'a Server> for Which<'a> {
    /// The server's device.
    fn from(server: &'a Server) -> Self {
        server.created().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_asked_for() {
        let listed = Listed::from(&v2::ListEntry {
            handle: 7,
            version: 2,
            name: name::field("disk").expect("a name"),
        });
        let destroy = Which::from(&listed).with_epoch(3).destroy(v2::DESTROY_FORCE).expect("a name");
        assert_eq!((destroy.flags, destroy.handle, destroy.epoch), (v2::DESTROY_FORCE, 7, 3));
        assert_eq!(name::text(&destroy.name), "disk");
        let attach = Which::from(&listed).attach(v2::ATTACH_TAKE_OVER).expect("a name");
        assert_eq!((attach.flags, attach.handle, attach.epoch), (v2::ATTACH_TAKE_OVER, 7, 0));
        let attach = Which::from("disk").attach(0).expect("a name");
        assert_eq!((attach.handle, attach.epoch), (0, 0), "any");
        let error = Which::named("").with_handle(7).destroy(0).expect_err("no name");
        assert!(error.to_string().contains("is empty"), "{error}");
    }
}
