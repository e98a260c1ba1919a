// SPDX-License-Identifier: MIT OR Apache-2.0
//! Limits that the module keeps: the operations that a server supports, and the memory of devices that are
//! gone.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate, fsync, open};
use rustix::io::{Errno, IoSlice, ReadWriteFlags, pread, pwrite, pwritev2};
use zosbd2::{Builder, Capabilities, Server, State};

use super::super::support::{Aligned, Disk as Disk1, discard, open_direct};
use super::races::kernel_memory;
use super::support::{Disk, Recorder, Seen, control, plain, refused, threads};
use crate::guest::{Context, Need, Test, raw, run, try_unload, wait_until, watches_memory};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_read_only_for_the_kernel_too", read_only)
        .needs(&[Need::Module, Need::Tool("dmsetup"), Need::Tool("blkdiscard"), Need::KernelModule("dm_mod")])
        .timeout(60),
    Test::new("v2_read_only_by_the_administrator", set_read_only).needs(&[Need::Module]).timeout(60),
    Test::new("v2_secure_erases_of_a_bounded_length", secure_erases)
        .needs(&[Need::Module, Need::Tool("blkdiscard")])
        .timeout(60),
    Test::new("v2_gone_devices_keep_their_places", places).needs(&[Need::Module]).timeout(60),
    Test::new("v2_gone_devices_keep_little_memory", little_memory).needs(&[Need::Module]).timeout(120),
    Test::new("v2_last_close_beside_unloading", unloading).needs(&[Need::Module]).timeout(180),
];

const MIB: u64 = 1 << 20;
const BLKROSET: u32 = 0x125d;

fn everything(capabilities: &mut Capabilities) {
    capabilities.volatile_cache = true;
    capabilities.discard = true;
    capabilities.write_zeroes = true;
    capabilities.secure_erase = true;
}

/// The node of a disk of dm. Without udev there is none by its name.
fn mapped(name: &str) -> PathBuf {
    let disks = std::fs::read_dir("/sys/block").expect("disks").flatten();
    let is_it = |disk: &std::fs::DirEntry| {
        std::fs::read_to_string(disk.path().join("dm/name")).is_ok_and(|text| text.trim() == name)
    };
    let disk = disks.into_iter().find(is_it).expect("a disk of that name");
    Path::new("/dev").join(disk.file_name())
}

/// dm sends changes to a read-only disk, and the block layer passes them on with a line in the log.
fn read_only(context: &mut Context) {
    context.load_module("");
    context.load_kernel_module("dm_mod", "");
    for fua in [false, true] {
        let recorder = Recorder::new(64 * MIB, |capabilities| {
            everything(capabilities);
            capabilities.fua = fua;
            capabilities.read_only = true;
        });
        let (disk, serving) = Disk::serve(&plain("ro"), &recorder, threads(2));
        let table = format!("0 32768 linear {} 0", disk.path().display());
        let words = ["create", "--noudevsync", "--noudevrules", "above", "--table", &table];
        run(20, "dmsetup", &words);
        let path = &mapped("above");
        let node = open_direct(path);
        recorder.take();
        let mut buffer = Aligned::new(4096, 0);
        assert_eq!(pwrite(&node, buffer.bytes(), 8192), Err(Errno::IO));
        let durable = pwritev2(&node, &[IoSlice::new(buffer.bytes())], 8192, ReadWriteFlags::DSYNC);
        assert_eq!(durable, Err(Errno::IO), "with FUA: {fua}");
        discard(path, MIB, MIB).expect_err("discard");
        let zero = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        fallocate(&node, zero, MIB, MIB).expect_err("zero a range");
        let text = path.to_str().expect("a plain path");
        let erase = context.spawn("blkdiscard", &["-s", "-o", "1048576", "-l", "1048576", text]);
        assert!(!erase.finish(20).status.success(), "secure erase");
        let changes = recorder.take_changes();
        assert!(changes.iter().all(|seen| *seen == Seen::Flush), "{changes:?}");
        // The disk is not harmed.
        assert_eq!(pread(&node, buffer.bytes_mut(), 8192), Ok(4096));
        fsync(&node).expect("fsync");
        assert!(recorder.take().contains(&Seen::Flush), "a flush changes nothing, and is sent");
        let stats = disk.server.stats(0).expect("stats");
        assert_eq!((stats.queued, stats.held), (0, 0));
        drop(node);
        run(20, "dmsetup", &["remove", "--noudevsync", "--noudevrules", "above"]);
        disk.destroy_and_join(serving);
    }
}

