// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask test`, behind `make test`: runs every check, and the tests on stock kernels, and ends with the counts.
//! Tests that take longer are in `test_all`.
//!
//! The stages run in order, each with its time. Only a failed set-up ends the run at once; after any other failure
//! the run continues, so that one run shows all failures. A stage without counts of its own counts as one test.
//! Failed and skipped tests are listed again at the end.

use crate::tally::Tally;
use crate::{fetch, gates, host_test, narrate, paths, self_test, setup, test_all, vm};
use anyhow::{Context as _, Result, bail, ensure};
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;
use zosbd2_vm::kernels::KernelName;

/// Arguments of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Leave out what boots a VM
    #[arg(long)]
    no_vm: bool,
    /// Leave out installing host packages
    #[arg(long)]
    no_setup: bool,
}

/// A stage: its name, its function, and whether later stages depend on it.
type Stage = (&'static str, fn() -> Result<Tally>, bool);

const STAGES: [Stage; 10] = [
    ("setup", set_up, true),
    ("kernels", kernels, true),
    ("format", format, false),
    ("clippy", clippy, false),
    ("unit tests", unit_tests, false),
    ("glue on the host, sanitized", glue_sanitized, false),
    ("gates", all_gates, false),
    ("VM harness", harness, false),
    ("VM tests", vm_tests, false),
    ("VM tests, generic kernels", vm_tests_generic, false),
];

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut sum = Tally::default();
    let mut table = Vec::new();
    for (name, stage, vital) in STAGES {
        if (arguments.no_vm && name.starts_with("VM")) || (arguments.no_setup && name == "setup") {
            table.push(format!("{name}: left out"));
            continue;
        }
        println!("== {name}");
        let start = Instant::now();
        let doing = narrate::doing(name);
        let tally = stage().unwrap_or_else(|error| {
            println!("{error:#}");
            Tally::failed(format!("{error:#}").lines().next().unwrap_or_default().to_owned())
        });
        drop(doing);
        table.push(format!("{name}: {tally}, {:.1} s", start.elapsed().as_secs_f64()));
        sum.add(name, tally);
        if vital && !sum.failed.is_empty() {
            break;
        }
    }
    println!("== summary\n{}", table.join("\n"));
    sum.print();
    ensure!(sum.failed.is_empty(), "not everything passed");
    Ok(())
}

fn set_up() -> Result<Tally> {
    setup::install().map(|()| Tally::passed(1))
}

fn kernels() -> Result<Tally> {
    for name in KernelName::STOCK {
        fetch::one(name, false)?;
    }
    Ok(Tally::passed(1))
}

fn cargo(words: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::root()).args(words);
    command
}

fn one(words: &[&str], hint: &str) -> Result<Tally> {
    let status = cargo(words).status().context("run cargo")?;
    ensure!(status.success(), "cargo {} failed{hint}", words.join(" "));
    Ok(Tally::passed(1))
}

fn format() -> Result<Tally> {
    one(&["fmt", "--all", "--check"], " (`rustup component add rustfmt` if it is not there)")
}

fn clippy() -> Result<Tally> {
    let words = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"];
    one(&words, " (`rustup component add clippy` if it is not there)")
}

fn unit_tests() -> Result<Tally> {
    let words = ["test", "--workspace", "--no-fail-fast"];
    let mut child = cargo(&words).stdout(Stdio::piped()).spawn().context("run cargo")?;
    let stdout = child.stdout.take().context("its output is a pipe")?;
    let mut sum = Tally::default();
    let doing = narrate::doing("unit tests");
    for line in BufReader::new(stdout).lines() {
        let line = line.context("read what cargo test says")?;
        match result(&line) {
            // Hundreds of passed tests are not worth a line each.
            Some((name, "ok")) => {
                sum.passed += 1;
                doing.detail(format!("{} passed so far, the last one is {name}", sum.passed));
                continue;
            }
            Some((name, "FAILED")) => sum.failed.push(name.to_owned()),
            Some((name, word)) if word.starts_with("ignored") => sum.skipped.push(format!("{name}: {word}")),
            _ if line.trim().is_empty() => continue,
            _ => {}
        }
        println!("{line}");
        narrate::said();
    }
    let status = child.wait().context("wait for cargo")?;
    if !status.success() && sum.failed.is_empty() {
        bail!("cargo {} failed without a failed test: it does not build", words.join(" "));
    }
    ensure!(sum.passed > 0, "cargo test ran no test");
    Ok(sum)
}

/// Name and result of a test, from a line of libtest's output.
fn result(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("test ")?.rsplit_once(" ... ")
}

fn glue_sanitized() -> Result<Tally> {
    host_test::sanitized().map(|()| Tally::passed(1))
}

fn all_gates() -> Result<Tally> {
    gates::run(&gates::Arguments::default()).map(|()| Tally::passed(1))
}

fn harness() -> Result<Tally> {
    self_test::check().map(Tally::passed)
}

fn vm_tests() -> Result<Tally> {
    test_all::suite(&["--kernel", "6.1", "--kernel", "6.12"])
}

fn vm_tests_generic() -> Result<Tally> {
    // The flavours only differ in which parts of the kernel are modules, so a few tests are enough.
    let kernels = ["--kernel", "6.1-generic", "--kernel", "6.12-generic"];
    let tests = ["smoke*", "insmod_rmmod", "readme_walkthrough", "destroy_while_mounted"];
    vm::results(&[kernels.as_slice(), &tests].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read() {
        assert_eq!(result("test life::ends ... ok"), Some(("life::ends", "ok")));
        assert_eq!(
            result("test src/lib.rs - (line 1) ... ignored, why"),
            Some(("src/lib.rs - (line 1)", "ignored, why"))
        );
        assert_eq!(result("test result: ok. 12 passed; 1 failed; finished in 0.00s"), None);
        assert_eq!(result("running 3 tests"), None);
    }
}
