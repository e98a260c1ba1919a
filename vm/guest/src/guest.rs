// SPDX-License-Identifier: MIT OR Apache-2.0
//! The helpers of the tests, and the code that runs the tests. Everything that a test may use is exported here.
//!
//! A helper panics on an unexpected result, with a message that says what it was doing.

pub(crate) mod aio;
mod allocations;
pub(crate) mod block_trace;
pub(crate) mod child;
mod context;
pub(crate) mod descriptor;
pub(crate) mod disk;
mod fail_nth;
pub(crate) mod init;
mod kmemleak;
mod kmsg;
pub(crate) mod modules;
mod mount;
mod patience;
mod process;
pub(crate) mod processor;
mod random;
pub(crate) mod raw;
mod registry;
mod replay;
pub(crate) mod report;
mod step;
mod supervise;
pub(crate) mod sys;
mod trace_instance;
mod tracing;
mod wait;

pub(crate) use allocations::Allocations;
pub(crate) use context::Context;
pub(crate) use fail_nth::{FailNth, Round};
pub(crate) use registry::{Need, Test, memory_mib};
pub(crate) use {
    kmemleak::watches_memory,
    kmsg::{Kmsg, suspicious},
    modules::{load_file, try_unload},
    mount::{Mounted, drop_caches, read_trimmed, write_text},
    patience::Patience,
    process::{Finished, Spawned, command, run},
    random::Random,
    replay::What,
    step::Step,
    supervise::others,
    tracing::{follow as follow_trace, traced},
    wait::wait_until,
};
