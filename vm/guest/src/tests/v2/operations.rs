// SPDX-License-Identifier: MIT OR Apache-2.0
//! A backend sees what submitters do: every operation with its offset, length and flags.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate, fdatasync, fsync, open};
use rustix::io::{Errno, IoSlice, ReadWriteFlags, pread, pwrite, pwritev2};
use zosbd2::{Builder, Capabilities};

use super::super::support::{Aligned, discard, open_direct};
use super::support::{Disk, Recorder, Seen, Serving, threads};
use crate::guest::{Context, Need, Test, run, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_every_operation_is_seen", every_operation)
        .needs(&[Need::Module, Need::Tool("blkdiscard")])
        .timeout(60),
    Test::new("v2_fua_by_flush_where_there_is_none", fua_by_flush).needs(&[Need::Module]).timeout(60),
    Test::new("v2_no_flush_without_a_volatile_cache", write_through).needs(&[Need::Module]).timeout(60),
    Test::new("v2_what_is_not_offered_is_not_sent", not_offered).needs(&[Need::Module]).timeout(60),
    Test::new("v2_limits_in_sysfs", limits).needs(&[Need::Module]).timeout(60),
    Test::new("v2_read_only", read_only).needs(&[Need::Module]).timeout(60),
    Test::new("v2_block_sizes", block_sizes).needs(&[Need::Module]).timeout(60),
    Test::new("v2_requests_of_4_mib", large_requests).needs(&[Need::Module]).timeout(60),
    Test::new("v2_iostat_is_sane", iostat).needs(&[Need::Module]).timeout(60),
];

const MIB: u64 = 1 << 20;

fn everything(capabilities: &mut Capabilities) {
    capabilities.volatile_cache = true;
    capabilities.fua = true;
    capabilities.discard = true;
    capabilities.write_zeroes = true;
    capabilities.secure_erase = true;
}

/// A device of 64 MiB without partition scan, whose backend records its calls.
fn recorded(name: &str, change: impl FnOnce(&mut Capabilities)) -> (Disk, Serving, Arc<Recorder>) {
    let recorder = Recorder::new(64 * MIB, change);
    let builder = Builder::new(name).partition_scan(false);
    let (disk, serving) = Disk::serve(&builder, &recorder, threads(2));
    (disk, serving, recorder)
}

fn write(node: BorrowedFd<'_>, offset: u64, length: usize, flags: ReadWriteFlags) {
    let mut buffer = Aligned::new(length, 0);
    buffer.fill(offset);
    let written = pwritev2(node, &[IoSlice::new(buffer.bytes())], offset, flags);
    assert_eq!(written, Ok(length), "write at {offset}");
}

