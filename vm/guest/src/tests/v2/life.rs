// SPDX-License-Identifier: MIT OR Apache-2.0
//! The life of devices and servers: attached, replaced, dead, late, and gone.

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Uid;
use rustix::io::Errno;
use zosbd2::v2::abi;
use zosbd2::{Backend as _, Builder, Control, Fetched, Server, State, TakeOver, v1};
use zosbd2_backends::Ram;

use super::super::support::{Aligned, Disk as Disk1, open_direct, read_in_thread, sleeps_in_ioctl};
use super::hostile::{call, commit_raw, name as name_field};
use super::support::{Disk, Manual, attach, by_hand, control, plain, plain_by_hand, refused, threads};
use crate::guest::{Context, Mounted, Need, Test, raw, sys, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_take_over", take_over).needs(&[Need::Module]).timeout(60),
    Test::new("v2_attach_from_a_server", attach_from_a_server).needs(&[Need::Module]).timeout(60),
    Test::new("v2_attach_that_is_overtaken", overtaken).needs(&[Need::Module]).timeout(60),
    Test::new("v2_dead_server_is_followed", followed).needs(&[Need::Module]).timeout(60),
    Test::new("v2_grace_and_its_end", grace).needs(&[Need::Module]).timeout(60),
    Test::new("v2_never_started", never_started).needs(&[Need::Module]).timeout(60),
    Test::new("v2_destroy_in_every_state", destroy_everywhere).needs(&[Need::Module]).timeout(60),
    Test::new("v2_descriptors_outlive_the_device", outlived).needs(&[Need::Module]).timeout(60),
    Test::new("v2_who_may_serve", who_may_serve).needs(&[Need::Module]).timeout(60),
    Test::new("v2_deadline", deadline).needs(&[Need::Module]).timeout(60),
    Test::new("v2_lists_know_both_versions", both_versions).needs(&[Need::Module]).timeout(60),
    Test::new("v2_resize_under_io", resize).needs(&[Need::Module]).timeout(120),
    Test::new("v2_churn", churn).needs(&[Need::Module]).timeout(120),
    Test::new("v2_name_of_a_partition", name_of_a_partition).needs(&[Need::Module]).timeout(60),
    Test::new("v2_start_from_a_view_that_hangs", hanging_view)
        .needs(&[Need::Module, Need::KernelModule("fuse")])
        .timeout(60),
    Test::new("v2_create_unwinds_every_step", unwinds)
        .needs(&[Need::Module, Need::Variant("faults")])
        .timeout(60),
];

const MIB: u64 = 1 << 20;

fn state(name: &str) -> State {
    control().status(name).expect("status").state
}

const MAYBE: u32 = abi::REQUEST_MAYBE_EXECUTED;

fn answer(manual: &mut Manual, request: &Fetched, byte: u8) -> Vec<(u64, Errno)> {
    manual.answer(|batch| batch.read(request, &[[1; 4096], [2; 4096], [3; 4096]][usize::from(byte - 1)]))
}

/// Asserts that the kernel refuses this server's answer. The raw call is used, because the library refuses
/// requests of other servers.
#[track_caller]
fn assert_stale(server: &Server, request: &Fetched) {
    let pages = raw::Pages::new(4096);
    let entry = abi::Commit {
        handle: request.handle(),
        result: 4096,
        address: pages.at_end(4096) as u64,
        ..abi::Commit::default()
    };
    assert_eq!(commit_raw(server, &pages, &[entry]), [-Errno::STALE.raw_os_error()]);
}

