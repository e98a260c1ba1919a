// SPDX-License-Identifier: MIT OR Apache-2.0
//! `zosbd2 recover NAME...`: a new server for disks that have none, or that are configured and do not exist.

use crate::config::Disk;
use crate::control;
use crate::failure::{Failure, Result};
use crate::launch::Launcher;
use crate::node;
use crate::places::Places;
use crate::server::How;
use std::path::Path;
use zosbd2::{Control, State};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    disks: super::Disks,
}

pub(crate) fn run(arguments: &Arguments, node: Option<&Path>) -> Result<()> {
    let (control, places) = (control::open(node)?, Places::system());
    let wanted = || {
        let configured = places.names().into_iter();
        Ok(configured.filter(|name| needs_server(&control, name)).collect())
    };
    arguments.disks.each(wanted, |name| {
        if !needs_server(&control, name) {
            let status = control::status(&control, name)?;
            let server = status
                .process
                .map_or_else(String::new, |pid| format!(": process {pid} ({})", status.program));
            return Err(Failure::failed(format!(
                "recover disk {name}: it has a server{server}; `zosbd2 upgrade {name}` replaces it"
            )));
        }
        recover(&control, &places, name)
    })
}

/// Whether no server serves the disk.
fn needs_server(control: &Control, name: &str) -> bool {
    control.status(name).map_or(true, |status| matches!(status.state, State::Orphaned | State::Failed))
}

fn recover(control: &Control, places: &Places, name: &str) -> Result<()> {
    if places.configuration(name).is_none() && control.status(name).is_ok() {
        return Err(Failure::failed(format!(
            "recover disk {name}: it was not made by `zosbd2 add`; start the program again that served it, or \
             `zosbd2 remove {name}`"
        )));
    }
    if places.configuration(name).is_none() {
        return Err(Failure::missing(name));
    }
    Disk::find(places, name)?;
    Launcher::here().start(places, name, How::Follow)?;
    let path = control::status(control, name)?.path();
    node::wait(&path)?;
    println!("{}", path.display());
    Ok(())
}
