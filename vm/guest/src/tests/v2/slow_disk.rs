// SPDX-License-Identifier: MIT OR Apache-2.0
//! The example of a slow asynchronous disk: how many requests it has in flight, and with what memory and threads.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::super::support::{open_direct, read_in_thread, write_in_thread};
use super::support::control;
use crate::guest::{Context, Need, Spawned, Test, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_slow_disk", slow_disk).needs(&[Need::Module, Need::Program("slow_disk")]).timeout(90),
    Test::new("v2_slow_disk_is_killed", killed)
        .needs(&[Need::Module, Need::Program("slow_disk")])
        .timeout(60),
];

/// Starts the program, and waits until it serves a new disk.
fn start(context: &Context) -> Spawned {
    let mut server = context.spawn("slow_disk", &[]);
    wait_until(30, "the server to serve", || {
        assert!(server.running(), "it ended: {}", server.stderr());
        server.stderr().contains("serving /dev/zosbd2-slow\n")
    });
    server
}

/// A number in `/proc/PID/status`.
fn status_of(process: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("the status");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
    line.trim_start_matches(':')
        .split_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .expect("a number")
}

/// Readers of the slow disk, and the reads of each.
const READERS: usize = 64;
const READS: u64 = 4;

/// Each reader reads some blocks, one after the other. With a barrier all begin each read together.
fn read_slowly(barrier: Option<&Barrier>) {
    let node = std::path::Path::new("/dev/zosbd2-slow");
    std::thread::scope(|scope| {
        for reader in 0..READERS as u64 {
            scope.spawn(move || {
                let node = open_direct(node);
                let mut buffer = zosbd2::Buffer::new(4096, true).expect("memory");
                for block in 0..READS {
                    if let Some(barrier) = barrier {
                        barrier.wait();
                    }
                    let read = rustix::io::pread(&node, &mut *buffer, (reader * READS + block) * 4096);
                    assert_eq!(read, Ok(4096));
                }
            });
        }
    });
}

/// 256 reads of 100 ms by 64 readers: with a thread for each of 64 requests, this took 5.7 s and 527 MB.
///
/// The time is that of the machine, too, so it counts only with `--icount --set undisturbed=1`. Otherwise the test counts
/// requests: the server holds the reads of all readers at the same time.
fn slow_disk(context: &mut Context) {
    context.load_module("");
    let mut server = start(context);
    let before = status_of(server.id(), "VmRSS");
    let begin = std::time::Instant::now();
    read_slowly(None);
    let took = begin.elapsed();
    if context.setting("undisturbed").is_some() {
        assert!(took <= Duration::from_millis(750), "{took:?}");
    }

    let observer = control().observe("slow").expect("observe");
    let done = AtomicBool::new(false);
    let most = || {
        let mut most = 0;
        while !done.load(Ordering::Relaxed) {
            most = most.max(observer.stats(0).expect("stats").held);
            std::thread::sleep(Duration::from_millis(1));
        }
        most
    };
    // The peak is that of four waves. A guest that stands still for long may miss it, and tries again.
    let full = (0..10).any(|_| {
        done.store(false, Ordering::Relaxed);
        let barrier = Barrier::new(READERS);
        std::thread::scope(|scope| {
            let most = scope.spawn(most);
            read_slowly(Some(&barrier));
            done.store(true, Ordering::Relaxed);
            most.join().expect("no panic") as usize == READERS
        })
    });
    assert!(full, "the server never held the reads of all readers at the same time");

    let (threads, most) = (status_of(server.id(), "Threads"), status_of(server.id(), "VmHWM"));
    let grown = most.saturating_sub(before);
    context.say(&format!(
        "256 reads of 100 ms by 64 readers: {took:?}, {threads} threads, {most} KiB at most, {grown} KiB more than before"
    ));
    assert!(threads <= 4, "{threads} threads");
    assert!(grown <= 10 << 10, "{grown} KiB more");
    server.signal(rustix::process::Signal::TERM);
    assert!(server.wait(20).success(), "the server did not exit with 0: {}", server.stderr());
}

/// Its memory goes with the process, so the disk does, too: what waits fails, and the same command line makes a new, empty
/// disk.
fn killed(context: &mut Context) {
    context.load_module("");
    let node = std::path::Path::new("/dev/zosbd2-slow");
    for _ in 0..2 {
        let mut server = start(context);
        let read = read_in_thread(node.into(), 0, 4096).join().expect("reader");
        assert_eq!(read, Ok(vec![0; 4096]), "the disk is new");
        assert_eq!(write_in_thread(node.into(), 0, 1, 4096).join().expect("writer"), Ok(4096));
        server.stop();
        let read = read_in_thread(node.into(), 0, 4096);
        let observer = control().observe("slow").expect("observe");
        wait_until(20, "the read to arrive", || {
            let stats = observer.stats(0).expect("stats");
            stats.queued + stats.held > 0
        });
        server.signal(rustix::process::Signal::KILL);
        server.wait(20);
        assert_eq!(read.join().expect("reader"), Err(zosbd2::Errno::IO));
        drop(observer);
        wait_until(20, "the disk to go", || control().status("slow").is_err());
    }
}
