// SPDX-License-Identifier: MIT OR Apache-2.0
//! The processes that have server descriptors of a device.
//!
//! A server descriptor can be in any process, and STATUS only counts the servers. So the descriptors of other
//! processes are looked at: each is duplicated for a moment (`pidfd_getfd`) and asked for its device and epoch. That
//! needs the right to trace the process. What is found is as complete as this process may see, and took bounded time.

use super::users::{Process, open_files, pids};
use crate::Errno;
use crate::sys::ioctl2;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open, pidfd_send_signal};
use std::path::Path;
use std::time::{Duration, Instant};
use zosbd2_abi::v2;

/// Longest time to look for processes.
const PATIENCE: Duration = Duration::from_secs(1);
/// What `/proc` shows for server descriptors and observers.
const LINK: &str = "anon_inode:[zosbd2]";

/// A process with a server descriptor.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) process: Process,
    pidfd: OwnedFd,
    /// Epoch of the server.
    pub(super) epoch: u32,
}

impl Peer {
    /// Whether the process has ended. A zombie has.
    pub(super) fn has_ended(&self) -> bool {
        let mut polled = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut polled, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// Sends SIGKILL to this process and to no other. A process that has ended is no error.
    pub(super) fn kill(&self) -> Result<(), Errno> {
        match pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        (self.process.pid, self.epoch) == (other.process.pid, other.epoch)
    }

    /// Whether it is this process.
    pub(super) fn is_own(&self) -> bool {
        self.process.pid == std::process::id()
    }
}

/// Time between two looks that tell a server from a process that is looking for servers, too.
const APART: Duration = Duration::from_millis(50);

/// The servers of the device with this handle, each process and epoch once.
pub(super) fn servers_of(handle: u32) -> Vec<Peer> {
    let mut peers = look(handle);
    let alone = |peer: &Peer| peers.iter().filter(|other| other.epoch == peer.epoch).count() == 1;
    if !peers.iter().all(alone) {
        std::thread::sleep(APART);
        let again = look(handle);
        peers.retain(|peer| again.iter().any(|other| other.is_same(peer)));
    }
    peers
}

/// Like [`servers_of`], for processes that are to be killed: only those that are seen twice.
pub(super) fn lasting_servers_of(handle: u32) -> Vec<Peer> {
    let mut peers = look(handle);
    if !peers.is_empty() {
        std::thread::sleep(APART);
        let again = look(handle);
        peers.retain(|peer| again.iter().any(|other| other.is_same(peer)));
    }
    peers
}

/// One look. It also finds processes that have a duplicate for a moment because they look, too.
fn look(handle: u32) -> Vec<Peer> {
    let until = Instant::now() + PATIENCE;
    let mut peers: Vec<Peer> = Vec::new();
    for pid in pids().take_while(|_| Instant::now() < until) {
        let files = open_files(pid, until, |text| text == Path::new(LINK));
        for number in files.map(|(number, _)| number).collect::<Vec<_>>() {
            let Some((pidfd, epoch)) = server(pid, number, handle) else { continue };
            let peer = Peer { process: Process::of(pid), pidfd, epoch };
            if !peers.iter().any(|other| other.is_same(&peer)) {
                peers.push(peer);
            }
        }
    }
    peers
}

/// The epoch of a descriptor of a process, if it is a server of the device.
fn server(pid: u32, number: i32, handle: u32) -> Option<(OwnedFd, u32)> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    let descriptor = pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()).ok()?;
    let mut status = v2::Status::default();
    ioctl2::status(descriptor.as_fd(), &mut status).ok()?;
    (status.handle == handle && serves(descriptor.as_fd())).then_some((pidfd, status.epoch))
}

/// Whether a descriptor is a server's and not an observer's. An observer may not even ask for a blob that is too
/// long; for a server, the length is wrong, and nothing changes.
fn serves(descriptor: BorrowedFd<'_>) -> bool {
    let length = u32::try_from(v2::BLOB_BYTES + 1).unwrap_or(u32::MAX);
    let mut blob = v2::Blob { flags: v2::BLOB_WRITE, length, ..v2::Blob::default() };
    ioctl2::blob(descriptor, &mut blob) != Err(Errno::PERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(pid: u32) -> Peer {
        let raw = Pid::from_raw(i32::try_from(pid).expect("small")).expect("a process");
        let pidfd = pidfd_open(raw, PidfdFlags::empty()).expect("pidfd");
        Peer { process: Process::of(pid), pidfd, epoch: 1 }
    }

    #[test]
    fn a_stopped_process_is_killed_and_seen_to_end() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().expect("sleep");
        let peer = peer(child.id());
        rustix::process::kill_process(Pid::from_child(&child), Signal::STOP).expect("stop");
        assert!(!peer.has_ended() && !peer.is_own());
        peer.kill().expect("killed");
        child.wait().expect("wait");
        assert!(peer.has_ended());
        peer.kill().expect("it has ended");
    }

    #[test]
    fn no_process_serves_a_device_that_does_not_exist() {
        assert!(servers_of(u32::MAX).is_empty());
    }
}
