// SPDX-License-Identifier: MIT OR Apache-2.0
//! Invalid input of every kind: a precise error for that entry alone, and no request is lost.

use std::fs::File;
use std::mem::offset_of;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::process::Signal;
use zosbd2::v2::abi;
use zosbd2::{Builder, Fetched, Server};

use super::super::support::{Aligned, read_in_thread, write_in_thread};
use super::support::{CONTROL_CALLS, Disk, SERVER_CALLS, control, plain_by_hand};
use crate::guest::raw::{PAGE, Pages, Plain};
use crate::guest::{Context, Need, Test, raw, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_sizes_flags_and_reserved_fields", sizes_and_flags).needs(&[Need::Module]).timeout(60),
    Test::new("v2_create_at_the_extremes", create_extremes).needs(&[Need::Module]).timeout(60),
    Test::new("v2_unknown_ioctls", unknown_ioctls).needs(&[Need::Module]).timeout(120),
    Test::new("v2_enter_at_the_extremes", enter_extremes).needs(&[Need::Module]).timeout(60),
    Test::new("v2_enter_with_longer_elements", longer_elements).needs(&[Need::Module]).timeout(60),
    Test::new("v2_stale_and_invented_handles", handles).needs(&[Need::Module]).timeout(60),
    Test::new("v2_arrays_that_end_too_early", arrays_that_end).needs(&[Need::Module]).timeout(60),
    Test::new("v2_read_only_memory", read_only_memory).needs(&[Need::Module]).timeout(60),
    Test::new("v2_memory_at_the_end", memory_at_the_end).needs(&[Need::Module]).timeout(60),
    Test::new("v2_overlapping_arrays", overlapping).needs(&[Need::Module]).timeout(60),
    Test::new("v2_arrays_in_the_own_disk", own_disk).needs(&[Need::Module]).timeout(120),
    Test::new("v2_iovecs", iovecs).needs(&[Need::Module]).timeout(120),
    Test::new("v2_server_memory_that_never_comes", memory_that_never_comes)
        .needs(&[Need::Module])
        .timeout(60),
    Test::new("v2_control_calls_can_be_killed", calls_can_be_killed).needs(&[Need::Module]).timeout(120),
];

const MIB: u64 = 1 << 20;

/// Makes one field invalid.
type Change<T> = fn(&mut T);

pub(super) fn control_node() -> File {
    File::open(zosbd2_abi::CONTROL_PATH).expect("open the control node")
}

pub(super) fn name(text: &str) -> [u8; abi::NAME_BYTES] {
    let mut name = [0; abi::NAME_BYTES];
    name[..text.len()].copy_from_slice(text.as_bytes());
    name
}

/// A call with an argument that ends at the end of its memory.
pub(super) fn call<T: Plain>(fd: BorrowedFd<'_>, command: u32, argument: &T) -> (Result<i32, Errno>, T) {
    let pages = Pages::new(PAGE);
    let at = pages.at_end(size_of::<T>());
    pages.put_value(at, argument);
    let result = raw::ioctl(fd, command, at);
    (result, pages.get_value(at))
}

/// ENTER with this argument.
pub(super) fn enter(server: &Server, argument: &abi::Enter) -> (Result<i32, Errno>, abi::Enter) {
    let argument = abi::Enter { size: abi::ENTER_BYTES, ..*argument };
    call(server.as_fd(), abi::IOCTL_ENTER, &argument)
}

/// Commits these entries, which are put at the start of `pages`; returns their statuses.
pub(super) fn commit_raw(server: &Server, pages: &Pages, entries: &[abi::Commit]) -> Vec<i32> {
    let own = Pages::new(size_of_val(entries));
    let at = own.at_end(size_of_val(entries));
    let place = |index: usize| at + index * size_of::<abi::Commit>();
    for (index, entry) in entries.iter().enumerate() {
        own.put_value(place(index), entry);
    }
    let count = u32::try_from(entries.len()).expect("a count");
    let (result, after) =
        enter(server, &abi::Enter { commits: at as u64, commit_count: count, ..abi::Enter::default() });
    assert_eq!((result, after.processed), (Ok(0), count), "{pages:?}");
    let statuses: Vec<i32> =
        (0..entries.len()).map(|index| own.get_value::<abi::Commit>(place(index)).status).collect();
    let refused = statuses.iter().filter(|status| **status != 0).count();
    assert_eq!(after.refused as usize, refused);
    statuses
}

/// Sizes around the known one; all other fields stay unchanged.
fn sizes<T: Plain>(fd: BorrowedFd<'_>, command: u32, good: &T, what: &str) {
    let known = size_of::<T>();
    let pages = Pages::new(4 * PAGE);
    let with_size = |size: usize| {
        let mut bytes = raw::bytes_of(good);
        bytes[..4].copy_from_slice(&u32::try_from(size).expect("a size").to_ne_bytes());
        bytes
    };
    // The number has the size of the first version.
    let first = usize::try_from(command >> 16 & 0x3fff).expect("a size");
    for size in [0, 1, 4, first - 1] {
        // Only as much memory as the size field states, or as the field itself needs.
        let bytes = with_size(size);
        let bytes = &bytes[..size.max(4)];
        let at = pages.at_end(bytes.len());
        pages.put(at, bytes);
        assert_eq!(raw::ioctl(fd, command, at), Err(Errno::INVAL), "{what} of {size} bytes");
    }
    for (size, tail, wanted) in [
        (known + 8, 1, Err(Errno::TOOBIG)),
        (PAGE, 1, Err(Errno::TOOBIG)),
        (PAGE + 1, 0, Err(Errno::TOOBIG)),
        (usize::try_from(u32::MAX).expect("64 bits"), 0, Err(Errno::TOOBIG)),
    ] {
        let mut bytes = with_size(size);
        bytes.resize(size.min(2 * PAGE), 0);
        *bytes.last_mut().expect("bytes") = tail;
        let at = pages.at_end(bytes.len());
        pages.put(at, &bytes);
        assert_eq!(raw::ioctl(fd, command, at), wanted, "{what} of {size} bytes with tail {tail}");
    }
    // A tail that is missing.
    let bytes = with_size(known + 8);
    let at = pages.at_end(bytes.len());
    pages.put(at, &bytes);
    assert_eq!(raw::ioctl(fd, command, at), Err(Errno::FAULT), "{what} with a missing tail");
    // A longer argument with a tail of zeros is as good as the known one.
    let mut bytes = with_size(PAGE);
    bytes.resize(PAGE, 0);
    let at = pages.at_end(bytes.len());
    pages.put(at, &bytes);
    assert!(raw::ioctl(fd, command, at).is_ok(), "{what} of a page: {:?}", raw::ioctl(fd, command, at));
    for address in [0, 1, PAGE, usize::MAX - 7, 1 << 63] {
        let result = raw::ioctl(fd, command, address);
        assert_eq!(result, Err(Errno::FAULT), "{what} at {address:#x}");
    }
}