fn take_over(context: &mut Context) {
    context.load_module("");
    let (disk, mut old) = plain_by_hand("over");
    let (first, second) = (read_in_thread(disk.path(), 0, 4096), read_in_thread(disk.path(), 8192, 4096));
    let held = old.fetch(0, 2, 2).expect("fetch");
    assert_eq!(refused(control().attach("over", TakeOver::No)), Errno::BUSY);
    // The old server sleeps for more requests when the new one attaches.
    let thread = AtomicI32::new(0);
    let (new_disk, mut new) = std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            thread.store(raw::thread_id(), Ordering::SeqCst);
            Manual::new(&disk).try_fetch(0, 4, 1, 60_000).1
        });
        wait_until(20, "the old server to sleep", || sleeps_in_ioctl(&thread));
        let new = attach("over", TakeOver::Yes);
        assert_eq!(sleeper.join().expect("the old server").error, Some(Errno::SHUTDOWN));
        new
    });
    let status = control().status("over").expect("status");
    assert_eq!((status.state, status.epoch, status.servers), (State::Live, 2, 2));
    assert_eq!(old.fetch(0, 1, 0).expect_err("no more requests for the old server"), Errno::SHUTDOWN);
    let third = read_in_thread(disk.path(), 16384, 4096);
    let fetched = new.fetch_one();
    assert_eq!((fetched.offset(), fetched.flags() & MAYBE), (16384, 0), "new requests go to the new server");
    // Each server answers its own requests only.
    assert_stale(&new_disk.server, &held[0]);
    assert_stale(&disk.server, &fetched);
    assert_eq!(answer(&mut old, &held[0], 1), []);
    assert_stale(&disk.server, &held[0]);
    assert_eq!(answer(&mut new, &fetched, 2), []);
    assert_eq!(third.join().expect("reader"), Ok(vec![2; 4096]));
    // When the old server closes, its requests go to the new one.
    drop((old, disk));
    let again = new.fetch_one();
    assert_eq!((again.offset(), again.flags() & MAYBE), (held[1].offset(), MAYBE));
    assert_eq!(answer(&mut new, &again, 3), []);
    let mut results = [first, second].map(|read| read.join().expect("reader").expect("data")[0]);
    results.sort_unstable();
    assert_eq!(results, [1, 3], "each request was answered once");
    assert_eq!(new_disk.server.stats(0).expect("stats").requeued, 1);
    new_disk.destroy(true);
}

/// ATTACH on a server descriptor: the holder of the present server's descriptor can attach a successor that way,
/// and nobody else can.
fn attach_from_a_server(context: &mut Context) {
    context.load_module("");
    let ask = |server: BorrowedFd<'_>, flags, name| -> Result<(Server, u32), Errno> {
        let asked = abi::Attach { size: abi::ATTACH_BYTES, flags, name, ..abi::Attach::default() };
        let (result, after) = call(server, abi::IOCTL_ATTACH, &asked);
        result.map(|fd| (Server::from_fd(raw::own(fd)).expect("a server's"), after.epoch))
    };
    let (over, unnamed) = (abi::ATTACH_TAKE_OVER, [0; abi::NAME_BYTES]);
    let node = control();
    let (disk, mut first) = plain_by_hand("own");
    let read = read_in_thread(disk.path(), 0, 4096);
    let held = first.fetch_one();
    let own = disk.server.as_fd();
    assert_eq!(ask(own, 0, unnamed).err(), Some(Errno::BUSY));
    assert_eq!(ask(own, over, name_field("other")).err(), Some(Errno::INVAL));
    assert_eq!(ask(own, abi::ATTACH_OBSERVE, unnamed).err(), Some(Errno::INVAL));
    assert_eq!(ask(own, over | 8, unnamed).err(), Some(Errno::INVAL));
    let observer = node.observe("own").expect("observe");
    assert_eq!(ask(observer.as_fd(), over, unnamed).err(), Some(Errno::PERM));
    let status = node.status("own").expect("status");
    assert_eq!((status.epoch, status.servers), (1, 1), "the present server was not disturbed");

    let (second, epoch) = ask(own, over, name_field("own")).expect("attach");
    assert_eq!((epoch, node.status("own").expect("status").epoch), (2, 2));
    assert_eq!(first.try_fetch(0, 1, 0, 0).1.error, Some(Errno::SHUTDOWN));
    assert_eq!(answer(&mut first, &held, 1), [], "the old server answers its requests");
    assert_eq!(read.join().expect("reader"), Ok(vec![1; 4096]));
    assert_eq!(ask(own, over, unnamed).err(), Some(Errno::SHUTDOWN), "it is not the newest server");
    let (third, epoch) = ask(second.as_fd(), over, unnamed).expect("attach");
    assert_eq!((epoch, node.status("own").expect("status").servers), (3, 3));
    drop((first, second));
    node.destroy("own", true).expect("destroy");
    assert_eq!(ask(third.as_fd(), over, unnamed).err(), Some(Errno::NODEV));
}

