// SPDX-License-Identifier: MIT OR Apache-2.0
//! The verbs: a file for each, with its arguments, and what it does.

pub(crate) mod add;
pub(crate) mod completion;
pub(crate) mod conformance;
pub(crate) mod events;
pub(crate) mod gc;
pub(crate) mod list;
pub(crate) mod man;
pub(crate) mod recover;
pub(crate) mod remove;
pub(crate) mod requests;
pub(crate) mod resize;
pub(crate) mod serve;
pub(crate) mod set;
pub(crate) mod show;
pub(crate) mod stat;
pub(crate) mod upgrade;

use crate::failure::{Context as _, Failure, Result};
use crate::output;
use serde::Serialize;

/// Prints facts as JSON.
fn json(facts: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(facts).context("write JSON")?;
    output::write(&format!("{text}\n")).map(drop)
}

/// The disks that a verb is for.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Disks {
    /// The disks
    #[arg(value_name = "NAME", value_parser = crate::units::name)]
    names: Vec<String>,
    /// All disks that it is possible for
    #[arg(long)]
    all: bool,
}

impl Disks {
    /// Does something to each disk, also after a failure; the first failure is the result, and the others are printed.
    fn each(
        &self,
        all: impl FnOnce() -> Result<Vec<String>>,
        mut act: impl FnMut(&str) -> Result<()>,
    ) -> Result<()> {
        let names = if self.all { all()? } else { self.names.clone() };
        let mut first: Option<Failure> = None;
        for name in names {
            match (act(&name), &first) {
                (Ok(()), _) => {}
                (Err(failure), None) => first = Some(failure),
                (Err(failure), Some(_)) => {
                    failure.report();
                }
            }
        }
        first.map_or(Ok(()), Err)
    }
}
