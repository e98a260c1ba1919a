// SPDX-License-Identifier: GPL-2.0-only
//! Version 2's calls: `docs/abi-v2.md`.

pub mod argument;
pub mod commit;
pub mod control;
pub mod enter;
pub mod opened;
pub mod report;
pub mod server;
