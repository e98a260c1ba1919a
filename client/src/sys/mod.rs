// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything that needs unsafe: the ioctls of the interface, a raw memory mapping, and one scheduler call.
//!
//! They are wrapped so that no caller can break memory safety: the ioctl functions take references whose
//! types cover all that the kernel writes, and the mapping hands out no reference to its bytes.

pub(crate) mod ioctl;
pub(crate) mod memory;
pub(crate) mod schedule;
