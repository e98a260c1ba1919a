// SPDX-License-Identifier: MIT OR Apache-2.0
//! Failures on demand, of the kernel's fault injection: the nth thing that can fail in a call does.
//!
//! The kernel counts, for one thread, every place that it passes and that can be made to fail: allocations of
//! objects and of pages, those for its own checks included, and accesses to user memory
//! (`/proc/thread-self/fail-nth`). [`FailNth::each`] has a round for n = 1, 2, ... until one in which the call was
//! through before its nth place. Workers and interrupts, and other threads, are left alone.

use super::{Context, write_text};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, pread, pwrite};
use std::os::fd::OwnedFd;
use std::path::Path;

const FILE: &str = "/proc/thread-self/fail-nth";

/// More rounds than any call has: it would have no end.
const MOST: u32 = 20_000;

/// Settings in debugfs: by themselves, allocations that may wait never fail.
const SETTINGS: [(&str, &str); 5] = [
    ("failslab/ignore-gfp-wait", "N"),
    ("failslab/cache-filter", "N"),
    ("fail_page_alloc/ignore-gfp-wait", "N"),
    ("fail_page_alloc/ignore-gfp-highmem", "N"),
    ("fail_page_alloc/min-order", "0"),
];

/// What the kernel can make fail, each with a folder in debugfs.
const KINDS: [&str; 3] = ["failslab", "fail_page_alloc", "fail_usercopy"];

/// Whether this kernel can do it.
pub(crate) fn available() -> bool {
    Path::new(FILE).exists()
}

/// The failures of the thread that made it.
#[derive(Debug)]
pub(crate) struct FailNth {
    file: OwnedFd,
}

impl FailNth {
    /// For the calling thread. `--set fail_verbose=2` has the kernel log the stack of every failure.
    pub(crate) fn new(context: &Context) -> Self {
        let root = Path::new("/sys/kernel/debug");
        for (file, value) in SETTINGS {
            write_text(&root.join(file).to_string_lossy(), value);
        }
        let verbose = context.setting("fail_verbose").unwrap_or("0");
        for kind in KINDS {
            write_text(&root.join(kind).join("verbose").to_string_lossy(), verbose);
        }
        let file = rustix::fs::open(FILE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .unwrap_or_else(|error| panic!("open {FILE}: {error}"));
        Self { file }
    }

    /// Rounds, with the next place failing each time, until one in which none failed. Returns how many places there
    /// were.
    pub(crate) fn each(&self, what: &str, mut round: impl FnMut(&mut Round<'_>)) -> u32 {
        for nth in 1..MOST {
            let mut this = Round { faults: self, what, nth, failed: false };
            round(&mut this);
            if !this.failed {
                return nth - 1;
            }
        }
        panic!("{what}: {MOST} places, and no end");
    }

    /// Has the nth place fail from now on.
    fn arm(&self, nth: &str) {
        // The place is counted from the end of this call on.
        assert_eq!(pwrite(&self.file, nth.as_bytes(), 0), Ok(nth.len()), "write {FILE}");
    }

    /// Ends that, and returns whether it has failed.
    fn disarm(&self) -> bool {
        let mut left = [0; 16];
        // To be told, and to end it, are accesses to user memory of their own, which may be the nth.
        let failed = match pread(&self.file, &mut left, 0) {
            Ok(_) => left.starts_with(b"0\n"),
            Err(Errno::FAULT) => false,
            Err(error) => panic!("read {FILE}: {error}"),
        };
        match pwrite(&self.file, b"0", 0) {
            Ok(_) | Err(Errno::FAULT) => failed,
            Err(error) => panic!("write {FILE}: {error}"),
        }
    }
}

/// One round. If it panics, it says which one it was.
#[derive(Debug)]
pub(crate) struct Round<'a> {
    faults: &'a FailNth,
    what: &'a str,
    nth: u32,
    failed: bool,
}

impl Round<'_> {
    /// Makes the call in which something is to fail; once in a round. It should do nothing else.
    pub(crate) fn call<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let nth = self.nth.to_string();
        self.faults.arm(&nth);
        let result = call();
        self.failed = self.faults.disarm();
        result
    }

    /// Whether something has failed.
    pub(crate) fn failed(&self) -> bool {
        self.failed
    }

    /// An error of the call must come from the failure, and be one of these.
    #[track_caller]
    pub(crate) fn check<T: std::fmt::Debug>(&self, result: &Result<T, Errno>, errors: &[Errno]) {
        let Self { what, nth, failed, .. } = self;
        if let Err(error) = result {
            assert!(*failed, "{what}: {error:?}, although nothing failed");
            assert!(
                errors.contains(error),
                "{what}: {error:?} when place {nth} failed, not one of {errors:?}"
            );
        }
    }
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: in the round of place {}, failed: {}", self.what, self.nth, self.failed);
        }
    }
}
