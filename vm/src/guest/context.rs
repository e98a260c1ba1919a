// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a test is handed: the module under test, the plan, and ways to say something.

use super::process::{Spawned, command};
use super::random::Random;
use super::{disk, modules, report, tracing};
use std::fs;
use zosbd2_vm::protocol::{Line, MODULE, PLAN, Plan};

/// What a test is handed.
#[derive(Debug)]
pub(crate) struct Context {
    plan: Plan,
}

impl Context {
    /// From the plan in the guest.
    pub(crate) fn new() -> Self {
        let text = fs::read_to_string(PLAN).unwrap_or_else(|error| panic!("read {PLAN}: {error}"));
        Self { plan: Plan::parse(&text).unwrap_or_else(|| panic!("{PLAN} is damaged:\n{text}")) }
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Loads the module under test, with parameters as one would give to insmod.
    pub(crate) fn load_module(&mut self, parameters: &str) {
        modules::load_file(MODULE, parameters);
        tracing::begin();
    }

    /// As [`load_module`](Self::load_module), returning the kernel's refusal.
    pub(crate) fn try_load_module(&mut self, parameters: &str) -> std::io::Result<()> {
        modules::try_load_file(MODULE, parameters)?;
        tracing::begin();
        Ok(())
    }

    /// Unloads it; the kernel must agree at once.
    pub(crate) fn unload_module(&mut self) {
        self.try_unload_module().unwrap_or_else(|error| panic!("unload zosbd2: {error}"));
    }

    /// Tries to unload it. What it did until then is held against the model: the kernel forgets it.
    pub(crate) fn try_unload_module(&mut self) -> std::io::Result<()> {
        if let Some(fault) = tracing::follow().fault {
            panic!("{fault}");
        }
        modules::try_unload("zosbd2")
    }

    /// Loads a module of the kernel with all it depends on; a built-in one is there already.
    pub(crate) fn load_kernel_module(&mut self, name: &str, parameters: &str) {
        modules::load(name, parameters);
    }

    /// Makes the machine's disk ([`Need::Disk`](super::Need::Disk)) usable; returns its node.
    pub(crate) fn load_disk(&mut self) -> &'static str {
        disk::load();
        disk::DISK
    }

    /// Starts a program; it is killed when the value is dropped.
    pub(crate) fn spawn(&self, program: &str, arguments: &[&str]) -> Spawned {
        Spawned::start(command(program, arguments))
    }

    /// The seed of this run. A failed test's is in its console log.
    pub(crate) fn seed(&self) -> u64 {
        self.plan.seed
    }

    /// Random numbers of this run's seed, different for every name.
    pub(crate) fn random(&self, name: &str) -> Random {
        Random::named(self.plan.seed, name)
    }

    /// Which build of the module this is: `release`, `faults`.
    pub(crate) fn variant(&self) -> &str {
        &self.plan.variant
    }

    /// What all deadlines are multiplied by.
    pub(crate) fn slowness(&self) -> u32 {
        self.plan.slowness.max(1)
    }

    /// How often to do what is only repeated: `full`, or so much less, but once, as deadlines are stretched.
    pub(crate) fn share(&self, full: u64) -> u64 {
        (full / u64::from(self.slowness())).max(1)
    }

    /// The value of `--set NAME=VALUE`.
    pub(crate) fn setting(&self, name: &str) -> Option<&str> {
        let value = |setting: &'_ String| {
            let (key, _) = setting.split_once('=')?;
            (key == name).then_some(key.len() + 1)
        };
        self.plan.settings.iter().find_map(|setting| value(setting).map(|from| &setting[from..]))
    }

    /// Whether this word is on the kernel's command line.
    pub(crate) fn has_argument(&self, word: &str) -> bool {
        let line = fs::read_to_string("/proc/cmdline").expect("proc is mounted");
        line.split_whitespace().any(|given| given == word)
    }

    /// Tells the person who watches, at once.
    pub(crate) fn say(&self, text: &str) {
        report::send(&Line::Say(text.to_owned()));
    }

    /// Hands a text to the program that started the machine, which gets all of them in order.
    pub(crate) fn data(&self, text: &str) {
        report::send(&Line::Data(text.to_owned()));
    }
}
