// SPDX-License-Identifier: MIT OR Apache-2.0
//! `zosbd2 stat --histogram`: the latencies of a disk as bars, three histograms side by side.

use super::columns::histograms;
use crate::latency::{self, Histogram};
use crate::sample::Sample;
use std::fmt::Write as _;

/// Width where standard output is no terminal.
const DEFAULT_WIDTH: usize = 80;
/// The column with the bounds.
const LABEL: usize = 8;
/// ` 99.9%`.
const PERCENT: usize = 7;
/// Blanks before a histogram.
const GAP: usize = 2;
/// Shortest and longest bars.
const BAR: std::ops::RangeInclusive<usize> = 4..=50;
/// Eighths of a block.
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
/// Colours of waiting, serving and total: yellow, blue, green.
const COLOURS: [&str; 3] = ["\x1b[33m", "\x1b[34m", "\x1b[32m"];
const PLAIN: &str = "\x1b[0m";

/// The bars of a disk: a line for each bucket from the first that has a request to the last.
pub(super) fn draw(sample: &Sample, width: Option<usize>, colours: bool) -> String {
    let all = histograms(sample).map(|(name, histogram)| (name, *histogram));
    let requests = sample.total.total();
    let mut text = format!("{}: {requests} requests\n", sample.name);
    let used = |bucket: &usize| all.iter().any(|(_, histogram)| histogram.0[*bucket] > 0);
    let buckets = 0..sample.total.0.len();
    let (Some(first), Some(last)) = (buckets.clone().find(used), buckets.rev().find(used)) else {
        return text;
    };
    let room = width.unwrap_or(DEFAULT_WIDTH).saturating_sub(LABEL) / all.len();
    let bar = room.saturating_sub(GAP + PERCENT).clamp(*BAR.start(), *BAR.end());
    let mut line = format!("{:>LABEL$}", "");
    for (name, _) in &all {
        let _ = write!(line, "{:GAP$}{name:<width$}", "", width = bar + PERCENT);
    }
    text.push_str(line.trim_end());
    text.push('\n');
    for bucket in first..=last {
        let mut line = format!("{:>LABEL$}", latency::below(bucket));
        for ((_, histogram), colour) in all.iter().zip(COLOURS) {
            let (drawn, percent) = share(histogram, bucket, bar);
            let blanks = " ".repeat(bar - drawn.chars().count());
            let drawn = if colours && !drawn.is_empty() { format!("{colour}{drawn}{PLAIN}") } else { drawn };
            let _ = write!(line, "{:GAP$}{drawn}{blanks}{percent:>PERCENT$}", "");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The bar and the percentage of a bucket. The longest bar of a histogram is that of its fullest bucket.
fn share(histogram: &Histogram, bucket: usize, bar: usize) -> (String, String) {
    let (count, total) = (histogram.0[bucket], histogram.total());
    let most = histogram.0.iter().copied().max().unwrap_or_default();
    if count == 0 {
        return (String::new(), String::new());
    }
    // Something is seen of every request.
    let eighths = (u128::from(count) * (bar as u128) * 8).div_ceil(u128::from(most.max(1)));
    let eighths = usize::try_from(eighths).unwrap_or(bar * 8);
    let drawn = "█".repeat(eighths / 8) + EIGHTHS[eighths % 8];
    let tenths = u128::from(count) * 1000 / u128::from(total.max(1));
    let percent = if tenths == 0 { "<0.1%".to_owned() } else { format!("{}.{}%", tenths / 10, tenths % 10) };
    (drawn, percent)
}

#[cfg(test)]
mod tests {
    use super::super::columns::tests::sample;
    use super::*;

    #[test]
    fn bars_fit_the_terminal() {
        for width in [80, 100, 200, 400] {
            let text = draw(&sample(), Some(width), false);
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}:\n{text}");
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines.len(), 2 + 20, "from bucket 3 to bucket 22:\n{text}");
            assert_eq!(lines[2].split_whitespace().next(), Some("<8.1µs"));
            assert!(lines[2].contains("█") && lines[2].contains("90.0%"), "{text}");
        }
    }

    #[test]
    fn colours_change_nothing_but_the_colour() {
        let plain = draw(&sample(), Some(80), false);
        let coloured = draw(&sample(), Some(80), true);
        assert!(coloured.contains(COLOURS[0]) && !plain.contains('\x1b'));
        let stripped = COLOURS.iter().chain([&PLAIN]).fold(coloured, |text, code| text.replace(code, ""));
        assert_eq!(stripped, plain);
    }

    #[test]
    fn a_disk_without_requests_has_no_bars() {
        assert_eq!(draw(&Sample::default(), None, false), ": 0 requests\n");
    }
}
