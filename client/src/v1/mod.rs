// SPDX-License-Identifier: MIT OR Apache-2.0
//! Interface version 1, that of the original zosbd2.
//!
//! [`Control`] creates, finds, lists and destroys devices. [`Device`] is an open block node. [`serve`] runs a
//! [`Backend`] on it. [`Worker`] is one thread's side of the protocol. [`OperationBuffer`] and [`Channel`]
//! are the single call, for tests that break the rules.

mod backend;
mod buffer;
mod control;
mod device;
#[cfg(test)]
mod fake;
mod options;
mod request;
mod serve;
#[cfg(test)]
mod tests;
mod worker;

pub use crate::StopToken;
pub use backend::Backend;
pub use buffer::{OperationBuffer, Segments};
pub use control::Control;
pub use device::{Channel, Device};
pub use options::{CreateOptions, DeviceName, DeviceStatus, Handle};
pub use serve::{serve, serve_with};
pub use worker::{Event, Worker};
pub use zosbd2_abi::v1 as abi;
