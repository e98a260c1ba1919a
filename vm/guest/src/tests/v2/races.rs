// SPDX-License-Identifier: MIT OR Apache-2.0
//! Servers that die, change and are sent away while they work, and devices that come and go beside each other.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use rustix::fs::Uid;
use rustix::io::{Errno, pread, pwrite};
use rustix::process::Signal;
use zosbd2::v2::abi;
use zosbd2::{Backend as _, Builder, Control, End, Fetched, Server, State, TakeOver};
use zosbd2_backends::Ram;

use super::super::support::{Aligned, Disk as Disk1, TICK, open_direct, read_in_thread, write_in_thread};
use super::support::{Disk, Manual, attach, by_hand, control, join, plain, plain_by_hand, refused, threads};
use crate::guest::raw::{PAGE, Pages};
use crate::guest::{
    Context, Need, Random, Test, drop_caches, processor, raw, read_trimmed, wait_until, watches_memory,
};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_killed_server_is_followed", killed).needs(&[Need::Module]).timeout(120),
    Test::new("v2_servers_take_turns", turns).needs(&[Need::Module]).timeout(120),
    Test::new("v2_destroy_asks_the_server_first", asks_first).needs(&[Need::Module]).timeout(60),
    Test::new("v2_destroyed_by_one_of_four", one_of_four).needs(&[Need::Module]).timeout(60),
    Test::new("v2_deadline_without_a_server", deadline_of_orphan).needs(&[Need::Module]).timeout(60),
    Test::new("v2_orphan_twice", orphan_twice).needs(&[Need::Module]).timeout(60),
    Test::new("v2_list_in_little_room", little_room).needs(&[Need::Module]).timeout(60),
    Test::new("v2_successor_that_serves_one_queue", one_queue).needs(&[Need::Module]).timeout(60),
    Test::new("v2_owner_that_is_not_root", owner).needs(&[Need::Module]).timeout(60),
    Test::new("v2_churn_keeps_no_memory", churn).needs(&[Need::Module]).timeout(240),
];

const MIB: u64 = 1 << 20;
const MAYBE: u32 = abi::REQUEST_MAYBE_EXECUTED;

/// A disk of 4096-byte blocks, served by hand.
#[derive(Debug, Default)]
struct Store(BTreeMap<u64, Vec<u8>>);

impl Store {
    /// Carries a request out and answers it. Requests are at most one block long, except for partition scans of
    /// the empty disk.
    fn carry_out(&mut self, server: &mut Manual, request: &Fetched) {
        match request.op() {
            abi::OP_WRITE => {
                assert_ne!(request.flags() & abi::REQUEST_DATA, 0, "no data: {request:?}");
                let at = usize::try_from(request.data()).expect("in the arena");
                self.0.insert(request.offset(), server.arena[at..at + 4096].to_vec());
            }
            abi::OP_READ => assert!(self.0.is_empty(), "a read: {request:?}"),
            _ => {}
        }
        server.complete(request);
    }

    fn has(&self, offset: u64, seed: u64) -> bool {
        let mut wanted = Aligned::new(4096, 0);
        wanted.fill(seed);
        self.0.get(&offset).is_some_and(|data| data == wanted.bytes())
    }
}

/// Carries out requests until `done`.
fn serve_until(server: &mut Manual, store: &mut Store, what: &str, mut done: impl FnMut() -> bool) {
    wait_until(60, what, || {
        let (requests, entered) = server.try_fetch(0, 16, 1, 20);
        assert_eq!(entered.error, None);
        for request in &requests {
            store.carry_out(server, request);
        }
        done()
    });
}

