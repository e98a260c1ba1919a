// SPDX-License-Identifier: MIT OR Apache-2.0
//! The errors of the library's own memory: buffers, and [`SparseMemory`](crate::SparseMemory).

use super::Chain;
use crate::Errno;
use std::fmt;

/// Why an operation on a [`SparseMemory`](crate::SparseMemory) failed.
#[non_exhaustive]
#[derive(thiserror::Error)]
pub enum MemoryError {
    /// The size is 0 or more than the address space can hold.
    #[error("a memory of {0} bytes cannot exist")]
    Size(u64),
    /// The kernel refused the mapping.
    #[error("map {bytes} bytes of memory")]
    Map {
        /// Size of the mapping.
        bytes: u64,
        /// The kernel's error.
        source: Errno,
    },
    /// The file behind the memory cannot be used.
    #[error("{operation} the file of a memory of {bytes} bytes")]
    File {
        /// The failed operation.
        operation: &'static str,
        /// Size of the memory.
        bytes: u64,
        /// The kernel's error.
        source: Errno,
    },
    /// The file behind the memory would be larger than this process may write (`RLIMIT_FSIZE`).
    #[error("a file of {bytes} bytes is larger than the {limit} that this process may write (RLIMIT_FSIZE)")]
    FileLimit {
        /// Size of the memory.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The range is not inside the memory.
    #[error("{operation} of {length} bytes at {offset} is not inside the memory of {size} bytes")]
    Bounds {
        /// `read`, `write`, `discard` and so on.
        operation: &'static str,
        /// First byte of the range.
        offset: u64,
        /// Length of the range.
        length: u64,
        /// Size of the memory.
        size: u64,
    },
}

impl fmt::Debug for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Chain(self), f)
    }
}

impl MemoryError {
    /// The error number of a request that failed because of this error.
    pub(crate) fn errno(&self) -> Errno {
        match self {
            Self::Map { source, .. } | Self::File { source, .. } => *source,
            Self::FileLimit { .. } => Errno::FBIG,
            Self::Size(_) | Self::Bounds { .. } => Errno::INVAL,
        }
    }
}
