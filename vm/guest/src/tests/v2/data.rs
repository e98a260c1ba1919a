// SPDX-License-Identifier: MIT OR Apache-2.0
//! Data written is data read: the conformance suite through the block device, fio, file systems.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use zosbd2::{Backend, Builder, Errno, ServeOptions};
use zosbd2_backends::conformance::{self, Check};
use zosbd2_backends::{FileOptions, Null, Ram};

use super::support::{Buffered, Disk, threads};
use crate::guest::{Context, Mounted, Need, Test, read_trimmed, run, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_conformance_ram", conformance_ram).needs(&[Need::Module]).timeout(120),
    Test::new("v2_conformance_null", conformance_null).needs(&[Need::Module]).timeout(60),
    Test::new("v2_conformance_buffered", conformance_buffered).needs(&[Need::Module]).timeout(120),
    Test::new("v2_conformance_file", conformance_file).needs(&[Need::Module]).timeout(120),
    Test::new("v2_conformance_direct_file", conformance_direct).needs(&[Need::Module]).timeout(120),
    Test::new("v2_conformance_of_4096_byte_blocks", conformance_4096).needs(&[Need::Module]).timeout(120),
    Test::new("v2_file_that_grows_and_shrinks", changing_file).needs(&[Need::Module]).timeout(60),
    Test::new("v2_fio_verify_depth_128", fio_verify).needs(&[Need::Module, Need::Tool("fio")]).timeout(150),
    Test::new("v2_ext4", ext4).needs(&[Need::Module, Need::Tool("mkfs.ext4")]).timeout(120),
    Test::new("v2_xfs", xfs).needs(&[Need::Module, Need::Tool("mkfs.xfs")]).timeout(180),
];

const MIB: u64 = 1 << 20;

/// Runs the suite on a device with this many queues and threads; returns the skipped checks.
fn conform<B: Backend + Send + 'static>(
    context: &Context,
    builder: &Builder,
    backend: B,
    options: ServeOptions,
) -> Vec<&'static str> {
    let (disk, serving) = Disk::serve(&builder.clone().partition_scan(false), &Arc::new(backend), options);
    let target = conformance::Disk::open(&disk.path()).expect("open the disk");
    let report = conformance::run(&target, context.seed()).unwrap_or_else(|failure| panic!("{failure}"));
    drop(target);
    disk.destroy_and_join(serving);
    report.iter().filter(|Check { skipped, .. }| skipped.is_some()).map(|check| check.name).collect()
}

/// The block layer refuses requests outside the device.
const SKIPPED: [&str; 1] = ["outside"];

fn conformance_ram(context: &mut Context) {
    context.load_module("");
    let ram = Ram::new(64 * MIB).expect("memory");
    let skipped = conform(context, &Builder::new("ram").queues(2), ram, threads(2));
    assert_eq!(skipped, SKIPPED);
}

/// The null backend moves all data and stores none, which the suite must notice.
fn conformance_null(context: &mut Context) {
    context.load_module("");
    let null = Arc::new(Null::new(64 * MIB));
    let (disk, serving) = Disk::serve(&Builder::new("null").partition_scan(false), &null, threads(2));
    let target = conformance::Disk::open(&disk.path()).expect("open the disk");
    let failure = conformance::run(&target, context.seed()).expect_err("the device stores no data");
    // All blocks have the same contents, which the suite sees when it compares two.
    assert_eq!(failure.check, "both_ends", "{failure}");
    assert!(failure.problem.contains(", not 0x"), "I/O itself failed: {failure}");
    drop(target);
    let stats = disk.server.stats(0).expect("stats");
    assert!(stats.read_bytes > 0 && stats.written_bytes > 0 && stats.failed == 0, "{stats:?}");
    disk.destroy_and_join(serving);
}

fn conformance_buffered(context: &mut Context) {
    context.load_module("");
    let buffered = Buffered(Ram::new(64 * MIB).expect("memory"));
    // A depth and a batch that reach every limit of the loop.
    let options = threads(3).batch(5);
    let skipped = conform(context, &Builder::new("buffered").depth(7), buffered, options);
    assert_eq!(skipped, SKIPPED);
}

/// A file of 64 MiB, on a file system with direct I/O if there is one.
fn file_store(context: &mut Context) -> Mounted {
    // tmpfs has no direct I/O; ext4 on the kernel's RAM disk has.
    context.load_kernel_module("brd", "rd_nr=1 rd_size=131072");
    context.load_kernel_module("ext4", "");
    run(30, "mkfs.ext4", &["-q", "/dev/ram0"]);
    let mounted = Mounted::new("/dev/ram0", "/run/disk", "ext4", "");
    File::create("/run/disk/file").expect("create").set_len(64 * MIB).expect("size");
    mounted
}

fn conformance_file(context: &mut Context) {
    context.load_module("");
    let mounted = file_store(context);
    let file = FileOptions::default().open(Path::new("/run/disk/file")).expect("open");
    assert_eq!(conform(context, &Builder::new("file").queues(2), file, threads(2)), SKIPPED);
    drop(mounted);
}

fn conformance_direct(context: &mut Context) {
    context.load_module("");
    let mounted = file_store(context);
    let file = FileOptions::default().direct(true).open(Path::new("/run/disk/file")).expect("open");
    assert_eq!(conform(context, &Builder::new("direct"), file, threads(2)), SKIPPED);
    drop(mounted);
}

