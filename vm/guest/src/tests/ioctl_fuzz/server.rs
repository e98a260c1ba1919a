// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls on server descriptors other than ENTER: START, RESIZE, CLAIM, STATS, LATENCY, REQUESTS, BLOB, STATUS; poll,
//! duplicates, passing on and closing. `serve` calls ENTER.

use std::os::fd::AsFd as _;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zosbd2::v2::abi;

use super::calls::Call;
use super::control::check_status;
use super::process::Held;
use super::thread::{Shape, Thread, rest};

const START: Shape =
    Shape { call: Call::Start, command: abi::IOCTL_START, reserved: &[], addresses: &[], results: None };
const RESIZE: Shape =
    Shape { call: Call::Resize, command: abi::IOCTL_RESIZE, reserved: &[], addresses: &[], results: None };
const CLAIM: Shape =
    Shape { call: Call::Claim, command: abi::IOCTL_CLAIM, reserved: &[], addresses: &[], results: None };
const STATS: Shape =
    Shape { call: Call::Stats, command: abi::IOCTL_STATS, reserved: &[], addresses: &[], results: None };
const LATENCY: Shape = Shape {
    call: Call::Latency,
    command: abi::IOCTL_LATENCY,
    reserved: &[12],
    addresses: &[],
    results: None,
};
const REQUESTS: Shape = Shape {
    call: Call::Requests,
    command: abi::IOCTL_REQUESTS,
    reserved: &[36],
    addresses: &[16],
    results: None,
};
const BLOB: Shape =
    Shape { call: Call::Blob, command: abi::IOCTL_BLOB, reserved: &[12], addresses: &[], results: None };
const OWN_STATUS: Shape =
    Shape { call: Call::OwnStatus, command: abi::IOCTL_STATUS, reserved: &[], addresses: &[], results: None };
const SUCCEED: Shape =
    Shape { call: Call::Succeed, command: abi::IOCTL_ATTACH, reserved: &[], addresses: &[], results: None };

