// SPDX-License-Identifier: MIT OR Apache-2.0
//! A name that is used again: a call that identifies its device has no effect on another device of that name.

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use zosbd2::v2::abi;
use zosbd2::{End, Server, State, StopToken, TakeOver, Which};
use zosbd2_backends::Ram;

use super::super::support::{Disk as Disk1, open_direct, read_in_thread};
use super::hostile::{call, name as name_field};
use super::support::{Disk, attach, by_hand, control, plain, plain_by_hand, refused, threads};
use crate::guest::{Context, Need, Test, raw, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_late_clean_up_spares_the_next_device", late_clean_up).needs(&[Need::Module]).timeout(60),
    Test::new("v2_late_attach_gets_no_other_device", late_attach).needs(&[Need::Module]).timeout(60),
    Test::new("v2_clean_up_spares_the_next_server", next_server).needs(&[Need::Module]).timeout(60),
];

/// A clean-up that knows its device by name and handle comes when the name is in use again.
fn late_clean_up(context: &mut Context) {
    context.load_module("");
    let first = Disk::create(&plain("again"));
    let known = control().status("again").expect("status");
    let listed = control().list().expect("list").remove(0);
    assert_eq!((known.handle, listed.handle), (first.server.created().handle, known.handle));
    first.destroy(true);
    for force in [false, true] {
        assert_eq!(refused(control().destroy(&known, force)), Errno::NOENT, "nothing has the name");
    }
    let (next, mut server) = plain_by_hand("again");
    assert_ne!(next.server.created().handle, known.handle);
    for force in [false, true] {
        assert_eq!(refused(control().destroy(&known, force)), Errno::STALE);
        assert_eq!(refused(control().destroy(&listed, force)), Errno::STALE);
        assert_eq!(refused(control().destroy(&*first.server, force)), Errno::STALE);
        let by_epoch = Which::from(&known).with_epoch(1);
        assert_eq!(refused(control().destroy(by_epoch, force)), Errno::STALE);
    }
    // The device was not affected: its server continues.
    let status = control().status("again").expect("status");
    assert_eq!((status.state, status.epoch, status.servers), (State::Live, 1, 1));
    let read = read_in_thread(next.path(), 0, 4096);
    let request = server.fetch_one();
    server.complete(&request);
    assert_eq!(read.join().expect("reader"), Ok(vec![0; 4096]));
    control().destroy(&status, false).expect("destroy");
    assert_eq!(control().list().expect("list"), []);

    // Devices of version 1 have handles, too, but their servers are unknown.
    let one = Disk1::create("again", 1024);
    let status = control().status("again").expect("status");
    assert_eq!(refused(control().destroy(&known, true)), Errno::STALE);
    assert_eq!(refused(control().destroy(Which::named("again").with_epoch(1), true)), Errno::STALE);
    assert!(one.path().exists());
    control().destroy(&status, true).expect("destroy");
    assert!(!one.path().exists());
}

