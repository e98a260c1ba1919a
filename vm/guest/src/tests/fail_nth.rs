// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every call, with each operation in it that can fail made to fail, one after the other (`guest/fail_nth.rs`).
//! The call succeeds or fails with a documented error, leaves nothing behind, and succeeds the next time.

mod control;
mod enter;
mod load;
mod submit;
mod v1;

use std::fs::File;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use zosbd2::Builder;
use zosbd2::v2::abi;

use super::v2::support::{Disk, control};
use crate::guest::raw::{self, PAGE, Pages, Plain};
use crate::guest::{Context, FailNth, Need, Round, Test};

/// All these tests need the debug kernel, and time for thousands of rounds.
const fn test(name: &'static str, function: fn(&mut Context)) -> Test {
    Test::new(name, function).needs(&[Need::Module, Need::DebugKernel]).timeout(120)
}

pub(super) const TABLES: &[&[Test]] = &[load::TESTS, control::TESTS, enter::TESTS, submit::TESTS, v1::TESTS];

const MIB: u64 = 1 << 20;

/// Errors that a failing allocation or memory access may cause.
const ERRORS: &[Errno] = &[Errno::NOMEM, Errno::FAULT];

/// `kobject_add_internal failed for NAME (error: -12 parent: NAME)`: the kernel's message for each entry of a
/// disk, a slab or a module for which sysfs had no memory. The same message with another error is not expected.
const OUT_OF_MEMORY: &[&str] = &["(error: -12 parent: "];

fn builder(name: &str) -> Builder {
    Builder::new(name).size_bytes(4 * MIB).partition_scan(false).depth(32)
}

fn started(name: &str) -> Disk {
    let disk = Disk::create(&builder(name));
    disk.server.start().expect("start");
    disk
}

fn control_node() -> File {
    File::open(zosbd2_abi::CONTROL_PATH).expect("open the control node")
}

fn name(text: &str) -> [u8; abi::NAME_BYTES] {
    let mut name = [0; abi::NAME_BYTES];
    name[..text.len()].copy_from_slice(text.as_bytes());
    name
}

/// Runs the rounds and prints their number.
fn each(context: &Context, faults: &FailNth, what: &str, round: impl FnMut(&mut Round<'_>)) {
    let places = faults.each(what, round);
    assert!(places > 0, "{what}: nothing in it can fail");
    context.say(&format!("{what}: {places} places"));
}

/// The round's call, with an argument in its own memory.
#[track_caller]
fn call<T: Plain>(
    round: &mut Round<'_>,
    fd: BorrowedFd<'_>,
    command: u32,
    argument: &T,
) -> (Result<i32, Errno>, T) {
    call_for(round, fd, command, argument, ERRORS)
}

/// Like [`call`], with other errors.
#[track_caller]
fn call_for<T: Plain>(
    round: &mut Round<'_>,
    fd: BorrowedFd<'_>,
    command: u32,
    argument: &T,
    errors: &[Errno],
) -> (Result<i32, Errno>, T) {
    let pages = Pages::new(PAGE);
    let at = pages.at_end(size_of::<T>());
    pages.put_value(at, argument);
    let result = round.call(|| raw::ioctl(fd, command, at));
    round.check(&result, errors);
    (result, pages.get_value(at))
}

/// Number of open descriptors of this process.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("proc is mounted").count()
}

/// Names of all devices.
fn devices() -> Vec<String> {
    control().list().expect("list").into_iter().map(|listed| listed.name).collect()
}
