// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks the tracepoints of every test that is not hidden against the model. The tracepoints are switched on with
//! the module.
//!
//! The buffers keep the oldest events, so the check covers the time from the load of the module up to the first
//! event that did not fit. The kernel empties the buffers when the module is unloaded.

use super::replay::{Event, Replay};
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/kernel/tracing";
/// debugfs folder with one folder for each device that still exists.
const DEVICES: &str = "/sys/kernel/debug/zosbd2";

/// Settings of the trace: the clock is a counter, which orders events of all CPUs; the oldest events are kept; and
/// task names are not recorded, because for these the kernel would patch its running scheduler each time the
/// module comes and goes. QEMU's translator now and then executes such a place half patched (an oops of int3 in
/// `ttwu_do_activate`).
const SETTINGS: [(&str, &str); 4] = [
    ("trace_clock", "counter"),
    ("options/overwrite", "0"),
    ("options/record-cmd", "0"),
    ("buffer_size_kb", "1024"),
];

/// Result of a check.
#[derive(Debug, Default)]
pub(crate) struct Followed {
    /// Events that were checked against the model.
    pub(crate) events: usize,
    /// Whether further events did not fit.
    pub(crate) cut: bool,
    /// The deviation from the model, if any.
    pub(crate) fault: Option<String>,
}

fn write(file: &str, text: &str) -> bool {
    fs::write(Path::new(ROOT).join(file), text).is_ok()
}

/// Prepares for a test by emptying the buffers. Does nothing if the kernel has no tracing.
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

/// Checks the events so far against the model. Changes nothing.
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

/// The events so far, in order. All of them must have fitted.
pub(crate) fn traced() -> Vec<Event> {
    let (events, cut) = at_rest(events).unwrap_or_else(|fault| panic!("{fault}"));
    assert!(!cut, "some events had no room");
    events
}

/// Pauses tracing meanwhile: otherwise an event that comes while the buffers of other CPUs are read would lack the
/// events before it.
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

/// All events in order, and whether further events did not fit.
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
