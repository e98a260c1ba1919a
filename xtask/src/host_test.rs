// SPDX-License-Identifier: MIT OR Apache-2.0
//! The glue's test on the host (`kernel/glue/tests/host.rs`) under what looks for undefined behaviour.
//!
//! [`sanitized`], a stage of `make test`: the address sanitizer, with the fields of every type shuffled (the compiler
//! may put them in any order, and no two need agree on it). `cargo xtask miri`: Miri, which sees more (references that
//! alias, pointers that go where they may not) where the toolchain has it.

use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::paths;

/// The test in cargo's words.
const TEST: [&str; 5] = ["test", "--quiet", "--package=zosbd2-glue", "--test=host", "--no-fail-fast"];

/// Runs it under the address sanitizer. The flags are unstable, the compiler is the stable one, as for the module.
pub(crate) fn sanitized() -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::root()).args(TEST);
    // With a target of its own, so that what runs on the host at build time is compiled as ever.
    command.args(["--target=x86_64-unknown-linux-gnu", "--target-dir=target/sanitized"]);
    command.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-Zsanitizer=address -Zrandomize-layout");
    ensure!(command.status().context("run cargo")?.success(), "the glue's test failed under the sanitizer");
    Ok(())
}

/// Commands that may be Miri's cargo: that of the toolchain in use, and that of rustup's nightly, which is the one
/// that Miri comes with.
const MIRI: [&[&str]; 2] = [&["cargo", "miri"], &["rustup", "run", "nightly", "cargo", "miri"]];

fn miri(words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.current_dir(paths::root()).args(&words[1..]);
    // The fake shim's user memory is addresses, as in the kernel.
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
