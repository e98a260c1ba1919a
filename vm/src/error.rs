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
    #[error("unknown kernel {name}: the names are {names}, newest (the same as backports) and debug")]
    UnknownKernel {
        /// The unknown name.
        name: String,
        /// The stock kernels.
        names: String,
    },
    /// The kernel is not in the cache, and the caller did not allow a download.
    #[error("kernel {0} is not in the cache: run `cargo xtask fetch {0}`")]
    NotFetched(String),
    /// The debug kernel is not in the cache, or was built with another configuration.
    #[error("the debug kernel is not in the cache: run `cargo xtask debug-kernel`, which builds it")]
    NotBuilt,
    /// The archive does not have a full set of packages.
    #[error(
        "no release of kernel {kernel} has image, headers and kbuild packages in one version (looked in {suites}): \
         Debian's archive may be changing, so try again later"
    )]
    NoVersion {
        /// The kernel.
        kernel: String,
        /// The suites.
        suites: String,
    },
    /// The index of a suite could not be downloaded.
    #[error(
        "the index of Debian's suite {suite} cannot be read: is there a network, or a proxy in /etc/apt/apt.conf? \
         (if the mirror is out of step, try again later) {said}"
    )]
    Archive {
        /// The suite.
        suite: String,
        /// What apt said.
        said: Box<Error>,
    },
    /// Packages could not be downloaded.
    #[error("packages cannot be downloaded from Debian's archive: is there a network? {0}")]
    Download(Box<Error>),
    /// The packages of a kernel are in a layout that is not known.
    #[error(
        "the packages of kernel {0} have no image in /boot or in the folder of its modules: see kernels/unpack.rs"
    )]
    NoImage(String),
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
    /// A program or a file that a person has named is not for the guest.
    #[error("{} cannot be added: {problem}", path.display())]
    CannotAdd {
        /// Its path.
        path: PathBuf,
        /// Why.
        problem: String,
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

impl Error {
    /// Whether Debian's archive does not deliver: the kernel or package is not there, or it cannot be reached.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::NoVersion { .. } | Self::Archive { .. } | Self::Download(_))
    }
}

/// Adds action and path to an I/O error.
pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { action, path, source }
}
