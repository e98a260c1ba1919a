// SPDX-License-Identifier: MIT OR Apache-2.0
//! Starts servers in the background: as units of systemd where systemd is process 1, else as processes.

pub(crate) mod process;
pub(crate) mod systemd;

use crate::failure::Result;
use crate::places::Places;
use crate::server::How;

/// Who keeps the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Launcher {
    /// systemd, as `zosbd2@NAME.service`.
    Systemd,
    /// Nobody: they are processes of their own.
    Process,
}

impl Launcher {
    /// That of this system.
    pub(crate) fn here() -> Self {
        // A folder of their own is a test, whose disks systemd does not find.
        let own = std::env::var_os("ZOSBD2_ROOT").is_some();
        if !own && sd_notify::booted().unwrap_or(false) { Self::Systemd } else { Self::Process }
    }

    /// Starts the server of a configured disk. Returns when the server serves; an error has what the server said.
    pub(crate) fn start(self, places: &Places, name: &str, how: How) -> Result<()> {
        match (self, how) {
            (Self::Systemd, How::Follow) => systemd::start(name),
            (Self::Systemd, How::TakeOver) => systemd::reload(name),
            (Self::Process, _) => process::start(places, name, how),
        }
    }

    /// The server has ended, or is to be started no more: nothing of it stays.
    pub(crate) fn forget(self, places: &Places, name: &str) -> Result<()> {
        match self {
            Self::Systemd => systemd::stop(name),
            Self::Process => {
                let _ = std::fs::remove_file(places.log(name));
                Ok(())
            }
        }
    }

    /// Where the server's messages are, for people.
    pub(crate) fn log(self, places: &Places, name: &str) -> String {
        match self {
            Self::Systemd => format!("journalctl -u '{}'", systemd::unit(name)),
            Self::Process => places.log(name).display().to_string(),
        }
    }
}