fn every_operation(context: &mut Context) {
    context.load_module("");
    let (disk, serving, recorder) = recorded("all", everything);
    let path = disk.path();
    let node = open_direct(&path);
    let plain = ReadWriteFlags::empty();
    recorder.take();

    write(node.as_fd(), 8192, 12288, plain);
    assert_eq!(recorder.take(), [Seen::Write { offset: 8192, length: 12288, fua: false }]);
    let mut buffer = Aligned::new(512, 0);
    assert_eq!(pread(&node, buffer.bytes_mut(), 9216), Ok(512));
    assert_eq!(recorder.take(), [Seen::Read(9216, 512)]);
    // Direct durable writes to a block device carry FUA, and are followed by a flush all the same.
    write(node.as_fd(), 4096, 4096, ReadWriteFlags::DSYNC);
    assert_eq!(recorder.take(), [Seen::Write { offset: 4096, length: 4096, fua: true }, Seen::Flush]);
    fsync(&node).expect("fsync");
    assert_eq!(recorder.take(), [Seen::Flush]);
    fdatasync(&node).expect("fdatasync");
    assert_eq!(recorder.take(), [Seen::Flush]);

    let text = path.to_str().expect("a plain path");
    run(20, "blkdiscard", &["-o", "1048576", "-l", "3145728", text]);
    assert_eq!(recorder.take_changes(), [Seen::Discard(MIB, 3 * MIB)]);
    run(20, "blkdiscard", &["-z", "-o", "1048576", "-l", "2097152", text]);
    let zeroed = |unmap| Seen::WriteZeroes { offset: MIB, length: 2 * MIB, unmap, fua: false };
    assert_eq!(recorder.take_changes(), [zeroed(false)]);
    run(20, "blkdiscard", &["-s", "-o", "4194304", "-l", "1048576", text]);
    assert_eq!(recorder.take_changes(), [Seen::SecureErase(4 * MIB, MIB)]);
    let keep = FallocateFlags::KEEP_SIZE;
    fallocate(&node, FallocateFlags::PUNCH_HOLE | keep, MIB, 2 * MIB).expect("punch a hole");
    assert_eq!(recorder.take_changes(), [zeroed(true)]);
    fallocate(&node, FallocateFlags::ZERO_RANGE | keep, MIB, 2 * MIB).expect("zero a range");
    assert_eq!(recorder.take_changes(), [zeroed(false)]);
    discard(&path, 512, 1024).expect("BLKDISCARD");
    assert_eq!(recorder.take_changes(), [Seen::Discard(512, 1024)]);

    // Buffered writes come as blocks of the page cache, and fsync sends a flush after them.
    let buffered = open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).expect("open");
    assert_eq!(pwrite(&buffered, &[1; 100], 10_000), Ok(100));
    fsync(&buffered).expect("fsync");
    let seen = recorder.take_changes();
    let [Seen::Write { offset, length, fua: false }, Seen::Flush] = seen[..] else { panic!("{seen:?}") };
    assert!(offset <= 10_000 && offset + length >= 10_100 && length <= 8192, "{seen:?}");
    drop((node, buffered));
    // O_DSYNC makes each write durable.
    let durable = open(&path, OFlags::RDWR | OFlags::DIRECT | OFlags::DSYNC, Mode::empty()).expect("open");
    recorder.take();
    write(durable.as_fd(), 0, 4096, plain);
    assert_eq!(recorder.take(), [Seen::Write { offset: 0, length: 4096, fua: true }, Seen::Flush]);
    drop(durable);
    disk.destroy_and_join(serving);
}

fn fua_by_flush(context: &mut Context) {
    context.load_module("");
    let (disk, serving, recorder) = recorded("nofua", |capabilities| capabilities.volatile_cache = true);
    let node = open_direct(&disk.path());
    recorder.take();
    write(node.as_fd(), 4096, 4096, ReadWriteFlags::DSYNC);
    // One for the FUA, one for the sync after it.
    let write = Seen::Write { offset: 4096, length: 4096, fua: false };
    assert_eq!(recorder.take(), [write, Seen::Flush, Seen::Flush]);
    drop(node);
    disk.destroy_and_join(serving);
}

fn write_through(context: &mut Context) {
    context.load_module("");
    let (disk, serving, recorder) = recorded("through", |_| {});
    let node = open_direct(&disk.path());
    recorder.take();
    write(node.as_fd(), 4096, 4096, ReadWriteFlags::DSYNC);
    fsync(&node).expect("fsync");
    assert_eq!(recorder.take(), [Seen::Write { offset: 4096, length: 4096, fua: false }]);
    drop(node);
    disk.destroy_and_join(serving);
}

fn not_offered(context: &mut Context) {
    context.load_module("");
    let (disk, serving, recorder) = recorded("plain", |_| {});
    let path = disk.path();
    let node = open_direct(&path);
    write(node.as_fd(), 0, 65536, ReadWriteFlags::empty());
    recorder.take();
    assert_eq!(discard(&path, 0, 65536), Err(Errno::OPNOTSUPP));
    assert_eq!(recorder.take_changes(), []);
    // The kernel zeroes by writing.
    let mode = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
    fallocate(&node, mode, 4096, 8192).expect("zero a range");
    let seen = recorder.take_changes();
    assert_eq!(seen, [Seen::Write { offset: 4096, length: 8192, fua: false }]);
    let mut buffer = Aligned::new(16384, 0);
    assert_eq!(pread(&node, buffer.bytes_mut(), 0), Ok(16384));
    assert!(buffer.bytes()[4096..12288].iter().all(|byte| *byte == 0));
    assert!(buffer.bytes()[12288..].iter().any(|byte| *byte != 0));
    drop(node);
    disk.destroy_and_join(serving);
}

