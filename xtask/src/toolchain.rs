// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a compiler and its programs come from: the host, or a build root of another suite.
//!
//! In a root the project's folder, the cache of kernels and cargo's target folder are at the same paths as outside.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use zosbd2_vm::kernels;

use crate::paths;
use crate::root::Root;

/// A set of programs.
#[derive(Debug)]
pub(crate) enum Toolchain {
    /// Those of the host, and the rustc in `PATH` or in `RUSTC`.
    Host,
    /// Those of a root.
    Root(Root),
}

impl Toolchain {
    /// Whether its programs are the host's.
    pub(crate) const fn is_host(&self) -> bool {
        matches!(self, Self::Host)
    }

    /// The one that builds modules for the kernel with these headers.
    pub(crate) fn for_headers(kdir: &Path) -> Result<Self> {
        let kdir = kdir.canonicalize().with_context(|| format!("find {}", kdir.display()))?;
        let cached = kernels::cached(&kdir).and_then(|kernel| kernels::lines::root_of(kernel.name));
        cached.map_or(Ok(Self::Host), |kind| Root::open(kind).map(Self::Root))
    }

    /// Folders that are at the same place in roots.
    fn shared() -> [PathBuf; 3] {
        [paths::root(), kernels::cache(), kernels::target()]
    }

    /// A program by name, such as `ld` or `make`, which runs in the project's folder.
    pub(crate) fn program(&self, name: &str) -> Command {
        match self {
            Self::Host => {
                let mut command = Command::new(name);
                command.current_dir(paths::root());
                command
            }
            Self::Root(root) => {
                let shared = Self::shared();
                let binds: Vec<&Path> = shared.iter().map(PathBuf::as_path).collect();
                root.command(name, &paths::root(), &binds)
            }
        }
    }

    /// `rustc`. A stable compiler accepts unstable options, as in the kernel's own build.
    pub(crate) fn rustc(&self) -> Command {
        let mut command = match self {
            Self::Host => Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())),
            Self::Root(_) => self.program("rustc"),
        };
        command.env("RUSTC_BOOTSTRAP", "1").env("LC_ALL", "C");
        command
    }

    /// Where this program finds a file or folder that the toolchain's programs see as `path`.
    pub(crate) fn outside(&self, path: &Path) -> PathBuf {
        match self {
            Self::Root(root) if !Self::shared().iter().any(|folder| path.starts_with(folder)) => {
                root.tree().join(path.strip_prefix("/").unwrap_or(path))
            }
            _ => path.to_owned(),
        }
    }

    /// Whether it has this program.
    pub(crate) fn has(&self, program: &str) -> Result<bool> {
        let mut shell = self.program("sh");
        let found = shell.args(["-c", "command -v \"$0\" >/dev/null"]).arg(program).status();
        Ok(found.with_context(|| format!("look for {program}"))?.success())
    }
}
