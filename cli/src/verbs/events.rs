// SPDX-License-Identifier: MIT OR Apache-2.0
//! `zosbd2 events`: a line for each thing that happens to disks, until nobody reads it.

use crate::failure::Result;
use crate::output;
use serde::Serialize;
use std::time::SystemTime;
use zosbd2::events::{Event, Kind, Watch};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Print a line of JSON for each event
    #[arg(short, long)]
    json: bool,
}

/// An event, as JSON has it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Happened {
    /// When it was received: RFC 3339, UTC.
    time: String,
    /// The word for it, see [`word`].
    event: &'static str,
    /// `null` if events were missed.
    name: Option<String>,
    handle: Option<u32>,
    /// Number of the newest server; `null` if the kernel does not tell it.
    server: Option<u32>,
    /// The process that serves, or that did so last.
    process: Option<u32>,
    /// A sentence for people.
    text: String,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let watch = Watch::open()?.with_nodes();
    eprintln!("watching the disks; Ctrl-C ends it");
    while let Some(event) = watch.next(None)? {
        let happened = Happened::new(&event, SystemTime::now());
        let read = if arguments.json {
            output::json_line(&happened)?
        } else {
            output::write(&format!("{}\n", happened.line()))?
        };
        if !read {
            break;
        }
    }
    Ok(())
}

impl Happened {
    pub(crate) fn new(event: &Event, time: SystemTime) -> Self {
        let device = event.kind != Kind::Missed;
        Self {
            time: humantime::format_rfc3339_millis(time).to_string(),
            event: word(event.kind),
            name: device.then(|| event.name.clone()),
            handle: Some(event.handle).filter(|handle| *handle != 0),
            server: Some(event.epoch).filter(|epoch| *epoch != 0),
            process: event.process,
            text: event.to_string(),
        }
    }

    /// The line for people.
    fn line(&self) -> String {
        format!("{}  {:<10}  {}", self.time, self.event, self.text)
    }
}

/// The word for an event.
const fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Died => "died",
        Kind::Recovered => "recovered",
        Kind::Failed => "failed",
        Kind::Late => "late",
        Kind::CacheLost => "cache-lost",
        Kind::Unserved => "unserved",
        Kind::Destroyed => "destroyed",
        Kind::Added => "added",
        Kind::Resized => "resized",
        Kind::Removed => "removed",
        Kind::Missed => "missed",
        _ => "unknown",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn died() -> Happened {
        Happened {
            time: humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH).to_string(),
            event: word(Kind::Died),
            name: Some("a".to_owned()),
            handle: Some(7),
            server: Some(2),
            process: None,
            text: "/dev/zosbd2-a: the server has died (server 2)".to_owned(),
        }
    }

    #[test]
    fn a_line_has_time_word_and_sentence() {
        let wanted = "1970-01-01T00:00:00.000Z  died        /dev/zosbd2-a: the server has died (server 2)";
        assert_eq!(died().line(), wanted);
    }
}
