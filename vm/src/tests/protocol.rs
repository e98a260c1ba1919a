// SPDX-License-Identifier: MIT OR Apache-2.0
//! The operation call: order, answers that fit and answers that do not, signals, deadlines.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use zosbd2::v1::{Channel as _, CreateOptions};
use zosbd2_abi::v1 as abi;

use super::support::{
    BLOCK, Disk, Manual, discard, open_direct, read_in_thread, spawn_server, write_in_thread,
};
use crate::guest::{Context, Need, Test, raw, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("fifo_and_fetch", fifo_and_fetch).needs(&[Need::Module]).timeout(60),
    Test::new("wrong_answer_kind", wrong_answer_kind).needs(&[Need::Module]).timeout(60),
    Test::new("answer_not_fetched", answer_not_fetched).needs(&[Need::Module]).timeout(60),
    Test::new("answer_twice", answer_twice).needs(&[Need::Module]).timeout(60),
    Test::new("answer_with_foreign_handle", foreign_handle).needs(&[Need::Module]).timeout(60),
    Test::new("read_only_descriptor", read_only_descriptor).needs(&[Need::Module]).timeout(60),
    Test::new("failed_answers", failed_answers).needs(&[Need::Module]).timeout(60).allows(IO_ERRORS),
    Test::new("eintr_and_sigurg", eintr_and_sigurg).needs(&[Need::Module]).timeout(60),
    Test::new("shutdown_notices_are_bounded", shutdown_notices).needs(&[Need::Module]).timeout(60),
    Test::new("timeouts_in_ms", timeouts_in_ms).needs(&[Need::Module]).timeout(60),
    Test::new("unfetched_request_times_out", unfetched_times_out)
        .needs(&[Need::Module])
        .timeout(60)
        .allows(IO_ERRORS),
    Test::new("late_answer_after_timeout", late_answer).needs(&[Need::Module]).timeout(60).allows(IO_ERRORS),
    Test::new("killed_server_and_successor", killed_server)
        .needs(&[Need::Module])
        .timeout(90)
        .allows(IO_ERRORS),
    Test::new("exiting_server_leaves_no_thread", exiting_server).needs(&[Need::Module]).timeout(60),
    Test::new("signals_keep_their_handlers", signals_keep_handlers).needs(&[Need::Module]).timeout(60),
];

/// What the block layer says when a request fails.
pub(super) const IO_ERRORS: &[&str] = &["I/O error"];

/// Waits until so many requests are with the block layer.
fn wait_in_flight(name: &str, count: u64) {
    let path = format!("/sys/block/{name}/inflight");
    wait_until(20, "requests in flight", || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        text.split_whitespace().filter_map(|word| word.parse::<u64>().ok()).sum::<u64>() >= count
    });
}

