// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lock that keeps a second server away from a file.
//!
//! Other programs lock block devices, too, but only for a short time: udev takes a shared lock while it
//! probes a device, and so do programs that create partitions or file systems (systemd's protocol for locking
//! block devices). So `open` waits for the lock. flock has no time limit, so `open` tries it repeatedly.

use rustix::fs::{FlockOperation, flock, fstat, major, minor};
use rustix::io::Errno;
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

/// Time between two attempts.
const PERIOD: Duration = Duration::from_millis(20);

/// A process that has locked a file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// Its process ID.
    pub pid: u32,
    /// Its name; `None` if the process has ended.
    pub name: Option<String>,
}

/// Result of an attempt.
#[derive(Debug)]
pub(super) enum Locked {
    /// This process has the lock.
    Yes,
    /// Other processes have the lock.
    No(Vec<Holder>),
}

/// Locks a file for this process alone. Returns whether it has the lock now.
pub(super) fn try_lock(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Locks a file for this process alone, within this time.
pub(super) fn lock(file: &File, patience: Duration) -> io::Result<Locked> {
    let end = Instant::now() + patience;
    loop {
        if try_lock(file)? {
            return Ok(Locked::Yes);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Locked::No(holders(file)));
        }
        std::thread::sleep(PERIOD.min(left));
    }
}

/// The processes that have locked the file, each once.
fn holders(file: &File) -> Vec<Holder> {
    let Ok(stat) = fstat(file) else { return Vec::new() };
    let place = format!("{:02x}:{:02x}:{}", major(stat.st_dev), minor(stat.st_dev), stat.st_ino);
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let mut pids: Vec<u32> = locks.lines().filter_map(|line| holder(line, &place)).collect();
    pids.sort_unstable();
    pids.dedup();
    let name = |pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    pids.into_iter().map(|pid| Holder { pid, name: name(pid).map(|name| name.trim().to_owned()) }).collect()
}

/// The process in a line of `/proc/locks`, if it has a lock on the file at `place` (device and inode): `3:
/// FLOCK  ADVISORY  WRITE 512 00:05:131 0 EOF`. Waiting processes have an arrow before the kind.
fn holder(line: &str, place: &str) -> Option<u32> {
    let mut words = line.split_whitespace().skip(1);
    let kind = words.next()?;
    if !["FLOCK", "POSIX", "OFDLCK"].contains(&kind) {
        return None;
    }
    let pid = words.nth(2)?.parse().ok()?;
    (words.next()? == place).then_some(pid)
}

/// The holders as text.
pub(super) fn names(holders: &[Holder]) -> String {
    if holders.is_empty() {
        return "another process".to_owned();
    }
    let mut text = String::from(if holders.len() == 1 { "process " } else { "processes " });
    for (index, Holder { pid, name }) in holders.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        // Writing to a string cannot fail.
        let _ = write!(text, "{comma}{pid}");
        if let Some(name) = name {
            let _ = write!(text, " ({name})");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_understood() {
        let line = "3: FLOCK  ADVISORY  WRITE 512 00:05:131 0 EOF";
        assert_eq!(holder(line, "00:05:131"), Some(512));
        assert_eq!(holder(line, "00:05:13"), None);
        assert_eq!(holder("3: -> FLOCK  ADVISORY  WRITE 513 00:05:131 0 EOF", "00:05:131"), None, "it waits");
        assert_eq!(holder("1: LEASE  ACTIVE    READ  9 00:05:131 0 EOF", "00:05:131"), None);
        assert_eq!(holder("7: OFDLCK ADVISORY  READ -1 08:01:7 0 EOF", "08:01:7"), None, "nobody's");
        assert_eq!(holder("", "00:05:131"), None);
    }

    #[test]
    fn holders_are_named() {
        let holder = |pid, name: Option<&str>| Holder { pid, name: name.map(str::to_owned) };
        assert_eq!(names(&[]), "another process");
        assert_eq!(names(&[holder(7, None)]), "process 7");
        assert_eq!(names(&[holder(7, Some("a b")), holder(8, None)]), "processes 7 (a b), 8");
    }
}
