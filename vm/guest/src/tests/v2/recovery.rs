// SPDX-License-Identifier: MIT OR Apache-2.0
//! Servers that are killed or replaced two hundred times under a file system that fio verifies.
//!
//! The servers' data outlives them, in shared memory or in a file. The file system must notice nothing.

use std::cell::Cell;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::Signal;
use zosbd2::{
    Backend, Builder, Control, End, Observer, RequestState, ServeOptions, State, StopToken, TakeOver,
};
use zosbd2_backends::{FileOptions, Ram};

use super::super::support::{read_in_thread, write_in_thread};
use super::support::control;
use crate::guest::{Context, Mounted, Need, Patience, Random, Spawned, Test, run, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_killed_10_times", |context| killed(context, "file", 10)).needs(NEEDS).timeout(120),
    Test::new("v2_taken_over_10_times", |context| taken_over(context, "memory", 10))
        .needs(NEEDS)
        .timeout(120),
    Test::new("v2_killed_200_times_memory", |context| killed(context, "memory", 200))
        .needs(NEEDS)
        .timeout(400),
    Test::new("v2_killed_200_times_file", |context| killed(context, "file", 200)).needs(NEEDS).timeout(400),
    Test::new("v2_taken_over_200_times_memory", |context| taken_over(context, "memory", 200))
        .needs(NEEDS)
        .timeout(400),
    Test::new("v2_taken_over_200_times_file", |context| taken_over(context, "file", 200))
        .needs(NEEDS)
        .timeout(400),
    Test::new("v2_killed_without_a_grace", no_grace).needs(&[Need::Module]).timeout(120),
];

const NEEDS: &[Need] = &[Need::Module, Need::Tool("fio"), Need::Tool("mkfs.ext4"), Need::Tool("e2fsck")];
const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;
const NAME: &str = "heirs";

/// The role `--serve-next memory|file NAME PATH make|follow|replace GRACE_MS`: serves the disk whose data is at
/// PATH, as the first or a later server. Prints `serving` when it serves.
pub(crate) fn role(arguments: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    let [kind, name, path, how, grace_ms] = arguments else {
        return Err("usage: --serve-next memory|file NAME PATH make|follow|replace GRACE_MS".into());
    };
    let (path, grace) = (Path::new(path), Duration::from_millis(grace_ms.parse()?));
    match *kind {
        "memory" => serve(&Ram::shared(path, SIZE)?, name, how, grace),
        "file" => {
            if *how == "make" {
                File::create(path)?.set_len(SIZE)?;
            }
            serve(&FileOptions::default().successor(true).open(path)?, name, how, grace)
        }
        _ => Err(format!("{kind} is neither memory nor file").into()),
    }
}

fn serve<B: Backend>(
    backend: &B,
    name: &str,
    how: &str,
    grace: Duration,
) -> Result<(), Box<dyn std::error::Error>> {
    let control = Control::open()?;
    let server = match how {
        "make" => {
            let builder = Builder::new(name).queues(2).partition_scan(false).grace(grace);
            control.create(&builder.for_backend(backend))?
        }
        "follow" => control.attach_for(name, TakeOver::No, backend)?,
        "replace" => control.attach_for(name, TakeOver::Yes, backend)?,
        _ => return Err(format!("{how} is neither make, follow nor replace").into()),
    };
    let options = ServeOptions::default().threads_per_queue(2);
    let end = server.serve_then(backend, &options, &StopToken::new(), || println!("serving"))?;
    println!("{end:?}");
    Ok(())
}

/// Starts a server and waits until it serves.
fn start(context: &Context, kind: &str, how: &str, grace_ms: &str) -> Spawned {
    let path = if kind == "memory" { "/dev/shm/heirs" } else { "/tmp/heirs" };
    let mut child = context.spawn("/proc/self/exe", &["--serve-next", kind, NAME, path, how, grace_ms]);
    wait_until(60, "the server to serve", || {
        assert!(child.running(), "the server ended: {}", child.stderr());
        child.stdout().contains("serving")
    });
    child
}

