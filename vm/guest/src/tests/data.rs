// SPDX-License-Identifier: MIT OR Apache-2.0
//! Data written is data read: fio, unaligned buffers, sizes at the limits, discards.

use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustix::io::Errno;
use zosbd2::SparseMemory;
use zosbd2::v1::{Backend, CreateOptions};

use super::support::{Aligned, BLOCK, Disk, discard, join, open_direct, stat};
use crate::guest::{Context, Need, Test, drop_caches, run, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("fio_verify_1_worker", fio_verify_1).needs(&[Need::Module, Need::Tool("fio")]).timeout(150),
    Test::new("fio_verify_4_workers", fio_verify_4).needs(&[Need::Module, Need::Tool("fio")]).timeout(150),
    Test::new("misaligned_direct_io", misaligned_direct_io).needs(&[Need::Module]).timeout(60),
    Test::new("big_requests_are_cut_at_blocks", cut_at_blocks).needs(&[Need::Module]).timeout(60),
    Test::new("discard_sizes", discard_sizes).needs(&[Need::Module]).timeout(60),
    Test::new("mkfs_discards", mkfs_discards).needs(&[Need::Module, Need::Tool("mkfs.ext4")]).timeout(60),
    Test::new("fsync_reaches_the_server_as_writes", fsync_writes).needs(&[Need::Module]).timeout(60),
    Test::new("iostat_is_sane", iostat_is_sane).needs(&[Need::Module]).timeout(60),
];

fn fio_verify_1(context: &mut Context) {
    fio_verify(context, 1);
}

fn fio_verify_4(context: &mut Context) {
    fio_verify(context, 4);
}

fn fio_verify(context: &mut Context, threads: usize) {
    context.load_module("");
    let disk = Disk::create("fio", 16384);
    let server = disk.serve_memory(threads);
    let seed = format!("--randseed={}", context.seed());
    let common = [
        "--name=verify",
        "--filename=/dev/fio",
        "--ioengine=libaio",
        "--direct=1",
        "--rw=randrw",
        "--bsrange=4k-1m",
        "--blockalign=4k",
        "--iodepth=32",
        "--size=64m",
        "--verify=crc32c",
        "--verify_backlog=64",
        "--verify_fatal=1",
        "--serialize_overlap=1",
        "--thread",
    ];
    let mut arguments = common.to_vec();
    arguments.push(&seed);
    run(120, "fio", &arguments);
    disk.destroy_and_join(server);
}

/// Buffers that begin and end in the middle of pages, and requests with several segments.
fn misaligned_direct_io(context: &mut Context) {
    context.load_module("");
    let disk = Disk::create("odd", 4096);
    let server = disk.serve_memory(2);
    let node = open_direct(&disk.path());
    for length in [1 << 20, 2 << 20] {
        for misalignment in [0, 512, 1024, 3584] {
            let mut written = Aligned::new(length, misalignment);
            written.fill(context.seed() ^ (length + misalignment) as u64);
            assert_eq!(rustix::io::pwrite(&node, written.bytes(), 0), Ok(length), "write at {misalignment}");
            let mut read = Aligned::new(length, 4096 - 512 - misalignment);
            assert_eq!(rustix::io::pread(&node, read.bytes_mut(), 0), Ok(length), "read at {misalignment}");
            assert!(written.bytes() == read.bytes(), "{length} bytes at {misalignment} differ");
        }
    }
    drop(node);
    disk.destroy_and_join(server);
}

/// Records the ranges of its requests.
#[derive(Debug)]
struct Recorder {
    memory: SparseMemory,
    seen: Mutex<Vec<(char, u64, u64)>>,
}

impl Recorder {
    fn new(bytes: u64) -> Arc<Self> {
        Arc::new(Self { memory: SparseMemory::new(bytes).expect("memory"), seen: Mutex::default() })
    }

    fn note(&self, kind: char, offset: u64, length: u64) {
        self.seen.lock().expect("the record").push((kind, offset, length));
    }

    fn take(&self) -> Vec<(char, u64, u64)> {
        std::mem::take(&mut *self.seen.lock().expect("the record"))
    }
}

impl Backend for Recorder {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.note('r', offset, buffer.len() as u64);
        Backend::read(&self.memory, offset, buffer)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.note('w', offset, data.len() as u64);
        Backend::write(&self.memory, offset, data)
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), Errno> {
        self.note('d', offset, length);
        Backend::discard(&self.memory, offset, length)
    }
}

fn cut_at_blocks(context: &mut Context) {
    context.load_module("");
    for (segments, limit) in [(0, 1 << 20), (256, 1 << 20), (1000, 1 << 20), (3, 3 * BLOCK), (1, BLOCK)] {
        let disk =
            Disk::create_with(&CreateOptions::new("cut", 4096).expect("options").max_segments(segments));
        let recorder = Recorder::new(16 << 20);
        let server = disk.serve(&recorder, 1);
        let node = open_direct(&disk.path());
        for misalignment in [0, 512] {
            let mut buffer = Aligned::new(4 << 20, misalignment);
            buffer.fill(context.seed());
            assert_eq!(rustix::io::pwrite(&node, buffer.bytes(), 4096), Ok(4 << 20));
            let mut requests = recorder.take();
            requests.retain(|request| request.0 == 'w');
            requests.sort_by_key(|request| request.1);
            let mut at = 4096;
            for (_, offset, length) in requests {
                assert_eq!(offset, at, "max_segments {segments}: a hole or an overlap");
                assert_eq!(length % BLOCK as u64, 0, "max_segments {segments}: cut at {length}");
                assert!(length <= limit as u64, "max_segments {segments}: {length} bytes at once");
                at += length;
            }
            assert_eq!(at, 4096 + (4 << 20), "max_segments {segments}: not all of it came");
        }
        drop(node);
        disk.destroy_and_join(server);
    }
}

