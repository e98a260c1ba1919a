// SPDX-License-Identifier: GPL-2.0-only
//! Version 2's calls: `docs/abi-v2.md`.

mod answer;
pub mod argument;
mod buffers;
pub mod commit;
pub mod control;
mod ended;
pub mod enter;
mod entries;
pub mod opened;
mod progress;
pub mod report;
mod run;
mod scattered;
pub mod server;
