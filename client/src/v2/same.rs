// SPDX-License-Identifier: MIT OR Apache-2.0
//! Creates a device, or follows its last server if the device exists, has none and is the same one.
//!
//! Programs that are started twice, and devices that vanish meanwhile, make each step fail that was right a moment
//! ago. Then everything is looked at again, for a bounded time.

use super::handover::HandOver;
use super::peers::servers_of;
use super::{Builder, Control, Process, Server, State, Status, TakeOver, Which};
use crate::{Errno, Error, Result};
use std::fmt;
use std::time::{Duration, Instant};
use zosbd2_abi::v2;

/// How long to try again while another device of the name goes, or its server does.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time between two attempts.
const PERIOD: Duration = Duration::from_millis(50);

/// A property in which an existing device differs from what a program would create.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// The property.
    pub property: &'static str,
    /// Its value on the existing device.
    pub existing: String,
    /// The value that the program would give it.
    pub wanted: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its {} is {}, not {}", self.property, self.existing, self.wanted)
    }
}

/// What a program would serve.
pub(super) struct Wanted<'a> {
    pub(super) builder: &'a Builder,
    /// What CREATE gets.
    pub(super) create: v2::Create,
    /// What the blob must be; empty: anything.
    pub(super) identity: &'a [u8],
    /// The backend forgets everything at the end of its process.
    pub(super) ephemeral: bool,
    /// Whether and how a live server is replaced.
    pub(super) take_over: Option<&'a HandOver>,
}

