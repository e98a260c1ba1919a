// SPDX-License-Identifier: MIT OR Apache-2.0
//! The host's half of the VM harness: stock kernels, an initramfs, QEMU, and the verdict.
//!
//! [`kernels`] fetches a Debian kernel into a cache. [`initramfs`] packs the guest's files. [`accel`] tries whether KVM
//! can run the guest. [`machine`] boots the guest once and returns its report. [`hardware`] is a test's demand on its
//! machine. [`suite`] boots until every test has a result. The guest's half is the program `zosbd2-vm-guest` of the
//! same package (`src/main.rs`); the two halves share [`protocol`]. Nothing here prints: callers pass a function that
//! receives events as they come.

pub mod accel;
pub mod arch;
mod command;
pub mod cpio;
mod error;
pub mod hardware;
pub mod initramfs;
pub mod kernels;
pub mod machine;
pub mod modules;
pub mod packages;
pub mod protocol;
pub mod suite;
mod sys;

pub use error::{Error, Result};
