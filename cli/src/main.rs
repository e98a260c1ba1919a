// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `zosbd2`: makes disks that programs implement, shows them, and keeps them alive.
//!
//! What the command does is in the libraries; what is here is what people see: words, tables, exit codes. A verb is a
//! file in `verbs`.
#![forbid(unsafe_code)]

mod arguments;
mod config;
mod control;
mod edit;
mod facts;
mod failure;
mod generator;
mod latency;
mod launch;
mod leftover;
mod memory;
mod node;
mod notice;
mod output;
mod places;
mod progress;
mod sample;
#[cfg(test)]
mod schema;
mod server;
mod signature;
mod table;
mod units;
mod verbs;

use arguments::{Arguments, Verb};
use clap::Parser as _;
use std::io::IsTerminal as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    log();
    let mut words = std::env::args();
    if words.next().is_some_and(|program| program.rsplit('/').next() == Some(generator::NAME)) {
        return done(generator::run(&words.collect::<Vec<_>>()));
    }
    let arguments = Arguments::parse();
    let node = arguments.device.as_deref();
    done(match &arguments.verb {
        Verb::Add(arguments) => verbs::add::run(arguments),
        Verb::List(arguments) => verbs::list::run(arguments, node),
        Verb::Show(arguments) => verbs::show::run(arguments, node),
        Verb::Stat(arguments) => verbs::stat::run(arguments, node),
        Verb::Requests(arguments) => verbs::requests::run(arguments, node),
        Verb::Resize(arguments) => verbs::resize::run(arguments, node),
        Verb::Set(arguments) => verbs::set::run(arguments, node),
        Verb::Remove(arguments) => verbs::remove::run(arguments, node),
        Verb::Recover(arguments) => verbs::recover::run(arguments, node),
        Verb::Upgrade(arguments) => verbs::upgrade::run(arguments, node),
        Verb::Gc(arguments) => verbs::gc::run(arguments, node),
        Verb::Events(arguments) => verbs::events::run(arguments),
        Verb::Conformance(arguments) => verbs::conformance::run(arguments, node),
        Verb::Completion(arguments) => verbs::completion::run(arguments),
        Verb::Man(arguments) => verbs::man::run(arguments),
        Verb::Serve(arguments) => verbs::serve::run(arguments),
    })
}

/// The exit code of what was done. A failure is printed.
fn done(result: failure::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Messages go to standard error; the journal has times of its own.
fn log() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    builder.with_ansi(std::io::stderr().is_terminal()).without_time().init();
}
