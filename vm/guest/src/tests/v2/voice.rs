// SPDX-License-Identifier: MIT OR Apache-2.0
//! What operators are told: events in the log, as uevents and through the library; who serves; settings of a device in
//! use.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::thread::Uid;
use zosbd2::events::{Event, Kind, Watch};
use zosbd2::v2::abi;
use zosbd2::{DeadlinePolicy, Settings, State, TakeOver, Which};

use super::super::support::{Disk as Disk1, open_direct, read_in_thread, write_in_thread};
use super::hostile::{call, name};
use super::support::{Disk, attach, by_hand, control, plain, refused};
use crate::guest::{Context, Kmsg, Need, Test, raw, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_voice_death_and_recovery", death).needs(&[Need::Module]).timeout(60),
    Test::new("v2_voice_end_of_the_grace", grace).needs(&[Need::Module]).timeout(60),
    Test::new("v2_voice_late_requests", late).needs(&[Need::Module]).timeout(60),
    Test::new("v2_voice_lost_cache", lost_cache).needs(&[Need::Module]).timeout(90),
    Test::new("v2_voice_is_limited", limited).needs(&[Need::Module]).timeout(90),
    Test::new("v2_status_of_the_first_version", first_version).needs(&[Need::Module]).timeout(60),
    Test::new("v2_settings_grace", settings_grace).needs(&[Need::Module]).timeout(90),
    Test::new("v2_settings_deadline", settings_deadline).needs(&[Need::Module]).timeout(120),
    Test::new("v2_settings_are_checked", settings_checked).needs(&[Need::Module]).timeout(60),
];

pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// The three ways in which an event is told.
pub(super) struct Ears {
    watch: Watch,
    log: Kmsg,
    lines: Vec<String>,
}

impl Ears {
    pub(super) fn new() -> Self {
        Self { watch: Watch::open().expect("watch"), log: Kmsg::new(), lines: Vec::new() }
    }

    /// The next event, which must be of this kind and device.
    #[track_caller]
    pub(super) fn hear(&self, kind: Kind, disk: &str) -> Event {
        let event = self.watch.next(Some(Duration::from_secs(20))).expect("receive");
        let event = event.unwrap_or_else(|| panic!("{kind:?} was not told"));
        assert_eq!((event.kind, event.name.as_str()), (kind, disk), "{event:?}");
        event
    }

    /// Waits for a line in the log with these words.
    pub(super) fn read(&mut self, words: &[&str]) -> String {
        let mut found = None;
        wait_until(20, &format!("a line with {words:?}"), || {
            self.lines.extend(self.log.lines());
            found = self.lines.iter().find(|line| words.iter().all(|word| line.contains(word))).cloned();
            found.is_some()
        });
        found.expect("found")
    }

    pub(super) fn silent(&self, time: Duration) {
        assert_eq!(self.watch.next(Some(time)).expect("receive"), None);
    }
}

pub(super) fn own_process() -> u32 {
    std::process::id()
}

/// A death, the attach of a successor, and the destruction.
fn death(context: &mut Context) {
    context.load_module("");
    let mut ears = Ears::new();
    let (disk, mut server) = by_hand(&plain("told").grace(MINUTE));
    let read = read_in_thread(disk.path(), 0, 4096);
    let _held = server.fetch_one();
    let status = control().status("told").expect("status");
    assert_eq!((status.process, status.opens, status.threads), (Some(own_process()), 1, 0));
    let program = std::fs::read_to_string("/proc/self/comm").expect("own name");
    assert_eq!((status.program.as_str(), status.unserved), (program.trim(), None));
    drop((disk, server));
    let event = ears.hear(Kind::Died, "told");
    assert_eq!((event.handle, event.epoch, event.process), (status.handle, 1, Some(own_process())));
    ears.read(&[
        &format!("zosbd2-told: server 1 (process {}, ", own_process()),
        "has died with 1 requests",
        "60000 ms",
    ]);
    let alone = control().status("told").expect("status");
    assert_eq!((alone.state, alone.process, alone.program.as_str()), (State::Orphaned, None, ""));

    let (disk, mut server) = attach("told", TakeOver::No);
    assert_eq!(ears.hear(Kind::Recovered, "told").epoch, 2);
    ears.read(&["zosbd2-told: recovered by server 2", "1 requests wait"]);
    let request = server.fetch_one();
    server.complete(&request);
    assert_eq!(read.join().expect("reader"), Ok(vec![0; 4096]));
    // A take-over is no event.
    let (disk, server) = {
        let next = attach("told", TakeOver::Yes);
        drop((disk, server));
        next
    };
    ears.silent(Duration::from_millis(500));
    disk.destroy(true);
    assert_eq!(ears.hear(Kind::Destroyed, "told").epoch, 3);
    ears.read(&["zosbd2-told: is being destroyed"]);
    drop(server);
    ears.silent(Duration::from_millis(500));
    // A device that nobody could use yet has no events.
    drop(Disk::create(&plain("never")));
    ears.silent(Duration::from_millis(500));
}

