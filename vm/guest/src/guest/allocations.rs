// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records the stack of each kernel allocation, of slab objects and of pages, while something runs.
//!
//! The events are on for as long as the
//! value lives. Recording is a switch in the buffer, so the kernel's code is not patched while it runs hot (see
//! there).

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;

use super::trace_instance::Instance;

/// Events of allocations. Large objects, per-CPU memory and mappings consist of pages.
const EVENTS: [&str; 3] = ["kmem/kmalloc", "kmem/kmem_cache_alloc", "kmem/mm_page_alloc"];
/// Entry points of interrupts. An interrupted function has no part in an allocation by an interrupt. A page fault
/// is no such interrupt: its cause is below it in the stack.
const INTERRUPTS: [&str; 3] = ["asm_sysvec_", "asm_common_interrupt", "asm_exc_nmi"];

/// Recorder of allocations.
#[derive(Debug)]
pub(crate) struct Allocations(Instance);

/// The recorded allocations.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    /// Number of all allocations.
    pub(crate) all: usize,
    /// Stacks that contain a function of the module, innermost function first.
    pub(crate) ours: Vec<Vec<String>>,
}

impl Allocations {
    /// Switches the events on.
    pub(crate) fn new() -> Self {
        let instance = Instance::new("allocations");
        for (file, text) in [
            ("tracing_on", "0"),
            ("options/overwrite", "0"),
            ("options/stacktrace", "1"),
            // Adds the module's name to functions of modules.
            ("options/sym-offset", "1"),
            ("buffer_size_kb", "16384"),
        ] {
            instance.write(file, text);
        }
        for event in EVENTS {
            instance.write(&format!("events/{event}/enable"), "1");
        }
        Self(instance)
    }

    /// Records allocations while `what` runs.
    pub(crate) fn during(&self, what: impl FnOnce()) -> Recorded {
        self.0.write("trace", "");
        self.0.write("tracing_on", "1");
        what();
        self.0.write("tracing_on", "0");
        let mut recorded = Recorded::default();
        for cpu in fs::read_dir(self.0.path().join("per_cpu")).expect("CPUs").flatten() {
            assert_complete(&cpu.path().join("stats"));
            read(&cpu.path().join("trace"), &mut recorded);
        }
        recorded
    }
}

/// Fails if the buffer was too small.
fn assert_complete(stats: &PathBuf) {
    let text = fs::read_to_string(stats).unwrap_or_else(|error| panic!("read {}: {error}", stats.display()));
    for line in
        text.lines().filter(|line| line.starts_with("overrun:") || line.starts_with("dropped events:"))
    {
        assert!(line.ends_with(": 0"), "{}: allocations were lost: {line}", stats.display());
    }
}

/// Adds the record of one CPU: lines of events, each followed by the lines of its stack.
fn read(trace: &PathBuf, recorded: &mut Recorded) {
    let file = File::open(trace).unwrap_or_else(|error| panic!("open {}: {error}", trace.display()));
    let mut stack = Vec::new();
    for line in BufReader::new(file).lines() {
        let line = line.unwrap_or_else(|error| panic!("read {}: {error}", trace.display()));
        if let Some(function) = line.strip_prefix(" => ") {
            stack.push(function.to_owned());
        } else {
            recorded.take(std::mem::take(&mut stack));
        }
    }
    recorded.take(stack);
}

impl Recorded {
    fn take(&mut self, mut stack: Vec<String>) {
        if stack.is_empty() {
            return;
        }
        self.all += 1;
        let interrupt = |function: &String| INTERRUPTS.iter().any(|entry| function.starts_with(entry));
        if let Some(end) = stack.iter().position(interrupt) {
            stack.truncate(end);
        }
        if stack.iter().any(|function| function.contains("[zosbd2]")) {
            self.ours.push(stack);
        }
    }
}
