// SPDX-License-Identifier: MIT OR Apache-2.0
//! Creates a device, or follows its last server if the device exists, has none and is the same one.
//!
//! Programs that are started twice, and devices that vanish meanwhile, make each step fail that was right a moment
//! ago. Then everything is looked at again, for a bounded time.

mod difference;

use self::difference::{differences, text};
use super::abandoned::Abandoned;
use super::handover::HandOver;
use super::peers::{Recorded, servers_of};
use super::{Builder, Control, Process, Server, State, Status, TakeOver, Which};
use crate::{Errno, Error, Result};
pub use difference::Difference;
use std::time::{Duration, Instant};
use zosbd2_abi::v2;

/// How long to try again while another device of the name goes, or its server does.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time between two attempts.
const PERIOD: Duration = Duration::from_millis(50);

/// What a program would serve.
pub(super) struct Wanted<'a> {
    pub(super) builder: &'a Builder,
    /// What CREATE gets.
    pub(super) create: v2::Create,
    /// What the blob must be.
    pub(super) identity: &'a [u8],
    /// Whether to follow a device without an identity if this program has none either.
    pub(super) without_identity: bool,
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

/// The devices of the kernel, as long as somebody waits for the result.
pub(super) struct Real<'a> {
    pub(super) control: &'a Control,
    pub(super) abandoned: &'a Abandoned,
}

impl Devices for Real<'_> {
    type Server = Server;

    fn create(&self, builder: &Builder) -> Result<Server> {
        self.control.create_silently(builder)
    }

    fn status(&self, name: &str) -> Result<Status> {
        self.control.status(name)
    }

    fn blob(&self, device: Which<'_>) -> Result<Vec<u8>> {
        self.control.observe(device)?.blob()
    }

    fn attach(&self, device: Which<'_>, take_over: TakeOver) -> Result<Server> {
        self.control.attach(device, take_over)
    }

    fn served_by(&self, status: &Status) -> String {
        served_by(status)
    }

    fn pause(&self, since: Instant) -> bool {
        std::thread::sleep(PERIOD);
        since.elapsed() < PATIENCE && !self.abandoned.is_set()
    }
}

/// The processes that serve a device, as text; empty if none can be seen, or if the only one is about to end.
pub(super) fn served_by(status: &Status) -> String {
    if let Some(pid) = status.process.filter(|pid| !Process::is_ending(*pid)) {
        return Process { pid, program: status.program.clone() }.to_string();
    }
    // The descriptor may be open in another process: a fork, or a process that it was passed to.
    let processes = servers_of(status.handle, status.epoch);
    super::users::list(processes.iter().map(ToString::to_string))
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

/// A server, whether its device existed before, and the server that STATUS named then.
#[derive(Debug)]
pub(super) struct Found<S> {
    pub(super) server: S,
    pub(super) existed: bool,
    pub(super) recorded: Option<Recorded>,
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
            Ok(server) => return Ok(Found { server, existed: false, recorded: None }),
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
            Ok(server) => {
                return Ok(Found { server, existed: true, recorded: Recorded::of(&status) });
            }
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
    let blob = devices.blob(device)?;
    if blob != wanted.identity {
        differences.push(Difference {
            property: "identity",
            existing: text(&blob),
            wanted: text(wanted.identity),
        });
    }
    if !differences.is_empty() {
        return Err(Error::Differs { name: status.name.clone(), differences });
    }
    // Another program's disk can have the same size and no identity either.
    if blob.is_empty() && !wanted.without_identity {
        return Err(Error::NoIdentity { name: status.name.clone() });
    }
    devices.attach(device, take_over)
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
mod tests;