impl Thread<'_> {
    /// One call on a random descriptor.
    pub(super) fn server_call(&mut self) {
        let Some(held) = self.process.some(&mut self.random) else { return self.create() };
        match self.random.below(11) {
            0 => self.start(&held),
            1 => self.resize(&held),
            2 => self.stats(&held),
            3 => self.latency(&held),
            4 => self.requests(&held),
            5 => self.blob(&held),
            6 => self.settings(Some(&held)),
            7 => {
                self.own_status(&held);
            }
            8 => self.succeed(&held),
            9 => self.claim(&held),
            _ => self.enter(&held),
        }
    }

    pub(super) fn start(&mut self, held: &Held) {
        self.issue(held.as_fd(), &START, &abi::Start::default());
    }

    fn resize(&mut self, held: &Held) {
        let size_bytes = self.random.pick(&[1 << 20, 2 << 20, 8 << 20, 16 << 20, 4096, 0, 513, u64::MAX]);
        self.issue(held.as_fd(), &RESIZE, &abi::Resize { size_bytes, ..abi::Resize::default() });
    }

    fn claim(&mut self, held: &Held) {
        let flags = self.random.pick(&[abi::CLAIM_CACHE, abi::CLAIM_CACHE, 0, 2]);
        self.issue(held.as_fd(), &CLAIM, &abi::Claim { flags, ..abi::Claim::default() });
    }

    fn queue(&mut self) -> u32 {
        self.random.pick(&[0, 0, 0, 1, 1, 2, u32::MAX])
    }

    fn stats(&mut self, held: &Held) {
        let stats = abi::Stats { queue: self.queue(), ..abi::Stats::default() };
        let ended = self.issue(held.as_fd(), &STATS, &stats);
        if ended.well() {
            let abi::Stats { queue, fetched, committed, .. } = ended.after;
            assert!(queue < 2, "{:?}", ended.after);
            // Also with version 1: a request that succeeded was fetched before.
            assert!(
                fetched.iter().zip(committed).all(|(fetched, done)| done <= *fetched),
                "{:?}",
                ended.after
            );
        }
    }

    fn latency(&mut self, held: &Held) {
        let latency = abi::Latency { queue: self.queue(), ..abi::Latency::default() };
        let ended = self.issue(held.as_fd(), &LATENCY, &latency);
        if ended.well() {
            let sum = |histogram: &[u64]| histogram.iter().sum::<u64>();
            let abi::Latency { waiting, serving, total, .. } = ended.after;
            assert!(sum(&waiting) == sum(&serving) && sum(&serving) == sum(&total), "{:?}", ended.after);
        }
    }

    fn requests(&mut self, held: &Held) {
        let capacity = self.random.pick(&[0, 1, 16, 1024]);
        let room = usize::try_from(capacity).expect("small") * size_of::<abi::Outstanding>();
        let entries = if self.random.chance(90) {
            self.memory.data.at_end(room)
        } else {
            self.memory.bad(&mut self.random, room).0
        };
        let age_ms = self.random.pick(&[0, 0, 10, 1000]);
        let queue = self.queue();
        let asked =
            abi::Requests { queue, age_ms, entries: entries as u64, capacity, ..abi::Requests::default() };
        let ended = self.issue(held.as_fd(), &REQUESTS, &asked);
        if !ended.well() {
            return;
        }
        let abi::Requests { count, total, capacity, .. } = ended.after;
        assert!(count <= total && count <= capacity, "{:?}", ended.after);
        if capacity == asked.capacity && entries == self.memory.data.at_end(room) {
            for index in 0..usize::try_from(count).expect("few") {
                let at = entries + index * size_of::<abi::Outstanding>();
                let entry: abi::Outstanding = self.memory.data.get_value(at);
                assert!(entry.op <= abi::OP_SECURE_ERASE, "{entry:?}");
                assert!(
                    (abi::OUTSTANDING_QUEUED..=abi::OUTSTANDING_DOOMED).contains(&entry.state),
                    "{entry:?}"
                );
                let queued = entry.state == abi::OUTSTANDING_QUEUED;
                assert!(!queued || (entry.thread == 0 && entry.held_ns == 0), "{entry:?}");
            }
        }
    }

    fn blob(&mut self, held: &Held) {
        let mut blob = abi::Blob::default();
        if self.random.chance(50) {
            blob.flags = abi::BLOB_WRITE;
            blob.length = self.random.pick(&[0, 1, 17, 256, 257]);
            let end = usize::try_from(blob.length).expect("small").min(blob.bytes.len());
            self.random.fill(&mut blob.bytes[..end]);
        }
        let ended = self.issue(held.as_fd(), &BLOB, &blob);
        if ended.well() {
            let abi::Blob { length, bytes, .. } = ended.after;
            let rest = bytes.get(usize::try_from(length).expect("small")..);
            assert!(rest.is_some_and(|rest| rest.iter().all(|byte| *byte == 0)), "{:?}", ended.after);
        }
    }

    /// Status of a descriptor's device.
    pub(super) fn own_status(&mut self, held: &Held) -> Option<abi::Status> {
        let ended = self.issue(held.as_fd(), &OWN_STATUS, &abi::Status::default());
        let well = ended.well();
        if well {
            check_status(&ended.after);
        }
        well.then_some(ended.after)
    }

    /// Attaches the successor of a descriptor's server.
    fn succeed(&mut self, held: &Held) {
        let flags = self.random.pick(&[0, 1, 1, 1, 3, 3, 2, 4, 5]);
        let ended = self.issue(held.as_fd(), &SUCCEED, &abi::Attach { flags, ..abi::Attach::default() });
        if let Ok(Some(fd)) = ended.result {
            self.process.keep(Held::new(fd, false, held.queues), &mut self.random);
        }
    }

    /// Polls a descriptor without waiting.
    pub(super) fn poll(&mut self) {
        let Some(held) = self.process.some(&mut self.random) else { return };
        self.begins(Call::Poll);
        let mut fds = [PollFd::new(&*held, PollFlags::IN | PollFlags::OUT)];
        let wait = Timespec { tv_sec: 0, tv_nsec: 1_000_000 * self.random.pick(&[0, 0, 5]) };
        let result = poll(&mut fds, Some(&wait)).map(|_| ());
        self.ends(Call::Poll, result);
        let allowed = PollFlags::IN | PollFlags::HUP;
        assert!(result.is_err() || allowed.contains(fds[0].revents()), "{:?}", fds[0].revents());
    }

    /// Duplicates a descriptor.
    pub(super) fn duplicate(&mut self) {
        let Some(held) = self.process.some(&mut self.random) else { return };
        let fd = held.as_fd().try_clone_to_owned().expect("duplicate");
        self.process.keep(Held::new(fd, held.observes, held.queues), &mut self.random);
    }

    pub(super) fn close(&mut self) {
        let Some(held) = self.process.some(&mut self.random) else { return };
        self.process.forget(&held);
    }

    pub(super) fn pass(&mut self) {
        let Some(held) = self.process.some(&mut self.random) else { return };
        self.begins(Call::Pass);
        let result = self.process.pass(&held, &mut self.random);
        self.ends(Call::Pass, result);
        if result.is_ok() && self.random.chance(50) {
            self.process.forget(&held);
        }
    }

    pub(super) fn receive(&mut self) {
        self.begins(Call::Receive);
        let result = self.process.receive(&mut self.random);
        self.ends(Call::Receive, result);
    }

    /// A server descriptor. If there is none, attaches to a device so that there may be one the next time.
    pub(super) fn server(&mut self) -> Option<Arc<Held>> {
        let held = self.process.some_server(&mut self.random);
        if held.is_none() {
            match self.random.below(8) {
                0 => self.create(),
                1 => self.attach(),
                2 => self.receive(),
                _ => rest(),
            }
        }
        held
    }
}
