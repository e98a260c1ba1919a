// SPDX-License-Identifier: MIT OR Apache-2.0
//! `zosbd2 serve NAME`: what units and background processes run. It prints the node when it serves.

use crate::config::Disk;
use crate::failure::Result;
use crate::launch::process;
use crate::node;
use crate::places::Places;
use crate::server::{self, How};
use std::io::Write as _;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The disk
    #[arg(value_parser = crate::units::name)]
    name: String,
    /// Its configuration, where it is in neither /run/zosbd2 nor /etc/zosbd2
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Take over from the live server
    #[arg(long)]
    take_over: bool,
    /// Start a server that takes over, in the background, and end when it serves
    #[arg(long, conflicts_with_all = ["take_over", "config"])]
    replace: bool,
    /// Leave the session of the terminal
    #[arg(long)]
    detach: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let (places, name) = (Places::system(), &arguments.name);
    let disk = match &arguments.config {
        Some(path) => Disk::read(path)?,
        None => Disk::find(&places, name)?,
    };
    if arguments.replace {
        // Within the unit, the new server is one more process of it.
        return process::replace(name);
    }
    if arguments.detach {
        let _ = rustix::process::setsid();
    }
    let how = if arguments.take_over { How::TakeOver } else { How::Follow };
    node::announce(&places.udev(name), &disk)?;
    let served = server::serve(name, &disk, how, |node| {
        let mut stdout = std::io::stdout();
        // Whoever waited for it may be gone.
        let _ = writeln!(stdout, "{}", node.display()).and_then(|()| stdout.flush());
    });
    if !Path::new("/sys/class/block").join(format!("zosbd2-{name}")).exists() {
        let _ = std::fs::remove_file(places.udev(name));
    }
    served
}
