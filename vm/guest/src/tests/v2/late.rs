// SPDX-License-Identifier: MIT OR Apache-2.0
//! Late requests: what each policy does with them, and how an operator can inspect a stuck device.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::Signal;
use zosbd2::v2::abi;
use zosbd2::{
    Backend, Builder, DeadlinePolicy, End, Error, Fetched, Latency, Outstanding, RequestState, State,
    TakeOver,
};
use zosbd2_backends::Ram;

use super::super::support::{
    Disk as Disk1, TICK, read_in_thread, read_into_filled_in_thread, write_in_thread,
};
use super::hostile::commit_raw;
use super::support::{
    Buffered, Disk, Manual, attach, by_hand, control, join, plain, plain_by_hand, refused, threads,
};
use super::teardown::nobody_is_stuck;
use crate::guest::raw::{PAGE, Pages};
use crate::guest::{Context, Kmsg, Need, Spawned, Test, raw, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_late_requests_are_requeued", requeued).needs(&[Need::Module]).timeout(60),
    Test::new("v2_late_answer_touches_no_page", touches_no_page).needs(&[Need::Module]).timeout(60),
    Test::new("v2_late_lines_are_limited", limited_lines).needs(&[Need::Module]).timeout(60),
    Test::new("v2_late_server_is_declared_dead", declared_dead).needs(&[Need::Module]).timeout(60),
    Test::new("v2_stopped_server_for_each_policy", stopped).needs(&[Need::Module]).timeout(120),
    Test::new("v2_requests_that_are_stuck", stuck).needs(&[Need::Module]).timeout(60),
    Test::new("v2_latencies", latencies).needs(&[Need::Module]).timeout(60),
    Test::new("v2_blob", blob).needs(&[Need::Module]).timeout(60),
    Test::new("v2_observer", observer).needs(&[Need::Module]).timeout(60),
];

const MIB: u64 = 1 << 20;
/// Long enough for a slow machine to do everything that must happen before a request is late.
const LIMIT: Duration = Duration::from_secs(2);

fn builder(name: &str, policy: DeadlinePolicy) -> Builder {
    plain(name).deadline(LIMIT).deadline_policy(policy)
}

/// Checks that answers are refused as stale.
fn too_late(server: &mut Manual, request: &Fetched) {
    let refused = server.answer(|batch| match request.op() {
        abi::OP_READ => batch.read(request, &[0; 4096]),
        _ => batch.done(request),
    });
    assert_eq!(refused, [(request.handle(), Errno::STALE)]);
}

fn requeued(context: &mut Context) {
    context.load_module("");
    let mut log = Kmsg::new();
    let (disk, mut server) = by_hand(&builder("again", DeadlinePolicy::Requeue));
    let begin = Instant::now();
    let read = read_in_thread(disk.path(), 8192, 4096);
    let mut before = server.fetch_one();
    assert_eq!(before.flags() & abi::REQUEST_MAYBE_EXECUTED, 0);
    // Late once, and again.
    for time in 1..=2_u32 {
        let after = server.fetch_one();
        assert!(begin.elapsed() + TICK * time >= LIMIT * time, "{:?}", begin.elapsed());
        assert_eq!((after.offset(), after.op()), (8192, abi::OP_READ));
        assert_ne!(after.flags() & abi::REQUEST_MAYBE_EXECUTED, 0);
        too_late(&mut server, &before);
        before = after;
    }
    server.complete(&before);
    assert_eq!(read.join().expect("reader"), Ok(vec![0; 4096]));
    let stats = disk.server.stats(0).expect("stats");
    assert_eq!((stats.expired, stats.requeued, stats.stale, stats.failed), (2, 2, 2, 0));
    let thread = raw::thread_id();
    let told = |line: &&String| {
        line.contains("zosbd2-again: late read, 4096 bytes at 8192, tag")
            && line.contains(&format!("with thread {thread} of server 1"))
            && line.ends_with("requeued")
    };
    // The kernel logs the line after it has requeued the request.
    let mut lines = Vec::new();
    wait_until(20, "both lines", || {
        lines.extend(log.lines());
        lines.iter().filter(told).count() >= 2
    });
    assert_eq!(lines.iter().filter(told).count(), 2, "{lines:?}");
    // A request that nobody fetches waits, however late it is.
    let read = read_in_thread(disk.path(), 0, 4096);
    wait_until(20, "the read to be late", || disk.server.stats(0).expect("stats").expired >= 4);
    assert!(!read.is_finished());
    let request = server.fetch_one();
    server.complete(&request);
    assert_eq!(read.join().expect("reader"), Ok(vec![0; 4096]));
    disk.destroy(true);
}

