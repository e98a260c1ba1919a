// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests that nobody serves: a descriptor without a thread, a fork that outlives its server, a queue without its thread.

use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use zosbd2::events::Kind;
use zosbd2::v2::abi;
use zosbd2::{State, Status, TakeOver};

use super::super::support::read_in_thread;
use super::support::{Manual, attach, by_hand, control, plain, processors_of};
use super::voice::{Ears, MINUTE, own_process};
use crate::guest::{Context, Need, Spawned, Test, processor, sys, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_voice_descriptor_without_a_thread", unserved).needs(&[Need::Module]).timeout(90),
    Test::new("v2_voice_fork_outlives_the_server", forked).needs(&[Need::Module]).timeout(90),
    Test::new("v2_voice_fork_outlives_the_server_that_holds_a_request", forked_holding)
        .needs(&[Need::Module])
        .timeout(90),
    Test::new("v2_voice_queue_without_its_thread", lane).needs(&[Need::Module]).timeout(90),
];

/// A process that does not serve keeps the descriptor of a server that has gone, as a fork would.
fn unserved(context: &mut Context) {
    context.load_module("");
    let mut ears = Ears::new();
    let (disk, server) = by_hand(&plain("kept").grace(MINUTE));
    let path = disk.path();
    let copy = disk.server.as_fd().try_clone_to_owned().expect("duplicate");
    let mut keeper =
        Command::new("/proc/self/exe").arg("--keep").stdin(Stdio::from(copy)).spawn().expect("spawn");
    drop((disk, server));
    ears.silent(Duration::from_secs(7));
    let begin = Instant::now();
    let read = read_in_thread(path, 0, 4096);
    ears.hear(Kind::Unserved, "kept");
    assert!(begin.elapsed() < Duration::from_secs(10), "told after {:?}", begin.elapsed());
    ears.read(&["zosbd2-kept: 1 requests wait, and no thread of server 1"]);
    let status = control().status("kept").expect("status");
    assert_eq!((status.state, status.servers, status.threads), (State::Live, 1, 0));
    assert!(status.unserved.expect("unserved") >= Duration::from_secs(5), "{status:?}");
    // Once.
    ears.silent(Duration::from_secs(7));
    keeper.kill().expect("kill");
    keeper.wait().expect("wait");
    ears.hear(Kind::Died, "kept");
    let (disk, mut server) = attach("kept", TakeOver::No);
    ears.hear(Kind::Recovered, "kept");
    let request = server.fetch_one();
    server.complete(&request);
    assert_eq!(read.join().expect("reader"), Ok(vec![0; 4096]));
    assert_eq!(control().status("kept").expect("status").unserved, None);
    // A thread that waits, and one that calls now and then, serve.
    let status = std::thread::scope(|scope| {
        scope.spawn(|| Manual::new(&disk).try_fetch(0, 1, 1, 2000));
        let mut status = control().status("kept").expect("status");
        wait_until(2, "the thread to wait", || {
            status = control().status("kept").expect("status");
            status.threads == 1
        });
        status
    });
    assert_eq!((status.threads, status.process), (1, Some(own_process())));
    disk.destroy(true);
}

const FORKED: &str = "forked";
/// The server answers no request of this place.
const KEPT: u64 = 1 << 20;

/// The role `--serve-and-fork`: serves with the plain calls, and forks a child that outlives it. The library protects its own
/// descriptor, so the child gets a duplicate. Does not answer the request at [`KEPT`], with which the only thread that serves ends:
/// the process may answer it from another thread.
pub(crate) fn serve_and_fork() -> Result<(), Box<dyn std::error::Error>> {
    let (_disk, mut server) = by_hand(&plain(FORKED).grace(MINUTE));
    let _duplicate = server.server.as_fd().try_clone_to_owned()?;
    println!("child: {}", sys::fork_sleeper());
    let serving = std::thread::spawn(move || {
        loop {
            let request = server.fetch_one();
            if request.offset() == KEPT {
                return;
            }
            server.complete(&request);
        }
    });
    serving.join().map_err(|_| "the serving thread failed")?;
    loop {
        std::thread::park();
    }
}

/// Starts such a server. Returns it and its child.
fn spawn(context: &Context) -> (Spawned, Pid) {
    let mut parent = context.spawn("/proc/self/exe", &["--serve-and-fork"]);
    let mut child = None;
    wait_until(60, "the server to fork", || {
        assert!(parent.running(), "the server ended: {}", parent.stderr());
        let said = parent.stdout();
        child = said.lines().find_map(|line| line.strip_prefix("child: ")?.parse().ok());
        child.is_some()
    });
    let path = control().status(FORKED).expect("status").path();
    read_in_thread(path, 0, 4096).join().expect("reader").expect("the parent serves");
    (parent, Pid::from_raw(child.expect("its number")).expect("a process"))
}