/// The calls that this file makes: those of a [`Control`], or of a fake in tests.
pub(super) trait Devices {
    type Server;
    fn create(&self, builder: &Builder) -> Result<Self::Server>;
    fn status(&self, name: &str) -> Result<Status>;
    fn blob(&self, device: Which<'_>) -> Result<Vec<u8>>;
    /// The attach makes no claim of the cache: the older servers may still change it.
    fn attach(&self, device: Which<'_>, take_over: TakeOver) -> Result<Self::Server>;
    /// The processes that serve the device, as text; empty if none can be seen.
    fn served_by(&self, status: &Status) -> String;
    /// Waits a moment. Returns false if the caller has waited long enough.
    fn pause(&self, since: Instant) -> bool;
}

impl Devices for Control {
    type Server = Server;

    fn create(&self, builder: &Builder) -> Result<Server> {
        self.create_silently(builder)
    }

    fn status(&self, name: &str) -> Result<Status> {
        Control::status(self, name)
    }

    fn blob(&self, device: Which<'_>) -> Result<Vec<u8>> {
        self.observe(device)?.blob()
    }

    fn attach(&self, device: Which<'_>, take_over: TakeOver) -> Result<Server> {
        Control::attach(self, device, take_over)
    }

    fn served_by(&self, status: &Status) -> String {
        served_by(status)
    }

    fn pause(&self, since: Instant) -> bool {
        std::thread::sleep(PERIOD);
        since.elapsed() < PATIENCE
    }
}

/// The processes that serve a device, as text; empty if none can be seen, or if the only one is about to end.
pub(super) fn served_by(status: &Status) -> String {
    if let Some(pid) = status.process.filter(|pid| !Process::is_ending(*pid)) {
        return Process { pid, program: status.program.clone() }.to_string();
    }
    // The descriptor may be open in another process: a fork, or a process that it was passed to.
    let mut processes: Vec<_> = servers_of(status.handle)
        .into_iter()
        .filter(|peer| peer.epoch == status.epoch)
        .map(|peer| peer.process.to_string())
        .collect();
    processes.dedup();
    super::users::list(processes.into_iter())
}

/// What is said of a device that exists, and of its server.
pub(super) fn existing(control: &Control, name: &str) -> String {
    let Ok(status) = control.status(name) else {
        return " (a device of that name is being destroyed, or another disk has that name)".to_owned();
    };
    taken(&status, &served_by(&status))
}

/// What is said of a device that exists. `server`: the processes that serve it.
fn taken(status: &Status, server: &str) -> String {
    match status.state {
        _ if status.version < 2 => " (a device of version 1 has that name)".to_owned(),
        State::Orphaned | State::Failed => {
            " (a device of that name exists and waits for a server: attach to it, or destroy it)".to_owned()
        }
        _ => format!(" (a device of that name exists and has a server{})", whose(status, server)),
    }
}

/// The end of a sentence about the server of a device. `server`: the processes that serve it.
pub(super) fn whose(status: &Status, server: &str) -> String {
    let server = if server.is_empty() { String::new() } else { format!(": {server}") };
    match status.unserved {
        Some(time) => {
            format!("{server}; {} s ago its last thread asked for requests, and some wait", time.as_secs())
        }
        None => server,
    }
}

/// A server, and whether its device existed before.
#[derive(Debug)]
pub(super) struct Found<S> {
    pub(super) server: S,
    pub(super) existed: bool,
}

/// Creates the device, or becomes the server of the existing one.
pub(super) fn create_or_attach<D: Devices>(devices: &D, wanted: &Wanted<'_>) -> Result<Found<D::Server>> {
    let name = wanted.builder.name();
    let begin = Instant::now();
    let exists = |hint: String| Error::Control {
        operation: "create device",
        object: name.to_owned(),
        hint: hint.into(),
        source: Errno::EXIST,
    };
    loop {
        match devices.create(wanted.builder) {
            Ok(server) => return Ok(Found { server, existed: false }),
            Err(error) if errno(&error) == Some(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        let status = match devices.status(name) {
            Ok(status) => status,
            Err(error) if has_changed(&error) => {
                if devices.pause(begin) {
                    continue;
                }
                let hint = " (a device of that name is being destroyed, or another disk has that name)";
                return Err(exists(hint.to_owned()));
            }
            Err(error) => return Err(error),
        };
        let lost = matches!(status.state, State::Orphaned | State::Failed) && status.version >= 2;
        let replaces = status.state == State::Live && status.version >= 2 && wanted.take_over.is_some();
        if !lost && !replaces {
            let server = devices.served_by(&status);
            // Without a process that serves, the server may be about to end: it was killed a moment ago.
            let ends = status.version >= 2 && status.state != State::Created && server.is_empty();
            if ends && devices.pause(begin) {
                continue;
            }
            return Err(exists(taken(&status, &server)));
        }
        let device = Which::from(&status).with_epoch(status.epoch);
        let followed =
            follow(devices, wanted, &status, device, if lost { TakeOver::No } else { TakeOver::Yes });
        match followed {
            Ok(server) => return Ok(Found { server, existed: true }),
            Err(error) if has_changed(&error) && devices.pause(begin) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Becomes the server of this device if it is the wanted one.
fn follow<D: Devices>(
    devices: &D,
    wanted: &Wanted<'_>,
    status: &Status,
    device: Which<'_>,
    take_over: TakeOver,
) -> Result<D::Server> {
    let mut differences = differences(wanted, status);
    if !wanted.identity.is_empty() {
        let blob = devices.blob(device)?;
        if blob != wanted.identity {
            differences.push(Difference {
                property: "identity",
                existing: text(&blob),
                wanted: text(wanted.identity),
            });
        }
    }
    if !differences.is_empty() {
        return Err(Error::Differs { name: status.name.clone(), differences });
    }
    devices.attach(device, take_over)
}

/// The constant properties that matter for the data and for the backend, and in which the device differs.
///
/// Other properties only concern speed (queues, depth, optimal sizes), or what an operator may have changed (grace,
/// deadline).
fn differences(wanted: &Wanted<'_>, status: &Status) -> Vec<Difference> {
    let create = &wanted.create;
    let mut found = Vec::new();
    let mut compare = |property, same: bool, existing: String, wanted: String| {
        if !same {
            found.push(Difference { property, existing, wanted });
        }
    };
    let bytes = |bytes: u64| format!("{bytes} bytes");
    let mut equal = |property, existing: u64, wanted: u64| {
        compare(property, existing == wanted, bytes(existing), bytes(wanted));
    };
    equal("size", status.size_bytes, create.size_bytes);
    equal("logical block", status.logical_block_size.into(), create.logical_block_size.into());
    let serial = super::name::text(&create.serial);
    compare("serial number", status.serial == serial, format!("{:?}", status.serial), format!("{serial:?}"));
    for (property, flag) in [
        ("read-only flag", v2::CREATE_READ_ONLY),
        ("volatile cache flag", v2::CREATE_VOLATILE_CACHE),
        ("FUA flag", v2::CREATE_FUA),
    ] {
        let (existing, wanted) = (status.create_flags & flag != 0, create.flags & flag != 0);
        let word = |set: bool| if set { "on" } else { "off" }.to_owned();
        compare(property, existing == wanted, word(existing), word(wanted));
    }
    // The kernel sends requests up to the limits of the existing device. The kernel may have lowered them.
    let limits = [
        (
            "longest request",
            status.max_io_bytes,
            if create.max_io_bytes == 0 { u32::MAX } else { create.max_io_bytes },
        ),
        ("longest discard", status.max_discard_bytes, create.max_discard_bytes),
        ("longest write-zeroes", status.max_write_zeroes_bytes, create.max_write_zeroes_bytes),
        ("longest secure erase", status.max_secure_erase_bytes, create.max_secure_erase_bytes),
    ];
    for (property, existing, most) in limits {
        let most_text = if most == 0 { "0 bytes".to_owned() } else { format!("at most {most} bytes") };
        compare(property, existing <= most, bytes(existing.into()), most_text);
    }
    if wanted.ephemeral {
        let (existing, wanted) = ("what its last server stored", "empty memory of this process");
        compare("content", false, existing.to_owned(), wanted.to_owned());
    }
    found
}

/// A blob for people: as text if it is text.
fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok("") => "not set".to_owned(),
        Ok(text) if text.chars().all(|letter| !letter.is_control()) => format!("{text:?}"),
        _ => bytes.iter().take(16).fold("0x".to_owned(), |text, byte| format!("{text}{byte:02x}")),
    }
}

/// Whether a call failed because the device or its server is no longer what it was a moment ago.
fn has_changed(error: &Error) -> bool {
    matches!(errno(error), Some(Errno::BUSY | Errno::STALE | Errno::NOENT | Errno::NODEV | Errno::SHUTDOWN))
}

fn errno(error: &Error) -> Option<Errno> {
    match error {
        Error::Control { source, .. } => Some(*source),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v2::control::failed;
    use std::cell::{Cell, RefCell};
    use std::collections::VecDeque;

    fn wanted(builder: &Builder) -> Wanted<'_> {
        let create = v2::Create {
            size_bytes: 1 << 20,
            logical_block_size: 512,
            max_discard_bytes: 4096,
            ..v2::Create::default()
        };
        Wanted { builder, create, identity: &[], ephemeral: false, take_over: None }
    }

    fn status(state: u32) -> Status {
        let raw = v2::Status {
            name: super::super::name::field("disk").expect("a name"),
            size_bytes: 1 << 20,
            logical_block_size: 512,
            max_discard_bytes: 4096,
            max_io_bytes: 1 << 20,
            handle: 5,
            epoch: 3,
            version: 2,
            state,
            ..v2::Status::default()
        };
        Status::from(&raw)
    }

    /// Answers of the kernel, one for each look at the device; the last one remains.
    struct Script {
        looks: RefCell<VecDeque<Result<Status, Errno>>>,
        /// Error of an attach, once.
        attach: Cell<Option<Errno>>,
        pauses: Cell<u32>,
        free: Cell<bool>,
        attached: RefCell<Vec<String>>,
    }

    fn script(looks: impl IntoIterator<Item = Result<Status, Errno>>) -> Script {
        Script {
            looks: RefCell::new(looks.into_iter().collect()),
            attach: Cell::new(None),
            pauses: Cell::new(0),
            free: Cell::new(false),
            attached: RefCell::default(),
        }
    }

    impl Devices for Script {
        type Server = &'static str;

        fn create(&self, _: &Builder) -> Result<&'static str> {
            if self.free.get() { Ok("created") } else { Err(failed("create device", "disk", Errno::EXIST)) }
        }

        fn status(&self, name: &str) -> Result<Status> {
            let mut looks = self.looks.borrow_mut();
            let look = if looks.len() > 1 { looks.pop_front() } else { looks.front().cloned() };
            look.expect("a look").map_err(|errno| failed("get the status of device", name, errno))
        }

        fn blob(&self, _: Which<'_>) -> Result<Vec<u8>> {
            Ok(b"blue".to_vec())
        }

        fn attach(&self, device: Which<'_>, over: TakeOver) -> Result<&'static str> {
            if let Some(errno) = self.attach.take() {
                return Err(failed("attach to device", "disk", errno));
            }
            self.attached.borrow_mut().push(format!("{device:?} {over:?}"));
            Ok("attached")
        }

        fn served_by(&self, status: &Status) -> String {
            if status.epoch == 9 { "process 12 (old)".to_owned() } else { String::new() }
        }

        fn pause(&self, _: Instant) -> bool {
            self.pauses.set(self.pauses.get() + 1);
            self.pauses.get() < 5
        }
    }

    #[test]
    fn a_device_that_lost_its_server_is_followed() {
        let builder = Builder::new("disk");
        for state in [v2::STATE_ORPHANED, v2::STATE_FAILED] {
            let devices = script([Ok(status(state))]);
            let found = create_or_attach(&devices, &wanted(&builder)).expect("followed");
            assert_eq!((found.server, found.existed), ("attached", true));
            let attached = devices.attached.into_inner();
            assert!(
                attached[0].contains("handle: 5, epoch: 3") && attached[0].ends_with("No"),
                "{attached:?}"
            );
        }
        let devices = script([Ok(status(v2::STATE_ORPHANED))]);
        devices.free.set(true);
        let found = create_or_attach(&devices, &wanted(&builder)).expect("created");
        assert_eq!((found.server, found.existed), ("created", false));
    }

    #[test]
    fn all_differences_are_told_with_the_way_out() {
        let builder = Builder::new("disk");
        let mut existing = status(v2::STATE_ORPHANED);
        existing.size_bytes = 512;
        existing.serial = "old".to_owned();
        existing.create_flags = v2::CREATE_FUA;
        existing.max_discard_bytes = 8192;
        let wanted = Wanted { identity: b"red", ephemeral: true, ..wanted(&builder) };
        let error = create_or_attach(&script([Ok(existing)]), &wanted).expect_err("another one");
        let said = error.to_string();
        assert_eq!(
            said,
            "device disk exists, but is another one: its size is 512 bytes, not 1048576 \
             bytes; its serial number is \"old\", not \"\"; its FUA flag is on, not off; its longest discard is 8192 \
             bytes, not at most 4096 bytes; its content is what its last server stored, not empty memory of this \
             process; its identity is \"blue\", not \"red\". Serve it with what it was created with, or destroy it \
             first"
        );
    }

    #[test]
    fn a_device_with_a_server_is_left_alone_and_the_server_named() {
        let builder = Builder::new("disk");
        let served = Status { epoch: 9, ..status(v2::STATE_LIVE) };
        let devices = script([Ok(served.clone())]);
        let error = create_or_attach(&devices, &wanted(&builder)).expect_err("it has a server");
        let said = "create device disk (a device of that name exists and has a server: process 12 (old))";
        assert_eq!((error.to_string().as_str(), devices.pauses.get()), (said, 0));
        // Unless the program is there to replace it.
        let hand_over = HandOver::new();
        let wanted = Wanted { take_over: Some(&hand_over), ..wanted(&builder) };
        let devices = script([Ok(served)]);
        create_or_attach(&devices, &wanted).expect("taken over");
        assert!(devices.attached.into_inner()[0].contains("Yes"));
    }

    #[test]
    fn what_changes_meanwhile_is_looked_at_again() {
        let builder = Builder::new("disk");
        // The server was killed and is about to end; the device goes; another one has attached, and was killed.
        for first in [Ok(status(v2::STATE_LIVE)), Err(Errno::NOENT), Ok(status(v2::STATE_DESTROYED))] {
            let devices = script([first, Ok(status(v2::STATE_ORPHANED))]);
            create_or_attach(&devices, &wanted(&builder)).expect("followed");
            assert_eq!(devices.pauses.get(), 1);
        }
        for errno in [Errno::BUSY, Errno::STALE, Errno::NOENT, Errno::NODEV] {
            let devices = script([Ok(status(v2::STATE_ORPHANED))]);
            devices.attach.set(Some(errno));
            create_or_attach(&devices, &wanted(&builder)).expect("followed");
        }
        let devices = script([Ok(status(v2::STATE_ORPHANED))]);
        devices.attach.set(Some(Errno::PERM));
        create_or_attach(&devices, &wanted(&builder)).expect_err("not permitted");
    }

    #[test]
    fn patience_ends() {
        let builder = Builder::new("disk");
        let devices = script([Err(Errno::NOENT)]);
        let said = create_or_attach(&devices, &wanted(&builder)).expect_err("it stays").to_string();
        assert!(said.contains("is being destroyed, or another disk has that name"), "{said}");
        let devices = script([Ok(status(v2::STATE_LIVE))]);
        let said = create_or_attach(&devices, &wanted(&builder)).expect_err("it stays").to_string();
        assert!(said.ends_with("(a device of that name exists and has a server)"), "{said}");
    }

    #[test]
    fn a_device_of_version_1_is_never_followed() {
        let builder = Builder::new("disk");
        let devices = script([Ok(Status { version: 1, ..status(v2::STATE_LIVE) })]);
        let said = create_or_attach(&devices, &wanted(&builder)).expect_err("version 1").to_string();
        assert!(said.contains("a device of version 1 has that name"), "{said}");
    }
}
