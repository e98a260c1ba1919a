// SPDX-License-Identifier: MIT OR Apache-2.0
//! Serving: any thread may fetch, any thread may commit, the descriptor can be polled and passed on, and the
//! entries of a batch are independent.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;
use zosbd2::v2::abi;
use zosbd2::{Answers, Backend as _, Builder, Fetch, Fetched, Server, State};
use zosbd2_backends::Ram;

use super::super::support::{read_in_thread, sleeps_in_ioctl, write_in_thread};
use super::inspect::{lines, number};
use super::support::{Disk, Manual, control, plain, plain_by_hand, refused, threads};
use crate::guest::{Context, Need, Test, descriptor, processor, raw, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_commit_by_another_thread", commit_by_another).needs(&[Need::Module]).timeout(60),
    Test::new("v2_batches", batches).needs(&[Need::Module]).timeout(60),
    Test::new("v2_each_entry_for_itself", each_for_itself).needs(&[Need::Module]).timeout(60),
    Test::new("v2_arena_and_room", arena_and_room).needs(&[Need::Module]).timeout(60),
    Test::new("v2_results", results).needs(&[Need::Module]).timeout(60),
    Test::new("v2_poll_and_epoll", polling).needs(&[Need::Module]).timeout(60),
    Test::new("v2_time_limit_and_signals", limit_and_signals).needs(&[Need::Module]).timeout(60),
    Test::new("v2_queues_are_served_apart", queues_apart).needs(&[Need::Module]).timeout(60),
    Test::new("v2_wakes_one_thread", wakes_one)
        .needs(&[Need::Module, Need::Path("/sys/kernel/debug")])
        .timeout(60),
    Test::new("v2_descriptor_is_passed_on", passed_on).needs(&[Need::Module]).timeout(60),
    Test::new("v2_start_by_the_only_thread", start_by_the_only_thread).needs(&[Need::Module]).timeout(60),
    Test::new("v2_spin_before_sleep", spin).needs(&[Need::Module]).timeout(60),
];

const MIB: u64 = 1 << 20;

/// The result of a reader, or why the kernel refused the answer to its request.
type Outcome = Result<Result<Vec<u8>, Errno>, Errno>;

fn commit_by_another(context: &mut Context) {
    context.load_module("");
    let (disk, mut fetcher) = plain_by_hand("other");
    let read = read_in_thread(disk.path(), 4096, 4096);
    let request = fetcher.fetch_one();
    assert_eq!((request.op(), request.offset(), request.length()), (abi::OP_READ, 4096, 4096));
    let other = disk.clone();
    std::thread::spawn(move || {
        let mut committer = Manual::new(&other);
        let refused = committer.answer(|batch| batch.read(&request, &[7; 4096]));
        assert!(refused.is_empty(), "{refused:?}");
    })
    .join()
    .expect("the committing thread");
    assert_eq!(read.join().expect("reader"), Ok(vec![7; 4096]));
    disk.destroy(true);
}

fn batches(context: &mut Context) {
    context.load_module("");
    let (disk, mut server) = plain_by_hand("batches");
    let reads: Vec<_> = (0..8).map(|index| read_in_thread(disk.path(), index * 8192, 4096)).collect();
    // Waits until all eight requests have come, however many calls of the submitters that takes.
    let requests = server.fetch(0, 16, 8).expect("fetch");
    assert_eq!(requests.len(), 8);
    let data: Vec<Vec<u8>> = requests
        .iter()
        .map(|request| vec![u8::try_from(request.offset() / 8192).expect("small"); 4096])
        .collect();
    let refused = server.answer(|batch| {
        for (request, data) in requests.iter().zip(&data).rev() {
            batch.read(request, data);
        }
    });
    assert!(refused.is_empty(), "{refused:?}");
    for (index, read) in (0..).zip(reads) {
        assert_eq!(read.join().expect("reader"), Ok(vec![index; 4096]));
    }
    // Fewer places than requests: the rest stays queued, in order. The offsets are not adjacent, so the requests
    // do not merge.
    let writes: Vec<_> =
        (0..8).map(|index| write_in_thread(disk.path(), index * 8192, index, 4096)).collect();
    let first = server.fetch(0, 3, 3).expect("fetch");
    wait_until(20, "the other five", || disk.server.stats(0).expect("stats").queued == 5);
    assert_eq!((first.len(), disk.server.stats(0).expect("stats").held), (3, 3));
    let rest = server.fetch(0, 16, 5).expect("fetch");
    assert_eq!(rest.len(), 5);
    for request in first.iter().chain(&rest) {
        server.complete(request);
    }
    for write in writes {
        assert_eq!(write.join().expect("writer"), Ok(4096));
    }
    let stats = disk.server.stats(0).expect("stats");
    assert_eq!((stats.queued, stats.held, stats.stale, stats.failed), (0, 0, 0, 0));
    assert_eq!((stats.read_bytes, stats.written_bytes), (8 * 4096, 8 * 4096));
    disk.destroy(true);
}