/// The server, which ended at `begin`, is found missing. Returns the status.
fn missed(ears: &mut Ears, begin: Instant) -> Status {
    assert_eq!(ears.hear(Kind::Unserved, FORKED).epoch, 1);
    assert!(begin.elapsed() < Duration::from_secs(10), "told after {:?}", begin.elapsed());
    ears.read(&["zosbd2-forked: 1 requests wait, and no thread of server 1"]);
    let status = control().status(FORKED).expect("status");
    assert_eq!((status.state, status.process, status.threads), (State::Live, None, 0));
    assert!(status.unserved.expect("unserved") >= Duration::from_secs(5), "{status:?}");
    status
}

/// A server forks, and is killed: its child has the descriptor and does not serve.
fn forked(context: &mut Context) {
    context.load_module("");
    let mut ears = Ears::new();
    let (mut parent, child) = spawn(context);
    let path = control().status(FORKED).expect("status").path();
    parent.signal(Signal::KILL);
    parent.wait(20);
    let begin = Instant::now();
    let read = read_in_thread(path, 4096, 4096);
    missed(&mut ears, begin);
    // The library names who has the descriptor, and since when nobody serves.
    let said = control().attach(FORKED, TakeOver::No).expect_err("it has a server").to_string();
    assert!(said.contains(&format!("(it has a server: process {} (", child.as_raw_pid())), "{said}");
    assert!(said.contains("s ago its last thread asked for requests, and some wait"), "{said}");
    kill_process(child, Signal::KILL).expect("kill");
    ears.hear(Kind::Died, FORKED);
    let (disk, mut server) = attach(FORKED, TakeOver::No);
    ears.hear(Kind::Recovered, FORKED);
    let request = server.fetch_one();
    server.complete(&request);
    assert_eq!(read.join().expect("reader"), Ok(vec![0; 4096]));
    disk.destroy(true);
}

/// The same, while the server has the only request. As long as the server lives, it may just be slow.
fn forked_holding(context: &mut Context) {
    context.load_module("");
    let mut ears = Ears::new();
    let (mut parent, child) = spawn(context);
    let path = control().status(FORKED).expect("status").path();
    let read = read_in_thread(path, KEPT, 4096);
    let observer = control().observe(FORKED).expect("observe");
    let outstanding = || {
        let stats = observer.stats(0).expect("stats");
        (stats.queued, stats.held)
    };
    wait_until(20, "the server to fetch the request", || outstanding() == (0, 1));
    ears.silent(Duration::from_secs(9));
    assert_eq!(observer.status().expect("status").unserved, None);
    parent.signal(Signal::KILL);
    // Nobody waits for the process yet: it is a zombie, which has ended, too.
    missed(&mut ears, Instant::now());
    assert_eq!(outstanding(), (0, 1));
    // Once.
    ears.silent(Duration::from_secs(7));
    parent.wait(20);
    kill_process(child, Signal::KILL).expect("kill");
    ears.hear(Kind::Died, FORKED);
    ears.read(&["zosbd2-forked: server 1 (process", "has died with 1 requests"]);
    let (disk, mut server) = attach(FORKED, TakeOver::No);
    ears.hear(Kind::Recovered, FORKED);
    let request = server.fetch_one();
    assert_eq!(
        (request.offset(), request.flags() & abi::REQUEST_MAYBE_EXECUTED),
        (KEPT, abi::REQUEST_MAYBE_EXECUTED)
    );
    server.complete(&request);
    assert_eq!(read.join().expect("reader"), Ok(vec![0; 4096]));
    disk.destroy(true);
}

/// A queue whose thread is gone, while another queue has a thread.
fn lane(context: &mut Context) {
    context.load_module("");
    let mut ears = Ears::new();
    let (disk, mut server) = by_hand(&plain("lanes").queues(2));
    let sleeper = std::thread::spawn({
        let mut server = Manual::new(&disk);
        move || server.try_fetch(0, 1, 1, 60_000).1.error
    });
    wait_until(20, "the thread to wait", || control().status("lanes").expect("status").threads == 1);
    let there = processors_of("lanes", 1).first().copied().expect("a processor of queue 1");
    let begin = Instant::now();
    let path = disk.path();
    let read = std::thread::spawn(move || {
        processor::bind(there);
        read_in_thread(path, 0, 4096).join().expect("reader")
    });
    ears.hear(Kind::Unserved, "lanes");
    assert!(begin.elapsed() < Duration::from_secs(10), "told after {:?}", begin.elapsed());
    ears.read(&["zosbd2-lanes: 1 requests wait, and no thread of server 1"]);
    let status = control().status("lanes").expect("status");
    assert_eq!((status.threads, status.process), (1, Some(own_process())));
    assert!(status.unserved.expect("unserved") >= Duration::from_secs(5), "{status:?}");
    let requests = server.fetch(1, 1, 1).expect("fetch");
    server.complete(requests.first().expect("a request"));
    assert_eq!(read.join().expect("reader"), Ok(vec![0; 4096]));
    assert_eq!(control().status("lanes").expect("status").unserved, None);
    disk.destroy(true);
    assert_eq!(sleeper.join().expect("sleeper"), Some(Errno::NODEV));
}