fn changing_file(context: &mut Context) {
    context.load_module("");
    let mounted = Mounted::new("store", "/run/disk", "tmpfs", "");
    let path = Path::new("/run/disk/file");
    let store = File::create(path).expect("create");
    store.set_len(4 * MIB).expect("size");
    let file = Arc::new(FileOptions::default().open(path).expect("open"));
    let (disk, serving) = Disk::serve(&Builder::new("changes").partition_scan(false), &file, threads(2));
    let mut random = context.random("changing_file");
    for mib in [16, 8] {
        store.set_len(mib * MIB).expect("size");
        let sectors = (mib * MIB / 512).to_string();
        wait_until(20, "the disk follows its file", || {
            read_trimmed(&disk.sysfs().join("size").display().to_string()) == sectors
        });
        let (last, data) = (mib * MIB - 4096, random.bytes(4096));
        let node = File::options().read(true).write(true).open(disk.path()).expect("open the disk");
        node.write_all_at(&data, last).expect("write to the last block");
        node.sync_all().expect("flush");
        let mut stored = vec![0; 4096];
        File::open(path).expect("open").read_exact_at(&mut stored, last).expect("read");
        assert!(stored == data, "the end of {mib} MiB is in the file");
        let end = node.write_at(&data, mib * MIB).expect_err("nothing is behind the end");
        assert_eq!(end.raw_os_error(), Some(Errno::NOSPC.raw_os_error()), "{end}");
    }
    disk.destroy_and_join(serving);
    drop(mounted);
}

fn conformance_4096(context: &mut Context) {
    context.load_module("");
    let ram = Ram::new(64 * MIB).expect("memory");
    let builder = Builder::new("large").logical_block_size(4096).max_io_bytes(65536);
    assert_eq!(conform(context, &builder, ram, threads(2)), SKIPPED);
}

fn fio_verify(context: &mut Context) {
    context.load_module("");
    let ram = Arc::new(Ram::new(128 * MIB).expect("memory"));
    let (disk, serving) = Disk::serve(&Builder::new("fio").queues(2).depth(128), &ram, threads(2));
    let (seed, file) =
        (format!("--randseed={}", context.seed()), format!("--filename={}", disk.path().display()));
    let common = [
        "--name=verify",
        "--ioengine=libaio",
        "--direct=1",
        "--rw=randrw",
        "--bsrange=512-1m",
        "--blockalign=512",
        "--iodepth=128",
        "--numjobs=2",
        // One job on each processor: on a busy host both may otherwise run on the same one, and use one queue.
        "--cpus_allowed=0,1",
        "--cpus_allowed_policy=split",
        "--offset_increment=64m",
        "--size=64m",
        "--verify=crc32c",
        "--verify_backlog=64",
        "--verify_fatal=1",
        "--serialize_overlap=1",
        "--thread",
    ];
    run(120, "fio", &[&common[..], &[&seed, &file]].concat());
    let queues = [0, 1].map(|queue| disk.server.stats(queue).expect("stats"));
    for stats in queues {
        assert_eq!((stats.queued, stats.held, stats.failed, stats.stale), (0, 0, 0, 0), "{stats:?}");
        assert!(stats.written_bytes > 0, "a queue was not used: {stats:?}");
    }
    disk.destroy_and_join(serving);
}

/// Makes a file system, fills it, and finds all files again after mounting it anew.
fn file_system(context: &mut Context, kind: &str, make: &[&str], check: &[&str]) {
    context.load_module("");
    context.load_kernel_module(kind, "");
    let ram = Arc::new(Ram::new(400 * MIB).expect("memory"));
    let (disk, serving) = Disk::serve(&Builder::new(kind).queues(2), &ram, threads(2));
    let path = disk.path();
    let node = path.to_str().expect("a plain path");
    run(120, make[0], &[&make[1..], &[node]].concat());
    let mut random = context.random("files");
    let files: Vec<(String, Vec<u8>)> = (0..60)
        .map(|index| {
            let length = usize::try_from(random.below(300_000)).expect("small");
            (format!("/mnt/d{}/f{index}", index % 7), random.bytes(length))
        })
        .collect();
    let mounted = Mounted::new(node, "/mnt", kind, "");
    for (path, bytes) in &files {
        let path = Path::new(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("make a folder");
        std::fs::write(path, bytes).expect("write a file");
    }
    for (path, _) in files.iter().skip(50) {
        std::fs::remove_file(path).expect("remove a file");
    }
    run(60, "fstrim", &["/mnt"]);
    drop(mounted);
    run(120, check[0], &[&check[1..], &[node]].concat());
    let mounted = Mounted::new(node, "/mnt", kind, "");
    for (path, bytes) in &files[..50] {
        assert!(std::fs::read(path).expect("read a file") == *bytes, "{path} has changed");
    }
    for (path, _) in &files[50..] {
        assert!(!Path::new(path).exists(), "{path} is back");
    }
    drop(mounted);
    let discarded = disk.server.stats(0).expect("stats").operations[2].committed
        + disk.server.stats(1).expect("stats").operations[2].committed;
    assert!(discarded > 0, "nothing was discarded");
    // The device is not open: no force is needed, and nothing is lost.
    disk.destroy(false);
    super::support::join(serving);
}

fn ext4(context: &mut Context) {
    file_system(context, "ext4", &["mkfs.ext4", "-q"], &["e2fsck", "-fn"]);
}

fn xfs(context: &mut Context) {
    file_system(context, "xfs", &["mkfs.xfs", "-q", "-f"], &["xfs_repair", "-n"]);
}