fn each_for_itself(context: &mut Context) {
    context.load_module("");
    let (disk, mut server) = plain_by_hand("each");
    let reads: Vec<_> = (0..3).map(|index| read_in_thread(disk.path(), index * 4096, 4096)).collect();
    let requests = server.fetch(0, 3, 3).expect("fetch");
    let [first, second, third] = requests[..] else { panic!("{requests:?}") };
    let data = [5; 4096];
    // The first one is answered twice, the second one fails, the third one succeeds: only the repeated answer is
    // refused.
    let refused = server.answer(|batch| {
        batch.read(&first, &data);
        batch.read(&first, &data);
        batch.fail(&second, Errno::ILSEQ);
        batch.read(&third, &data);
    });
    assert_eq!(refused, [(first.handle(), Errno::STALE)]);
    let mut results: Vec<_> = reads.into_iter().map(|read| read.join().expect("reader")).collect();
    let failed = usize::try_from(second.offset() / 4096).expect("small");
    assert_eq!(results.remove(failed), Err(Errno::ILSEQ));
    assert!(results.iter().all(|result| *result == Ok(data.to_vec())));
    // All of them again: each answer is stale.
    let refused = server.answer(|batch| {
        for request in &requests {
            batch.read(request, &data);
        }
    });
    assert_eq!(refused.len(), 3);
    let stats = disk.server.stats(0).expect("stats");
    assert_eq!((stats.stale, stats.failed), (4, 1));
    disk.destroy(true);
}

fn arena_and_room(context: &mut Context) {
    context.load_module("");
    let (disk, mut server) = plain_by_hand("arena");
    server.arena = vec![0; 12288];
    let writes: Vec<_> =
        (0..3).map(|index| write_in_thread(disk.path(), index * 8192, index + 1, 8192)).collect();
    let requests = server.fetch(0, 8, 3).expect("fetch");
    assert_eq!(requests.len(), 3);
    let with_data = |request: &&Fetched| request.flags() & abi::REQUEST_DATA != 0;
    let (here, there): (Vec<&Fetched>, Vec<&Fetched>) = requests.iter().partition(with_data);
    assert_eq!((here.len(), there.len()), (1, 2), "one fits into 12 KiB: {requests:?}");
    let wanted = |request: &Fetched| {
        let mut wanted = super::super::support::Aligned::new(8192, 0);
        wanted.fill(request.offset() / 8192 + 1);
        wanted.bytes().to_vec()
    };
    assert_eq!(server.arena[..8192], wanted(here[0]), "the data in the arena");
    // The server copies one write and keeps it, and then commits it. It commits the other one at once.
    let (mut copy, mut target, mut last) = (vec![0; 8192], vec![0; 8192], vec![0; 8192]);
    assert_eq!(server.answer(|batch| batch.copy(there[0], &mut copy)), []);
    assert_eq!(copy, wanted(there[0]), "the copy");
    assert_eq!(disk.server.stats(0).expect("stats").held, 3);
    let refused = server.answer(|batch| {
        batch.write(there[0], &mut target);
        batch.write(there[1], &mut last);
        batch.done(here[0]);
    });
    assert_eq!(refused, []);
    assert_eq!((target, last), (wanted(there[0]), wanted(there[1])));
    for write in writes {
        assert_eq!(write.join().expect("writer"), Ok(8192));
    }
    disk.destroy(true);
}

