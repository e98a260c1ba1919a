// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything that needs unsafe: the ioctls of the interfaces, raw memory mappings, and one scheduler call.
//!
//! They are wrapped so that no caller can break memory safety: the ioctl functions take references whose
//! types cover all that the kernel reads and writes, and a mapping that is shared between threads hands out
//! no reference to its bytes.

pub(crate) mod enter;
pub(crate) mod ioctl;
pub(crate) mod ioctl2;
pub(crate) mod memory;
pub(crate) mod schedule;
