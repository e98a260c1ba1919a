// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the two halves of the VM harness share: the lines that they exchange, the demands of a test on its machine, and
//! the description of a session with a shell.
//!
//! The rest of the guest's half is the program `zosbd2-vm-guest` (`src/main.rs`); the host's half is `zosbd2-vm`.

pub mod hardware;
pub mod protocol;
pub mod session;