/// The meaning of results, entry by entry, with raw commits.
fn results(context: &mut Context) {
    context.load_module("");
    let (disk, mut server) = plain_by_hand("results");
    let pages = raw::Pages::new(65536);
    let data = pages.at_end(65536);
    pages.put(data, &vec![9; 65536]);
    let address = data as u64;
    let commit = |result: i64, address: u64, flags: u32| abi::Commit {
        result,
        address,
        flags,
        ..abi::Commit::default()
    };
    let zero_fill = abi::COMMIT_ZERO_FILL;
    // Read of 8192: the given result, and what the reader gets, or why the entry is refused.
    let mut wanted = vec![9; 5000];
    wanted.resize(8192, 0);
    let cases: [(abi::Commit, Outcome); 10] = [
        (commit(8192, address, 0), Ok(Ok(vec![9; 8192]))),
        (commit(5000, address, zero_fill), Ok(Ok(wanted))),
        (commit(0, 0, zero_fill), Ok(Ok(vec![0; 8192]))),
        (commit(5000, address, 0), Ok(Err(Errno::IO))),
        (commit(0, 0, 0), Ok(Err(Errno::IO))),
        (commit(-i64::from(Errno::ILSEQ.raw_os_error()), 0, 0), Ok(Err(Errno::ILSEQ))),
        (commit(8193, address, 0), Err(Errno::INVAL)),
        (commit(8192, 0, 0), Err(Errno::INVAL)),
        (commit(-4096, address, 0), Err(Errno::INVAL)),
        (commit(8192, address, abi::COMMIT_COPY_ONLY), Err(Errno::INVAL)),
    ];
    for (entry, outcome) in cases {
        let read = read_in_thread(disk.path(), 0, 8192);
        let request = server.fetch_one();
        let entry = abi::Commit { handle: request.handle(), ..entry };
        let status = super::hostile::commit_raw(&disk.server, &pages, &[entry])[0];
        match outcome {
            Ok(result) => {
                assert_eq!(status, 0, "{entry:?}");
                assert_eq!(read.join().expect("reader"), result, "{entry:?}");
            }
            Err(errno) => {
                assert_eq!(status, -errno.raw_os_error(), "{entry:?}");
                server.complete(&request);
                assert_eq!(read.join().expect("reader"), Ok(vec![0; 8192]), "{entry:?}");
            }
        }
    }
    disk.destroy(true);
}

fn polling(context: &mut Context) {
    context.load_module("");
    let (disk, mut server) = plain_by_hand("poll");
    let events = |timeout_ms: i64| {
        let mut fds = [PollFd::new(&disk.server, PollFlags::IN)];
        let limit = Timespec { tv_sec: timeout_ms / 1000, tv_nsec: timeout_ms % 1000 * 1_000_000 };
        poll(&mut fds, Some(&limit)).expect("poll");
        fds[0].revents()
    };
    assert_eq!(events(0), PollFlags::empty());
    let set = epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll");
    let data = epoll::EventData::new_u64(77);
    epoll::add(&set, disk.server.as_fd(), data, epoll::EventFlags::IN | epoll::EventFlags::ET).expect("add");
    for round in 0..20 {
        let read = read_in_thread(disk.path(), 4096 * round, 4096);
        let mut ready = [MaybeUninit::uninit(); 4];
        let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
        let (ready, _) = epoll::wait(&set, &mut ready, Some(&limit)).expect("wait");
        assert_eq!(ready.len(), 1, "epoll did not wake in round {round}");
        assert!(events(20_000).contains(PollFlags::IN));
        let (requests, entered) = server.try_fetch(0, 8, 0, 0);
        assert_eq!((requests.len(), entered.error), (1, None));
        assert_eq!(events(0), PollFlags::empty());
        server.complete(&requests[0]);
        assert!(read.join().expect("reader").is_ok());
    }
    disk.destroy(true);
    assert_eq!(events(20_000), PollFlags::HUP, "the device is gone");
}

