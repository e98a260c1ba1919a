// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory that nothing points to any more, in kernels that look for it (kmemleak).
//!
//! The kernel reports an object that is older than [`AGE`], to which a scan found no pointer, and which has not
//! changed since the scan before. Ours is what zosbd2 allocated, itself or through the kernel's functions. A module
//! that is gone has no names any more, so that addresses without a name count as well.

use super::write_text;
use std::fs;
use std::time::Duration;

const FILE: &str = "/sys/kernel/debug/kmemleak";
/// MSECS_MIN_AGE of `mm/kmemleak.c`: what is younger may only be on its way from one place to another.
const AGE: Duration = Duration::from_secs(5);

/// Whether this kernel looks for leaks.
pub(crate) fn available() -> bool {
    // The file is also there when the search was switched off.
    fs::read(FILE).is_ok()
}

/// Lets the kernel look, and returns what it has against us. It reports everything once only.
pub(crate) fn leaks() -> Vec<String> {
    // Only time makes objects older.
    std::thread::sleep(AGE);
    for _ in 0..2 {
        write_text(FILE, "scan");
    }
    let text = fs::read_to_string(FILE).unwrap_or_else(|error| panic!("read {FILE}: {error}"));
    // What was reported becomes known, and is not reported again.
    write_text(FILE, "clear");
    reports(&text).into_iter().filter(|report| is_ours(report)).collect()
}

/// The reports in the file.
fn reports(text: &str) -> Vec<String> {
    let mut reports: Vec<String> = Vec::new();
    for line in text.lines() {
        if line.starts_with("unreferenced object") {
            reports.push(String::new());
        }
        if let Some(report) = reports.last_mut() {
            report.push_str(line);
            report.push('\n');
        }
    }
    reports
}

/// Whether the names or the callers in a report are ours.
fn is_ours(report: &str) -> bool {
    // `[<0000000012345678>] f+0x1/0x2 [zosbd2]`, or, when the module is gone, `[<0000000012345678>] 0xffffffffc0001234`.
    let without_name = |line: &str| line.split_once(">] ").is_some_and(|(_, name)| name.starts_with("0x"));
    report.contains("zosbd2") || report.lines().any(without_name)
}

#[cfg(test)]
mod checks {
    use super::*;

    const OURS: &str = "unreferenced object 0xffff888 (size 64):\n  comm \"init\", pid 77, jiffies 4294900000\n  \
                        backtrace (crc 0):\n    [<00000000a>] kmalloc+0x1/0x2\n    [<00000000b>] open+0x1/0x2 [zosbd2]\n";
    const GONE: &str = "unreferenced object 0xffff889 (size 64):\n  comm \"init\", pid 77, jiffies 4294900000\n  \
                        backtrace (crc 0):\n    [<00000000a>] kmalloc+0x1/0x2\n    [<00000000b>] 0xffffffffc0001234\n";
    const OTHER: &str = "unreferenced object 0xffff88a (size 64):\n  comm \"init\", pid 77, jiffies 4294900000\n  \
                         backtrace (crc 0):\n    [<00000000a>] kmalloc+0x1/0x2\n    [<00000000b>] f+0x1/0x2 [xfs]\n";

    #[test]
    fn our_leaks_are_told_from_others() {
        let text = [OURS, OTHER, GONE].concat();
        let found: Vec<String> = reports(&text).into_iter().filter(|report| is_ours(report)).collect();
        assert_eq!(found, [OURS, GONE]);
        assert!(reports("").is_empty());
    }
}