/// Oldest first; one call answers and fetches; the head says what the interface says.
fn fifo_and_fetch(context: &mut Context) {
    context.load_module("");
    let disk = Disk::create("fifo", 1024);
    let mut server = Manual::new(&disk);
    let mut readers = Vec::new();
    for index in 0..4 {
        readers.push(read_in_thread(disk.path(), index * 65536, 8192));
        wait_in_flight("fifo", index + 1);
    }
    server.buffer.bytes_mut()[..abi::OPERATION_DATA_OFFSET].fill(0xa5);
    let (mut opcode, mut id) = server.fetch();
    for index in 0..4_u64 {
        assert_eq!(opcode, abi::OP_READ);
        assert_eq!(server.segment(), (index * 65536, 4096), "not the oldest");
        let head = &server.buffer;
        assert_eq!((head.handle(), head.error(), head.signal()), (0, 0, 0));
        assert_eq!((head.data_size(), head.total_bytes(), head.segment_count()), (0, 8192, 2));
        let unused = &head.bytes()[abi::OPERATION_SEGMENTS_OFFSET + 32..abi::OPERATION_TAIL_OFFSET];
        assert!(unused.iter().all(|byte| *byte == 0), "unused segments are not zero");
        server.buffer.data_mut()[..8192].fill(u8::try_from(index).expect("small") + 1);
        if index < 3 {
            server.call(abi::OP_ANSWER_READ, id, 0).expect("answer and fetch");
            (opcode, id) = (server.buffer.opcode(), server.buffer.op_id());
        }
    }
    // A write comes with its data, in the call that answers the last read.
    let writer = write_in_thread(disk.path(), 4096, 9, BLOCK);
    wait_in_flight("fifo", 2);
    server.call(abi::OP_ANSWER_READ, id, 0).expect("answer and fetch");
    assert_eq!((server.buffer.opcode(), server.buffer.data_size()), (abi::OP_WRITE, BLOCK as u64));
    assert_eq!(server.segment(), (4096, 4096));
    let mut wanted = super::support::Aligned::new(BLOCK, 0);
    wanted.fill(9);
    assert!(server.buffer.data()[..BLOCK] == *wanted.bytes(), "the data of the write");
    let id = server.buffer.op_id();
    let trimmer = std::thread::spawn({
        let path = disk.path();
        move || discard(&path, 8192, 4096)
    });
    server.call(abi::OP_ANSWER_WRITE, id, 0).expect("answer and fetch");
    assert_eq!((server.buffer.opcode(), server.buffer.data_size()), (abi::OP_DISCARD, 4096));
    assert_eq!((server.segment(), server.buffer.segment_count()), ((8192, 4096), 1));
    let id = server.buffer.op_id();
    let last = answer_last(server, abi::OP_ANSWER_DISCARD, id);
    for (index, reader) in readers.into_iter().enumerate() {
        let data = reader.join().expect("reader").expect("read");
        assert!(data.iter().all(|byte| usize::from(*byte) == index + 1));
    }
    assert_eq!(writer.join().expect("writer"), Ok(BLOCK));
    trimmer.join().expect("trimmer").expect("discard");
    finish(&disk, last);
}

/// A server that answers in a thread and then sleeps until the device is gone.
type Last = std::thread::JoinHandle<(Result<(), Errno>, u32)>;

/// Gives the last answer of a test: the call returns when the device is destroyed.
fn answer_last(mut server: Manual, opcode: u32, id: u32) -> Last {
    std::thread::spawn(move || {
        let result = server.call(opcode, id, 0);
        (result, server.buffer.opcode())
    })
}

/// Destroys the device; the server in the call is told.
fn finish(disk: &Disk, last: Last) {
    disk.destroy();
    assert_eq!(last.join().expect("server"), (Ok(()), abi::OP_GONE), "no goodbye");
}

/// An answer of another kind is refused, touches nothing, and the right one is still accepted.
fn wrong_answer_kind(context: &mut Context) {
    context.load_module("");
    let disk = Disk::create("kind", 1024);
    let mut server = Manual::new(&disk);
    let answers = [abi::OP_ANSWER_READ, abi::OP_ANSWER_WRITE, abi::OP_ANSWER_DISCARD];

    let mut source = super::support::Aligned::new(BLOCK, 0);
    source.fill(5);
    let before = source.bytes().to_vec();
    let path = disk.path();
    let writer = std::thread::spawn(move || {
        let count = rustix::io::pwrite(open_direct(&path), source.bytes(), 0);
        (count, source)
    });
    let (_, id) = server.fetch();
    server.buffer.data_mut().fill(0xbb);
    for wrong in [abi::OP_ANSWER_READ, abi::OP_ANSWER_DISCARD] {
        assert_eq!(server.call(wrong, id, 0), Err(Errno::INVAL), "{wrong} to a write");
    }
    let reader = read_in_thread(disk.path(), 0, BLOCK);
    server.call(abi::OP_ANSWER_WRITE, id, 0).expect("the right answer");
    let (count, source) = writer.join().expect("writer");
    assert_eq!(count, Ok(BLOCK));
    assert!(source.bytes() == before, "the submitter's memory was changed");

    assert_eq!(server.buffer.opcode(), abi::OP_READ);
    let id = server.buffer.op_id();
    for wrong in [abi::OP_ANSWER_WRITE, abi::OP_ANSWER_DISCARD] {
        assert_eq!(server.call(wrong, id, 0), Err(Errno::INVAL), "{wrong} to a read");
    }
    let path = disk.path();
    let trimmer = std::thread::spawn(move || discard(&path, 0, 4096));
    server.buffer.data_mut().fill(0xcc);
    server.call(abi::OP_ANSWER_READ, id, 0).expect("the right answer");
    assert!(reader.join().expect("reader").expect("read").iter().all(|byte| *byte == 0xcc));

    assert_eq!(server.buffer.opcode(), abi::OP_DISCARD);
    let id = server.buffer.op_id();
    for wrong in &answers[..2] {
        assert_eq!(server.call(*wrong, id, 0), Err(Errno::INVAL), "{wrong} to a discard");
    }
    let last = answer_last(server, abi::OP_ANSWER_DISCARD, id);
    trimmer.join().expect("trimmer").expect("discard");
    finish(&disk, last);
}

