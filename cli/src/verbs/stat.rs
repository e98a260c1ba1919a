// SPDX-License-Identifier: MIT OR Apache-2.0
//! `zosbd2 stat [NAME...]`: what disks do and how long it takes, since they were made or for each interval.

mod columns;
mod histogram;

use crate::control;
use crate::failure::{Failure, Result};
use crate::latency::{self, Histogram};
use crate::output;
use crate::sample::Sample;
use crate::table;
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, Instant};
use zosbd2::{Control, Which};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The disks; all, if none is given
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Print what happens in each interval of so many seconds, instead of what happened since the disks were made
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds)]
    interval: Option<Duration>,
    /// End after so many intervals
    #[arg(short, long, requires = "interval", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Draw the latencies as bars
    #[arg(long)]
    histogram: bool,
    /// Print JSON; with --interval a line for each interval
    #[arg(short, long, conflicts_with = "histogram")]
    json: bool,
}

/// A number of seconds for an interval.
fn seconds(text: &str) -> std::result::Result<Duration, String> {
    let wrong = || format!("{text:?} is no interval: write seconds, from 0.01 to 86400");
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    if (0.01..=86_400.0).contains(&seconds) { Ok(Duration::from_secs_f64(seconds)) } else { Err(wrong()) }
}

/// What JSON has of one interval.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Report {
    /// Length of the interval; `null`: since each disk was made.
    seconds: Option<f64>,
    disks: Vec<Counted>,
}

/// What JSON has of a disk.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Counted {
    name: String,
    reads: u64,
    writes: u64,
    other_operations: u64,
    read_bytes: u64,
    written_bytes: u64,
    failed: u64,
    late: u64,
    stale: u64,
    in_flight: u64,
    waiting: Times,
    serving: Times,
    total: Times,
}

/// Latencies: upper bounds in nanoseconds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Times {
    p50: Option<u64>,
    p99: Option<u64>,
    p999: Option<u64>,
    /// Counts by bucket: bucket n has times below 1024 << n ns, the last one all longer times.
    buckets: Vec<u64>,
}

impl From<&Histogram> for Times {
    fn from(histogram: &Histogram) -> Self {
        let bound = |thousandths| histogram.percentile(thousandths).and_then(latency::bound);
        Self { p50: bound(500), p99: bound(990), p999: bound(999), buckets: histogram.0.to_vec() }
    }
}

impl Report {
    pub(crate) fn new(seconds: Option<Duration>, samples: &[Sample]) -> Self {
        let counted = |sample: &Sample| Counted {
            name: sample.name.clone(),
            reads: sample.reads,
            writes: sample.writes,
            other_operations: sample.others,
            read_bytes: sample.read_bytes,
            written_bytes: sample.written_bytes,
            failed: sample.failed,
            late: sample.late,
            stale: sample.stale,
            in_flight: sample.in_flight,
            waiting: Times::from(&sample.waiting),
            serving: Times::from(&sample.serving),
            total: Times::from(&sample.total),
        };
        Self { seconds: seconds.map(|time| time.as_secs_f64()), disks: samples.iter().map(counted).collect() }
    }
}

pub(crate) fn run(arguments: &Arguments, node: Option<&Path>) -> Result<()> {
    let control = control::open(node)?;
    let mut before = samples(&control, &arguments.names)?;
    if let Some(missing) = arguments.names.iter().find(|name| before.iter().all(|it| it.name != **name)) {
        return Err(Failure::missing(missing));
    }
    let Some(interval) = arguments.interval else {
        return print(arguments, None, &before).map(drop);
    };
    let mut begin = Instant::now();
    for _ in 0..arguments.count.unwrap_or(u64::MAX) {
        std::thread::sleep(interval.saturating_sub(begin.elapsed()));
        let (now, end) = (samples(&control, &arguments.names)?, Instant::now());
        let counted: Vec<Sample> = now
            .iter()
            .map(|sample| match before.iter().find(|earlier| earlier.handle == sample.handle) {
                Some(earlier) => sample.since(earlier),
                None => sample.clone(),
            })
            .collect();
        // The disks that were asked for are gone, or nobody reads.
        let over = now.is_empty() && !arguments.names.is_empty();
        if over || !print(arguments, Some(end - begin), &counted)? {
            return Ok(());
        }
        (before, begin) = (now, end);
    }
    Ok(())
}

/// Samples of these disks, or of all, by name. A disk that is gone has none.
fn samples(control: &Control, names: &[String]) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    if names.is_empty() {
        for listed in control.list()? {
            samples.extend(Sample::take(control, Which::from(&listed))?);
        }
        samples.sort_by(|a, b| a.name.cmp(&b.name));
    } else {
        for name in names {
            samples.extend(Sample::take(control, Which::named(name))?);
        }
    }
    Ok(samples)
}

/// Prints an interval. Returns false if nobody reads it.
fn print(arguments: &Arguments, seconds: Option<Duration>, samples: &[Sample]) -> Result<bool> {
    if arguments.json {
        return output::json_line(&Report::new(seconds, samples));
    }
    let width = table::width();
    let mut text = if arguments.histogram {
        samples.iter().map(|sample| histogram::draw(sample, width, output::colours())).collect()
    } else {
        columns::table(samples, seconds, width)
    };
    if seconds.is_some() {
        text.push('\n');
    }
    output::write(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_limits() {
        assert_eq!(seconds("1"), Ok(Duration::from_secs(1)));
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for text in ["0", "-1", "nan", "inf", "1s", "100000", ""] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
