// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fault injection of the kernel: makes the nth operation of a call fail.
//!
//! The kernel counts, for one thread, every operation that can be made to fail: allocations of objects and of
//! pages, including those of the kernel's own checks, and accesses to user memory (`/proc/thread-self/fail-nth`).
//! [`FailNth::each`] runs rounds for n = 1, 2, ... until a round in which the call ended before its nth operation.
//! Workers, interrupts and other threads are not affected.

use super::{Context, write_text};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, pread, pwrite};
use std::os::fd::OwnedFd;
use std::path::Path;

const FILE: &str = "/proc/thread-self/fail-nth";

/// More rounds than any call needs.
const MOST: u32 = 20_000;

/// Settings in debugfs. By default, allocations that may sleep never fail.
const SETTINGS: [(&str, &str); 5] = [
    ("failslab/ignore-gfp-wait", "N"),
    ("failslab/cache-filter", "N"),
    ("fail_page_alloc/ignore-gfp-wait", "N"),
    ("fail_page_alloc/ignore-gfp-highmem", "N"),
    ("fail_page_alloc/min-order", "0"),
];

/// Kinds of failures, each with a folder in debugfs.
const KINDS: [&str; 3] = ["failslab", "fail_page_alloc", "fail_usercopy"];

/// Whether this kernel supports it.
pub(crate) fn available() -> bool {
    Path::new(FILE).exists()
}

/// Injector for the thread that created it.
#[derive(Debug)]
pub(crate) struct FailNth {
    file: OwnedFd,
}

impl FailNth {
    /// For the calling thread. `--set fail_verbose=2` makes the kernel log the stack of every failure.
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

    /// Runs rounds, each with the next operation failing, until a round without a failure. Returns the number of
    /// operations.
    pub(crate) fn each(&self, what: &str, mut round: impl FnMut(&mut Round<'_>)) -> u32 {
        for nth in 1..MOST {
            let mut this = Round { faults: self, what, nth, failed: false };
            round(&mut this);
            if !this.failed {
                return nth - 1;
            }
        }
        panic!("{what}: more than {MOST} places");
    }

    /// Makes the nth operation fail from now on.
    fn arm(&self, nth: &str) {
        // The kernel counts from the end of this call on.
        assert_eq!(pwrite(&self.file, nth.as_bytes(), 0), Ok(nth.len()), "write {FILE}");
    }

    /// Switches the failure off, and returns whether it has happened.
    fn disarm(&self) -> bool {
        let mut left = [0; 16];
        // Reading and writing the file access user memory, so the nth operation may be one of these.
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

/// One round. If it panics, it prints its number.
#[derive(Debug)]
pub(crate) struct Round<'a> {
    faults: &'a FailNth,
    what: &'a str,
    nth: u32,
    failed: bool,
}

impl Round<'_> {
    /// Makes the call in which an operation is to fail, once per round. `call` should do nothing else.
    pub(crate) fn call<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let nth = self.nth.to_string();
        self.faults.arm(&nth);
        let result = call();
        self.failed = self.faults.disarm();
        result
    }

    /// Whether an operation has failed.
    pub(crate) fn failed(&self) -> bool {
        self.failed
    }

    /// Asserts that an error of the call has its cause in the injected failure, and is one of `errors`.
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