/// An ATTACH on the control node that waits in the kernel while it writes its result: its argument is
/// write-protected until `go` is called.
struct Waiting {
    asked: abi::Attach,
    pages: Arc<raw::Pages>,
    keeper: OwnedFd,
    call: JoinHandle<Result<OwnedFd, Errno>>,
}

impl Waiting {
    fn begin(name: &str, flags: u32) -> Self {
        // This device, with any server.
        let (handle, epoch) = (control().status(name).expect("status").handle, 0);
        let asked = abi::Attach { size: abi::ATTACH_BYTES, flags, name: name_field(name), handle, epoch };
        let pages = Arc::new(raw::Pages::new(raw::PAGE));
        let at = pages.at_end(size_of::<abi::Attach>());
        pages.put_value(at, &asked);
        let keeper = pages.withhold_from_writers().expect("userfaultfd");
        let call = std::thread::spawn({
            let pages = Arc::clone(&pages);
            move || {
                let _kept = pages;
                let node = File::open(zosbd2_abi::CONTROL_PATH).expect("open the control node");
                raw::ioctl_for_descriptor(node.as_fd(), abi::IOCTL_ATTACH, at)
            }
        });
        wait_until(20, "the call to wait for its argument", || {
            assert!(!call.is_finished(), "the call did not wait");
            let mut fds = [PollFd::new(&keeper, PollFlags::IN)];
            poll(&mut fds, Some(&Timespec::default())).expect("poll") == 1
        });
        Self { asked, pages, keeper, call }
    }

    /// Lets it write; returns the server, or the error, and the argument afterwards.
    fn go(self) -> (Result<Server, Errno>, abi::Attach) {
        drop(self.keeper);
        let result = self.call.join().expect("the thread that calls");
        let after = self.pages.get_value(self.pages.at_end(size_of::<abi::Attach>()));
        (result.map(|fd| Server::from_fd(fd).expect("a server's")), after)
    }

    /// Lets it write, and asserts that it fails and leaves its argument unchanged.
    fn fails(self, errno: Errno) {
        let asked = self.asked;
        let (result, after) = self.go();
        assert_eq!((result.err(), after), (Some(errno), asked));
    }
}

/// Another ATTACH, or a destruction, overtakes an ATTACH that is writing its epoch. Nothing was changed until
/// then. The ATTACH gets a new epoch, or it fails and leaves its argument unchanged.
fn overtaken(context: &mut Context) {
    context.load_module("");
    let (disk, first) = by_hand(&plain("race").grace(Duration::from_secs(60)));
    let late = Waiting::begin("race", abi::ATTACH_TAKE_OVER);
    drop((disk, first));
    assert_eq!(control().status("race").expect("status").epoch, 1, "the present server was not disturbed");
    let second = attach("race", TakeOver::No);
    let (third, after) = late.go();
    let third = third.expect("attach");
    let status = control().status("race").expect("status");
    assert_eq!((after.epoch, status.epoch, after.handle), (3, 3, third.status().expect("status").handle));

    // Without a server the attach would have succeeded.
    drop((second, third));
    assert_eq!(state("race"), State::Orphaned);
    let late = Waiting::begin("race", 0);
    let (disk, _server) = attach("race", TakeOver::No);
    late.fails(Errno::BUSY);
    let status = control().status("race").expect("status");
    assert_eq!((status.epoch, status.servers), (4, 1), "the present server was not disturbed");

    for flags in [abi::ATTACH_TAKE_OVER, abi::ATTACH_OBSERVE] {
        let (disk, _server) = plain_by_hand("gone");
        let late = Waiting::begin("gone", flags);
        disk.destroy(true);
        if flags == abi::ATTACH_OBSERVE {
            // An observer may look at a device that is gone.
            let (observer, after) = late.go();
            let observer = observer.expect("observe");
            assert_eq!((after.epoch, after.handle), (0, observer.status().expect("status").handle));
        } else {
            late.fails(Errno::NODEV);
        }
    }
    disk.destroy(true);
}

