// SPDX-License-Identifier: MIT OR Apache-2.0
//! The operation call: order, valid and invalid answers, signals, deadlines.

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use zosbd2::v1::{Channel as _, CreateOptions};
use zosbd2_abi::v1 as abi;

use super::support::{
    Aligned, BLOCK, Disk, Manual, TICK, discard, open_direct, read_in_thread, read_into_filled_in_thread,
    sleeps_in_ioctl, spawn_server, write_in_thread,
};
use crate::guest::{Context, Need, Test, raw, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("fifo_and_fetch", fifo_and_fetch).needs(&[Need::Module]).timeout(60),
    Test::new("wrong_answer_kind", wrong_answer_kind).needs(&[Need::Module]).timeout(60),
    Test::new("answer_not_fetched", answer_not_fetched).needs(&[Need::Module]).timeout(60),
    Test::new("answer_twice", answer_twice).needs(&[Need::Module]).timeout(60),
    Test::new("answer_with_foreign_handle", foreign_handle).needs(&[Need::Module]).timeout(60),
    Test::new("read_only_descriptor", read_only_descriptor).needs(&[Need::Module]).timeout(60),
    Test::new("failed_answers", failed_answers).needs(&[Need::Module]).timeout(60),
    Test::new("eintr_and_sigurg", eintr_and_sigurg).needs(&[Need::Module]).timeout(60),
    Test::new("shutdown_notices_are_bounded", shutdown_notices).needs(&[Need::Module]).timeout(60),
    Test::new("timeouts_in_ms", timeouts_in_ms).needs(&[Need::Module]).timeout(60),
    Test::new("unfetched_request_times_out", unfetched_times_out).needs(&[Need::Module]).timeout(60),
    Test::new("late_answer_after_timeout", late_answer).needs(&[Need::Module]).timeout(60),
    Test::new("killed_server_and_successor", killed_server).needs(&[Need::Module]).timeout(90),
    Test::new("exiting_server_leaves_no_thread", exiting_server).needs(&[Need::Module]).timeout(60),
    Test::new("signals_keep_their_handlers", signals_keep_handlers).needs(&[Need::Module]).timeout(60),
];

/// Waits until this many requests are in flight.
pub(super) fn wait_in_flight(name: &str, count: u64) {
    let path = format!("/sys/block/{name}/inflight");
    wait_until(20, "requests in flight", || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        text.split_whitespace().filter_map(|word| word.parse::<u64>().ok()).sum::<u64>() >= count
    });
}

/// The oldest request comes first; one call answers and fetches; the head is filled as documented.
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
    server.fetch();
    for index in 0..4_u64 {
        let head = &server.buffer;
        assert_eq!(head.opcode(), abi::OP_READ);
        assert_eq!(server.segment(), (index * 65536, 4096), "not the oldest");
        assert_eq!((head.handle(), head.error(), head.signal()), (0, 0, 0));
        assert_eq!((head.data_size(), head.total_bytes(), head.segment_count()), (0, 8192, 2));
        let unused = &head.bytes()[abi::OPERATION_SEGMENTS_OFFSET + 32..abi::OPERATION_TAIL_OFFSET];
        assert!(unused.iter().all(|byte| *byte == 0), "unused segments are not zero");
        let id = head.op_id();
        server.buffer.data_mut()[..8192].fill(u8::try_from(index).expect("small") + 1);
        let next = server.answer(abi::OP_ANSWER_READ, id, 0);
        assert_eq!(next, Ok((index < 3).then_some(abi::OP_READ)));
    }
    for (index, reader) in readers.into_iter().enumerate() {
        let data = reader.join().expect("reader").expect("read");
        assert!(data.iter().all(|byte| usize::from(*byte) == index + 1));
    }

    let writer = write_in_thread(disk.path(), 4096, 9, BLOCK);
    let (opcode, id) = server.fetch();
    assert_eq!((opcode, server.buffer.data_size()), (abi::OP_WRITE, BLOCK as u64));
    assert_eq!(server.segment(), (4096, 4096));
    let mut wanted = Aligned::new(BLOCK, 0);
    wanted.fill(9);
    assert!(server.buffer.data()[..BLOCK] == *wanted.bytes(), "the data of the write");
    assert_eq!(server.answer(abi::OP_ANSWER_WRITE, id, 0), Ok(None));
    assert_eq!(writer.join().expect("writer"), Ok(BLOCK));

    let trimmer = discard_in_thread(&disk, 8192, 4096);
    let (opcode, id) = server.fetch();
    assert_eq!((opcode, server.buffer.data_size()), (abi::OP_DISCARD, 4096));
    assert_eq!((server.segment(), server.buffer.segment_count()), ((8192, 4096), 1));
    assert_eq!(server.answer(abi::OP_ANSWER_DISCARD, id, 0), Ok(None));
    trimmer.join().expect("trimmer").expect("discard");
    finish(&disk, server);
}

