// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kernel memory that serving needs: none per request, and no allocation that waits for the disk itself.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use zosbd2::{Builder, MemoryLock};
use zosbd2_backends::Ram;

use super::super::support::{self, Aligned, open_direct};
use super::support::{Buffered, Disk, threads};
use crate::guest::{Allocations, Context, Need, Test, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_serving_threads_are_io_flushers", flushers).needs(&[Need::Module]).timeout(60),
    Test::new("v2_serves_without_being_an_io_flusher", no_flushers).needs(&[Need::Module]).timeout(60),
    Test::new("v2_nothing_is_allocated_for_requests", no_allocations).needs(TRACED).timeout(180),
];

const TRACED: &[Need] = &[
    Need::Module,
    Need::Path("/sys/kernel/tracing/instances"),
    Need::Path("/sys/kernel/tracing/events/kmem/mm_page_alloc"),
];
const MIB: u64 = 1 << 20;
/// `PF_MEMALLOC_NOIO` of the kernel's `linux/sched.h`: no allocation of the thread starts I/O.
const NOIO: u64 = 0x0008_0000;
/// `PF_LOCAL_THROTTLE`: its writes are only throttled by the device that they go to.
const LOCAL_THROTTLE: u64 = 0x0010_0000;
/// What `PR_SET_IO_FLUSHER` sets.
const IO_FLUSHER: u64 = NOIO | LOCAL_THROTTLE;

/// The kernel's flags of the threads of this process: of serving threads or of the others.
fn flags(serving: bool) -> Vec<u64> {
    let read = |thread: fs::DirEntry| {
        // "TID (NAME) STATE PARENT GROUP SESSION TTY FOREGROUND FLAGS ..."; a thread may end meanwhile.
        let stat = fs::read_to_string(thread.path().join("stat")).ok()?;
        let (before, after) = stat.rsplit_once(')')?;
        let named = before.split_once('(')?.1.starts_with("zosbd2-");
        let flags = after.split_whitespace().nth(6)?;
        (named == serving).then(|| flags.parse().expect("the flags are a number"))
    };
    fs::read_dir("/proc/self/task").expect("threads").flatten().filter_map(read).collect()
}

fn flushers(context: &mut Context) {
    context.load_module("");
    let ram = Arc::new(Ram::new(16 * MIB).expect("memory"));
    let (disk, serving) = Disk::serve(&Builder::new("flushers").queues(2), &ram, threads(2));
    let found = flags(true);
    assert_eq!(found.len(), 4, "serving threads");
    for flags in found {
        assert_eq!(flags & IO_FLUSHER, IO_FLUSHER, "flags {flags:#x}");
    }
    // Neither the other threads of this process, nor a call that is over, such as that of the creator.
    for flags in flags(false) {
        assert_eq!(flags & IO_FLUSHER, 0, "flags {flags:#x}");
    }
    disk.destroy_and_join(serving);
    // Version 1.
    let disk = support::Disk::create("flushers", 4096);
    let server = disk.serve_memory(3);
    let all = || {
        let found = flags(true);
        found.len() == 3 && found.iter().all(|flags| flags & IO_FLUSHER == IO_FLUSHER)
    };
    wait_until(20, "three I/O flushers", all);
    disk.destroy_and_join(server);
}

/// Without the privilege the disk is still served. In the module's calls, the module ensures that no allocation
/// waits for I/O. A test of the library covers the warning in the log.
fn no_flushers(context: &mut Context) {
    context.load_module("");
    let unprivileged = std::thread::spawn(|| {
        let mut sets = capabilities(None).expect("capabilities");
        for set in [&mut sets.effective, &mut sets.permitted, &mut sets.inheritable] {
            set.remove(CapabilitySet::SYS_RESOURCE);
        }
        // Of this thread, and of threads that it starts.
        set_capabilities(None, sets).expect("drop a capability");
        let ram = Arc::new(Ram::new(16 * MIB).expect("memory"));
        Disk::serve(&Builder::new("humble").queues(2), &ram, threads(2))
    });
    let (disk, serving) = unprivileged.join().expect("it serves");
    wait_until(20, "four threads asleep in the module's call", || {
        let found = flags(true);
        found.len() == 4 && found.iter().all(|flags| flags & IO_FLUSHER == NOIO)
    });
    let file = File::options().read(true).write(true).open(disk.path()).expect("open");
    file.write_all_at(b"served", 4096).and_then(|()| file.sync_all()).expect("write");
    let mut back = [0; 6];
    file.read_exact_at(&mut back, 4096).expect("read");
    assert_eq!(&back, b"served");
    drop(file);
    disk.destroy_and_join(serving);
}