fn followed(context: &mut Context) {
    context.load_module("");
    let (disk, mut first) = by_hand(&plain("follow").grace(Duration::from_secs(60)));
    let reads: Vec<_> = (0..3).map(|at| read_in_thread(disk.path(), at * 8192, 4096)).collect();
    let held = first.fetch(0, 2, 2).expect("fetch");
    wait_until(20, "the third request", || disk.server.stats(0).expect("stats").queued == 1);
    drop((first, disk));
    assert_eq!(state("follow"), State::Orphaned);
    let (disk, mut second) = attach("follow", TakeOver::No);
    assert_eq!(state("follow"), State::Live);
    // All requests, the older ones first. Those that the dead server held are marked.
    let mut all = second.fetch(0, 8, 3).expect("fetch");
    assert_eq!(all.len(), 3);
    assert_eq!(all.iter().filter(|request| request.flags() & MAYBE != 0).count(), 2);
    assert_eq!(all[2].flags() & MAYBE, 0);
    assert_stale(&disk.server, &held[0]);
    for request in all.drain(..) {
        assert_eq!(answer(&mut second, &request, 2), []);
    }
    for read in reads {
        assert_eq!(read.join().expect("reader"), Ok(vec![2; 4096]));
    }
    disk.destroy(true);
}

fn grace(context: &mut Context) {
    context.load_module("");
    for (name, milliseconds) in [("short", 300), ("none", 0)] {
        let (disk, mut server) = by_hand(&plain(name).grace(Duration::from_millis(milliseconds)));
        let (held, waits) = (read_in_thread(disk.path(), 0, 4096), read_in_thread(disk.path(), 8192, 4096));
        let request = server.fetch_one();
        let path = disk.path();
        drop((server, disk));
        assert_eq!(held.join().expect("reader"), Err(Errno::IO), "{name}: {request:?}");
        assert_eq!(waits.join().expect("reader"), Err(Errno::IO), "{name}");
        assert_eq!(state(name), State::Failed);
        assert_eq!(read_in_thread(path.clone(), 0, 4096).join().expect("reader"), Err(Errno::IO));
        // A server may attach at any time.
        let (disk, mut server) = attach(name, TakeOver::No);
        let read = read_in_thread(path, 0, 4096);
        let request = server.fetch_one();
        assert_eq!(request.flags() & MAYBE, 0);
        assert_eq!(answer(&mut server, &request, 1), []);
        assert_eq!(read.join().expect("reader"), Ok(vec![1; 4096]));
        assert_eq!(state(name), State::Live);
        disk.destroy(true);
    }
    let (disk, server) = by_hand(&plain("auto").grace(Duration::from_millis(200)).auto_destroy(true));
    let path = disk.path();
    drop((server, disk));
    wait_until(20, "the device to go", || !path.exists() && control().status("auto").is_err());
    // A server that attaches in time keeps the device.
    let (disk, server) = by_hand(&plain("kept").grace(Duration::from_secs(3)).auto_destroy(true));
    drop((server, disk));
    let (disk, mut server) = attach("kept", TakeOver::No);
    let (requests, entered) = server.try_fetch(0, 1, 1, 3500);
    assert_eq!((requests.len(), entered.error), (0, None), "longer than the grace");
    assert_eq!(state("kept"), State::Live);
    disk.destroy(true);
}

fn never_started(context: &mut Context) {
    context.load_module("");
    let disk = Disk::create(&plain("unborn").grace(Duration::from_secs(60)));
    assert_eq!(state("unborn"), State::Created);
    // No request can exist yet, but fetching is allowed.
    assert_eq!(Manual::new(&disk).fetch(0, 1, 0).map(|requests| requests.len()), Ok(0));
    let path = disk.path();
    drop(disk);
    wait_until(20, "the device to go with its server", || control().status("unborn").is_err());
    assert!(!path.exists());
    // Another server may start it.
    let disk = Disk::create(&plain("late"));
    let (second, server) = attach("late", TakeOver::Yes);
    second.server.start().expect("start");
    assert_eq!(refused(second.server.start()), Errno::ALREADY);
    assert_eq!(refused(disk.server.start()), Errno::SHUTDOWN, "the device belongs to the other server");
    assert!(second.path().exists());
    drop(server);
    second.destroy(true);
}

