// SPDX-License-Identifier: MIT OR Apache-2.0
//! Version 2's calls on the control node, and unknown ioctl numbers.

use std::os::fd::AsFd as _;

use rustix::io::Errno;
use zosbd2::v2::abi;

use super::super::v2::support::{CONTROL_CALLS, SERVER_CALLS};
use super::calls::Call;
use super::process::{Held, Node};
use super::thread::{Shape, Thread};
use crate::guest::raw;

const INFO: Shape =
    Shape { call: Call::Info, command: abi::IOCTL_INFO, reserved: &[52], addresses: &[], results: None };
const CREATE: Shape =
    Shape { call: Call::Create, command: abi::IOCTL_CREATE, reserved: &[140], addresses: &[], results: None };
const ATTACH: Shape =
    Shape { call: Call::Attach, command: abi::IOCTL_ATTACH, reserved: &[], addresses: &[], results: None };
const OBSERVE: Shape = Shape { call: Call::Observe, ..ATTACH };
const DESTROY: Shape =
    Shape { call: Call::Destroy, command: abi::IOCTL_DESTROY, reserved: &[], addresses: &[], results: None };
const LIST: Shape =
    Shape { call: Call::List, command: abi::IOCTL_LIST, reserved: &[28], addresses: &[8], results: None };
const STATUS: Shape =
    Shape { call: Call::Status, command: abi::IOCTL_STATUS, reserved: &[], addresses: &[], results: None };

const SETTINGS: Shape = Shape {
    call: Call::Settings,
    command: abi::IOCTL_SETTINGS,
    reserved: &[60],
    addresses: &[],
    results: None,
};
const OWN_SETTINGS: Shape = Shape { call: Call::OwnSettings, ..SETTINGS };

const KIB: u32 = 1 << 10;

