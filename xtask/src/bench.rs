// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask bench`, behind `make bench`: instructions per I/O of this project's devices, of the kernel's own
//! devices, and of other projects' devices.
//!
//! The benchmark has three forms, each in one boot whose clock counts instructions (1 ns each, summed over all
//! virtual processors), so figures repeat within 1 to 2 % whatever else runs on the machine. Form v1 measures
//! interface version 1 with one virtual processor; form v2 measures version 2 and its peers with two; form hold
//! compares the ways in which a server of version 2 gets the data of writes that it holds. The command
//! prints a table, writes the same rows to `target/bench.json`, and says of each goal whether it is met. A missed
//! goal or an unavailable peer is no error; a missing row is. docs/benchmarks.md has the details.

mod goals;
mod peers;

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use zosbd2_vm::kernels::KernelName;

use crate::{fetch, paths, vm};
use peers::Missing;

/// Arguments of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Kernel to measure in
    #[arg(long, default_value = "6.12")]
    kernel: KernelName,
    /// Only this form
    #[arg(long, value_enum)]
    form: Option<Form>,
    /// Measure only devices whose names begin like one of these (A,B); goals need all
    #[arg(long)]
    device: Option<String>,
    /// Measure only rows of these depths (A,B); goals need all
    #[arg(long)]
    depth: Option<String>,
}

/// Which devices to measure, on which machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// Version 1 of the interface, one virtual processor
    V1,
    /// Version 2 and its peers, two virtual processors
    V2,
    /// Servers of version 2 that hold the data of writes, two virtual processors
    Hold,
}

impl Form {
    const ALL: [Self; 3] = [Self::V1, Self::V2, Self::Hold];

    /// The guest's test, and its virtual processors.
    fn machine(self) -> (&'static str, &'static str) {
        match self {
            Self::V1 => ("bench_v1", "1"),
            Self::V2 => ("bench_v2", "2"),
            Self::Hold => ("bench_hold", "2"),
        }
    }

    fn devices(self) -> &'static [&'static str] {
        match self {
            Self::V1 => &["null_blk", "brd", "loop", "v1-1", "v1-4", "v1-16"],
            Self::V2 => &[
                "null_blk",
                "brd",
                "loop",
                "ublk-null",
                "ublk-loop",
                "nbd",
                "null",
                "null-owned",
                "null-async",
                "null-tokio",
                "ram",
                "file",
                "ram-4",
                "ram-2",
                "ram-2q",
            ],
            Self::Hold => &["null_blk", "hold-arena", "hold-commit", "hold-copy", "hold-list"],
        }
    }

    /// Number of rows of each device.
    fn workloads(self) -> usize {
        match self {
            Self::V1 => 6,
            Self::V2 => 22,
            Self::Hold => 4,
        }
    }
}

/// One measurement; the fields' names are those of the JSON file. the devices tell the forms apart.
#[derive(Clone, Debug, Serialize)]
struct Row {
    device: String,
    rw: String,
    bs: u64,
    qd: u32,
    jobs: u32,
    vcpus: u32,
    iops: u64,
    mib_per_s: f64,
    insn_per_io: f64,
    insn_over_null_blk: Option<f64>,
    kernel: String,
}

/// Results of one form.
struct Measured {
    form: Form,
    rows: Vec<Row>,
    missing: Vec<Missing>,
    complete: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let forms = Form::ALL.into_iter().filter(|form| arguments.form.is_none_or(|only| only == *form));
    let all = forms.map(|form| measure(form, arguments)).collect::<Result<Vec<_>>>()?;
    for measured in &all {
        print(&measured.rows);
        for Missing { device, reason } in &measured.missing {
            println!("missing {device}: {reason}");
        }
    }
    let rows: Vec<&Row> = all.iter().flat_map(|measured| &measured.rows).collect();
    let path = paths::root().join("target/bench.json");
    fs::write(&path, serde_json::to_string_pretty(&rows)? + "\n")
        .with_context(|| format!("write {}", path.display()))?;
    println!("rows are in {}", path.display());
    let whole = arguments.device.is_none() && arguments.depth.is_none();
    if whole {
        for measured in &all {
            goals::judge(measured.form, &measured.rows);
        }
    }
    for Measured { form, rows, missing, complete } in &all {
        ensure!(complete, "{form:?} did not run to its end");
        let wanted = (form.devices().len() - missing.len()) * form.workloads();
        let count = rows.len();
        ensure!(!whole || count == wanted, "{form:?} has {count} rows instead of {wanted}");
    }
    Ok(())
}

