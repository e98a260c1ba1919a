// SPDX-License-Identifier: MIT OR Apache-2.0
//! Each event of docs/abi-v2.md, as a line of the log, as a uevent with all its properties, and through the library.
//!
//! `voice.rs` tests when events are told. This test reads the uevents itself, so it does not rely on the library's
//! decoding of them.

use std::collections::HashMap;
use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink, recvfrom, socket_with};
use zosbd2::TakeOver;
use zosbd2::events::{Event, Kind, Watch};

use super::super::support::{read_in_thread, write_in_thread};
use super::support::{attach, by_hand, control, plain};
use crate::guest::{Context, Kmsg, Need, Test, wait_until};

pub(super) const TESTS: &[Test] =
    &[Test::new("v2_events_are_told_in_three_ways", three_ways).needs(&[Need::Module]).timeout(120)];

/// An event: its word, its kind, and what its line in the log says.
struct Told {
    disk: &'static str,
    word: &'static str,
    kind: Kind,
    line: &'static str,
    epoch: u32,
}

const fn told(disk: &'static str, word: &'static str, kind: Kind, epoch: u32, line: &'static str) -> Told {
    Told { disk, word, kind, line, epoch }
}

/// All seven. `first` has a cache and a short grace at last, `tardy` a deadline, and `idle` a server without a thread.
const ALL: [Told; 8] = [
    told(
        "first",
        "died",
        Kind::Died,
        1,
        "has died with 0 requests; I/O waits for another server, up to 60000 ms",
    ),
    told("first", "recovered", Kind::Recovered, 2, "recovered by server 2 (process "),
    told("first", "cache-lost", Kind::CacheLost, 2, "writes were lost with the cache of an earlier server"),
    told("first", "failed", Kind::Failed, 2, "no server attached within the grace of 100 ms; all I/O fails"),
    told("tardy", "late", Kind::Late, 1, "late read, 4096 bytes at 8192"),
    told("tardy", "destroyed", Kind::Destroyed, 1, "is being destroyed, while open 0 times"),
    told("idle", "unserved", Kind::Unserved, 1, "1 requests wait, and no thread of server 1 (last process "),
    told("idle", "destroyed", Kind::Destroyed, 1, "is being destroyed, while open 1 times"),
];

/// The kernel's uevents.
struct Uevents(OwnedFd);

impl Uevents {
    fn new() -> Self {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let protocol = Some(netlink::KOBJECT_UEVENT);
        let socket =
            socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, protocol).expect("a socket");
        bind(&socket, &netlink::SocketAddrNetlink::new(0, 1)).expect("bind to the kernel's group");
        Self(socket)
    }

    /// Properties of the next uevent, if there is one.
    fn next(&self) -> Option<HashMap<String, String>> {
        let mut message = [0; 8192];
        match recvfrom(&self.0, &mut message, RecvFlags::empty()) {
            Ok((bytes, ..)) => {
                let text = String::from_utf8_lossy(&message[..bytes]).into_owned();
                let words = text.split('\0').filter_map(|word| word.split_once('='));
                Some(words.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
            }
            Err(Errno::AGAIN) => None,
            Err(error) => panic!("receive uevents: {error}"),
        }
    }
}

/// What was heard so far, in each way.
struct Ears {
    log: Kmsg,
    uevents: Uevents,
    watch: Watch,
    lines: Vec<String>,
    properties: Vec<HashMap<String, String>>,
    events: Vec<Event>,
}

impl Ears {
    fn new() -> Self {
        Self {
            log: Kmsg::new(),
            uevents: Uevents::new(),
            watch: Watch::open().expect("watch"),
            lines: Vec::new(),
            properties: Vec::new(),
            events: Vec::new(),
        }
    }

    fn listen(&mut self) {
        self.lines.extend(self.log.lines());
        while let Some(properties) = self.uevents.next() {
            if properties.contains_key("ZOSBD2_EVENT") {
                self.properties.push(properties);
            }
        }
        while let Some(event) = self.watch.next(Some(Duration::ZERO)).expect("watch") {
            self.events.push(event);
        }
    }

    fn uevent(&self, told: &Told) -> Option<&HashMap<String, String>> {
        self.properties
            .iter()
            .find(|uevent| uevent["ZOSBD2_EVENT"] == told.word && uevent["ZOSBD2_NAME"] == told.disk)
    }

