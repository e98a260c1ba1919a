// SPDX-License-Identifier: MIT OR Apache-2.0
//! The backend `exec`: a program of anybody's serves the disk. This process starts it, and starts it again after its death.
//!
//! The program finds the name of its device in `ZOSBD2_NAME`, creates the device, or attaches to it by its name. Nobody
//! but the program holds the server descriptor, so its death is the death of the server.

use crate::config::Disk;
use crate::failure::{Context as _, Failure, Result};
use crate::node;
use crate::notice;
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};
use zosbd2::{Control, State};

/// Time between two looks at the device while the program starts.
const PERIOD: Duration = Duration::from_millis(20);
/// A program that lives for this long has started well.
const WELL: Duration = Duration::from_secs(10);
/// Shortest and longest pause before the program is started again.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

/// Runs the program until the device is gone, or until a signal asks for the end. Calls `ready` when the device is served.
pub(super) fn run(name: &str, disk: &Disk, control: &Control, ready: impl FnOnce(&Path)) -> Result<()> {
    let mut signals = Signals::new([SIGCHLD, SIGINT, SIGTERM]).context("catch signals")?;
    let mut ready = Some(ready);
    let mut pause = PAUSES[0];
    loop {
        let started = Instant::now();
        let mut child = start(name, disk)?;
        let ended = loop {
            if let Some(status) = child.try_wait().context("wait for the program")? {
                break status;
            }
            if ready.is_some() {
                if let Some(path) = served(control, name) {
                    node::prepare(&path, disk);
                    notice::ready(&format!("serving {}", path.display()));
                    ready.take().into_iter().for_each(|ready| ready(&path));
                    continue;
                }
                std::thread::sleep(PERIOD);
                for signal in signals.pending() {
                    pass_on(&child, signal);
                }
            } else {
                for signal in signals.wait() {
                    pass_on(&child, signal);
                }
            }
        };
        let gone = control.status(name).is_err();
        if ended.success() && gone {
            return Ok(());
        }
        let what = said(disk, ended);
        if ready.is_some() {
            return Err(Failure::failed(format!("{what} before it served disk {name}")));
        }
        if ended.success() {
            // It left the device on purpose, such as to a successor.
            return Err(Failure::failed(format!("{what} and left disk {name} without a server")));
        }
        pause = if started.elapsed() > WELL { PAUSES[0] } else { (pause * 2).min(PAUSES[1]) };
        tracing::warn!("{what}: it is started again in {pause:?}");
        notice::status(&format!("{what}: it is started again"));
        std::thread::sleep(pause);
    }
}

fn start(name: &str, disk: &Disk) -> Result<Child> {
    let [program, arguments @ ..] = disk.command.as_slice() else {
        return Err(Failure::usage(format!("disk {name} has no command")));
    };
    // It notifies nobody: this process does.
    let mut command = Command::new(program);
    command.args(arguments).env("ZOSBD2_NAME", name).env_remove("NOTIFY_SOCKET");
    command.spawn().context(format_args!("start {program} for disk {name}"))
}

/// The node of the device, if a server has it.
fn served(control: &Control, name: &str) -> Option<std::path::PathBuf> {
    let status = control.status(name).ok()?;
    (status.state == State::Live && status.process.is_some()).then(|| status.path())
}

fn pass_on(child: &Child, signal: i32) {
    let pid = rustix::process::Pid::from_child(child);
    let signal = match signal {
        SIGTERM => rustix::process::Signal::TERM,
        SIGINT => rustix::process::Signal::INT,
        _ => return,
    };
    let _ = rustix::process::kill_process(pid, signal);
}

fn said(disk: &Disk, ended: ExitStatus) -> String {
    format!("the program {} ended ({ended})", disk.command.first().map_or("", String::as_str))
}