/// Boots and measures. A guest that failed returns the rows measured so far.
fn measure(form: Form, arguments: &Arguments) -> Result<Measured> {
    let name = arguments.kernel.to_string();
    let kernel = fetch::one(arguments.kernel, false)?;
    let (test, smp) = form.machine();
    let mut words = vec!["--kernel", &name, "--icount", "--smp", smp, "--mem", "3G", test];
    let limits = [("device", &arguments.device), ("depth", &arguments.depth)];
    let settings = limits.map(|(name, limit)| limit.as_ref().map(|limit| format!("--set={name}={limit}")));
    words.extend(settings.iter().flatten().map(String::as_str));
    let mut options = vm::arguments(&words);
    options.tools.push(("/sbin/losetup".to_owned(), "mount".to_owned()));
    let wanted = |device: &str| {
        let among = |only: &str| only.split(',').any(|beginning| device.starts_with(beginning));
        form.devices().contains(&device) && arguments.device.as_deref().is_none_or(among)
    };
    let mut missing = peers::provide(&mut options, &kernel, &wanted);
    let reports = vm::reports(&options, &vm::runs(&options))?;
    let tally = vm::tally(&reports);
    let mut rows = Vec::new();
    for line in reports.iter().flat_map(|(_, report)| &report.data) {
        match Missing::parse(line) {
            // The host knows the reason better.
            Some(told) if missing.iter().any(|known| known.device == told.device) => {}
            Some(told) => missing.push(told),
            None => rows.push(row(line, &kernel.release)?),
        }
    }
    for index in 0..rows.len() {
        let floor = floor(&rows, &rows[index]).map(|floor| round(rows[index].insn_per_io - floor));
        rows[index].insn_over_null_blk = floor;
    }
    Ok(Measured { form, rows, missing, complete: tally.failed.is_empty() && tally.skipped.is_empty() })
}

fn round(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// Parses a line of the guest.
fn row(line: &str, kernel: &str) -> Result<Row> {
    let words: Vec<&str> = line.split(' ').collect();
    let [device, rw, bs, qd, jobs, vcpus, iops, kib_per_s] = words[..] else {
        anyhow::bail!("the guest sent no row: {line}");
    };
    let (iops, kib): (u32, u32) = (iops.parse()?, kib_per_s.parse()?);
    Ok(Row {
        device: device.to_owned(),
        rw: rw.to_owned(),
        bs: bs.parse()?,
        qd: qd.parse()?,
        jobs: jobs.parse()?,
        vcpus: vcpus.parse()?,
        iops: iops.into(),
        mib_per_s: round(f64::from(kib) / 1024.0),
        insn_per_io: round(1e9 / f64::from(iops)),
        insn_over_null_blk: None,
        kernel: kernel.to_owned(),
    })
}

/// Cost of `null_blk` in the same configuration as `row`.
fn floor(rows: &[Row], row: &Row) -> Option<f64> {
    let key = |row: &Row| (row.rw.clone(), row.bs, row.qd, row.jobs);
    rows.iter().find(|other| other.device == "null_blk" && key(other) == key(row)).map(|row| row.insn_per_io)
}

fn print(rows: &[Row]) {
    println!(
        "{:<10} {:<15} {:>8} {:>3} {:>4} {:>5} {:>9} {:>9} {:>12} {:>14}",
        "device", "rw", "bs", "qd", "jobs", "vcpus", "IOPS", "MiB/s", "insn/IO", "over null_blk"
    );
    for row in rows {
        let over = row.insn_over_null_blk.map_or_else(|| "-".to_owned(), |over| format!("{over:.0}"));
        let Row { device, rw, bs, qd, jobs, vcpus, iops, mib_per_s, insn_per_io, .. } = row;
        println!(
            "{device:<10} {rw:<15} {bs:>8} {qd:>3} {jobs:>4} {vcpus:>5} {iops:>9} {mib_per_s:>9.1} {insn_per_io:>12.0} \
             {over:>14}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_and_measured_against_null_blk() {
        let row = |line| row(line, "6.12");
        let ours = row("v1-1 randread 4096 32 1 2 50000 200000").unwrap();
        assert_eq!((ours.insn_per_io, ours.mib_per_s, ours.qd), (20000.0, 195.3, 32));
        assert_eq!((ours.jobs, ours.vcpus), (1, 2));
        assert!(row("v1-1 randread 4096 32 1 2 50000").is_err());
        assert!(row("v1-1 randread 4096 32 1 2 x 1").is_err());
        let two_jobs = row("null_blk randread 4096 32 2 2 200000 800000").unwrap();
        let one_job = row("null_blk randread 4096 32 1 2 100000 400000").unwrap();
        assert_eq!(floor(&[two_jobs, one_job], &ours), Some(10000.0));
        assert_eq!(floor(&[], &ours), None);
    }
}
