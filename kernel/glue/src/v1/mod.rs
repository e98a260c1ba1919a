// SPDX-License-Identifier: GPL-2.0-only
//! Version 1's calls, in front of the same engine as version 2's: `docs/abi-v1.md`.

pub mod control;
pub mod operation;
