// SPDX-License-Identifier: MIT OR Apache-2.0
//! Servers that lost their device: they cannot change it any more, and are told.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use zosbd2::{DeadlinePolicy, Error, State, TakeOver};

use super::super::support::read_in_thread;
use super::support::{attach, by_hand, control, plain, plain_by_hand};
use crate::guest::{Context, Need, Test, raw, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_lost_device_cannot_be_changed", fenced).needs(&[Need::Module]).timeout(60),
    Test::new("v2_poll_for_hang_up_alone", hang_up).needs(&[Need::Module]).timeout(60),
];

/// A superseded server, or one declared dead, cannot change the device any more.
fn fenced(context: &mut Context) {
    context.load_module("");
    let deadline = Duration::from_secs(2);
    for declared_dead in [false, true] {
        let name = if declared_dead { "dead" } else { "over" };
        let builder = plain(name).grace(Duration::from_secs(60));
        let (disk, old) = by_hand(&if declared_dead {
            builder.deadline(deadline).deadline_policy(DeadlinePolicy::DeclareDead)
        } else {
            builder
        });
        let size = disk.server.status().expect("status").size_bytes;
        disk.server.set_blob(b"old").expect("set");
        let mut read = None;
        let take_over = if declared_dead {
            read = Some(read_in_thread(disk.path(), 0, 4096));
            wait_until(20, "the server to be declared dead", || {
                control().status(name).expect("status").state == State::Orphaned
            });
            TakeOver::No
        } else {
            TakeOver::Yes
        };
        let unserved = |what: zosbd2::Result<()>| {
            assert!(matches!(&what, Err(Error::Control { source: Errno::SHUTDOWN, .. })), "{name}: {what:?}");
        };
        if declared_dead {
            // No server is attached, so that no other server sees the change.
            unserved(disk.server.resize(size / 2));
            unserved(disk.server.set_blob(b"late"));
        }
        let (next, mut new) = attach(name, take_over);
        next.server.set_blob(b"new").expect("set");
        unserved(disk.server.resize(size / 2));
        unserved(disk.server.set_blob(b"late"));
        unserved(disk.server.start());
        assert_eq!(disk.server.blob().expect("blob"), b"new", "an observer may look");
        assert_eq!(next.server.status().expect("status").size_bytes, size);
        next.server.resize(size / 2).expect("resize");
        if let Some(read) = read {
            let request = new.fetch_one();
            new.complete(&request);
            assert_eq!(read.join().expect("reader"), Ok(vec![0; 4096]));
        }
        next.destroy(true);
        drop((old, disk, new));
    }
}

/// A server that only waits to lose its device is woken when that happens; an observer is woken when the device is
/// gone.
fn hang_up(context: &mut Context) {
    context.load_module("");
    let (disk, manual) = plain_by_hand("hang");
    let observer = control().observe("hang").expect("observe");
    let polls = |fd: &dyn AsFd, milliseconds: i64| {
        let time = Timespec { tv_sec: milliseconds / 1000, tv_nsec: milliseconds % 1000 * 1_000_000 };
        let mut fds = [PollFd::new(&fd, PollFlags::empty())];
        rustix::event::poll(&mut fds, Some(&time)).expect("poll");
        fds[0].revents()
    };
    assert_eq!(polls(&observer, 0), PollFlags::empty(), "the device is there");
    let thread = AtomicI32::new(0);
    let asleep = || {
        let number = thread.load(Ordering::SeqCst);
        let text = std::fs::read_to_string(format!("/proc/self/task/{number}/syscall")).unwrap_or_default();
        // System call poll or ppoll.
        text.starts_with("7 ") || text.starts_with("271 ")
    };
    let waits = |fd: &dyn AsFd| {
        thread.store(raw::thread_id(), Ordering::SeqCst);
        polls(fd, 60_000)
    };
    let next = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| waits(&*disk.server));
        wait_until(20, "it to wait", asleep);
        let next = attach("hang", TakeOver::Yes);
        assert_eq!(waiting.join().expect("the old server"), PollFlags::HUP);
        next
    });
    assert_eq!(polls(&observer, 0), PollFlags::empty(), "the device is there");
    thread.store(0, Ordering::SeqCst);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| waits(&observer));
        wait_until(20, "it to wait", asleep);
        control().destroy("hang", true).expect("destroy");
        assert_eq!(waiting.join().expect("the observer"), PollFlags::HUP);
    });
    drop((disk, manual, next));
}
