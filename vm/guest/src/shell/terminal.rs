// SPDX-License-Identifier: MIT OR Apache-2.0
//! The session's terminal: the third serial port. The host passes its bytes to and from the person's terminal.

use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;
use rustix::termios::{
    LocalModes, OptionalActions, OutputModes, Winsize, tcgetattr, tcgetpgrp, tcsetattr, tcsetpgrp,
    tcsetwinsize,
};
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::fd::OwnedFd;
use zosbd2_vm_guest::session::Size;

const TERMINAL: &str = "/dev/ttyS2";
/// The port of the protocol, on which the host sends the size of its terminal.
const PORT: &str = "/dev/ttyS1";

fn open(path: &str) -> OwnedFd {
    rustix::fs::open(path, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
        .unwrap_or_else(|error| panic!("open {path}: {error}"))
}

/// Gives the terminal the size that the host tells, now and whenever it changes.
pub(crate) fn follow_size() {
    let port = open(PORT);
    let mut modes = tcgetattr(&port).unwrap_or_else(|error| panic!("{PORT}: {error}"));
    modes.local_modes -= LocalModes::ECHO;
    tcsetattr(&port, OptionalActions::Now, &modes).unwrap_or_else(|error| panic!("{PORT}: {error}"));
    let terminal = open(TERMINAL);
    std::thread::spawn(move || {
        for line in BufReader::new(File::from(port)).lines().map_while(Result::ok) {
            if let Some(Size { rows, columns }) = Size::parse(&line) {
                let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
                let _ = tcsetwinsize(&terminal, size);
            }
        }
    });
}

/// Makes the terminal the controlling one of process 1, and of all that it starts. Process 1 never ends, so no process
/// gets a SIGHUP when the shell ends: a server that was left in the background would die of it. If nobody types, what a
/// command prints reaches the host unchanged. The last close would reset the terminal's modes.
pub(crate) fn own(typed: bool) -> rustix::io::Result<File> {
    rustix::process::setsid()?;
    let terminal = File::from(open(TERMINAL));
    rustix::process::ioctl_tiocsctty(&terminal)?;
    if !typed {
        let mut modes = tcgetattr(&terminal)?;
        modes.output_modes -= OutputModes::OPOST;
        modes.local_modes -= LocalModes::ECHO;
        tcsetattr(&terminal, OptionalActions::Now, &modes)?;
    }
    Ok(terminal)
}

/// Gives the terminal to the process group of this process.
pub(crate) fn give(terminal: &File, to: Pid) -> rustix::io::Result<()> {
    tcsetpgrp(terminal, to)
}

/// Waits until this process has been given the terminal that is its standard input.
pub(crate) fn wait_for() {
    let own = rustix::process::getpgrp();
    while tcgetpgrp(std::io::stdin()).is_ok_and(|group| group != own) {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
