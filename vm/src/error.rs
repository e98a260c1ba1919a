// SPDX-License-Identifier: MIT OR Apache-2.0
//! Errors of the harness on the host. Each message says what to do.
//!
//! [`Error::Qemu`], [`Error::Guest`] and [`Error::NoVerdict`] are separate on purpose. The first blames the
//! machine or the command line, the second the kernel or the test, the third the harness.

use std::path::{Path, PathBuf};

/// Result of every function of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the harness failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// The failed action, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// A program is not installed.
    #[error("{program} is not installed: run `cargo xtask setup` (package {package})")]
    MissingProgram {
        /// The program.
        program: String,
        /// The Debian package with the program.
        package: String,
    },
    /// A program ran and failed.
    #[error("{command} failed ({status}): {output}")]
    Command {
        /// The command line.
        command: String,
        /// Its exit status.
        status: String,
        /// The end of its output.
        output: String,
    },
    /// No kernel has this name.
    #[error("unknown kernel {0}: the names are 6.1, 6.12, 6.1-generic, 6.12-generic and debug")]
    UnknownKernel(String),
    /// The kernel is not in the cache, and the caller did not allow a download.
    #[error("kernel {0} is not in the cache: run `cargo xtask fetch {0}`")]
    NotFetched(String),
    /// The debug kernel is not in the cache, or was built with another configuration.
    #[error("the debug kernel is not in the cache: run `cargo xtask debug-kernel`, which builds it")]
    NotBuilt,
    /// The archive does not have a full set of packages.
    #[error("no version of kernel {0} has image, headers and kbuild packages in Debian's archive")]
    NoVersion(String),
    /// The package lists could not be downloaded.
    #[error("Debian's archive cannot be reached: is there a network, or a proxy in /etc/apt/apt.conf? {0}")]
    Archive(Box<Error>),
    /// Not enough disk space.
    #[error("{} has {free} MiB free, {need} MiB are needed: free some, or set ZOSBD2_CACHE to another disk", path.display())]
    DiskSpace {
        /// Path on the full disk.
        path: PathBuf,
        /// Free space, in MiB.
        free: u64,
        /// Needed space, in MiB.
        need: u64,
    },
    /// The kernel has no such module, neither built in nor loadable.
    #[error("kernel {release} has no module {module}")]
    NoModule {
        /// The kernel's release.
        release: String,
        /// The module.
        module: String,
    },
    /// QEMU did not run to its end.
    #[error("QEMU failed ({status}): {output}")]
    Qemu {
        /// Its exit status.
        status: String,
        /// The end of its output.
        output: String,
    },
    /// The guest's kernel died, or the guest sent nothing for too long.
    #[error("the guest failed: {reason}; console log: {}", console.display())]
    Guest {
        /// The observed failure.
        reason: String,
        /// The test that was running.
        during: Option<String>,
        /// Path of the console log.
        console: PathBuf,
    },
    /// QEMU ended normally, but the guest sent no verdict.
    #[error("the guest ended without a verdict; console log: {}", console.display())]
    NoVerdict {
        /// The test that was running.
        during: Option<String>,
        /// Path of the console log.
        console: PathBuf,
    },
    /// No test has this name.
    #[error("unknown test {0}: `cargo xtask vm --list` lists them")]
    UnknownTest(String),
}

/// Adds action and path to an I/O error.
pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { action, path, source }
}