fn discard_in_thread(disk: &Disk, offset: u64, length: u64) -> std::thread::JoinHandle<Result<(), Errno>> {
    let path = disk.path();
    std::thread::spawn(move || discard(&path, offset, length))
}

/// Destroys the device under a sleeping fetch, which gets the goodbye. The next call fails.
fn finish(disk: &Disk, server: Manual) {
    let thread = Arc::new(AtomicI32::new(0));
    let last = std::thread::spawn({
        let (mut server, thread) = (server, Arc::clone(&thread));
        move || {
            thread.store(raw::thread_id(), Ordering::SeqCst);
            let goodbye = server.call(abi::OP_FETCH, 0, 0).map(|()| server.buffer.opcode());
            (goodbye, server.call(abi::OP_FETCH, 0, 0))
        }
    });
    wait_until(20, "the fetch to sleep", || sleeps_in_ioctl(&thread));
    disk.destroy();
    let ended = last.join().expect("server");
    assert_eq!(ended, (Ok(abi::OP_GONE), Err(Errno::NOENT)), "no goodbye");
}

/// Answers a read with one byte and checks that the reader got it.
fn answer_read(server: &mut Manual, id: u32, byte: u8, reader: Reader) {
    server.buffer.data_mut().fill(byte);
    server.answer(abi::OP_ANSWER_READ, id, 0).expect("answer");
    let data = reader.join().expect("reader").expect("read");
    assert!(data.iter().all(|found| *found == byte), "the reader got {:#x}, not {byte:#x}", data[0]);
}

type Reader = std::thread::JoinHandle<Result<Vec<u8>, Errno>>;

/// An answer of the wrong kind is refused and touches no memory, and the right answer is still accepted.
fn wrong_answer_kind(context: &mut Context) {
    context.load_module("");
    let disk = Disk::create("kind", 1024);
    let mut server = Manual::new(&disk);

    let mut source = Aligned::new(BLOCK, 0);
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
    server.answer(abi::OP_ANSWER_WRITE, id, 0).expect("the right answer");
    let (count, source) = writer.join().expect("writer");
    assert_eq!(count, Ok(BLOCK));
    assert!(source.bytes() == before, "the submitter's memory was changed");

    let reader = read_in_thread(disk.path(), 0, BLOCK);
    let (_, id) = server.fetch();
    for wrong in [abi::OP_ANSWER_WRITE, abi::OP_ANSWER_DISCARD] {
        assert_eq!(server.call(wrong, id, 0), Err(Errno::INVAL), "{wrong} to a read");
    }
    answer_read(&mut server, id, 0xcc, reader);

    let trimmer = discard_in_thread(&disk, 0, 4096);
    let (_, id) = server.fetch();
    for wrong in [abi::OP_ANSWER_READ, abi::OP_ANSWER_WRITE] {
        assert_eq!(server.call(wrong, id, 0), Err(Errno::INVAL), "{wrong} to a discard");
    }
    server.answer(abi::OP_ANSWER_DISCARD, id, 0).expect("the right answer");
    trimmer.join().expect("trimmer").expect("discard");
    finish(&disk, server);
}

