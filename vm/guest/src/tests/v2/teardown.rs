// SPDX-License-Identifier: MIT OR Apache-2.0
//! A forced destroy ends, whatever blocks the server and whoever uses the disk: fifty devices in each state.
//!
//! A destroy may take as long as the engine's patience with a server that answers nothing (`DRAIN_STALL_MS`, 5 s),
//! plus some time for all fifty, which are destroyed at once. Afterwards no task may be left in an uninterruptible
//! sleep.

pub(super) mod stacked;

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use zosbd2::v2::abi;
use zosbd2::{Backend, Control, End, ServeOptions, StopToken};
use zosbd2_backends::{FileOptions, Ram};

use super::super::support::{read_in_thread, write_in_thread};
use super::support::{Disk, Manual, control, plain};
use crate::guest::raw::{PAGE, Pages};
use crate::guest::{Context, Mounted, Need, Patience, Spawned, Test, run, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_teardown_of_stopped_servers", stopped).needs(&[Need::Module]).timeout(180),
    Test::new("v2_teardown_of_servers_in_a_page_fault", faulting).needs(&[Need::Module]).timeout(180),
    Test::new("v2_teardown_in_the_look_for_partitions", scanned).needs(&[Need::Module]).timeout(180),
    Test::new("v2_teardown_beside_many_looks_for_partitions", many_scans).needs(&[Need::Module]).timeout(240),
    Test::new("v2_teardown_while_resized", resized).needs(&[Need::Module]).timeout(180),
    Test::new("v2_teardown_of_mounted_disks", mounted)
        .needs(&[Need::Module, Need::Tool("mkfs.ext4")])
        .timeout(180),
    Test::new("v2_teardown_of_servers_in_d_state", uninterruptible)
        .needs(&[Need::Module, Need::Tool("mkfs.ext4"), Need::Tool("fsfreeze"), Need::KernelModule("brd")])
        .timeout(180),
    Test::new("v2_destroy_can_be_killed", destroyer_killed).needs(&[Need::Module]).timeout(60),
];

const MIB: u64 = 1 << 20;
const ROUNDS: usize = 50;
/// Seconds for all of them together. Not a check of speed: the alternative would be the grace, or for ever.
const BOUND: u64 = 25;

pub(super) fn name(index: usize) -> String {
    format!("end-{index}")
}

fn path(index: usize) -> PathBuf {
    PathBuf::from(format!("/dev/zosbd2-{}", name(index)))
}

/// Destroys all devices at once; each destroy must end within the bound.
fn destroy_all() {
    destroy(0..ROUNDS);
}

/// Like [`destroy_all`], for these devices.
pub(super) fn destroy(which: Range<usize>) {
    let (begin, mut bound) = (Instant::now(), Patience::seconds(BOUND));
    let destroyers: Vec<_> = which
        .clone()
        .map(|index| std::thread::spawn(move || control().destroy(&name(index), true)))
        .collect();
    for destroyer in destroyers {
        destroyer.join().expect("a destroyer").expect("destroy");
    }
    assert!(!bound.over(), "{:?}", begin.elapsed());
    assert!(which.into_iter().all(|index| !path(index).exists()), "a node is left");
}

/// Whether a thread's `stat` shows state D: "PID (NAME) STATE ...".
fn is_in_d_state(stat: &str) -> bool {
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('D'))
}

/// Asserts that no task sleeps uninterruptibly.
pub(crate) fn nobody_is_stuck() {
    wait_until(20, "all tasks to be able to go", || {
        let tasks = std::fs::read_dir("/proc").expect("proc").flatten().flat_map(|process| {
            std::fs::read_dir(process.path().join("task")).into_iter().flatten().flatten()
        });
        tasks
            .filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok())
            .all(|stat| !is_in_d_state(&stat))
    });
}

