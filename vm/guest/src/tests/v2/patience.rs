// SPDX-License-Identifier: MIT OR Apache-2.0
//! A forced destroy waits for a server that is alive and has fetched, and for no other server.
//!
//! The tests compare the order of events, not times. Beside the device of each test another device is
//! destroyed first, whose living server owes an answer. When the device of the test is gone, the destroy of
//! the other one must still be waiting.

use std::path::Path;
use std::thread::JoinHandle;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use zosbd2::{Fetched, State, TakeOver};
use zosbd2_abi::v1::OP_ANSWER_WRITE;

use super::super::support::{
    Disk as Disk1, Manual as Manual1, open_direct, read_in_thread, spawn_server, write_in_thread,
};
use super::support::{Disk, Manual, attach, control, plain, plain_by_hand};
use crate::guest::{Context, Need, Test, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_destroy_waits_for_no_server_that_never_came", never_came)
        .needs(&[Need::Module])
        .timeout(60),
    Test::new("v2_destroy_waits_for_no_successor_that_never_came", successor_never_came)
        .needs(&[Need::Module])
        .timeout(60),
    Test::new("destroy_waits_for_the_process_of_a_server", handed_on_1).needs(&[Need::Module]).timeout(60),
    Test::new("destroy_waits_for_no_server_that_never_came", never_came_1).needs(&[Need::Module]).timeout(60),
    Test::new("destroy_waits_for_no_dead_server", dead_1).needs(&[Need::Module]).timeout(90),
    Test::new("destroy_waits_for_a_server_until_it_dies", dies_1).needs(&[Need::Module]).timeout(90),
];

/// A device that is being destroyed while its living server owes an answer.
struct Yardstick {
    disk: Disk,
    server: Manual,
    request: Fetched,
    destroyer: JoinHandle<zosbd2::Result<()>>,
    reader: JoinHandle<Result<Vec<u8>, Errno>>,
}

impl Yardstick {
    fn begin() -> Self {
        let (disk, mut server) = plain_by_hand("yardstick");
        let reader = read_in_thread(disk.path(), 0, 4096);
        let request = server.fetch_one();
        let destroyer = std::thread::spawn({
            let disk = disk.clone();
            move || control().destroy(&*disk.server, true)
        });
        wait_until(20, "the destruction to begin", || {
            disk.server.status().expect("status").state == State::Destroyed
        });
        Self { disk, server, request, destroyer, reader }
    }

    /// The destroy is still waiting. Answers, and checks that it waited for the answer.
    fn end(mut self) {
        assert!(
            !self.reader.is_finished(),
            "a server that has a request was not waited for, or the other one was"
        );
        self.server.complete(&self.request);
        // Soon the kernel sets the size to 0, and then a read that was answered fails, too.
        let read = self.reader.join().expect("reader");
        assert!(matches!(read, Ok(_) | Err(Errno::IO)), "{:?}", read.err());
        self.destroyer.join().expect("destroyer").expect("destroy");
        drop(self.disk);
    }
}

/// The destroy fails an unanswered read, and ends while a destroy of a device with a living server still waits.
fn destroys_at_once(destroy: impl FnOnce(), read: JoinHandle<Result<Vec<u8>, Errno>>) {
    let yardstick = Yardstick::begin();
    destroy();
    assert_eq!(read.join().expect("reader"), Err(Errno::IO));
    yardstick.end();
}

/// The descriptor is open, but no thread ever used it.
fn never_came(context: &mut Context) {
    context.load_module("");
    let disk = Disk::create(&plain("never"));
    disk.server.start().expect("start");
    let read = read_in_thread(disk.path(), 0, 4096);
    wait_until(20, "the request", || disk.server.stats(0).expect("stats").queued == 1);
    destroys_at_once(|| disk.destroy(true), read);
}

