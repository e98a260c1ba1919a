// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's log: messages since some point, and which of them are suspicious.

use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use std::fs;
use std::os::fd::OwnedFd;

/// Texts that the kernel prints only if something is wrong with it.
const SUSPICIOUS: [&str; 34] = [
    "BUG:",
    "BUG ",
    "WARNING:",
    "Oops",
    "kernel BUG at",
    "general protection fault",
    "unable to handle",
    "stack-protector",
    "UBSAN:",
    "KASAN:",
    "KFENCE:",
    "kmemleak:",
    "refcount_t:",
    "list_add corruption",
    "list_del corruption",
    "possible circular locking",
    "possible recursive locking",
    "inconsistent lock state",
    "suspicious RCU usage",
    "held lock freed",
    "lock held when returning",
    "bad unlock balance",
    "sleeping function called from invalid context",
    "scheduling while atomic",
    "blocked for more than",
    "self-detected stall",
    "detected stalls",
    "soft lockup",
    "hard LOCKUP",
    "cannot create duplicate",
    "kobject_add_internal failed",
    "Bad page state",
    "Objects remaining in",
    "Busy inodes after unmount",
];

/// Taint bits with the same meaning: machine check, bad page, oops, warning, soft lockup.
const TAINTS: [(u64, &str); 5] =
    [(4, "machine check"), (5, "bad page"), (7, "oops"), (9, "warning"), (14, "soft lockup")];

/// A reader of the kernel's log that starts when it is created.
#[derive(Debug)]
pub(crate) struct Kmsg {
    file: OwnedFd,
}

impl Kmsg {
    /// Starts at the kernel's next message.
    pub(crate) fn new() -> Self {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open("/dev/kmsg", flags, Mode::empty())
            .unwrap_or_else(|error| panic!("open /dev/kmsg: {error}"));
        rustix::fs::seek(&file, SeekFrom::End(0)).unwrap_or_else(|error| panic!("seek /dev/kmsg: {error}"));
        Self { file }
    }

    /// Messages since the last call.
    pub(crate) fn lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut buffer = [0; 8192];
        loop {
            match rustix::io::read(&self.file, &mut buffer) {
                Ok(count) => {
                    let record = String::from_utf8_lossy(&buffer[..count]).into_owned();
                    // `PRIORITY,NUMBER,TIME,FLAGS;TEXT`, then lines about the device.
                    let text = record.split_once(';').map_or(record.as_str(), |(_, text)| text);
                    lines.push(text.lines().next().unwrap_or_default().to_owned());
                }
                // The buffer was overwritten; the next read returns the oldest remaining message.
                Err(Errno::PIPE) => lines.push("(messages lost)".to_owned()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return lines,
                Err(error) => panic!("read /dev/kmsg: {error}"),
            }
        }
    }
}

/// The lines that are suspicious and not allowed.
pub(crate) fn suspicious(lines: &[String], allowed: &[&str]) -> Vec<String> {
    let wrong = |line: &&String| SUSPICIOUS.iter().any(|text| line.contains(text));
    let unexpected = |line: &&String| !allowed.iter().any(|text| line.contains(text));
    lines.iter().filter(wrong).filter(unexpected).cloned().collect()
}

/// The taints of the kernel that indicate a defect.
pub(crate) fn taints() -> Vec<&'static str> {
    let text = fs::read_to_string("/proc/sys/kernel/tainted").unwrap_or_default();
    let bits: u64 = text.trim().parse().unwrap_or(0);
    TAINTS.iter().filter(|(bit, _)| bits & (1 << bit) != 0).map(|(_, name)| *name).collect()
}

#[cfg(test)]
mod checks {
    use super::*;

    #[test]
    fn reports_are_told_from_chatter() {
        let lines = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let good = [
            "zosbd2: loading out-of-tree module taints kernel.",
            "Buffer I/O error on dev zosbd2x, logical block 0, async page read",
            "EXT4-fs (ram0): mounted filesystem",
        ];
        assert!(suspicious(&lines(&good), &[]).is_empty());
        let bad = [
            "WARNING: CPU: 0 PID: 1 at kernel/x.c:1 f+0x1/0x2",
            "INFO: task fio:12 blocked for more than 30 seconds.",
            "rcu: INFO: rcu_preempt self-detected stall on CPU",
            "sysfs: cannot create duplicate filename '/x'",
            "BUG: KASAN: use-after-free in f",
        ];
        assert_eq!(suspicious(&lines(&bad), &[]), bad);
        assert_eq!(suspicious(&lines(&bad), &["f+0x1", "task fio"]), bad[2..]);
    }
}
