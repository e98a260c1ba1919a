// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks that everything that people get compiles with the oldest Rust that is promised: Debian 13's, in a build root.
//!
//! The dependencies come from the host's cargo, because the root has no network configuration of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use zosbd2_vm::kernels;

use crate::root::{Root, RootKind};
use crate::tally::Tally;
use crate::{command, narrate, paths};

/// What people get, and what tests it in a virtual machine. The project's own commands may ask for a newer Rust.
const PACKAGES: [&str; 9] = [
    "zosbd2-abi",
    "zosbd2-engine",
    "zosbd2-glue",
    "zosbd2",
    "zosbd2-backends",
    "zosbd2-faults",
    "zosbd2-cli",
    "zosbd2-examples",
    "zosbd2-vm-guest",
];

/// Compiles the packages.
pub(crate) fn check() -> Result<Tally> {
    let root = Root::open(RootKind::Rust)?;
    let version = root.version("rustc")?;
    let _doing = narrate::doing(format!("checking with Debian 13's rustc {version}"));
    let mut fetched = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command::finish(fetched.current_dir(paths::root()).args(["fetch", "--quiet", "--locked"]))?;
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cargo")));
    let home = home.context("neither CARGO_HOME nor HOME is set: where has cargo its packages?")?;
    let (project, target, registry) = (paths::root(), kernels::target(), home.join("registry"));
    let check = |packages: &[&str]| -> Result<()> {
        let mut cargo = root.command("cargo", &project, &[&project, &target, &registry]);
        cargo.env("CARGO_HOME", &home).env("CARGO_TARGET_DIR", target.join("oldest-rust"));
        cargo.args(["check", "--quiet", "--locked", "--offline"]);
        let output = cargo.args(packages.iter().map(|package| format!("--package={package}"))).output();
        let output = output.context("run cargo in the root")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success() && said.trim().is_empty(), "rustc {version} says:\n{said}");
        Ok(())
    };
    check(&PACKAGES)?;
    // Together, each package has all features that any of them needs. A user of the library has none.
    check(&["zosbd2"])?;
    println!("rustc {version} compiles {}", PACKAGES.join(", "));
    Ok(Tally::passed(1))
}
