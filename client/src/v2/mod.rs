// SPDX-License-Identifier: MIT OR Apache-2.0
//! Interface version 2: many queues, all operations, and servers that can be replaced.
//!
//! [`Builder`] describes a device, and [`Builder::serve`] is a whole program. [`Control`] creates, finds,
//! lists and destroys devices. [`Server`] is the right to serve one device: [`Server::serve`] runs a
//! [`Backend`] on it, and [`Server::enter`] is the single call, for programs with their own loop.
//!
//! The root of the crate exports all of it, too.

mod backend;
mod builder;
mod control;
#[cfg(test)]
mod fake;
mod fault;
mod inspect;
mod name;
mod report;
mod request;
mod serve;
mod server;
#[cfg(test)]
mod tests;
mod which;

pub use crate::sys::enter::{Answers, Batch, BufferList, Buffers, Entered, Fetch, Request, ServerId};
pub use crate::sys::memory::{Buffer, Region};
pub use backend::{Backend, Capabilities, ThreadModel, Zero};
pub use builder::{Builder, UNLIMITED};
pub use control::{Control, TakeOver};
pub use fault::{Action, Fault, FaultCounts, FaultPlan, Faulty, Moment, Operation, ParseFaultError};
pub use inspect::Observer;
pub use report::{
    DeadlinePolicy, Holder, Info, Latency, Listed, OperationCounts, Outstanding, RequestState, State, Stats,
    Status,
};
pub use serve::{End, MemoryLock, ServeOptions};
pub use server::Server;
pub use which::Which;
pub use zosbd2_abi::v2 as abi;
