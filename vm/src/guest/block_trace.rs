// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records on which processor the block layer ends requests.
//!
//! Uses its own trace instance beside that of [`tracing`](super::tracing). The event is on for as long as the value
//! lives.

use std::fs;

use super::write_text;

const INSTANCE: &str = "/sys/kernel/tracing/instances/block";
const EVENT: &str = "events/block/block_rq_complete";

/// Recorder of the ends of requests.
#[derive(Debug)]
pub(crate) struct Ends;

impl Ends {
    /// Starts to record the ends of requests of at least one sector.
    pub(crate) fn new() -> Self {
        fs::create_dir(INSTANCE).unwrap_or_else(|error| panic!("make {INSTANCE}: {error}"));
        write_text(&format!("{INSTANCE}/{EVENT}/filter"), "nr_sector > 0");
        write_text(&format!("{INSTANCE}/{EVENT}/enable"), "1");
        Self
    }

    /// The processors that ended requests since the last call, in order.
    pub(crate) fn take(&self) -> Vec<usize> {
        let path = format!("{INSTANCE}/trace");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {path}: {error}"));
        write_text(&path, "");
        let processor = |line: &str| {
            let (_, rest) = line.split_once('[')?;
            rest.split_once(']')?.0.parse().ok()
        };
        text.lines().filter(|line| line.contains("block_rq_complete:")).filter_map(processor).collect()
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        // Removing the instance also removes its event.
        if let Err(error) = fs::remove_dir(INSTANCE) {
            eprintln!("remove {INSTANCE}: {error}");
        }
    }
}
