// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the two halves of the VM harness share: the lines that they exchange, the demands of a test on its machine, the
//! description of a session with a shell, and the frames of a Debian system's control channel.
//!
//! The rest of the guest's half are the programs `zosbd2-vm-guest` (`src/main.rs`) and `zosbd2-vm-agent`
//! (`src/agent/main.rs`); the host's half is `zosbd2-vm`.

pub mod channel;
pub mod hardware;
pub mod protocol;
pub mod session;
