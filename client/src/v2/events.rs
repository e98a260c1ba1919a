// SPDX-License-Identifier: MIT OR Apache-2.0
//! What happens to devices, as the kernel tells it: a server died, another followed, a device fails.
//!
//! An [`Event`] of this module comes from the kernel, about any device, to any process that watches, also when no server
//! runs. [`zosbd2::Event`](crate::Event) comes from the library of the serving process, about its own device, to the callback
//! of [`Builder::on_event`](super::Builder::on_event): the kernel does not know what it tells, such as an error of the backend or a
//! stop that waits.
//!
//! The module sends a uevent for each event, besides a line in the kernel's log. [`Watch`] receives the events of all
//! devices of version 2; it needs no rights and no control node. A container with a network namespace of its own
//! may get none. An event may be older than the state of its device by the time it is read:
//! [`Control::status`](super::Control::status) has the newest. Of events of one kind that follow fast, the kernel tells
//! only the last one.
//!
//! ```no_run
//! let watch = zosbd2::events::Watch::open()?;
//! while let Some(event) = watch.next(None)? {
//!     println!("{event}");
//! }
//! # Ok::<(), zosbd2::Error>(())
//! ```

use super::control::failed;
use super::report::node_path;
use crate::{Errno, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{
    AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink, recvfrom, socket_with, sockopt,
};
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use zosbd2_abi::v2;

/// What happened.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The server has died, or was declared dead. I/O waits for another server until the grace ends.
    Died,
    /// A server attached to a device that had none.
    Recovered,
    /// No server attached within the grace: all I/O fails until one does.
    Failed,
    /// Requests have passed their deadline.
    Late,
    /// Answered writes were lost with the cache of an earlier server, so the next flushes fail.
    CacheLost,
    /// Requests wait, and no thread of the server has asked for any for some seconds. The server is stuck or
    /// overloaded, or a process that does not serve has kept its descriptor.
    Unserved,
    /// The device is being destroyed.
    Destroyed,
    /// The block node was made. Only a [`Watch::with_nodes`] tells it.
    Added,
    /// The size of the block node has changed. Only a [`Watch::with_nodes`] tells it.
    Resized,
    /// The block node is gone. Only a [`Watch::with_nodes`] tells it.
    Removed,
    /// The caller read too slowly, and events were lost. The fields of the event are empty.
    Missed,
}

impl Kind {
    fn from_word(word: &str) -> Option<Self> {
        Some(match word {
            "died" => Self::Died,
            "recovered" => Self::Recovered,
            "failed" => Self::Failed,
            "late" => Self::Late,
            "cache-lost" => Self::CacheLost,
            "unserved" => Self::Unserved,
            "destroyed" => Self::Destroyed,
            _ => return None,
        })
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Died => "the server has died",
            Self::Recovered => "another server has attached",
            Self::Failed => "no server attached in time, so all I/O fails",
            Self::Late => "requests are late",
            Self::CacheLost => "writes were lost with a server's cache, so flushes fail",
            Self::Unserved => "requests wait, and the server asks for none",
            Self::Destroyed => "the device is being destroyed",
            Self::Added => "the node was made",
            Self::Resized => "the size has changed",
            Self::Removed => "the node is gone",
            Self::Missed => "events were missed",
        }
    }
}

/// An event of a device that the kernel told, not to be confused with what the library tells its own program
/// ([`zosbd2::Event`](crate::Event)). Its text is a sentence.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: Kind,
    /// Name of the device.
    pub name: String,
    /// Handle of the device; 0 if the kernel did not tell it, as with events of the node.
    pub handle: u32,
    /// Epoch of the newest server; 0 if the kernel did not tell it.
    pub epoch: u32,
    /// The process that serves, or that did so last, in the initial PID namespace; `None` if it is unknown.
    pub process: Option<u32>,
}

