// SPDX-License-Identifier: GPL-2.0-only
//! Version 1's calls, on the same engine as those of version 2: `docs/abi-v1.md`.

pub mod control;
pub mod operation;
