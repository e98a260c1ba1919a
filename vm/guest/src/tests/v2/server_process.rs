// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which process STATUS names as the server.

use std::io;
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use zosbd2::{Server, TakeOver};

use super::support::{Disk, Manual, attach, by_hand, control, plain};
use super::voice::own_process;
use crate::guest::{Context, Need, Test, wait_until};

pub(super) const TESTS: &[Test] =
    &[Test::new("v2_status_names_the_newest_server", newest).needs(&[Need::Module]).timeout(120)];

const NAME: &str = "named";

/// The role `--enter-until-superseded`: calls ENTER without a pause on the server descriptor at standard input.
pub(crate) fn enter_until_superseded() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::from_fd(io::stdin().as_fd().try_clone_to_owned()?)?;
    let mut server = Manual::new(&Disk { server: Arc::new(server), name: NAME.to_owned() });
    loop {
        match server.try_fetch(0, 1, 0, 0).1.error {
            None => {}
            Some(Errno::SHUTDOWN) => return Ok(()),
            Some(error) => return Err(error.into()),
        }
    }
}

/// Starts a process that calls ENTER on this server's descriptor.
fn caller(disk: &Disk) -> Child {
    let copy = disk.server.as_fd().try_clone_to_owned().expect("duplicate");
    Command::new("/proc/self/exe")
        .arg("--enter-until-superseded")
        .stdin(Stdio::from(copy))
        .spawn()
        .expect("spawn")
}

/// Two processes serve, so that each call records another process than the one before, while a third process takes the
/// device over again and again. A call of the older server that is under way then does not count.
fn newest(context: &mut Context) {
    context.load_module("");
    let named = || control().status(NAME).expect("status").process;
    let (mut disk, _) = by_hand(&plain(NAME).grace(Duration::from_secs(60)));
    for round in 0..25 {
        let mut callers = [caller(&disk), caller(&disk)];
        for child in &callers {
            wait_until(20, "each process to call", || named() == Some(child.id()));
        }
        let (next, _) = attach(NAME, TakeOver::Yes);
        for child in &mut callers {
            assert!(child.wait().expect("wait").success());
        }
        assert_eq!(named(), Some(own_process()), "round {round}");
        disk = next;
    }
    disk.destroy(true);
}
