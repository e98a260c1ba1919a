// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything that needs unsafe: the ioctls of the interface and a raw memory mapping.
//!
//! Both are wrapped so that no caller can break memory safety: the ioctl functions take references whose
//! types cover all that the kernel writes, and the mapping hands out no reference to its bytes.

pub(crate) mod ioctl;
pub(crate) mod memory;
