// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which devices are followed, against a script of what the kernel answers.

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
    Wanted { builder, create, identity: b"blue", without_identity: false, ephemeral: false, take_over: None }
}

fn status(state: u32) -> Status {
    let raw = v2::Status {
        name: crate::v2::name::field("disk").expect("a name"),
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
    blob: &'static [u8],
}

fn script(looks: impl IntoIterator<Item = Result<Status, Errno>>) -> Script {
    Script {
        looks: RefCell::new(looks.into_iter().collect()),
        attach: Cell::new(None),
        pauses: Cell::new(0),
        free: Cell::new(false),
        attached: RefCell::default(),
        blob: b"blue",
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
        Ok(self.blob.to_vec())
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
        assert!(attached[0].contains("handle: 5, epoch: 3") && attached[0].ends_with("No"), "{attached:?}");
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

/// The identities of device and program, whether the program follows without one, and what it says.
type Case<'a> = (&'static [u8], &'static [u8], bool, Option<&'a str>);

#[test]
fn only_a_device_with_the_same_identity_is_followed() {
    let builder = Builder::new("disk");
    let nothing_tells = "device disk exists, but nothing tells that it is the disk of this program, because neither has an \
                         identity. Give the program one (Builder::identity), or let it follow without one \
                         (Builder::follow_without_identity); Control::destroy destroys the device";
    let cases: [Case<'_>; 7] = [
        (b"blue", b"blue", false, None),
        (b"blue", b"red", false, Some("its identity is \"blue\", not \"red\"")),
        (b"", b"red", true, Some("its identity is none, not \"red\"")),
        (b"blue", b"", false, Some("its identity is \"blue\", not none")),
        (b"blue", b"", true, Some("its identity is \"blue\", not none")),
        (b"", b"", true, None),
        (b"", b"", false, Some(nothing_tells)),
    ];
    for state in [v2::STATE_ORPHANED, v2::STATE_LIVE] {
        for (blob, identity, without_identity, problem) in cases {
            let devices = Script { blob, ..script([Ok(status(state))]) };
            let hand_over = HandOver::new();
            let wanted =
                Wanted { identity, without_identity, take_over: Some(&hand_over), ..wanted(&builder) };
            match (create_or_attach(&devices, &wanted), problem) {
                (Ok(found), None) => assert!(found.existed),
                (Err(error), Some(problem)) => {
                    let said = error.to_string();
                    assert!(said.contains(problem), "{problem} is not in: {said}");
                    assert!(devices.attached.borrow().is_empty(), "it was touched");
                }
                (result, problem) => panic!("{result:?} instead of {problem:?}"),
            }
        }
    }
}