/// Some thousands of requests of every kind, two at a time.
fn requests(path: &Path) {
    std::thread::scope(|scope| {
        for half in 0..2_u64 {
            scope.spawn(move || {
                let node = open_direct(path);
                let mut buffer = Aligned::new(64 << 10, 0);
                buffer.fill(half);
                for index in 0..400_u64 {
                    let offset = (half * 8 * MIB) + (index % 64) * (64 << 10);
                    let length = if index % 4 == 0 { 64 << 10 } else { 4096 };
                    let written = rustix::io::pwrite(&node, &buffer.bytes()[..length], offset);
                    assert_eq!(written, Ok(length));
                    let read = rustix::io::pread(&node, &mut buffer.bytes_mut()[..length], offset);
                    assert_eq!(read, Ok(length));
                    if index % 8 == 0 {
                        rustix::fs::fdatasync(&node).expect("flush");
                        let zero = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
                        fallocate(&node, zero, offset, length as u64).expect("write zeroes");
                        support::discard(path, offset, length as u64).expect("discard");
                    }
                }
            });
        }
    });
}

/// Functions of the module are in the stacks of many allocations while a device is created, and of none while
/// thousands of requests are served, with direct copies and without, in both versions.
fn no_allocations(context: &mut Context) {
    context.load_module("");
    let allocations = Allocations::new();
    let mut made = None;
    // The server's own pages are locked: otherwise the module's copies would allocate them on first access.
    let options = || threads(2).memory_lock(MemoryLock::All);
    let builder = Builder::new("frugal").queues(2).partition_scan(false);
    let recorded = allocations.during(|| {
        let ram = Arc::new(Ram::new(16 * MIB).expect("memory"));
        made = Some(Disk::serve(&builder, &ram, options()));
    });
    assert!(!recorded.ours.is_empty(), "a device was made of nothing, with {} allocations", recorded.all);
    let (disk, serving) = made.expect("made");
    let before = answered(&disk);
    let recorded = allocations.during(|| requests(&disk.path()));
    context.say(&format!("{} requests, {} allocations", answered(&disk) - before, recorded.all));
    assert!(answered(&disk) - before >= 1600 && recorded.all > 0);
    assert!(recorded.ours.is_empty(), "the module allocates:\n{:#?}", recorded.ours);
    disk.destroy_and_join(serving);

    let buffered = Arc::new(Buffered(Ram::new(16 * MIB).expect("memory")));
    let (disk, serving) = Disk::serve(&builder, &buffered, options());
    let recorded = allocations.during(|| requests(&disk.path()));
    assert!(recorded.ours.is_empty(), "the module allocates:\n{:#?}", recorded.ours);
    disk.destroy_and_join(serving);

    let disk = support::Disk::create("frugal", 4096);
    let server = disk.serve_memory(2);
    let recorded = allocations.during(|| requests(&disk.path()));
    assert!(recorded.ours.is_empty(), "version 1 allocates:\n{:#?}", recorded.ours);
    disk.destroy_and_join(server);
}

/// Requests that were answered.
fn answered(disk: &Disk) -> u64 {
    let count = |queue| {
        let stats = disk.server.stats(queue).expect("stats");
        stats.operations.iter().map(|operation| operation.committed).sum::<u64>()
    };
    count(0) + count(1)
}
