// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of the library with checkers for concurrency.
//!
//! `cargo xtask loom`, a stage of `make test`, runs the outbox in all interleavings (`client/src/v2/outbox.rs`). `cargo
//! xtask thread-sanitizer` runs the tests of owned requests and futures with the thread sanitizer. The standard library is compiled with
//! it, too, because otherwise its locks and channels look like data races.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use zosbd2_vm::arch;

use crate::toolchain::Toolchain;
use crate::{core_lib, paths};

fn cargo(words: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::root()).args(words);
    command
}

/// Runs the outbox's tests under loom.
pub(crate) fn loom() -> Result<()> {
    let mut command = cargo(&["test", "--quiet", "--package=zosbd2", "--lib", "outbox"]);
    command.arg("--target-dir=target/loom").env("RUSTFLAGS", "--cfg loom");
    ensure!(command.status().context("run cargo")?.success(), "the outbox failed under loom");
    Ok(())
}

/// The tests that run with the thread sanitizer.
const TESTS: [&str; 10] = [
    "others_may_access_a_region",
    "outbox",
    "slots",
    "ready",
    "tests::owned",
    "tests::asynchronous",
    "tests::executor",
    "tests::allocations",
    "tests::memory",
    "tests::life",
];

/// Runs tests with the thread sanitizer.
pub(crate) fn thread_sanitizer() -> Result<()> {
    let source = core_lib::source(&Toolchain::Host)?;
    let mut command =
        cargo(&["test", "-Zbuild-std", "--quiet", "--package=zosbd2", "--lib", "--features=tokio"]);
    command
        .arg(format!("--target={}", arch::host().guest_target))
        .arg("--target-dir=target/thread-sanitizer");
    // Random scripts take minutes with it, and use no more threads than the other tests.
    command.arg("--").args(TESTS).args(["--skip", "scripts_are_served"]);
    // Cargo expects the source in rustup's place otherwise.
    command.env("__CARGO_TESTS_ONLY_SRC_ROOT", source);
    command.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-Zsanitizer=thread");
    ensure!(command.status().context("run cargo")?.success(), "the tests failed under the thread sanitizer");
    Ok(())
}