fn destroy_everywhere(context: &mut Context) {
    context.load_module("");
    let gone = |name: &str| assert_eq!(refused(control().status(name)), Errno::NOENT, "{name}");
    let created = Disk::create(&plain("created"));
    created.destroy(false);
    gone("created");
    assert_eq!(refused(control().destroy("created", true)), Errno::NOENT);

    let (disk, _server) = plain_by_hand("opened");
    let open = open_direct(&disk.path());
    assert_eq!(refused(control().destroy("opened", false)), Errno::BUSY);
    assert_eq!(state("opened"), State::Live, "a refused destroy changes nothing");
    disk.destroy(true);
    gone("opened");
    let mut buffer = Aligned::new(4096, 0);
    let read = rustix::io::pread(&open, buffer.bytes_mut(), 0);
    assert!(matches!(read, Ok(0) | Err(Errno::IO | Errno::NXIO)), "{read:?}");

    let (disk, mut server) = plain_by_hand("held");
    let (held, waits) = (read_in_thread(disk.path(), 0, 4096), read_in_thread(disk.path(), 8192, 4096));
    let request = server.fetch_one();
    wait_until(20, "the other request", || disk.server.stats(0).expect("stats").queued == 1);
    // This takes the queue that the server would need to answer, and nobody answers.
    disk.destroy(true);
    assert_eq!(held.join().expect("reader"), Err(Errno::IO));
    assert_eq!(waits.join().expect("reader"), Err(Errno::IO));
    assert_eq!(answer(&mut server, &request, 1), [(request.handle(), Errno::STALE)]);

    for (name, grace, wanted) in
        [("orphan", Duration::from_secs(60), State::Orphaned), ("failed", Duration::ZERO, State::Failed)]
    {
        let (disk, server) = by_hand(&plain(name).grace(grace));
        let read = read_in_thread(disk.path(), 0, 4096);
        wait_until(20, "the request", || disk.server.stats(0).expect("stats").queued == 1);
        drop((server, disk));
        assert_eq!(state(name), wanted);
        control().destroy(name, true).expect("destroy");
        assert_eq!(read.join().expect("reader"), Err(Errno::IO), "{name}");
        gone(name);
    }
    assert_eq!(control().list().expect("list"), []);
}

fn outlived(context: &mut Context) {
    context.load_module("");
    let (disk, mut server) = plain_by_hand("outlived");
    let second = control().attach("outlived", TakeOver::Yes).expect("attach");
    disk.destroy(true);
    assert_eq!(server.fetch(0, 1, 1).expect_err("gone"), Errno::NODEV);
    for server in [&*disk.server, &second] {
        assert_eq!(refused(server.start()), Errno::NODEV);
        assert_eq!(refused(server.resize(8 * MIB)), Errno::NODEV);
        assert_eq!(refused(server.set_blob(b"late")), Errno::NODEV);
        assert_eq!(server.status().expect("status").state, State::Destroyed);
        assert_eq!(server.stats(0).expect("stats").queued, 0);
    }
    // The name is free, and now means another device.
    let again = Disk::create(&plain("outlived"));
    assert_eq!(refused(disk.server.start()), Errno::NODEV);
    again.destroy(true);
    drop(again);
    let unloaded = context.try_unload_module().expect_err("in use");
    assert_eq!(unloaded.raw_os_error(), Some(Errno::AGAIN.raw_os_error()), "{unloaded}");
    drop((server, disk, second));
    context.unload_module();
}

fn who_may_serve(context: &mut Context) {
    context.load_module("");
    let (disk, server) = plain_by_hand("owned");
    assert_eq!(control().status("owned").expect("status").owner_uid, 0);
    let control = control();
    let as_user = |uid: u32| {
        std::thread::scope(|scope| {
            let attempt = scope.spawn(|| {
                rustix::thread::set_thread_uid(Uid::from_raw(uid)).expect("become a user");
                control.attach("owned", TakeOver::Yes).map(drop)
            });
            attempt.join().expect("the user")
        })
    };
    assert_eq!(refused(as_user(1000)), Errno::PERM);
    assert_eq!(control.status("owned").expect("status").epoch, 1, "a refused attach changes nothing");
    as_user(0).expect("the owner may");
    assert_eq!(control.status("owned").expect("status").epoch, 2);
    drop(server);
    disk.destroy(true);
}