/// An answer to what was never fetched, or never existed, is nobody's: the call only fetches.
fn answer_not_fetched(context: &mut Context) {
    context.load_module("");
    let disk = Disk::create("unfetched", 1024);
    let mut server = Manual::new(&disk);
    let first = read_in_thread(disk.path(), 0, BLOCK);
    let (_, id) = server.fetch();
    let second = read_in_thread(disk.path(), 65536, BLOCK);
    wait_in_flight("unfetched", 2);
    // Names of the next generations and of every other tag: whatever the second request will be called.
    for guess in (0..256).flat_map(|tag| [tag, (1 << 10) | tag, (2 << 10) | tag]).filter(|guess| *guess != id) {
        server.buffer.data_mut()[..BLOCK].fill(0x66);
        if server.buffer.opcode() == abi::OP_READ && server.segment().0 == 65536 {
            break;
        }
        server.call(abi::OP_ANSWER_READ, guess, 0).expect("fetch");
        assert_eq!(server.segment().0, 65536, "the second request was answered without being fetched");
    }
    assert!(!second.is_finished(), "ended by an invented answer");
    let second_id = server.buffer.op_id();
    let third = read_in_thread(disk.path(), 131_072, BLOCK);
    server.buffer.data_mut().fill(2);
    server.call(abi::OP_ANSWER_READ, second_id, 0).expect("answer");
    assert!(second.join().expect("reader").expect("read").iter().all(|byte| *byte == 2));
    let fourth = read_in_thread(disk.path(), 196_608, BLOCK);
    let third_id = server.buffer.op_id();
    server.buffer.data_mut().fill(1);
    server.call(abi::OP_ANSWER_READ, id, 0).expect("answer the first");
    assert!(first.join().expect("reader").expect("read").iter().all(|byte| *byte == 1));
    let fourth_id = server.buffer.op_id();
    let fifth = read_in_thread(disk.path(), 0, BLOCK);
    server.buffer.data_mut().fill(3);
    server.call(abi::OP_ANSWER_READ, third_id, 0).expect("answer the third");
    assert!(third.join().expect("reader").expect("read").iter().all(|byte| *byte == 3));
    let fifth_id = server.buffer.op_id();
    assert_ne!(fifth_id, id, "a name was used again");
    let sixth = read_in_thread(disk.path(), 0, BLOCK);
    server.buffer.data_mut().fill(4);
    server.call(abi::OP_ANSWER_READ, fourth_id, 0).expect("answer the fourth");
    assert!(fourth.join().expect("reader").expect("read").iter().all(|byte| *byte == 4));
    let sixth_id = server.buffer.op_id();
    server.buffer.data_mut().fill(5);
    let mut other = Manual::new(&disk);
    other.buffer.data_mut().fill(6);
    let last = answer_last(other, abi::OP_ANSWER_READ, sixth_id);
    assert!(sixth.join().expect("reader").expect("read").iter().all(|byte| *byte == 6));
    let other = answer_last(server, abi::OP_ANSWER_READ, fifth_id);
    assert!(fifth.join().expect("reader").expect("read").iter().all(|byte| *byte == 5));
    disk.destroy();
    for server in [last, other] {
        assert_eq!(server.join().expect("server"), (Ok(()), abi::OP_GONE));
    }
}

