// SPDX-License-Identifier: MIT OR Apache-2.0
//! `zosbd2 requests [NAME]`: the requests that are not answered, the oldest first.

use crate::control;
use crate::failure::Result;
use crate::latency;
use crate::output;
use crate::table::{self, Align, Table};
use crate::units::{Time, short};
use serde::Serialize;
use std::fs;
use std::path::Path;
use std::time::Duration;
use zosbd2::v2::{Outstanding, RequestState, abi};
use zosbd2::{Control, Errno, Error, Which};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The disk; all, if none is given
    name: Option<String>,
    /// Only requests that were submitted so long ago, such as 1s
    #[arg(long, value_name = "TIME")]
    older: Option<Time>,
    /// Print JSON
    #[arg(short, long)]
    json: bool,
}

/// An unanswered request, as JSON has it. Bytes, and milliseconds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Unanswered {
    disk: String,
    queue: u32,
    /// Number of the request within its queue.
    tag: u32,
    operation: &'static str,
    offset: u64,
    length: u64,
    /// It must be durable when it is answered.
    fua: bool,
    /// An earlier server had it, and may have carried it out.
    maybe_executed: bool,
    state: &'static str,
    /// Time since the submission.
    age: f64,
    /// What has it; `null` if it waits in the queue.
    holder: Option<Holder>,
}

/// The thread that fetched a request.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Holder {
    thread: u32,
    /// Its process and program; `null` if it has ended, or cannot be seen.
    process: Option<u32>,
    program: Option<String>,
    /// Number of the server, which grows with each server of the disk.
    server: u32,
    /// Time since the fetch.
    since: f64,
}

pub(crate) fn run(arguments: &Arguments, node: Option<&Path>) -> Result<()> {
    let control = control::open(node)?;
    let older = arguments.older.unwrap_or_default().0;
    let mut requests = Vec::new();
    if let Some(name) = &arguments.name {
        let status = control::status(&control, name)?;
        requests.extend(of(&control, Which::from(&status), older)?);
    } else {
        for listed in control.list()? {
            requests.extend(of(&control, Which::from(&listed), older)?);
        }
    }
    requests.sort_by(|a, b| b.age.total_cmp(&a.age));
    if arguments.json {
        return super::json(&requests);
    }
    output::write(&text(&requests, table::width())).map(drop)
}

/// The requests of a disk. A disk that has just gone has none.
fn of(control: &Control, device: Which<'_>, older: Duration) -> Result<Vec<Unanswered>> {
    let look = || {
        let observer = control.observe(device)?;
        let mut requests = Vec::new();
        for queue in 0..observer.status()?.queues {
            let outstanding = observer.requests(queue, older)?;
            requests.extend(outstanding.iter().map(|it| Unanswered::new(device.name(), queue, it)));
        }
        Ok(requests)
    };
    match look() {
        Err(Error::Control { source: Errno::NODEV | Errno::NOENT | Errno::STALE, .. }) => Ok(Vec::new()),
        result => result.map_err(Into::into),
    }
}

impl Unanswered {
    pub(crate) fn new(disk: &str, queue: u32, request: &Outstanding) -> Self {
        let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
        let holder = request.holder.map(|holder| {
            let process = process(holder.thread);
            Holder {
                thread: holder.thread,
                program: process.and_then(program),
                process,
                server: holder.epoch,
                since: milliseconds(holder.since),
            }
        });
        Self {
            disk: disk.to_owned(),
            queue,
            tag: request.tag,
            operation: operation(request.op),
            offset: request.offset,
            length: request.length,
            fua: request.flags & abi::REQUEST_FUA != 0,
            maybe_executed: request.flags & abi::REQUEST_MAYBE_EXECUTED != 0,
            state: state(request.state),
            age: milliseconds(request.age),
            holder,
        }
    }
}

/// The table, in at most `width` columns if that is possible.
fn text(requests: &[Unanswered], width: Option<usize>) -> String {
    let headings = vec![
        ("NAME", Align::Long),
        ("OPERATION", Align::Left),
        ("OFFSET", Align::Right),
        ("LENGTH", Align::Right),
        ("AGE", Align::Right),
        ("STATE", Align::Left),
        ("THREAD", Align::Right),
        ("PROCESS", Align::Long),
    ];
    let mut table = Table::new(headings, true);
    for request in requests {
        let (thread, process) = request.holder.as_ref().map_or_else(Default::default, |holder| {
            let process = match (holder.process, &holder.program) {
                (Some(pid), Some(program)) => format!("{pid} ({program})"),
                (Some(pid), None) => pid.to_string(),
                _ => "not seen".to_owned(),
            };
            (holder.thread.to_string(), process)
        });
        let fua = if request.fua { " (FUA)" } else { "" };
        table.row(vec![
            request.disk.clone(),
            format!("{}{fua}", request.operation),
            request.offset.to_string(),
            short(request.length),
            latency::short(Duration::from_secs_f64(request.age / 1000.0)),
            request.state.to_owned(),
            thread,
            process,
        ]);
    }
    table.text(width)
}

/// The process of a thread.
fn process(thread: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// The name of a process's program.
fn program(pid: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

/// The word for an operation.
const fn operation(number: u32) -> &'static str {
    match number {
        abi::OP_READ => "read",
        abi::OP_WRITE => "write",
        abi::OP_DISCARD => "discard",
        abi::OP_FLUSH => "flush",
        abi::OP_WRITE_ZEROES => "write-zeroes",
        abi::OP_SECURE_ERASE => "secure-erase",
        _ => "unknown",
    }
}

/// The word for a state.
const fn state(state: RequestState) -> &'static str {
    match state {
        RequestState::Queued => "queued",
        RequestState::Held => "held",
        RequestState::Copying => "copying",
        RequestState::Doomed => "failed",
        _ => "unknown",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A write that this process has, and a flush that nothing has.
    pub(crate) fn requests() -> [Unanswered; 2] {
        let held = abi::Outstanding {
            tag: 7,
            op: abi::OP_WRITE,
            flags: abi::REQUEST_FUA,
            offset: 1 << 40,
            length: 4096,
            state: abi::OUTSTANDING_HELD,
            age_ns: 1_500_000_000,
            held_ns: 1_000,
            epoch: 2,
            thread: std::process::id(),
        };
        let queued = abi::Outstanding {
            op: abi::OP_FLUSH,
            state: abi::OUTSTANDING_QUEUED,
            ..abi::Outstanding::default()
        };
        [&held, &queued].map(|raw| Unanswered::new("a-name-of-24-characters-", 0, &Outstanding::from(raw)))
    }

    #[test]
    fn requests_are_shown_with_what_has_them() {
        let requests = requests();
        let pid = std::process::id();
        assert_eq!(requests[0].holder.as_ref().and_then(|holder| holder.process), Some(pid));
        assert!(requests[1].holder.is_none());
        let text = text(&requests, None);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].contains("write (FUA)  1099511627776      4K  1.5s  held"), "{text}");
        assert!(lines[1].contains(&format!("{pid} (")), "{text}");
        assert!(lines[2].contains("flush") && lines[2].contains("queued"), "{text}");
    }

    #[test]
    fn the_table_fits_80_columns() {
        let text = text(&requests(), Some(80));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
}
