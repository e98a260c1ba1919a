// SPDX-License-Identifier: MIT OR Apache-2.0
//! `zosbd2 list`: a row for each disk.

use crate::control;
use crate::facts::Facts;
use crate::failure::Result;
use crate::places::Places;
use crate::table::{Align, Table};
use crate::units::short;
use clap::ValueEnum;
use std::path::Path;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Print JSON
    #[arg(short, long)]
    json: bool,
    /// Print these columns
    #[arg(short = 'o', long, value_delimiter = ',', ignore_case = true)]
    columns: Vec<Column>,
    /// Print no headings
    #[arg(short, long)]
    no_headings: bool,
}

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Column {
    Name,
    Size,
    State,
    Backend,
    Source,
    Pid,
    Open,
    Mountpoint,
    Late,
}

impl Column {
    const ALL: [Self; 9] = [
        Self::Name,
        Self::Size,
        Self::State,
        Self::Backend,
        Self::Source,
        Self::Pid,
        Self::Open,
        Self::Mountpoint,
        Self::Late,
    ];

    const fn heading(self) -> (&'static str, Align) {
        match self {
            Self::Name => ("NAME", Align::Left),
            Self::Size => ("SIZE", Align::Right),
            Self::State => ("STATE", Align::Left),
            Self::Backend => ("BACKEND", Align::Left),
            Self::Source => ("SOURCE", Align::Long),
            Self::Pid => ("SERVER-PID", Align::Right),
            Self::Open => ("OPEN", Align::Right),
            Self::Mountpoint => ("MOUNTPOINT", Align::Long),
            Self::Late => ("LATE", Align::Right),
        }
    }

    fn cell(self, facts: &Facts) -> String {
        match self {
            Self::Name => facts.name.clone(),
            Self::Size => facts.size.map(short).unwrap_or_default(),
            Self::State => facts.state.to_owned(),
            Self::Backend => facts.backend.unwrap_or_default().to_owned(),
            Self::Source => facts.source.clone().unwrap_or_default(),
            Self::Pid => facts.server_pid.map(|pid| pid.to_string()).unwrap_or_default(),
            Self::Open => facts.opens.to_string(),
            Self::Mountpoint => facts.mountpoints.join(","),
            Self::Late => facts.late.to_string(),
        }
    }
}

pub(crate) fn run(arguments: &Arguments, node: Option<&Path>) -> Result<()> {
    let facts = Facts::all(&control::open(node)?, &Places::system())?;
    if arguments.json {
        return super::json(&facts);
    }
    let columns = if arguments.columns.is_empty() { Column::ALL.to_vec() } else { arguments.columns.clone() };
    let headings = columns.iter().map(|column| column.heading()).collect();
    let mut table = Table::new(headings, !arguments.no_headings);
    for facts in &facts {
        table.row(columns.iter().map(|column| column.cell(facts)).collect());
    }
    table.print();
    Ok(())
}