/// ATTACH, with and without take-over, as an observer, and from a server.
fn late_attach(context: &mut Context) {
    context.load_module("");
    let first = Disk::create(&plain("again"));
    let known = control().status("again").expect("status");
    first.destroy(true);
    assert_eq!(refused(control().attach(&known, TakeOver::Yes)), Errno::NOENT);
    let (next, server) = by_hand(&plain("again").grace(Duration::from_secs(60)));
    let own = next.server.created();
    for take_over in [TakeOver::No, TakeOver::Yes] {
        assert_eq!(refused(control().attach(&known, take_over)), Errno::STALE, "{take_over:?}");
        let others = Which::from(own).with_epoch(2);
        assert_eq!(refused(control().attach(others, take_over)), Errno::STALE, "{take_over:?}");
    }
    assert_eq!(refused(control().observe(&known)), Errno::STALE);
    assert_eq!(refused(control().observe(Which::from(own).with_epoch(2))), Errno::STALE);
    let succeed = |handle, epoch| {
        let (flags, name) = (abi::ATTACH_TAKE_OVER, name_field("again"));
        let asked = abi::Attach { size: abi::ATTACH_BYTES, flags, name, handle, epoch };
        let (result, after) = call(next.server.as_fd(), abi::IOCTL_ATTACH, &asked);
        assert!(result.is_ok() || after == asked, "a call that fails leaves its argument: {after:?}");
        result.map(|fd| (Server::from_fd(raw::own(fd)).expect("a server's"), after))
    };
    assert_eq!(succeed(known.handle, 0).err(), Some(Errno::STALE));
    assert_eq!(succeed(own.handle, 2).err(), Some(Errno::STALE));
    let status = control().status("again").expect("status");
    assert_eq!(
        (status.state, status.epoch, status.servers),
        (State::Live, 1, 1),
        "the present server was not disturbed"
    );

    // The right handle and epoch.
    drop(control().observe(Which::from(own).with_epoch(1)).expect("observe"));
    let (second, after) = succeed(own.handle, 1).expect("attach");
    assert_eq!((after.handle, after.epoch), (own.handle, 2));
    let third = control().attach(Which::from(own).with_epoch(2), TakeOver::Yes).expect("attach");
    drop((second, third, server, next));
    wait_until(20, "the servers to be gone", || {
        control().status("again").expect("status").state == State::Orphaned
    });
    let status = control().status("again").expect("status");
    assert_eq!(refused(control().attach(Which::from(&status).with_epoch(2), TakeOver::No)), Errno::STALE);
    let fourth = control().attach(Which::from(&status).with_epoch(3), TakeOver::No).expect("attach");
    assert_eq!(fourth.created().epoch, 4);
    control().destroy(&fourth, true).expect("destroy");
}

/// A clean-up after a server has no effect on a device that the next server has.
fn next_server(context: &mut Context) {
    context.load_module("");
    let (disk, old) = by_hand(&plain("next").grace(Duration::from_secs(60)));
    let after_the_first = Which::from(&*disk.server).with_epoch(1);
    let (second, new) = attach("next", TakeOver::Yes);
    for force in [false, true] {
        assert_eq!(refused(control().destroy(after_the_first, force)), Errno::STALE);
    }
    // The first server's descriptor, as another process gets it, is still the first server's.
    let passed = disk.server.as_fd().try_clone_to_owned().expect("another descriptor");
    let passed = Server::from_fd(passed).expect("a server's");
    assert_eq!((passed.created().epoch, control().status("next").expect("status").epoch), (1, 2));
    assert_eq!(
        refused(control().destroy(Which::from(&passed).with_epoch(passed.created().epoch), true)),
        Errno::STALE
    );
    drop((old, passed));
    assert_eq!(
        control().status("next").expect("status").state,
        State::Live,
        "the device belongs to the other server"
    );
    // If the call is refused for another reason, the server keeps the device, too.
    let after_the_second = Which::from(&*second.server).with_epoch(2);
    let open = open_direct(&second.path());
    assert_eq!(refused(control().destroy(after_the_second, false)), Errno::BUSY);
    assert_eq!(control().status("next").expect("status").state, State::Live);
    drop((open, new));
    control().destroy(after_the_second, false).expect("destroy");
    assert_eq!(refused(control().status("next")), Errno::NOENT);

    // A stop request makes the library's server destroy its own device.
    let ram = Arc::new(Ram::new(16 << 20).expect("memory"));
    let stop = StopToken::new();
    let disk = Disk::create(&plain("next"));
    let serving = std::thread::spawn({
        let (server, ram, stop) = (Arc::clone(&disk.server), Arc::clone(&ram), stop.clone());
        move || server.serve_then(&*ram, &threads(1), &stop, || {})
    });
    wait_until(20, "the node", || disk.path().exists());
    stop.request();
    assert_eq!(serving.join().expect("the server").expect("served"), End::Gone);
    assert_eq!(refused(control().status("next")), Errno::NOENT);
}