fn deadline(context: &mut Context) {
    context.load_module("");
    let (disk, mut server) = by_hand(&plain("dead").deadline(Duration::from_secs(2)));
    let (held, waits) = (read_in_thread(disk.path(), 0, 4096), read_in_thread(disk.path(), 8192, 4096));
    wait_until(20, "both requests", || disk.server.stats(0).expect("stats").queued == 2);
    let request = server.fetch_one();
    assert_eq!(held.join().expect("reader"), Err(Errno::IO));
    assert_eq!(waits.join().expect("reader"), Err(Errno::IO));
    assert_eq!(answer(&mut server, &request, 1), [(request.handle(), Errno::STALE)], "too late");
    let stats = disk.server.stats(0).expect("stats");
    assert_eq!((stats.queued, stats.held, stats.expired, stats.stale), (0, 0, 2, 1));
    // The device is not harmed.
    let read = read_in_thread(disk.path(), 0, 4096);
    let request = server.fetch_one();
    assert_eq!(answer(&mut server, &request, 2), []);
    assert_eq!(read.join().expect("reader"), Ok(vec![2; 4096]));
    disk.destroy(true);
}

fn both_versions(context: &mut Context) {
    context.load_module("");
    let old = Disk1::create("first", 1024);
    let (disk, _server) = by_hand(&plain("second").serial("S-2"));
    let listed = control().list().expect("list");
    let names: Vec<_> = listed.iter().map(|listed| (listed.name.as_str(), listed.version)).collect();
    assert_eq!(names, [("first", 1), ("second", 2)]);
    let first = control().status("first").expect("status");
    assert_eq!((first.version, first.size_bytes, first.path()), (1, 4 * MIB, old.path()));
    let second = control().status("second").expect("status");
    assert_eq!((second.version, second.serial.as_str(), second.path()), (2, "S-2", disk.path()));
    assert_eq!(disk.setting("serial"), "S-2");
    assert_eq!(refused(control().attach("first", TakeOver::Yes)), Errno::INVAL);
    // Version 1 only sees its own devices.
    let handles = v1::Control::open().expect("control").list().expect("list");
    assert_eq!(handles, [old.handle]);
    // More than fits into one call.
    let many: Vec<Disk> = (0..40).map(|number| Disk::create(&plain(&format!("many{number}")))).collect();
    assert_eq!(control().list().expect("list").len(), 42);
    drop(many);
    wait_until(30, "those that were never started to go", || control().list().expect("list").len() == 2);
    disk.destroy(true);
    old.destroy();
}

/// Readers of the part that always exists never fail, whatever the current size, and read what was written.
fn resize(context: &mut Context) {
    context.load_module("");
    let ram = Arc::new(Ram::new(16 * MIB).expect("memory"));
    let builder = Builder::new("resize").partition_scan(false).queues(2);
    let (disk, serving) = Disk::serve(&builder, &ram, threads(2));
    let (least, seed) = (4 * MIB, context.seed());
    let stop = AtomicBool::new(false);
    let path = disk.path();
    let mut random = context.random("sizes");
    let rounds: u64 = std::thread::scope(|scope| {
        let submitters: Vec<_> = (0..3_u64)
            .map(|number| {
                let (path, stop) = (&path, &stop);
                scope.spawn(move || submit(path, number, least / 4, seed, stop))
            })
            .collect();
        let answers = || {
            let stats = [0, 1].map(|queue| disk.server.stats(queue).expect("stats"));
            stats.iter().flat_map(|stats| &stats.operations).map(|operation| operation.committed).sum::<u64>()
        };
        for _ in 0..60 {
            let size = least + random.below(25) * (MIB / 2);
            let before = answers();
            disk.server.resize(size).expect("resize");
            wait_until(20, "I/O of this size", || answers() >= before + 8);
            assert_eq!(disk.server.status().expect("status").size_bytes, size);
            assert_eq!(disk.setting("size"), (size / 512).to_string());
        }
        stop.store(true, Ordering::Relaxed);
        submitters.into_iter().map(|submitter| submitter.join().expect("a submitter failed")).sum()
    });
    assert!(rounds > 0, "no I/O ran");
    // There is nothing beyond the end, and the contents of a part that was cut off before are up to the backend.
    disk.server.resize(8 * MIB).expect("resize");
    let file = File::options().read(true).write(true).open(&path).expect("open");
    let error = file.write_at(&[1; 512], 8 * MIB).expect_err("behind the end");
    assert_eq!(error.raw_os_error(), Some(Errno::NOSPC.raw_os_error()));
    disk.server.resize(16 * MIB).expect("resize");
    file.write_all_at(&[1; 4096], 16 * MIB - 4096).expect("write to the new end");
    file.sync_all().expect("flush");
    drop(file);
    disk.destroy_and_join(serving);
}