/// The disk of a server is another device, which the test serves. So the test knows that the server is in the
/// middle of a write, and holds further requests, when it is killed.
fn killed(context: &mut Context) {
    const WRITES: u64 = 6;
    context.load_module("");
    let (under, mut below) = plain_by_hand("under");
    let mut store = Store::default();
    let mut child =
        context.spawn("/proc/self/exe", &["--serve-v2", "direct", "heir", "1", "2", "/dev/zosbd2-under"]);
    serve_until(&mut below, &mut store, "the server to serve", || child.stdout().contains("serving"));
    let path = Path::new("/dev/zosbd2-heir");
    let writes: Vec<_> =
        (0..WRITES).map(|index| write_in_thread(path.to_owned(), index * 8192, index, 4096)).collect();
    wait_until(20, "all writes to be under way, one of them below", || {
        let in_flight = std::fs::read_to_string("/sys/block/zosbd2-heir/inflight").expect("inflight");
        let in_flight: u64 =
            in_flight.split_whitespace().map(|word| word.parse::<u64>().expect("a number")).sum();
        in_flight == WRITES && under.server.stats(0).expect("stats").queued > 0
    });
    child.signal(Signal::KILL);
    // The requests below are carried out, and the server dies of the signal before it can answer.
    serve_until(&mut below, &mut store, "the killed server to end", || !child.running());
    assert_eq!(child.wait(1).signal(), Some(libc::SIGKILL));
    let executed = (0..WRITES).filter(|index| store.has(index * 8192, *index)).count();
    assert!(executed > 0, "nothing was executed");
    assert!(writes.iter().all(|write| !write.is_finished()), "a dead server answered");
    let status = control().status("heir").expect("status");
    assert_eq!((status.state, status.epoch, status.servers), (State::Orphaned, 1, 0));

    let heir = attach("heir", TakeOver::No).0;
    let mut server = Manual::new(&heir);
    let requests = server.fetch(0, 16, 6).expect("fetch");
    let marked = requests.iter().filter(|request| request.flags() & MAYBE != 0).count();
    assert!(marked >= executed, "{marked} of {} are marked, {executed} were executed", requests.len());
    assert_eq!(marked as u64, heir.server.stats(0).expect("stats").requeued);
    let mut offsets: Vec<u64> = requests.iter().map(Fetched::offset).collect();
    offsets.sort_unstable();
    assert!(offsets.into_iter().eq((0..WRITES).map(|index| index * 8192)), "each once: {requests:?}");
    for request in &requests {
        store.carry_out(&mut server, request);
    }
    for write in writes {
        assert_eq!(write.join().expect("writer"), Ok(4096));
    }
    assert!((0..WRITES).all(|index| store.has(index * 8192, index)), "a write was lost");
    let write = write_in_thread(path.to_owned(), 0, 77, 4096);
    let request = server.fetch_one();
    assert_eq!(request.flags() & MAYBE, 0, "no other server held this request");
    store.carry_out(&mut server, &request);
    assert_eq!(write.join().expect("writer"), Ok(4096));
    assert!(store.has(0, 77));
    heir.destroy(true);
    under.destroy(true);
}

/// Writes and reads back, each thread in its own part, until `stop`; returns the number of requests.
fn submit(path: &Path, part: u64, mut random: Random, stop: &AtomicBool) -> u64 {
    let fd = open_direct(path);
    let (mut data, mut back) = (Aligned::new(4096, 0), Aligned::new(4096, 0));
    let mut requests = 0;
    while !stop.load(Ordering::Relaxed) {
        let offset = part * MIB + 4096 * random.below(64);
        data.fill(random.next());
        assert_eq!(pwrite(&fd, data.bytes(), offset), Ok(4096));
        assert_eq!(pread(&fd, back.bytes_mut(), offset), Ok(4096));
        assert!(data.bytes() == back.bytes(), "another block at {offset}");
        requests += 2;
    }
    requests
}

