// SPDX-License-Identifier: MIT OR Apache-2.0
//! Implement Linux block devices in userspace, on top of the zosbd2 kernel module.
//!
//! A program implements a [`Backend`] and calls [`Builder::serve`]. The call creates the device and serves
//! it until a signal or another process destroys it. [`Server::serve`] does the same for programs that create
//! or attach to a device themselves. [`Server::enter`] is the single call below that, for programs with their
//! own loop. [`SparseMemory`] is a store for RAM disks and tests. Interface version 1, that of the original
//! zosbd2, is in [`v1`].
//!
//! All calls block the calling thread, and need no async runtime. Offsets and lengths are in bytes. No
//! function panics on data from the kernel: the library checks every request against the size of the device
//! and of the buffer before a backend sees it.
//!
//! ```no_run
//! use zosbd2::{Builder, SparseMemory};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let memory = SparseMemory::new(1 << 30)?; // or your own `Backend`
//! Builder::new("mydisk").serve(&memory)?; // /dev/zosbd2/mydisk, until SIGINT, SIGTERM or a destroy
//! # Ok(())
//! # }
//! ```
#![deny(unsafe_code)]

mod error;
mod node;
mod serving;
mod stop;
#[expect(
    unsafe_code,
    reason = "the one module that makes system calls with pointers; each block argues its safety"
)]
mod sys;
pub mod v1;
pub mod v2;

pub use error::{BadRequest, Error, MemoryError};
pub use rustix::io::Errno;
pub use stop::StopToken;
pub use sys::memory::SparseMemory;
pub use v2::{
    Action, Answers, Backend, Batch, Buffer, BufferList, Buffers, Builder, Capabilities, Control,
    DeadlinePolicy, End, Entered, Fault, FaultCounts, FaultPlan, Faulty, Fetch, Holder, Info, Latency,
    Listed, MemoryLock, Moment, Observer, Operation, OperationCounts, Outstanding, ParseFaultError, Region,
    Request, RequestState, ServeOptions, Server, ServerId, State, Stats, Status, TakeOver, ThreadModel,
    UNLIMITED, Which, Zero,
};

/// What the functions of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Compiles the example of the project's README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// Compiles the example of the text on backends.
#[cfg(doctest)]
#[doc = include_str!("../../docs/backends.md")]
struct Backends;
