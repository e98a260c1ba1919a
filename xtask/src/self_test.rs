// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask self-test`: checks that the VM harness finds failures.
//!
//! Runs the guest's `selftest_*`, which misbehave on purpose, and a machine that QEMU refuses. Fails, with a list
//! of all differences, unless each outcome is the expected one.

use crate::vm;
use anyhow::{Result, bail};
use zosbd2_vm::protocol::Outcome;

/// The expected outcome of each test: `ok`, or a part of the failure's reason.
const EXPECTED: [(&str, &str); 15] = [
    ("selftest_passes", "ok"),
    ("selftest_panics", "as asked\nin two lines"),
    ("selftest_aborts", "killed by signal 6"),
    ("selftest_hangs", "hung in the step \"waiting for nothing\": its limit of 2 s is spent, after "),
    (
        "selftest_hangs_in_a_step",
        "hung in the step \"the second step: 3 of 7\": its limit of 2 s is spent, after ",
    ),
    ("selftest_hangs_and_stays", "hung in the step \"comparing\": its limit of 2 s is spent, after "),
    ("selftest_is_slow", "ok"),
    ("selftest_waits_slowly", "ok"),
    ("selftest_spins", "hung in the step \"spinning\": its limit of 1 s is spent, after "),
    ("selftest_leaves_processes", "ok"),
    ("selftest_warns", "the kernel said:\nWARNING: made up"),
    ("selftest_warns_allowed", "ok"),
    ("selftest_crashes", "Kernel panic - not syncing: sysrq triggered crash"),
    ("selftest_powers_off", "the guest ended without a message"),
    ("selftest_last", "ok"),
];

/// Arguments of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {}

/// Runs the command.
pub(crate) fn run(_: &Arguments) -> Result<()> {
    let count = check()?;
    println!("{count} passed, 0 failed, 0 skipped");
    Ok(())
}

/// Runs everything, and returns the number of expected outcomes. A wrong outcome is an error.
pub(crate) fn check() -> Result<usize> {
    let mut words = vec!["--no-module"];
    words.extend(EXPECTED.iter().map(|(name, _)| *name));
    let arguments = vm::arguments(&words);
    let reports = vm::reports(&arguments, &vm::runs(&arguments))?;
    let results: Vec<_> = reports.into_iter().flat_map(|(_, report)| report.results).collect();
    let mut differences = Vec::new();
    for (name, expected) in EXPECTED {
        let found: Vec<_> = results.iter().filter(|result| result.name == name).collect();
        let good = match found.as_slice() {
            [one] => match &one.outcome {
                Outcome::Passed => expected == "ok",
                Outcome::Failed(why) => expected != "ok" && why.contains(expected),
                Outcome::Skipped(_) => false,
            },
            _ => false,
        };
        if !good {
            differences.push(format!("{name} should give: {expected}\n  but gave: {found:?}"));
        }
    }
    let refused = vm::arguments(&["--no-module", "--mem", "1", "smoke_boot"]);
    match vm::reports(&refused, &vm::runs(&refused)) {
        Err(error) if format!("{error:#}").contains("QEMU failed") => {}
        other => differences.push(format!("a machine without memory gave: {other:?}")),
    }
    if !differences.is_empty() {
        bail!("the harness missed failures:\n{}", differences.join("\n"));
    }
    Ok(EXPECTED.len() + 1)
}