/// A nonzero value in each of these words must cause `EINVAL`.
fn must_be_zero<T: Plain>(fd: BorrowedFd<'_>, command: u32, good: &T, offsets: &[usize], what: &str) {
    for &offset in offsets {
        for value in [1 << 31, u32::MAX] {
            let mut bytes = raw::bytes_of(good);
            bytes[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
            let (result, _) = call(fd, command, &raw::value_of::<T>(&bytes));
            assert_eq!(result, Err(Errno::INVAL), "{what} with {value:#x} at {offset}");
        }
    }
}

fn sizes_and_flags(context: &mut Context) {
    context.load_module("");
    let node = control_node();
    let info = abi::Info { size: abi::INFO_BYTES, ..abi::Info::default() };
    sizes(node.as_fd(), abi::IOCTL_INFO, &info, "INFO");
    must_be_zero(node.as_fd(), abi::IOCTL_INFO, &info, &[4, 52], "INFO");
    let list = abi::List { size: abi::LIST_BYTES, ..abi::List::default() };
    sizes(node.as_fd(), abi::IOCTL_LIST, &list, "LIST");
    must_be_zero(node.as_fd(), abi::IOCTL_LIST, &list, &[4, 28], "LIST");

    let (disk, _server) = plain_by_hand("sizes");
    let fd = disk.server.as_fd();
    let status = abi::Status { size: abi::STATUS_BYTES, name: name("sizes"), ..abi::Status::default() };
    sizes(node.as_fd(), abi::IOCTL_STATUS, &status, "STATUS");
    sizes(fd, abi::IOCTL_STATUS, &status, "STATUS of a server");
    must_be_zero(fd, abi::IOCTL_STATUS, &status, &[4], "STATUS");
    let other = abi::Status { name: name("other"), ..status };
    assert_eq!(call(fd, abi::IOCTL_STATUS, &other).0, Err(Errno::INVAL), "STATUS of another's device");
    let settings =
        abi::Settings { size: abi::SETTINGS_BYTES, name: name("sizes"), ..abi::Settings::default() };
    sizes(node.as_fd(), abi::IOCTL_SETTINGS, &settings, "SETTINGS");
    sizes(fd, abi::IOCTL_SETTINGS, &settings, "SETTINGS of a server");
    must_be_zero(fd, abi::IOCTL_SETTINGS, &settings, &[4, 48, 52, 56, 60], "SETTINGS");
    let attach = abi::Attach { size: abi::ATTACH_BYTES, name: name("sizes"), ..abi::Attach::default() };
    must_be_zero(node.as_fd(), abi::IOCTL_ATTACH, &attach, &[4], "ATTACH");
    assert_eq!(call(node.as_fd(), abi::IOCTL_ATTACH, &attach).0, Err(Errno::BUSY));
    let nobody = abi::Attach { name: name("nobody"), ..attach };
    assert_eq!(call(node.as_fd(), abi::IOCTL_ATTACH, &nobody).0, Err(Errno::NOENT));
    let destroy = abi::Destroy { size: abi::DESTROY_BYTES, name: name("sizes"), ..abi::Destroy::default() };
    must_be_zero(node.as_fd(), abi::IOCTL_DESTROY, &destroy, &[4], "DESTROY");
    let resize = abi::Resize { size: abi::RESIZE_BYTES, flags: 0, size_bytes: 16 * MIB };
    sizes(fd, abi::IOCTL_RESIZE, &resize, "RESIZE");
    must_be_zero(fd, abi::IOCTL_RESIZE, &resize, &[4], "RESIZE");
    for (size_bytes, errno) in [(0, Errno::RANGE), (u64::MAX, Errno::RANGE), (16 * MIB + 1, Errno::INVAL)] {
        let (result, _) = call(fd, abi::IOCTL_RESIZE, &abi::Resize { size_bytes, ..resize });
        assert_eq!(result, Err(errno), "RESIZE to {size_bytes}");
    }
    let claim = abi::Claim { size: abi::CLAIM_BYTES, flags: abi::CLAIM_CACHE };
    sizes(fd, abi::IOCTL_CLAIM, &claim, "CLAIM");
    for flags in [0, 2, 3, 1 << 31, u32::MAX] {
        let (result, _) = call(fd, abi::IOCTL_CLAIM, &abi::Claim { flags, ..claim });
        assert_eq!(result, Err(Errno::INVAL), "CLAIM with the flags {flags:#x}");
    }
    let counters = abi::Stats { size: abi::STATS_BYTES, ..abi::Stats::default() };
    sizes(fd, abi::IOCTL_STATS, &counters, "STATS");
    must_be_zero(fd, abi::IOCTL_STATS, &counters, &[4, 8], "STATS");
    let start = abi::Start { size: abi::START_BYTES, flags: 0 };
    must_be_zero(fd, abi::IOCTL_START, &start, &[4], "START");
    let enter = abi::Enter { size: abi::ENTER_BYTES, ..abi::Enter::default() };
    sizes(fd, abi::IOCTL_ENTER, &enter, "ENTER");
    let zero = [4, offset_of!(abi::Enter, queue), offset_of!(abi::Enter, buffer_count)];
    must_be_zero(fd, abi::IOCTL_ENTER, &enter, &zero, "ENTER");
    disk.destroy(true);
}

fn create_extremes(context: &mut Context) {
    context.load_module("");
    let node = control_node();
    let good = abi::Create {
        size: abi::CREATE_BYTES,
        name: name("extreme"),
        size_bytes: MIB,
        ..abi::Create::default()
    };
    let (range, invalid, overflow) = (Errno::RANGE, Errno::INVAL, Errno::OVERFLOW);
    let cases: [(Change<abi::Create>, Errno); 42] = [
        (|create| create.flags = 64, invalid),
        (|create| create.flags = u32::MAX, invalid),
        (|create| create.flags = abi::CREATE_FUA, invalid),
        (|create| create.name = [0; 32], invalid),
        (|create| create.name = [b'a'; 32], invalid),
        (|create| create.name[24] = b'x', invalid),
        (|create| create.name = name("a/b"), invalid),
        (|create| create.name = name("../x"), invalid),
        (|create| create.name = name(".x"), invalid),
        (|create| create.name = name("a b"), invalid),
        (|create| create.name[3] = 0xff, invalid),
        (|create| create.serial = [b'a'; 32], invalid),
        (|create| create.serial[1] = b'x', invalid),
        (|create| create.serial[0] = b'\n', invalid),
        (|create| create.size_bytes = 0, range),
        (|create| create.size_bytes = u64::MAX, range),
        (|create| create.size_bytes = abi::MAX_SIZE_BYTES + 512, range),
        (|create| create.size_bytes = MIB + 1, invalid),
        (|create| create.logical_block_size = 1, range),
        (|create| create.logical_block_size = 8192, range),
        (|create| create.logical_block_size = 513, invalid),
        (|create| create.physical_block_size = 256, range),
        (|create| create.physical_block_size = u32::MAX, range),
        (|create| create.physical_block_size = 1536, invalid),
        (|create| create.io_min = 511, range),
        (|create| create.io_min = 1000, invalid),
        (|create| create.io_opt = u32::MAX, range),
        (|create| create.io_opt = 1000, invalid),
        (|create| create.max_io_bytes = 512, range),
        (|create| create.max_io_bytes = u32::MAX, range),
        (|create| create.max_io_bytes = 4097, invalid),
        (|create| create.queues = 1 << 20, range),
        (|create| create.queues = u32::MAX, range),
        (|create| create.depth = 1025, range),
        (|create| create.depth = u32::MAX, range),
        (|create| create.discard_granularity = 1 << 30, range),
        (|create| create.max_discard_bytes = u32::MAX, invalid),
        (|create| (create.discard_granularity, create.max_discard_bytes) = (8192, 4096), invalid),
        (|create| (create.physical_block_size, create.max_discard_bytes) = (1 << 20, 1 << 19), invalid),
        (|create| create.max_write_zeroes_bytes = 1, invalid),
        (|create| create.deadline_ms = u32::MAX, range),
        (|create| create.grace_ms = u32::MAX, range),
    ];
    for (index, (change, errno)) in cases.into_iter().enumerate() {
        let mut create = good;
        change(&mut create);
        let (result, _) = call(node.as_fd(), abi::IOCTL_CREATE, &create);
        assert!(
            result == Err(errno) || result == Err(overflow),
            "case {index}: {result:?}, not {errno:?}: {create:?}"
        );
    }
    assert!(control().list().expect("list").is_empty(), "a device was made");
    // The kernel chooses the handle.
    let chosen = abi::Create { handle: 77, ..good };
    let (result, made) = call(node.as_fd(), abi::IOCTL_CREATE, &chosen);
    let server = raw::own(result.expect("create"));
    assert_eq!(control().status("extreme").expect("status").handle, made.handle);
    assert_ne!(made.handle, 77);
    drop(server);
    wait_until(20, "a device that was never started to go with its server", || {
        control().list().expect("list").is_empty()
    });
    // The largest values of all fields are accepted together.
    let control = control();
    let info = control.info();
    let largest = Builder::new("abcdefghijklmnopqrstuvwx")
        .size_bytes(abi::MAX_SIZE_BYTES)
        .queues(info.max_queues)
        .depth(info.max_depth)
        .max_io_bytes(info.max_io_bytes)
        .partition_scan(false);
    let disk = Disk::create(&largest);
    disk.server.start().expect("start");
    assert_eq!(disk.setting("size"), (abi::MAX_SIZE_BYTES / 512).to_string());
    disk.destroy(true);
}

/// Every unknown number, on every kind of descriptor.
fn unknown_ioctls(context: &mut Context) {
    context.load_module("");
    let (disk, _server) = plain_by_hand("numbers");
    let node = control_node();
    let block = open(disk.path(), OFlags::RDWR, Mode::empty()).expect("open the node");
    for number in 0..256 {
        for size in [0, 8, 16, 40, abi::ENTER_BYTES, 144, 192, 272, 784] {
            for direction in [0, 1, 2, 3] {
                let command = direction << 30 | size << 16 | abi::IOCTL_TYPE << 8 | number;
                if !CONTROL_CALLS.contains(&command) {
                    assert_eq!(raw::ioctl(node.as_fd(), command, 0), Err(Errno::NOTTY), "{command:#x}");
                }
                if !SERVER_CALLS.contains(&command) {
                    let result = raw::ioctl(disk.server.as_fd(), command, 0);
                    assert_eq!(result, Err(Errno::NOTTY), "{command:#x}");
                }
            }
        }
    }
    for command in CONTROL_CALLS.into_iter().chain(SERVER_CALLS) {
        assert_eq!(raw::ioctl(block.as_fd(), command, 0), Err(Errno::NOTTY), "{command:#x} on the node");
    }
    // The node of a device of version 2 gives no right to serve it.
    for command in [zosbd2_abi::v1::IOCTL_OPERATION, zosbd2_abi::v1::IOCTL_BLOCK_PING] {
        assert_eq!(raw::ioctl(block.as_fd(), command, 0), Err(Errno::NOTTY), "{command} on the node");
        assert_eq!(raw::ioctl(disk.server.as_fd(), command, 0), Err(Errno::NOTTY), "{command}");
    }
    drop(block);
    disk.destroy(true);
}

fn enter_extremes(context: &mut Context) {
    context.load_module("");
    let (disk, mut server) = plain_by_hand("enter");
    let good = abi::Enter::default();
    let cases: [(Change<abi::Enter>, Errno); 19] = [
        (|enter| enter.flags = 2, Errno::INVAL),
        (|enter| enter.commit_count = abi::MAX_BATCH + 1, Errno::INVAL),
        (|enter| enter.commit_count = u32::MAX, Errno::INVAL),
        (|enter| enter.capacity = abi::MAX_BATCH + 1, Errno::INVAL),
        (|enter| enter.capacity = u32::MAX, Errno::INVAL),
        (|enter| enter.minimum = 1, Errno::INVAL),
        (|enter| enter.queue = 1, Errno::INVAL),
        (|enter| enter.queue = u32::MAX, Errno::INVAL),
        (|enter| enter.spin_us = abi::MAX_SPIN_US + 1, Errno::INVAL),
        (|enter| enter.timeout_ms = 1, Errno::INVAL),
        (|enter| enter.buffer_count = abi::MAX_BATCH + 1, Errno::INVAL),
        (|enter| (enter.arena, enter.arena_bytes, enter.buffer_count) = (4096, 1, 1), Errno::INVAL),
        (|enter| enter.arena_bytes = 1, Errno::INVAL),
        (|enter| enter.commit_bytes = 0, Errno::INVAL),
        (|enter| enter.commit_bytes = abi::COMMIT_BYTES - 1, Errno::INVAL),
        (|enter| enter.commit_bytes = abi::MAX_ELEMENT_BYTES + 1, Errno::TOOBIG),
        (|enter| enter.request_bytes = 0, Errno::INVAL),
        (|enter| enter.request_bytes = abi::REQUEST_BYTES - 1, Errno::INVAL),
        (|enter| enter.request_bytes = u32::MAX, Errno::TOOBIG),
    ];
    for (index, (change, errno)) in cases.into_iter().enumerate() {
        let mut argument = good;
        change(&mut argument);
        assert_eq!(enter(&disk.server, &argument).0, Err(errno), "case {index}");
    }
    // Empty arrays need no memory.
    let nothing = abi::Enter { commits: u64::MAX, requests: 1, buffers: 1, buffer_count: 1024, ..good };
    assert_eq!(enter(&disk.server, &nothing).0, Ok(0));
    // Flags of commits, one by one, each beside a valid entry.
    let reads: Vec<_> = (0..2).map(|index| read_in_thread(disk.path(), index * 4096, 4096)).collect();
    let requests = server.fetch(0, 2, 2).expect("fetch");
    let pages = Pages::new(4096);
    let data = pages.at_end(4096) as u64;
    let entry = |request: &Fetched| abi::Commit {
        handle: request.handle(),
        result: 4096,
        address: data,
        ..abi::Commit::default()
    };
    let bad = entry(&requests[0]);
    for (entry, errno) in [
        (abi::Commit { flags: 8, ..bad }, Errno::INVAL),
        (abi::Commit { flags: u32::MAX, ..bad }, Errno::INVAL),
        (abi::Commit { reserved: 1, ..bad }, Errno::INVAL),
        (abi::Commit { status: -1, ..bad }, Errno::INVAL),
        (abi::Commit { iovec_count: 1, ..bad }, Errno::INVAL),
        (abi::Commit { flags: abi::COMMIT_IOVEC, ..bad }, Errno::INVAL),
        (abi::Commit { flags: abi::COMMIT_IOVEC, iovec_count: 1025, ..bad }, Errno::INVAL),
        (abi::Commit { result: i64::MAX, ..bad }, Errno::INVAL),
        (abi::Commit { result: i64::MIN, ..bad }, Errno::INVAL),
        (abi::Commit { result: 1 << 32 | 4096, ..bad }, Errno::INVAL),
        (abi::Commit { address: 1 << 63, ..bad }, Errno::FAULT),
        (abi::Commit { address: u64::MAX - 100, ..bad }, Errno::FAULT),
        (abi::Commit { address: 4096, ..bad }, Errno::FAULT),
        (abi::Commit { address: data + 1, ..bad }, Errno::FAULT),
    ] {
        let status = commit_raw(&disk.server, &pages, &[entry])[0];
        assert_eq!(status, if entry.status == -1 { -22 } else { -errno.raw_os_error() }, "{entry:?}");
    }
    let worse = abi::Commit { flags: 8, ..bad };
    let statuses =
        commit_raw(&disk.server, &pages, &[worse, entry(&requests[1]), worse, entry(&requests[0]), worse]);
    assert_eq!(statuses, [-22, 0, -22, 0, -22], "the rest of the batch is done");
    for read in reads {
        assert_eq!(read.join().expect("reader"), Ok(vec![0; 4096]));
    }
    disk.destroy(true);
}

/// Commits and requests that are longer than the kernel knows: an unknown part that is not zero is refused for its
/// commit alone, and the unknown part of a request is zeroed.
fn longer_elements(context: &mut Context) {
    context.load_module("");
    let (disk, mut server) = plain_by_hand("longer");
    for bytes in [abi::COMMIT_BYTES + 1, 64, abi::MAX_ELEMENT_BYTES] {
        let (size, count) = (bytes as usize, 20);
        let reads: Vec<_> =
            (0..count).map(|at| read_in_thread(disk.path(), at as u64 * 4096, 4096)).collect();
        wait_until(20, "the reads", || disk.server.stats(0).expect("stats").queued as usize == count);
        let longer = abi::REQUEST_BYTES + bytes - abi::COMMIT_BYTES;
        let longer = longer.min(abi::MAX_ELEMENT_BYTES);
        let places = Pages::new(count * longer as usize);
        let requests = places.at_end(count * longer as usize);
        places.put(requests, &vec![0xee; count * longer as usize]);
        let fetch = abi::Enter {
            requests: requests as u64,
            request_bytes: longer,
            capacity: u32::try_from(count).expect("few"),
            minimum: u32::try_from(count).expect("few"),
            ..abi::Enter::default()
        };
        let (result, after) = enter(&disk.server, &fetch);
        assert_eq!((result, after.fetched as usize), (Ok(0), count));
        let data = Pages::new(PAGE);
        let commits = Pages::new(count * size);
        let at = commits.at_end(count * size);
        for index in 0..count {
            let place = requests + index * longer as usize;
            let request: abi::Request = places.get_value(place);
            assert_eq!((request.op, request.length, request.reserved), (abi::OP_READ, 4096, 0));
            let known = abi::REQUEST_BYTES as usize;
            assert!(places.get(place + known, longer as usize - known).iter().all(|byte| *byte == 0));
            let entry = abi::Commit {
                handle: request.handle,
                result: 4096,
                address: data.at_end(4096) as u64,
                ..abi::Commit::default()
            };
            commits.put(at + index * size, &vec![0; size]);
            commits.put_value(at + index * size, &entry);
        }
        // The first, one in the middle, and the last one have an unknown part.
        let unknown = [0, 7, count - 1];
        for index in unknown {
            commits.put(at + (index + 1) * size - 1, &[1]);
        }
        let answer = abi::Enter {
            commits: at as u64,
            commit_bytes: bytes,
            commit_count: u32::try_from(count).expect("few"),
            ..abi::Enter::default()
        };
        let (result, after) = enter(&disk.server, &answer);
        assert_eq!((result, after.processed as usize, after.refused), (Ok(0), count, 3));
        for index in 0..count {
            let entry: abi::Commit = commits.get_value(at + index * size);
            let wanted = if unknown.contains(&index) { -Errno::TOOBIG.raw_os_error() } else { 0 };
            assert_eq!(entry.status, wanted, "entry {index} of {bytes} bytes");
        }
        assert_eq!(disk.server.stats(0).expect("stats").held, 3, "refused commits leave their requests");
        // The same commits again, without the unknown parts: those that were accepted are stale.
        for index in unknown {
            commits.put(at + (index + 1) * size - 1, &[0]);
            let entry: abi::Commit = commits.get_value(at + index * size);
            commits.put_value(at + index * size, &abi::Commit { status: 0, ..entry });
        }
        let (result, after) = enter(&disk.server, &answer);
        assert_eq!((result, after.processed as usize, after.refused as usize), (Ok(0), count, count - 3));
        for read in reads {
            assert_eq!(read.join().expect("reader"), Ok(vec![0; 4096]));
        }
        // The unknown part of the last commit is missing; so is that of the place of a request.
        let read = read_in_thread(disk.path(), 0, 4096);
        wait_until(20, "the read", || disk.server.stats(0).expect("stats").queued == 1);
        let short = places.at_end(longer as usize - 1) as u64;
        let fetch = abi::Enter { requests: short, capacity: 1, minimum: 1, ..fetch };
        let (result, after) = enter(&disk.server, &fetch);
        assert_eq!((result, after.fetched), (Err(Errno::FAULT), 0));
        assert_eq!(disk.server.stats(0).expect("stats").queued, 1);
        let request = server.fetch_one();
        let at = commits.at_end(size - 1);
        let entry = abi::Commit {
            handle: request.handle(),
            result: 4096,
            address: data.at_end(4096) as u64,
            ..abi::Commit::default()
        };
        commits.put(at, &vec![0; size - 1]);
        commits.put_value(at, &entry);
        let (result, after) =
            enter(&disk.server, &abi::Enter { commits: at as u64, commit_count: 1, ..answer });
        assert_eq!((result, after.processed), (Err(Errno::FAULT), 0));
        server.complete(&request);
        assert!(read.join().expect("reader").is_ok());
    }
    disk.destroy(true);
}

fn handles(context: &mut Context) {
    context.load_module("");
    let (disk, mut server) = plain_by_hand("handles");
    let pages = Pages::new(4096);
    let data = pages.at_end(4096) as u64;
    let read = read_in_thread(disk.path(), 0, 4096);
    let request = server.fetch_one();
    let stale = -Errno::STALE.raw_os_error();
    let entry = |handle: u64| abi::Commit { handle, result: 4096, address: data, ..abi::Commit::default() };
    let mut random = context.random("handles");
    let mut wrong: Vec<u64> = vec![0, 1, u64::MAX, !request.handle()];
    wrong.extend((0..64).map(|bit| request.handle() ^ 1 << bit));
    wrong.extend((0..5000).map(|_| random.below(u64::MAX)));
    wrong.retain(|handle| *handle != request.handle());
    for handles in wrong.chunks(1000) {
        let entries: Vec<_> = handles.iter().map(|handle| entry(*handle)).collect();
        let statuses = commit_raw(&disk.server, &pages, &entries);
        let good = statuses.iter().position(|status| *status != stale);
        assert_eq!(good, None, "an invalid handle was accepted: {:?}", good.map(|index| handles[index]));
    }
    // Of several commits with the same handle the first one counts.
    let statuses = commit_raw(&disk.server, &pages, &[entry(request.handle()); 3]);
    assert_eq!(statuses, [0, stale, stale]);
    assert!(read.join().expect("reader").is_ok());
    // After thirty-two more tenures, perhaps of the same tag, the old handle is still stale.
    for _ in 0..32 {
        let read = read_in_thread(disk.path(), 0, 4096);
        let next = server.fetch_one();
        assert_eq!(commit_raw(&disk.server, &pages, &[entry(request.handle())]), [stale]);
        server.complete(&next);
        assert!(read.join().expect("reader").is_ok());
    }
    let stats = disk.server.stats(0).expect("stats");
    assert_eq!(
        stats.stale,
        wrong.len() as u64 + 2 + 32,
        "each stale commit is counted, whatever its handle looks like"
    );
    disk.destroy(true);
}

fn arrays_that_end(context: &mut Context) {
    context.load_module("");
    let (disk, mut server) = plain_by_hand("ends");
    let pages = Pages::new(4096);
    let data = pages.at_end(4096) as u64;
    // Three commits, but an array that claims twenty.
    let reads: Vec<_> = (0..3).map(|index| read_in_thread(disk.path(), index * 4096, 4096)).collect();
    let requests = server.fetch(0, 3, 3).expect("fetch");
    let size = size_of::<abi::Commit>();
    let commits = Pages::new(PAGE);
    let at = commits.at_end(3 * size);
    for (index, request) in requests.iter().enumerate() {
        let entry =
            abi::Commit { handle: request.handle(), result: 4096, address: data, ..Default::default() };
        commits.put_value(at + index * size, &entry);
    }
    let (result, after) =
        enter(&disk.server, &abi::Enter { commits: at as u64, commit_count: 20, ..abi::Enter::default() });
    assert_eq!((result, after.processed, after.refused), (Err(Errno::FAULT), 3, 0));
    for read in reads {
        assert!(read.join().expect("reader").is_ok());
    }
    // If the descriptors, or the data of a write, cannot be written, the request is not lost.
    let write = write_in_thread(disk.path(), 8192, 5, 8192);
    wait_until(20, "the write", || disk.server.stats(0).expect("stats").queued == 1);
    let places = Pages::new(PAGE);
    let short = places.at_end(size_of::<abi::Request>() - 8) as u64;
    let fetch = abi::Enter { requests: short, capacity: 1, minimum: 1, ..abi::Enter::default() };
    let (result, after) = enter(&disk.server, &fetch);
    assert_eq!((result, after.fetched), (Err(Errno::FAULT), 0));
    let place = places.at_end(size_of::<abi::Request>()) as u64;
    let arena = pages.at_end(4096) as u64;
    let fetch = abi::Enter { requests: place, arena, arena_bytes: 8192, ..fetch };
    let (result, after) = enter(&disk.server, &fetch);
    assert_eq!((result, after.fetched), (Err(Errno::FAULT), 0), "an arena that is half there");
    let stats = disk.server.stats(0).expect("stats");
    assert_eq!((stats.queued, stats.held), (1, 0));
    let request = server.fetch_one();
    let mut wanted = Aligned::new(8192, 0);
    wanted.fill(5);
    assert_eq!((request.op(), request.offset()), (abi::OP_WRITE, 8192));
    assert!(server.arena[..8192] == *wanted.bytes());
    server.complete(&request);
    assert_eq!(write.join().expect("writer"), Ok(8192));
    disk.destroy(true);
}

/// Data that would extend beyond the address space of a process.
fn memory_at_the_end(context: &mut Context) {
    context.load_module("");
    let (disk, mut server) = plain_by_hand("end");
    let (pages, last) = (Pages::new(PAGE), Pages::last());
    let address = last.at_end(PAGE) as u64;
    let fault = [-Errno::FAULT.raw_os_error()];
    let read = read_in_thread(disk.path(), 0, 2 * PAGE);
    let request = server.fetch_one();
    let entry = abi::Commit { handle: request.handle(), result: 8192, address, ..abi::Commit::default() };
    assert_eq!(commit_raw(&disk.server, &pages, &[entry]), fault);
    let piece = abi::Iovec { address, length: 8192 };
    let at = pages.at_end(size_of::<abi::Iovec>());
    pages.put_value(at, &piece);
    let entry = abi::Commit { address: at as u64, iovec_count: 1, flags: abi::COMMIT_IOVEC, ..entry };
    assert_eq!(commit_raw(&disk.server, &pages, &[entry]), fault);
    // The memory before the end can be used, to its last byte.
    let entry = abi::Commit {
        handle: request.handle(),
        result: 4096,
        address,
        flags: abi::COMMIT_ZERO_FILL,
        ..abi::Commit::default()
    };
    assert_eq!(commit_raw(&disk.server, &pages, &[entry]), [0]);
    assert!(read.join().expect("reader").is_ok());
    let write = write_in_thread(disk.path(), 0, 5, 8192);
    wait_until(20, "the write", || disk.server.stats(0).expect("stats").queued == 1);
    let requests = pages.at_end(size_of::<abi::Request>()) as u64;
    let fetch = abi::Enter {
        requests,
        arena: address,
        arena_bytes: 8192,
        capacity: 1,
        minimum: 1,
        ..abi::Enter::default()
    };
    let (result, after) = enter(&disk.server, &fetch);
    assert_eq!((result, after.fetched), (Err(Errno::FAULT), 0));
    let request = server.fetch_one();
    server.complete(&request);
    assert_eq!(write.join().expect("writer"), Ok(8192));
    disk.destroy(true);
}

fn read_only_memory(context: &mut Context) {
    context.load_module("");
    let (disk, mut server) = plain_by_hand("readonly");
    let read = read_in_thread(disk.path(), 0, 4096);
    wait_until(20, "the read", || disk.server.stats(0).expect("stats").queued == 1);
    // If the argument cannot be written, nothing is done.
    let pages = Pages::new(2 * PAGE);
    let places = pages.at_end(PAGE);
    let argument = pages.at_end(2 * PAGE);
    let fetch = abi::Enter {
        size: abi::ENTER_BYTES,
        requests: places as u64,
        capacity: 1,
        minimum: 1,
        ..abi::Enter::default()
    };
    pages.put_value(argument, &fetch);
    pages.forbid_writing();
    assert_eq!(raw::ioctl(disk.server.as_fd(), abi::IOCTL_ENTER, argument), Err(Errno::FAULT));
    let (result, _) = enter(&disk.server, &fetch);
    assert_eq!(result, Err(Errno::FAULT), "places that cannot be written");
    assert_eq!(disk.server.stats(0).expect("stats").queued, 1);
    let request = server.fetch_one();
    // The kernel only reads commits, as long as none is refused, and only reads the data of a read.
    let memory = Pages::new(2 * PAGE);
    let (data, commits) = (memory.at_end(PAGE), memory.at_end(2 * PAGE));
    let good =
        abi::Commit { handle: request.handle(), result: 4096, address: data as u64, ..Default::default() };
    let bad = abi::Commit { flags: 8, ..good };
    memory.put(data, &[6; PAGE]);
    memory.put_value(commits, &good);
    memory.put_value(commits + size_of::<abi::Commit>(), &bad);
    memory.forbid_writing();
    let both = abi::Enter { commits: commits as u64, commit_count: 2, ..abi::Enter::default() };
    let (result, after) = enter(&disk.server, &both);
    assert_eq!((result, after.processed, after.refused), (Err(Errno::FAULT), 2, 1));
    assert_eq!(read.join().expect("reader"), Ok(vec![6; 4096]));
    // A write without room for its data stays in the queue.
    let write = write_in_thread(disk.path(), 0, 1, 4096);
    let request = server.fetch_one();
    let entry =
        abi::Commit { handle: request.handle(), result: 4096, address: data as u64, ..Default::default() };
    let status = commit_raw(&disk.server, &memory, &[entry]);
    assert_eq!(status, [-Errno::FAULT.raw_os_error()]);
    server.complete(&request);
    assert_eq!(write.join().expect("writer"), Ok(4096));
    disk.destroy(true);
}

/// Commits, requests, arena and argument overlap: the kernel uses its own copies.
fn overlapping(context: &mut Context) {
    context.load_module("");
    let (disk, mut server) = plain_by_hand("overlap");
    let pages = Pages::new(4 * PAGE);
    let at = pages.at_end(4 * PAGE);
    for round in 0..8 {
        let read = read_in_thread(disk.path(), 0, 4096);
        let write = write_in_thread(disk.path(), 8192, round, 4096);
        let request = server.fetch_one();
        let entry = abi::Commit {
            handle: request.handle(),
            result: 4096,
            address: if request.op() == abi::OP_READ { at as u64 } else { 0 },
            ..Default::default()
        };
        let commits = at + PAGE;
        pages.put_value(commits, &entry);
        let places = commits + usize::try_from(round).expect("small") * 8;
        let argument = abi::Enter {
            commits: commits as u64,
            commit_count: 1,
            requests: places as u64,
            capacity: 2,
            minimum: 1,
            // The data of the write may be where its descriptor goes afterwards.
            arena: places as u64,
            arena_bytes: 8192,
            ..abi::Enter::default()
        };
        let (result, after) = enter(&disk.server, &argument);
        assert_eq!((result, after.processed, after.refused, after.fetched), (Ok(0), 1, 0, 1));
        let second: abi::Request = pages.get_value(places);
        let entry = abi::Commit {
            handle: second.handle,
            result: 4096,
            address: if second.op == abi::OP_READ { at as u64 } else { 0 },
            ..Default::default()
        };
        assert_eq!(commit_raw(&disk.server, &pages, &[entry]), [0], "round {round}");
        assert!(read.join().expect("reader").is_ok());
        assert!(write.join().expect("writer").is_ok());
    }
    // The argument, too: the kernel does not read it again. What the caller then finds there is undefined.
    let read = read_in_thread(disk.path(), 0, 4096);
    wait_until(20, "the read", || disk.server.stats(0).expect("stats").queued == 1);
    let argument = abi::Enter {
        size: abi::ENTER_BYTES,
        requests: at as u64,
        capacity: 1,
        minimum: 1,
        ..abi::Enter::default()
    };
    pages.put_value(at, &argument);
    assert_eq!(raw::ioctl(disk.server.as_fd(), abi::IOCTL_ENTER, at), Ok(0));
    assert_eq!(disk.server.stats(0).expect("stats").held, 1);
    disk.destroy(true);
    assert_eq!(read.join().expect("reader"), Err(Errno::IO));
}

/// A thread of the server uses memory that only the server itself can bring in.
fn own_disk(context: &mut Context) {
    context.load_module("");
    let (disk, _server) = plain_by_hand("own");
    let node = open(disk.path(), OFlags::RDWR, Mode::empty()).expect("open the node");
    let mapped = raw::FilePages::new(node.as_fd(), 16 * PAGE);
    let address = mapped.address() as u64;
    drop(node);
    let write = write_in_thread(disk.path(), MIB, 1, 4096);
    let server = Arc::clone(&disk.server);
    let stuck = std::thread::spawn(move || {
        let argument = abi::Enter {
            requests: address,
            capacity: 1,
            minimum: 1,
            arena: address + 4 * PAGE as u64,
            arena_bytes: 8192,
            ..abi::Enter::default()
        };
        enter(&server, &argument).0
    });
    // The page fault reads from the disk, and waits for the only serving thread.
    wait_until(20, "the fault's read", || disk.server.stats(0).expect("stats").queued >= 1);
    disk.destroy(true);
    let result = stuck.join().expect("the stuck thread");
    assert!(matches!(result, Err(Errno::FAULT | Errno::NODEV)), "{result:?}");
    assert_eq!(write.join().expect("writer"), Err(Errno::IO));
    drop(mapped);
}

fn iovecs(context: &mut Context) {
    context.load_module("");
    let (disk, mut server) = plain_by_hand("iovecs");
    let pages = Pages::new(1 << 17);
    let data = pages.at_end(1 << 17);
    let mut random = context.random("iovecs");
    let bytes: Vec<u8> = random.bytes(1 << 17);
    pages.put(data, &bytes);
    let size = size_of::<abi::Iovec>();
    let array = Pages::new(1024 * size);
    // The array ends at the end of its memory.
    let put = |pieces: &[abi::Iovec]| {
        let at = array.at_end(size_of_val(pieces));
        for (index, piece) in pieces.iter().enumerate() {
            array.put_value(at + index * size, piece);
        }
        at as u64
    };
    let commit = |handle: u64, address: u64, count: usize| abi::Commit {
        handle,
        result: 65536,
        address,
        iovec_count: u32::try_from(count).expect("a count"),
        flags: abi::COMMIT_IOVEC,
        ..abi::Commit::default()
    };
    let piece =
        |from: usize, length: usize| abi::Iovec { address: (data + from) as u64, length: length as u64 };
    for round in 0..60 {
        // Random pieces from random places, some empty, until there is enough room.
        let (mut pieces, mut wanted) = (Vec::new(), Vec::new());
        while wanted.len() < 65536 {
            let longest = if round % 2 == 0 { 300 } else { 20_000 };
            let length = usize::try_from(random.below(longest)).expect("small");
            let from = usize::try_from(random.below((bytes.len() - length) as u64)).expect("small");
            if pieces.len() == 1023 {
                pieces.push(piece(0, 1 << 17));
                wanted.extend(&bytes);
                break;
            }
            pieces.push(piece(from, length));
            wanted.extend(&bytes[from..from + length]);
        }
        wanted.truncate(65536);
        let read = read_in_thread(disk.path(), 0, 65536);
        let request = server.fetch_one();
        assert_eq!(request.length(), 65536);
        let entry = commit(request.handle(), put(&pieces), pieces.len());
        assert_eq!(commit_raw(&disk.server, &pages, &[entry]), [0]);
        assert!(read.join().expect("reader") == Ok(wanted), "round {round}: {} pieces", pieces.len());
    }
    // A write scattered the same way.
    let write = write_in_thread(disk.path(), 0, 99, 65536);
    server.arena.truncate(0);
    let request = server.fetch_one();
    let pieces: Vec<_> = (0..64).rev().map(|index| piece(index * 1024, 1024)).collect();
    let entry = commit(request.handle(), put(&pieces), pieces.len());
    assert_eq!(commit_raw(&disk.server, &pages, &[entry]), [0]);
    assert_eq!(write.join().expect("writer"), Ok(65536));
    let mut wanted = Aligned::new(65536, 0);
    wanted.fill(99);
    for (index, part) in wanted.bytes().chunks(1024).enumerate() {
        assert!(pages.get(data + (63 - index) * 1024, 1024) == part, "piece {index}");
    }
    // Invalid pieces are refused, and the request stays.
    let read = read_in_thread(disk.path(), 0, 65536);
    let request = server.fetch_one();
    let fault = -Errno::FAULT.raw_os_error();
    let wrapping = abi::Iovec { address: u64::MAX - 100, length: 65536 };
    let endless = abi::Iovec { address: data as u64, length: u64::MAX };
    let beyond = abi::Iovec { address: (data + (1 << 17) - 4096) as u64, length: 65536 };
    for (pieces, status) in [
        (vec![wrapping], fault),
        (vec![abi::Iovec { address: 0, length: 65536 }], fault),
        (vec![abi::Iovec { address: 1 << 63, length: 65536 }], fault),
        (vec![beyond], fault),
        (vec![piece(0, 65535)], -22),
        (vec![piece(0, 0); 1024], -22),
        (vec![piece(0, 1000), wrapping], fault),
    ] {
        let entry = commit(request.handle(), put(&pieces), pieces.len());
        assert_eq!(commit_raw(&disk.server, &pages, &[entry]), [status], "{pieces:?}");
    }
    // The array is shorter than stated.
    let entry = commit(request.handle(), put(&[piece(0, 10)]), 20);
    assert_eq!(commit_raw(&disk.server, &pages, &[entry]), [fault]);
    // A piece longer than the rest of the data is used as far as needed.
    let entry = commit(request.handle(), put(&[endless]), 1);
    assert_eq!(commit_raw(&disk.server, &pages, &[entry]), [0]);
    assert!(read.join().expect("reader") == Ok(pages.get(data, 65536)));
    disk.destroy(true);
}

/// Destroying a device does not wait for its server's memory.
fn memory_that_never_comes(context: &mut Context) {
    context.load_module("");
    let (disk, mut server) = plain_by_hand("never");
    let read = read_in_thread(disk.path(), 0, 4096);
    let request = server.fetch_one();
    let pages = Arc::new(Pages::new(PAGE));
    let keeper = match pages.withhold() {
        Ok(keeper) => keeper,
        Err(errno) => panic!("userfaultfd: {errno}"),
    };
    let data = pages.at_end(PAGE) as u64;
    let (stuck_server, handle) = (Arc::clone(&disk.server), request.handle());
    let stuck = std::thread::spawn(move || {
        let commits = Pages::new(PAGE);
        let at = commits.at_end(size_of::<abi::Commit>());
        let entry = abi::Commit { handle, result: 4096, address: data, ..abi::Commit::default() };
        commits.put_value(at, &entry);
        let argument = abi::Enter { commits: at as u64, commit_count: 1, ..abi::Enter::default() };
        let (result, after) = enter(&stuck_server, &argument);
        (result, after, commits.get_value::<abi::Commit>(at).status)
    });
    // By force, while the thread waits in its own page fault: the reader gets an error, and the device goes.
    disk.destroy(true);
    assert_eq!(read.join().expect("reader"), Err(Errno::IO));
    assert!(!stuck.is_finished(), "the memory came");
    drop(keeper);
    let (result, after, status) = stuck.join().expect("the stuck thread");
    assert_eq!((result, after.refused, status), (Ok(0), 1, -Errno::STALE.raw_os_error()));
}

/// A process that makes a call on the control node with memory that never comes can be killed, and delays no other
/// call.
fn calls_can_be_killed(context: &mut Context) {
    context.load_module("");
    // An entry for LIST to return.
    let listed = Disk::create(&Builder::new("listed").size_bytes(MIB).partition_scan(false));
    let arguments = CONTROL_CALLS.map(|call| (call, "argument"));
    for (call, withheld) in arguments.into_iter().chain([(abi::IOCTL_LIST, "entries")]) {
        let what = format!("{call:#x} without its {withheld}");
        let mut child = context.spawn("/proc/self/exe", &["--call-control", &call.to_string(), withheld]);
        let syscall = format!("/proc/{}/syscall", child.id());
        let sleeps = || {
            // "NUMBER ARGUMENT...", or "running".
            let text = std::fs::read_to_string(&syscall).unwrap_or_default();
            let mut words = text.split(' ');
            words.next() == Some("16") && words.nth(1) == Some(format!("{call:#x}").as_str())
        };
        wait_until(20, &format!("{what} to sleep"), || {
            assert!(child.running(), "{what}: it ended: {}", child.stderr());
            sleeps()
        });
        let names: Vec<String> =
            control().list().expect("list").into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["listed"], "{what}");
        let other = Disk::create(&Builder::new("other").size_bytes(MIB).partition_scan(false));
        other.destroy(true);
        assert!(sleeps(), "{what}: the memory became accessible");
        child.signal(Signal::KILL);
        let status = child.wait(20);
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "{what}: {status:?}");
    }
    listed.destroy(true);
}

/// The role `--call-control NUMBER argument|entries`: makes a call of version 2 on the control node whose
/// argument, or whose array of LIST, is memory that never comes.
pub(crate) fn role(arguments: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    let [number, withheld] = arguments else {
        return Err("usage: --call-control NUMBER argument|entries".into());
    };
    let never = Pages::new(PAGE);
    let _keeper = never.withhold()?;
    let own = Pages::new(PAGE);
    let argument = match *withheld {
        "argument" => never.at_end(PAGE),
        "entries" => {
            let entries = never.at_end(PAGE) as u64;
            let list = abi::List { size: abi::LIST_BYTES, entries, capacity: 1, ..abi::List::default() };
            let at = own.at_end(size_of::<abi::List>());
            own.put_value(at, &list);
            at
        }
        _ => return Err(format!("{withheld} is neither argument nor entries").into()),
    };
    let result = raw::ioctl(control_node().as_fd(), number.parse()?, argument);
    Err(format!("the call returned: {result:?}").into())
}