/// An answer to a request that was not fetched, or never existed, is ignored: the call only fetches.
fn answer_not_fetched(context: &mut Context) {
    context.load_module("");
    let disk = Disk::create("unfetched", 1024);
    let mut server = Manual::new(&disk);
    let reader = read_in_thread(disk.path(), 0, BLOCK);
    let (_, id) = server.fetch();
    server.buffer.data_mut().fill(0x66);
    for guess in [0, 1, id ^ 1, id.wrapping_add(1 << 10), id.wrapping_sub(1 << 10), u32::MAX, u32::MAX << 10]
    {
        for opcode in [abi::OP_ANSWER_READ, abi::OP_ANSWER_WRITE, abi::OP_ANSWER_DISCARD] {
            if guess != id {
                assert_eq!(server.answer(opcode, guess, 0), Ok(None), "{guess:#x}");
            }
        }
    }
    assert!(!reader.is_finished(), "an invented answer ended the request");

    // A queued request cannot be answered. The next op id of its tag is the best guess.
    let queued = read_in_thread(disk.path(), 65536, BLOCK);
    wait_in_flight("unfetched", 2);
    assert_eq!(server.answer(abi::OP_ANSWER_READ, id.wrapping_add(1), 0), Ok(Some(abi::OP_READ)));
    assert_eq!(server.segment(), (65536, 4096));
    let queued_id = server.buffer.op_id();
    assert!(!queued.is_finished(), "answered before it was fetched");
    answer_read(&mut server, queued_id, 2, queued);
    answer_read(&mut server, id, 1, reader);
    finish(&disk, server);
}

/// A repeated answer ends nothing, not even the next request of the same tag.
fn answer_twice(context: &mut Context) {
    context.load_module("");
    let disk = Disk::create("twice", 1024);
    let mut server = Manual::new(&disk);
    let mut old = Vec::new();
    for round in 1..=50_u8 {
        let reader = read_in_thread(disk.path(), 0, BLOCK);
        let (_, id) = server.fetch();
        assert!(!old.contains(&id), "a name was used again");
        server.buffer.data_mut().fill(0xff);
        for stale in old.iter().rev().take(3) {
            assert_eq!(server.answer(abi::OP_ANSWER_READ, *stale, 0), Ok(None));
        }
        assert!(!reader.is_finished(), "round {round}: a repeated answer ended another request");
        answer_read(&mut server, id, round, reader);
        old.push(id);
    }
    finish(&disk, server);
}

/// A descriptor serves its own disk, whatever handle the buffer names.
fn foreign_handle(context: &mut Context) {
    context.load_module("");
    let (mine, other) = (Disk::create("mine", 1024), Disk::create("other", 1024));
    let mut server = Manual::new(&mine);
    let mut foreign = Manual::new(&other);
    let reader = read_in_thread(mine.path(), 0, BLOCK);
    let (_, id) = server.fetch();
    for handle in [mine.handle.raw(), 0, u32::MAX, mine.handle.raw() + 1000] {
        foreign.buffer.set_handle(handle);
        for opcode in [abi::OP_FETCH, abi::OP_ANSWER_READ, abi::OP_SHUTDOWN_NOTICE] {
            foreign.buffer.set_opcode(opcode);
            foreign.buffer.set_op_id(id);
            let result = foreign.device.operation(&mut foreign.buffer);
            assert_eq!(result, Err(Errno::NOENT), "handle {handle} on another disk's descriptor");
            assert_eq!(foreign.buffer.opcode(), opcode, "the buffer was changed");
        }
    }
    // The right handle of the other disk, with an op id of the first one: that disk has no such request.
    assert_eq!(foreign.answer(abi::OP_ANSWER_READ, id, 0), Ok(None));
    assert!(!reader.is_finished());
    answer_read(&mut server, id, 7, reader);
    finish(&mine, server);
    finish(&other, foreign);
}

