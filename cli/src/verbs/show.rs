// SPDX-License-Identifier: MIT OR Apache-2.0
//! `zosbd2 show NAME`: everything about a disk, in words.

use crate::config::Disk;
use crate::control;
use crate::facts::{self, Facts};
use crate::failure::{Code, Result};
use crate::launch::Launcher;
use crate::output;
use crate::places::Places;
use crate::units::short;
use serde::Serialize;
use std::path::Path;
use std::time::Duration;
use zosbd2::v2::abi;
use zosbd2::{Control, DeadlinePolicy, Status, Which};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The disk
    #[arg(value_parser = crate::units::name)]
    name: String,
    /// Print JSON
    #[arg(short, long)]
    json: bool,
}

/// All that is known of a disk, as JSON has it. Sizes in bytes, times in milliseconds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Details {
    #[serde(flatten)]
    facts: Facts,
    /// Its keys are missing if the disk is only configured.
    #[serde(flatten)]
    device: Option<Device>,
    /// The configuration of the disk.
    configuration: Option<String>,
    /// The version of the loaded module.
    module_version: String,
    /// The version of this command.
    command_version: &'static str,
    /// Where the server's messages are.
    log: Option<String>,
}

/// What the kernel knows of a device.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(clippy::struct_excessive_bools, reason = "they are what JSON has")]
struct Device {
    serial: String,
    handle: u32,
    /// Number of the newest server: it grows with each.
    epoch: u32,
    /// Open server descriptors, older ones included.
    servers: u32,
    owner_uid: u32,
    logical_block_size: u32,
    physical_block_size: u32,
    io_min: u32,
    io_opt: u32,
    max_io_bytes: u32,
    queues: u32,
    depth: u32,
    read_only: bool,
    volatile_cache: bool,
    fua: bool,
    discard_granularity: u32,
    max_discard_bytes: u32,
    max_write_zeroes_bytes: u32,
    max_secure_erase_bytes: u32,
    grace: u64,
    /// 0: none.
    deadline: u64,
    policy: &'static str,
    /// The next flush fails, because answered writes were lost.
    cache_lost: bool,
    /// Threads that wait for requests now.
    threads: u32,
    /// For how long requests have waited without a thread; `null`: they do not.
    unserved: Option<u64>,
}

pub(crate) fn run(arguments: &Arguments, node: Option<&Path>) -> Result<()> {
    let (control, places, name) = (control::open(node)?, Places::system(), &arguments.name);
    let details = match control::status(&control, name) {
        Ok(status) => {
            let observer = control.observe(Which::from(&status))?;
            let late = facts::late(&observer, status.queues);
            let facts = Facts { late, ..Facts::new(&places, &status, &observer.users()?) };
            Details::new(&places, facts, Some(&status), &control)
        }
        Err(failure) if failure.code == Code::Missing && places.configuration(name).is_some() => {
            // A configuration that is wrong is why the disk is not there.
            Disk::find(&places, name)?;
            Details::new(&places, Facts::configured(&places, name), None, &control)
        }
        Err(failure) => return Err(failure),
    };
    if arguments.json {
        return super::json(&details);
    }
    let lines = details.words().into_iter().map(|(what, text)| format!("{what:<20}{text}\n"));
    output::write(&lines.collect::<String>()).map(drop)
}

impl Details {
    fn new(places: &Places, facts: Facts, status: Option<&Status>, control: &Control) -> Self {
        Self::with_version(places, facts, status, &control.info().module_version)
    }

