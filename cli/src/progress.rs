// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bars for what lasts longer than a second, on a terminal.

use indicatif::{ProgressBar, ProgressStyle};
use std::fs;
use std::io::IsTerminal as _;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;
use zosbd2::Status;

/// Nothing is shown for what is faster.
const SOON: Duration = Duration::from_secs(1);
/// Time between two looks.
const PERIOD: Duration = Duration::from_millis(200);

/// Runs `work`, which waits until the dirty data of a disk is written, and shows how much is left.
pub(crate) fn writing_out<T>(status: &Status, work: impl FnOnce() -> T) -> T {
    if !std::io::stderr().is_terminal() {
        return work();
    }
    let (done, wait) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || show(status, &wait));
        let result = work();
        drop(done);
        result
    })
}

/// Shows the bar until the other side of `wait` is dropped.
fn show(status: &Status, wait: &mpsc::Receiver<()>) {
    if wait.recv_timeout(SOON) != Err(RecvTimeoutError::Timeout) {
        return;
    }
    let first = dirty(status);
    let bar = first.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    let template = match first {
        Some(_) => "{msg} {bar:30} {bytes} of {total_bytes}",
        None => "{spinner} {msg} ({elapsed})",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(format!("writing out {}", status.name));
    while wait.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
        match (first, dirty(status)) {
            (Some(first), Some(left)) => bar.set_position(first.saturating_sub(left)),
            _ => bar.tick(),
        }
    }
    bar.finish_and_clear();
}

/// The bytes of the disk that wait to be written; `None` where the kernel does not show them (debugfs).
fn dirty(status: &Status) -> Option<u64> {
    let (major, minor) = status.device_number?;
    let text = fs::read_to_string(format!("/sys/kernel/debug/bdi/{major}:{minor}/stats")).ok()?;
    kilobytes(&text, "BdiReclaimable").and_then(|dirty| Some(dirty + kilobytes(&text, "BdiWriteback")?))
}

/// The bytes in a line `KEY: N kB`.
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dirty_bytes_are_read_from_debugfs() {
        let text = "BdiWriteback:                4 kB\nBdiReclaimable:            128 kB\nstate: 1\n";
        assert_eq!(kilobytes(text, "BdiWriteback"), Some(4096));
        assert_eq!(kilobytes(text, "BdiReclaimable"), Some(131_072));
        assert_eq!(kilobytes(text, "Bdi"), None);
    }
}
