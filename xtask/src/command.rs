// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs a program to its end, for what it prints.

use anyhow::{Context as _, Result, ensure};
use std::process::{Command, Output};

/// Runs a command. One that cannot be started or does not end well is an error that says which it was and what it said.
pub(crate) fn finish(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed ({}):\n{errors}", output.status);
    Ok(output)
}
