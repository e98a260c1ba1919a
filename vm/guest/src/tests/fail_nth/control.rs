// SPDX-License-Identifier: MIT OR Apache-2.0
//! Version 2's calls on the control node, and the calls on a server descriptor that move no requests.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use zosbd2::v2::abi;
use zosbd2::{State, TakeOver};

use super::{
    ERRORS, MIB, OUT_OF_MEMORY, builder, call, call_for, control_node, descriptors, devices, each, name,
    started, test,
};
use crate::guest::raw::{self, PAGE, Pages};
use crate::guest::{Context, FailNth, Test, wait_until};
use crate::tests::support::{open_direct, read_in_thread, write_in_thread};
use crate::tests::v2::support::{Disk, Manual, control};

pub(super) const TESTS: &[Test] = &[
    test("fail_nth_questions", questions),
    test("fail_nth_attach", attach),
    test("fail_nth_settings", settings),
    test("fail_nth_claim", claim),
    test("fail_nth_create", create).allows(OUT_OF_MEMORY).timeout(600),
    test("fail_nth_start", start).allows(OUT_OF_MEMORY).timeout(1200),
    test("fail_nth_destroy", destroy),
    test("fail_nth_reports", reports),
];

/// INFO, LIST and STATUS change nothing, and return correct data or nothing.
fn questions(context: &mut Context) {
    context.load_module("");
    let faults = FailNth::new(context);
    let (one, two) = (started("one"), Disk::create(&builder("two")));
    let node = control_node();
    let before = descriptors();
    each(context, &faults, "INFO", |round| {
        let asked = abi::Info { size: abi::INFO_BYTES, ..abi::Info::default() };
        let (result, info) = call(round, node.as_fd(), abi::IOCTL_INFO, &asked);
        assert!(result.is_err() || info.version == 2, "{info:?}");
    });
    each(context, &faults, "LIST", |round| {
        let entries = Pages::new(PAGE);
        let at = entries.at_end(3 * size_of::<abi::ListEntry>());
        let asked =
            abi::List { size: abi::LIST_BYTES, entries: at as u64, capacity: 3, ..abi::List::default() };
        let (result, list) = call(round, node.as_fd(), abi::IOCTL_LIST, &asked);
        if result.is_ok() {
            assert_eq!((list.count, list.total), (2, 2));
            let second: abi::ListEntry = entries.get_value(at + size_of::<abi::ListEntry>());
            assert_eq!(second.name, name("two"));
        }
    });
    each(context, &faults, "STATUS", |round| {
        let asked = abi::Status { size: abi::STATUS_BYTES, name: name("one"), ..abi::Status::default() };
        let (result, status) = call(round, node.as_fd(), abi::IOCTL_STATUS, &asked);
        assert!(result.is_err() || status.state == abi::STATE_LIVE, "{status:?}");
    });
    // An argument longer than the kernel knows has a tail that the kernel must check.
    each(context, &faults, "INFO of a page", |round| {
        let pages = Pages::new(PAGE);
        let at = pages.at_end(PAGE);
        pages.put(at, &u32::try_from(PAGE).expect("small").to_ne_bytes());
        let result = round.call(|| raw::ioctl(node.as_fd(), abi::IOCTL_INFO, at));
        round.check(&result, ERRORS);
    });
    assert_eq!((descriptors(), devices()), (before, vec!["one".to_owned(), "two".to_owned()]));
    one.destroy(true);
    two.destroy(true);
}

