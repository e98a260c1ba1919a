// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask sim`: long runs of the simulator.
#![forbid(unsafe_code)]

use clap::Parser;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Instant;
use zosbd2_sim::run;

#[derive(Parser)]
struct Arguments {
    /// Decides everything; a random one if there is none
    #[arg(long)]
    seed: Option<u64>,
    /// How many steps to take
    #[arg(long, default_value_t = 10_000_000)]
    steps: u64,
    /// Run this one episode, which failed
    #[arg(long, conflicts_with_all = ["seed", "steps"])]
    episode: Option<u64>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let seed = arguments.episode.or(arguments.seed).unwrap_or_else(|| RandomState::new().hash_one(0));
    let steps = if arguments.episode.is_some() { 1 } else { arguments.steps };
    println!("seed {seed}");
    let start = Instant::now();
    match run(seed, steps, None) {
        Ok((episodes, counts)) => {
            let seconds = start.elapsed().as_secs_f64();
            println!("{episodes} episodes in {seconds:.1} s: {counts:?}");
            Ok(())
        }
        Err(found) => anyhow::bail!("{found}"),
    }
}
