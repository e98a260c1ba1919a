// SPDX-License-Identifier: MIT OR Apache-2.0
//! What submitters see of errors that the kernel would take for something other than a failure.

use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate, fdatasync, fsync};
use rustix::io::{Errno, IoSlice, ReadWriteFlags, pwritev2};
use zosbd2::Builder;
use zosbd2_faults::{Fault, FaultPlan};

use super::super::support::{Aligned, discard, open_direct, read_in_thread, write_in_thread};
use super::support::{Disk, Recorder, Serving, threads};
use crate::guest::{Context, Need, Test};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_flush_that_is_not_supported", flushes).needs(&[Need::Module]).timeout(60),
    Test::new("v2_durable_write_that_is_not_supported", durable_writes).needs(&[Need::Module]).timeout(60),
    Test::new("v2_errors_that_mean_something_else", reads_and_writes).needs(&[Need::Module]).timeout(60),
    Test::new("v2_zeroes_that_are_not_supported", zeroes).needs(&[Need::Module]).timeout(60),
];

const BLOCK: u64 = 4096;

/// Errors that somebody above takes for something else, whatever the operation. 78 is `EREMCHG`.
const MISTAKEN: [&str; 9] =
    ["EOPNOTSUPP", "EAGAIN", "78", "ENODATA", "ENOMEM", "EBUSY", "EINVAL", "62", "EOVERFLOW"];

/// A disk with all operations, whose server fails as the texts say.
fn failing(texts: &[String]) -> (Disk, Serving) {
    let recorder = Recorder::new(16 << 20, |capabilities| {
        capabilities.volatile_cache = true;
        capabilities.fua = true;
        capabilities.discard = true;
        capabilities.write_zeroes = true;
    });
    let fault = |text: &String| text.parse::<Fault>().unwrap_or_else(|error| panic!("{error}"));
    let plan = texts.iter().fold(FaultPlan::new(1), |plan, text| plan.with(fault(text)));
    Disk::serve(&Builder::new("failing").partition_scan(false), &recorder, threads(1).layer(plan))
}

/// fsync of the disk and of a file system's journal: only `EIO` says that no data is durable.
fn flushes(context: &mut Context) {
    context.load_module("");
    let numbered = || (1..).zip(MISTAKEN.iter().chain(&["ENOSPC", "ETIMEDOUT", "EIO"]));
    let texts: Vec<_> = numbered().map(|(nth, errno)| format!("flush:nth={nth}:errno={errno}")).collect();
    let (disk, serving) = failing(&texts);
    assert_eq!(write(&disk.path(), 0), Ok(4096));
    let node = open_direct(&disk.path());
    for (nth, errno) in numbered() {
        let flushed = if nth % 2 == 0 { fdatasync(&node) } else { fsync(&node) };
        assert_eq!(flushed, Err(Errno::IO), "a flush that failed with {errno}");
    }
    assert_eq!(fsync(&node), Ok(()));
    drop(node);
    disk.destroy_and_join(serving);
}

fn durable_writes(context: &mut Context) {
    context.load_module("");
    let said = [("ENOSPC", Errno::NOSPC), ("ETIMEDOUT", Errno::TIMEDOUT), ("EIO", Errno::IO)];
    let numbered = || (0..).zip(MISTAKEN.iter().map(|errno| (*errno, Errno::IO)).chain(said));
    let texts: Vec<_> = numbered().map(|(place, (errno, _))| at("write", place, errno)).collect();
    let (disk, serving) = failing(&texts);
    let node = open_direct(&disk.path());
    let data = Aligned::new(4096, 0);
    for (place, (errno, told)) in numbered() {
        let slices = [IoSlice::new(data.bytes())];
        let written = pwritev2(&node, &slices, place * BLOCK, ReadWriteFlags::DSYNC);
        assert_eq!(written, Err(told), "a durable write that failed with {errno}");
    }
    drop(node);
    disk.destroy_and_join(serving);
}

fn reads_and_writes(context: &mut Context) {
    context.load_module("");
    let said = [
        ("EIO", Errno::IO),
        ("ENODEV", Errno::NODEV),
        ("EBADE", Errno::BADE),
        ("ENOLINK", Errno::NOLINK),
        ("EILSEQ", Errno::ILSEQ),
        ("ETIMEDOUT", Errno::TIMEDOUT),
        ("EREMOTEIO", Errno::REMOTEIO),
    ];
    let told = || MISTAKEN.map(|errno| (errno, Errno::IO)).into_iter().chain(said);
    let numbered = || (0..).zip(told());
    let mut texts: Vec<_> = numbered().map(|(place, (errno, _))| at("read+write", place, errno)).collect();
    let full = 100;
    texts.push(at("read+write", full, "ENOSPC"));
    let (disk, serving) = failing(&texts);
    let path = disk.path();
    for (place, (errno, told)) in numbered() {
        assert_eq!(write(&path, place), Err(told), "a write that failed with {errno}");
        assert_eq!(read(&path, place), Err(told), "a read that failed with {errno}");
    }
    assert_eq!((write(&path, full), read(&path, full)), (Err(Errno::NOSPC), Err(Errno::IO)), "a full store");
    disk.destroy_and_join(serving);
}

/// A server may answer that it does not support the operation: the kernel then writes zeros, or does without
/// discards.
fn zeroes(context: &mut Context) {
    context.load_module("");
    let texts = ["write-zeroes:errno=EOPNOTSUPP", "discard:errno=EOPNOTSUPP"].map(str::to_owned);
    let (disk, serving) = failing(&texts);
    let path = disk.path();
    assert_eq!(write(&path, 0), Ok(4096));
    let node = open_direct(&path);
    let zeroed = fallocate(&node, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, 0, BLOCK);
    assert_eq!(zeroed, Ok(()));
    drop(node);
    let found = read_in_thread(path.clone(), 0, 4096).join().expect("reader");
    assert!(found == Ok(vec![0; 4096]), "the range reads as zeros");
    assert_eq!(discard(&path, 0, BLOCK), Ok(()));
    disk.destroy_and_join(serving);
}

/// Faults for these operations, at this place.
fn at(operations: &str, place: u64, errno: &str) -> String {
    format!("{operations}:{}K-{}K:errno={errno}", place * 4, (place + 1) * 4)
}

fn write(path: &Path, place: u64) -> Result<usize, Errno> {
    write_in_thread(path.to_owned(), place * BLOCK, 7 + place, 4096).join().expect("writer")
}

fn read(path: &Path, place: u64) -> Result<usize, Errno> {
    read_in_thread(path.to_owned(), place * BLOCK, 4096).join().expect("reader").map(|data| data.len())
}