fn limit_and_signals(context: &mut Context) {
    context.load_module("");
    let (disk, mut server) = plain_by_hand("limits");
    let (requests, entered) = server.try_fetch(0, 4, 1, 50);
    assert_eq!((requests.len(), entered.error), (0, None), "the end of the time is no error");
    let (requests, entered) = server.try_fetch(0, 4, 0, 0);
    assert_eq!((requests.len(), entered.error), (0, None), "nothing there, and no wait");
    raw::count_signal(libc::SIGUSR1);
    let thread = AtomicI32::new(0);
    let entered = std::thread::scope(|scope| {
        let call = scope.spawn(|| {
            thread.store(raw::thread_id(), Ordering::SeqCst);
            server.try_fetch(0, 4, 1, 60_000).1
        });
        wait_until(20, "the call to sleep", || sleeps_in_ioctl(&thread));
        raw::signal_thread(thread.load(Ordering::SeqCst), libc::SIGUSR1);
        call.join().expect("the call")
    });
    assert_eq!(entered.error, Some(Errno::INTR));
    // If something was fetched, a signal is no error: the call returns the fetched requests.
    let read = read_in_thread(disk.path(), 0, 4096);
    let thread = AtomicI32::new(0);
    let (requests, entered) = std::thread::scope(|scope| {
        let call = scope.spawn(|| {
            thread.store(raw::thread_id(), Ordering::SeqCst);
            server.try_fetch(0, 4, 2, 60_000)
        });
        wait_until(20, "one request to be fetched", || disk.server.stats(0).expect("stats").held == 1);
        wait_until(20, "the call to sleep", || sleeps_in_ioctl(&thread));
        raw::signal_thread(thread.load(Ordering::SeqCst), libc::SIGUSR1);
        call.join().expect("the call")
    });
    assert_eq!((requests.len(), entered.error), (1, None));
    server.complete(&requests[0]);
    assert!(read.join().expect("reader").is_ok());
    disk.destroy(true);
    assert_eq!(server.fetch(0, 1, 1).expect_err("gone"), Errno::NODEV);
}

/// Each CPU submits to its own queue.
fn queues_apart(context: &mut Context) {
    context.load_module("");
    let control = control();
    let queues = control.info().max_queues;
    assert!(queues >= 2, "needs two CPUs");
    let disk = Disk::create(&plain("queues").queues(2).depth(4));
    disk.server.start().expect("start");
    let mut server = Manual::new(&disk);
    for queue in [0, 1] {
        let (path, processor) = (disk.path(), disk.processor_of(queue));
        let read = std::thread::spawn(move || {
            processor::bind(processor);
            read_in_thread(path, 4096, 4096).join().expect("reader")
        });
        let requests = server.fetch(queue, 4, 1).expect("fetch");
        assert_eq!(requests.len(), 1);
        assert_eq!(requests[0].queue(), queue);
        let (others, _) = server.try_fetch(1 - queue, 4, 0, 0);
        assert!(others.is_empty(), "the request came to the other queue, too");
        server.complete(&requests[0]);
        assert!(read.join().expect("thread").is_ok());
    }
    let beyond = server.fetch(2, 1, 0);
    assert_eq!(beyond.map(|requests| requests.len()), Err(Errno::INVAL));
    disk.destroy(true);
}

/// Sixteen threads sleep; each request wakes one.
fn wakes_one(context: &mut Context) {
    context.load_module("");
    let ram = Arc::new(Ram::new(16 * MIB).expect("memory"));
    let (disk, serving) = Disk::serve(&Builder::new("wakes").partition_scan(false), &ram, threads(16));
    let stats = || disk.server.stats(0).expect("stats");
    wait_until(20, "all threads to sleep", || stats().waiting == 16);
    let before = stats();
    for index in 0..100 {
        let read = read_in_thread(disk.path(), index * 4096, 4096).join().expect("reader");
        assert!(read.is_ok());
    }
    wait_until(20, "all threads to sleep", || stats().waiting == 16);
    let after = stats();
    let fetched: u64 = after.operations.iter().map(|operation| operation.fetched).sum();
    let fetched = fetched - before.operations.iter().map(|operation| operation.fetched).sum::<u64>();
    let woken = after.wakeups - before.wakeups;
    assert!(fetched >= 100);
    // A woken thread that gets no processor for long costs a second wake-up.
    let overdue: u64 = lines("zosbd2-wakes", "stats")
        .iter()
        .filter(|words| words.contains_key("wakeups"))
        .map(|words| number(words, "overdue_wakeups"))
        .sum();
    assert!(woken <= fetched + overdue, "{woken} wake-ups, {overdue} of them late, for {fetched} requests");
    disk.destroy_and_join(serving);
}