/// The grace ends without a server, or there was none.
fn grace(context: &mut Context) {
    context.load_module("");
    let mut ears = Ears::new();
    let (disk, server) = by_hand(&plain("fails").grace(Duration::from_millis(300)));
    drop((disk, server));
    assert_eq!(ears.hear(Kind::Died, "fails").epoch, 1);
    ears.hear(Kind::Failed, "fails");
    ears.read(&["zosbd2-fails: no server attached within the grace of 300 ms"]);
    let (disk, server) = attach("fails", TakeOver::No);
    ears.hear(Kind::Recovered, "fails");
    control().set("fails", &Settings::new().grace(Duration::ZERO)).expect("set");
    drop((disk, server));
    ears.hear(Kind::Died, "fails");
    ears.hear(Kind::Failed, "fails");
    ears.read(&["zosbd2-fails: server 2", "I/O waits for no other server"]);
    control().destroy("fails", true).expect("destroy");
    ears.hear(Kind::Destroyed, "fails");
    // Without anybody to ask, auto-destroy destroys.
    let (disk, server) = by_hand(&plain("goes").grace(Duration::ZERO).auto_destroy(true));
    drop((disk, server));
    for kind in [Kind::Died, Kind::Failed, Kind::Destroyed] {
        ears.hear(kind, "goes");
    }
}

fn late(context: &mut Context) {
    context.load_module("");
    let mut ears = Ears::new();
    let (disk, mut server) = by_hand(&plain("tardy").deadline(Duration::from_secs(1)));
    let read = read_in_thread(disk.path(), 0, 4096);
    let _held = server.fetch_one();
    assert_eq!(read.join().expect("reader"), Err(Errno::IO));
    assert_eq!(ears.hear(Kind::Late, "tardy").process, Some(own_process()));
    ears.read(&["zosbd2-tardy: late read"]);
    disk.destroy(true);
}

/// The loss of a cache is told once another server that lacks it has called.
fn lost_cache(context: &mut Context) {
    context.load_module("");
    let mut ears = Ears::new();
    let (disk, mut server) = by_hand(&plain("cached").volatile_cache(true).grace(MINUTE));
    let write = write_in_thread(disk.path(), 0, 1, 4096);
    let request = server.fetch_one();
    server.complete(&request);
    assert_eq!(write.join().expect("writer"), Ok(4096));
    drop((disk, server));
    ears.hear(Kind::Died, "cached");
    let (disk, mut server) = attach("cached", TakeOver::No);
    ears.hear(Kind::Recovered, "cached");
    // A server may say that it has the cache until its first call.
    ears.silent(Duration::from_secs(5));
    assert!(server.fetch(0, 1, 0).expect("fetch").is_empty());
    ears.hear(Kind::CacheLost, "cached");
    ears.read(&["zosbd2-cached: writes were lost with the cache"]);
    ears.silent(Duration::from_secs(5));
    disk.destroy(true);
    ears.hear(Kind::Destroyed, "cached");
}

/// However fast servers come and go, few events are told, and the last one is the state.
fn limited(context: &mut Context) {
    context.load_module("");
    let ears = Ears::new();
    let (disk, server) = by_hand(&plain("flaps").grace(MINUTE));
    drop((disk, server));
    let begin = Instant::now();
    for _ in 0..100 {
        drop(control().attach("flaps", TakeOver::No).expect("attach"));
    }
    let mut events = Vec::new();
    while let Some(event) = ears.watch.next(Some(Duration::from_secs(7))).expect("receive") {
        events.push(event);
    }
    let periods = usize::try_from(begin.elapsed().as_secs() / 5 + 1).expect("few");
    assert!(events.len() <= 10 * periods, "{} events in {periods} periods", events.len());
    let last = events.last().expect("events");
    assert_eq!((last.kind, last.epoch), (Kind::Died, 101), "{last:?}");
    // The destruction waits for no limit.
    for _ in 0..20 {
        drop(control().attach("flaps", TakeOver::No).expect("attach"));
    }
    control().destroy("flaps", true).expect("destroy");
    let mut kinds = Vec::new();
    while let Some(event) = ears.watch.next(Some(Duration::from_secs(1))).expect("receive") {
        kinds.push(event.kind);
    }
    assert_eq!(kinds.last(), Some(&Kind::Destroyed), "{kinds:?}");
}