fn discard_sizes(context: &mut Context) {
    const GIB: u64 = 1 << 30;
    context.load_module("");
    let disk = Disk::create("trim", 8 * GIB / 4096);
    let recorder = Recorder::new(8 * GIB);
    let server = disk.serve(&recorder, 1);
    let node = open_direct(&disk.path());
    let mut buffer = Aligned::new(1 << 20, 0);
    buffer.fill(1);
    assert_eq!(rustix::io::pwrite(&node, buffer.bytes(), 0), Ok(1 << 20));
    recorder.take();
    for length in [4096, 8 << 20, 4 * GIB - 4096] {
        discard(&disk.path(), 0, length).expect("discard");
        let seen = recorder.take();
        let discards: Vec<_> = seen.iter().filter(|request| request.0 == 'd').collect();
        assert_eq!(discards, [&('d', 0, length)], "a discard of {length} bytes comes as one");
    }
    assert_eq!(rustix::io::pread(&node, buffer.bytes_mut(), 0), Ok(1 << 20));
    assert!(buffer.bytes().iter().all(|byte| *byte == 0), "a discarded range reads as zeros here");
    recorder.take();
    discard(&disk.path(), 4096, 8 * GIB - 4096).expect("discard");
    let mut pieces = recorder.take();
    pieces.retain(|request| request.0 == 'd');
    pieces.sort_by_key(|request| request.1);
    let mut at = 4096;
    for (_, offset, length) in pieces {
        assert_eq!(offset, at);
        assert!(length <= 4 * GIB - 4096 && length % 4096 == 0, "a discard of {length}");
        at += length;
    }
    assert_eq!(at, 8 * GIB);
    drop(node);
    disk.destroy_and_join(server);
}

fn mkfs_discards(context: &mut Context) {
    context.load_module("");
    let disk = Disk::create("mkfs", 1 << 20);
    let recorder = Recorder::new(4 << 30);
    let server = disk.serve(&recorder, 2);
    run(50, "mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=1", "/dev/mkfs"]);
    let discarded: u64 =
        recorder.take().iter().filter(|request| request.0 == 'd').map(|request| request.2).sum();
    assert!(discarded >= 4 << 30, "mkfs discarded {discarded} of 4294967296 bytes");
    disk.destroy_and_join(server);
}

/// The device advertises a write-through cache, so fsync only has to write the dirty pages.
fn fsync_writes(context: &mut Context) {
    context.load_module("");
    let disk = Disk::create("sync", 1024);
    let recorder = Recorder::new(4 << 20);
    let server = disk.serve(&recorder, 1);
    assert_eq!(super::support::queue_setting("sync", "write_cache"), "write through");
    let node = std::fs::File::options().read(true).write(true).open(disk.path()).expect("open");
    std::os::unix::fs::FileExt::write_all_at(&node, &[7; 3 * BLOCK], 8192).expect("write");
    let dirty = recorder.take().iter().any(|request| request.0 == 'w');
    node.sync_all().expect("fsync");
    let written: u64 =
        recorder.take().iter().filter(|request| request.0 == 'w').map(|request| request.2).sum();
    assert!(dirty || written == 3 * BLOCK as u64, "fsync wrote {written} bytes");
    drop(node);
    drop_caches();
    let node = open_direct(&disk.path());
    let mut back = Aligned::new(3 * BLOCK, 0);
    assert_eq!(rustix::io::pread(node.as_fd(), back.bytes_mut(), 8192), Ok(3 * BLOCK));
    assert!(back.bytes().iter().all(|byte| *byte == 7));
    drop(node);
    disk.destroy();
    join(server);
}

/// The kernel counts requests when they end, discards too; the times advance, and nothing stays in flight.
fn iostat_is_sane(context: &mut Context) {
    const READS: usize = 0;
    const READ_SECTORS: usize = 2;
    const WRITES: usize = 4;
    const WRITE_SECTORS: usize = 6;
    const IN_FLIGHT: usize = 8;
    const TICKS: usize = 9;
    const DISCARDS: usize = 11;
    const DISCARD_SECTORS: usize = 13;
    context.load_module("");
    let disk = Disk::create("stat", 4096);
    let server = disk.serve_memory(1);
    let node = open_direct(&disk.path());
    let before = stat("stat");
    let mut buffer = Aligned::new(65536, 0);
    for round in 0..200 {
        assert_eq!(rustix::io::pwrite(&node, buffer.bytes(), round * 4096), Ok(65536));
        assert_eq!(rustix::io::pread(&node, buffer.bytes_mut(), round * 4096), Ok(65536));
    }
    discard(&disk.path(), 0, 1 << 20).expect("discard");
    wait_until(10, "in-flight to return to 0", || stat("stat")[IN_FLIGHT] == 0);
    let after = stat("stat");
    let moved = |field: usize| after[field] - before[field];
    assert_eq!((moved(READS), moved(READ_SECTORS)), (200, 200 * 128));
    assert_eq!((moved(WRITES), moved(WRITE_SECTORS)), (200, 200 * 128));
    assert_eq!((moved(DISCARDS), moved(DISCARD_SECTORS)), (1, 2048));
    assert!(moved(TICKS) > 0, "400 requests took no time");
    assert!(Path::new("/sys/block/stat/inflight").exists());
    drop(node);
    disk.destroy_and_join(server);
}