/// The role `--serve-passed`: its standard input is a socket over which the descriptor comes.
pub(crate) fn passed_role() -> Result<(), Box<dyn std::error::Error>> {
    use std::os::fd::AsFd as _;
    let stream = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let server = Server::from_fd(descriptor::receive(&stream, &mut [0])?)?;
    let ram = Ram::new(server.size_bytes())?;
    ram.write(4096, &mut [3; 4096], false).map_err(|error| format!("write: {error}"))?;
    server.serve(&ram, &threads(1), &zosbd2::StopToken::new())?;
    Ok(())
}

/// A second process takes over: it gets the descriptor, and the first one closes its own. No request fails, and
/// the device is never without a server.
fn passed_on(context: &mut Context) {
    context.load_module("");
    let (disk, mut server) = plain_by_hand("passed");
    let path = disk.path();
    let pending = read_in_thread(path.clone(), 0, 4096);
    let request = server.fetch_one();
    let (own, other) = UnixStream::pair().expect("sockets");
    let mut child = std::process::Command::new("/proc/self/exe")
        .arg("--serve-passed")
        .stdin(OwnedFd::from(other))
        .spawn()
        .expect("start the second process");
    descriptor::send(&own, &*disk.server, b"x").expect("send");
    // Both processes serve for a while: a request may go to either, but this thread fetches no more.
    let read = read_in_thread(path.clone(), 4096, 4096).join().expect("reader");
    assert_eq!(read, Ok(vec![3; 4096]), "served by the second process");
    assert_eq!(control().status(&disk.name).expect("status").servers, 1, "one descriptor, twice");
    server.complete(&request);
    assert_eq!(pending.join().expect("reader"), Ok(vec![0; 4096]));
    drop((server, disk.server));
    let read = read_in_thread(path, 4096, 4096).join().expect("reader");
    assert_eq!(read, Ok(vec![3; 4096]));
    let status = control().status("passed").expect("status");
    assert_eq!((status.state, status.epoch), (State::Live, 1));
    control().destroy("passed", true).expect("destroy");
    assert!(child.wait().expect("wait").success());
}

/// START neither reads the disk nor waits for a thread that does.
fn start_by_the_only_thread(context: &mut Context) {
    context.load_module("");
    let disk = Disk::create(&Builder::new("alone").size_bytes(16 * MIB));
    assert_eq!(disk.server.status().expect("status").state, State::Created);
    assert!(!disk.path().exists());
    disk.server.start().expect("start");
    assert_eq!(disk.server.status().expect("status").state, State::Live);
    let again = disk.server.start().expect_err("twice");
    assert!(format!("{again:?}").contains("114"), "EALREADY: {again:?}");
    let mut server = Manual::new(&disk);
    // The partition scan reads for the kernel. The read must be served, and then the scan ends.
    let scan = server.fetch_one();
    assert_eq!(scan.op(), abi::OP_READ);
    server.complete(&scan);
    wait_until(20, "the look to be over", || {
        let (requests, entered) = server.try_fetch(0, 8, 0, 0);
        assert_eq!(entered.error, None);
        for request in &requests {
            server.complete(request);
        }
        match control().destroy("alone", false) {
            Ok(()) => true,
            error => {
                assert_eq!(refused(error), Errno::BUSY);
                false
            }
        }
    });
}

fn spin(context: &mut Context) {
    context.load_module("");
    let (disk, server) = plain_by_hand("spin");
    let mut answers = Answers::with_capacity(1);
    let read = read_in_thread(disk.path(), 0, 4096);
    let mut requests = [Fetched::EMPTY];
    let mut fetched = 0;
    while fetched == 0 {
        let mut batch = disk.server.batch(&mut answers);
        let fetch = Fetch {
            requests: &mut requests,
            minimum: 1,
            spin_us: 1000,
            timeout_ms: Some(20_000),
            ..Fetch::default()
        };
        let entered = disk.server.enter(&mut batch, fetch);
        assert_eq!(entered.error, None);
        fetched = entered.fetched;
    }
    drop(server);
    Manual::new(&disk).complete(&requests[0]);
    assert!(read.join().expect("reader").is_ok());
    disk.destroy(true);
}