/// The read has failed, and the submitter owns its memory again.
fn touches_no_page(context: &mut Context) {
    context.load_module("");
    let (disk, mut server) = by_hand(&builder("pages", DeadlinePolicy::Fail));
    let read = read_into_filled_in_thread(disk.path(), 0, 7, 4096);
    let request = server.fetch_one();
    let (result, buffer) = read.join().expect("reader");
    assert_eq!(result, Err(Errno::IO));
    let pages = Pages::new(PAGE);
    let at = pages.at_end(4096);
    pages.put(at, &[0x99; 4096]);
    let answer =
        abi::Commit { handle: request.handle(), result: 4096, address: at as u64, ..abi::Commit::default() };
    assert_eq!(commit_raw(&disk.server, &pages, &[answer]), [-Errno::STALE.raw_os_error()]);
    assert!(buffer.is_filled(7), "a late answer changed the submitter's memory");
    let stats = disk.server.stats(0).expect("stats");
    assert_eq!((stats.expired, stats.stale), (1, 1));
    disk.destroy(true);
}

/// However many requests are late at once, the kernel logs few lines.
fn limited_lines(context: &mut Context) {
    const READS: u64 = 40;
    // DEFAULT_RATELIMIT_BURST and DEFAULT_RATELIMIT_INTERVAL.
    const LINES: u64 = 10;
    const SECONDS: u64 = 5;
    context.load_module("");
    let mut log = Kmsg::new();
    let (disk, server) = by_hand(&builder("limit", DeadlinePolicy::Fail).depth(64));
    let begin = Instant::now();
    let reads: Vec<_> = (0..READS).map(|index| read_in_thread(disk.path(), index * 8192, 4096)).collect();
    for read in reads {
        assert_eq!(read.join().expect("reader"), Err(Errno::IO));
    }
    let periods = begin.elapsed().as_secs() / SECONDS + 1;
    assert_eq!(disk.server.stats(0).expect("stats").expired, READS);
    let lines = log.lines();
    let late = lines.iter().filter(|line| line.contains("zosbd2-limit: late read")).count() as u64;
    assert!((1..=LINES * periods).contains(&late), "{late} lines in {periods} periods: {lines:?}");
    disk.destroy(true);
    drop(server);
}

