// SPDX-License-Identifier: MIT OR Apache-2.0
//! Implement Linux block devices in userspace, on top of the zosbd2 kernel module.
//!
//! A program creates a device through the control node ([`v1::Control`]), opens the block node
//! ([`v1::Device`]) and serves it: [`v1::serve`] runs worker threads that hand every request to a
//! [`v1::Backend`], and returns when the device is gone. [`v1::Worker`] is the layer below for
//! programs that want their own loop. [`SparseMemory`] is a store for RAM disks and tests.
//!
//! All calls block the calling thread; nothing here needs a runtime. Offsets and lengths are in bytes.
//! No function panics on what the kernel says: every request is checked against the size of the device
//! and of the buffer before a backend sees it.
//!
//! ```no_run
//! use std::num::NonZeroUsize;
//! use std::time::Duration;
//! use zosbd2::SparseMemory;
//! use zosbd2::v1::{Control, CreateOptions, Device, StopToken, serve};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let control = Control::open()?;
//! let options = CreateOptions::new("mydisk", 1024 * 1024)?.timeout(Duration::from_secs(30));
//! let memory = SparseMemory::new(options.size_bytes())?;
//! let handle = control.create(&options)?;
//! let device = Device::open(&control, handle, Duration::from_secs(5))?;
//! // Another thread may call `stop.request()`; so may any process with `Control::destroy_by_name`.
//! let stop = StopToken::new();
//! serve(&control, &device, &memory, NonZeroUsize::MIN, &stop)?;
//! # Ok(())
//! # }
//! ```
#![deny(unsafe_code)]

mod error;
#[expect(
    unsafe_code,
    reason = "the one module that makes system calls with pointers; each block argues its safety"
)]
mod sys;
pub mod v1;

pub use error::{BadRequest, Error, MemoryError};
pub use rustix::io::Errno;
pub use sys::memory::SparseMemory;

/// What the functions of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Compiles the example of the project's README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