/// The first server served, and the second one, which took the device over, never did.
fn successor_never_came(context: &mut Context) {
    context.load_module("");
    let (disk, mut first) = plain_by_hand("never");
    let read = read_in_thread(disk.path(), 0, 4096);
    let request = first.fetch_one();
    first.complete(&request);
    assert!(read.join().expect("reader").is_ok());
    let (second, _idle) = attach("never", TakeOver::Yes);
    let read = read_in_thread(disk.path(), 0, 4096);
    wait_until(20, "the request", || second.server.stats(0).expect("stats").queued == 1);
    destroys_at_once(|| second.destroy(true), read);
}

/// The thread that fetched a request of version 1 hands it to another thread of its process, and exits.
fn handed_on_1(context: &mut Context) {
    context.load_module("");
    let disk = Disk1::create("handed", 1024);
    let write = write_in_thread(disk.path(), 0, 3, 4096);
    let fetched = std::thread::spawn({
        let mut server = Manual1::new(&disk);
        move || {
            let (_, id) = server.fetch();
            (server, id)
        }
    });
    let (mut server, id) = fetched.join().expect("the thread that fetched");
    let observer = control().observe("handed").expect("observe");
    let destroyer = std::thread::spawn(move || disk.destroy());
    wait_until(20, "the destruction to begin", || {
        observer.status().expect("status").state == State::Destroyed
    });
    let yardstick = Yardstick::begin();
    assert!(!write.is_finished(), "the process that has the request is waited for");
    yardstick.end();
    let _the_device_may_be_gone = server.answer(OP_ANSWER_WRITE, id, 0);
    assert_eq!(write.join().expect("writer"), Ok(4096));
    destroyer.join().expect("destroyer");
}

/// The servers of version 1 are unknown, but the module knows whether a thread ever called.
fn never_came_1(context: &mut Context) {
    context.load_module("");
    let disk = Disk1::create("never", 1024);
    let read = read_in_thread(disk.path(), 0, 4096);
    wait_until(20, "the request", || outstanding("never") == 1);
    destroys_at_once(|| disk.destroy(), read);
}

/// The threads that called are gone.
fn dead_1(context: &mut Context) {
    context.load_module("");
    let disk = Disk1::create("dead", 1024);
    let mut server = spawn_server("dead", 2, Path::new("/tmp/dead"));
    assert_eq!(read_in_thread(disk.path(), 0, 4096).join().expect("reader"), Ok(vec![0; 4096]));
    server.kill().expect("kill the server");
    assert!(!server.wait().expect("wait for the server").success());
    // Open, like the disk of a mounted file system.
    let open = open_direct(&disk.path());
    let read = read_in_thread(disk.path(), 8192, 4096);
    wait_until(20, "the request", || outstanding("dead") == 1);
    destroys_at_once(|| disk.destroy(), read);
    drop(open);
}

/// A destroy waits for a stopped server, but not after its death.
fn dies_1(context: &mut Context) {
    context.load_module("");
    let disk = Disk1::create("dies", 1024);
    let mut server = spawn_server("dies", 1, Path::new("/tmp/dies"));
    assert_eq!(read_in_thread(disk.path(), 0, 4096).join().expect("reader"), Ok(vec![0; 4096]));
    let pid = Pid::from_child(&server);
    kill_process(pid, Signal::STOP).expect("stop the server");
    let read = read_in_thread(disk.path(), 8192, 4096);
    wait_until(20, "the request", || outstanding("dies") == 1);
    let observer = control().observe("dies").expect("observe");
    let destroyer = std::thread::spawn(move || disk.destroy());
    wait_until(20, "the destruction to begin", || {
        observer.status().expect("status").state == State::Destroyed
    });
    let yardstick = Yardstick::begin();
    assert!(!read.is_finished(), "a server that is alive is waited for");
    server.kill().expect("kill the server");
    server.wait().expect("wait for the server");
    destroyer.join().expect("destroyer");
    assert_eq!(read.join().expect("reader"), Err(Errno::IO));
    yardstick.end();
}

/// Number of unanswered requests of a device.
fn outstanding(name: &str) -> u32 {
    let stats = control().observe(name).expect("observe").stats(0).expect("stats");
    stats.queued + stats.held
}
