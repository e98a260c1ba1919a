// SPDX-License-Identifier: MIT OR Apache-2.0
//! Backends for zosbd2, and the conformance suite that every backend must pass.
//!
//! | backend | stores the bytes | discard | flush, FUA |
//! |---|---|---|---|
//! | [`Null`] | nowhere: moves them only | yes | no volatile cache |
//! | [`Ram`] | in memory, allocated on the first write | frees memory | no volatile cache |
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
