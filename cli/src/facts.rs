// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is known of disks: the kernel's state, the configuration, and what uses them. `--json` prints these structs, so
//! their fields are part of the interface: see `docs/schema`.

use crate::config::Disk;
use crate::failure::Result;
use crate::places::Places;
use serde::Serialize;
use zosbd2::{Control, Listed, Observer, State, Status, Users};

/// A disk that exists, or that is configured.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Facts {
    pub(crate) name: String,
    /// Its node; `null` if it is only configured.
    pub(crate) node: Option<String>,
    /// Size in bytes; `null` if it is only configured.
    pub(crate) size: Option<u64>,
    /// `created`, `live`, `orphaned`, `failed`, `destroyed`, or `absent` if it is only configured.
    pub(crate) state: &'static str,
    /// Version of the interface.
    pub(crate) interface: Option<u32>,
    /// The configured backend.
    pub(crate) backend: Option<&'static str>,
    /// What stores its data.
    pub(crate) source: Option<String>,
    /// It comes back at boot.
    pub(crate) persistent: bool,
    /// The serving process.
    pub(crate) server_pid: Option<u32>,
    /// The serving program.
    pub(crate) server_program: Option<String>,
    /// How often it is open.
    pub(crate) opens: u32,
    pub(crate) mountpoints: Vec<String>,
    /// Disks that are made of it.
    pub(crate) holders: Vec<String>,
    pub(crate) swap: Vec<String>,
    /// Requests that passed their deadline, since the disk was made.
    pub(crate) late: u64,
}

impl Facts {
    /// Those of all disks, sorted by name.
    pub(crate) fn all(control: &Control, places: &Places) -> Result<Vec<Self>> {
        let listed = control.list()?;
        let mut facts: Vec<Self> =
            listed.iter().filter_map(|listed| Self::of(control, places, listed)).collect();
        for name in places.names() {
            if !facts.iter().any(|facts| facts.name == name) {
                facts.push(Self::configured(places, &name));
            }
        }
        facts.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(facts)
    }

    /// Those of a device; `None` if it has just gone.
    fn of(control: &Control, places: &Places, listed: &Listed) -> Option<Self> {
        let observer = control.observe(listed).ok()?;
        let status = observer.status().ok()?;
        // Looking through all processes takes long, and there may be many disks.
        let users = if status.opens > 0 { observer.users().ok()? } else { Users::default() };
        let late = late(&observer, status.queues);
        Some(Self { late, ..Self::new(places, &status, &users) })
    }

    /// Those of a device in this state.
    pub(crate) fn new(places: &Places, status: &Status, users: &Users) -> Self {
        let texts =
            |paths: &[std::path::PathBuf]| paths.iter().map(|path| path.display().to_string()).collect();
        let started = status.device_number.is_some();
        Self {
            node: started.then(|| status.path().display().to_string()),
            size: Some(status.size_bytes),
            state: state(status.state),
            interface: Some(status.version),
            server_pid: status.process,
            server_program: Some(status.program.clone()).filter(|program| !program.is_empty()),
            opens: status.opens,
            mountpoints: texts(&users.mounts),
            holders: users.holders.clone(),
            swap: texts(&users.swap),
            ..Self::configured(places, &status.name)
        }
    }

    /// Those of a disk that is configured, or not even that.
    pub(crate) fn configured(places: &Places, name: &str) -> Self {
        let disk = places.configuration(name).and_then(|path| Disk::read(&path).ok());
        Self {
            name: name.to_owned(),
            node: None,
            size: None,
            state: "absent",
            interface: None,
            backend: disk.as_ref().map(|disk| disk.backend.word()),
            source: disk.as_ref().map(Disk::source).filter(|source| !source.is_empty()),
            persistent: places.persistent_file(name).exists(),
            server_pid: None,
            server_program: None,
            opens: 0,
            mountpoints: Vec::new(),
            holders: Vec::new(),
            swap: Vec::new(),
            late: 0,
        }
    }
}

/// Requests of all queues that passed their deadline.
pub(crate) fn late(observer: &Observer, queues: u32) -> u64 {
    (0..queues).filter_map(|queue| observer.stats(queue).ok()).map(|counts| counts.expired).sum()
}

/// The word for a state.
pub(crate) const fn state(state: State) -> &'static str {
    match state {
        State::Created => "created",
        State::Live => "live",
        State::Orphaned => "orphaned",
        State::Failed => "failed",
        State::Destroyed => "destroyed",
        _ => "unknown",
    }
}
