// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask test`, behind `make test`: runs every check, and the tests on stock kernels, and ends with the counts.
//! Tests that take longer are in `test_all`.
//!
//! The run has steps. The lanes of a step run side by side, and the stages of a lane one after the other. A failed
//! set-up, or a kernel that cannot be fetched, ends the run after its step; after any other failure the run
//! continues, so that one run shows all failures. A stage without counts of its own counts as one test. The
//! summary lists each stage with its time, and failed and skipped tests again.

use crate::from_archive::Unpacked;
use crate::tally::Tally;
use crate::{
    client_test, fetch, from_archive, gates, host_test, narrate, oldest_rust, paths, root, self_test, setup,
    test_all, vm,
};
use anyhow::{Context as _, Result, bail, ensure};
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
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

/// A stage: its name, and its function.
type Stage = (&'static str, fn() -> Result<Tally>);
/// Stages that run one after the other.
type Lane = &'static [Stage];

/// The gates run beside cargo's work, because most of their time only one processor is busy. Of the virtual
/// machines, only those that mostly wait run side by side.
const STEPS: [&[Lane]; 5] = [
    &[&[("setup", set_up)]],
    &[
        &[("kernels", kernels), ("gates", all_gates)],
        &[
            ("format", format),
            ("clippy", clippy),
            ("unit tests", unit_tests),
            ("glue on the host, sanitized", glue_sanitized),
            ("outbox under loom", loom),
            ("oldest Rust", oldest_rust::check),
        ],
    ],
    &[
        &[
            ("VM harness", harness),
            ("VM sessions", sessions),
            ("modules from the release archive", from_archive),
        ],
        &[("VM tests, generic kernels", vm_tests_generic)],
    ],
    &[&[("VM tests, newest kernel", vm_tests_newest)]],
    &[&[("VM tests", vm_tests)]],
];

/// Stages without which later ones cannot run.
const VITAL: [&str; 2] = ["setup", "kernels"];

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let left_out =
        |name: &str| (arguments.no_vm && name.starts_with("VM")) || (arguments.no_setup && name == "setup");
    let (mut sum, mut table) = (Tally::default(), Vec::new());
    // This thread waits for the others.
    let _doing = narrate::doing("tests");
    for step in STEPS {
        let done: Vec<_> = thread::scope(|scope| {
            let lanes: Vec<_> = step.iter().map(|lane| scope.spawn(|| run_lane(lane, left_out))).collect();
            lanes.into_iter().flat_map(|lane| lane.join().expect("a stage returns its errors")).collect()
        });
        let vital_failed = done.iter().any(|(name, result)| VITAL.contains(name) && result.failed());
        for (name, result) in done {
            table.push(format!("{name}: {result}"));
            if let StageResult::Ran { tally, .. } = result {
                sum.add(name, tally);
            }
        }
        if vital_failed {
            break;
        }
    }
    println!("== summary\n{}", table.join("\n"));
    sum.print();
    ensure!(sum.failed.is_empty(), "not everything passed");
    Ok(())
}

/// The result of a stage.
enum StageResult {
    LeftOut,
    Ran { tally: Tally, took: Duration },
}

impl StageResult {
    fn failed(&self) -> bool {
        matches!(self, Self::Ran { tally, .. } if !tally.failed.is_empty())
    }
}

impl std::fmt::Display for StageResult {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::LeftOut => f.write_str("left out"),
            Self::Ran { tally, took } => write!(f, "{tally}, {:.1} s", took.as_secs_f64()),
        }
    }
}