/// `blockdev --setro` only concerns the block layer, which then refuses opens for writing and writes. Earlier
/// writes are still carried out. A read-only disk does not become writable by `--setrw`.
fn set_read_only(context: &mut Context) {
    context.load_module("");
    let recorder = Recorder::new(64 * MIB, |_| {});
    let (disk, serving) = Disk::serve(&plain("setro"), &recorder, threads(1));
    let set = |path: &Path, value: u32| {
        let node = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).expect("open");
        let pages = raw::Pages::new(4);
        let at = pages.at_end(4);
        pages.put(at, &value.to_ne_bytes());
        raw::ioctl(node.as_fd(), BLKROSET, at).expect("BLKROSET");
    };
    let node = open(disk.path(), OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).expect("open");
    assert_eq!(pwrite(&node, &[7; 4096], 4096), Ok(4096));
    set(&disk.path(), 1);
    assert_eq!(pwrite(&node, &[7; 4096], 8192), Err(Errno::PERM));
    fsync(&node).expect("fsync");
    let changes = recorder.take_changes();
    assert!(matches!(changes[..], [Seen::Write { offset: 4096, length: 4096, .. }]), "{changes:?}");
    set(&disk.path(), 0);
    assert_eq!(pwrite(&node, &[7; 4096], 8192), Ok(4096));
    drop(node);
    disk.destroy_and_join(serving);

    let recorder = Recorder::new(64 * MIB, |capabilities| capabilities.read_only = true);
    let (disk, serving) = Disk::serve(&plain("ever"), &recorder, threads(1));
    set(&disk.path(), 0);
    match open(disk.path(), OFlags::RDWR | OFlags::DIRECT, Mode::empty()) {
        Err(error) => assert!(matches!(error, Errno::ACCESS | Errno::PERM | Errno::ROFS), "{error}"),
        Ok(node) => assert_eq!(pwrite(&node, Aligned::new(4096, 0).bytes(), 0), Err(Errno::PERM)),
    }
    assert_eq!(recorder.take_changes(), []);
    disk.destroy_and_join(serving);
}

/// One call erases more than the server supports at once. The block layer splits it, and does not merge the
/// pieces again, whether or not discards may be longer.
fn secure_erases(context: &mut Context) {
    const MOST: u32 = 64 << 10;
    context.load_module("");
    for (discard_bytes, granularity) in [(None, 0), (Some(32 << 10), 0), (Some(1 << 20), 32 << 10)] {
        let recorder = Recorder::new(64 * MIB, everything);
        let mut builder = plain("erase").max_secure_erase_bytes(MOST).discard_granularity(granularity);
        if let Some(bytes) = discard_bytes {
            builder = builder.max_discard_bytes(bytes);
        }
        let (disk, serving) = Disk::serve(&builder, &recorder, threads(1));
        let path = disk.path();
        run(20, "blkdiscard", &["-s", "-o", "0", "-l", "2097152", path.to_str().expect("a plain path")]);
        let mut erased: Vec<_> = recorder
            .take()
            .iter()
            .filter_map(|seen| match *seen {
                Seen::SecureErase(offset, length) => Some((offset, length)),
                _ => None,
            })
            .collect();
        erased.sort_unstable();
        let mut at = 0;
        for (offset, length) in &erased {
            assert_eq!(*offset, at, "{erased:?}");
            assert!(*length <= u64::from(MOST), "{erased:?}");
            at += length;
        }
        assert_eq!(at, 2 * MIB, "{erased:?}");
        disk.destroy_and_join(serving);
    }
}