/// If an attach fails, the server stays; if it succeeds, the new server works.
fn attach(context: &mut Context) {
    context.load_module("");
    let faults = FailNth::new(context);
    let first = Disk::create(&builder("mine").grace(Duration::ZERO));
    first.server.start().expect("start");
    let node = control_node();
    let asked =
        |flags| abi::Attach { size: abi::ATTACH_BYTES, flags, name: name("mine"), ..abi::Attach::default() };
    let before = descriptors();
    each(context, &faults, "ATTACH to look on", |round| {
        let observe = asked(abi::ATTACH_OBSERVE);
        let (result, answer) = call(round, node.as_fd(), abi::IOCTL_ATTACH, &observe);
        if let Ok(fd) = result {
            assert_eq!(answer.epoch, 0);
            drop(raw::own(fd));
        }
        assert_eq!(descriptors(), before);
    });
    let mut epoch = 1;
    let mut newest: Option<OwnedFd> = None;
    each(context, &faults, "ATTACH with take-over", |round| {
        let (result, answer) = call(round, node.as_fd(), abi::IOCTL_ATTACH, &asked(abi::ATTACH_TAKE_OVER));
        if let Ok(fd) = result {
            epoch += 1;
            assert_eq!(answer.epoch, epoch);
            newest = Some(raw::own(fd));
        }
        let status = control().status("mine").expect("status");
        // The first server's descriptor is open all the time.
        let servers = 1 + u32::from(newest.is_some());
        assert_eq!((status.state, status.epoch, status.servers), (State::Live, epoch, servers));
    });
    let mut newest = newest.expect("the last round is not disturbed");
    // ATTACH on the present server's own descriptor, which still works if the call fails.
    each(context, &faults, "ATTACH of a server", |round| {
        let own = abi::Attach { name: name(""), ..asked(abi::ATTACH_TAKE_OVER) };
        let (result, answer) = call(round, newest.as_fd(), abi::IOCTL_ATTACH, &own);
        if let Ok(fd) = result {
            epoch += 1;
            assert_eq!(answer.epoch, epoch);
            newest = raw::own(fd);
        }
        let status = control().status("mine").expect("status");
        assert_eq!((status.state, status.epoch, status.servers), (State::Live, epoch, 2));
    });
    assert_eq!(descriptors(), before + 1);
    let server = zosbd2::Server::from_fd(newest).expect("a server");
    let disk = Disk { server: server.into(), name: first.name.clone() };
    serves(&disk);
    // A server's death cannot fail: it allocates nothing and accesses no user memory.
    let places = faults.each("close", |round| {
        let server = control().attach("mine", TakeOver::Yes).expect("attach");
        let next = Disk { server: server.into(), name: "mine".into() };
        let read = read_in_thread(next.path(), 0, 4096);
        let request = Manual::new(&next).fetch_one();
        assert_eq!(request.offset(), 0);
        let Disk { server, .. } = next;
        let server = std::sync::Arc::into_inner(server).expect("the only one");
        round.call(|| drop(server));
        // A device without a grace fails the requests that its server held.
        assert_eq!(read.join().expect("reader"), Err(Errno::IO));
        assert_eq!(control().status("mine").expect("status").state, State::Failed);
    });
    assert_eq!(places, 0);
    disk.destroy(true);
}

/// SETTINGS changes everything that it was asked for, or nothing.
fn settings(context: &mut Context) {
    context.load_module("");
    let faults = FailNth::new(context);
    let disk = started("set");
    let node = control_node();
    let mut kept = disk.server.status().expect("status").grace;
    let mut next_ms = 1000;
    for (what, fd) in [("SETTINGS", node.as_fd()), ("SETTINGS of a server", disk.server.as_fd())] {
        each(context, &faults, what, |round| {
            next_ms += 1000;
            let asked = abi::Settings {
                size: abi::SETTINGS_BYTES,
                flags: abi::SETTINGS_GRACE | abi::SETTINGS_DEADLINE,
                name: name("set"),
                grace_ms: next_ms,
                deadline_ms: next_ms,
                ..abi::Settings::default()
            };
            if call(round, fd, abi::IOCTL_SETTINGS, &asked).0.is_ok() {
                kept = Duration::from_millis(next_ms.into());
            }
            let status = disk.server.status().expect("status");
            assert_eq!(status.grace, kept);
            // Both, or none.
            assert!(status.deadline.is_none_or(|deadline| deadline == kept), "{status:?}");
        });
        let status = disk.server.status().expect("status");
        assert_eq!((status.grace, status.deadline), (kept, Some(kept)), "the last round is not disturbed");
    }
    serves(&disk);
    disk.destroy(true);
}

/// A CLAIM that fails claims nothing: the cache of the server before counts as lost.
fn claim(context: &mut Context) {
    context.load_module("");
    let faults = FailNth::new(context);
    let cached = builder("cache").volatile_cache(true).grace(Duration::from_secs(600));
    each(context, &faults, "CLAIM", |round| {
        let disk = Disk::create(&cached);
        disk.server.start().expect("start");
        // A write that no flush covers, and the next server.
        let write = write_in_thread(disk.path(), 0, 1, 4096);
        let mut server = Manual::new(&disk);
        let request = server.fetch_one();
        server.complete(&request);
        assert_eq!(write.join().expect("writer"), Ok(4096));
        let next = control().attach("cache", TakeOver::Yes).expect("attach");
        drop((server, disk));
        let disk = Disk { server: next.into(), name: "cache".into() };
        let asked = abi::Claim { size: abi::CLAIM_BYTES, flags: abi::CLAIM_CACHE };
        let (result, _) = call(round, disk.server.as_fd(), abi::IOCTL_CLAIM, &asked);
        let mut server = Manual::new(&disk);
        assert!(server.fetch(0, 1, 0).expect("fetch").is_empty());
        assert_eq!(disk.server.status().expect("status").lost, result.is_err(), "{result:?}");
        disk.destroy(true);
    });
}

