// SPDX-License-Identifier: GPL-2.0-only
//! Entry points between the C shim and the engine: the only unsafe Rust in the kernel.
//!
//! The shim calls the `extern "C"` functions of [`entry`]. They turn its pointers into the types of
//! [`block`], call the engine, and carry out its effects through the functions of [`shim`]. Policy without
//! pointers is in the engine, and the shim moves the data.
//!
//! No function here allocates or panics. The shim allocates zeroed memory, which is initialised here once.
#![no_std]
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

pub mod block;
pub mod devices;
pub mod entry;
pub mod list;
pub mod reference;
pub mod registry;
pub mod shim;
pub mod show;
pub mod survey;
pub mod trace;
pub mod transfer;
pub mod v1;
pub mod v2;
