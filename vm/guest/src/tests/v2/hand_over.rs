// SPDX-License-Identifier: MIT OR Apache-2.0
//! Servers that take over from older ones: whom they wait for, and whom they kill.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use zosbd2::{AsyncBackend, Backend as _, Builder, Capabilities, Errno, Event, HandOver, State};
use zosbd2_backends::{FileDisk, FileOptions};

use super::super::support::read_in_thread;
use super::again::{FILE, NAME, ends, file_of, node, refused, says, serving, start, state};
use super::support::control;
use crate::guest::{Context, Need, Spawned, Test, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_hand_over", hand_over).needs(&[Need::Module]).timeout(120),
    Test::new("v2_hand_over_from_a_stopped_server", from_a_stopped_server)
        .needs(&[Need::Module])
        .timeout(120),
    Test::new("v2_hand_over_from_one_declared_dead", from_one_declared_dead)
        .needs(&[Need::Module])
        .timeout(180),
    Test::new("v2_hand_over_spares_a_keeper", spares_a_keeper).needs(&[Need::Module]).timeout(120),
    Test::new("v2_tokio_hand_over_is_dropped", dropped_hand_over).needs(&[Need::Module]).timeout(120),
];

/// The old server answers, lets go and ends with success; the new one serves.
fn hand_over(context: &mut Context) {
    context.load_module("");
    file_of(16);
    let mut old = serving(start(context, &[]));
    for _ in 0..3 {
        let reading = read_in_thread(node(), 0, 4096);
        let new = serving(start(context, &["over=20000"]));
        assert!(old.wait(30).success(), "{}", old.stderr());
        says(&old, "event: another server has taken over device again");
        assert!(!new.stderr().contains("killed"), "{}", new.stderr());
        reading.join().expect("the reader").expect("no error");
        assert_eq!(control().status(NAME).expect("status").servers, 1);
        read_in_thread(node(), 8192, 4096).join().expect("the reader").expect("no error");
        old = new;
    }
    ends(old);
}

/// A stopped server is killed, or named if that is not wanted.
fn from_a_stopped_server(context: &mut Context) {
    context.load_module("");
    file_of(16);
    let mut old = serving(start(context, &[]));
    old.stop();
    let reading = read_in_thread(node(), 0, 4096);
    let said = refused(context, FILE, &["over=500", "gently"]);
    let wanted = format!("take over device again: process {} (", old.id());
    assert!(said.contains(&wanted) && said.contains("did not end in time"), "{said}");
    assert!(old.running());
    let new = serving(start(context, &["over=500"]));
    assert!(!old.wait(20).success(), "it was not killed");
    says(&new, &format!("event: killed process {} (", old.id()));
    reading.join().expect("the reader").expect("no error");
    ends(new);
}

/// A server that was declared dead may still write to the store, so it is made to end before the next one serves.
fn from_one_declared_dead(context: &mut Context) {
    context.load_module("");
    file_of(16);
    let mut old = serving(start(context, &["deadline=1000"]));
    old.stop();
    let reading = read_in_thread(node(), 0, 4096);
    wait_until(30, "the server to be declared dead", || state() == State::Orphaned);
    // The file is locked by the old server, so only a successor may open it.
    let new = serving(start(context, &["deadline=1000", "over=300"]));
    assert!(!old.wait(20).success(), "it was not killed");
    says(&new, &format!("event: killed process {} (", old.id()));
    reading.join().expect("the reader").expect("no error");
    ends(new);
}

/// A process that only has the old server's descriptor is waited for and named, and is not killed.
fn spares_a_keeper(context: &mut Context) {
    context.load_module("");
    file_of(16);
    let mut old = serving(start(context, &[]));
    let kept = descriptor_of(&old);
    let said = refused(context, FILE, &["over=500"]);
    assert!(old.wait(30).success(), "{}", old.stderr());
    assert!(old.stdout().contains("ended: TakenOver"), "{}", old.stdout());
    let own = format!("take over device again: process {} (", std::process::id());
    let why = "still has the descriptor of its older server: it is not recorded as that server, so it is not killed";
    assert!(said.contains(&own) && said.contains(why), "{said}");
    // The device waits for its next server, which serves when nobody has the descriptor any more.
    assert_eq!(state(), State::Orphaned);
    drop(kept);
    ends(serving(start(context, &[])));
}

/// A duplicate of the server descriptor of a process.
fn descriptor_of(server: &Spawned) -> rustix::fd::OwnedFd {
    use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
    let pid = i32::try_from(server.id()).ok().and_then(Pid::from_raw).expect("a process");
    let process = pidfd_open(pid, PidfdFlags::empty()).expect("pidfd");
    let files = std::fs::read_dir(format!("/proc/{}/fd", server.id())).expect("its descriptors");
    let is_server = |file: &std::fs::DirEntry| {
        std::fs::read_link(file.path()).is_ok_and(|text| text == Path::new("anon_inode:[zosbd2]"))
    };
    let file = files.flatten().find(is_server).expect("a server descriptor");
    let number = file.file_name().to_str().and_then(|name| name.parse().ok()).expect("a number");
    pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).expect("duplicate")
}

/// Has the properties of a file, and answers nothing.
struct Silent(FileDisk);

impl AsyncBackend for Silent {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    async fn read(&self, _: u64, _: &mut [u8]) -> Result<(), Errno> {
        std::future::pending().await
    }

    async fn write(&self, _: u64, _: &mut [u8], _: bool) -> Result<(), Errno> {
        std::future::pending().await
    }
}

/// While a future waits for an older server, its executor runs other tasks. When it is dropped, nobody is killed, and
/// the device waits for its next server.
fn dropped_hand_over(context: &mut Context) {
    context.load_module("");
    file_of(16);
    let mut old = serving(start(context, &[]));
    old.stop();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (waits, mut waiting) = tokio::sync::mpsc::unbounded_channel();
    let silent = FileOptions::default().successor(true).open(Path::new(FILE)).expect("open");
    let serving_task = Builder::new(NAME)
        .partition_scan(false)
        .follow_without_identity(true)
        .take_over(HandOver::new().patience(Duration::from_secs(60)))
        .on_event(move |event| {
            if matches!(event, Event::WaitsForServer { .. }) {
                waits.send(event.to_string()).expect("listened to");
            }
        })
        .serve_tokio(Arc::new(Silent(silent)));
    let begin = std::time::Instant::now();
    runtime.block_on(async {
        tokio::select! {
            end = serving_task => panic!("served: {end:?}"),
            told = waiting.recv() => context.say(&told.expect("an event")),
        }
    });
    assert!(begin.elapsed() < Duration::from_secs(50), "the executor was blocked");
    wait_until(30, "the device to wait for a server", || state() == State::Orphaned);
    assert!(old.running(), "it was killed");
    old.signal(Signal::CONT);
    assert!(old.wait(30).success(), "{}", old.stderr());
    ends(serving(start(context, &[])));
}
