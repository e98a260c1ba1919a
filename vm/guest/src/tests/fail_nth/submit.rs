// SPDX-License-Identifier: MIT OR Apache-2.0
//! The submitters' side: a failure in a read, a write or a flush fails that call, and does not harm the device.
//!
//! The server is another thread, without injected failures.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, fdatasync, open};
use rustix::io::{Errno, pread, pwrite};
use zosbd2::{Builder, Capabilities};

use super::{ERRORS, MIB, descriptors, each, test};
use crate::guest::raw::{self, PAGE, Pages};
use crate::guest::{Context, FailNth, Test};
use crate::tests::support::{Aligned, open_direct};
use crate::tests::v2::support::{Disk, Recorder, Serving, threads};

pub(super) const TESTS: &[Test] = &[
    test("fail_nth_open", opened),
    test("fail_nth_direct", direct),
    test("fail_nth_cached", cached),
    test("fail_nth_discard", discarded),
];

const BYTES: usize = 65536;

fn served(name: &str) -> (Disk, Serving) {
    let capabilities = |capabilities: &mut Capabilities| capabilities.volatile_cache = true;
    let ram = Recorder::new(4 * MIB, capabilities);
    Disk::serve(&Builder::new(name).partition_scan(false), &ram, threads(1))
}

/// The data on the device, bypassing all caches.
fn contents(node: &OwnedFd) -> Vec<u8> {
    let mut buffer = Aligned::new(BYTES, 0);
    assert_eq!(pread(node, buffer.bytes_mut(), 0), Ok(BYTES));
    buffer.bytes().to_vec()
}

/// Asserts that every block equals that of one of these buffers.
#[track_caller]
fn assert_blocks(found: &[u8], one: &[u8], other: &[u8]) {
    for (index, block) in found.chunks(512).enumerate() {
        let range = index * 512..index * 512 + 512;
        assert!(block == &one[range.clone()] || block == &other[range], "block {index} is torn");
    }
}

fn opened(context: &mut Context) {
    context.load_module("");
    let faults = FailNth::new(context);
    let (disk, serving) = served("opened");
    let path = std::ffi::CString::new(disk.path().into_os_string().into_encoded_bytes()).expect("a path");
    let before = descriptors();
    each(context, &faults, "open and close", |round| {
        let result = round.call(|| open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map(drop));
        round.check(&result, ERRORS);
        assert_eq!(descriptors(), before);
    });
    // The kernel sees the node as closed.
    disk.destroy(false);
    assert_eq!(serving.join().expect("the server panicked").expect("the server"), zosbd2::End::Gone);
}

fn direct(context: &mut Context) {
    context.load_module("");
    let faults = FailNth::new(context);
    let (disk, serving) = served("direct");
    let node = open_direct(&disk.path());
    let mut old = contents(&node);
    let mut new = Aligned::new(BYTES, 0);
    let mut seed = 0;
    each(context, &faults, "write with O_DIRECT", |round| {
        seed += 1;
        new.fill(seed);
        let result = round.call(|| pwrite(&node, new.bytes(), 0));
        round.check(&result, ERRORS);
        let found = contents(&node);
        let written = result.unwrap_or(0);
        assert!(found[..written] == new.bytes()[..written], "{written} bytes were not written");
        assert_blocks(&found, &old, new.bytes());
        assert_eq!(pwrite(&node, new.bytes(), 0), Ok(BYTES));
        old = contents(&node);
        assert!(old == new.bytes());
    });
    let mut buffer = Aligned::new(BYTES, 0);
    each(context, &faults, "read with O_DIRECT", |round| {
        buffer.bytes_mut().fill(0);
        let result = round.call(|| pread(&node, buffer.bytes_mut(), 0));
        round.check(&result, ERRORS);
        let read = result.unwrap_or(0);
        assert!(buffer.bytes()[..read] == old[..read], "wrong data was read");
    });
    drop(node);
    disk.destroy_and_join(serving);
}

fn cached(context: &mut Context) {
    context.load_module("");
    let faults = FailNth::new(context);
    let (disk, serving) = served("cached");
    let node = open(disk.path(), OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).expect("open");
    let past = open_direct(&disk.path());
    let mut data = Aligned::new(BYTES, 0);
    let mut seed = 0;
    for step in ["write", "fdatasync", "read"] {
        each(context, &faults, &format!("{step} through the page cache"), |round| {
            seed += 1;
            let old = contents(&past);
            data.fill(seed);
            let mut back = vec![1; BYTES];
            if step == "write" {
                let result = round.call(|| pwrite(&node, data.bytes(), 0));
                round.check(&result, ERRORS);
            }
            // Write again, whatever the data was.
            assert_eq!(pwrite(&node, data.bytes(), 0), Ok(BYTES));
            if step == "fdatasync" {
                let result = round.call(|| fdatasync(&node));
                round.check(&result, &[Errno::NOMEM, Errno::IO]);
                if result.is_err() {
                    assert_blocks(&contents(&past), &old, data.bytes());
                    assert_eq!(pwrite(&node, data.bytes(), 0), Ok(BYTES));
                }
            }
            assert_eq!(fdatasync(&node), Ok(()));
            assert!(contents(&past) == data.bytes(), "flushed data is missing");
            crate::guest::drop_caches();
            if step == "read" {
                let result = round.call(|| pread(&node, &mut back[..], 0));
                round.check(&result, &[Errno::NOMEM, Errno::FAULT, Errno::IO]);
                let read = result.unwrap_or(0);
                assert!(back[..read] == data.bytes()[..read], "wrong data was read");
            }
            assert_eq!(pread(&node, &mut back[..], 0), Ok(BYTES));
            assert!(back == data.bytes(), "wrong data was read");
        });
    }
    drop((node, past));
    disk.destroy_and_join(serving);
}

fn discarded(context: &mut Context) {
    const BLKDISCARD: u32 = 0x1277;
    context.load_module("");
    let faults = FailNth::new(context);
    let capabilities = |capabilities: &mut Capabilities| capabilities.discard = true;
    let ram: Arc<Recorder> = Recorder::new(4 * MIB, capabilities);
    let (disk, serving) = Disk::serve(&Builder::new("trim").partition_scan(false), &ram, threads(1));
    let node = open_direct(&disk.path());
    let mut data = Aligned::new(BYTES, 0);
    data.fill(7);
    each(context, &faults, "BLKDISCARD", |round| {
        assert_eq!(pwrite(&node, data.bytes(), 0), Ok(BYTES));
        let range = Pages::new(PAGE);
        let at = range.at_end(16);
        range.put(at, &[0_u64.to_ne_bytes(), (BYTES as u64).to_ne_bytes()].concat());
        let result = round.call(|| raw::ioctl(node.as_fd(), BLKDISCARD, at));
        round.check(&result, ERRORS);
        let found = contents(&node);
        assert_blocks(&found, data.bytes(), &vec![0; BYTES]);
        assert!(result.is_err() || found.iter().all(|byte| *byte == 0), "it is still there");
    });
    drop(node);
    disk.destroy_and_join(serving);
}
