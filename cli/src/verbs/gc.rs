// SPDX-License-Identifier: MIT OR Apache-2.0
//! `zosbd2 gc`: lists, and with `--yes` removes, what nobody serves and nobody uses.
//!
//! A configured disk is never removed, whatever its state: systemd may be about to start its server again, and its
//! configuration says that somebody wants it. `zosbd2 recover` and `zosbd2 remove` are for those.

use crate::control;
use crate::facts;
use crate::failure::{Context as _, Failure, Result};
use crate::leftover;
use crate::output;
use crate::places::Places;
use crate::table::{self, Align, Table};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};
use zosbd2::{Control, Errno, Error, Listed, State, Status, Users, Which};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Remove what is listed
    #[arg(long)]
    yes: bool,
    /// Print JSON
    #[arg(short, long)]
    json: bool,
}

/// Something that nobody serves or uses, as JSON has it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Garbage {
    /// `device` or `file`.
    kind: &'static str,
    /// The disk that it is of.
    disk: String,
    /// The node or the file.
    path: String,
    /// Why it is garbage.
    why: String,
    /// Whether it was removed.
    removed: bool,
    /// Why it was not removed although it was to be.
    kept: Option<String>,
    #[serde(skip)]
    handle: u32,
}

pub(crate) fn run(arguments: &Arguments, node: Option<&Path>) -> Result<()> {
    let (control, places) = (control::open(node)?, Places::system());
    let mut garbage = Vec::new();
    for listed in control.list()? {
        garbage.extend(device(&control, &places, &listed)?);
    }
    garbage.extend(files(&control, &places));
    if arguments.yes {
        for item in &mut garbage {
            match remove(&control, &places, item) {
                Ok(()) => item.removed = true,
                Err(failure) => item.kept = Some(failure.sentence),
            }
        }
    }
    if arguments.json {
        super::json(&garbage)?;
    } else {
        output::write(&text(&garbage, table::width()))?;
        if !arguments.yes && !garbage.is_empty() {
            eprintln!("nothing was removed: `zosbd2 gc --yes` removes these");
        }
    }
    match garbage.iter().filter(|item| item.kept.is_some()).count() {
        0 => Ok(()),
        kept => Err(Failure::failed(format!("gc: {kept} of {} were kept", garbage.len()))),
    }
}

/// The device, if nobody serves it, uses it, or has configured it.
fn device(control: &Control, places: &Places, listed: &Listed) -> Result<Option<Garbage>> {
    if listed.version == 1 || places.configuration(&listed.name).is_some() {
        return Ok(None);
    }
    let look = || {
        let observer = control.observe(listed)?;
        let status = observer.status()?;
        // Looking through all processes takes long, and most devices are served.
        let users = if unserved(&status) { observer.users()? } else { Users::default() };
        Ok((status, users))
    };
    let (status, users) = match look() {
        Ok(found) => found,
        // It has just gone.
        Err(Error::Control { source: Errno::NODEV | Errno::NOENT | Errno::STALE, .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(unused(&status, &users).then(|| Garbage {
        kind: "device",
        path: status.path().display().to_string(),
        why: format!("{}, not configured, and not in use", facts::state(status.state)),
        removed: false,
        kept: None,
        handle: status.handle,
        disk: status.name,
    }))
}

/// Whether nobody serves a device, and nobody uses it.
fn unused(status: &Status, users: &Users) -> bool {
    unserved(status) && status.opens == 0 && users.is_empty()
}

/// Whether nobody serves a device.
const fn unserved(status: &Status) -> bool {
    matches!(status.state, State::Orphaned | State::Failed)
}

/// Files of disks that neither exist nor are configured.
fn files(control: &Control, places: &Places) -> Vec<Garbage> {
    let all = leftover::files(places).into_iter();
    let garbage = all.filter(|file| is_left(control, places, &file.disk, &file.path));
    let garbage = garbage.map(|file| Garbage {
        kind: "file",
        path: file.path.display().to_string(),
        why: "its disk neither exists nor is configured".to_owned(),
        removed: false,
        kept: None,
        handle: 0,
        disk: file.disk,
    });
    garbage.collect()
}

/// Whether the file is of no disk, and no process has it open: a server that starts has the file before its device.
fn is_left(control: &Control, places: &Places, disk: &str, path: &Path) -> bool {
    let gone =
        matches!(control.status(disk), Err(Error::Control { source: Errno::NODEV | Errno::NOENT, .. }));
    gone && places.configuration(disk).is_none() && !leftover::is_open(path)
}

/// Removes it, if it still is garbage.
fn remove(control: &Control, places: &Places, item: &Garbage) -> Result<()> {
    let used = || Failure::failed("it came into use meanwhile");
    if item.kind == "device" {
        if places.configuration(&item.disk).is_some() {
            return Err(used());
        }
        // Without force, and only this device: one that was opened or recovered meanwhile stays.
        let which = Which::named(&item.disk).with_handle(item.handle);
        if !unserved(&control.status(&item.disk)?) {
            return Err(used());
        }
        return control.destroy(which, false).map_err(Into::into);
    }
    let path = PathBuf::from(&item.path);
    if !is_left(control, places, &item.disk, &path) {
        return Err(used());
    }
    fs::remove_file(&path).context(format_args!("delete {}", path.display()))
}

/// The table, in at most `width` columns if that is possible.
fn text(garbage: &[Garbage], width: Option<usize>) -> String {
    let headings = [
        ("PATH", Align::Long),
        ("WHY", Align::Long),
        ("REMOVED", Align::Left),
        ("KEPT-BECAUSE", Align::Long),
    ];
    let mut table = Table::new(headings.to_vec(), true);
    for item in garbage {
        let removed = if item.removed { "yes" } else { "no" };
        let kept = item.kept.clone().unwrap_or_default();
        table.row(vec![item.path.clone(), item.why.clone(), removed.to_owned(), kept]);
    }
    if garbage.is_empty() { String::new() } else { table.text(width) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use zosbd2::v2::abi;

    pub(crate) fn garbage() -> Garbage {
        Garbage {
            kind: "device",
            disk: "a".to_owned(),
            path: "/dev/zosbd2-a".to_owned(),
            why: "failed, not configured, and not in use".to_owned(),
            removed: false,
            kept: Some("it came into use meanwhile".to_owned()),
            handle: 7,
        }
    }

    #[test]
    fn what_is_served_or_used_is_no_garbage() {
        let status = |state, opens| Status::from(&abi::Status { state, opens, ..abi::Status::default() });
        let nobody = Users::default();
        assert!(unused(&status(abi::STATE_FAILED, 0), &nobody));
        assert!(unused(&status(abi::STATE_ORPHANED, 0), &nobody));
        assert!(!unused(&status(abi::STATE_FAILED, 1), &nobody));
        for state in [abi::STATE_CREATED, abi::STATE_LIVE, abi::STATE_DESTROYED, 99] {
            assert!(!unused(&status(state, 0), &nobody), "{state}");
        }
        let mut users = Users::default();
        users.mounts.push("/mnt".into());
        assert!(!unused(&status(abi::STATE_FAILED, 0), &users));
    }

    #[test]
    fn the_table_says_what_was_kept() {
        let text = text(&[garbage()], None);
        assert!(
            text.contains("/dev/zosbd2-a  failed, not configured, and not in use  no       it came"),
            "{text}"
        );
    }
}
