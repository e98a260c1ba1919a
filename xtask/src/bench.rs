// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask bench`, behind `make bench`: instructions per I/O, ours beside the kernel's own devices.
//!
//! One boot of one virtual processor whose clock counts instructions (1 ns each), so figures repeat within 1 to
//! 2 % whatever else the machine does. Prints a table, writes the same rows to `target/bench.json`, and says of
//! each goal whether it is met; a missed goal is no error, a missing row is. docs/benchmarks.md has the rest.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use zosbd2_vm::kernels::KernelName;

use crate::{fetch, paths, vm};

/// Arguments of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Kernel to measure in
    #[arg(long, default_value = "6.12")]
    kernel: KernelName,
    /// Measure only devices whose name begins like this; goals need all
    #[arg(long)]
    device: Option<String>,
}

/// One measurement; the fields' names are those of the JSON file.
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

const DEVICES: [&str; 6] = ["null_blk", "brd", "loop", "v1-1", "v1-4", "v1-16"];
const WORKLOADS: usize = 6;

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let name = arguments.kernel.to_string();
    let kernel = fetch::one(arguments.kernel, false)?.release;
    let mut words = vec!["--kernel", &name, "--icount", "--smp", "1", "--mem", "3G", "bench"];
    let setting = arguments.device.as_ref().map(|device| format!("--set=device={device}"));
    words.extend(setting.as_deref());
    let mut options = vm::arguments(&words);
    options.tools = vec![("/sbin/losetup".to_owned(), "mount".to_owned())];
    let reports = vm::reports(&options, &vm::runs(&options))?;
    let (_, failed, skipped) = vm::count(&reports);
    ensure!(failed + skipped == 0, "the benchmark did not run to its end");
    let lines = reports.iter().flat_map(|report| &report.data);
    let mut rows = lines.map(|line| row(line, &kernel)).collect::<Result<Vec<_>>>()?;
    for index in 0..rows.len() {
        let floor = find(&rows, "null_blk", &rows[index].rw, rows[index].qd).map(|row| row.insn_per_io);
        rows[index].insn_over_null_blk = floor.map(|floor| round(rows[index].insn_per_io - floor));
    }
    print(&rows);
    let path = paths::root().join("target/bench.json");
    fs::write(&path, serde_json::to_string_pretty(&rows)? + "\n")
        .with_context(|| format!("write {}", path.display()))?;
    println!("rows are in {}", path.display());
    if arguments.device.is_none() {
        goals(&rows);
        let wanted = DEVICES.len() * WORKLOADS;
        ensure!(rows.len() == wanted, "{} of {wanted} rows are missing", wanted - rows.len());
    }
    Ok(())
}

fn round(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// Reads a line of the guest.
fn row(line: &str, kernel: &str) -> Result<Row> {
    let words: Vec<&str> = line.split(' ').collect();
    let [device, rw, bs, qd, iops, kib_per_s] = words[..] else {
        anyhow::bail!("the guest sent no row: {line}");
    };
    let (iops, kib): (u32, u32) = (iops.parse()?, kib_per_s.parse()?);
    Ok(Row {
        device: device.to_owned(),
        rw: rw.to_owned(),
        bs: bs.parse()?,
        qd: qd.parse()?,
        jobs: 1,
        vcpus: 1,
        iops: iops.into(),
        mib_per_s: round(f64::from(kib) / 1024.0),
        insn_per_io: round(1e9 / f64::from(iops)),
        insn_over_null_blk: None,
        kernel: kernel.to_owned(),
    })
}

fn find<'a>(rows: &'a [Row], device: &str, rw: &str, qd: u32) -> Option<&'a Row> {
    rows.iter().find(|row| row.device == device && row.rw == rw && row.qd == qd)
}

fn print(rows: &[Row]) {
    println!(
        "{:<10} {:<10} {:>8} {:>3} {:>9} {:>9} {:>12} {:>14}",
        "device", "rw", "bs", "qd", "IOPS", "MiB/s", "insn/IO", "over null_blk"
    );
    for row in rows {
        let over = row.insn_over_null_blk.map_or_else(|| "-".to_owned(), |over| format!("{over:.0}"));
        println!(
            "{:<10} {:<10} {:>8} {:>3} {:>9} {:>9.1} {:>12.0} {over:>14}",
            row.device, row.rw, row.bs, row.qd, row.iops, row.mib_per_s, row.insn_per_io
        );
    }
}

/// Says of each goal whether it is met.
fn goals(rows: &[Row]) {
    let say = |what: &str, figure: f64, limit: f64, met: bool| {
        println!("{} {what}: {figure:.2}, goal {limit}", if met { "met   " } else { "MISSED" });
    };
    for rw in ["randread", "randwrite"] {
        for (qd, limit) in [(1, 28.0), (32, 20.0)] {
            let one = find(rows, "v1-1", rw, qd).map(|row| row.insn_per_io / 1000.0);
            if let Some(figure) = one {
                say(
                    &format!("thousand instructions per 4 KiB {rw} at depth {qd}"),
                    figure,
                    limit,
                    figure <= limit,
                );
            }
            for threads in ["v1-4", "v1-16"] {
                let many = find(rows, threads, rw, qd).map(|row| row.insn_per_io / 1000.0);
                if let (Some(one), Some(many)) = (one, many) {
                    let what = format!("{threads} {rw} at depth {qd}, relative to v1-1");
                    say(&what, many / one, 1.1, many / one <= 1.1);
                }
            }
        }
    }
    for rw in ["read", "write"] {
        if let (Some(ours), Some(brd)) = (find(rows, "v1-1", rw, 4), find(rows, "brd", rw, 4)) {
            let figure = ours.mib_per_s / brd.mib_per_s;
            say(&format!("1 MiB {rw} at depth 4, relative to brd"), figure, 0.6, figure >= 0.6);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_and_measured_against_null_blk() {
        let row = row("v1-1 randread 4096 32 50000 200000", "6.12").unwrap();
        assert_eq!((row.insn_per_io, row.mib_per_s, row.qd), (20000.0, 195.3, 32));
        assert!(super::row("v1-1 randread 4096 32 50000", "6.12").is_err());
        assert!(super::row("v1-1 randread 4096 32 x 1", "6.12").is_err());
    }
}
