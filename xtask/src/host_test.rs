// SPDX-License-Identifier: MIT OR Apache-2.0
//! The glue's test on the host (`kernel/glue/tests/host.rs`) with checkers for undefined behaviour.
//!
//! [`sanitized`], a stage of `make test`, uses the address sanitizer, and shuffles the fields of every type
//! (the compiler may order them in any way). `cargo xtask miri` uses Miri, which finds more (aliasing
//! references, pointers that leave their allocation), if the toolchain has it.

use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use zosbd2_vm::arch;

use crate::paths;

/// Cargo's arguments for the test.
const TEST: [&str; 5] = ["test", "--quiet", "--package=zosbd2-glue", "--test=host", "--no-fail-fast"];

/// Runs the test with the address sanitizer. The flags are unstable, but the compiler is stable, as for the
/// module.
pub(crate) fn sanitized() -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::root()).args(TEST);
    // With a separate target, so that build scripts and macros are compiled as usual.
    command.arg(format!("--target={}", arch::host().guest_target)).arg("--target-dir=target/sanitized");
    command.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-Zsanitizer=address -Zrandomize-layout");
    ensure!(command.status().context("run cargo")?.success(), "the glue's test failed under the sanitizer");
    Ok(())
}

/// Commands that may be Miri's cargo: that of the current toolchain, and that of rustup's nightly, with which
/// Miri comes.
const MIRI: [&[&str]; 2] = [&["cargo", "miri"], &["rustup", "run", "nightly", "cargo", "miri"]];

fn miri(words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.current_dir(paths::root()).args(&words[1..]);
    // The fake shim's user addresses are integers, as in the kernel.
    command.env("MIRIFLAGS", "-Zmiri-permissive-provenance");
    command
}

/// Runs `cargo xtask miri`.
pub(crate) fn run() -> Result<()> {
    let there =
        |words: &&&[&str]| miri(words).arg("--version").output().is_ok_and(|out| out.status.success());
    let Some(words) = MIRI.iter().find(there) else {
        bail!(
            "Miri is missing, which only nightly toolchains have: \
             `rustup toolchain install nightly --component miri,rust-src`"
        );
    };
    let status = miri(words).args(TEST).status().context("run Miri")?;
    ensure!(status.success(), "the glue's test failed under Miri");
    Ok(())
}
