// SPDX-License-Identifier: MIT OR Apache-2.0
//! The argument of a test: the module under test, the plan, and output.

use super::process::{Spawned, command};
use super::random::Random;
use super::{disk, modules, report, tracing};
use std::fs;
use zosbd2_vm_guest::protocol::{Line, MODULE, PLAN, Plan};

/// The argument of a test.
#[derive(Debug)]
pub(crate) struct Context {
    plan: Plan,
}

impl Context {
    /// Reads the plan in the guest.
    pub(crate) fn new() -> Self {
        let text = fs::read_to_string(PLAN).unwrap_or_else(|error| panic!("read {PLAN}: {error}"));
        Self { plan: Plan::parse(&text).unwrap_or_else(|| panic!("{PLAN} is damaged:\n{text}")) }
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Loads the module under test, with parameters as for insmod.
    pub(crate) fn load_module(&mut self, parameters: &str) {
        modules::load_file(MODULE, parameters);
        tracing::begin();
    }

    /// Like [`load_module`](Self::load_module), but returns the kernel's error.
    pub(crate) fn try_load_module(&mut self, parameters: &str) -> std::io::Result<()> {
        modules::try_load_file(MODULE, parameters)?;
        tracing::begin();
        Ok(())
    }

    /// Unloads the module. The kernel must agree at once.
    pub(crate) fn unload_module(&mut self) {
        self.try_unload_module().unwrap_or_else(|error| panic!("unload zosbd2: {error}"));
    }

    /// Tries to unload the module. First checks its trace against the model, because the kernel then forgets the
    /// trace.
    pub(crate) fn try_unload_module(&mut self) -> std::io::Result<()> {
        if let Some(fault) = tracing::follow().fault {
            panic!("{fault}");
        }
        modules::try_unload("zosbd2")
    }

    /// Loads a module of the kernel with its dependencies. A built-in module needs no load.
    pub(crate) fn load_kernel_module(&mut self, name: &str, parameters: &str) {
        modules::load(name, parameters);
    }

    /// Loads the drivers of the machine's disk ([`Need::Disk`](super::Need::Disk)); returns its node.
    pub(crate) fn load_disk(&mut self) -> &'static str {
        disk::load();
        disk::DISK
    }

    /// Starts a program. Dropping the value kills the program.
    pub(crate) fn spawn(&self, program: &str, arguments: &[&str]) -> Spawned {
        Spawned::start(command(program, arguments))
    }

    /// The seed of this run. The console log of a failed test shows it.
    pub(crate) fn seed(&self) -> u64 {
        self.plan.seed
    }

    /// Random numbers from the seed of this run, different for every name.
    pub(crate) fn random(&self, name: &str) -> Random {
        Random::named(self.plan.seed, name)
    }

    /// Variant of the module: `release` or `faults`.
    pub(crate) fn variant(&self) -> &str {
        &self.plan.variant
    }

    /// Factor for all deadlines.
    pub(crate) fn slowness(&self) -> u32 {
        self.plan.slowness.max(1)
    }

    /// A repeat count: `full`, divided by the factor for deadlines, but at least 1.
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

    /// Whether the kernel's command line has this word.
    pub(crate) fn has_argument(&self, word: &str) -> bool {
        let line = fs::read_to_string("/proc/cmdline").expect("proc is mounted");
        line.split_whitespace().any(|given| given == word)
    }

    /// Sends a message to the person who watches, at once.
    pub(crate) fn say(&self, text: &str) {
        report::send(&Line::Say(text.to_owned()));
    }

    /// Sends a text to the program that started the machine, which receives all texts in order.
    pub(crate) fn data(&self, text: &str) {
        report::send(&Line::Data(text.to_owned()));
    }
}
