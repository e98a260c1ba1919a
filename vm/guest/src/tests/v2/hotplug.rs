// SPDX-License-Identifier: MIT OR Apache-2.0
//! A CPU goes offline and comes back while requests of its queue are unanswered.
//!
//! A change of the set of CPUs holds a lock that other calls need: the calls beside it wait for the same
//! lock.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::io::{Errno, pread, pwrite};
use rustix::process::Signal;
use rustix::thread::{CpuSet, sched_setaffinity};
use zosbd2::{Builder, Observer, State, TakeOver};
use zosbd2_backends::Ram;

use super::super::support::{Aligned, open_direct};
use super::support::{Disk, control, plain, processors_of, threads};
use crate::guest::{Context, Mounted, Need, Patience, Spawned, Test, read_trimmed, wait_until, write_text};

/// The CPU that goes offline.
const CPU: usize = 1;
const ONLINE: &str = "/sys/devices/system/cpu/cpu1/online";
const GROUPS: &str = "/sys/fs/cgroup";
const ROUNDS: u32 = 20;
const MIB: u64 = 1 << 20;

const NEEDS: &[Need] = &[Need::Module, Need::Path(ONLINE), Need::Path(GROUPS)];

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_cpu_goes_beside_a_stopped_server", stopped).needs(NEEDS).timeout(120),
    Test::new("v2_cpu_goes_beside_a_dead_server", dead).needs(NEEDS).timeout(120),
    Test::new("v2_cpu_goes_and_comes_under_load", under_load).needs(NEEDS).timeout(240),
    Test::new("v2_cpu_goes_and_comes_beside_a_stopped_server", often).needs(NEEDS).timeout(240),
];

/// Brings the CPU back when dropped, for later tests.
struct Back;

impl Drop for Back {
    fn drop(&mut self) {
        // Fails if the CPU never went offline.
        let _there_already = std::fs::write(ONLINE, "1");
    }
}

/// Writes to a file of the kernel in a separate thread. If that takes too long, it calls `answer`, so that
/// the write and the test can end, and the test fails.
fn switch(path: &'static str, text: &'static str, answer: impl FnOnce()) {
    let writer = std::thread::spawn(move || std::fs::write(path, text));
    finish(&format!("\"{text}\" to be written to {path}"), writer, answer)
        .unwrap_or_else(|error| panic!("write \"{text}\" to {path}: {error}"));
}

/// Waits for a thread. The request that `answer` answers may block it.
fn finish<T>(what: &str, thread: JoinHandle<T>, answer: impl FnOnce()) -> T {
    let mut patience = Patience::seconds(20);
    while !thread.is_finished() && !patience.over() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let late = !thread.is_finished();
    if late {
        answer();
    }
    let result = thread.join().expect("the thread");
    assert!(!late, "waited in vain for {what}; it came when the request was answered");
    result
}

/// Reads a block on the CPU that will go offline, and so on its queue.
fn read_there(path: &Path) -> JoinHandle<Result<usize, Errno>> {
    let path = path.to_owned();
    std::thread::spawn(move || {
        let mut set = CpuSet::new();
        set.set(CPU);
        sched_setaffinity(None, &set).expect("move to the CPU");
        pread(open_direct(&path), Aligned::new(4096, 0).bytes_mut(), 0)
    })
}

/// A server in a separate process, for a disk with two queues, and an observer.
fn spawn(context: &Context, name: &str) -> (Spawned, Observer) {
    let mut child = context.spawn("/proc/self/exe", &["--serve-v2", "ram", name, "2", "1"]);
    wait_until(20, "the server to serve", || {
        assert!(child.running(), "the server ended: {}", child.stderr());
        child.stdout().contains("serving")
    });
    (child, control().observe(name).expect("observe"))
}

/// Waits until the queue of that CPU has this many requests.
fn outstanding(observer: &Observer, disk: &str, count: usize) {
    let of_cpu = |queue: &u32| processors_of(disk, *queue).contains(&CPU);
    let queue = (0..2).find(of_cpu).expect("the queue of the CPU");
    wait_until(20, "the request to be on the queue of its CPU", || {
        observer.requests(queue, Duration::ZERO).expect("requests").len() == count
    });
}

/// Calls that need the lock of the set of CPUs: a device is created, started and destroyed, and a process
/// changes its group.
fn life_goes_on() {
    let disk = Disk::create(&plain("beside").queues(2));
    disk.server.start().expect("start");
    disk.destroy(true);
    let group = format!("{GROUPS}/beside");
    std::fs::create_dir(&group).expect("make a group");
    write_text(&format!("{group}/cgroup.procs"), "0");
    write_text(&format!("{GROUPS}/cgroup.procs"), "0");
    std::fs::remove_dir(&group).expect("remove the group");
}