/// Requests answered by all servers of the device.
fn answered(observer: &Observer) -> u64 {
    let count = |queue| {
        let counts = observer.stats(queue).expect("stats");
        counts.operations.iter().map(|operation| operation.committed).sum::<u64>()
    };
    queues(observer).map(count).sum()
}

fn queues(observer: &Observer) -> std::ops::Range<u32> {
    0..observer.status().expect("status").queues
}

/// Waits until a server has answered a few more requests, so that it dies in the middle of its work, at a point
/// that depends on the seed.
pub(super) fn work(observer: &Observer, random: &mut Random) {
    let until = answered(observer) + random.below(24) + 1;
    wait_until(60, "some requests to be answered", || answered(observer) >= until);
}

/// Runs fio on a file of the file system again and again until `stop`; returns the number of runs. fio compares
/// all data that it reads, and fails on any error of a read, write or fsync.
fn verify(stop: &AtomicBool) -> u64 {
    let mut runs = 0;
    while !stop.load(Ordering::Relaxed) {
        let seed = format!("--randseed={runs}");
        run(
            300,
            "fio",
            &[
                "--name=verify",
                "--filename=/mnt/data",
                "--size=4M",
                "--rw=randwrite",
                "--bsrange=4k-64k",
                "--ioengine=libaio",
                "--iodepth=8",
                "--direct=1",
                "--fsync=16",
                "--verify=crc32c",
                "--verify_fatal=1",
                &seed,
            ],
        );
        runs += 1;
    }
    runs
}

/// Mounts a file system on the device and lets fio verify it while `each` changes the server this many times, less
/// often with the debug kernel ([`Context::share`]); then checks the file system. Returns the number of requeued
/// requests.
fn under_load(
    context: &mut Context,
    kind: &str,
    times: u64,
    each: impl Fn(&Context, &Observer, &mut Random, Spawned) -> Spawned,
) -> u64 {
    context.load_module("");
    context.load_kernel_module("ext4", "");
    let mut random = context.random(kind);
    let server = start(context, kind, "make", "30000");
    let device = "/dev/zosbd2-heirs";
    run(60, "mkfs.ext4", &["-q", device]);
    // The file system becomes read-only at the first error of its journal.
    let mounted = Mounted::new(device, "/mnt", "ext4", "errors=remount-ro");
    let observer = control().observe(NAME).expect("observe");
    let stop = AtomicBool::new(false);
    let servers = context.share(times);
    let (runs, mut server) = std::thread::scope(|scope| {
        let mut server = server;
        // Whatever fails below, fio ends.
        let raised = RaisedAtEnd(&stop);
        let verifier = scope.spawn(|| verify(&stop));
        for _ in 0..servers {
            work(&observer, &mut random);
            if verifier.is_finished() {
                break;
            }
            server = each(context, &observer, &mut random, server);
        }
        drop(raised);
        (verifier.join().expect("fio found something"), server)
    });
    let status = observer.status().expect("status");
    assert_eq!((status.state, u64::from(status.epoch), status.lost), (State::Live, servers + 1, false));
    for queue in 0..2 {
        let counts = observer.stats(queue).expect("stats");
        assert_eq!((counts.failed, counts.expired, counts.lost_flushes), (0, 0, 0));
    }
    let again = requeued(&observer);
    context.say(&format!(
        "{kind}: {runs} runs of fio, {servers} changes of server, {again} requests served again"
    ));
    assert!(runs > 0);
    let mounts = std::fs::read_to_string("/proc/mounts").expect("mounts");
    let line = mounts.lines().find(|line| line.contains(" /mnt ")).expect("mounted");
    assert!(line.contains(" ext4 rw,"), "{line}");
    let mut file = File::create("/mnt/after").expect("create");
    file.write_all(b"still here").expect("write");
    file.sync_all().expect("sync");
    drop(file);
    mounted.unmount();
    run(60, "e2fsck", &["-f", "-n", device]);
    control().destroy(NAME, false).expect("destroy");
    assert!(server.wait(20).success(), "{}", server.stderr());
    again
}

/// A flag that is raised when this is dropped.
pub(super) struct RaisedAtEnd<'a>(pub(super) &'a AtomicBool);