/// Twenty servers, each taking over from the one before: no request fails, none is lost, each is answered once.
fn turns(context: &mut Context) {
    context.load_module("");
    let ram = Arc::new(Ram::new(16 * MIB).expect("memory"));
    let builder = Builder::new("turns").partition_scan(false).queues(2);
    let (mut disk, mut serving) = Disk::serve(&builder, &ram, threads(2));
    let path = disk.path();
    let randoms: Vec<Random> = (0..3).map(|part| context.random(&format!("submitter {part}"))).collect();
    let stop = AtomicBool::new(false);
    let submitted: u64 = std::thread::scope(|scope| {
        let (path, stop) = (&path, &stop);
        let submitters: Vec<_> = (0..)
            .zip(randoms)
            .map(|(part, random)| scope.spawn(move || submit(path, part, random, stop)))
            .collect();
        for turn in 2..=20 {
            let committed = || -> u64 {
                let both = [0, 1].map(|queue| disk.server.stats(queue).expect("stats").operations);
                both.iter().flatten().map(|operation| operation.committed).sum()
            };
            let before = committed();
            wait_until(20, "some requests of this server", || committed() >= before + 20);
            let next = attach("turns", TakeOver::Yes).0;
            let next_serving = next.serve_with(&ram, threads(2));
            assert_eq!(join(std::mem::replace(&mut serving, next_serving)), End::TakenOver);
            let status = next.server.status().expect("status");
            assert_eq!((status.state, status.epoch), (State::Live, turn));
            disk = next;
        }
        stop.store(true, Ordering::Relaxed);
        submitters.into_iter().map(|submitter| submitter.join().expect("a submitter failed")).sum()
    });
    let (mut fetched, mut committed) = (0, 0);
    for queue in [0, 1] {
        let stats = disk.server.stats(queue).expect("stats");
        assert_eq!((stats.queued, stats.held, stats.stale, stats.failed, stats.expired), (0, 0, 0, 0, 0));
        assert_eq!(stats.requeued, 0, "a server left without having answered");
        fetched += stats.operations.iter().map(|operation| operation.fetched).sum::<u64>();
        committed += stats.operations.iter().map(|operation| operation.committed).sum::<u64>();
    }
    assert_eq!((fetched, committed), (submitted, submitted));
    assert_eq!(disk.server.status().expect("status").servers, 1);
    disk.destroy_and_join(serving);
}

/// Even with force, a live server gets the requests in flight and the dirty data.
fn asks_first(context: &mut Context) {
    context.load_module("");
    let (disk, mut server) = plain_by_hand("asked");
    // Writes: a read may end after the disk has lost its size, and fails then.
    let writes: Vec<_> = (0..2).map(|at| write_in_thread(disk.path(), at * 8192, at, 4096)).collect();
    let first = server.fetch_one();
    wait_until(20, "the other request", || disk.server.stats(0).expect("stats").queued == 1);
    let destroyer = std::thread::spawn(|| control().destroy("asked", true));
    wait_until(20, "the destruction to begin", || {
        disk.server.status().expect("status").state == State::Destroyed
    });
    assert_eq!(refused(control().attach("asked", TakeOver::Yes)), Errno::NOENT);
    assert_eq!(
        refused(control().create(&plain("asked"))),
        Errno::EXIST,
        "the name is in use until the device is gone"
    );
    let second = server.fetch_one();
    for request in [first, second] {
        server.complete(&request);
    }
    for write in writes {
        assert_eq!(write.join().expect("writer"), Ok(4096));
    }
    destroyer.join().expect("destroyer").expect("destroy");
    assert_eq!(server.fetch(0, 1, 1).expect_err("gone"), Errno::NODEV);

    let ram = Arc::new(Ram::new(16 * MIB).expect("memory"));
    let (disk, serving) = Disk::serve(&Builder::new("dirty").partition_scan(false), &ram, threads(1));
    let data = context.random("dirty").bytes(1 << 20);
    let node = std::fs::File::options().read(true).write(true).open(disk.path()).expect("open");
    node.write_all_at(&data, MIB).expect("write to the cache");
    disk.destroy_and_join(serving);
    let mut stored = vec![0; data.len()];
    ram.read(MIB, &mut stored).expect("read");
    assert!(stored == data, "dirty data is lost");
    drop(node);
}

fn one_of_four(context: &mut Context) {
    context.load_module("");
    for round in 0..20 {
        let ram = Arc::new(Ram::new(MIB).expect("memory"));
        let (disk, serving) = Disk::serve(&Builder::new("four"), &ram, threads(1));
        let barrier = Arc::new(Barrier::new(4));
        let destroyers: Vec<_> = (0..4)
            .map(|_| {
                let barrier = Arc::clone(&barrier);
                std::thread::spawn(move || {
                    let control = control();
                    barrier.wait();
                    control.destroy("four", true)
                })
            })
            .collect();
        let results: Vec<_> =
            destroyers.into_iter().map(|destroyer| destroyer.join().expect("a destroyer")).collect();
        assert_eq!(join(serving), End::Gone);
        let (well, others): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert_eq!(well.len(), 1, "round {round}");
        assert!(others.into_iter().all(|result| refused(result) == Errno::NOENT), "round {round}");
        assert!(!disk.path().exists());
    }
}

