// SPDX-License-Identifier: MIT OR Apache-2.0
//! Interface version 2: many queues, all operations, and servers that can be replaced.
//!
//! [`Builder`] describes a device, and [`Builder::serve`] is a whole program. [`Control`] creates, finds,
//! lists and destroys devices. [`Server`] is the right to serve one device: [`Server::serve`] runs a
//! [`Backend`] on it, and [`Server::enter`] is the single call, for programs with their own loop.
//!
//! The root of the crate exports all of it, too.

mod abandoned;
mod async_backend;
mod backend;
mod builder;
mod channel;
mod control;
pub mod events;
#[cfg(test)]
mod fake;
mod geometry;
mod handler;
mod handover;
mod inspect;
mod link;
mod name;
mod outbox;
mod peers;
mod pool;
mod report;
mod request;
mod same;
mod serve;
mod server;
mod settings;
mod signals;
mod tell;
pub mod testing;
#[cfg(test)]
mod tests;
mod users;
mod which;

pub use crate::sys::enter::{
    Answer, Answers, Batch, BufferList, Buffers, Entered, Fetch, Fetched, Identity, ServerId,
};
pub use crate::sys::memory::{Buffer, Region};
pub use async_backend::AsyncBackend;
pub use backend::{Backend, Capabilities, ThreadModel, Zero};
pub use builder::{Builder, UNLIMITED};
pub use channel::{Channel, Keeper, Layer};
pub use control::{Control, TakeOver};
pub use handler::{Blocking, Handler};
pub use handover::HandOver;
pub use inspect::Observer;
pub use report::{
    DeadlinePolicy, Holder, Info, Latency, Listed, OperationCounts, Outstanding, RequestState, State, Stats,
    Status,
};
pub use request::{Operation, Request};
pub use same::Difference;
pub use serve::{End, MemoryLock, Readiness, ServeOptions};
pub use server::Server;
pub use settings::Settings;
pub use tell::Event;
pub use users::{Process, Users};
pub use which::Which;
pub use zosbd2_abi::v2 as abi;
