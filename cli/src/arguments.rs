// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line.

use crate::verbs;
use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Disks that programs implement: makes them, shows them, and keeps them alive.
#[derive(Debug, Parser)]
#[command(
    name = "zosbd2",
    version,
    propagate_version = true,
    max_term_width = 100,
    arg_required_else_help = true
)]
#[command(
    after_help = "Exit status: 0 success, 1 failure, 2 wrong usage, 3 no such device, 4 device in use."
)]
pub(crate) struct Arguments {
    /// The control node, where it is not /dev/zosbd2ctl
    #[arg(long, global = true, value_name = "NODE", help_heading = "Global options")]
    pub(crate) device: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a disk and its server, and print the node
    Add(verbs::add::Arguments),
    /// List the disks
    #[command(visible_alias = "ls")]
    List(verbs::list::Arguments),
    /// Show everything about a disk
    Show(verbs::show::Arguments),
    /// Show what disks do, and how long it takes
    Stat(verbs::stat::Arguments),
    /// List the requests that are not answered
    Requests(verbs::requests::Arguments),
    /// Change the size of a disk while it is in use
    Resize(verbs::resize::Arguments),
    /// Change grace, deadline and policy of a disk while it is in use
    Set(verbs::set::Arguments),
    /// Remove disks
    Remove(verbs::remove::Arguments),
    /// Start a new server for a disk that has none
    Recover(verbs::recover::Arguments),
    /// Replace the server of a disk by a new process while I/O runs
    Upgrade(verbs::upgrade::Arguments),
    /// List and remove what nobody serves and nobody uses
    Gc(verbs::gc::Arguments),
    /// Print a line for each thing that happens to disks
    Events(verbs::events::Arguments),
    /// Test a block device and its server; overwrites its data
    Conformance(verbs::conformance::Arguments),
    /// Print what a shell needs to complete this command's words
    Completion(verbs::completion::Arguments),
    /// Print or write the manual pages
    Man(verbs::man::Arguments),
    /// Serve a configured disk in the foreground; what units do
    #[command(hide = true)]
    Serve(verbs::serve::Arguments),
}