impl Drop for RaisedAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Requests that were served again.
pub(super) fn requeued(observer: &Observer) -> u64 {
    queues(observer).map(|queue| observer.stats(queue).expect("stats").requeued).sum()
}

/// Stops the server at a moment at which it holds a request.
pub(super) fn stop_while_it_holds_one(observer: &Observer, server: &mut Spawned) {
    let held = |queue| {
        let requests = observer.requests(queue, Duration::ZERO).expect("requests");
        requests.iter().any(|request| request.state == RequestState::Held)
    };
    wait_until(60, "the server to hold a request", || {
        server.stop();
        let holds = queues(observer).any(held);
        if !holds {
            server.signal(Signal::CONT);
        }
        holds
    });
}

fn killed(context: &mut Context, kind: &str, times: u64) {
    /// So many deaths at any moment that some come while the server holds a request.
    const MANY: u64 = 50;
    let deaths = context.share(times);
    let (dead, after_first) = (Cell::new(0_u64), Cell::new(0));
    let again = under_load(context, kind, times, |context, observer, _, mut server| {
        // The first server of a few holds a request when it dies. The others die at any moment.
        if dead.get() == 0 && (2..MANY).contains(&deaths) {
            stop_while_it_holds_one(observer, &mut server);
        }
        if dead.replace(dead.get() + 1) == 1 {
            after_first.set(requeued(observer));
        }
        server.signal(Signal::KILL);
        let _killed = server.wait(20);
        wait_until(20, "the device to be an orphan", || {
            observer.status().expect("status").state == State::Orphaned
        });
        start(context, kind, "follow", "0")
    });
    assert!(again > after_first.get() || deaths < MANY, "only the first server held a request when it died");
    assert!(again > 0 || deaths < 2, "no server held a request when it died");
}

fn taken_over(context: &mut Context, kind: &str, times: u64) {
    // A server that leaves in an orderly way may have answered everything.
    let _any_number = under_load(context, kind, times, |context, _, _, mut server| {
        let next = start(context, kind, "replace", "0");
        assert!(server.wait(20).success(), "{}", server.stderr());
        assert!(server.stdout().contains(&format!("{:?}", End::TakenOver)), "{}", server.stdout());
        next
    });
}

/// Without a grace everything fails when the server dies: the queued requests and the later ones. The server holds
/// none, because it was stopped before.
fn no_grace(context: &mut Context) {
    context.load_module("");
    for round in 0..10 {
        let mut server = start(context, "memory", "make", "0");
        let path = PathBuf::from("/dev/zosbd2-heirs");
        assert_eq!(write_in_thread(path.clone(), 0, 1, 4096).join().expect("writer"), Ok(4096));
        server.stop();
        let writes: Vec<_> =
            (1..20_u64).map(|index| write_in_thread(path.clone(), index * 8192, index, 4096)).collect();
        let observer = control().observe(NAME).expect("observe");
        let outstanding = || {
            (0..2)
                .map(|queue| observer.requests(queue, Duration::ZERO).expect("requests").len())
                .sum::<usize>()
        };
        wait_until(20, "all writes", || outstanding() == 19);
        let (begin, mut bound) = (Instant::now(), Patience::seconds(20));
        server.signal(Signal::KILL);
        let _killed = server.wait(20);
        for write in writes {
            assert_eq!(write.join().expect("writer"), Err(Errno::IO), "round {round}");
        }
        // Not a check of speed: the alternative would be a grace of 30 s, or for ever.
        assert!(!bound.over(), "round {round}: {:?}", begin.elapsed());
        assert_eq!(observer.status().expect("status").state, State::Failed);
        assert_eq!(read_in_thread(path.clone(), 0, 4096).join().expect("reader"), Err(Errno::IO));
        // Another server brings the device back, with the answered data.
        let mut server = start(context, "memory", "follow", "0");
        let begin = Instant::now();
        let read = read_in_thread(path, 0, 4096).join().expect("reader").expect("data");
        assert!(read.iter().any(|byte| *byte != 0), "lost, after {:?}", begin.elapsed());
        control().destroy(NAME, true).expect("destroy");
        assert!(server.wait(20).success(), "{}", server.stderr());
        std::fs::remove_file("/dev/shm/heirs").expect("remove");
    }
}
