// SPDX-License-Identifier: MIT OR Apache-2.0
//! The benchmark's goals, and whether the figures meet them.

use super::{Form, Row};

/// Prints for each goal of the form whether it is met. A goal with missing rows is unknown.
pub(super) fn judge(form: Form, rows: &[Row]) {
    let goals = match form {
        Form::V1 => v1(rows),
        Form::V2 => v2(rows),
        Form::Hold => Vec::new(),
    };
    for goal in goals {
        println!("{goal}");
    }
}

/// Whether small or large figures are good.
#[derive(Clone, Copy, Debug)]
enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

/// A line of the report.
fn goal(what: &str, figure: Option<f64>, limit: Limit) -> String {
    let (bound, met) = match limit {
        Limit::AtMost(most) => (format!("at most {most}"), figure.map(|figure| figure <= most)),
        Limit::AtLeast(least) => (format!("at least {least}"), figure.map(|figure| figure >= least)),
    };
    let (word, figure) = match (met, figure) {
        (Some(met), Some(figure)) => (if met { "met    " } else { "MISSED " }, format!("{figure:.2}")),
        _ => ("unknown", "rows are missing".to_owned()),
    };
    format!("{word} {what}: {figure}, goal {bound}")
}

/// A figure of a row with one job.
type Figure = fn(&Row) -> Option<f64>;

fn find(rows: &[Row], device: &str, rw: &str, bs: u64, qd: u32, figure: Figure) -> Option<f64> {
    let same =
        |row: &&Row| row.device == device && row.rw == rw && row.bs == bs && row.qd == qd && row.jobs == 1;
    rows.iter().find(same).and_then(figure)
}

/// The figure of one device divided by that of another.
fn ratio(rows: &[Row], devices: [&str; 2], rw: &str, bs: u64, qd: u32, figure: Figure) -> Option<f64> {
    let [ours, theirs] = devices.map(|device| find(rows, device, rw, bs, qd, figure));
    Some(ours? / theirs?)
}

const COST: Figure = |row| Some(row.insn_per_io);
const OVERHEAD: Figure = |row| row.insn_over_null_blk;
const SPEED: Figure = |row| Some(row.mib_per_s);
const MIB: u64 = 1 << 20;

fn v1(rows: &[Row]) -> Vec<String> {
    let mut goals = Vec::new();
    for rw in ["randread", "randwrite"] {
        for (qd, limit) in [(1, 28.0), (32, 20.0)] {
            let figure = find(rows, "v1-1", rw, 4096, qd, COST).map(|cost| cost / 1000.0);
            let what = format!("thousand instructions per 4 KiB {rw} at depth {qd}");
            goals.push(goal(&what, figure, Limit::AtMost(limit)));
            for threads in ["v1-4", "v1-16"] {
                let what = format!("{threads} {rw} at depth {qd}, relative to v1-1");
                let figure = ratio(rows, [threads, "v1-1"], rw, 4096, qd, COST);
                goals.push(goal(&what, figure, Limit::AtMost(1.1)));
            }
        }
    }
    for rw in ["read", "write"] {
        let figure = ratio(rows, ["v1-1", "brd"], rw, MIB, 4, SPEED);
        goals.push(goal(&format!("MiB/s of 1 MiB {rw}, relative to brd"), figure, Limit::AtLeast(0.6)));
    }
    goals
}

fn v2(rows: &[Row]) -> Vec<String> {
    let mut goals = Vec::new();
    let overheads = [
        ("null", "ublk-null", 32, 0.45),
        ("null", "ublk-null", 1, 0.6),
        ("ram", "ublk-null", 32, 1.0),
        ("file", "ublk-loop", 32, 0.7),
    ];
    for (ours, theirs, qd, limit) in overheads {
        for rw in ["randread", "randwrite"] {
            let figure = ratio(rows, [ours, theirs], rw, 4096, qd, OVERHEAD);
            let what = format!("overhead of {ours}, {rw} at depth {qd}, relative to {theirs}");
            goals.push(goal(&what, figure, Limit::AtMost(limit)));
        }
    }
    for rw in ["read", "write"] {
        for (theirs, least) in [("brd", 0.85), ("ublk-null", 1.0)] {
            let figure = ratio(rows, ["ram", theirs], rw, MIB, 4, SPEED);
            let what = format!("MiB/s of ram, 1 MiB {rw}, relative to {theirs}");
            goals.push(goal(&what, figure, Limit::AtLeast(least)));
        }
    }
    for rw in ["randread", "randwrite"] {
        let figure = ratio(rows, ["ram-4", "ram"], rw, 4096, 32, COST);
        let what = format!("cost of ram-4, {rw} at depth 32, relative to ram");
        goals.push(goal(&what, figure, Limit::AtMost(1.0)));
    }
    goals
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(device: &str, jobs: u32, over: f64) -> Row {
        Row {
            device: device.to_owned(),
            rw: "randread".to_owned(),
            bs: 4096,
            qd: 32,
            jobs,
            vcpus: 2,
            iops: 1,
            mib_per_s: 1.0,
            insn_per_io: over + 9000.0,
            insn_over_null_blk: Some(over),
            kernel: "6.12".to_owned(),
        }
    }

    #[test]
    fn overheads_of_one_job_are_compared() {
        let rows = [row("null", 2, 1.0), row("null", 1, 4000.0), row("ublk-null", 1, 10000.0)];
        let goals = v2(&rows);
        let of = |device: &str, rw: &str| {
            let what = format!("overhead of {device}, {rw} at depth 32");
            goals.iter().find(|goal| goal.contains(&what)).unwrap().clone()
        };
        assert!(of("null", "randread").starts_with("met ") && of("null", "randread").contains(" 0.40,"));
        assert!(of("null", "randwrite").starts_with("unknown"));
        assert!(of("ram", "randread").starts_with("unknown"));
        assert!(goal("x", Some(0.5), Limit::AtLeast(0.6)).starts_with("MISSED"));
    }
}