fn declared_dead(context: &mut Context) {
    context.load_module("");
    let (disk, mut server) = by_hand(&builder("dead", DeadlinePolicy::DeclareDead));
    let path = disk.path();
    let write = write_in_thread(path.clone(), 0, 1, 4096);
    let held = server.fetch_one();
    // Its other thread, and all others, are sent away.
    assert_eq!(server.fetch(0, 1, 1).expect_err("dead"), Errno::SHUTDOWN);
    let status = || control().status("dead").expect("status");
    wait_until(20, "the device to be an orphan", || status().state == State::Orphaned);
    assert_eq!((status().epoch, status().servers), (1, 1), "its descriptor is open");
    too_late(&mut server, &held);
    assert!(!write.is_finished());
    // No take-over is needed: the device has no server.
    let (next, mut second) = attach("dead", TakeOver::No);
    let again = second.fetch_one();
    assert_eq!((again.offset(), again.length()), (0, 4096));
    assert_ne!(again.flags() & abi::REQUEST_MAYBE_EXECUTED, 0);
    drop((disk, server));
    assert_eq!(status().state, State::Live, "the last close of a dead server changes nothing");
    second.complete(&again);
    assert_eq!(write.join().expect("writer"), Ok(4096));

    // A server that does not fetch at all, without a successor.
    next.destroy(true);
    drop(second);
    let (disk, server) = by_hand(&builder("dead", DeadlinePolicy::DeclareDead).grace(Duration::ZERO));
    let begin = Instant::now();
    let read = read_in_thread(disk.path(), 0, 4096);
    assert_eq!(read.join().expect("reader"), Err(Errno::IO));
    assert!(begin.elapsed() + TICK >= LIMIT, "{:?}", begin.elapsed());
    assert_eq!(status().state, State::Failed);
    disk.destroy(true);
    drop(server);

    // With auto-destroy the device goes, whatever its server does.
    let builder = builder("dead", DeadlinePolicy::DeclareDead).grace(Duration::ZERO).auto_destroy(true);
    let (disk, mut server) = by_hand(&builder);
    let read = read_in_thread(disk.path(), 0, 4096);
    assert_eq!(read.join().expect("reader"), Err(Errno::IO));
    wait_until(20, "the device to go", || match server.fetch(0, 1, 1).expect_err("dead") {
        Errno::SHUTDOWN => false,
        error => {
            assert_eq!(error, Errno::NODEV);
            true
        }
    });
    drop((disk, server));
}

/// For each policy: a server process is stopped while it holds one request and others are queued. Then it
/// continues.
fn stopped(context: &mut Context) {
    context.load_module("");
    for policy in [DeadlinePolicy::Fail, DeadlinePolicy::Requeue, DeadlinePolicy::DeclareDead] {
        for _ in 0..3 {
            stopped_round(context, policy);
        }
        nobody_is_stuck();
    }
}

fn stopped_round(context: &Context, policy: DeadlinePolicy) {
    let name = "stopped";
    let _none_is_as_well = std::fs::remove_file(GATE);
    let mut child =
        context.spawn("/proc/self/exe", &["--serve-late", name, u32::from(policy).to_string().as_str()]);
    wait_until(20, "the server to serve", || child.stdout().contains("serving"));
    let path = PathBuf::from(format!("/dev/zosbd2-{name}"));
    let write_at = |offset: u64| write_in_thread(path.clone(), offset, offset, 4096);
    let write = |index: u64| write_at(index * 8192);
    assert_eq!(write(0).join().expect("writer"), Ok(4096));
    let observer = control().observe(name).expect("observe");
    let held = write_at(GATED);
    wait_until(20, "the server to hold a write", || {
        let requests = observer.requests(0, Duration::ZERO).expect("requests");
        requests.iter().any(|request| (request.offset, request.state) == (GATED, RequestState::Held))
    });
    child.stop();
    let writes: Vec<_> = (0..8).map(write).chain([held]).collect();
    let stats = || observer.stats(0).expect("stats");
    let now = || observer.status().expect("status").state;
    // It answers the request that it held.
    let go_on = |child: &mut Spawned| {
        std::fs::write(GATE, "").expect("open the gate");
        child.signal(Signal::CONT);
    };
    match policy {
        DeadlinePolicy::Fail => {
            for write in writes {
                assert_eq!(write.join().expect("writer"), Err(Errno::IO));
            }
            assert_eq!(now(), State::Live);
            go_on(&mut child);
        }
        DeadlinePolicy::Requeue => {
            wait_until(20, "all to be late", || stats().expired >= 18 && stats().requeued >= 1);
            assert!(writes.iter().all(|write| !write.is_finished()));
            go_on(&mut child);
            for write in writes {
                assert_eq!(write.join().expect("writer"), Ok(4096));
            }
        }
        _ => {
            wait_until(20, "its death to be declared", || now() == State::Orphaned);
            assert!(writes.iter().all(|write| !write.is_finished()));
            let ram = Arc::new(Ram::new(16 * MIB).expect("memory"));
            let server = control().attach(name, TakeOver::No).expect("attach");
            let disk = Disk { server: Arc::new(server), name: name.to_owned() };
            let serving = disk.serve_with(&ram, threads(1));
            for write in writes {
                assert_eq!(write.join().expect("writer"), Ok(4096));
            }
            assert_eq!(stats().stale, 0, "the server should have been stopped until now");
            go_on(&mut child);
            // It notices that it was sent away.
            assert!(child.wait(20).success(), "{}", child.stderr());
            assert!(child.stdout().contains("TakenOver"), "{}", child.stdout());
            assert!(stats().stale >= 1, "{:?}", stats());
            disk.destroy_and_join(serving);
            return;
        }
    }
    wait_until(20, "its answer to be refused", || stats().stale >= 1);
    assert_eq!(write(9).join().expect("writer"), Ok(4096), "the server serves again");
    control().destroy(name, true).expect("destroy");
    assert!(child.wait(20).success(), "{}", child.stderr());
}