    pub(crate) fn with_version(
        places: &Places,
        facts: Facts,
        status: Option<&Status>,
        module_version: &str,
    ) -> Self {
        let configuration = places.configuration(&facts.name).map(|path| path.display().to_string());
        Self {
            log: configuration.is_some().then(|| Launcher::here().log(places, &facts.name)),
            configuration,
            device: status.map(Device::new),
            facts,
            module_version: module_version.to_owned(),
            command_version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// The lines for people.
    fn words(&self) -> Vec<(&'static str, String)> {
        let facts = &self.facts;
        let mut lines = vec![
            ("Name", facts.name.clone()),
            ("Node", facts.node.clone().unwrap_or_else(|| "not there yet".to_owned())),
            ("State", sentence(facts.state).to_owned()),
            ("Backend", facts.backend.unwrap_or("made by another program").to_owned()),
        ];
        lines.extend(facts.source.clone().map(|source| ("Source", source)));
        let persistent = if facts.persistent { "yes: it comes back at boot" } else { "no: until the reboot" };
        lines.push(("Persistent", persistent.to_owned()));
        lines.extend(self.configuration.clone().map(|path| ("Configuration", path)));
        lines.extend(self.device.iter().flat_map(|device| device.words(facts)));
        lines.push(("Version", format!("module {}, command {}", self.module_version, self.command_version)));
        lines.extend(self.log.clone().map(|log| ("Log", log)));
        lines
    }
}

impl Device {
    fn new(status: &Status) -> Self {
        let flag = |flag: u32| status.create_flags & flag != 0;
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            serial: status.serial.clone(),
            handle: status.handle,
            epoch: status.epoch,
            servers: status.servers,
            owner_uid: status.owner_uid,
            logical_block_size: status.logical_block_size,
            physical_block_size: status.physical_block_size,
            io_min: status.io_min,
            io_opt: status.io_opt,
            max_io_bytes: status.max_io_bytes,
            queues: status.queues,
            depth: status.depth,
            read_only: flag(abi::CREATE_READ_ONLY),
            volatile_cache: flag(abi::CREATE_VOLATILE_CACHE),
            fua: flag(abi::CREATE_FUA),
            discard_granularity: status.discard_granularity,
            max_discard_bytes: status.max_discard_bytes,
            max_write_zeroes_bytes: status.max_write_zeroes_bytes,
            max_secure_erase_bytes: status.max_secure_erase_bytes,
            grace: milliseconds(status.grace),
            deadline: status.deadline.map_or(0, milliseconds),
            policy: policy(status.deadline_policy),
            cache_lost: status.lost,
            threads: status.threads,
            unserved: status.unserved.map(milliseconds),
        }
    }

    /// The lines for people.
    fn words(&self, facts: &Facts) -> Vec<(&'static str, String)> {
        let yes = |flag: bool| if flag { "yes" } else { "no" }.to_owned();
        let time =
            |milliseconds: u64| humantime::format_duration(Duration::from_millis(milliseconds)).to_string();
        let limit = |bytes: u32| {
            if bytes == 0 { "not supported".to_owned() } else { format!("up to {}", short(bytes.into())) }
        };
        let server = match (facts.server_pid, &facts.server_program) {
            (Some(pid), Some(program)) => format!("process {pid} ({program}), server number {}", self.epoch),
            (None, None) if facts.interface == Some(1) && facts.state == "live" => {
                "a program that the kernel does not name: it uses interface version 1".to_owned()
            }
            (None, Some(program)) => format!("{program}, which has ended or cannot be seen"),
            _ => "none".to_owned(),
        };
        let mut used = Vec::new();
        for (what, names) in
            [("mounted on", &facts.mountpoints), ("part of", &facts.holders), ("swap space", &facts.swap)]
        {
            if !names.is_empty() {
                used.push(format!("{what} {}", names.join(", ")));
            }
        }
        used.push(format!("open {} times", facts.opens));
        let size = facts.size.map(|bytes| format!("{} ({bytes} bytes)", short(bytes)));
        let mut lines = vec![
            ("Interface", format!("version {}", facts.interface.unwrap_or_default())),
            ("Size", size.unwrap_or_default()),
            ("Serial", if self.serial.is_empty() { "none".to_owned() } else { self.serial.clone() }),
            ("Server", server),
            ("Waiting threads", self.threads.to_string()),
            ("In use", used.join("; ")),
            (
                "Blocks",
                format!("{} bytes logical, {} physical", self.logical_block_size, self.physical_block_size),
            ),
            ("Queues", format!("{} with {} requests each", self.queues, self.depth)),
            ("Longest request", short(self.max_io_bytes.into())),
            ("Read-only", yes(self.read_only)),
            ("Volatile cache", yes(self.volatile_cache)),
            ("FUA", yes(self.fua)),
            ("Discard", limit(self.max_discard_bytes)),
            ("Write-zeroes", limit(self.max_write_zeroes_bytes)),
            ("Secure erase", limit(self.max_secure_erase_bytes)),
        ];
        if facts.interface != Some(1) {
            let deadline = if self.deadline == 0 {
                "none".to_owned()
            } else {
                format!("{}, then: {}", time(self.deadline), self.policy)
            };
            lines.extend([
                ("Grace", format!("{}: so long does I/O wait for a new server", time(self.grace))),
                ("Deadline", deadline),
            ]);
        }
        lines.push(("Late requests", facts.late.to_string()));
        if self.cache_lost {
            lines.push(("Cache", "writes were lost with a server's cache: the next flush fails".to_owned()));
        }
        if let Some(milliseconds) = self.unserved {
            lines.push((
                "Unserved",
                format!("requests have waited for {} without a thread", time(milliseconds)),
            ));
        }
        lines
    }
}

/// The word for a policy.
const fn policy(policy: DeadlinePolicy) -> &'static str {
    match policy {
        DeadlinePolicy::Fail => "eio",
        DeadlinePolicy::Requeue => "requeue",
        DeadlinePolicy::DeclareDead => "dead",
        _ => "unknown",
    }
}

/// What a state means.
fn sentence(state: &str) -> &str {
    match state {
        "created" => "created: not started yet",
        "live" => "live: served",
        "orphaned" => "orphaned: its server has gone, and I/O waits for another one",
        "failed" => "failed: no server came in time, and I/O fails",
        "destroyed" => "destroyed: it is going",
        "absent" => {
            "absent: it is configured, and no device of that name exists; `zosbd2 recover` starts its server"
        }
        other => other,
    }
}
