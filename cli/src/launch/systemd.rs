// SPDX-License-Identifier: MIT OR Apache-2.0
//! Servers as units: `zosbd2@NAME.service`.

use crate::failure::{Context as _, Failure, Result};
use std::fmt::Write as _;
use std::process::{Command, Output, Stdio};

/// The unit of a disk. Like `systemd-escape --template=zosbd2@.service NAME`: names of disks have `-` and `+`, which mean
/// something to systemd.
pub(crate) fn unit(name: &str) -> String {
    format!("zosbd2@{}.service", escape(name))
}

/// A path as the name of a unit. Like `systemd-escape --path`.
pub(crate) fn escape_path(path: &str) -> String {
    let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).map(escape).collect();
    if parts.is_empty() { "-".to_owned() } else { parts.join("-") }
}

fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for (index, byte) in text.bytes().enumerate() {
        let plain =
            byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'_') || (byte == b'.' && index > 0);
        if plain {
            escaped.push(byte.into());
        } else {
            let _ = write!(escaped, "\\x{byte:02x}");
        }
    }
    escaped
}

/// Starts the unit, and returns when its server is ready.
pub(super) fn start(name: &str) -> Result<()> {
    let unit = unit(name);
    let cursor = cursor();
    // A unit that failed before is as good as a new one.
    let _ = systemctl(&["reset-failed", &unit]);
    match systemctl(&["start", &unit])? {
        output if output.status.success() => Ok(()),
        output => {
            let said = journal(&unit, cursor.as_deref());
            let status = main_status(&unit);
            // It would be started again and again.
            let _ = systemctl(&["stop", &unit]);
            let _ = systemctl(&["reset-failed", &unit]);
            Err(Failure::of_server(
                status,
                format!("start the server of disk {name}: {}", reason(&said, &output)),
            ))
        }
    }
}

/// Lets a new process of the unit take over.
pub(super) fn reload(name: &str) -> Result<()> {
    let unit = unit(name);
    let cursor = cursor();
    let output = systemctl(&["reload", &unit])?;
    if output.status.success() {
        return Ok(());
    }
    let said = journal(&unit, cursor.as_deref());
    Err(Failure::failed(format!("upgrade the server of disk {name}: {}", reason(&said, &output))))
}

/// Stops the unit, and forgets its failures.
pub(super) fn stop(name: &str) -> Result<()> {
    let unit = unit(name);
    let output = systemctl(&["stop", &unit])?;
    let _ = systemctl(&["reset-failed", &unit]);
    if output.status.success() {
        return Ok(());
    }
    Err(Failure::failed(format!("stop {unit}: {}", reason("", &output))))
}

/// Lets systemd read units and generators again.
pub(crate) fn read_again() -> Result<()> {
    systemctl(&["daemon-reload"]).map(drop)
}

fn systemctl(words: &[&str]) -> Result<Output> {
    Command::new("systemctl").args(words).stdin(Stdio::null()).output().context("start systemctl")
}

/// The exit code of the unit's last server.
fn main_status(unit: &str) -> Option<i32> {
    let output = systemctl(&["show", "--value", "--property=ExecMainStatus", unit]).ok()?;
    String::from_utf8_lossy(&output.stdout).trim().parse().ok()
}

/// The end of the journal now.
fn cursor() -> Option<String> {
    let output = Command::new("journalctl").args(["-n", "0", "--show-cursor", "-q"]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find_map(|line| line.strip_prefix("-- cursor: ").map(str::to_owned))
}

/// What the server has said since then.
fn journal(unit: &str, cursor: Option<&str>) -> String {
    let mut command = Command::new("journalctl");
    command.args(["-q", "-o", "cat", "-n", "5", "_COMM=zosbd2", "-u", unit]);
    if let Some(cursor) = cursor {
        command.args(["--after-cursor", cursor]);
    }
    let output = command.stdin(Stdio::null()).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// What a person is told: the server's words, or those of systemctl.
fn reason(said: &str, output: &Output) -> String {
    let line = said.lines().rev().find_map(|line| line.strip_prefix("zosbd2: "));
    if let Some(line) = line {
        return line.to_owned();
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    errors.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_named_like_systemd_does() {
        let table = [
            ("disk", "zosbd2@disk.service"),
            ("a-b+c", "zosbd2@a\\x2db\\x2bc.service"),
            ("a.b:c_d", "zosbd2@a.b:c_d.service"),
        ];
        for (name, wanted) in table {
            assert_eq!(unit(name), wanted);
            let escaped = Command::new("systemd-escape").args(["--template=zosbd2@.service", name]).output();
            if let Ok(output) = escaped {
                assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), wanted);
            }
        }
        assert_eq!(escape_path("/dev/vg/lv-1"), "dev-vg-lv\\x2d1");
        assert_eq!(escape_path("/"), "-");
    }
}
