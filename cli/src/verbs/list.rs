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
            // The last one to be cut off, when nothing else is left to cut.
            Self::Name => ("NAME", Align::Long),
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
    let columns = if arguments.columns.is_empty() { &Column::ALL[..] } else { &arguments.columns };
    table(&facts, columns, !arguments.no_headings).print();
    Ok(())
}

fn table(facts: &[Facts], columns: &[Column], headings: bool) -> Table {
    let mut table = Table::new(columns.iter().map(|column| column.heading()).collect(), headings);
    for facts in facts {
        table.row(columns.iter().map(|column| column.cell(facts)).collect());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use zosbd2::v2::abi;
    use zosbd2::{Status, Users};

    fn disk(name: &str, mountpoint: &str) -> Facts {
        let mut raw = abi::Status {
            state: abi::STATE_ORPHANED,
            version: 2,
            major: 252,
            pid: 4_194_304,
            opens: 12,
            size_bytes: 1000 << 30,
            ..abi::Status::default()
        };
        raw.name[..name.len()].copy_from_slice(name.as_bytes());
        let mut users = Users::default();
        users.mounts.push(mountpoint.into());
        let folder = tempfile::tempdir().unwrap();
        let places = Places { persistent: folder.path().join("etc"), run: folder.path().join("run") };
        Facts {
            backend: Some("file"),
            source: Some("/srv/images/of/somebody/disk.img".to_owned()),
            ..Facts::new(&places, &Status::from(&raw), &users)
        }
    }

    #[test]
    fn the_table_fits_80_and_200_columns() {
        let facts = [disk("a-name-of-24-characters-", "/mnt/a/long/way/down"), disk("b", "/mnt")];
        let table = table(&facts, &Column::ALL, true);
        for width in [80, 200] {
            let text = table.text(Some(width));
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}:\n{text}");
        }
        let text = table.text(Some(200));
        for cell in ["a-name-of-24-characters-", "/srv/images/of/somebody/disk.img", "/mnt/a/long/way/down"] {
            assert!(text.contains(cell), "{text}");
        }
        // Short names are whole in 80 columns, too.
        let text = super::table(&facts[1..], &Column::ALL, true).text(Some(80));
        assert!(text.contains("/mnt") && text.contains("b ") && text.contains("orphaned"), "{text}");
    }
}