/// The server is stopped with one request of the CPU's queue unanswered.
fn stopped(context: &mut Context) {
    context.load_module("");
    let _groups = Mounted::new("cgroup", GROUPS, "cgroup2", "");
    let (mut child, observer) = spawn(context, "stopped");
    child.stop();
    let read = read_there(Path::new("/dev/zosbd2-stopped"));
    outstanding(&observer, "stopped", 1);
    let _back = Back;
    switch(ONLINE, "0", || child.signal(Signal::CONT));
    assert_eq!(read_trimmed(ONLINE), "0");
    let beside = std::thread::spawn(life_goes_on);
    finish("a device to be made and destroyed", beside, || child.signal(Signal::CONT));
    switch(ONLINE, "1", || child.signal(Signal::CONT));
    assert!(!read.is_finished(), "nobody has answered");
    child.signal(Signal::CONT);
    assert_eq!(read.join().expect("reader"), Ok(4096));
    control().destroy("stopped", true).expect("destroy");
    assert!(child.wait(20).success(), "{}", child.stderr());
}

/// The server is dead, and no server attaches within the grace before the CPU is offline. The successor
/// starts without that CPU, and answers.
fn dead(context: &mut Context) {
    context.load_module("");
    let _groups = Mounted::new("cgroup", GROUPS, "cgroup2", "");
    let disk = Disk::create(&plain("dead").queues(2).grace(Duration::from_secs(600)));
    disk.server.start().expect("start");
    let path = disk.path();
    let observer = control().observe("dead").expect("observe");
    drop(disk);
    let state = || observer.status().expect("status").state;
    assert_eq!(state(), State::Orphaned);
    let read = read_there(&path);
    outstanding(&observer, "dead", 1);
    let destroy = || control().destroy("dead", true).expect("destroy");
    let _back = Back;
    switch(ONLINE, "0", destroy);
    finish("a device to be made and destroyed", std::thread::spawn(life_goes_on), destroy);
    assert_eq!(state(), State::Orphaned, "nobody has answered");
    let ram = Arc::new(Ram::new(16 * MIB).expect("memory"));
    let server = control().attach("dead", TakeOver::No).expect("attach");
    let disk = Disk { server: Arc::new(server), name: "dead".to_owned() };
    let serving = disk.serve_with(&ram, threads(1));
    assert_eq!(read.join().expect("reader"), Ok(4096));
    switch(ONLINE, "1", destroy);
    disk.destroy_and_join(serving);
}

/// Writes and reads all the time, each thread in its own part, and requests continue on any CPUs, wherever
/// `rq_affinity` lets them end.
fn under_load(context: &mut Context) {
    context.load_module("");
    let ram = Arc::new(Ram::new(16 * MIB).expect("memory"));
    let builder = Builder::new("load").partition_scan(false).queues(2);
    let (disk, serving) = Disk::serve(&builder, &ram, threads(2));
    let path = disk.path();
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let _back = Back;
    std::thread::scope(|scope| {
        let submit = |part: u64| {
            let node = open_direct(&path);
            let (mut data, mut back) = (Aligned::new(4096, 0), Aligned::new(4096, 0));
            for round in 0.. {
                let offset = part * 4 * MIB + round % 64 * 4096;
                data.fill(round);
                assert_eq!(pwrite(&node, data.bytes(), offset), Ok(4096));
                assert_eq!(pread(&node, back.bytes_mut(), offset), Ok(4096));
                assert!(data.bytes() == back.bytes(), "another block at {offset}");
                done.fetch_add(1, Ordering::Relaxed);
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        };
        for part in 0..4 {
            scope.spawn(move || submit(part));
        }
        let switches = || {
            let affinity = disk.sysfs().join("queue/rq_affinity");
            for (_, affine) in (0..ROUNDS).zip(["0", "1", "2"].into_iter().cycle()) {
                std::fs::write(&affinity, affine)?;
                for text in ["0", "1"] {
                    let before = done.load(Ordering::Relaxed);
                    std::fs::write(ONLINE, text)?;
                    wait_until(20, "requests to go on", || done.load(Ordering::Relaxed) > before + 20);
                }
            }
            Ok(())
        };
        // A panic in here would wait for the submitters.
        let result: std::thread::Result<std::io::Result<()>> =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(switches));
        stop.store(true, Ordering::Relaxed);
        result.expect("rounds").expect("switch the CPU");
    });
    disk.destroy_and_join(serving);
}

/// The same CPU repeatedly, with one more unanswered request of its queue each time.
fn often(context: &mut Context) {
    context.load_module("");
    let (mut child, observer) = spawn(context, "often");
    child.stop();
    let _back = Back;
    let mut reads = Vec::new();
    for _ in 0..ROUNDS {
        reads.push(read_there(Path::new("/dev/zosbd2-often")));
        outstanding(&observer, "often", reads.len());
        switch(ONLINE, "0", || child.signal(Signal::CONT));
        switch(ONLINE, "1", || child.signal(Signal::CONT));
    }
    assert!(reads.iter().all(|read| !read.is_finished()), "nobody has answered");
    child.signal(Signal::CONT);
    for read in reads {
        assert_eq!(read.join().expect("reader"), Ok(4096));
    }
    control().destroy("often", true).expect("destroy");
    assert!(child.wait(20).success(), "{}", child.stderr());
}