impl Thread<'_> {
    pub(super) fn info(&mut self) {
        let ended = self.issue(self.process.control.as_fd(), &INFO, &abi::Info::default());
        if ended.well() {
            assert_eq!((ended.after.version, ended.after.max_batch), (2, abi::MAX_BATCH));
        }
    }

    /// Creates a device, usually one that can be started, with every deadline policy, and with graces and
    /// deadlines that end during its use.
    pub(super) fn create(&mut self) {
        let node = Node::v2(&mut self.random);
        let random = &mut self.random;
        let block = random.pick(&[0, 512, 4096]);
        let offered =
            |random: &mut crate::guest::Random, bytes: u32| if random.chance(70) { bytes } else { 0 };
        let mut flags = 0;
        for (flag, percent) in [
            (abi::CREATE_READ_ONLY, 5),
            (abi::CREATE_ROTATIONAL, 30),
            (abi::CREATE_VOLATILE_CACHE, 50),
            (abi::CREATE_NO_PARTITION_SCAN, 70),
            (abi::CREATE_AUTO_DESTROY, 30),
        ] {
            flags |= if random.chance(percent) { flag } else { 0 };
        }
        if flags & abi::CREATE_VOLATILE_CACHE != 0 && random.chance(60) {
            flags |= abi::CREATE_FUA;
        }
        let mut create = abi::Create {
            flags,
            name: node.field(),
            size_bytes: (1 + random.below(16)) << 20,
            logical_block_size: block,
            physical_block_size: random.pick(&[0, 4096]),
            max_io_bytes: random.pick(&[4 * KIB, 16 * KIB, 64 * KIB, 128 * KIB]),
            queues: random.pick(&[0, 1, 2]),
            depth: random.pick(&[1, 2, 4, 16, 0]),
            max_discard_bytes: offered(random, 1 << 20),
            max_write_zeroes_bytes: offered(random, 1 << 20),
            max_secure_erase_bytes: offered(random, 1 << 20),
            deadline_ms: random.pick(&[0, 20, 100, 300, 500, 1000, 2000]),
            grace_ms: random.pick(&[0, 0, 20, 200, 1000]),
            deadline_policy: random.pick(&[
                abi::DEADLINE_FAIL,
                abi::DEADLINE_REQUEUE,
                abi::DEADLINE_DECLARE_DEAD,
            ]),
            ..abi::Create::default()
        };
        random.fill(&mut create.serial[..0]);
        let ended = self.issue(self.process.control.as_fd(), &CREATE, &create);
        let queues = ended.after.queues.clamp(1, 2);
        if let Ok(Some(fd)) = ended.result {
            let held = Held::new(fd, false, queues);
            if self.random.chance(85) {
                self.start(&held);
            }
            self.process.keep(held, &mut self.random);
        }
    }

    pub(super) fn attach(&mut self) {
        let node = Node::v2(&mut self.random);
        let flags = self.random.pick(&[0, 0, 1, 1, 2, 3, 5, 6, 7]);
        let (handle, epoch) = self.meant(&node);
        let attach = abi::Attach { flags, name: node.field(), handle, epoch, ..abi::Attach::default() };
        let ended = self.issue(self.process.control.as_fd(), &ATTACH, &attach);
        self.attached(ended.result.ok().flatten(), &ended.after, ended.seen);
    }

    /// Observes a device, also one of version 1.
    pub(super) fn observe(&mut self) {
        let node = Node::any(&mut self.random);
        let (handle, epoch) = self.meant(&node);
        let flags = abi::ATTACH_OBSERVE;
        let attach = abi::Attach { flags, name: node.field(), handle, epoch, ..abi::Attach::default() };
        let ended = self.issue(self.process.control.as_fd(), &OBSERVE, &attach);
        let busy = ended.seen && matches!(ended.result, Err(Errno::BUSY));
        assert!(!busy || ended.after.flags & abi::ATTACH_OBSERVE == 0, "{ended:?}");
        self.attached(ended.result.ok().flatten(), &ended.after, ended.seen);
    }

    fn attached(&mut self, fd: Option<std::os::fd::OwnedFd>, after: &abi::Attach, seen: bool) {
        let Some(fd) = fd else { return };
        let observes = after.flags & abi::ATTACH_OBSERVE != 0;
        if seen {
            assert_eq!(observes, after.epoch == 0, "{after:?}");
            assert!(!observes || after.flags & abi::ATTACH_TAKE_OVER == 0, "{after:?}");
        }
        let mut held = Held::new(fd, observes, 1);
        held.queues = self.own_status(&held).map_or(1, |status| status.queues);
        self.process.keep(held, &mut self.random);
    }

    pub(super) fn destroy(&mut self) {
        let node = Node::any(&mut self.random);
        let flags = if self.random.chance(60) { abi::DESTROY_FORCE } else { 0 };
        let (handle, epoch) = self.meant(&node);
        let destroy = abi::Destroy { flags, name: node.field(), handle, epoch, ..abi::Destroy::default() };
        let ended = self.issue(self.process.control.as_fd(), &DESTROY, &destroy);
        let stale = ended.seen && matches!(ended.result, Err(Errno::STALE));
        assert!(!stale || (ended.after.handle, ended.after.epoch) != (0, 0), "{ended:?}");
    }

    /// The handle and epoch to pass with a name: any, the current ones, or others.
    fn meant(&mut self, node: &Node) -> (u32, u32) {
        if self.random.chance(50) {
            return (0, 0);
        }
        let asked = abi::Status { name: node.field(), ..abi::Status::default() };
        let ended = self.issue(self.process.control.as_fd(), &STATUS, &asked);
        let abi::Status { handle, epoch, .. } = ended.after;
        let wrong = self.random.pick(&[0, 0, 1]);
        match self.random.below(3) {
            0 => (handle.wrapping_add(wrong), 0),
            1 => (0, epoch.wrapping_add(wrong)),
            _ => (handle, epoch.wrapping_add(wrong)),
        }
    }

    pub(super) fn list(&mut self) {
        let entry = size_of::<abi::ListEntry>();
        let capacity = self.random.pick(&[0, 1, 4, 64]);
        let room = usize::try_from(capacity).expect("small") * entry;
        let entries = if self.random.chance(90) {
            self.memory.data.at_end(room)
        } else {
            self.memory.bad(&mut self.random, room).0
        };
        let list = abi::List { entries: entries as u64, capacity, ..abi::List::default() };
        let ended = self.issue(self.process.control.as_fd(), &LIST, &list);
        if ended.well() {
            let abi::List { capacity, count, .. } = ended.after;
            assert!(count <= capacity, "{:?}", ended.after);
        }
    }

    pub(super) fn status(&mut self) {
        let node = Node::any(&mut self.random);
        let status = abi::Status { name: node.field(), ..abi::Status::default() };
        let ended = self.issue(self.process.control.as_fd(), &STATUS, &status);
        if ended.well() {
            check_status(&ended.after);
        }
    }

    /// Changes settings of a device by name, or of this descriptor's.
    pub(super) fn settings(&mut self, held: Option<&Held>) {
        let node = Node::any(&mut self.random);
        let (handle, epoch) = if held.is_some() { (0, 0) } else { self.meant(&node) };
        let name = if held.is_some() { [0; abi::NAME_BYTES] } else { node.field() };
        let flags = self.random.pick(&[0, 1, 2, 3, 4, 5, 6, 7]);
        let if_set = |flag, value| if flags & flag == 0 { 0 } else { value };
        let settings = abi::Settings {
            flags,
            name,
            handle,
            epoch,
            deadline_ms: if_set(abi::SETTINGS_DEADLINE, self.random.pick(&[0, 20, 300, 1000, 2000])),
            deadline_policy: if_set(abi::SETTINGS_POLICY, self.random.pick(&[0, 1, 2])),
            grace_ms: if_set(abi::SETTINGS_GRACE, self.random.pick(&[0, 20, 200, 1000])),
            ..abi::Settings::default()
        };
        match held {
            Some(held) => self.issue(held.as_fd(), &OWN_SETTINGS, &settings),
            None => self.issue(self.process.control.as_fd(), &SETTINGS, &settings),
        };
    }

    /// A number that no descriptor knows, or that belongs to another kind of descriptor, with valid memory.
    pub(super) fn unknown(&mut self) {
        let noise = self.random.bytes(512);
        let at = self.memory.argument.at_end(noise.len());
        self.memory.argument.put(at, &noise);
        let number = u32::try_from(self.random.below(256)).expect("a byte");
        let size = self.random.pick(&[0, 8, 16, 40, 80, 144, 192, 272, 784, 0x3fff]);
        let mut command = 3 << 30 | size << 16 | abi::IOCTL_TYPE << 8 | number;
        if self.random.chance(50) {
            command = self.random.pick(&[
                abi::IOCTL_ENTER,
                abi::IOCTL_START,
                abi::IOCTL_BLOB,
                abi::IOCTL_CREATE,
                abi::IOCTL_ATTACH,
                abi::IOCTL_INFO,
                zosbd2_abi::v1::IOCTL_OPERATION,
                zosbd2_abi::v1::IOCTL_BLOCK_PING,
            ]);
        }
        let held = self.process.some(&mut self.random).filter(|_| self.random.chance(50));
        let (call, fd, known): (_, _, &[u32]) = match &held {
            Some(held) => (Call::UnknownServer, held.as_fd(), &SERVER_CALLS),
            None => (Call::UnknownControl, self.process.control.as_fd(), &CONTROL_CALLS),
        };
        if known.contains(&command) {
            return;
        }
        self.begins(call);
        let result = raw::ioctl(fd, command, at).map(|_| ());
        self.ends(call, result);
        // Version 1's numbers are small.
        let errno = if held.is_none() && command < 256 { Errno::INVAL } else { Errno::NOTTY };
        assert_eq!(result, Err(errno), "{command:#x}");
    }
}

/// Checks that hold for every device.
pub(super) fn check_status(status: &abi::Status) {
    assert!([1, 2].contains(&status.version), "{status:?}");
    assert!(status.state <= abi::STATE_DESTROYED && status.lost <= 1, "{status:?}");
    assert!(status.create_flags & !abi::CREATE_FLAGS == 0, "{status:?}");
    assert!(status.deadline_policy <= abi::DEADLINE_DECLARE_DEAD, "{status:?}");
    assert!(status.size_bytes > 0 && status.size_bytes <= abi::MAX_SIZE_BYTES, "{status:?}");
    assert_eq!(status.size_bytes % u64::from(status.logical_block_size), 0, "{status:?}");
}
