// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tracepoints of every test that is not hidden: switched on with the module, and held against the model.
//!
//! The buffers keep what came first, so what is read is what happened from the load of the module on, up to the first
//! event that had no room. The kernel empties them when the module goes.

use super::replay::{Event, Replay};
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/kernel/tracing";
/// Ours are a folder in there, one for each device that is not gone.
const DEVICES: &str = "/sys/kernel/debug/zosbd2";

/// Settings of the kernel: a number as the clock, which orders events of all CPUs; what comes first is kept; and no
/// names of tasks, for which the kernel would patch its scheduler while that runs, each time a module comes and goes:
/// QEMU's translator now and then executes such a place half patched (an oops of int3 in `ttwu_do_activate`).
const SETTINGS: [(&str, &str); 4] = [
    ("trace_clock", "counter"),
    ("options/overwrite", "0"),
    ("options/record-cmd", "0"),
    ("buffer_size_kb", "1024"),
];

/// What came of one look.
#[derive(Debug, Default)]
pub(crate) struct Followed {
    /// Events that were held against the model.
    pub(crate) events: usize,
    /// Whether there were more than that.
    pub(crate) cut: bool,
    /// What was wrong.
    pub(crate) fault: Option<String>,
}

fn write(file: &str, text: &str) -> bool {
    fs::write(Path::new(ROOT).join(file), text).is_ok()
}

/// Prepares for a test: nothing is in the buffers. Without tracing in the kernel nothing is done.
pub(crate) fn prepare(on: bool) {
    for (file, text) in SETTINGS {
        write(file, text);
    }
    write("trace", "");
    write("tracing_on", if on { "1" } else { "0" });
}

/// Switches the module's events on, if this test is to be traced.
pub(crate) fn begin() {
    let on = fs::read_to_string(Path::new(ROOT).join("tracing_on")).is_ok_and(|text| text.trim() == "1");
    if on {
        write("events/zosbd2/enable", "1");
    }
}

/// Holds what was traced so far against the model; changes nothing.
pub(crate) fn follow() -> Followed {
    if !Path::new(ROOT).join("events/zosbd2").exists() {
        return Followed::default();
    }
    let (all_gone, read) = at_rest(|| {
        let all_gone = fs::read_dir(DEVICES).is_ok_and(|mut devices| devices.next().is_none());
        (all_gone, events())
    });
    match read {
        Ok((events, cut)) => {
            let fault = replay(&events, all_gone && !cut).err();
            Followed { events: events.len(), cut, fault }
        }
        Err(fault) => Followed { fault: Some(fault), ..Followed::default() },
    }
}

/// What was traced so far, in order. There must have been room for all of it.
pub(crate) fn traced() -> Vec<Event> {
    let (events, cut) = at_rest(events).unwrap_or_else(|fault| panic!("{fault}"));
    assert!(!cut, "some events had no room");
    events
}

/// Looks while nothing is traced: events of one CPU that come while those of another are read would seem to have no past.
fn at_rest<T>(look: impl FnOnce() -> T) -> T {
    write("tracing_on", "0");
    let seen = look();
    write("tracing_on", "1");
    seen
}

fn replay(events: &[Event], ended: bool) -> Result<(), String> {
    let mut replay = Replay::default();
    for (index, event) in events.iter().enumerate() {
        replay.take(event).map_err(|deviation| {
            let before = &events[index.saturating_sub(12)..index];
            format!("{deviation}, after {before:#?}")
        })?;
    }
    if ended { replay.end().map_err(|deviation| deviation.to_string()) } else { Ok(()) }
}

/// All events in order, and whether there were more.
fn events() -> Result<(Vec<Event>, bool), String> {
    let read = |path: &PathBuf| {
        fs::read_to_string(path).map_err(|error| format!("read {}: {error}", path.display()))
    };
    let (mut events, mut end) = (Vec::new(), None);
    let folders =
        fs::read_dir(Path::new(ROOT).join("per_cpu")).map_err(|error| format!("per_cpu: {error}"))?;
    for folder in folders.flatten() {
        let from = events.len();
        for line in read(&folder.path().join("trace"))?.lines() {
            events.extend(Event::parse(line)?);
        }
        let dropped = read(&folder.path().join("stats"))?
            .lines()
            .filter_map(|line| line.strip_prefix("dropped events:"))
            .any(|count| count.trim() != "0");
        if dropped {
            let last = events.get(from..).and_then(<[Event]>::last).map_or(0, |event| event.at);
            end = Some(end.map_or(last, |end: u64| end.min(last)));
        }
    }
    events.retain(|event| end.is_none_or(|end| event.at <= end));
    events.sort_by_key(|event| event.at);
    Ok((events, end.is_some()))
}