/// A read-only descriptor gives no right to serve.
fn read_only_descriptor(context: &mut Context) {
    context.load_module("");
    let disk = Disk::create("ro", 1024);
    let node = std::fs::File::open(disk.path()).expect("open read-only");
    let pages = raw::Pages::new(abi::OPERATION_BYTES);
    let at = pages.at_end(abi::OPERATION_BYTES);
    pages.put(at, &disk.handle.raw().to_ne_bytes());
    for opcode in [abi::OP_FETCH, abi::OP_ANSWER_READ, abi::OP_SHUTDOWN_NOTICE] {
        pages.put(at + 8, &opcode.to_ne_bytes());
        assert_eq!(raw::ioctl(node.as_fd(), abi::IOCTL_OPERATION, at), Err(Errno::BADF), "opcode {opcode}");
    }
    assert_eq!(raw::ioctl(node.as_fd(), abi::IOCTL_BLOCK_PING, 0), Ok(0));
    drop(node);
    disk.destroy();
}

/// Any error of the server becomes `EIO` for the submitter, at once.
fn failed_answers(context: &mut Context) {
    context.load_module("");
    let disk = Disk::create("fails", 1024);
    let mut server = Manual::new(&disk);
    for error in [-5, 5, 1, i32::MIN, i32::MAX] {
        let reader = read_in_thread(disk.path(), 0, BLOCK);
        let (_, id) = server.fetch();
        assert_eq!(server.answer(abi::OP_ANSWER_READ, id, error), Ok(None));
        assert_eq!(reader.join().expect("reader"), Err(Errno::IO), "error {error}");
        let writer = write_in_thread(disk.path(), 0, 1, BLOCK);
        let (_, id) = server.fetch();
        assert_eq!(server.answer(abi::OP_ANSWER_WRITE, id, error), Ok(None));
        assert_eq!(writer.join().expect("writer"), Err(Errno::IO), "error {error}");
    }
    finish(&disk, server);
}

/// A signal ends the sleep with EINTR, opcode 40 and the signal's number, and its handler runs. Repeating the
/// answer of an interrupted call is harmless.
fn eintr_and_sigurg(context: &mut Context) {
    context.load_module("");
    let disk = Disk::create("intr", 1024);
    let mut server = Manual::new(&disk);
    for signal in [libc::SIGUSR1, libc::SIGURG, libc::SIGTERM, libc::SIGINT] {
        raw::count_signal(signal);
        let before = raw::signals_handled();
        let reader = read_in_thread(disk.path(), 0, BLOCK);
        let (_, id) = server.fetch();
        server.buffer.data_mut().fill(0x31);
        let thread = AtomicI32::new(0);
        let result = std::thread::scope(|scope| {
            let call = scope.spawn(|| {
                thread.store(raw::thread_id(), Ordering::SeqCst);
                server.call(abi::OP_ANSWER_READ, id, 0)
            });
            wait_until(20, "the call to sleep", || sleeps_in_ioctl(&thread));
            raw::signal_thread(thread.load(Ordering::SeqCst), signal);
            call.join().expect("the call panicked")
        });
        assert_eq!(result, Err(Errno::INTR), "signal {signal}");
        assert_eq!(server.buffer.opcode(), abi::OP_NOTHING);
        assert_eq!(server.buffer.signal(), u32::try_from(signal).expect("positive"));
        assert_eq!(raw::signals_handled(), before + 1, "the handler of {signal} did not run");
        assert!(reader.join().expect("reader").expect("read").iter().all(|byte| *byte == 0x31));
        assert_eq!(server.answer(abi::OP_ANSWER_READ, id, 0), Ok(None), "the answer again");
    }
    finish(&disk, server);
}

