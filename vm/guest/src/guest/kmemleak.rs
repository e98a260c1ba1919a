// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finds memory that nothing points to any more, in kernels with kmemleak.
//!
//! The kernel reports an object that is older than [`AGE`], to which a scan found no pointer, and which has not
//! changed since the scan before. So two scans are made, once per boot, after all tests: waiting and scanning take
//! longer than most tests. A report contains the time of the allocation, which identifies the test. zosbd2 is
//! unloaded by then, so objects that only the module pointed to are found, too.
//!
//! A leak belongs to zosbd2 if zosbd2 allocated the object, itself or through functions of the kernel. Functions
//! of an unloaded module have no names, so callers without a name count as well. Leaks of the kernel's own
//! functions, which fault injection makes fail halfway, are left out ([`KERNELS`]).

use std::fs;
use std::time::Duration;

const FILE: &str = "/sys/kernel/debug/kmemleak";
/// `MSECS_MIN_AGE` of `mm/kmemleak.c`: a pointer to a younger object may just be moving from one place to another.
const AGE: Duration = Duration::from_secs(5);

/// Kernel functions that leak by themselves. `sysfs_slab_add()` keeps the name of a slab if its sysfs entry could
/// not be created.
const KERNELS: [&str; 1] = ["sysfs_slab_add+"];

/// Whether this kernel looks for leaks. If so, memory in use says nothing: such a kernel keeps freed memory to
/// detect later accesses, and keeps records about each object.
pub(crate) fn watches_memory() -> bool {
    fs::exists(FILE).unwrap_or(false)
}

/// Which test ran when.
#[derive(Debug)]
pub(crate) struct Watch {
    /// The kernel's clock, in jiffies, at the begin of each test.
    begun: Vec<(u64, String)>,
}

impl Watch {
    /// `None` if this kernel does not look for leaks.
    pub(crate) fn new() -> Option<Self> {
        watches_memory().then(|| Self { begun: Vec::new() })
    }

    /// Notes that a test begins.
    pub(crate) fn begins(&mut self, test: &str) {
        let timers = fs::read_to_string("/proc/timer_list").unwrap_or_default();
        if let Some(now) = timers.lines().find_map(|line| line.strip_prefix("jiffies: ")?.trim().parse().ok())
        {
            self.begun.push((now, test.to_owned()));
        }
    }

    /// Makes the kernel scan, and returns its reports about zosbd2, with the tests that caused them.
    pub(crate) fn leaks(&self) -> std::io::Result<Vec<String>> {
        // Objects only age by waiting.
        std::thread::sleep(AGE);
        for _ in 0..2 {
            // Fails if kmemleak has switched itself off for lack of memory.
            fs::write(FILE, "scan")?;
        }
        let text = fs::read_to_string(FILE)?;
        let ours = reports(&text).into_iter().filter(|report| is_ours(report));
        Ok(ours.map(|report| format!("during {}: {report}", self.test_of(&report))).collect())
    }

    /// The last test that had begun when the object was allocated.
    fn test_of(&self, report: &str) -> &str {
        let when: Option<u64> = report
            .split_once("jiffies ")
            .and_then(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok());
        let before = |(begun, _): &&(u64, String)| when.is_some_and(|when| *begun <= when);
        self.begun.iter().rev().find(before).map_or("no test", |(_, name)| name)
    }
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

/// Whether a report names a function of zosbd2.
fn is_ours(report: &str) -> bool {
    // `f+0x1/0x2 [zosbd2]`, or, after unloading, `0xffffffffa0001234`. Older kernels print `[<ADDRESS>]` before
    // it.
    let callers = report.lines().skip_while(|line| !line.contains("backtrace"));
    let mut last_words = callers.filter_map(|line| line.split_whitespace().last());
    let ours = report.contains("zosbd2") || last_words.any(|word| word.starts_with("0x"));
    ours && !KERNELS.iter().any(|caller| report.contains(caller))
}

#[cfg(test)]
mod checks {
    use super::*;

    const OURS: &str = "unreferenced object 0xffff888 (size 64):\n  comm \"init\", pid 77, jiffies 4294900000\n  \
                        backtrace (crc 0):\n    kmalloc+0x1/0x2\n    open+0x1/0x2 [zosbd2]\n";
    const GONE: &str = "unreferenced object 0xffff889 (size 64):\n  comm \"init\", pid 77, jiffies 4294900000\n  \
                        backtrace (crc 0):\n    kmalloc+0x1/0x2\n    0xffffffffa0001234\n    load+0x1/0x2\n";
    const GONE_IN_OLDER: &str = "unreferenced object 0xffff889 (size 64):\n  comm \"init\", pid 77, jiffies 1\n  \
                                 backtrace:\n    [<00000000b>] 0xffffffffa0001234\n    [<0000c>] f+0x1/0x2\n";
    const OTHER: &str = "unreferenced object 0xffff88a (size 64):\n  comm \"init\", pid 77, jiffies 4294900000\n  \
                         backtrace (crc 0):\n    kmalloc+0x1/0x2\n    f+0x1/0x2 [xfs]\n";

    const KERNELS_OWN: &str = "unreferenced object 0xffff88b (size 8):\n  comm \"init\", pid 77, jiffies 1\n  \
                               backtrace (crc 0):\n    kstrdup+0x1/0x2\n    sysfs_slab_add+0x1/0x2\n    \
                               0xffffffffa0001234\n";

    #[test]
    fn our_leaks_are_told_from_others() {
        let text = [OURS, OTHER, GONE, KERNELS_OWN, GONE_IN_OLDER].concat();
        let found: Vec<String> = reports(&text).into_iter().filter(|report| is_ours(report)).collect();
        assert_eq!(found, [OURS, GONE, GONE_IN_OLDER]);
        assert!(reports("").is_empty());
    }

    #[test]
    fn a_leak_is_of_the_test_that_ran() {
        let begun = [(4_294_899_999, "before"), (4_294_900_000, "leaks"), (4_294_900_001, "after")];
        let watch = Watch { begun: begun.map(|(when, name)| (when, name.to_owned())).into() };
        assert_eq!(watch.test_of(OURS), "leaks");
        assert_eq!(Watch { begun: Vec::new() }.test_of(OURS), "no test");
    }
}