/// A write to this place waits in its server until a file exists.
const GATED: u64 = 8 * MIB;
const GATE: &str = "/run/late-go";

/// A RAM disk with that place.
#[derive(Debug)]
struct Gated(Buffered);

impl Backend for Gated {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.0.read(offset, buffer)
    }

    fn write(&self, offset: u64, data: &mut [u8], fua: bool) -> Result<(), Errno> {
        while offset == GATED && !Path::new(GATE).exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.0.write(offset, data, fua)
    }
}

/// The role `--serve-late NAME POLICY`: serves a RAM disk with that deadline policy, prints `serving` when it
/// serves, and finally how it ended. One of its writes has to wait.
pub(crate) fn role(arguments: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    let [name, policy] = arguments else { return Err("usage: --serve-late NAME POLICY".into()) };
    let gated = Gated(Buffered(Ram::new(16 * MIB)?));
    let policy = DeadlinePolicy::from(policy.parse::<u32>()?);
    let builder = builder(name, policy).for_backend(&gated);
    let server = zosbd2::Control::open()?.create(&builder)?;
    let end = server.serve_then(&gated, &threads(2), &zosbd2::StopToken::new(), || println!("serving"))?;
    println!("{end:?}");
    Ok(())
}

fn stuck(context: &mut Context) {
    const DEPTH: u32 = 32;
    context.load_module("");
    let builder = plain("stuck").queues(2).depth(DEPTH);
    let (disk, mut server) = by_hand(&builder);
    let observer = control().observe("stuck").expect("observe");
    let all = |age: Duration| -> Vec<Outstanding> {
        (0..2).flat_map(|queue| observer.requests(queue, age).expect("requests")).collect()
    };
    assert_eq!(all(Duration::ZERO), []);
    let begin = Instant::now();
    let submitters: Vec<_> =
        (0..20_u64).map(|index| write_in_thread(disk.path(), index * 8192, index, 4096)).collect();
    wait_until(20, "all writes", || all(Duration::ZERO).len() == 20);
    let mut held = Vec::new();
    for queue in 0..2 {
        held.extend(server.try_fetch(queue, 3, 0, 0).0);
    }
    assert!(!held.is_empty());
    let fetched = Instant::now();
    let seen = all(Duration::ZERO);
    let ages = begin.elapsed();
    assert_eq!(seen.len(), 20);
    let mut offsets: Vec<u64> = seen.iter().map(|request| request.offset).collect();
    offsets.sort_unstable();
    assert!(offsets.into_iter().eq((0..20).map(|index| index * 8192)));
    for request in &seen {
        assert_eq!((request.op, request.flags, request.length), (abi::OP_WRITE, 0, 4096));
        assert!(request.age <= ages, "{request:?} in {ages:?}");
        let is_held = held.iter().any(|held| held.offset() == request.offset);
        let Some(holder) = request.holder else {
            assert_eq!((request.state, is_held), (RequestState::Queued, false));
            continue;
        };
        assert_eq!((request.state, is_held), (RequestState::Held, true));
        assert_eq!((holder.epoch, i32::try_from(holder.thread)), (1, Ok(raw::thread_id())));
        assert!(holder.since <= request.age);
    }
    for queue in 0..2 {
        let requests = observer.requests(queue, Duration::ZERO).expect("requests");
        let tags: BTreeSet<u32> = requests.iter().map(|request| request.tag).collect();
        assert_eq!(tags.len(), requests.len(), "one request has a tag at a time: {requests:?}");
        assert!(tags.iter().all(|tag| *tag < DEPTH), "{tags:?}");
    }
    // Only requests that are old enough: all of them for a small age, none for an age of a day.
    let age = Duration::from_millis(300);
    wait_until(20, "them to be old", || all(age).len() == 20);
    assert!(begin.elapsed() >= age);
    assert!(fetched.elapsed() <= Duration::from_secs(3600));
    assert_eq!(all(Duration::from_secs(24 * 3600)), []);
    assert_eq!(refused(observer.requests(2, age)), Errno::INVAL);
    for request in &held {
        server.complete(request);
    }
    assert_eq!(all(Duration::ZERO).len(), 20 - held.len());
    // The server is dead: no server holds the requests.
    drop((disk, server));
    assert!(all(Duration::ZERO).iter().all(|request| request.holder.is_none()));
    control().destroy("stuck", true).expect("destroy");
    for submitter in submitters {
        let end = submitter.join().expect("submitter");
        assert!(matches!(end, Ok(4096) | Err(Errno::IO)), "{end:?}");
    }
    assert_eq!(observer.requests(0, Duration::ZERO).expect("of a device that is gone"), []);
}

