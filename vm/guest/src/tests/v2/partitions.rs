// SPDX-License-Identifier: MIT OR Apache-2.0
//! Partition scans: when they run, and when they are refused.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, pread, pwrite};
use zosbd2::{Backend as _, Builder};
use zosbd2_backends::Ram;

use super::super::support::{Aligned, open_direct};
use super::support::{Disk, by_hand, plain, threads};
use super::teardown;
use crate::guest::{Context, Need, Test, raw, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_partitions_are_found", found).needs(&[Need::Module]).timeout(60),
    Test::new("v2_partitions_know_their_start", geometry).needs(&[Need::Module]).timeout(60),
    Test::new("v2_partitions_that_nobody_wants", unwanted).needs(&[Need::Module]).timeout(60),
    Test::new("v2_partitions_beside_an_owner", beside_an_owner).needs(&[Need::Module]).timeout(240),
];

const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;
/// Rescan partitions.
const BLKRRPART: u32 = 0x125f;
/// Change one partition.
const BLKPG: u32 = 0x1269;
const BLKPG_ADD_PARTITION: u32 = 1;
const BLKPG_DEL_PARTITION: u32 = 2;

/// A table of this many partitions of 8 MiB, the first of which begins at 1 MiB.
fn partition_table(count: usize) -> [u8; 512] {
    let mut table = [0; 512];
    for (entry, start) in (0..count).zip((2048_u32..).step_by(16384)) {
        let at = 446 + 16 * entry;
        table[at + 4] = 0x83;
        table[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        table[at + 12..at + 16].copy_from_slice(&16384_u32.to_le_bytes());
    }
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    table
}

/// Memory with such a table.
pub(super) fn partitioned(size: u64, count: usize) -> Arc<Ram> {
    let ram = Ram::new(size).expect("memory");
    ram.write(0, &mut partition_table(count), false).expect("write the table");
    Arc::new(ram)
}

/// Adds or removes partition 1, of 8 MiB from 1 MiB on (`struct blkpg_ioctl_arg`).
fn change_first(node: BorrowedFd<'_>, operation: u32) -> Result<(), Errno> {
    const PARTITION_BYTES: u32 = 152;
    let pages = raw::Pages::new(raw::PAGE);
    let partition = pages.at_end(PARTITION_BYTES as usize);
    pages.put(partition, &MIB.to_ne_bytes());
    pages.put(partition + 8, &(8 * MIB).to_ne_bytes());
    pages.put(partition + 16, &1_u32.to_ne_bytes());
    let argument = partition - 24;
    pages.put(argument, &operation.to_ne_bytes());
    pages.put(argument + 8, &PARTITION_BYTES.to_ne_bytes());
    pages.put(argument + 16, &(partition as u64).to_ne_bytes());
    raw::ioctl(node, BLKPG, argument).map(drop)
}

const FIRST: &str = "/dev/zosbd2-parts1";

fn found(context: &mut Context) {
    context.load_module("");
    let builder = Builder::new("parts");
    let [first, second] = [FIRST, "/dev/zosbd2-parts2"].map(Path::new);
    // The only serving thread starts the device, and the kernel finds the partition.
    let ram = partitioned(SIZE, 1);
    let (disk, serving) = Disk::serve(&builder, &ram, threads(1));
    disk.wait_for_partition(FIRST);
    // A write to the partition lands where the table says.
    let inner = open_direct(first);
    let mut buffer = Aligned::new(4096, 0);
    buffer.fill(4096);
    assert_eq!(pwrite(&inner, buffer.bytes(), 4096), Ok(4096));
    let mut stored = vec![0; 4096];
    ram.read(MIB + 4096, &mut stored).expect("read");
    assert!(stored == buffer.bytes(), "the write is not where the table says");
    drop(inner);
    // On request.
    let node = open_direct(&disk.path());
    let mut buffer = Aligned::new(512, 0);
    buffer.bytes_mut().copy_from_slice(&partition_table(2));
    assert_eq!(pwrite(&node, buffer.bytes(), 0), Ok(512));
    assert!(!second.exists());
    raw::ioctl(node.as_fd(), BLKRRPART, 0).expect("read the table again");
    wait_until(20, "the other partition", || second.exists());
    drop(node);
    disk.destroy_and_join(serving);
    assert!(!first.exists() && !second.exists(), "a partition's node is still there");
    // For all block sizes, and if the last page is incomplete.
    for (block, size) in [(4096, 512 * MIB), (1024, 512 * MIB + 1024), (512, SIZE + 512)] {
        let builder = builder.clone().logical_block_size(block);
        let (disk, serving) = Disk::serve(&builder, &partitioned(size, 1), threads(1));
        disk.wait_for_partition(FIRST);
        disk.destroy_and_join(serving);
    }
}

/// `HDIO_GETGEO` names the start of a partition, as partitioning programs expect, and the size of the disk.
fn geometry(context: &mut Context) {
    /// `struct hd_geometry`, and the command that asks for it.
    const HDIO_GETGEO: u32 = 0x0301;
    const GEOMETRY_BYTES: usize = 16;
    context.load_module("");
    let (disk, serving) = Disk::serve(&Builder::new("parts"), &partitioned(SIZE, 1), threads(1));
    disk.wait_for_partition(FIRST);
    let start_and_sectors = |path: &Path| {
        let node = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).expect("open");
        let pages = raw::Pages::new(raw::PAGE);
        let argument = pages.at_end(GEOMETRY_BYTES);
        raw::ioctl(node.as_fd(), HDIO_GETGEO, argument).expect("HDIO_GETGEO");
        let field = pages.get(argument, GEOMETRY_BYTES);
        let cylinders = u64::from(u16::from_ne_bytes([field[2], field[3]]));
        let start = u64::from_ne_bytes(field[8..].try_into().expect("eight bytes"));
        (start, u64::from(field[0]) * u64::from(field[1]) * cylinders)
    };
    assert_eq!(start_and_sectors(&disk.path()), (0, SIZE / 512));
    assert_eq!(start_and_sectors(Path::new(FIRST)), (MIB / 512, SIZE / 512));
    disk.destroy_and_join(serving);
}