impl Event {
    /// Path of the device's block node.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        node_path(&self.name, 2)
    }

    const fn missed() -> Self {
        Self { kind: Kind::Missed, name: String::new(), handle: 0, epoch: 0, process: None }
    }

    /// Decodes a message of the kernel: NUL terminated words, `ACTION@PATH` and then `KEY=VALUE`. `None` if it is not
    /// an event of a device of ours.
    fn parse(message: &[u8]) -> Option<Self> {
        let (mut kind, mut name, mut handle, mut epoch, mut process) = (None, None, None, 0, None);
        let mut words = message.split(|byte| *byte == 0);
        if !words.next()?.starts_with(b"change@") {
            return None;
        }
        for word in words {
            let Ok(word) = std::str::from_utf8(word) else { continue };
            let Some((key, value)) = word.split_once('=') else { continue };
            match key {
                "ZOSBD2_EVENT" => kind = Kind::from_word(value),
                "ZOSBD2_NAME" => name = Some(value.to_owned()),
                "ZOSBD2_HANDLE" => handle = value.parse().ok(),
                "ZOSBD2_EPOCH" => epoch = value.parse().unwrap_or(0),
                "ZOSBD2_PID" => process = value.parse().ok(),
                _ => {}
            }
        }
        Some(Self { kind: kind?, name: name?, handle: handle?, epoch, process })
    }

    /// Decodes a message about the block node of a device of version 2, which the kernel sends for any disk.
    fn of_node(message: &[u8]) -> Option<Self> {
        let mut words = message.split(|byte| *byte == 0).filter_map(|word| std::str::from_utf8(word).ok());
        let (action, _) = words.next()?.split_once('@')?;
        let (mut name, mut disk, mut resized) = (None, false, false);
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            match key {
                "DEVNAME" => name = node_name(value),
                "DEVTYPE" => disk = value == "disk",
                "RESIZE" => resized = true,
                _ => {}
            }
        }
        let kind = match action {
            "add" => Kind::Added,
            "remove" => Kind::Removed,
            "change" if resized => Kind::Resized,
            _ => return None,
        };
        let name = name.filter(|_| disk)?;
        Some(Self { kind, name, handle: 0, epoch: 0, process: None })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind == Kind::Missed {
            return to.write_str(self.kind.text());
        }
        write!(to, "{}: {}", self.path().display(), self.kind.text())?;
        if self.epoch == 0 {
            return Ok(());
        }
        write!(to, " (server {}", self.epoch)?;
        if let Some(process) = self.process {
            write!(to, ", process {process}")?;
        }
        to.write_str(")")
    }
}

/// The device of a block node, which is named relative to /dev.
fn node_name(node: &str) -> Option<String> {
    let prefix = v2::NODE_PREFIX.strip_prefix("/dev/")?;
    node.strip_prefix(prefix).map(str::to_owned)
}

/// Group of the kernel's own messages. udev sends to another group.
const KERNEL: u32 = 1;
/// The kernel's messages are at most 2 KiB of properties and a path.
const MESSAGE_BYTES: usize = 8192;
const BUFFER_BYTES: usize = 1 << 20;

/// Receives the events of all devices, from when it was opened. Its descriptor can be polled for input.
#[derive(Debug)]
pub struct Watch {
    socket: OwnedFd,
    nodes: bool,
}

