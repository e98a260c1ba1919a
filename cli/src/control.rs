// SPDX-License-Identifier: MIT OR Apache-2.0
//! The way to the kernel module: its control node, and loading the module when it is missing.

use crate::failure::{Failure, Result};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use zosbd2::{Control, Error, Status};

/// Where the module makes its node.
const NODE: &str = "/dev/zosbd2ctl";

/// Opens the control node. If the module is not loaded, and this process may load it, it is loaded first.
pub(crate) fn open(node: Option<&Path>) -> Result<Control> {
    let path = node.map_or_else(|| PathBuf::from(NODE), Path::to_owned);
    let first = match Control::open_at(&path) {
        Ok(control) => return Ok(control),
        Err(error) => error,
    };
    if node.is_some() || Path::new("/sys/module/zosbd2").exists() || !rustix::process::geteuid().is_root() {
        return Err(first.into());
    }
    match load() {
        Ok(()) => Control::open_at(&path).map_err(Into::into),
        Err(said) => Err(Failure::failed(format!("{}; modprobe zosbd2 says: {said}", first.chain()))),
    }
}

/// Loads the module; the error is what modprobe says.
fn load() -> std::result::Result<(), String> {
    let run = Command::new("modprobe").arg("zosbd2").stdin(Stdio::null()).output();
    let output = run.map_err(|error| format!("modprobe does not start: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(said.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; "))
}

/// The state of a device, or a failure that says that there is none.
pub(crate) fn status(control: &Control, name: &str) -> Result<Status> {
    match control.status(name) {
        Ok(status) => Ok(status),
        Err(Error::Control { source: zosbd2::Errno::NODEV | zosbd2::Errno::NOENT, .. }) => {
            Err(Failure::missing(name))
        }
        Err(error) => Err(error.into()),
    }
}
