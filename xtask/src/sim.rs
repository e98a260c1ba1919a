// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask sim`: builds the simulator with optimisation, and runs it with the given arguments.

use crate::{narrate, paths};
use anyhow::{Context as _, Result, ensure};
use std::process::Command;

/// Arguments of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// As `zosbd2-sim --help` says: `--seed N`, `--steps N`, `--episode N`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// A run of this many steps, with a new seed.
pub(crate) fn steps(steps: u64) -> Result<()> {
    run(&Arguments { arguments: vec!["--steps".to_owned(), steps.to_string()] })
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::root()).args(["run", "--quiet", "--release", "--package", "zosbd2-sim", "--"]);
    let _doing = narrate::doing("the simulator");
    let status = command.args(&arguments.arguments).status().context("run cargo")?;
    ensure!(status.success(), "the simulator failed ({status})");
    Ok(())
}
