// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records on which processor the block layer ends requests.
//!
//! The event is on for as long as the value lives.

use std::fs;

use super::trace_instance::Instance;

const EVENT: &str = "events/block/block_rq_complete";

/// Recorder of the ends of requests.
#[derive(Debug)]
pub(crate) struct Ends(Instance);

impl Ends {
    /// Starts to record the ends of requests of at least one sector.
    pub(crate) fn new() -> Self {
        let instance = Instance::new("block");
        instance.write(&format!("{EVENT}/filter"), "nr_sector > 0");
        instance.write(&format!("{EVENT}/enable"), "1");
        Self(instance)
    }

    /// The processors that ended requests since the last call, in order.
    pub(crate) fn take(&self) -> Vec<usize> {
        let path = self.0.path().join("trace");
        let text =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
        self.0.write("trace", "");
        let processor = |line: &str| {
            let (_, rest) = line.split_once('[')?;
            rest.split_once(']')?.0.parse().ok()
        };
        text.lines().filter(|line| line.contains("block_rq_complete:")).filter_map(processor).collect()
    }
}