/// Programs that know only the first version of STATUS.
fn first_version(context: &mut Context) {
    context.load_module("");
    let (disk, _server) = by_hand(&plain("first"));
    let node = super::hostile::control_node();
    let pages = raw::Pages::new(raw::PAGE);
    for (fd, what) in [(node.as_fd(), "by name"), (disk.server.as_fd(), "own")] {
        for size in [abi::STATUS_FIRST_BYTES, abi::STATUS_FIRST_BYTES + 4, abi::STATUS_BYTES] {
            let asked = abi::Status { size, name: name("first"), ..abi::Status::default() };
            // The kernel touches nothing beyond the argument, which ends with its page.
            let bytes = usize::try_from(size).expect("small");
            let at = pages.at_end(bytes);
            pages.put(at, &raw::bytes_of(&asked)[..bytes]);
            assert_eq!(raw::ioctl(fd, abi::IOCTL_STATUS, at).map(drop), Ok(()), "{what}, {size} bytes");
            let mut after = pages.get(at, bytes);
            after.resize(size_of::<abi::Status>(), 0);
            let after: abi::Status = raw::value_of(&after);
            assert_eq!((after.size, after.state, after.queues), (size, abi::STATE_LIVE, 1), "{what}");
            let known = size > abi::STATUS_FIRST_BYTES;
            assert_eq!(after.pid, if known { own_process() } else { 0 }, "{what}, {size} bytes");
        }
    }
    disk.destroy(true);
}

fn settings_grace(context: &mut Context) {
    context.load_module("");
    let (disk, server) = by_hand(&plain("grace").grace(Duration::from_secs(2)));
    let path = disk.path();
    disk.server.set(&Settings::new().grace(MINUTE)).expect("the server may");
    assert_eq!(control().status("grace").expect("status").grace, MINUTE);
    drop((disk, server));
    let read = read_in_thread(path.clone(), 0, 4096);
    std::thread::sleep(Duration::from_secs(3));
    assert!(!read.is_finished(), "the old grace counted");
    // A grace that has begun gets shorter, and then ends at once.
    control().set("grace", &Settings::new().grace(Duration::from_secs(5))).expect("set");
    assert_eq!(control().status("grace").expect("status").state, State::Orphaned);
    assert_eq!(read.join().expect("reader"), Err(Errno::IO));
    assert_eq!(control().status("grace").expect("status").state, State::Failed);
    let (disk, mut server) = attach("grace", TakeOver::No);
    let read = read_in_thread(path, 0, 4096);
    let _held = server.fetch_one();
    control().set("grace", &Settings::new().grace(MINUTE)).expect("set");
    drop((disk, server));
    wait_until(20, "the death", || control().status("grace").expect("status").state == State::Orphaned);
    control().set("grace", &Settings::new().grace(Duration::from_millis(1))).expect("set");
    assert_eq!(read.join().expect("reader"), Err(Errno::IO), "the grace is over");
    control().destroy("grace", true).expect("destroy");
    // The end of the grace destroys a device that wants that.
    let (disk, server) = by_hand(&plain("gone").grace(MINUTE).auto_destroy(true));
    drop((disk, server));
    wait_until(20, "the death", || control().status("gone").expect("status").state == State::Orphaned);
    control().set("gone", &Settings::new().grace(Duration::ZERO)).expect("set");
    wait_until(20, "the device to go", || control().list().expect("list").is_empty());
}

fn settings_deadline(context: &mut Context) {
    context.load_module("");
    let (disk, mut server) = by_hand(&plain("timed"));
    let second = Duration::from_secs(1);
    let old = read_in_thread(disk.path(), 0, 4096);
    let held = server.fetch_one();
    control().set("timed", &Settings::new().deadline(second)).expect("set");
    let status = control().status("timed").expect("status");
    assert_eq!((status.deadline, status.deadline_policy), (Some(second), DeadlinePolicy::Fail));
    assert_eq!(disk.setting("queue/io_timeout"), "1000");
    let read = read_in_thread(disk.path(), 8192, 4096);
    let _late = server.fetch_one();
    assert_eq!(read.join().expect("reader"), Err(Errno::IO), "a new request has the new deadline");
    assert!(!old.is_finished(), "an old one does not");
    // The policy counts at once.
    let read = read_in_thread(disk.path(), 8192, 4096);
    let _late = server.fetch_one();
    disk.server.set(&Settings::new().deadline_policy(DeadlinePolicy::Requeue)).expect("set");
    let again = server.fetch_one();
    assert!(again.flags() & abi::REQUEST_MAYBE_EXECUTED != 0, "{again:?}");
    server.complete(&again);
    assert_eq!(read.join().expect("reader"), Ok(vec![0; 4096]));
    // The first request was sent without a deadline and stays with the server for longer than the 30 s after which the
    // block layer reports a request by default.
    let (requests, entered) = server.try_fetch(0, 1, 1, 40_000);
    assert!(requests.is_empty() && entered.error.is_none(), "{requests:?}, {entered:?}");
    let expired = disk.server.stats(0).expect("stats").expired;
    server.complete(&held);
    assert_eq!(old.join().expect("reader"), Ok(vec![0; 4096]));
    assert_eq!(expired, 2, "the two requests that were sent with a deadline");
    // Without a deadline no request is late, not even one that was sent with one.
    disk.server.set(&Settings::new().deadline_policy(DeadlinePolicy::Fail)).expect("set");
    let read = read_in_thread(disk.path(), 0, 4096);
    let request = server.fetch_one();
    disk.server.set(&Settings::new().no_deadline()).expect("set");
    assert_eq!(control().status("timed").expect("status").deadline, None);
    std::thread::sleep(Duration::from_secs(4));
    assert!(!read.is_finished());
    server.complete(&request);
    assert_eq!(read.join().expect("reader"), Ok(vec![0; 4096]));
    assert_eq!(disk.setting("queue/io_timeout"), "1000000000");
    disk.destroy(true);
}

