// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which thread is woken for a request: a thread without a processor, a thread that lost the device, or an
//! observer never keeps the request from a thread that could serve it.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use zosbd2::TakeOver;
use zosbd2::v2::abi;

use super::super::support::{read_in_thread, sleeps_in_ioctl};
use super::hostile::enter;
use super::support::{Disk, Manual, attach, control, plain_by_hand};
use crate::guest::processor::{self, Hog};
use crate::guest::raw::{PAGE, Pages};
use crate::guest::{Context, Need, Test, raw, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_old_threads_hold_up_no_successor", old_threads).needs(&[Need::Module]).timeout(90),
    Test::new("v2_thread_without_a_processor_holds_up_nobody", without_processor)
        .needs(&[Need::Module])
        .timeout(90),
    Test::new("v2_burst_wakes_as_many_as_it_needs", burst).needs(&[Need::Module]).timeout(90),
    Test::new("v2_returned_requests_wake_as_many_as_they_need", returned)
        .needs(&[Need::Module, Need::Path("/proc/sys/vm/unprivileged_userfaultfd")])
        .timeout(90),
    Test::new("v2_observer_takes_no_wake_up", observer).needs(&[Need::Module]).timeout(90),
    Test::new("v2_every_exclusive_poller_hears_of_the_end", exclusive_end).needs(&[Need::Module]).timeout(90),
];

/// Longest time for events that should come at once.
const PATIENCE: Duration = Duration::from_secs(20);

/// A thread that fetches one request, bound to a processor.
struct Fetcher {
    number: Arc<AtomicI32>,
    back: Arc<AtomicBool>,
    thread: JoinHandle<Manual>,
    result: mpsc::Receiver<Result<Option<zosbd2::Fetched>, Errno>>,
}

impl Fetcher {
    /// Returns when the thread sleeps in its call.
    fn start(disk: &Disk, processor: usize) -> Self {
        let (tell, result) = mpsc::channel();
        let (number, back) = (Arc::new(AtomicI32::new(0)), Arc::new(AtomicBool::new(false)));
        let mut server = Manual::new(disk);
        let (own, over) = (Arc::clone(&number), Arc::clone(&back));
        let thread = std::thread::spawn(move || {
            processor::bind(processor);
            own.store(raw::thread_id(), Ordering::SeqCst);
            let (requests, entered) = server.try_fetch(0, 1, 1, 80_000);
            over.store(true, Ordering::SeqCst);
            let _ = tell.send(match entered.error {
                Some(error) => Err(error),
                None => Ok(requests.first().copied()),
            });
            server
        });
        let fetcher = Self { number, back, thread, result };
        wait_until(20, "the thread to sleep in its call", || sleeps_in_ioctl(&fetcher.number));
        fetcher
    }

    fn is_back(&self) -> bool {
        self.back.load(Ordering::SeqCst)
    }
}

/// Threads of a superseded server are woken to be sent away, and get no processor. The new server's thread
/// gets the next request.
fn old_threads(context: &mut Context) {
    context.load_module("");
    processor::bind(0);
    let (disk, _) = plain_by_hand("successor");
    let old: Vec<Fetcher> = (0..3).map(|_| Fetcher::start(&disk, 1)).collect();
    let hog = Hog::on(1);
    let (next, _) = attach("successor", TakeOver::Yes);
    let new = Fetcher::start(&next, 0);
    let read = read_in_thread(disk.path(), 0, 4096);
    let fetched = new.result.recv_timeout(PATIENCE);
    let scheduled = old.iter().filter(|thread| thread.is_back()).count();
    drop(hog);
    assert_eq!(scheduled, 0, "old threads ran: the test shows nothing");
    let request = fetched.expect("the new server's thread is not woken").expect("fetch").expect("a request");
    new.thread.join().expect("the new thread").complete(&request);
    assert_eq!(read.join().expect("reader"), Ok(vec![0; 4096]));
    for thread in old {
        let end = thread.result.recv_timeout(PATIENCE).expect("the end");
        assert_eq!(end.err(), Some(Errno::SHUTDOWN));
    }
    drop(disk);
    next.destroy(true);
}