/// A deadline does not wait for the end of the grace.
fn deadline_of_orphan(context: &mut Context) {
    context.load_module("");
    let limit = Duration::from_secs(2);
    let (disk, mut server) = by_hand(&plain("late").deadline(limit).grace(Duration::from_secs(3600)));
    let begin = Instant::now();
    let reads: Vec<_> = (0..2).map(|at| read_in_thread(disk.path(), at * 8192, 4096)).collect();
    let _held = server.fetch_one();
    drop((disk, server));
    for read in reads {
        assert_eq!(read.join().expect("reader"), Err(Errno::IO));
    }
    assert!(begin.elapsed() + TICK >= limit, "{:?}", begin.elapsed());
    assert_eq!(control().status("late").expect("status").state, State::Orphaned);
    let disk = attach("late", TakeOver::No).0;
    let stats = disk.server.stats(0).expect("stats");
    assert_eq!((stats.queued, stats.held, stats.expired), (0, 0, 2));
    disk.destroy(true);
}

/// Each grace is counted from its own beginning, whatever began before.
fn orphan_twice(context: &mut Context) {
    context.load_module("");
    let grace = Duration::from_secs(4);
    let (disk, server) = by_hand(&plain("twice").grace(grace));
    let path = disk.path();
    drop((disk, server));
    assert_eq!(control().status("twice").expect("status").state, State::Orphaned);
    let disk = attach("twice", TakeOver::No).0;
    let mut server = Manual::new(&disk);
    let (requests, entered) = server.try_fetch(0, 1, 1, 3000);
    assert_eq!((requests.len(), entered.error), (0, None), "most of the first grace");
    let read = read_in_thread(path, 0, 4096);
    wait_until(20, "the read", || disk.server.stats(0).expect("stats").queued == 1);
    let begin = Instant::now();
    drop((disk, server));
    assert_eq!(read.join().expect("reader"), Err(Errno::IO));
    // Less the coarseness of the kernel's clock.
    assert!(begin.elapsed() + Duration::from_millis(50) >= grace, "{:?}", begin.elapsed());
    assert_eq!(control().status("twice").expect("status").state, State::Failed);
    control().destroy("twice", false).expect("destroy");
}

/// A server died with a flush and a read on another queue than the one that its successor serves. Both requests
/// wait, fail when the device is destroyed, and delay nothing.
fn one_queue(context: &mut Context) {
    context.load_module("");
    let builder = plain("half").queues(2).volatile_cache(true).grace(Duration::from_secs(60));
    let (disk, mut first) = by_hand(&builder);
    let path = disk.path();
    let node = || open_direct(&path);
    // A submitter's queue depends on its processor.
    let on = |queue: u32, what: fn(&OwnedFd) -> Result<(), Errno>| {
        let (node, processor) = (node(), disk.processor_of(queue));
        std::thread::spawn(move || {
            processor::bind(processor);
            what(&node)
        })
    };
    let read: fn(&OwnedFd) -> Result<(), Errno> = |node| {
        let mut buffer = Aligned::new(4096, 0);
        pread(node, buffer.bytes_mut(), 0).map(drop)
    };
    let flush: fn(&OwnedFd) -> Result<(), Errno> = |node| rustix::fs::fdatasync(node);
    let submitters = [on(0, read), on(1, read), on(0, flush), on(1, flush)];
    let waiting = |queue: u32, server: &Server| server.stats(queue).expect("stats").queued;
    wait_until(20, "all requests", || (0..2).all(|queue| waiting(queue, &disk.server) == 2));
    for queue in 0..2 {
        assert_eq!(first.fetch(queue, 2, 2).expect("fetch").len(), 2);
    }
    drop((first, disk));
    let next = attach("half", TakeOver::No).0;
    let mut server = Manual::new(&next);
    for request in server.fetch(0, 2, 2).expect("fetch") {
        assert_eq!(request.flags() & MAYBE, MAYBE);
        server.complete(&request);
    }
    assert_eq!(waiting(1, &next.server), 2);
    next.destroy(true);
    let ends = submitters.map(|submitter| submitter.join().expect("a submitter"));
    assert_eq!(ends, [Ok(()), Err(Errno::IO), Ok(()), Err(Errno::IO)]);
    drop(server);
}