/// The role `--serve-many FIRST COUNT [FOLDER]`: serves COUNT disks from number FIRST on, with one thread each,
/// from memory or from files in the folder. Prints `serving` when it serves all of them.
pub(crate) fn role(arguments: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    let [first, count, folder @ ..] = arguments else {
        return Err("usage: --serve-many FIRST COUNT [FOLDER]".into());
    };
    let (first, count): (usize, usize) = (first.parse()?, count.parse()?);
    let (ready, is_ready) = mpsc::channel();
    let mut serving = Vec::new();
    for index in first..first + count {
        serving.push(match folder.first() {
            None => serve_one(index, Ram::new(16 * MIB)?, ready.clone())?,
            Some(folder) => {
                let path = Path::new(folder).join(name(index));
                File::create(&path)?.set_len(16 * MIB)?;
                serve_one(index, FileOptions::default().open(&path)?, ready.clone())?
            }
        });
    }
    drop(ready);
    for _ in &serving {
        is_ready.recv()?;
    }
    println!("serving");
    for serving in serving {
        let end = serving.join().map_err(|_| "a serving thread panicked")??;
        if end != End::Gone {
            return Err(format!("{end:?}").into());
        }
    }
    Ok(())
}

fn serve_one<B: Backend + Send + 'static>(
    index: usize,
    backend: B,
    ready: mpsc::Sender<()>,
) -> zosbd2::Result<JoinHandle<zosbd2::Result<End>>> {
    let server = Control::open()?.create(&plain(&name(index)).for_backend(&backend))?;
    Ok(std::thread::spawn(move || {
        server.serve_then(&backend, &ServeOptions::default(), &StopToken::new(), || {
            let _main_ended = ready.send(());
        })
    }))
}

/// A process that serves these disks, from memory or from files in a folder.
fn many(context: &Context, which: Range<usize>, folder: Option<&str>) -> Spawned {
    let (first, count) = (which.start.to_string(), which.len().to_string());
    let words: Vec<&str> = ["--serve-many", &first, &count].into_iter().chain(folder).collect();
    let mut child = context.spawn("/proc/self/exe", &words);
    wait_until(60, "the servers to serve", || {
        assert!(child.running(), "the servers ended: {}", child.stderr());
        child.stdout().contains("serving")
    });
    child
}

/// One process serves all disks. It is stopped with requests queued, continues later, and finds its devices gone.
fn stopped(context: &mut Context) {
    context.load_module("");
    let mut child = many(context, 0..ROUNDS, None);
    child.stop();
    let writes: Vec<_> = (0..ROUNDS).map(|index| write_in_thread(path(index), 0, 1, 4096)).collect();
    let open: Vec<_> = (0..ROUNDS).map(|index| File::open(path(index)).expect("open")).collect();
    wait_until(20, "all writes", || (0..ROUNDS).all(|index| outstanding(index) == 1));
    destroy_all();
    assert_eq!(ends(writes), [Err(Errno::IO); ROUNDS]);
    nobody_is_stuck();
    drop(open);
    child.signal(rustix::process::Signal::CONT);
    assert!(child.wait(20).success(), "{}", child.stderr());
}

pub(super) fn outstanding(index: usize) -> usize {
    let observer = control().observe(&name(index)).expect("observe");
    observer.requests(0, Duration::ZERO).expect("requests").len()
}

fn ends(threads: Vec<JoinHandle<Result<usize, Errno>>>) -> Vec<Result<usize, Errno>> {
    threads.into_iter().map(|thread| thread.join().expect("a submitter")).collect()
}

