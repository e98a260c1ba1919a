// SPDX-License-Identifier: MIT OR Apache-2.0
//! Implement Linux block devices in userspace, on top of the zosbd2 kernel module.
//!
//! This program is a disk of 64 MiB, until SIGINT, SIGTERM, or a destroy by another process:
//!
//! ```no_run
//! use std::sync::RwLock;
//! use std::time::Duration;
//! use zosbd2::{Backend, Builder, Capabilities, Errno};
//!
//! struct Memory(RwLock<Vec<u8>>);
//!
//! impl Backend for Memory {
//!     fn size(&self) -> u64 {
//!         64 << 20
//!     }
//!
//!     fn capabilities(&self) -> Capabilities {
//!         // The data goes with the program, so the program does not go on with the disk of an earlier one.
//!         Capabilities::default().ephemeral(true)
//!     }
//!
//!     fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
//!         let memory = self.0.read().map_err(|_| Errno::IO)?;
//!         buffer.copy_from_slice(&memory[offset as usize..][..buffer.len()]);
//!         Ok(())
//!     }
//!
//!     fn write(&self, offset: u64, data: &mut [u8], _fua: bool) -> Result<(), Errno> {
//!         let mut memory = self.0.write().map_err(|_| Errno::IO)?;
//!         memory[offset as usize..][..data.len()].copy_from_slice(data);
//!         Ok(())
//!     }
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let memory = Memory(RwLock::new(vec![0; 64 << 20]));
//!     // If the program dies, the disk goes at once.
//!     let builder = Builder::new("hello").auto_destroy(true).grace(Duration::ZERO);
//!     builder.serve_then(&memory, |node| println!("serving {}", node.display()))?;
//!     Ok(())
//! }
//! ```
//!
//! A program implements a [`Backend`] and calls [`Builder::serve`]. The call creates the device and serves
//! it until a signal or another process destroys it. If the data outlives the program, a program that died is started
//! again, and goes on with the device.
//! What an operator must know meanwhile is an [`Event`]. [`Server::serve`] does the same for programs that create
//! or attach to a device themselves. [`Server::enter`] is the single call below that, for programs with their
//! own loop. [`SparseMemory`] is a store for RAM disks and tests. Interface version 1, that of the original
//! zosbd2, is in the module `v1`, with the feature `v1`, for programs that were written for it.
//!
//! A store that waits for a network is an [`AsyncBackend`], for [`Builder::serve_async`], or `Builder::serve_tokio` with
//! the feature `tokio`. A store with completions of its own is a [`Handler`]. The folder `examples` of the repository has a
//! program of each kind.
//!
//! All calls but those for tokio block the calling thread, and need no async runtime. Offsets and lengths are in bytes. No
//! function panics on data from the kernel: the library checks every request against the size of the device
//! and of the buffer before a backend sees it.
#![deny(unsafe_code)]

mod error;
mod node;
mod prepare;
mod serving;
mod stop;
#[expect(
    unsafe_code,
    reason = "the one module that makes system calls with pointers; each block argues its safety"
)]
mod sys;
#[cfg(feature = "v1")]
pub mod v1;
pub mod v2;

pub use error::{BadRequest, Chain, Error, MemoryError};
pub use prepare::prepare_thread;
pub use rustix::io::Errno;
pub use stop::StopToken;
pub use sys::fork::{ForkGuard, OwnFile};
pub use sys::memory::SparseMemory;
pub use v2::{
    Answer, Answers, AsyncBackend, Backend, Batch, Blocking, Buffer, BufferList, Buffers, Builder,
    Capabilities, Channel, Control, DeadlinePolicy, Difference, End, Entered, Event, Fetch, Fetched,
    HandOver, Handler, Holder, Identity, Info, Keeper, Latency, Layer, Listed, MemoryLock, Observer,
    Operation, OperationCounts, Outstanding, Process, Readiness, Region, Request, RequestState, ServeOptions,
    Server, ServerId, Settings, State, Stats, Status, TakeOver, ThreadModel, UNLIMITED, Users, Which, Zero,
    events, testing,
};

/// What the functions of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Compiles the example of the project's README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// Compiles the example of the package's README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct PackageReadme;