fn little_room(context: &mut Context) {
    context.load_module("");
    let first = Disk1::create("first", 1024);
    let second = Disk::create(&plain("second"));
    let third = Disk1::create("third", 1024);
    let node = control();
    let size = size_of::<abi::ListEntry>();
    let (list, entries) = (Pages::new(PAGE), Pages::new(PAGE));
    let call = |capacity: u32, room: usize| {
        let at = entries.at_end(room * size);
        entries.put(entries.at_end(PAGE), &[0x5a; PAGE]);
        let argument =
            abi::List { size: abi::LIST_BYTES, entries: at as u64, capacity, ..Default::default() };
        let place = list.at_end(size_of::<abi::List>());
        list.put_value(place, &argument);
        let result = raw::ioctl(node.as_fd(), abi::IOCTL_LIST, place);
        (result, list.get_value::<abi::List>(place), at)
    };
    for capacity in 0..=5_u32 {
        let (result, after, at) = call(capacity, 5);
        let count = capacity.min(3);
        assert_eq!((result, after.count, after.total), (Ok(0), count, 3), "room for {capacity}");
        for (index, (name, version)) in [("first", 1), ("second", 2), ("third", 1)].into_iter().enumerate() {
            let place = at + index * size;
            if index < count as usize {
                let entry: abi::ListEntry = entries.get_value(place);
                let length = name.len();
                assert_eq!(
                    (&entry.name[..length], entry.name[length], entry.version),
                    (name.as_bytes(), 0, version)
                );
                assert_eq!(entry.handle, node.status(name).expect("status").handle);
            } else {
                assert_eq!(entries.get(place, size), vec![0x5a; size], "written behind the room");
            }
        }
    }
    // The memory is as small as stated; what is beyond it does not matter.
    let (result, after, _) = call(u32::MAX, 3);
    assert_eq!((result, after.count, after.total), (Ok(0), 3, 3));
    assert_eq!(call(3, 2).0, Err(Errno::FAULT), "the third entry has no memory");
    second.destroy(true);
    first.destroy();
    third.destroy();
    assert_eq!(control().list().expect("list"), []);
}

/// Calls `attempt` as a user, on a control node that root opened.
fn as_user<T: Send>(uid: u32, attempt: impl FnOnce(&Control) -> T + Send) -> T {
    let control = control();
    std::thread::scope(|scope| {
        let user = scope.spawn(|| {
            let uid = Uid::from_raw(uid);
            rustix::thread::set_thread_res_uid(uid, uid, uid).expect("become a user");
            attempt(&control)
        });
        user.join().expect("the user")
    })
}

fn owner(context: &mut Context) {
    context.load_module("");
    let server = as_user(1000, |control| control.create(&plain("owned").grace(Duration::from_secs(60))));
    let server = server.expect("create");
    assert_eq!(server.status().expect("status").owner_uid, 1000);
    // The holder of the descriptor may use it.
    server.start().expect("start");
    drop(server);
    let epoch = || control().status("owned").expect("status").epoch;
    for take_over in [TakeOver::No, TakeOver::Yes] {
        let other = as_user(1001, |control| control.attach("owned", take_over));
        assert_eq!(refused(other), Errno::PERM);
        assert_eq!((epoch(), control().status("owned").expect("status").servers), (1, 0));
    }
    drop(as_user(1000, |control| control.attach("owned", TakeOver::No)).expect("the owner"));
    assert_eq!(epoch(), 2);
    drop(control().attach("owned", TakeOver::No).expect("root"));
    assert_eq!(epoch(), 3);
    control().destroy("owned", true).expect("destroy");
}

/// KiB that the kernel uses, without the memory of processes and without reclaimable caches.
pub(super) fn kernel_memory() -> u64 {
    drop_caches();
    let text = std::fs::read_to_string("/proc/meminfo").expect("meminfo");
    let value = |name: &str| -> u64 {
        let line = text.lines().find(|line| line.starts_with(name)).expect("a line of meminfo");
        line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number")
    };
    // Free pages in per-CPU lists do not count as free.
    let zones = std::fs::read_to_string("/proc/zoneinfo").expect("zoneinfo");
    let counts = zones.lines().filter_map(|line| line.trim_start().strip_prefix("count:"));
    let kept: u64 = counts.map(|count| count.trim().parse::<u64>().expect("a number")).sum();
    let others =
        ["MemFree:", "Buffers:", "Cached:", "AnonPages:", "PageTables:", "KernelStack:", "SReclaimable:"];
    value("MemTotal:") - others.map(value).iter().sum::<u64>() - kept * PAGE as u64 / 1024
}