    fn event(&self, told: &Told) -> Option<&Event> {
        self.events.iter().find(|event| event.kind == told.kind && event.name == told.disk)
    }

    /// Whether the log, a uevent and the library told of it.
    fn heard(&self, told: &Told) -> [bool; 3] {
        let begin = format!("zosbd2: zosbd2-{}: ", told.disk);
        let logged = |line: &String| line.strip_prefix(&begin).is_some_and(|line| line.contains(told.line));
        [self.lines.iter().any(logged), self.uevent(told).is_some(), self.event(told).is_some()]
    }

    /// Waits until this event of the disk was told in all ways.
    fn hear(&mut self, disk: &str, word: &str) {
        let told = ALL.iter().find(|told| (told.disk, told.word) == (disk, word)).expect("in the table");
        let mut heard = [false; 3];
        wait_until(30, &format!("{word} of {disk}"), || {
            self.listen();
            heard = self.heard(told);
            heard == [true; 3]
        });
    }
}

/// Lets the first server lose a write, and no successor come in time after the second one.
fn lose_servers(ears: &mut Ears) {
    let minute = Duration::from_secs(60);
    let (disk, mut server) = by_hand(&plain("first").volatile_cache(true).grace(minute));
    let write = write_in_thread(disk.path(), 0, 1, 4096);
    let request = server.fetch_one();
    server.complete(&request);
    assert_eq!(write.join().expect("writer"), Ok(4096));
    drop((disk, server));
    ears.hear("first", "died");
    let (disk, mut server) = attach("first", TakeOver::No);
    ears.hear("first", "recovered");
    assert!(server.fetch(0, 1, 0).expect("fetch").is_empty());
    ears.hear("first", "cache-lost");
    control().set("first", &zosbd2::Settings::new().grace(Duration::from_millis(100))).expect("set");
    drop((disk, server));
    ears.hear("first", "failed");
    control().destroy("first", true).expect("destroy");
}

fn three_ways(context: &mut Context) {
    context.load_module("");
    let mut ears = Ears::new();
    // The kernel waits for five seconds until it tells of this one.
    let (idle, idle_server) = by_hand(&plain("idle"));
    let waiting = read_in_thread(idle.path(), 0, 4096);
    lose_servers(&mut ears);
    let (tardy, mut server) = by_hand(&plain("tardy").deadline(Duration::from_secs(1)));
    let read = read_in_thread(tardy.path(), 8192, 4096);
    let _held = server.fetch_one();
    assert_eq!(read.join().expect("reader"), Err(Errno::IO));
    ears.hear("tardy", "late");
    ears.hear("idle", "unserved");
    let handles = [&tardy, &idle].map(|disk| control().status(disk.name.as_str()).expect("status").handle);
    for disk in [&tardy, &idle] {
        disk.destroy(true);
        ears.hear(&disk.name, "destroyed");
    }
    assert_eq!(waiting.join().expect("reader"), Err(Errno::IO));
    drop((idle, idle_server, tardy, server));
    for told in &ALL {
        let (uevent, event) = (ears.uevent(told).expect("heard"), ears.event(told).expect("heard"));
        let own = std::process::id();
        assert_eq!((event.epoch, event.process), (told.epoch, Some(own)), "{event:?}");
        let (epoch, handle, process) = (told.epoch.to_string(), event.handle.to_string(), own.to_string());
        let name = format!("zosbd2-{}", told.disk);
        for (key, value) in [
            ("ACTION", "change"),
            ("SUBSYSTEM", "block"),
            ("DEVTYPE", "disk"),
            ("DEVNAME", name.as_str()),
            ("ZOSBD2_EPOCH", epoch.as_str()),
            ("ZOSBD2_HANDLE", handle.as_str()),
            ("ZOSBD2_PID", process.as_str()),
        ] {
            let found = uevent.get(key).map(String::as_str);
            assert_eq!(found, Some(value), "{key} of {} of {}", told.word, told.disk);
        }
    }
    for (disk, handle) in ["tardy", "idle"].iter().zip(handles) {
        assert!(ears.events.iter().filter(|event| event.name == *disk).all(|event| event.handle == handle));
    }
    context.say(&format!("{} events, each told in three ways", ears.events.len()));
}
