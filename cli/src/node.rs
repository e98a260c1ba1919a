// SPDX-License-Identifier: MIT OR Apache-2.0
//! The block node of a disk: its owner and permissions, and when udev has looked at it.

use crate::config::{self, Disk};
use crate::failure::{Context as _, Failure, Result};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long udev may take for one node.
const PATIENCE: Duration = Duration::from_secs(60);

/// Tells udev's rule the owner and the permissions of the node, before the node exists.
pub(crate) fn announce(file: &Path, disk: &Disk) -> Result<()> {
    let mut text = String::new();
    let (user, group) =
        disk.owner.as_deref().map_or(("", ""), |owner| owner.split_once(':').unwrap_or((owner, "")));
    for (key, value) in
        [("OWNER", user), ("GROUP", group), ("MODE", disk.mode.as_deref().unwrap_or_default())]
    {
        if !value.is_empty() {
            let _ = writeln!(text, "ZOSBD2_{key}={value}");
        }
    }
    if text.is_empty() {
        let _ = fs::remove_file(file);
        return Ok(());
    }
    let folder = file.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(file, text))
        .context(format_args!("write {}", file.display()))
}

/// Gives the node its owner and permissions, as configured, where udev does not.
pub(crate) fn prepare(path: &Path, disk: &Disk) {
    if let Some(bits) = disk.mode.as_deref().and_then(|mode| config::octal(mode).ok()) {
        let set = fs::set_permissions(path, fs::Permissions::from_mode(bits));
        set.unwrap_or_else(|error| tracing::warn!("set the permissions of {}: {error}", path.display()));
    }
    if let Some(owner) = &disk.owner {
        let set = ids(owner).and_then(|(user, group)| {
            chown(path, user, group).map_err(|error| format!("set the owner of {}: {error}", path.display()))
        });
        set.unwrap_or_else(|problem| tracing::warn!("{problem}"));
    }
}

/// The numbers of `USER:GROUP`, `USER` or `:GROUP`, by name or number.
fn ids(owner: &str) -> std::result::Result<(Option<u32>, Option<u32>), String> {
    let (user, group) = owner.split_once(':').unwrap_or((owner, ""));
    let id = |name: &str, database: &str| -> std::result::Result<Option<u32>, String> {
        if name.is_empty() {
            return Ok(None);
        }
        if let Ok(number) = name.parse() {
            return Ok(Some(number));
        }
        // getent asks all the places where this system keeps users.
        let output = Command::new("getent").args([database, name]).stdin(Stdio::null()).output();
        let text =
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let number = text.split(':').nth(2).and_then(|number| number.trim().parse().ok());
        number.map(Some).ok_or_else(|| format!("{name} is not in the database {database}"))
    };
    Ok((id(user, "passwd")?, id(group, "group")?))
}

/// Waits until the node is there, and until udev, if it runs, has made the node's links.
pub(crate) fn wait(path: &Path) -> Result<()> {
    let settled = Path::new("/run/udev/control").exists() && {
        let mut udevadm = Command::new("udevadm");
        udevadm.args(["wait", "--initialized=true", &format!("--timeout={}", PATIENCE.as_secs())]).arg(path);
        let quiet = udevadm.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        quiet.status().is_ok_and(|status| status.success())
    };
    let begin = Instant::now();
    while !settled && !path.exists() {
        if begin.elapsed() > PATIENCE {
            return Err(Failure::failed(format!("{} did not appear within {PATIENCE:?}", path.display())));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_names_or_numbers() {
        assert_eq!(ids("root:0"), Ok((Some(0), Some(0))));
        assert_eq!(ids(":6"), Ok((None, Some(6))));
        assert_eq!(ids("7"), Ok((Some(7), None)));
        assert!(ids("nobody-has-this-name").is_err());
    }
}