/// Reads until an error or the end of the disk.
fn read_to_the_end(path: &Path) -> std::thread::JoinHandle<Result<usize, Errno>> {
    let node = open_direct(path);
    std::thread::spawn(move || {
        let mut buffer = Aligned::new(4096, 0);
        loop {
            match pread(&node, buffer.bytes_mut(), 0) {
                Ok(4096) => {}
                end => return end,
            }
        }
    })
}

fn worker(name: &str, rounds: u64, mut random: Random) {
    let ram = Arc::new(Ram::new(4 * MIB).expect("memory"));
    let builder = Builder::new(name).for_backend(&*ram).depth(1024).grace(Duration::ZERO);
    for _ in 0..rounds {
        let mut server = None;
        wait_until(60, "the name to be free", || match control().create(&builder) {
            Ok(made) => {
                server = Some(made);
                true
            }
            error => {
                assert_eq!(refused(error), Errno::EXIST);
                false
            }
        });
        let disk = Disk { server: Arc::new(server.expect("made")), name: name.to_owned() };
        let end = random.below(4);
        if end == 0 {
            // A device that was never started goes with its server.
            continue;
        }
        let serving = disk.serve_with(&ram, threads(1));
        let path: PathBuf = disk.path();
        let readers: Vec<_> = (0..random.below(4)).map(|_| read_to_the_end(&path)).collect();
        if end == 1 {
            // Another server takes over and dies at once, with all requests that it got.
            drop(attach(name, TakeOver::Yes));
            assert_eq!(join(serving), End::TakenOver);
            disk.destroy(true);
        } else {
            disk.destroy(true);
            assert_eq!(join(serving), End::Gone);
        }
        for reader in readers {
            let end = reader.join().expect("a reader");
            assert!(matches!(end, Ok(0) | Err(Errno::IO | Errno::NXIO)), "{end:?}");
        }
    }
}

/// Workers that compete for names, and an observer. Returns how many devices the observer saw.
fn crowd(context: &Context, phase: &str) -> u64 {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..3)
            .map(|number| {
                let random = context.random(&format!("{phase}, worker {number}"));
                scope.spawn(move || worker(["left", "right"][number % 2], 25, random))
            })
            .collect();
        let watcher = scope.spawn(|| {
            let (control, mut seen) = (control(), 0);
            while !stop.load(Ordering::Relaxed) {
                for listed in control.list().expect("list") {
                    // The device is gone meanwhile, or its status is correct.
                    match control.status(&listed.name) {
                        Ok(status) => {
                            assert_eq!((status.size_bytes, status.depth, status.version), (4 * MIB, 1024, 2));
                            seen += 1;
                        }
                        error => assert_eq!(refused(error), Errno::NOENT),
                    }
                }
            }
            seen
        });
        let ends: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        stop.store(true, Ordering::Relaxed);
        assert!(ends.iter().all(Result::is_ok), "a worker failed");
        watcher.join().expect("the watcher")
    })
}

/// 75 devices leave no more memory behind than the 75 devices before them. A kernel with kmemleak looks for leaks
/// itself, after all tests.
fn churn(context: &mut Context) {
    context.load_module("");
    let [_, before, after] = ["first", "second", "third"].map(|phase| {
        assert!(crowd(context, phase) > 0, "nothing was ever seen");
        // Every existing device, even one that cannot be found, holds a reference to the module.
        wait_until(20, "all devices to be freed", || read_trimmed("/sys/module/zosbd2/refcnt") == "0");
        (0..20).map(|_| kernel_memory()).min().expect("some looks")
    });
    context.say(&format!("225 devices; in use: {before} KiB, then {after} KiB"));
    if watches_memory() {
        context.say("not compared: this kernel looks for leaks itself");
    } else {
        // A device of this depth uses more than 300 KiB; two measurements differ by less than 100 KiB.
        assert!(after < before + (1 << 10), "{before} KiB were in use, then {after} KiB");
    }
    wait_until(20, "the module to be free", || context.try_unload_module().is_ok());
}