/// Checks that the device serves a read.
fn serves(disk: &Disk) {
    let read = read_in_thread(disk.path(), 4096, 4096);
    let mut server = Manual::new(disk);
    let request = server.fetch_one();
    server.complete(&request);
    assert_eq!(read.join().expect("reader"), Ok(vec![0; 4096]));
}

/// A failed create leaves nothing, and its name is free.
fn create(context: &mut Context) {
    context.load_module("");
    let faults = FailNth::new(context);
    let node = control_node();
    let before = descriptors();
    let small = abi::Create {
        size: abi::CREATE_BYTES,
        name: name("made"),
        size_bytes: MIB,
        queues: 1,
        depth: 1,
        flags: abi::CREATE_NO_PARTITION_SCAN,
        ..abi::Create::default()
    };
    let large = abi::Create {
        queues: 2,
        depth: 1024,
        max_io_bytes: abi::MAX_IO_BYTES,
        max_discard_bytes: 1 << 20,
        max_write_zeroes_bytes: 1 << 20,
        ..small
    };
    for (what, asked) in [("CREATE", small), ("CREATE of a large device", large)] {
        each(context, &faults, what, |round| {
            let (result, answer) = call(round, node.as_fd(), abi::IOCTL_CREATE, &asked);
            if let Ok(fd) = result {
                assert!(answer.handle > 0);
                drop(raw::own(fd));
            }
            // A worker destroys the device with its server. The name is free when the device is gone.
            wait_until(20, "nothing to be left", || devices().is_empty());
            let mut again = None;
            wait_until(20, "the name to be free", || {
                again = control().create(&builder("made")).ok();
                again.is_some()
            });
            control().destroy("made", false).expect("destroy");
            drop(again);
            assert_eq!(descriptors(), before);
        });
    }
}

/// Errors of START. The driver core turns a disk whose name could not be stored into `EINVAL`.
const START: &[Errno] = &[Errno::NOMEM, Errno::FAULT, Errno::INVAL];

