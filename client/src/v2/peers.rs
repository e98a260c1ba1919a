// SPDX-License-Identifier: MIT OR Apache-2.0
//! The processes that have server descriptors of a device.
//!
//! A server descriptor can be in any process, and STATUS only counts the servers. So the descriptors of other
//! processes are looked at: each is duplicated for a moment (`pidfd_getfd`) and asked for its device, its epoch and its
//! owner. That needs the right to trace the process.
//!
//! A process that has a descriptor is not always a server: another one may look at the same moment and have a duplicate,
//! a supervisor may keep a descriptor, and a child may have got one. The *recorded* server is the process that the
//! library wrote into the descriptor when it began to serve ([`record`]), or that the kernel named in STATUS while the
//! server was the newest one ([`Recorded`]).
//!
//! A look takes bounded time, and says what it could not see ([`Sight`]).

use super::users::{Process, pids};
use crate::Errno;
use crate::sys::{ioctl2, owner};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open, pidfd_send_signal};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};
use zosbd2_abi::v2;

/// Longest time to look for processes that are only named in a message.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// What `/proc` shows for server descriptors and observers.
const LINK: &str = "anon_inode:[zosbd2]";
/// Time between two looks that tell a server from a process that is looking for servers, too.
const APART: Duration = Duration::from_millis(50);

/// Notes this process as the server of a descriptor, in all its duplicates. Without the note, a successor does not kill
/// this process.
pub(super) fn record(descriptor: BorrowedFd<'_>) {
    if let Err(error) = owner::set_owner(descriptor) {
        tracing::warn!(%error, "cannot record the serving process in its descriptor");
    }
}

/// The process that STATUS named as the server of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Recorded {
    pub(super) epoch: u32,
    pub(super) pid: u32,
}

impl Recorded {
    /// `None`: the device has no server, or STATUS does not name its process.
    pub(super) fn of(status: &super::Status) -> Option<Self> {
        Some(Self { epoch: status.epoch, pid: status.process? })
    }
}

/// A process with a server descriptor.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) process: Process,
    pidfd: OwnedFd,
    /// Epoch of the server.
    pub(super) epoch: u32,
    /// The library of this process wrote into the descriptor that the process serves.
    owns: bool,
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

    /// Whether the process is the recorded server of its epoch, and does not only have the descriptor.
    pub(super) fn is_recorded(&self, by_kernel: Option<Recorded>) -> bool {
        self.owns || by_kernel == Some(Recorded { epoch: self.epoch, pid: self.process.pid })
    }

    fn is_same(&self, other: &Self) -> bool {
        (self.process.pid, self.epoch) == (other.process.pid, other.epoch)
    }

    /// Whether it is this process.
    pub(super) fn is_own(&self) -> bool {
        self.process.pid == std::process::id()
    }
}

/// What a look found, and what it could not see.
#[derive(Debug)]
pub(super) struct Sight<P> {
    pub(super) peers: Vec<P>,
    pub(super) unseen: Unseen,
}

/// What a look could not see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unseen {
    /// Processes with a descriptor of the module that may not be duplicated.
    pub(super) untold: Vec<Process>,
    /// Number of processes whose list of descriptors may not be read.
    pub(super) unreadable: usize,
    /// `/proc` does not list the processes of other users (`hidepid`).
    pub(super) hidden: bool,
    /// The time was over before all processes were looked at.
    pub(super) out_of_time: bool,
    /// `kernel.yama.ptrace_scope`, if it forbids more than file permissions do.
    pub(super) yama: Option<u32>,
}

impl Unseen {
    /// Why a process may not have been found, for the end of a sentence.
    pub(super) fn reason(&self) -> String {
        let mut parts = Vec::new();
        if !self.untold.is_empty() {
            let names = super::users::list(self.untold.iter().map(ToString::to_string));
            let yama = match self.yama {
                Some(3) => ", and kernel.yama.ptrace_scope is 3, which allows it to nobody",
                Some(_) => ", which kernel.yama.ptrace_scope restricts to CAP_SYS_PTRACE",
                None => ", which needs CAP_SYS_PTRACE",
            };
            parts.push(format!(
                "{names} may have it, but this process may not duplicate a descriptor of another process{yama}"
            ));
        }
        if self.unreadable > 0 {
            parts.push(format!(
                "this process may not list the descriptors of {} processes, which needs CAP_SYS_PTRACE",
                self.unreadable
            ));
        }
        if self.hidden {
            parts.push("/proc does not show the processes of other users (hidepid)".to_owned());
        }
        if self.out_of_time {
            parts.push("there was no time to look at all processes".to_owned());
        }
        if parts.is_empty() {
            parts.push("no process in this PID namespace has it: it may be in another one".to_owned());
        }
        parts.join("; ")
    }
}

