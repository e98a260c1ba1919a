// SPDX-License-Identifier: MIT OR Apache-2.0
//! `zosbd2 remove NAME...`: removes disks. Without force, only what nobody uses, and only after everything is written.

use crate::control;
use crate::failure::{Code, Context as _, Failure, Result};
use crate::launch::{Launcher, systemd};
use crate::memory;
use crate::places::Places;
use crate::progress;
use std::fs;
use std::path::Path;
use std::time::Duration;
use zosbd2::{Control, Errno, Error, State, Status, Which};

/// Time between two looks at a disk in use.
const PERIOD: Duration = Duration::from_millis(200);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    disks: super::Disks,
    /// Remove a disk that is in use, too; what is not written is lost
    #[arg(long)]
    force: bool,
    /// Wait until nobody uses the disk
    #[arg(long, conflicts_with = "force")]
    wait: bool,
    /// Delete the configuration of a persistent disk, too, so that it does not come back at boot
    #[arg(long)]
    forget: bool,
}

pub(crate) fn run(arguments: &Arguments, node: Option<&Path>) -> Result<()> {
    let (control, places) = (control::open(node)?, Places::system());
    let all = || {
        let mut names: Vec<String> = control.list()?.into_iter().map(|listed| listed.name).collect();
        names.extend(places.names());
        names.sort();
        names.dedup();
        Ok(names)
    };
    arguments.disks.each(all, |name| remove(&control, &places, name, arguments))
}

fn remove(control: &Control, places: &Places, name: &str, arguments: &Arguments) -> Result<()> {
    let launcher = Launcher::here();
    let configured = places.configuration(name).is_some();
    match control::status(control, name) {
        Ok(status) => {
            if configured && matches!(status.state, State::Orphaned | State::Failed) {
                // Nothing may start its server now.
                launcher.forget(places, name)?;
            }
            destroy(control, &status, arguments)?;
            if configured {
                // A server that had died could not do it. With systemd, the end of the unit does.
                memory::forget(name);
            }
        }
        Err(failure) if failure.code == Code::Missing && configured => {}
        Err(failure) => return Err(failure),
    }
    if configured {
        launcher.forget(places, name)?;
    }
    delete(&places.run_file(name))?;
    let persistent = places.persistent_file(name);
    if persistent.exists() && arguments.forget {
        delete(&persistent)?;
        if launcher == Launcher::Systemd {
            systemd::read_again()?;
        }
    } else if persistent.exists() {
        eprintln!(
            "disk {name} comes back at boot, because {} describes it; `zosbd2 remove --forget {name}` deletes the file",
            persistent.display()
        );
    }
    Ok(())
}

/// Destroys the device, this one and no other that gets its name meanwhile.
fn destroy(control: &Control, status: &Status, arguments: &Arguments) -> Result<()> {
    let name = &status.name;
    let which = Which::named(name).with_handle(status.handle);
    let users = || control.observe(which).and_then(|observer| observer.users()).unwrap_or_default();
    loop {
        if arguments.force {
            let users = users();
            if !users.is_empty() {
                eprintln!("disk {name} is in use ({users}): what is not written now is lost");
            }
        } else if matches!(status.state, State::Failed | State::Orphaned) && status.opens > 0 {
            return Err(Failure::new(
                Code::InUse,
                format!(
                    "remove disk {name}: it has no server and is in use ({}): `zosbd2 recover {name}` starts a server, \
                     `zosbd2 remove --force {name}` gives up what is not written",
                    users()
                ),
            ));
        }
        let destroyed = progress::writing_out(status, || control.destroy(which, arguments.force));
        match destroyed {
            // Somebody else was faster.
            Ok(()) | Err(Error::Control { source: Errno::NODEV | Errno::NOENT | Errno::STALE, .. }) => {
                return Ok(());
            }
            Err(Error::Control { source: Errno::BUSY, .. }) if arguments.wait => std::thread::sleep(PERIOD),
            Err(Error::Control { source: Errno::BUSY, .. }) => {
                return Err(Failure::new(
                    Code::InUse,
                    format!(
                        "remove disk {name}: it is in use ({}): end that first, or wait for it with --wait",
                        users()
                    ),
                ));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn delete(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context(format_args!("delete {}", path.display()))
        }
        _ => Ok(()),
    }
}
