// SPDX-License-Identifier: MIT OR Apache-2.0
//! The host's half of the VM harness: stock kernels, an initramfs, QEMU, and the verdict.
//!
//! [`kernels`] fetches a Debian kernel into a cache. [`initramfs`] packs the guest's files. [`accel`] tries whether KVM
//! can run the guest. [`machine`] boots the guest once and returns its report. [`hardware`] is a test's demand on its
//! machine. [`suite`] boots until every test has a result. A boot can also run a shell ([`session`]), with [`programs`] of
//! the host and a [`share`]. [`system`] boots a whole Debian and runs commands in it. The guest's half is the package `zosbd2-vm-guest`
//! (`vm/guest`); its small library has [`protocol`] and [`hardware`], which the two halves share. Nothing here prints:
//! callers pass a function that receives events as they come.

pub mod accel;
pub mod arch;
mod command;
pub mod cpio;
pub mod elf;
mod error;
pub mod initramfs;
pub mod kernels;
pub mod machine;
pub mod modules;
pub mod packages;
pub mod programs;
pub mod share;
pub mod suite;
pub mod suites;
mod sys;
pub mod system;

pub use error::{Error, Result};
pub use zosbd2_vm_guest::{channel, hardware, protocol, session};