/// Of two threads, the one that is woken first gets no processor: the other one gets the request.
fn without_processor(context: &mut Context) {
    context.load_module("");
    processor::bind(0);
    let (disk, _) = plain_by_hand("throttled");
    // The thread that fell asleep last is woken first.
    let good = Fetcher::start(&disk, 0);
    let throttled = Fetcher::start(&disk, 1);
    let hog = Hog::on(1);
    let read = read_in_thread(disk.path(), 0, 4096);
    let fetched = good.result.recv_timeout(PATIENCE);
    let scheduled = throttled.is_back();
    drop(hog);
    assert!(!scheduled, "the other thread ran: the test shows nothing");
    let request = fetched.expect("nobody else is woken").expect("fetch").expect("a request");
    good.thread.join().expect("the good thread").complete(&request);
    assert_eq!(read.join().expect("reader"), Ok(vec![0; 4096]));
    // The throttled thread finds nothing, and gets the next request.
    let read = read_in_thread(disk.path(), 4096, 4096);
    let request =
        throttled.result.recv_timeout(PATIENCE).expect("an end").expect("fetch").expect("a request");
    throttled.thread.join().expect("the throttled thread").complete(&request);
    assert_eq!(read.join().expect("reader"), Ok(vec![0; 4096]));
    disk.destroy(true);
}

/// Sixteen requests that a server fetched return to the queue, because the memory for them is too short. All
/// twelve threads that sleep meanwhile are woken, more than one decision of the engine wakes.
fn returned(context: &mut Context) {
    const REQUESTS: u64 = 16;
    context.load_module("");
    let (disk, mut server) = plain_by_hand("returned");
    let node = super::super::support::open_direct(&disk.path());
    let offsets: Vec<u64> = (0..REQUESTS).map(|index| index * 8192).collect();
    let reads = crate::guest::aio::Reads::submit(node.as_fd(), &offsets);
    let stats = || disk.server.stats(0).expect("stats");
    assert_eq!(stats().queued, 16);
    // The first page comes late, and the second one never.
    let pages = Pages::new(PAGE);
    let at = pages.at_end(8 * size_of::<abi::Request>()) as u64;
    let keeper = pages.withhold().unwrap_or_else(|errno| panic!("userfaultfd: {errno}"));
    let fetching = std::thread::spawn({
        let server = Arc::clone(&disk.server);
        move || {
            enter(&server, &abi::Enter { requests: at, capacity: 16, minimum: 1, ..abi::Enter::default() }).0
        }
    });
    wait_until(20, "the requests to be fetched", || stats().held == 16);
    let threads: Vec<Fetcher> = (0..12).map(|_| Fetcher::start(&disk, 0)).collect();
    assert_eq!(stats().waiting, 12);
    drop(keeper);
    assert_eq!(fetching.join().expect("the thread"), Err(Errno::FAULT));
    for thread in threads {
        let request = thread.result.recv_timeout(PATIENCE).expect("it is not woken").expect("fetch");
        thread.thread.join().expect("the thread").complete(&request.expect("a request"));
    }
    for request in server.fetch(0, 4, 4).expect("fetch") {
        server.complete(&request);
    }
    assert!(reads.wait().into_iter().all(|read| read == Ok(4096)));
    disk.destroy(true);
}