/// Runs the stages of a lane, up to a failed vital one.
fn run_lane(lane: Lane, left_out: impl Fn(&str) -> bool) -> Vec<(&'static str, StageResult)> {
    let mut done = Vec::new();
    for &(name, stage) in lane {
        if left_out(name) {
            done.push((name, StageResult::LeftOut));
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
        let result = StageResult::Ran { tally, took: start.elapsed() };
        println!("== {name}: {result}");
        narrate::said();
        let stop = VITAL.contains(&name) && result.failed();
        done.push((name, result));
        if stop {
            break;
        }
    }
    done
}

fn set_up() -> Result<Tally> {
    setup::install().map(|()| Tally::passed(1))
}

fn kernels() -> Result<Tally> {
    for name in KernelName::STOCK.into_iter().chain([KernelName::NEWEST]) {
        if let Err(reason) = fetch::to_test(name)? {
            // The stages that test the kernel count it as skipped.
            println!("kernel {name} cannot be had: {reason}");
        }
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

fn loom() -> Result<Tally> {
    client_test::loom().map(|()| Tally::passed(1))
}

fn all_gates() -> Result<Tally> {
    let skipped = gates::check(&gates::Arguments::default())?;
    Ok(Tally { skipped, ..Tally::passed(1) })
}

fn harness() -> Result<Tally> {
    self_test::check().map(Tally::passed)
}

fn sessions() -> Result<Tally> {
    vm::session_test::check("6.12".parse()?, true).map(Tally::passed)
}

fn vm_tests() -> Result<Tally> {
    test_all::suite(&["--kernel", "6.1", "--kernel", "6.12"])
}

fn vm_tests_generic() -> Result<Tally> {
    // The flavours only differ in which parts of the kernel are modules, so a few tests are enough.
    let kernels = ["--kernel", "6.1-generic", "--kernel", "6.12-generic"];
    vm::results(&[kernels.as_slice(), &GENERIC].concat())
}

/// Tests on the generic kernels.
const GENERIC: [&str; 5] =
    ["smoke_boot", "smoke_tools", "insmod_rmmod", "readme_walkthrough", "destroy_while_mounted"];

/// Strangers' builds on Debian 12 and 13, and the checks of the build roots.
fn from_archive() -> Result<Tally> {
    let (tree, mut passed) = (Unpacked::new()?, 0);
    for kind in from_archive::STRANGERS {
        passed += root::check(kind)?;
        println!("{}", from_archive::stranger(&tree, kind)?.display());
        passed += 1;
    }
    passed += root::check(root::RootKind::Trixie)?;
    Ok(Tally::passed(passed))
}

/// Tests on the newest kernel, with the release archive's module.
const NEWEST: [&str; 25] = [
    "smoke_boot",
    "smoke_tools",
    "insmod_rmmod",
    "readme_walkthrough",
    "readme_walkthrough_c",
    "bad_pointers",
    "destroy_while_mounted",
    "fifo_and_fetch",
    "fio_verify_1_worker",
    "killed_server_and_successor",
    "name_clash",
    "same_answers_to_32_bit_callers",
    "unsigned_module_is_refused",
    "v2_conformance_ram",
    "v2_create_at_the_extremes",
    "v2_enter_at_the_extremes",
    "v2_ext4",
    "v2_fio_verify_depth_128",
    "v2_killed_server_is_followed",
    "v2_partitions_are_found",
    "v2_partitions_beside_an_owner",
    "v2_partitions_know_their_start",
    "v2_partitions_that_nobody_wants",
    "v2_stale_and_invented_handles",
    "v2_take_over",
];
/// Likewise, with the faults variant, which is built from source.
const NEWEST_FAULTS: [&str; 1] = ["rust_frames_in_backtrace"];

fn vm_tests_newest() -> Result<Tally> {
    let mut sum = from_archive::results(&Unpacked::new()?, KernelName::NEWEST, &NEWEST)?;
    let name = KernelName::NEWEST.to_string();
    sum.add("faults", vm::results(&[&["--kernel", name.as_str()], NEWEST_FAULTS.as_slice()].concat())?);
    Ok(sum)
}

/// The lists of tests in this file.
#[cfg(test)]
pub(crate) const LISTS: [&[&str]; 3] = [&GENERIC, &NEWEST, &NEWEST_FAULTS];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readme_says_how_many_tests_run() {
        let readme = include_str!("../../README.md").replace('\n', " ");
        let generic = format!("{} tests on each generic kernel", GENERIC.len());
        let newest = format!(
            "{} tests with the release archive's module and {} with the faults variant from source",
            NEWEST.len(),
            NEWEST_FAULTS.len()
        );
        for sentence in [generic, newest] {
            assert!(readme.contains(&sentence), "README does not say: {sentence}");
        }
    }

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