fn limits(context: &mut Context) {
    context.load_module("");
    let recorder = Recorder::new(64 * MIB, |capabilities| {
        everything(capabilities);
        capabilities.rotational = true;
    });
    let builder = Builder::new("limits")
        .logical_block_size(1024)
        .physical_block_size(8192)
        .io_min(16384)
        .io_opt(1 << 20)
        .max_io_bytes(2 << 20)
        .discard_granularity(65536)
        .max_discard_bytes(32 << 20)
        .max_write_zeroes_bytes(16 << 20)
        .depth(77)
        .serial("A serial, with 31 characters ..");
    let (disk, serving) = Disk::serve(&builder, &recorder, threads(1));
    for (name, wanted) in [
        ("size", "131072"),
        ("ro", "0"),
        ("serial", "A serial, with 31 characters .."),
        ("queue/logical_block_size", "1024"),
        ("queue/physical_block_size", "8192"),
        ("queue/minimum_io_size", "16384"),
        ("queue/optimal_io_size", "1048576"),
        ("queue/max_hw_sectors_kb", "2048"),
        ("queue/max_sectors_kb", "2048"),
        ("queue/discard_granularity", "65536"),
        ("queue/discard_max_bytes", "33554432"),
        ("queue/write_zeroes_max_bytes", "16777216"),
        ("queue/rotational", "1"),
        ("queue/write_cache", "write back"),
        ("queue/fua", "1"),
        ("queue/nr_requests", "77"),
        ("queue/iostats", "1"),
        ("queue/add_random", "0"),
    ] {
        assert_eq!(disk.setting(name), wanted, "{name}");
    }
    disk.destroy_and_join(serving);
    let (disk, serving, _) = recorded("defaults", |_| {});
    for (name, wanted) in [
        ("queue/logical_block_size", "512"),
        ("queue/physical_block_size", "512"),
        ("queue/max_sectors_kb", "4096"),
        ("queue/discard_max_bytes", "0"),
        ("queue/write_zeroes_max_bytes", "0"),
        ("queue/rotational", "0"),
        ("queue/write_cache", "write through"),
        ("queue/fua", "0"),
        ("serial", ""),
    ] {
        assert_eq!(disk.setting(name), wanted, "{name}");
    }
    disk.destroy_and_join(serving);
}

fn read_only(context: &mut Context) {
    context.load_module("");
    let (disk, serving, recorder) = recorded("ro", |capabilities| capabilities.read_only = true);
    assert_eq!(disk.setting("ro"), "1");
    let path = disk.path();
    let flags = OFlags::RDWR | OFlags::DIRECT;
    match open(&path, flags, Mode::empty()) {
        Err(error) => assert!(matches!(error, Errno::ACCESS | Errno::PERM | Errno::ROFS), "{error}"),
        Ok(node) => {
            let buffer = Aligned::new(4096, 0);
            assert_eq!(pwrite(&node, buffer.bytes(), 0), Err(Errno::PERM));
        }
    }
    let node = open(&path, OFlags::RDONLY | OFlags::DIRECT, Mode::empty()).expect("open to read");
    let mut buffer = Aligned::new(4096, 0);
    assert_eq!(pread(&node, buffer.bytes_mut(), 0), Ok(4096));
    assert_eq!(recorder.take_changes(), []);
    drop(node);
    disk.destroy_and_join(serving);
}

fn block_sizes(context: &mut Context) {
    context.load_module("");
    for block in [512, 1024, 2048, 4096_u32] {
        let name = format!("block{block}");
        let (disk, serving, recorder) =
            recorded(&name, |capabilities| capabilities.logical_block_size = block);
        let node = open_direct(&disk.path());
        let length = block as usize;
        recorder.take();
        for start in [1, 3, 7] {
            let offset = start * u64::from(block);
            write(node.as_fd(), offset, 3 * length, ReadWriteFlags::empty());
            let mut buffer = Aligned::new(3 * length, 0);
            assert_eq!(pread(&node, buffer.bytes_mut(), offset), Ok(3 * length));
            let mut wanted = Aligned::new(3 * length, 0);
            wanted.fill(offset);
            assert!(buffer.bytes() == wanted.bytes(), "blocks of {block} at {offset}");
            let bytes = 3 * length as u64;
            let write = Seen::Write { offset, length: bytes, fua: false };
            assert_eq!(recorder.take(), [write, Seen::Read(offset, bytes)]);
        }
        if block > 512 {
            let mut buffer = Aligned::new(512, 0);
            assert_eq!(pread(&node, buffer.bytes_mut(), 512), Err(Errno::INVAL), "half a block of {block}");
        }
        drop(node);
        disk.destroy_and_join(serving);
    }
}