/// Writes and reads back in its own part of the disk until `stop`; returns how often.
fn submit(path: &Path, number: u64, bytes: u64, seed: u64, stop: &AtomicBool) -> u64 {
    let mut random = crate::guest::Random::named(seed ^ number, "submitter");
    let fd = open_direct(path);
    let (mut data, mut back) = (Aligned::new(65536, 0), Aligned::new(65536, 0));
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        let length = usize::try_from(512 * (1 + random.below(128))).expect("small");
        let offset = number * bytes + 512 * random.below((bytes - 65536) / 512);
        random.fill(&mut data.bytes_mut()[..length]);
        assert_eq!(rustix::io::pwrite(&fd, &data.bytes()[..length], offset), Ok(length));
        assert_eq!(rustix::io::pread(&fd, &mut back.bytes_mut()[..length], offset), Ok(length));
        assert!(data.bytes()[..length] == back.bytes()[..length], "{length} bytes at {offset} are others");
        rounds += 1;
    }
    rounds
}

/// Devices come and go in every way, with I/O in flight. Nothing stays.
fn churn(context: &mut Context) {
    context.load_module("");
    let mut random = context.random("churn");
    for round in 0..60 {
        let name = format!("churn{round}");
        let ram = Arc::new(Ram::new(4 * MIB).expect("memory"));
        let queues = 1 + u32::try_from(random.below(2)).expect("small");
        let auto = random.below(2) == 0;
        let builder = Builder::new(&name).queues(queues).depth(8).grace(Duration::ZERO).auto_destroy(auto);
        let (disk, serving) = Disk::serve(&builder, &ram, threads(1));
        let reads: Vec<_> = (0..random.below(6))
            .map(|at| {
                let node = open_direct(&disk.path());
                std::thread::spawn(move || {
                    let mut buffer = Aligned::new(4096, 0);
                    let count = rustix::io::pread(node, buffer.bytes_mut(), at * 4096)?;
                    Ok::<_, Errno>(buffer.bytes()[..count].to_vec())
                })
            })
            .collect();
        match random.below(3) {
            0 => disk.destroy(true),
            1 => {
                // Another server takes over and dies at once.
                drop(control().attach(&name, TakeOver::Yes).expect("attach"));
                let _ = control().destroy(&name, true);
            }
            _ => {
                disk.server.resize(2 * MIB).expect("resize");
                disk.destroy(true);
            }
        }
        for read in reads {
            let read = read.join().expect("reader");
            assert!(
                matches!(&read, Ok(data) if data.iter().all(|byte| *byte == 0)) || read.is_err(),
                "{read:?}"
            );
        }
        let _ = serving.join().expect("the server panicked");
        drop(disk);
        wait_until(20, "the device to go", || control().list().expect("list").is_empty());
        let (node, entry) = (format!("/dev/zosbd2-{name}"), format!("/sys/block/zosbd2-{name}"));
        wait_until(20, "the disk to go", || !Path::new(&node).exists() && !Path::new(&entry).exists());
    }
    // Nothing holds a reference to the module.
    wait_until(20, "the module to be free", || context.try_unload_module().is_ok());
}

/// The name of a partition is in use for as long as the partition exists.
fn name_of_a_partition(context: &mut Context) {
    context.load_module("");
    let ram = Arc::new(Ram::new(16 * MIB).expect("memory"));
    // One partition, from sector 8 on.
    let mut table = [0; 512];
    table[446 + 4] = 0x83;
    table[446 + 8..446 + 12].copy_from_slice(&8_u32.to_le_bytes());
    table[446 + 12..446 + 16].copy_from_slice(&64_u32.to_le_bytes());
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    ram.write(0, &mut table, false).expect("write");
    let early = Disk::create(&plain("part1"));
    let (disk, serving) = Disk::serve(&Builder::new("part"), &ram, threads(1));
    disk.wait_for_partition("/dev/zosbd2-part1");
    // Tools take the last part of the node's path as the name in sysfs.
    for node in [disk.path(), PathBuf::from("/dev/zosbd2-part1")] {
        let entry = Path::new("/sys/class/block").join(node.file_name().expect("a name"));
        assert!(entry.join("size").exists(), "{} does not exist", entry.display());
    }
    assert_eq!(refused(early.server.start()), Errno::EXIST);
    early.destroy(true);
    wait_until(20, "the device to go", || control().list().expect("list").len() == 1);
    assert_eq!(refused(control().create(&plain("part1"))), Errno::EXIST);
    disk.destroy_and_join(serving);
    let mut late = None;
    wait_until(20, "the name to be free", || {
        late = control().create(&plain("part1")).ok();
        late.is_some()
    });
    late.expect("created").start().expect("start");
    control().destroy("part1", true).expect("destroy");
}

