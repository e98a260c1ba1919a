// SPDX-License-Identifier: MIT OR Apache-2.0
//! Backends for zosbd2, and the suite that every backend has to pass.
//!
//! | backend | keeps the bytes | discard | flush, FUA |
//! |---|---|---|---|
//! | [`Null`] | nowhere: moves them and forgets them | yes | no volatile cache |
//! | [`Ram`] | in memory, only those that were written | gives memory back | no volatile cache |
//! | [`FileDisk`] | in a file or block device | punches holes | `fdatasync`, `RWF_DSYNC` |
//!
//! [`conformance`] checks any [`Backend`](zosbd2::Backend), on the host or through its block device.
#![deny(unsafe_code)]

pub mod conformance;
mod file;
mod null;
mod ram;
#[expect(unsafe_code, reason = "the only module with unsafe code: calls on block devices")]
mod sys;

pub use file::{FileDisk, FileError, FileOptions, Holder};
pub use null::Null;
pub use ram::Ram;