/// Requests that take known times are counted in the buckets of those times.
fn latencies(context: &mut Context) {
    context.load_module("");
    let (disk, mut server) = plain_by_hand("slow");
    let (wait, serve) = (Duration::from_millis(70), Duration::from_millis(300));
    let begin = Instant::now();
    let read = read_in_thread(disk.path(), 0, 4096);
    wait_until(20, "the read", || disk.server.stats(0).expect("stats").queued == 1);
    // These waits are the times to measure.
    std::thread::sleep(wait);
    let request = server.fetch_one();
    std::thread::sleep(serve);
    assert_eq!(disk.server.latency(0).expect("latency"), Latency::default(), "not answered yet");
    server.complete(&request);
    assert_eq!(read.join().expect("reader"), Ok(vec![0; 4096]));
    let most = begin.elapsed();
    let latency = disk.server.latency(0).expect("latency");
    for (what, histogram, least) in [
        ("waiting", latency.waiting, wait),
        ("serving", latency.serving, serve),
        ("total", latency.total, wait + serve),
    ] {
        assert_eq!(histogram.iter().sum::<u64>(), 1, "{what}");
        let bucket = histogram.iter().position(|count| *count == 1).expect("one");
        assert!(Latency::bound(bucket).is_none_or(|bound| bound > least), "{what}: bucket {bucket}");
        let from = bucket.checked_sub(1).and_then(Latency::bound).unwrap_or_default();
        assert!(from <= most, "{what}: bucket {bucket}, {most:?}");
    }
    assert_eq!(refused(disk.server.latency(1)), Errno::INVAL);
    disk.destroy(true);
}