/// A device with the flag no-partition-scan is never scanned: START does not scan it, and BLKRRPART is refused, which udev
/// calls whenever a writer closes the node. BLKPG adds and removes partitions as on any disk.
fn unwanted(context: &mut Context) {
    context.load_module("");
    let builder = Builder::new("whole").partition_scan(false);
    let part = Path::new("/dev/zosbd2-whole1");
    let (disk, serving) = Disk::serve(&builder, &partitioned(SIZE, 1), threads(1));
    let reads = || disk.server.stats(0).expect("stats").operations[0].committed;
    let node = open_direct(&disk.path());
    let mut buffer = Aligned::new(512, 0);
    assert_eq!(pread(&node, buffer.bytes_mut(), 0), Ok(512));
    assert_eq!(pwrite(&node, buffer.bytes(), 0), Ok(512));
    drop(node);
    let node = open(disk.path(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).expect("open");
    let before = reads();
    assert_eq!(raw::ioctl(node.as_fd(), BLKRRPART, 0), Err(Errno::INVAL));
    assert_eq!(reads(), before, "the table was read");
    assert!(!part.exists());
    change_first(node.as_fd(), BLKPG_ADD_PARTITION).expect("add a partition");
    wait_until(20, "the partition", || part.exists());
    let mut inner = Aligned::new(4096, 0);
    assert_eq!(pread(open_direct(part), inner.bytes_mut(), 0), Ok(4096));
    change_first(node.as_fd(), BLKPG_DEL_PARTITION).expect("remove it");
    wait_until(20, "the partition to go", || !part.exists());
    drop(node);
    disk.destroy_and_join(serving);
}

/// A program opens the node exclusively after START has returned and before the scan has run. The scan is then left out: the
/// server gets no read. The test delays the scan behind 256 others, as many as the module runs at a time.
fn beside_an_owner(context: &mut Context) {
    const DISKS: usize = 270;
    context.load_module("max_devices=300");
    let others: Vec<_> = (0..DISKS)
        .map(|index| {
            let disk = Disk::create(&plain(&teardown::name(index)).depth(1).partition_scan(true));
            disk.server.start().expect("start");
            disk
        })
        .collect();
    wait_until(60, "many scans to begin", || {
        (0..DISKS).filter(|index| teardown::outstanding(*index) > 0).count() >= 256
    });
    let (disk, _server) = by_hand(&plain("owned").partition_scan(true));
    let exclusive = OFlags::RDWR | OFlags::EXCL | OFlags::CLOEXEC;
    let owner = open(disk.path(), exclusive, Mode::empty()).expect("open it exclusively");
    // Its scan runs after the one of "owned".
    let (after, serving) = Disk::serve(&Builder::new("after"), &partitioned(SIZE, 1), threads(1));
    let asked = || disk.server.stats(0).expect("stats").queued;
    assert_eq!(asked(), 0, "the scan did not wait for its turn");
    teardown::destroy(0..DISKS);
    after.wait_for_partition("/dev/zosbd2-after1");
    assert_eq!(asked(), 0, "a disk that is open exclusively was scanned");
    drop(owner);
    after.destroy_and_join(serving);
    disk.destroy(true);
    drop(others);
}