/// Requests of 4 MiB need no physically contiguous memory: the block layer joins pages.
fn large_requests(context: &mut Context) {
    context.load_module("");
    let (disk, serving, recorder) = recorded("large", |_| {});
    let node = open_direct(&disk.path());
    recorder.take();
    for (length, offset) in [(4 * MIB, 0), (4 * MIB, 512), (9 * MIB, 1536), (4 * MIB - 512, 4096)] {
        let size = usize::try_from(length).expect("a size");
        write(node.as_fd(), offset, size, ReadWriteFlags::empty());
        let mut back = Aligned::new(size, 0);
        assert_eq!(pread(&node, back.bytes_mut(), offset), Ok(size));
        let mut wanted = Aligned::new(size, 0);
        wanted.fill(offset);
        assert!(back.bytes() == wanted.bytes(), "{length} bytes at {offset}");
        let seen = recorder.take();
        // Cut at 4 MiB or joined later; nothing twice, nothing left out.
        let mut at = offset;
        let writes = seen.iter().filter_map(|seen| match *seen {
            Seen::Write { offset, length, .. } => Some((offset, length)),
            _ => None,
        });
        let mut writes: Vec<_> = writes.collect();
        writes.sort_unstable();
        for (start, bytes) in &writes {
            assert_eq!(*start, at, "{seen:?}");
            assert!(*bytes <= 4 * MIB, "{seen:?}");
            at += bytes;
        }
        assert_eq!(at, offset + length, "{seen:?}");
        if length == 4 * MIB {
            let longest = writes.iter().map(|(_, bytes)| *bytes).max();
            assert!(longest > Some(MIB), "no request is longer than 1 MiB: {seen:?}");
        }
    }
    drop(node);
    disk.destroy_and_join(serving);
}

/// The numbers in `stat`.
fn stat(disk: &Disk) -> Vec<u64> {
    disk.setting("stat").split_whitespace().map(|word| word.parse().expect("a number")).collect()
}

/// The numbers in `stat` when nothing is in flight: the block layer wakes a submitter before it counts the
/// request.
fn settled(disk: &Disk) -> Vec<u64> {
    wait_until(20, "nothing to be in flight", || stat(disk)[8] == 0);
    stat(disk)
}

fn iostat(context: &mut Context) {
    context.load_module("");
    let (disk, serving, _) = recorded("iostat", everything);
    let node = open_direct(&disk.path());
    let before = stat(&disk);
    for index in 0..64 {
        write(node.as_fd(), index * 8192, 4096, ReadWriteFlags::empty());
    }
    let mut buffer = Aligned::new(65536, 0);
    assert_eq!(pread(&node, buffer.bytes_mut(), 0), Ok(65536));
    discard(&disk.path(), MIB, MIB).expect("discard");
    fsync(&node).expect("fsync");
    // The kernel also counts a flush as an empty write. 6.1 does not count it as in flight.
    wait_until(20, "the flush to be counted", || stat(&disk)[4] >= before[4] + 65);
    let after = settled(&disk);
    let grown = |index: usize| after[index] - before[index];
    assert_eq!((grown(0), grown(2)), (1, 128), "reads and their sectors: {after:?}");
    assert_eq!((grown(4), grown(6)), (65, 512), "writes and their sectors: {after:?}");
    assert_eq!((grown(11), grown(13)), (1, 2048), "discards and their sectors: {after:?}");
    assert!(grown(15) >= 1, "flushes: {after:?}");
    // Times are counted in ms, and a hundred requests take some.
    wait_until(20, "the clocks to move", || {
        write(node.as_fd(), 0, 4096, ReadWriteFlags::empty());
        let now = settled(&disk);
        now[7] > before[7] && now[9] > before[9] && now[10] > before[10]
    });
    drop(node);
    disk.destroy_and_join(serving);
}