/// Each server answers a read from memory that never comes, and waits for that memory in the kernel.
fn faulting(context: &mut Context) {
    context.load_module("");
    let mut withheld = Vec::new();
    let mut servers = Vec::new();
    let mut reads = Vec::new();
    for index in 0..ROUNDS {
        let disk = Disk::create(&plain(&name(index)));
        disk.server.start().expect("start");
        let mut manual = Manual::new(&disk);
        reads.push(read_in_thread(path(index), 0, 4096));
        let request = manual.fetch_one();
        let pages = Arc::new(Pages::new(PAGE));
        withheld.push(pages.withhold().expect("userfaultfd"));
        let entry = abi::Commit {
            handle: request.handle(),
            result: 4096,
            address: pages.at_end(4096) as u64,
            ..abi::Commit::default()
        };
        let own = Arc::new(Pages::new(PAGE));
        servers.push(std::thread::spawn(move || {
            let _kept = pages;
            super::hostile::commit_raw(&disk.server, &own, &[entry])
        }));
    }
    destroy_all();
    for read in reads {
        assert_eq!(read.join().expect("reader"), Err(Errno::IO));
    }
    nobody_is_stuck();
    // The withheld memory becomes accessible, but the requests are gone.
    drop(withheld);
    for server in servers {
        let status = server.join().expect("a server")[0];
        let allowed = [Errno::STALE, Errno::FAULT].map(|errno| -errno.raw_os_error());
        assert!(allowed.contains(&status), "{status}");
    }
}

/// The kernel reads the disk to look for partitions, and nobody answers.
fn scanned(context: &mut Context) {
    context.load_module("");
    let disks: Vec<_> = (0..ROUNDS)
        .map(|index| {
            let disk = Disk::create(&plain(&name(index)).partition_scan(true));
            disk.server.start().expect("start");
            disk
        })
        .collect();
    wait_until(20, "some looks to begin", || (0..ROUNDS).any(|index| outstanding(index) > 0));
    destroy_all();
    nobody_is_stuck();
    drop(disks);
}

/// More partition scans than the module runs at a time (256).
fn many_scans(context: &mut Context) {
    const DISKS: usize = 300;
    context.load_module("max_devices=300");
    let disks: Vec<_> = (0..DISKS)
        .map(|index| {
            let disk = Disk::create(&plain(&name(index)).depth(1).partition_scan(true));
            disk.server.start().expect("start");
            disk
        })
        .collect();
    wait_until(60, "many looks to begin", || {
        (0..DISKS).filter(|index| outstanding(*index) > 0).count() >= 256
    });
    // The other scans wait for their turn.
    for index in [0, DISKS - 1] {
        control().destroy(&name(index), true).expect("destroy");
    }
    destroy(1..DISKS - 1);
    nobody_is_stuck();
    drop(disks);
}