fn settings_checked(context: &mut Context) {
    context.load_module("");
    let (disk, server) = by_hand(&plain("strict"));
    let node = super::hostile::control_node();
    let good = abi::Settings { size: abi::SETTINGS_BYTES, name: name("strict"), ..abi::Settings::default() };
    let cases: [(abi::Settings, Result<(), Errno>); 12] = [
        (good, Ok(())),
        (abi::Settings { flags: 8, ..good }, Err(Errno::INVAL)),
        (abi::Settings { flags: abi::SETTINGS_GRACE, grace_ms: abi::MAX_MILLISECONDS, ..good }, Ok(())),
        (
            abi::Settings { flags: abi::SETTINGS_GRACE, grace_ms: abi::MAX_MILLISECONDS + 1, ..good },
            Err(Errno::RANGE),
        ),
        (abi::Settings { flags: abi::SETTINGS_DEADLINE, deadline_ms: u32::MAX, ..good }, Err(Errno::RANGE)),
        (abi::Settings { flags: abi::SETTINGS_POLICY, deadline_policy: 3, ..good }, Err(Errno::INVAL)),
        (abi::Settings { grace_ms: 1, ..good }, Err(Errno::INVAL)),
        (abi::Settings { deadline_ms: 1, ..good }, Err(Errno::INVAL)),
        (abi::Settings { deadline_policy: 1, ..good }, Err(Errno::INVAL)),
        (abi::Settings { reserved: 1, ..good }, Err(Errno::INVAL)),
        (abi::Settings { handle: 77, ..good }, Err(Errno::STALE)),
        (abi::Settings { epoch: 77, ..good }, Err(Errno::STALE)),
    ];
    for (asked, wanted) in cases {
        for (fd, what) in [(node.as_fd(), "control"), (disk.server.as_fd(), "server")] {
            assert_eq!(call(fd, abi::IOCTL_SETTINGS, &asked).0.map(drop), wanted, "{what}: {asked:?}");
        }
    }
    let other = abi::Settings { name: name("other"), ..good };
    assert_eq!(call(node.as_fd(), abi::IOCTL_SETTINGS, &other).0, Err(Errno::NOENT));
    assert_eq!(call(disk.server.as_fd(), abi::IOCTL_SETTINGS, &other).0, Err(Errno::INVAL));
    let observer = control().observe("strict").expect("observe");
    assert_eq!(call(observer.as_fd(), abi::IOCTL_SETTINGS, &good).0, Err(Errno::PERM));
    // Only the owner, and the newest server.
    let open = control();
    let stranger = std::thread::spawn(move || {
        rustix::thread::set_thread_uid(Uid::from_raw(1000)).expect("become a user");
        open.set("strict", &Settings::new().grace(MINUTE))
    });
    assert_eq!(refused(stranger.join().expect("the user")), Errno::PERM);
    let (next, _manual) = attach("strict", TakeOver::Yes);
    assert_eq!(refused(disk.server.set(&Settings::new())), Errno::SHUTDOWN);
    let which = Which::from(&*next.server);
    assert_eq!(refused(control().set(which.with_epoch(1), &Settings::new())), Errno::STALE);
    control().set(which.with_epoch(2), &Settings::new()).expect("set");
    drop(open_direct(&next.path()));
    next.destroy(true);
    assert_eq!(refused(next.server.set(&Settings::new())), Errno::NODEV);
    drop((disk, server));
    let one = Disk1::create("one", 1024);
    assert_eq!(refused(control().set("one", &Settings::new())), Errno::INVAL, "version 1");
    one.destroy();
}
