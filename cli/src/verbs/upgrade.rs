// SPDX-License-Identifier: MIT OR Apache-2.0
//! `zosbd2 upgrade NAME...`: a new server process takes over while I/O runs; the old one ends.

use crate::config::Disk;
use crate::control;
use crate::failure::{Failure, Result};
use crate::launch::Launcher;
use crate::places::Places;
use crate::server::How;
use std::path::Path;
use zosbd2::State;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    disks: super::Disks,
}

pub(crate) fn run(arguments: &Arguments, node: Option<&Path>) -> Result<()> {
    let (control, places) = (control::open(node)?, Places::system());
    let live = |name: &String| control.status(name).is_ok_and(|status| status.state == State::Live);
    let wanted = || Ok(places.names().into_iter().filter(live).collect());
    arguments.disks.each(wanted, |name| {
        let before = control::status(&control, name)?;
        if before.state != State::Live {
            return Err(Failure::failed(format!(
                "upgrade disk {name}: it has no server; `zosbd2 recover {name}` starts one"
            )));
        }
        Disk::find(&places, name)?;
        Launcher::here().start(&places, name, How::TakeOver)?;
        let after = control::status(&control, name)?;
        if after.epoch == before.epoch {
            return Err(Failure::failed(format!("upgrade disk {name}: its server is still the old one")));
        }
        Ok(())
    })
}