/// The second answer ends nothing, not even the tag's next request.
fn answer_twice(context: &mut Context) {
    context.load_module("");
    let disk = Disk::create("twice", 1024);
    let mut server = Manual::new(&disk);
    let mut old = 0;
    let mut reader = read_in_thread(disk.path(), 0, BLOCK);
    let (_, mut id) = server.fetch();
    for round in 1..=20_u8 {
        let next = read_in_thread(disk.path(), 0, BLOCK);
        server.buffer.data_mut().fill(round);
        server.call(abi::OP_ANSWER_READ, id, 0).expect("answer");
        assert!(reader.join().expect("reader").expect("read").iter().all(|byte| *byte == round));
        old = std::mem::replace(&mut id, server.buffer.op_id());
        assert_ne!(old, id);
        let spare = read_in_thread(disk.path(), 4096, BLOCK);
        server.buffer.data_mut().fill(0xff);
        server.call(abi::OP_ANSWER_READ, old, 0).expect("a repeated answer only fetches");
        let spare_id = server.buffer.op_id();
        let filler = read_in_thread(disk.path(), 8192, BLOCK);
        server.buffer.data_mut().fill(0x11);
        server.call(abi::OP_ANSWER_READ, spare_id, 0).expect("answer");
        assert!(spare.join().expect("reader").expect("read").iter().all(|byte| *byte == 0x11));
        assert!(!next.is_finished(), "round {round}: the repeated answer ended another request");
        let again = read_in_thread(disk.path(), 0, BLOCK);
        let filler_id = server.buffer.op_id();
        server.buffer.data_mut().fill(0x22);
        server.call(abi::OP_ANSWER_READ, filler_id, 0).expect("answer");
        assert!(filler.join().expect("reader").expect("read").iter().all(|byte| *byte == 0x22));
        let again_id = server.buffer.op_id();
        let more = read_in_thread(disk.path(), 0, BLOCK);
        server.buffer.data_mut().fill(0x33);
        server.call(abi::OP_ANSWER_READ, id, 0).expect("answer");
        assert!(next.join().expect("reader").expect("read").iter().all(|byte| *byte == 0x33));
        let more_id = server.buffer.op_id();
        reader = again;
        id = again_id;
        let tail = read_in_thread(disk.path(), 0, BLOCK);
        server.buffer.data_mut().fill(0x44);
        server.call(abi::OP_ANSWER_READ, more_id, 0).expect("answer");
        assert!(more.join().expect("reader").expect("read").iter().all(|byte| *byte == 0x44));
        let tail_id = server.buffer.op_id();
        server.buffer.data_mut().fill(round);
        let closing = read_in_thread(disk.path(), 0, BLOCK);
        server.call(abi::OP_ANSWER_READ, id, 0).expect("answer");
        assert!(reader.join().expect("reader").expect("read").iter().all(|byte| *byte == round));
        reader = closing;
        id = server.buffer.op_id();
        let onward = read_in_thread(disk.path(), 0, BLOCK);
        server.buffer.data_mut().fill(0x55);
        server.call(abi::OP_ANSWER_READ, tail_id, 0).expect("answer");
        assert!(tail.join().expect("reader").expect("read").iter().all(|byte| *byte == 0x55));
        let onward_id = server.buffer.op_id();
        server.buffer.data_mut().fill(round);
        let carry = read_in_thread(disk.path(), 0, BLOCK);
        server.call(abi::OP_ANSWER_READ, onward_id, 0).expect("answer");
        onward.join().expect("reader").expect("read");
        let carry_id = server.buffer.op_id();
        server.call_ignoring(carry_id, carry, &disk);
    }
    let _ = old;
    let last = answer_last(server, abi::OP_ANSWER_READ, id);
    reader.join().expect("reader").expect("read");
    finish(&disk, last);
}
