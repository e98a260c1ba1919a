// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs a program to its end and returns its output.

use anyhow::{Context as _, Result, ensure};
use std::process::{Command, Output};

/// Runs a command. If it cannot be started or fails, the error contains the command and its output.
pub(crate) fn finish(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed ({}):\n{errors}", output.status);
    Ok(output)
}