/// Any number of notices can be requested, each call gets one, and notices need no memory.
fn shutdown_notices(context: &mut Context) {
    context.load_module("");
    let disk = Disk::create("notices", 1024);
    let mut server = Manual::new(&disk);
    for _ in 0..100_000 {
        server.call(abi::OP_SHUTDOWN_NOTICE, 0, 0).expect("notice");
        assert_eq!(server.buffer.opcode(), abi::OP_SHUTDOWN_NOTICE);
    }
    assert_eq!(server.buffer.total_bytes(), u64::from(abi::SHUTDOWN_ACTION));
    // No notice is left.
    let reader = read_in_thread(disk.path(), 0, BLOCK);
    let (opcode, id) = server.fetch();
    assert_eq!(opcode, abi::OP_READ);
    answer_read(&mut server, id, 1, reader);
    finish(&disk, server);
}

/// Seconds become milliseconds without overflow, and values out of range are refused.
fn timeouts_in_ms(context: &mut Context) {
    context.load_module("");
    for seconds in [1, 2, 30, 1200] {
        let options =
            CreateOptions::new("timeout", 1024).expect("options").timeout(Duration::from_secs(seconds));
        let disk = Disk::create_with(&options);
        let mut status = abi::Status { query: disk.handle.raw(), ..abi::Status::default() };
        disk.control.status_raw(&mut status).expect("status");
        assert_eq!(u64::from(status.timeout_ms), seconds * 1000);
        disk.destroy();
    }
    let control = zosbd2::v1::Control::open().expect("control");
    for seconds in [0, 1201, 4_294_968, 4_294_969, u32::MAX] {
        let mut create = abi::Create {
            block_size: abi::BLOCK_SIZE,
            block_count: 1024,
            timeout_s: seconds,
            ..abi::Create::default()
        };
        create.name[..4].copy_from_slice(b"late");
        assert_eq!(control.create_raw(&mut create), Err(Errno::RANGE), "{seconds} s");
    }
}

/// Without a server a request fails after the timeout.
fn unfetched_times_out(context: &mut Context) {
    context.load_module("");
    let options = CreateOptions::new("nobody", 1024).expect("options").timeout(Duration::from_secs(2));
    let disk = Disk::create_with(&options);
    let begin = Instant::now();
    let readers: Vec<_> = (0..4).map(|index| read_in_thread(disk.path(), index * 4096, BLOCK)).collect();
    for reader in readers {
        assert_eq!(reader.join().expect("reader"), Err(Errno::IO));
    }
    assert!(begin.elapsed() + TICK >= Duration::from_secs(2), "failed after {:?}", begin.elapsed());
    // The tags are free again, and a server that comes now serves.
    let server = disk.serve_memory(1);
    let reader = read_in_thread(disk.path(), 0, BLOCK);
    assert_eq!(reader.join().expect("reader").expect("read").len(), BLOCK);
    disk.destroy_and_join(server);
}

/// After the timeout the server's answer is late: it ends nothing and touches no memory.
fn late_answer(context: &mut Context) {
    context.load_module("");
    let options = CreateOptions::new("late", 1024).expect("options").timeout(Duration::from_secs(3));
    let disk = Disk::create_with(&options);
    let mut server = Manual::new(&disk);
    let reader = read_into_filled_in_thread(disk.path(), 0, 7, BLOCK);
    let (_, id) = server.fetch();
    let (result, buffer) = reader.join().expect("reader");
    assert_eq!(result, Err(Errno::IO));
    server.buffer.data_mut().fill(0x99);
    assert_eq!(server.answer(abi::OP_ANSWER_READ, id, 0), Ok(None), "a late answer");
    assert!(buffer.is_filled(7), "a late answer changed the submitter's memory");
    let next = read_in_thread(disk.path(), 0, BLOCK);
    let (_, new) = server.fetch();
    assert_ne!(new, id);
    assert_eq!(server.answer(abi::OP_ANSWER_READ, id, 0), Ok(None), "a late answer");
    answer_read(&mut server, new, 3, next);
    finish(&disk, server);
}

