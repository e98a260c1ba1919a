// SPDX-License-Identifier: MIT OR Apache-2.0
//! Version 1's calls.

use zosbd2::Observer;
use zosbd2::v1::Control as Control1;
use zosbd2_abi::v1;

use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd};

use super::{OUT_OF_MEMORY, control_node, descriptors, devices, each, test};
use crate::guest::raw::{self, PAGE, Pages};
use crate::guest::{Context, FailNth, Round, Test, wait_until};
use crate::tests::support::{BLOCK, Disk as Disk1, Manual, discard, read_in_thread, write_in_thread};
use crate::tests::v2::support::control;

pub(super) const TESTS: &[Test] = &[
    test("fail_nth_v1_control", control_calls),
    test("fail_nth_v1_create", create).allows(OUT_OF_MEMORY).timeout(1200),
    test("fail_nth_v1_destroy", destroy),
    test("fail_nth_v1_operation", operation),
];

/// Version 1 also uses this error for memory that cannot be accessed.
const ERRORS1: &[Errno] = &[Errno::NOMEM, Errno::INVAL];

/// The round's call with these bytes.
#[track_caller]
fn call1(
    round: &mut Round<'_>,
    fd: BorrowedFd<'_>,
    command: u32,
    argument: &[u8],
) -> (Result<i32, Errno>, Vec<u8>) {
    let pages = Pages::new(PAGE);
    let at = pages.at_end(argument.len());
    pages.put(at, argument);
    let result = round.call(|| raw::ioctl(fd, command, at));
    round.check(&result, ERRORS1);
    (result, pages.get(at, argument.len()))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn control_calls(context: &mut Context) {
    context.load_module("");
    let faults = FailNth::new(context);
    let disk = Disk1::create("zosbd2old", 1024);
    let node = control_node();
    let handle = disk.handle.raw();
    let before = descriptors();
    each(context, &faults, "version 1: handle by name", |round| {
        let mut asked = [0; 40];
        asked[..9].copy_from_slice(b"zosbd2old");
        let (result, bytes) = call1(round, node.as_fd(), v1::IOCTL_HANDLE_BY_NAME, &asked);
        assert!(result.is_err() || word(&bytes, 32) == handle);
    });
    each(context, &faults, "version 1: list", |round| {
        let (result, bytes) = call1(round, node.as_fd(), v1::IOCTL_LIST, &[0; 204]);
        assert!(result.is_err() || (word(&bytes, 0), word(&bytes, 4)) == (1, handle));
    });
    each(context, &faults, "version 1: status", |round| {
        let mut asked = [0; 72];
        asked[..4].copy_from_slice(&handle.to_ne_bytes());
        let (result, bytes) = call1(round, node.as_fd(), v1::IOCTL_STATUS, &asked);
        assert!(result.is_err() || word(&bytes, 36) == handle);
    });
    assert_eq!(descriptors(), before);
    disk.destroy();
}

/// A failed create leaves nothing.
fn create(context: &mut Context) {
    context.load_module("");
    let faults = FailNth::new(context);
    let node = control_node();
    let mut asked = vec![0; v1::CREATE_USED_BYTES];
    asked[..9].copy_from_slice(b"zosbd2new");
    asked[32..36].copy_from_slice(&v1::BLOCK_SIZE.to_ne_bytes());
    asked[40..48].copy_from_slice(&v1::MIN_BLOCK_COUNT.to_ne_bytes());
    asked[48..52].copy_from_slice(&30_u32.to_ne_bytes());
    each(context, &faults, "version 1: create", |round| {
        let (result, bytes) = call1(round, node.as_fd(), v1::IOCTL_CREATE, &asked);
        if result.is_ok() {
            assert_eq!(devices(), ["zosbd2new"]);
            let control = Control1::open().expect("open the control node");
            let name = zosbd2::v1::DeviceName::new("zosbd2new").expect("a name");
            let handle = control.handle_by_name(&name).expect("found");
            assert_eq!(word(&bytes, 60), handle.raw());
            control.destroy(handle, true).expect("destroy");
        }
        assert_eq!(devices(), <[String; 0]>::default());
        Disk1::create("zosbd2new", 1024).destroy();
    });
}

/// The device exists or is gone: an answer that cannot be written does not undo a destruction.
fn destroy(context: &mut Context) {
    context.load_module("");
    let faults = FailNth::new(context);
    let node = control_node();
    for (what, command) in [
        ("version 1: destroy by handle", v1::IOCTL_DESTROY_BY_HANDLE),
        ("version 1: destroy by name", v1::IOCTL_DESTROY_BY_NAME),
        ("version 1: destroy all", v1::IOCTL_DESTROY_ALL),
    ] {
        each(context, &faults, what, |round| {
            let disk = Disk1::create("zosbd2old", 1024);
            let asked = match command {
                v1::IOCTL_DESTROY_BY_HANDLE => [disk.handle.raw(), 0, 1].map(u32::to_ne_bytes).concat(),
                v1::IOCTL_DESTROY_BY_NAME => {
                    let mut bytes = vec![0; 40];
                    bytes[..9].copy_from_slice(b"zosbd2old");
                    bytes
                }
                _ => 1_u32.to_ne_bytes().to_vec(),
            };
            let result = call1(round, node.as_fd(), command, &asked).0;
            let there = devices();
            assert!(there.is_empty() || (result.is_err() && there == ["zosbd2old"]), "{there:?}");
            if !there.is_empty() {
                disk.destroy();
            }
        });
    }
}

/// The operation of a submitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Read,
    Write,
    Discard,
}

