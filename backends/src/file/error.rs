// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a file cannot be a disk.

use super::lock::Holder;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use zosbd2::{Chain, MemoryError};

/// Why a file cannot be a disk.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// A system call failed.
    #[error("{operation} {}", path.display())]
    Io {
        /// The failed operation.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Neither a regular file nor a block device.
    #[error("{} is neither a regular file nor a block device", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
    },
    /// Another process kept the file locked.
    #[error("{} is in use by {}, after {} s of waiting", path.display(), super::lock::names(holders), waited.as_secs())]
    Locked {
        /// The file.
        path: PathBuf,
        /// The processes that hold the lock, as far as this process can see them.
        holders: Vec<Holder>,
        /// How long `open` waited.
        waited: Duration,
    },
    /// The file has no direct I/O.
    #[error("{} cannot be read and written directly (O_DIRECT): {why}", path.display())]
    NotDirect {
        /// The file.
        path: PathBuf,
        /// Where the system says so.
        why: &'static str,
    },
    /// The unit of the store is larger than the largest block of a disk.
    #[error("{} is read and written in units of {needed} bytes; a disk's blocks have at most 4096", path.display())]
    Unit {
        /// The file.
        path: PathBuf,
        /// The unit.
        needed: u32,
    },
    /// The store does not allow this block size.
    #[error("{}: logical block size {block} is not a power of two from {needed} to 4096", path.display())]
    BlockSize {
        /// The file.
        path: PathBuf,
        /// The requested block size.
        block: u32,
        /// The smallest possible block size: I/O in smaller pieces fails, or costs a read.
        needed: u32,
    },
    /// The file cannot be mapped.
    #[error("{} as a disk in memory", path.display())]
    Memory {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: MemoryError,
    },
    /// The file is shorter than a block.
    #[error("{} is shorter than a block of {block} bytes", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// Logical block size.
        block: u32,
    },
}

impl fmt::Debug for FileError {
    /// The message with all its causes: `main` prints the error that it returns in this form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Chain(self), f)
    }
}