/// Requests that a killed server held fail by timeout. A new server finds the device by name and serves it.
fn killed_server(context: &mut Context) {
    context.load_module("");
    let store = std::path::Path::new("/tmp/store");
    let options = CreateOptions::new("killed", 4096).expect("options").timeout(Duration::from_secs(8));
    let disk = Disk::create_with(&options);
    let mut first = spawn_server("killed", 2, store);
    assert_eq!(write_in_thread(disk.path(), 0, 77, 65536).join().expect("writer"), Ok(65536));
    first.kill().expect("kill");
    first.wait().expect("wait");
    // One request is fetched by a server that dies with it; others are queued.
    let mut holder = Manual::new(&disk);
    let held = read_in_thread(disk.path(), 0, BLOCK);
    holder.fetch();
    drop(holder);
    let queued = read_in_thread(disk.path(), 4096, BLOCK);
    wait_in_flight("killed", 2);
    let mut second = spawn_server("killed", 2, store);
    assert_eq!(queued.join().expect("reader").expect("the queued one is served").len(), BLOCK);
    assert_eq!(held.join().expect("reader"), Err(Errno::IO), "the held one fails by timeout");
    let mut wanted = Aligned::new(65536, 0);
    wanted.fill(77);
    let read = read_in_thread(disk.path(), 0, 65536).join().expect("reader").expect("read");
    assert!(read == wanted.bytes(), "the new server has other data");
    // Killed under load: all requests in flight end, and a third server serves on.
    let writers: Vec<_> =
        (0..16).map(|index| write_in_thread(disk.path(), index << 16, index, 65536)).collect();
    second.kill().expect("kill");
    second.wait().expect("wait");
    for writer in writers {
        let result = writer.join().expect("writer");
        assert!(result == Ok(65536) || result == Err(Errno::IO), "{result:?}");
    }
    let mut third = spawn_server("killed", 4, store);
    assert_eq!(write_in_thread(disk.path(), 0, 1, 65536).join().expect("writer"), Ok(65536));
    disk.destroy();
    assert!(third.wait().expect("wait").success());
}

/// A server with many sleeping threads ends at once when its process exits.
fn exiting_server(context: &mut Context) {
    context.load_module("");
    let disk = Disk::create("exits", 1024);
    for round in 0..6 {
        let mut server = spawn_server("exits", 8, std::path::Path::new("/tmp/store"));
        // By a normal exit of its main thread, or by a signal: both end the other threads inside the call.
        if round % 2 == 0 {
            drop(server.stdin.take());
        } else {
            let pid = rustix::process::Pid::from_child(&server);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("kill");
        }
        let mut status = None;
        wait_until(10, "the server to exit", || {
            status = server.try_wait().expect("wait");
            status.is_some()
        });
        assert_eq!(status.and_then(|status| status.code()), (round % 2 == 0).then_some(0));
        assert!(!std::path::Path::new(&format!("/proc/{}", server.id())).exists(), "a thread is left");
    }
    // The node is closed.
    wait_until(10, "the node to be closed", || disk.control.destroy(disk.handle, false).is_ok());
}

/// Signals to a waiting submitter and to a sleeping server run their handlers, once each, and do not disturb the
/// I/O.
fn signals_keep_handlers(context: &mut Context) {
    context.load_module("");
    let disk = Disk::create("signals", 1024);
    let mut server = Manual::new(&disk);
    for signal in [libc::SIGUSR2, libc::SIGINT, libc::SIGALRM] {
        raw::count_signal(signal);
        let before = raw::signals_handled();
        let thread = Arc::new(AtomicI32::new(0));
        let path = disk.path();
        let reader = std::thread::spawn({
            let thread = Arc::clone(&thread);
            move || {
                let mut buffer = Aligned::new(BLOCK, 0);
                let node = open_direct(&path);
                thread.store(raw::thread_id(), Ordering::SeqCst);
                rustix::io::pread(node, buffer.bytes_mut(), 0).map(|count| buffer.bytes()[..count].to_vec())
            }
        });
        let (_, id) = server.fetch();
        for _ in 0..3 {
            raw::signal_thread(thread.load(Ordering::SeqCst), signal);
        }
        answer_read(&mut server, id, 0x42, reader);
        wait_until(10, "the handler to run", || raw::signals_handled() > before);
    }
    finish(&disk, server);
}
