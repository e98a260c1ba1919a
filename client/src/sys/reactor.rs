// SPDX-License-Identifier: MIT OR Apache-2.0
//! A descriptor in tokio's reactor.

use super::fork::OwnFd;
use std::io;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor for readability, in the runtime of the calling task. Panics outside of a runtime.
pub(crate) fn readable(fd: OwnFd) -> io::Result<AsyncFd<OwnFd>> {
    // SAFETY: an `OwnFd` is open, and refers to the same description, until the `AsyncFd` drops it.
    let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    registered.map_err(|error| error.into_parts().1)
}
