// SPDX-License-Identifier: MIT OR Apache-2.0
//! Faults on purpose, to test the code above a disk: the file system, the application, and the server that follows.
//!
//! ```no_run
//! use std::time::Duration;
//! use zosbd2::{Builder, Errno, Operation, SparseMemory};
//! use zosbd2_faults::{Action, Fault, FaultPlan};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let plan = FaultPlan::new(42)
//!     // The third read of the first block fails ...
//!     .with(Fault::new(Action::Errno(Errno::IO)).on(Operation::Read).range(0..4096).nth(3))
//!     // ... and one write in a hundred is slow; the same in words, as a command line has it.
//!     .with("write:share=0.01:delay=50ms".parse()?);
//! let memory = SparseMemory::new(1 << 20)?; // or a backend of your own
//! Builder::new("faulty").layer(plan.clone()).serve(&memory)?;
//! println!("{} requests went wrong", plan.injected());
//! # Ok(())
//! # }
//! ```
//!
//! A [`FaultPlan`] is a [`Layer`](zosbd2::Layer): [`Faulty`] sits between the library and the kernel, so backends of all
//! kinds, with owned requests and futures, too, know nothing of it. Direct copies of a region can fail, and answers can be
//! lost or given twice, which no backend could do.

mod channel;
mod plan;
mod text;

pub use channel::Faulty;
pub use plan::{Action, Fault, FaultCounts, FaultPlan, Moment};
pub use text::ParseFaultError;

/// Compiles the example of the package's README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct PackageReadme;

/// Compiles the examples of the text on backends.
#[cfg(doctest)]
#[doc = include_str!("../../docs/backends.md")]
struct Backends;
