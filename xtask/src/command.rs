// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs programs, and returns their output.

use anyhow::{Context as _, Result, ensure};
use std::process::{Command, Output};

use crate::paths;

/// Runs a command. If it cannot be started or fails, the error contains the command and its output.
pub(crate) fn finish(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed ({}):\n{errors}", output.status);
    Ok(output)
}

/// Hides from a command that this program was started by make: another make would take its options and job server.
pub(crate) fn outside_make(mut command: Command) -> Command {
    for name in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL"] {
        command.env_remove(name);
    }
    command
}

/// The output of git in the project's folder.
pub(crate) fn git(words: &[&str]) -> Result<String> {
    let output = finish(Command::new("git").arg("-C").arg(paths::root()).args(words))
        .context("this works only in a clone of the repository")?;
    String::from_utf8(output.stdout).context("git printed no text")
}

/// Whether the clone has changes that are not committed.
pub(crate) fn has_changes() -> Result<bool> {
    Ok(!git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty())
}
