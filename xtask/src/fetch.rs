// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask fetch`.

/// What the command is given.
#[derive(clap::Args)]
pub(crate) struct Arguments {}

/// Runs the command.
pub(crate) fn run(_: &Arguments) -> anyhow::Result<()> {
    anyhow::bail!("`cargo xtask fetch` is not there yet")
}