impl Watch {
    /// Starts to receive events.
    pub fn open() -> Result<Self> {
        let opened = || {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let protocol = Some(netlink::KOBJECT_UEVENT);
            let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, protocol)?;
            // The default does too, as long as there are few events.
            let _ = sockopt::set_socket_recv_buffer_size(&socket, BUFFER_BYTES);
            bind(&socket, &netlink::SocketAddrNetlink::new(0, KERNEL))?;
            Ok(socket)
        };
        opened().map(|socket| Self { socket, nodes: false }).map_err(failure)
    }

    /// Also receives [`Kind::Added`], [`Kind::Resized`] and [`Kind::Removed`]. A device that is destroyed before it is
    /// started has no node.
    #[must_use]
    pub fn with_nodes(self) -> Self {
        Self { nodes: true, ..self }
    }

    /// Waits for the next event, no longer than the time limit. `None`: there was none in that time.
    pub fn next(&self, limit: Option<Duration>) -> Result<Option<Event>> {
        let end = limit.and_then(|limit| Instant::now().checked_add(limit));
        let mut message = [0; MESSAGE_BYTES];
        loop {
            match recvfrom(&self.socket, &mut message, RecvFlags::empty()) {
                Ok((bytes, _, sender)) => {
                    // Other processes can send messages, too, if they have CAP_NET_ADMIN.
                    let sender = sender.and_then(|sender| netlink::SocketAddrNetlink::try_from(sender).ok());
                    let from_kernel = sender.is_some_and(|sender| sender.pid() == 0);
                    let message = message.get(..bytes).unwrap_or_default();
                    let of_node = || self.nodes.then(|| Event::of_node(message)).flatten();
                    let event = Event::parse(message).or_else(of_node);
                    if let (Some(event), true) = (event, from_kernel) {
                        return Ok(Some(event));
                    }
                    continue;
                }
                Err(Errno::NOBUFS) => return Ok(Some(Event::missed())),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {}
                Err(error) => return Err(failure(error)),
            }
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(None);
            }
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], left.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(failure(error)),
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn failure(source: Errno) -> crate::Error {
    failed("receive", "events of the kernel", source)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIED: &[u8] =
        b"change@/devices/virtual/block/zosbd2-a\0ACTION=change\0SUBSYSTEM=block\0ZOSBD2_EVENT=died\0\
        ZOSBD2_NAME=a\0ZOSBD2_HANDLE=7\0ZOSBD2_EPOCH=2\0ZOSBD2_PID=99\0DEVNAME=zosbd2-a\0SEQNUM=5\0";

    #[test]
    fn events_are_decoded() {
        let event = Event::parse(DIED).expect("an event");
        let wanted = Event { kind: Kind::Died, name: "a".to_owned(), handle: 7, epoch: 2, process: Some(99) };
        assert_eq!(event, wanted);
        assert_eq!(event.to_string(), "/dev/zosbd2-a: the server has died (server 2, process 99)");
        assert_eq!(Event::missed().to_string(), "events were missed");
    }

    #[test]
    fn other_messages_are_no_events() {
        let text = String::from_utf8(DIED.to_vec()).expect("text");
        for (part, other) in [
            ("change@", "remove@"),
            ("=died", "=born"),
            ("ZOSBD2_NAME=a\0", ""),
            ("ZOSBD2_HANDLE=7", "ZOSBD2_HANDLE=x"),
            ("ZOSBD2_EVENT=", "DM_EVENT="),
        ] {
            assert_eq!(Event::parse(text.replace(part, other).as_bytes()), None, "{part} -> {other}");
        }
        assert_eq!(Event::parse(b""), None);
        assert_eq!(Event::parse(b"libudev\0\xfe\xed"), None);
        // What is unknown is left out.
        let short = text.replace("ZOSBD2_PID=99\0", "").replace("ZOSBD2_EPOCH=2\0", "");
        let event = Event::parse(short.as_bytes()).expect("an event");
        assert_eq!((event.epoch, event.process), (0, None));
    }

    #[test]
    fn messages_of_nodes_are_decoded() {
        let message = |action: &str, more: &str| {
            format!(
                "{action}@/devices/virtual/block/zosbd2-a.b\0ACTION={action}\0DEVNAME=zosbd2-a.b\0{more}\0"
            )
        };
        let kind = |action, more| {
            let event = Event::of_node(message(action, more).as_bytes())?;
            assert_eq!((event.name.as_str(), event.handle, event.epoch), ("a.b", 0, 0));
            Some(event.kind)
        };
        assert_eq!(kind("add", "DEVTYPE=disk"), Some(Kind::Added));
        assert_eq!(kind("remove", "DEVTYPE=disk"), Some(Kind::Removed));
        assert_eq!(kind("change", "RESIZE=1\0DEVTYPE=disk"), Some(Kind::Resized));
        assert_eq!(kind("change", "DEVTYPE=disk"), None);
        assert_eq!(kind("add", "DEVTYPE=partition"), None);
        assert_eq!(
            Event::of_node(message("add", "DEVTYPE=disk").replace("zosbd2-", "loop").as_bytes()),
            None
        );
        assert_eq!(Event::of_node(b""), None);
        let event = Event::of_node(message("add", "DEVTYPE=disk").as_bytes()).expect("an event");
        assert_eq!(event.to_string(), "/dev/zosbd2-a.b: the node was made");
        // It is no event of the module, which others would get.
        assert_eq!(Event::parse(message("add", "DEVTYPE=disk").as_bytes()), None);
    }

    #[test]
    fn a_watch_waits_no_longer_than_it_should() {
        let watch = Watch::open().expect("watch");
        let begin = Instant::now();
        assert_eq!(watch.next(Some(Duration::from_millis(20))).expect("no error"), None);
        assert!(begin.elapsed() >= Duration::from_millis(20));
    }
}