/// The processes that serve an epoch of the device with this handle, for messages, each once. If one of them is recorded,
/// the others only have the descriptor.
pub(super) fn servers_of(handle: u32, epoch: u32) -> Vec<Process> {
    let of_epoch = || {
        let mut peers = look(handle, Instant::now() + PATIENCE).peers;
        peers.retain(|peer| peer.epoch == epoch);
        peers
    };
    let mut peers = of_epoch();
    if peers.iter().any(|peer| peer.owns) {
        peers.retain(|peer| peer.owns);
    } else if peers.len() > 1 {
        std::thread::sleep(APART);
        let again = of_epoch();
        peers.retain(|peer| again.iter().any(|other| other.is_same(peer)));
    }
    peers.into_iter().map(|peer| peer.process).collect()
}

/// Looks for all processes with a server descriptor of the device with this handle. Other processes that look at the same
/// time are found, too; they are not recorded.
pub(super) fn look(handle: u32, until: Instant) -> Sight<Peer> {
    let mut peers: Vec<Peer> = Vec::new();
    // Process 1 always exists.
    let mut unseen = Unseen { hidden: !Path::new("/proc/1").exists(), yama: yama(), ..Unseen::default() };
    for pid in pids() {
        if Instant::now() >= until {
            unseen.out_of_time = true;
            break;
        }
        let entries = match fs::read_dir(format!("/proc/{pid}/fd")) {
            Ok(entries) => entries,
            Err(error) => {
                unseen.unreadable += usize::from(error.kind() == ErrorKind::PermissionDenied);
                continue;
            }
        };
        for entry in entries.flatten() {
            if fs::read_link(entry.path()).is_ok_and(|text| text == Path::new(LINK)) {
                let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
                match number.map(|number| server(pid, number, handle)) {
                    Some(Ok(Some(peer))) if !peers.iter().any(|other| other.is_same(&peer)) => {
                        peers.push(peer);
                    }
                    Some(Err(Errno::PERM)) => {
                        let process = Process::of(pid);
                        if !unseen.untold.contains(&process) {
                            unseen.untold.push(process);
                        }
                    }
                    _ => {}
                }
            }
        }
    }
    Sight { peers, unseen }
}

/// The scope of Yama, if it is 2 or 3: smaller ones do not concern root.
fn yama() -> Option<u32> {
    let text = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok()?;
    text.trim().parse().ok().filter(|scope| *scope >= 2)
}

/// The server of the device that this descriptor of a process belongs to, if it is one. `EPERM`: this process may not look.
fn server(pid: u32, number: i32, handle: u32) -> Result<Option<Peer>, Errno> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    let pidfd = pidfd_open(raw, PidfdFlags::empty())?;
    let descriptor = pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty())?;
    let mut status = v2::Status::default();
    ioctl2::status(descriptor.as_fd(), &mut status)?;
    if status.handle != handle || !serves(descriptor.as_fd()) {
        return Ok(None);
    }
    let owns = owner::owner(descriptor.as_fd()) == Some(pid);
    Ok(Some(Peer { process: Process::of(pid), pidfd, epoch: status.epoch, owns }))
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
        Peer { process: Process::of(pid), pidfd, epoch: 1, owns: false }
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
    fn a_process_is_recorded_by_its_note_or_by_the_kernel() {
        let own = peer(std::process::id());
        let pid = own.process.pid;
        for (owns, epoch, named, recorded) in [
            (true, 1, None, true),
            (true, 1, Some(pid + 1), true),
            (false, 1, Some(pid), true),
            (false, 2, Some(pid), false),
            (false, 1, Some(pid + 1), false),
            (false, 1, None, false),
        ] {
            let peer = Peer { epoch, owns, ..peer(pid) };
            let by_kernel = named.map(|pid| Recorded { epoch: 1, pid });
            assert_eq!(peer.is_recorded(by_kernel), recorded, "{owns} {epoch} {named:?}");
        }
    }

    #[test]
    fn no_process_serves_a_device_that_does_not_exist() {
        assert!(servers_of(u32::MAX, 1).is_empty());
        assert!(look(u32::MAX, Instant::now()).unseen.out_of_time);
    }

    #[test]
    fn what_could_not_be_seen_is_said() {
        let keeper = Process { pid: 7, program: "old".to_owned() };
        let none = Unseen::default();
        let untold = Unseen { untold: vec![keeper], ..none.clone() };
        for (unseen, said) in [
            (none.clone(), "no process in this PID namespace has it"),
            (untold.clone(), "process 7 (old) may have it, but this process may not duplicate a descriptor"),
            (untold.clone(), "another process, which needs CAP_SYS_PTRACE"),
            (Unseen { yama: Some(3), ..untold.clone() }, "ptrace_scope is 3, which allows it to nobody"),
            (Unseen { yama: Some(2), ..untold }, "ptrace_scope restricts to CAP_SYS_PTRACE"),
            (Unseen { unreadable: 3, ..none.clone() }, "list the descriptors of 3 processes"),
            (Unseen { hidden: true, ..none.clone() }, "does not show the processes of other users (hidepid)"),
            (Unseen { out_of_time: true, ..none }, "no time to look at all processes"),
        ] {
            assert!(unseen.reason().contains(said), "{said} is not in: {}", unseen.reason());
        }
    }
}