/// A server's view of the file systems only concerns that server: the check of a name looks no path up, so CREATE and
/// START in a mount namespace where look-ups hang wait for nothing, and delay no destroy.
fn hanging_view(context: &mut Context) {
    context.load_module("");
    context.load_kernel_module("fuse", "");
    let disk = Disk::create(&plain("view"));
    let (server, node) = (Arc::clone(&disk.server), control());
    let starter = std::thread::spawn(move || {
        sys::own_mounts().expect("a view of its own");
        let never = [(); 2]
            .map(|()| File::options().read(true).write(true).open("/dev/fuse").expect("open /dev/fuse"));
        let hang = |(never, place): (&File, &str)| {
            let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", never.as_raw_fd());
            Mounted::attempt("never", place, "fuse", &options).expect("mount")
        };
        let _mounted: Vec<Mounted> = never.iter().zip(["/sys", "/dev"]).map(hang).collect();
        server.start()?;
        let second = node.create(&plain("second"))?;
        second.start()?;
        Ok::<_, zosbd2::Error>(second)
    });
    wait_until(20, "CREATE and START to return", || starter.is_finished());
    let second = starter.join().expect("the starter").expect("start");
    assert!(disk.path().exists() && second.path().exists());
    control().destroy(&second, true).expect("destroy");
    disk.destroy(true);
    assert_eq!(control().list().expect("list"), []);
}

/// Whichever step of a create or an attach fails, nothing is left, and the next call succeeds.
fn unwinds(context: &mut Context) {
    context.load_module("");
    let parameter = "/sys/module/zosbd2/parameters/fail_step";
    let steps = [
        (1, Errno::NOMEM),
        (2, Errno::NOMEM),
        (3, Errno::NOMEM),
        (4, Errno::NOMEM),
        (5, Errno::NOMEM),
        (8, Errno::NOMEM),
        (9, Errno::NFILE),
        (10, Errno::NOMEM),
    ];
    let create = || Control::open().expect("control").create(&plain("unwind"));
    let failing = |step: u32, call: &dyn Fn() -> zosbd2::Result<Server>| {
        std::fs::write(parameter, step.to_string()).expect("set the fault");
        let errno = refused(call());
        std::fs::write(parameter, "0").expect("clear the fault");
        errno
    };
    for (step, errno) in steps {
        // Another name each time: a device is no longer found some time before its name is free.
        let create = || control().create(&plain(&format!("unwind{step}")));
        assert_eq!(failing(step, &create), errno, "create, step {step}");
        assert_eq!(control().list().expect("list"), [], "step {step}");
        wait_until(20, "the name to be free", || create().is_ok());
        wait_until(20, "nothing to be left", || control().list().expect("list").is_empty());
    }
    // START creates the node. The block layer takes a disk only once.
    let server = create().expect("create");
    assert_eq!(failing(6, &|| server.start().and_then(|()| create())), Errno::EXIST);
    assert_eq!(server.status().expect("status").state, State::Created);
    assert_eq!(refused(server.start()), Errno::EXIST, "as before");
    control().destroy("unwind", true).expect("destroy");
    drop(server);
    let mut server = None;
    wait_until(20, "the name to be free", || {
        server = create().ok();
        server.is_some()
    });
    let server = server.expect("created");
    server.start().expect("start");
    for (step, errno) in [(8, Errno::NOMEM), (9, Errno::NFILE)] {
        let attach = || control().attach("unwind", TakeOver::Yes);
        assert_eq!(failing(step, &attach), errno, "attach, step {step}");
        // The present server continues to serve.
        let status = server.status().expect("status");
        assert_eq!((status.state, status.epoch, status.servers), (State::Live, 1, 1), "attach, step {step}");
    }
    control().destroy("unwind", true).expect("destroy");
}
