// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything that needs unsafe: the ioctls of both interfaces (version 1's with the feature `v1`), raw memory mappings, two calls for
//! serving threads, the handler of forks, and the owner of a descriptor.
//!
//! No caller can break memory safety through these wrappers. The ioctl functions take references whose types
//! cover all memory that the kernel reads and writes. A mapping that threads share hands out no reference to
//! its bytes.

#[cfg(test)]
pub(crate) mod counting;
pub(crate) mod enter;
pub(crate) mod fork;
#[cfg(feature = "v1")]
pub(crate) mod ioctl;
pub(crate) mod ioctl2;
pub(crate) mod memory;
pub(crate) mod owner;
#[cfg(feature = "tokio")]
pub(crate) mod reactor;
pub(crate) mod schedule;
pub(crate) mod signal;