fn blob(context: &mut Context) {
    context.load_module("");
    let (disk, server) = by_hand(&Builder::new("blob").size_bytes(MIB).partition_scan(false));
    assert_eq!(disk.server.blob().expect("blob"), b"");
    let bytes = context.random("blob").bytes(abi::BLOB_BYTES);
    for length in [1, 255, abi::BLOB_BYTES, 7] {
        disk.server.set_blob(&bytes[..length]).expect("set");
        assert_eq!(disk.server.blob().expect("blob"), &bytes[..length]);
    }
    let error = disk.server.set_blob(&[1; abi::BLOB_BYTES + 1]).expect_err("too long");
    assert!(matches!(error, Error::Range { value: 257, max: 256, .. }), "{error}");
    drop((disk, server));
    // The blob is for the next server.
    let (next, server) = attach("blob", TakeOver::No);
    assert_eq!(next.server.blob().expect("blob"), &bytes[..7]);
    let observer = control().observe("blob").expect("observe");
    assert_eq!(observer.blob().expect("blob"), &bytes[..7]);
    next.server.set_blob(b"").expect("set");
    assert_eq!(observer.blob().expect("blob"), b"");
    next.destroy(true);
    drop(server);
}

/// An observer is no server: opening and closing it changes nothing, and it can change nothing.
fn observer(context: &mut Context) {
    context.load_module("");
    let ram = Arc::new(Ram::new(16 * MIB).expect("memory"));
    let (disk, serving) = Disk::serve(&Builder::new("seen").partition_scan(false), &ram, threads(1));
    let observer = control().observe("seen").expect("observe");
    let seen = observer.status().expect("status");
    assert_eq!((seen.name.as_str(), seen.state, seen.epoch, seen.servers), ("seen", State::Live, 1, 1));
    assert_eq!(write_in_thread(disk.path(), 0, 1, 4096).join().expect("writer"), Ok(4096));
    let stats = observer.stats(0).expect("stats");
    assert!(stats.operations[abi::OP_WRITE as usize].committed >= 1);
    let latency = observer.latency(0).expect("latency");
    assert_eq!(
        latency.total.iter().sum::<u64>(),
        stats.operations.iter().map(|count| count.committed).sum::<u64>()
    );
    let start = abi::Start { size: abi::START_BYTES, flags: 0 };
    let resize = abi::Resize { size: abi::RESIZE_BYTES, flags: 0, size_bytes: MIB };
    let enter = abi::Enter { size: abi::ENTER_BYTES, ..abi::Enter::default() };
    let blob = abi::Blob { size: abi::BLOB_ARGUMENT_BYTES, flags: abi::BLOB_WRITE, ..abi::Blob::default() };
    let call =
        |number: u32, argument: usize| raw::ioctl(std::os::fd::AsFd::as_fd(&observer), number, argument);
    for (number, argument) in [
        (abi::IOCTL_START, (&raw const start).addr()),
        (abi::IOCTL_RESIZE, (&raw const resize).addr()),
        (abi::IOCTL_ENTER, (&raw const enter).addr()),
        (abi::IOCTL_BLOB, (&raw const blob).addr()),
    ] {
        assert_eq!(call(number, argument), Err(Errno::PERM), "{number:#x}");
    }
    assert_eq!(observer.status().expect("status").size_bytes, 16 * MIB);
    drop(observer);
    assert_eq!(control().status("seen").expect("status").state, State::Live);
    // Also of version 1, of a device without a server, and of one that is gone.
    let old = Disk1::create("old", 1024);
    let observer = control().observe("old").expect("observe");
    assert_eq!(observer.status().expect("status").version, 1);
    assert_eq!(observer.stats(0).expect("stats").queued, 0);
    old.destroy();
    assert_eq!(observer.status().expect("status").state, State::Destroyed);
    drop(observer);
    let wrong = abi::ATTACH_OBSERVE | abi::ATTACH_TAKE_OVER;
    let mut attach = abi::Attach { size: abi::ATTACH_BYTES, flags: wrong, ..abi::Attach::default() };
    attach.name[..4].copy_from_slice(b"seen");
    let node = control();
    let result = raw::ioctl(std::os::fd::AsFd::as_fd(&node), abi::IOCTL_ATTACH, (&raw mut attach).addr());
    assert_eq!(result, Err(Errno::INVAL));
    disk.destroy(true);
    assert_eq!(join(serving), End::Gone);
}
