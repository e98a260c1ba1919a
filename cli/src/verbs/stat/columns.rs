// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table of `zosbd2 stat`: a row for each disk, or three rows where the terminal is too narrow for that.

use crate::latency::{self, Histogram};
use crate::sample::Sample;
use crate::table::{Align, Table};
use std::time::Duration;

/// The percentiles, in thousandths.
const PERCENTILES: [u64; 3] = [500, 990, 999];
/// Blanks between columns: the narrow table fits in 80 columns with one.
const GAP: usize = 1;

/// The table, in at most `width` columns if that is possible.
pub(super) fn table(samples: &[Sample], interval: Option<Duration>, width: Option<usize>) -> String {
    let wide = wide(samples, interval).text(None);
    let fits = |width| wide.lines().all(|line| line.chars().count() <= width);
    if width.is_none_or(fits) { wide } else { narrow(samples, interval).text(width) }
}

/// A row for each disk.
fn wide(samples: &[Sample], interval: Option<Duration>) -> Table {
    let mut headings = rate_headings(interval);
    headings.extend(
        ["WAIT-P50", "P99", "P99.9", "SERVE-P50", "P99", "P99.9", "TOTAL-P50", "P99", "P99.9"]
            .map(|name| (name, Align::Right)),
    );
    headings.extend(["IN-FLIGHT", "LATE", "STALE"].map(|name| (name, Align::Right)));
    let mut table = Table::new(headings, true);
    for sample in samples {
        let mut row = rates(sample, interval);
        for (_, histogram) in histograms(sample) {
            row.extend(PERCENTILES.map(|part| percentile(histogram, part)));
        }
        row.extend([sample.in_flight, sample.late, sample.stale].map(|count| count.to_string()));
        table.row(row);
    }
    table
}

/// A row for each kind of latency; the counts are in the first one.
fn narrow(samples: &[Sample], interval: Option<Duration>) -> Table {
    let mut headings = rate_headings(interval);
    headings.extend(["FLY", "LATE", "STALE"].map(|name| (name, Align::Right)));
    headings.push(("LATENCY", Align::Left));
    headings.extend(["P50", "P99", "P99.9"].map(|name| (name, Align::Right)));
    let mut table = Table::new(headings, true).gap(GAP);
    for sample in samples {
        let mut counts = rates(sample, interval);
        counts.extend([sample.in_flight, sample.late, sample.stale].map(|count| count.to_string()));
        for (kind, histogram) in histograms(sample) {
            let mut row = counts.clone();
            row.push(kind.to_owned());
            row.extend(PERCENTILES.map(|part| percentile(histogram, part)));
            table.row(row);
            counts.fill(" ".to_owned());
        }
    }
    table
}

/// The histograms of a disk, with their names.
pub(super) fn histograms(sample: &Sample) -> [(&'static str, &Histogram); 3] {
    [("waiting", &sample.waiting), ("serving", &sample.serving), ("total", &sample.total)]
}

fn rate_headings(interval: Option<Duration>) -> Vec<(&'static str, Align)> {
    let numbers = match interval {
        Some(_) => ["R/S", "W/S", "RMB/S", "WMB/S"],
        None => ["READS", "WRITES", "RMB", "WMB"],
    };
    let mut headings = vec![("NAME", Align::Long)];
    headings.extend(numbers.map(|name| (name, Align::Right)));
    headings
}

/// The name, and requests and megabytes: for each second of the interval, or since the disk was made.
#[expect(clippy::cast_precision_loss, reason = "a few digits are shown")]
fn rates(sample: &Sample, interval: Option<Duration>) -> Vec<String> {
    let seconds = interval.map_or(1.0, |interval| interval.as_secs_f64());
    let numbers = [
        sample.reads as f64,
        sample.writes as f64,
        sample.read_bytes as f64 / 1e6,
        sample.written_bytes as f64 / 1e6,
    ];
    let mut cells = vec![sample.name.clone()];
    cells.extend(numbers.map(|number| short(number / seconds)));
    cells
}

/// A number in at most five characters: `0.04`, `12.3`, `4821`, `123k`, `4.5M`.
fn short(number: f64) -> String {
    // The limits are where rounding would make the text longer.
    if number == 0.0 {
        return "0".to_owned();
    }
    if number < 9.995 {
        return format!("{number:.2}");
    }
    if number < 99.95 {
        return format!("{number:.1}");
    }
    let (mut scaled, mut letters) = (number, ["k", "M", "G", "T", "P", "E"].into_iter());
    if scaled < 99_999.5 {
        return format!("{scaled:.0}");
    }
    let mut letter = "";
    while scaled >= 999.5 {
        let Some(next) = letters.next() else { break };
        (scaled, letter) = (scaled / 1000.0, next);
    }
    if scaled < 9.95 { format!("{scaled:.1}{letter}") } else { format!("{scaled:.0}{letter}") }
}

fn percentile(histogram: &Histogram, thousandths: u64) -> String {
    histogram.percentile(thousandths).map(latency::below).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A busy disk.
    pub(in super::super) fn sample() -> Sample {
        let mut sample = Sample {
            name: "a-name-of-24-characters-".to_owned(),
            reads: 123_456_789,
            writes: 4321,
            read_bytes: 987_654_321_000,
            written_bytes: 1_234_000_000,
            in_flight: 128,
            late: 17,
            stale: 3,
            ..Sample::default()
        };
        for (bucket, count) in [(3, 900), (4, 80), (10, 19), (20, 1)] {
            sample.waiting.0[bucket] = count;
            sample.serving.0[bucket + 1] = count;
            sample.total.0[bucket + 2] = count;
        }
        sample
    }

    #[test]
    fn numbers_fit_a_column() {
        let numbers = [
            (0.0, "0"),
            (0.04, "0.04"),
            (9.996, "10.0"),
            (12.34, "12.3"),
            (4821.4, "4821"),
            (123_456.0, "123k"),
            (4_500_000.0, "4.5M"),
            (999_999.0, "1.0M"),
        ];
        for (number, text) in numbers {
            assert_eq!(short(number), text);
        }
        for power in -3..=19 {
            for digits in [1.0, 9.949_999, 9.999_999] {
                let text = short(digits * 10_f64.powi(power));
                assert!(text.len() <= 5, "{text}");
            }
        }
    }

    #[test]
    fn tables_fit_80_and_200_columns() {
        for interval in [None, Some(Duration::from_secs(2))] {
            let samples = [sample(), Sample { name: "b".to_owned(), ..Sample::default() }];
            let lines = |width| {
                let text = table(&samples, interval, Some(width));
                assert!(text.lines().all(|line| line.chars().count() <= width), "{width}:\n{text}");
                text.lines().count()
            };
            assert_eq!((lines(80), lines(200)), (7, 3));
        }
        let text = table(&[sample()], Some(Duration::from_secs(2)), None);
        assert!(text.contains("62M  2160"), "{text}");
        assert!(text.contains("<8.1µs  <1.0ms"), "{text}");
    }
}
