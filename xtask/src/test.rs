// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask test`, behind `make test`: every check and test, closing with the counts.
//!
//! The stages run in order, each with its time. Only a failed set-up ends the run at once; else the others go
//! on, so that one run shows all that is wrong. A stage that has no counts of its own counts as one test.

use crate::{fetch, gates, paths, self_test, setup, vm};
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

/// Tests passed, failed and skipped.
type Counts = (usize, usize, usize);

/// A stage: its name, what it does, and whether nothing after it makes sense without it.
type Stage = (&'static str, fn() -> Result<Counts>, bool);

const STAGES: [Stage; 10] = [
    ("setup", set_up, true),
    ("kernels", kernels, true),
    ("format", format, false),
    ("clippy", clippy, false),
    ("unit tests", unit_tests, false),
    ("gates", all_gates, false),
    ("VM harness", harness, false),
    ("VM tests", vm_tests, false),
    ("VM tests, memory not zeroed", vm_tests_dirty_memory, false),
    ("VM tests, generic kernels", vm_tests_generic, false),
];

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut sum = (0, 0, 0);
    let mut table = Vec::new();
    let mut broken = false;
    for (name, stage, vital) in STAGES {
        if (arguments.no_vm && name.starts_with("VM")) || (arguments.no_setup && name == "setup") {
            table.push(format!("{name}: left out"));
            continue;
        }
        println!("== {name}");
        let start = Instant::now();
        let result = stage();
        let seconds = start.elapsed().as_secs_f64();
        let (passed, failed, skipped) = *result.as_ref().unwrap_or(&(0, 1, 0));
        if let Err(error) = &result {
            println!("{error:#}");
        }
        table.push(format!("{name}: {passed} passed, {failed} failed, {skipped} skipped, {seconds:.1} s"));
        sum = (sum.0 + passed, sum.1 + failed, sum.2 + skipped);
        broken |= failed > 0;
        if vital && broken {
            break;
        }
    }
    println!("== summary\n{}", table.join("\n"));
    println!("{} passed, {} failed, {} skipped", sum.0, sum.1, sum.2);
    ensure!(!broken, "not everything passed");
    Ok(())
}

fn set_up() -> Result<Counts> {
    setup::install().map(|()| (1, 0, 0))
}

fn kernels() -> Result<Counts> {
    for name in KernelName::STOCK {
        fetch::one(name, false)?;
    }
    Ok((1, 0, 0))
}

fn cargo(words: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::root()).args(words);
    command
}

fn one(words: &[&str], hint: &str) -> Result<Counts> {
    let status = cargo(words).status().context("run cargo")?;
    ensure!(status.success(), "cargo {} failed{hint}", words.join(" "));
    Ok((1, 0, 0))
}

fn format() -> Result<Counts> {
    one(&["fmt", "--all", "--check"], " (`rustup component add rustfmt` if it is not there)")
}

fn clippy() -> Result<Counts> {
    let words = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"];
    one(&words, " (`rustup component add clippy` if it is not there)")
}

fn unit_tests() -> Result<Counts> {
    let words = ["test", "--workspace", "--no-fail-fast"];
    let mut child = cargo(&words).stdout(Stdio::piped()).spawn().context("run cargo")?;
    let stdout = child.stdout.take().context("its output is a pipe")?;
    let mut sum = (0, 0, 0);
    for line in BufReader::new(stdout).lines() {
        let line = line.context("read what cargo test says")?;
        match counts(&line) {
            Some(counts) => sum = (sum.0 + counts.0, sum.1 + counts.1, sum.2 + counts.2),
            // Hundreds of lines of success are no news.
            None if line.ends_with("... ok") || line.trim().is_empty() => continue,
            None => {}
        }
        println!("{line}");
    }
    let status = child.wait().context("wait for cargo")?;
    if !status.success() && sum.1 == 0 {
        bail!("cargo {} failed without a failed test: it does not build", words.join(" "));
    }
    ensure!(sum.0 > 0, "cargo test ran no test");
    Ok(sum)
}

/// The counts in a `test result:` line.
fn counts(line: &str) -> Option<Counts> {
    let line = line.strip_prefix("test result: ")?;
    let number = |word: &str| {
        line.split([';', '.']).find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok())
    };
    Some((number("passed")?, number("failed")?, number("ignored")?))
}

fn all_gates() -> Result<Counts> {
    gates::run(&gates::Arguments::default()).map(|()| (1, 0, 0))
}

fn harness() -> Result<Counts> {
    self_test::check().map(|count| (count, 0, 0))
}

fn vm_tests() -> Result<Counts> {
    on_both_kernels(&[])
}

fn vm_tests_dirty_memory() -> Result<Counts> {
    // Debian's kernels zero memory as they hand it out, which hides that ours shows stale memory.
    // Those that take minutes and would see the same again are left out.
    let long = ["v2_memory_pressure*", "v2_killed_200_times*", "v2_taken_over_200_times*"];
    let without = long.iter().flat_map(|name| ["--without", name]);
    on_both_kernels(&["--append", "init_on_alloc=0"].into_iter().chain(without).collect::<Vec<_>>())
}

fn vm_tests_generic() -> Result<Counts> {
    // What differs from the cloud flavour is which of the kernel's parts are modules, so the essence is enough.
    let kernels = ["--kernel", "6.1-generic", "--kernel", "6.12-generic"];
    let tests = ["smoke*", "insmod_rmmod", "readme_walkthrough", "destroy_while_mounted"];
    let arguments = vm::arguments(&[kernels.as_slice(), &tests].concat());
    Ok(vm::count(&vm::reports(&arguments, &vm::runs(&arguments))?))
}

fn on_both_kernels(more: &[&str]) -> Result<Counts> {
    let words = ["--kernel", "6.1", "--kernel", "6.12"];
    let arguments = vm::arguments(&[&words[..], more].concat());
    Ok(vm::count(&vm::reports(&arguments, &vm::runs(&arguments))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read() {
        let line =
            "test result: ok. 12 passed; 1 failed; 2 ignored; 0 measured; 3 filtered out; finished in 0.00s";
        assert_eq!(counts(line), Some((12, 1, 2)));
        assert_eq!(counts("test a ... ok"), None);
    }
}
