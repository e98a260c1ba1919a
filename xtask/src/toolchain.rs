// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a compiler and its programs come from: the host, or a build root of another suite.

use std::process::Command;

use anyhow::Result;

/// A set of programs.
#[derive(Debug)]
pub(crate) enum Toolchain {
    /// Those of the host, and the rustc in `PATH` or in `RUSTC`.
    Host,
}

impl Toolchain {
    /// The one that makes the objects of an archive, in versions that do not change.
    pub(crate) fn pinned() -> Result<Self> {
        Ok(Self::Host)
    }

    /// A program by name, such as `ld` or `make`.
    pub(crate) fn program(&self, name: &str) -> Command {
        match self {
            Self::Host => Command::new(name),
        }
    }

    /// `rustc`. A stable compiler accepts unstable options, as in the kernel's own build.
    pub(crate) fn rustc(&self) -> Command {
        let mut command = match self {
            Self::Host => Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())),
        };
        command.env("RUSTC_BOOTSTRAP", "1").env("LC_ALL", "C");
        command
    }
}
