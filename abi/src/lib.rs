// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every number, struct and limit that crosses the line between the kernel module and its users.
//!
//! The kernel side, the client library and the generated C header all take their layout from here, so
//! there is one definition of each. Layouts are asserted at compile time. The crate has no code beyond
//! that: no dependency, no unsafe, no allocation.
//!
//! * [`v1`]: the interface of the original zosbd2, bit for bit.
//! * [`v2`]: the interface for new programs.
#![no_std]
#![forbid(unsafe_code)]

pub mod v1;
pub mod v2;

/// Path of the control node.
pub const CONTROL_PATH: &str = "/dev/zosbd2ctl";
