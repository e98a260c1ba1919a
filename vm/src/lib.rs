// SPDX-License-Identifier: MIT OR Apache-2.0
//! The host's half of the VM harness: stock kernels, an initramfs, QEMU, and the verdict.
//!
//! [`kernels`] fetches a named Debian kernel into a cache; [`initramfs`] packs what the guest needs; [`machine`]
//! boots it once and reports what the guest said; [`hardware`] is what a test wants of its machine; [`suite`] boots as often as it takes to give every test a result.
//! The guest's half is the program `zosbd2-vm-guest` of the same package (`src/main.rs`); the two share
//! [`protocol`]. Nothing here prints: callers pass a function that gets events as they come.

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

pub use error::{Error, Result};