/// Four threads that take one request each sleep, and four requests come from one plug. All four are woken,
/// although none of them runs in between.
fn burst(context: &mut Context) {
    context.load_module("");
    processor::bind(0);
    let (disk, _) = plain_by_hand("burst");
    let threads: Vec<Fetcher> = (0..4).map(|_| Fetcher::start(&disk, 1)).collect();
    let stats = || disk.server.stats(0).expect("stats");
    assert_eq!(stats().waiting, 4);
    let node = super::super::support::open_direct(&disk.path());
    let hog = Hog::on(1);
    let reads = crate::guest::aio::Reads::submit(node.as_fd(), &[0, 8192, 16384, 24576]);
    let after = stats();
    let scheduled = threads.iter().filter(|thread| thread.is_back()).count();
    drop(hog);
    assert_eq!(scheduled, 0, "threads ran: the test shows nothing");
    assert_eq!((after.queued, after.waiting, after.wakeups), (4, 0, 4), "queued, asleep, woken");
    for thread in threads {
        let request =
            thread.result.recv_timeout(PATIENCE).expect("an end").expect("fetch").expect("a request");
        thread.thread.join().expect("a thread").complete(&request);
    }
    assert!(reads.wait().iter().all(|read| *read == Ok(4096)));
    drop(node);
    disk.destroy(true);
}

/// Waits for events of a descriptor in a thread, exclusively, like processes that share a descriptor.
struct Waiter {
    thread: JoinHandle<epoll::EventFlags>,
    number: Arc<AtomicI32>,
}

impl Waiter {
    fn start(fd: BorrowedFd<'_>) -> Self {
        let set: OwnedFd = epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll");
        let flags = epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE;
        epoll::add(&set, fd, epoll::EventData::new_u64(1), flags).expect("add");
        let number = Arc::new(AtomicI32::new(0));
        let own = Arc::clone(&number);
        let thread = std::thread::spawn(move || {
            own.store(raw::thread_id(), Ordering::SeqCst);
            let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
            let mut ready = [MaybeUninit::uninit(); 4];
            let (ready, _) = epoll::wait(&set, &mut ready, Some(&limit)).expect("wait");
            ready.first().map_or(epoll::EventFlags::empty(), |event| event.flags)
        });
        let waiter = Self { thread, number };
        // 232: epoll_wait; 281: epoll_pwait.
        wait_until(20, "the thread to sleep in epoll", || {
            let number = waiter.number.load(Ordering::SeqCst);
            let text =
                std::fs::read_to_string(format!("/proc/self/task/{number}/syscall")).unwrap_or_default();
            text.starts_with("232 ") || text.starts_with("281 ")
        });
        waiter
    }

    fn events(self) -> epoll::EventFlags {
        self.thread.join().expect("the waiter")
    }
}

/// An observer that waits first, and exclusively, does not get the wake-up for a request.
fn observer(context: &mut Context) {
    context.load_module("");
    let (disk, mut server) = plain_by_hand("observed");
    let looks_on = control().observe("observed").expect("observe");
    let other = Waiter::start(looks_on.as_fd());
    let own = Waiter::start(disk.server.as_fd());
    let read = read_in_thread(disk.path(), 0, 4096);
    assert_eq!(own.events(), epoll::EventFlags::IN, "the server is not told of a request");
    let request = server.fetch_one();
    server.complete(&request);
    assert_eq!(read.join().expect("reader"), Ok(vec![0; 4096]));
    disk.destroy(true);
    assert_eq!(other.events(), epoll::EventFlags::HUP, "the observer hears of the end");
}

/// All exclusive waiters are told that they lost the device.
fn exclusive_end(context: &mut Context) {
    context.load_module("");
    let (disk, _) = plain_by_hand("ends");
    let old: Vec<Waiter> = (0..3).map(|_| Waiter::start(disk.server.as_fd())).collect();
    let (next, _) = attach("ends", TakeOver::Yes);
    for waiter in old {
        assert_eq!(waiter.events(), epoll::EventFlags::HUP, "an old server's poller");
    }
    let new: Vec<Waiter> = (0..3).map(|_| Waiter::start(next.server.as_fd())).collect();
    next.destroy(true);
    for waiter in new {
        assert_eq!(waiter.events(), epoll::EventFlags::HUP, "the present server's poller");
    }
    drop(disk);
}
