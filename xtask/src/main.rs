// SPDX-License-Identifier: MIT OR Apache-2.0
//! Developer commands, run as `cargo xtask NAME`.

mod abi_gen;

use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write abi/include/zosbd2.h from the abi crate
    AbiGen(abi_gen::Arguments),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::AbiGen(arguments) => abi_gen::run(&arguments),
    }
}