/// The size changes all the time, beside reads that nobody answers.
fn resized(context: &mut Context) {
    context.load_module("");
    let disks: Vec<_> = (0..ROUNDS)
        .map(|index| {
            let disk = Disk::create(&plain(&name(index)));
            disk.server.start().expect("start");
            disk
        })
        .collect();
    let reads: Vec<_> = (0..ROUNDS).map(|index| read_in_thread(path(index), 0, 4096)).collect();
    wait_until(20, "all reads", || (0..ROUNDS).all(|index| outstanding(index) == 1));
    let changes = Arc::new(AtomicUsize::new(0));
    let resizers: Vec<_> = disks
        .iter()
        .map(|disk| {
            let (disk, changes) = (disk.clone(), Arc::clone(&changes));
            std::thread::spawn(move || {
                let sizes = [8 * MIB, 16 * MIB].into_iter().cycle();
                for _ in sizes.map(|size| disk.server.resize(size)).take_while(Result::is_ok) {
                    changes.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    wait_until(20, "sizes to change", || changes.load(Ordering::Relaxed) > 0);
    destroy_all();
    for read in reads {
        assert_eq!(read.join().expect("reader"), Err(Errno::IO));
    }
    // A device that is gone has no size.
    for resizer in resizers {
        resizer.join().expect("a resizer");
    }
    nobody_is_stuck();
    drop(disks);
}

/// Bytes that a server has written.
fn written(index: usize) -> u64 {
    let observer = control().observe(&name(index)).expect("observe");
    observer.stats(0).expect("stats").written_bytes
}

/// File systems with dirty files on them, whose servers are stopped.
fn mounted(context: &mut Context) {
    const FILE_BYTES: usize = 1 << 18;
    context.load_module("");
    context.load_kernel_module("ext4", "");
    let mut child = many(context, 0..ROUNDS, None);
    let mounts: Vec<_> = (0..ROUNDS)
        .map(|index| {
            let device = path(index);
            let device = device.to_str().expect("a plain path");
            run(60, "mkfs.ext4", &["-q", "-O", "^has_journal", device]);
            let mounted = Mounted::new(device, &format!("/mnt/{index}"), "ext4", "");
            let before = written(index);
            std::fs::write(format!("/mnt/{index}/file"), vec![7; FILE_BYTES]).expect("write");
            (mounted, before)
        })
        .collect();
    child.stop();
    // The kernel may have begun to write old dirty pages, but no server can have got all of its file.
    let (mounts, before): (Vec<_>, Vec<_>) = mounts.into_iter().unzip();
    let dirty =
        (0..).zip(before).filter(|(index, before)| written(*index) - before < FILE_BYTES as u64).count();
    assert!(dirty > 0, "no file is dirty");
    destroy_all();
    for mounted in mounts {
        mounted.unmount();
    }
    nobody_is_stuck();
    child.signal(rustix::process::Signal::CONT);
    assert!(child.wait(20).success(), "{}", child.stderr());
}

/// Threads of a process that sleep uninterruptibly.
fn in_d_state(process: u32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("its threads");
    let stats = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    stats.filter(|stat| is_in_d_state(stat)).count()
}

/// Servers that write to files of a frozen file system.
fn uninterruptible(context: &mut Context) {
    context.load_module("");
    context.load_kernel_module("brd", "rd_nr=1 rd_size=65536");
    context.load_kernel_module("ext4", "");
    run(60, "mkfs.ext4", &["-q", "/dev/ram0"]);
    let mounted = Mounted::new("/dev/ram0", "/mnt/ice", "ext4", "");
    let mut child = many(context, 0..ROUNDS, Some("/mnt/ice"));
    run(60, "fsfreeze", &["--freeze", "/mnt/ice"]);
    let writes: Vec<_> = (0..ROUNDS).map(|index| write_in_thread(path(index), 0, 1, 4096)).collect();
    wait_until(60, "each server to be in D state", || in_d_state(child.id()) == ROUNDS);
    destroy_all();
    assert_eq!(ends(writes), [Err(Errno::IO); ROUNDS]);
    assert_eq!(in_d_state(child.id()), ROUNDS, "they were to be stuck until now");
    run(60, "fsfreeze", &["--unfreeze", "/mnt/ice"]);
    assert!(child.wait(60).success(), "{}", child.stderr());
    nobody_is_stuck();
    mounted.unmount();
}

/// A process that waits for a destruction can be killed; the destruction goes on.
fn destroyer_killed(context: &mut Context) {
    context.load_module("");
    let disk = Disk::create(&plain(&name(0)));
    disk.server.start().expect("start");
    let read = read_in_thread(path(0), 0, 4096);
    wait_until(20, "the read", || outstanding(0) == 1);
    // The destroy waits for a server that has fetched.
    let _held = Manual::new(&disk).fetch_one();
    let mut destroyer = context.spawn("/proc/self/exe", &["--destroy-v2", name(0).as_str()]);
    wait_until(20, "the destruction to begin", || {
        assert!(destroyer.running(), "it did not wait: {}", destroyer.stderr());
        control().status(&name(0)).is_err()
    });
    destroyer.signal(rustix::process::Signal::KILL);
    assert!(!destroyer.wait(20).success());
    // The destruction waits for the read, so it is not over: the kill ended only the wait.
    assert!(!read.is_finished(), "the destroyer was killed too late");
    assert_eq!(read.join().expect("reader"), Err(Errno::IO));
    // The name becomes free last.
    let mut again = None;
    wait_until(20, "the name to be free", || {
        again = control().create(&plain(&name(0))).ok();
        again.is_some()
    });
    assert!(!path(0).exists(), "the node is still there");
    control().destroy(&name(0), true).expect("destroy");
    drop(disk);
}
