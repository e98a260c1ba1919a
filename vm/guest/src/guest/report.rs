// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sends lines to the host through the second serial port.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use zosbd2_vm_guest::protocol::Line;

const PORT: &str = "/dev/ttyS1";

/// Sends one line. Panics if the port refuses it, because no result would reach the host.
pub(crate) fn send(line: &Line) {
    let no_controlling_terminal = i32::try_from(rustix::fs::OFlags::NOCTTY.bits()).expect("a small flag");
    let mut port = OpenOptions::new()
        .write(true)
        .custom_flags(no_controlling_terminal)
        .open(PORT)
        .unwrap_or_else(|error| panic!("open {PORT}: {error}"));
    // One write per line, so that lines of several processes do not mix.
    let text = format!("{line}\n");
    port.write_all(text.as_bytes()).unwrap_or_else(|error| panic!("write {PORT}: {error}"));
}