impl Does {
    /// The kernel's opcode, and the opcode of the answer.
    fn opcodes(self) -> (u32, u32) {
        match self {
            Self::Read => (v1::OP_READ, v1::OP_ANSWER_READ),
            Self::Write => (v1::OP_WRITE, v1::OP_ANSWER_WRITE),
            Self::Discard => (v1::OP_DISCARD, v1::OP_ANSWER_DISCARD),
        }
    }

    fn submit(self, disk: &Disk1, offset: u64) -> std::thread::JoinHandle<Result<Vec<u8>, Errno>> {
        let path = disk.path();
        match self {
            Self::Read => read_in_thread(path, offset, LENGTH),
            Self::Write => {
                let write = write_in_thread(path, offset, SEED, LENGTH);
                std::thread::spawn(move || write.join().expect("writer").map(|count| vec![0; count]))
            }
            Self::Discard => {
                std::thread::spawn(move || discard(&path, offset, LENGTH as u64).map(|()| vec![0; LENGTH]))
            }
        }
    }
}

const LENGTH: usize = 4 * BLOCK;
const SEED: u64 = 11;

/// One call that answers a request and fetches another. If it fails, the repeated call does both, once each.
fn operation(context: &mut Context) {
    context.load_module("");
    let faults = FailNth::new(context);
    let disk = Disk1::create("zosbd2old", 1024);
    let observer = control().observe("zosbd2old").expect("observe");
    let node = File::options().read(true).write(true).open(disk.path()).expect("open");
    let mut server = Manual::new(&disk);
    let all = [Does::Read, Does::Write, Does::Discard];
    for (first, second) in all.into_iter().flat_map(|first| all.map(|second| (first, second))) {
        // The kernel sends one discard of a device at a time.
        if (first, second) == (Does::Discard, Does::Discard) {
            continue;
        }
        for fresh in [false, true] {
            let what = format!("version 1: answer of {first:?}, fetch of {second:?}, fresh memory: {fresh}");
            each(context, &faults, &what, |round| {
                let one = first.submit(&disk, 0);
                wait_for(&observer, 1);
                let (_, op_id) = server.fetch();
                let other = second.submit(&disk, 1 << 20);
                wait_for(&observer, 1);
                let pages = Pages::new(v1::OPERATION_BYTES);
                let at = pages.at_end(v1::OPERATION_BYTES);
                let prepare = || {
                    pages.put(at, &disk.handle.raw().to_ne_bytes());
                    pages.put(at + 8, &first.opcodes().1.to_ne_bytes());
                    pages.put(at + v1::OPERATION_TAIL_OFFSET, &0_u32.to_ne_bytes());
                    pages.put(at + v1::OPERATION_TAIL_OFFSET + 4, &op_id.to_ne_bytes());
                    let data = if first == Does::Read { LENGTH } else { usize::from(!fresh) * LENGTH };
                    pages.put(at + v1::OPERATION_DATA_OFFSET, &vec![0x5a; data]);
                };
                prepare();
                let result = round.call(|| raw::ioctl(node.as_fd(), v1::IOCTL_OPERATION, at));
                round.check(&result, &[Errno::NOMEM]);
                if result.is_err() {
                    prepare();
                    assert_eq!(raw::ioctl(node.as_fd(), v1::IOCTL_OPERATION, at), Ok(0));
                }
                let bytes = pages.get(at, v1::OPERATION_DATA_OFFSET + LENGTH);
                assert_eq!(word(&bytes, 8), second.opcodes().0, "another request than the second");
                if second == Does::Write {
                    let mut written = crate::tests::support::Aligned::new(LENGTH, 0);
                    written.fill(SEED);
                    assert!(bytes[v1::OPERATION_DATA_OFFSET..] == *written.bytes(), "wrong data was fetched");
                }
                let data = one.join().expect("submitter").expect("success");
                assert!(first != Does::Read || data == [0x5a; LENGTH], "wrong data was read");
                let second_id = word(&bytes, v1::OPERATION_TAIL_OFFSET + 4);
                server.buffer.data_mut().fill(0x17);
                assert_eq!(server.answer(second.opcodes().1, second_id, 0), Ok(None), "no third request");
                let data = other.join().expect("submitter").expect("success");
                assert!(second != Does::Read || data == [0x17; LENGTH], "wrong data was read");
                let stats = observer.stats(0).expect("stats");
                assert_eq!((stats.queued, stats.held), (0, 0));
            });
        }
    }
    drop((server, node, observer));
    disk.destroy();
}

fn wait_for(observer: &Observer, queued: u32) {
    wait_until(20, "a request", || observer.stats(0).expect("stats").queued == queued);
}
