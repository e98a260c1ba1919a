// SPDX-License-Identifier: GPL-2.0-only
//! A deterministic simulator: the real engine between a fake block layer and fake servers, under a virtual clock.
//!
//! One seed decides everything, so the seed repeats a failure. An [episode](world::episode) is the life of one device
//! with its own [settings](settings::Settings).
//!
//! | module | contents |
//! |---|---|
//! | [`settings`] | the settings of an episode, and the defects that can be planted |
//! | `block` | the fake block layer: tags, flush machinery, timer, submitters |
//! | `device` | the work of the kernel's glue under the device lock |
//! | `server` | fake server processes: how they carry out requests, and how they die |
//! | `thread` | their threads, inside and outside the glue's calls |
//! | `store` | their disk and caches |
//! | `account` | what submitters may rely on |
//! | [`world`] | the choice of the next actor, and the checks after each step |
//!
//! The simulator calls the engine as the glue does: a step is one critical section, or the code between two critical
//! sections. So the simulator finds defects that need other events in between. The engine's own tests cover the code
//! within a critical section.
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