/// A failed start leaves a device without a node, which can be destroyed and created again.
fn start(context: &mut Context) {
    context.load_module("");
    let faults = FailNth::new(context);
    each(context, &faults, "START", |round| {
        let disk = Disk::create(&builder("node"));
        let before = descriptors();
        let asked = abi::Start { size: abi::START_BYTES, flags: 0 };
        let (result, _) = call_for(round, disk.server.as_fd(), abi::IOCTL_START, &asked, START);
        if result.is_ok() && disk.path().exists() {
            serves(&disk);
        } else if result.is_ok() {
            // The kernel tolerates a missing node in devtmpfs, for every disk.
            assert!(round.failed() && disk.sysfs().exists(), "no node");
            assert_eq!(disk.server.status().expect("status").state, State::Live);
        } else {
            assert_eq!(disk.server.status().expect("status").state, State::Created);
            assert!(!disk.path().exists() && !disk.sysfs().exists(), "the node is there");
            // The block layer takes a disk only once. If that attempt failed, the device cannot be started any
            // more; otherwise another attempt works.
            match disk.server.start() {
                Ok(()) => serves(&disk),
                Err(zosbd2::Error::Control { source, .. }) => assert_eq!(result, Err(source)),
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(descriptors(), before);
        disk.destroy(false);
        assert!(!disk.path().exists() && !disk.sysfs().exists() && devices().is_empty());
    });
}

fn destroy(context: &mut Context) {
    context.load_module("");
    let faults = FailNth::new(context);
    let node = control_node();
    each(context, &faults, "DESTROY", |round| {
        let disk = started("doomed");
        let asked = abi::Destroy {
            size: abi::DESTROY_BYTES,
            flags: abi::DESTROY_FORCE,
            name: name("doomed"),
            ..abi::Destroy::default()
        };
        let (result, _) = call(round, node.as_fd(), abi::IOCTL_DESTROY, &asked);
        if result.is_err() {
            assert_eq!(disk.server.status().expect("status").state, State::Live);
            serves(&disk);
            disk.destroy(true);
        }
        assert!(!disk.path().exists() && devices().is_empty());
    });
}

/// The calls by which a server reads and sets data of its device.
fn reports(context: &mut Context) {
    context.load_module("");
    let faults = FailNth::new(context);
    let disk = started("told");
    let fd = disk.server.as_fd();
    // So that there is something to report.
    serves(&disk);
    let reads: Vec<_> = (0..12).map(|at| read_in_thread(disk.path(), at * 8192, 4096)).collect();
    wait_until(20, "all reads", || disk.server.stats(0).expect("stats").queued == 12);
    each(context, &faults, "STATUS of the own device", |round| {
        let asked = abi::Status { size: abi::STATUS_BYTES, ..abi::Status::default() };
        let (result, status) = call(round, fd, abi::IOCTL_STATUS, &asked);
        assert!(result.is_err() || status.name == name("told"), "{status:?}");
    });
    each(context, &faults, "STATS", |round| {
        let asked = abi::Stats { size: abi::STATS_BYTES, ..abi::Stats::default() };
        let (result, stats) = call(round, fd, abi::IOCTL_STATS, &asked);
        assert!(result.is_err() || stats.queued == 12, "{stats:?}");
    });
    each(context, &faults, "LATENCY", |round| {
        let asked = abi::Latency { size: abi::LATENCY_BYTES, ..abi::Latency::default() };
        let (result, latency) = call(round, fd, abi::IOCTL_LATENCY, &asked);
        assert!(result.is_err() || latency.total.iter().sum::<u64>() == 1, "{latency:?}");
    });
    each(context, &faults, "REQUESTS", |round| {
        let entries = Pages::new(PAGE);
        let at = entries.at_end(12 * size_of::<abi::Outstanding>());
        let asked = abi::Requests {
            size: abi::REQUESTS_BYTES,
            entries: at as u64,
            capacity: 12,
            ..abi::Requests::default()
        };
        let (result, requests) = call(round, fd, abi::IOCTL_REQUESTS, &asked);
        assert!(result.is_err() || (requests.count, requests.total) == (12, 12), "{requests:?}");
    });
    let mut kept = [0; 4];
    each(context, &faults, "BLOB written", |round| {
        let next = kept.map(|byte: u8| byte.wrapping_add(1));
        let mut asked = abi::Blob {
            size: abi::BLOB_ARGUMENT_BYTES,
            flags: abi::BLOB_WRITE,
            length: 4,
            ..abi::Blob::default()
        };
        asked.bytes[..4].copy_from_slice(&next);
        if call(round, fd, abi::IOCTL_BLOB, &asked).0.is_ok() {
            kept = next;
        }
        let blob = disk.server.blob().expect("blob");
        assert!(blob == kept || (blob.is_empty() && kept == [0; 4]), "{blob:?}, not {kept:?}");
    });
    each(context, &faults, "BLOB read", |round| {
        let asked = abi::Blob { size: abi::BLOB_ARGUMENT_BYTES, ..abi::Blob::default() };
        let (result, blob) = call(round, fd, abi::IOCTL_BLOB, &asked);
        assert!(result.is_err() || blob.bytes[..4] == kept, "{blob:?}");
    });
    let mut size_bytes = 4 * MIB;
    each(context, &faults, "RESIZE", |round| {
        let next = if size_bytes == 4 * MIB { 5 * MIB } else { 4 * MIB };
        let asked = abi::Resize { size: abi::RESIZE_BYTES, flags: 0, size_bytes: next };
        if call(round, fd, abi::IOCTL_RESIZE, &asked).0.is_ok() {
            size_bytes = next;
        }
        assert_eq!(disk.server.status().expect("status").size_bytes, size_bytes);
        assert_eq!(disk.setting("size"), (size_bytes / 512).to_string());
    });
    // Restore the settings for the next test.
    let mut server = Manual::new(&disk);
    for request in server.fetch(0, 16, 12).expect("fetch") {
        server.complete(&request);
    }
    for read in reads {
        assert_eq!(read.join().expect("reader"), Ok(vec![0; 4096]));
    }
    drop(open_direct(&disk.path()));
    disk.destroy(true);
}
