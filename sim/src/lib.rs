// SPDX-License-Identifier: GPL-2.0-only
//! A deterministic simulator: the real engine between a fake block layer and fake servers, under a virtual clock.
//!
//! One seed decides everything, so a failure is repeated by its seed. An [episode](world::episode) is the life of one
//! device with [settings](settings::Settings) of its own.
//!
//! | module | what it is |
//! |---|---|
//! | [`settings`] | what an episode is made of, and the defects that can be planted |
//! | `block` | the fake block layer: tags, flush machinery, timer, submitters |
//! | `device` | what the kernel's glue does with the device's lock held |
//! | `server` | fake server processes: what they carry out, how they die |
//! | `thread` | their threads, in and out of the glue's calls |
//! | `store` | their disk and caches |
//! | `account` | what submitters may rely on |
//! | [`world`] | who goes next, and the checks after each step |
//!
//! The engine is driven as the glue drives it: a step is one critical section, or what is done between two of them.
//! So the simulator finds what goes wrong when something else happens in between; what happens within a critical
//! section is for the tests of the engine.
#![forbid(unsafe_code)]

mod account;
mod block;
mod device;
pub mod fuzz;
pub mod random;
mod server;
pub mod settings;
mod store;
mod thread;
pub mod world;

use random::Random;
use settings::Defect;
use world::{Counts, Failure, episode};

/// A failed episode.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its seed.
    pub seed: u64,
    /// Number of steps before it.
    pub steps: u64,
    /// The failure.
    pub failure: Failure,
}

impl std::fmt::Display for Found {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for line in &self.failure.trace {
            writeln!(formatter, "{line}")?;
        }
        writeln!(formatter, "episode {}: {}", self.seed, self.failure.what)?;
        write!(formatter, "repeat with: cargo xtask sim --episode {}", self.seed)
    }
}

/// Runs episodes until `steps` steps are done. The first episode has the seed itself.
///
/// # Errors
///
/// The first failing episode, with a trace.
pub fn run(seed: u64, steps: u64, defect: Option<Defect>) -> Result<(u64, Counts), Box<Found>> {
    let mut seeds = Random::new(seed);
    let (mut counts, mut episodes, mut next) = (Counts::default(), 0, seed);
    while counts.steps < steps {
        match episode(next, defect, false) {
            Ok(more) => counts.add(&more),
            Err(failure) => {
                // Run the episode again, with a trace.
                let failure = episode(next, defect, true).err().unwrap_or(failure);
                return Err(Box::new(Found { seed: next, steps: counts.steps, failure }));
            }
        }
        episodes += 1;
        next = seeds.next();
    }
    Ok((episodes, counts))
}
