// SPDX-License-Identifier: GPL-2.0-only
//! The state machines of requests and devices, as pure code.
//!
//! The engine knows no clock, no lock, no allocation and no I/O. It works on storage that the caller hands
//! in, under the caller's lock, and returns *effects*: "wake one server", "end the request of this tag with
//! this result". The same code runs in the kernel module (through `kernel/glue`)
//! and on the host, under table tests, property tests and an exhaustive search of the small state space.
//!
//! | module | what it decides |
//! |---|---|
//! | [`request`] | the states of one request, and the handles that name it |
//! | [`queue`] | which request is fetched next, which answer is accepted, which server is woken |
//! | [`cache`] | which writes are lost with a server's cache, and which flushes fail because of it; [`loss`] is the part of one queue |
//! | [`device`] | the life of a device: its servers, the grace after the last one, its teardown |
//! | [`registry`] | names, handles and the order of devices |
//! | [`failure`] | the error with which a request fails |
//! | [`name`] | which names a device may have |
//! | [`v1`] | interface version 1 in terms of the above |
//! | [`v2`] | interface version 2 in terms of the above |
//!
//! # Panics
//!
//! The engine cannot panic: the kernel object is linked without `core`'s code, so a reachable panic does not link.
//! Indices are checked with `get`, and arithmetic that can overflow uses `checked_` or `wrapping_` functions.
#![no_std]
#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::float_arithmetic,
    clippy::indexing_slicing,
    clippy::integer_division,
    clippy::panic,
    clippy::string_slice,
    clippy::todo,
    clippy::unimplemented,
    clippy::unreachable,
    clippy::unwrap_used
)]

pub mod cache;
pub mod deadline;
pub mod device;
pub mod errno;
pub mod event;
pub mod failure;
pub mod latency;
pub mod loss;
pub mod name;
pub mod queue;
pub mod registry;
pub mod request;
pub mod v1;
pub mod v2;
pub mod watch;

pub use errno::Errno;