/// A device that is gone, with an open descriptor.
fn gone(builder: &Builder, started: bool) -> Arc<Server> {
    let disk = Disk::create(builder);
    if started {
        disk.server.start().expect("start");
    }
    disk.destroy(true);
    disk.server
}

/// While a descriptor or the node of a gone device is open, `max_devices` counts the device. Its name is
/// free.
fn places(context: &mut Context) {
    context.load_module("max_devices=4");
    let builder = plain("again");
    let create = || control().create(&builder);
    let first = gone(&builder, false);
    let second = gone(&builder, true);
    let third = Disk::create(&builder);
    third.server.start().expect("start");
    let node = File::open(third.path()).expect("open");
    third.destroy(true);
    drop(third);
    let fourth = Disk1::create("again", 1024);
    let old_node = File::open(fourth.path()).expect("open");
    fourth.destroy();
    assert_eq!(control().list().expect("list"), []);
    assert_eq!(refused(create()), Errno::NOSPC);
    let states = [&first, &second].map(|server| server.status().expect("status").state);
    assert_eq!(states, [State::Destroyed; 2]);
    // Each close makes room for one device, which is gone soon, but whose descriptor stays open.
    let letting_go: [Box<dyn FnOnce()>; 4] = [
        Box::new(move || drop(first)),
        Box::new(move || drop(second)),
        Box::new(move || drop(node)),
        Box::new(move || drop(old_node)),
    ];
    let mut stay = Vec::new();
    for let_go in letting_go {
        assert_eq!(refused(create()), Errno::NOSPC);
        let_go();
        let before = stay.len();
        wait_until(20, "room for a device", || {
            stay.extend(create().ok());
            stay.len() > before
        });
        control().destroy("again", true).expect("destroy");
    }
    assert_eq!(refused(create()), Errno::NOSPC);
    assert_eq!(stay.len(), 4);
}

/// The largest parts of a device are freed with its disk, even if a descriptor is open.
fn little_memory(context: &mut Context) {
    const DEVICES: u64 = 40;
    const DEPTH: u32 = 1024;
    context.load_module("");
    let builder = plain("large").queues(2).depth(DEPTH);
    drop(gone(&builder, true));
    let before = kernel_memory();
    let one = Disk::create(&builder);
    one.server.start().expect("start");
    let alive = kernel_memory() - before;
    one.destroy(true);
    drop(one);
    let before = kernel_memory();
    let kept: Vec<_> = (0..DEVICES).map(|index| gone(&builder, index % 2 == 0)).collect();
    let after = kernel_memory();
    let each = after.saturating_sub(before) / DEVICES;
    context.say(&format!("{alive} KiB for a device of {} tags, {each} KiB when it is gone", 2 * DEPTH));
    if watches_memory() {
        context.say("not compared: this kernel keeps accounts of its memory, too");
    } else {
        assert!(each < alive / 2, "{alive} KiB, and {each} KiB when it is gone");
    }
    drop(kept);
}

/// The last close of a gone disk frees the device on one CPU while the module is unloaded on another.
fn unloading(context: &mut Context) {
    const ROUNDS: u64 = 12;
    for _ in 0..context.share(ROUNDS) {
        context.load_module("");
        let disk = Disk::create(&plain("last"));
        disk.server.start().expect("start");
        let node = File::open(disk.path()).expect("open");
        disk.destroy(true);
        drop(disk);
        try_unload("zosbd2").expect_err("somebody has a disk of it open");
        std::thread::scope(|scope| {
            let closer = scope.spawn(|| drop(node));
            wait_until(20, "the module to be unloaded", || try_unload("zosbd2").is_ok());
            closer.join().expect("closer");
        });
    }
}
