// SPDX-License-Identifier: MIT OR Apache-2.0
//! What all processes of the fuzzer share, and what outlives those that are killed: how far each thread is, what it is
//! doing, handles of requests, and how often each call ended how.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

use super::calls::{Call, ESSENTIAL, OUTCOMES, ROWS, outcome, outcome_name};
use crate::guest::Random;
use crate::guest::raw::SharedWords;

/// Threads that have a place.
pub(super) const SLOTS: usize = 12;
/// Handles that are remembered.
const HANDLES: usize = 64;

/// Where the words of each kind begin.
const STEPS: usize = 2;
const DOING: usize = STEPS + SLOTS;
const REMEMBERED: usize = DOING + SLOTS;
const COUNTS: usize = REMEMBERED + HANDLES;
const WORDS: usize = COUNTS + ROWS.len() * OUTCOMES;

#[derive(Debug)]
pub(super) struct Board(SharedWords);

impl Board {
    pub(super) fn open(path: &Path) -> Self {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.unwrap_or_else(|error| panic!("open {}: {error}", path.display()));
        Self(SharedWords::new(&file, WORDS))
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        &self.0.words()[at]
    }

    /// Forgets how far threads are and that they were to end; what was counted stays.
    pub(super) fn restart(&self) {
        for at in 0..COUNTS {
            self.word(at).store(0, Ordering::SeqCst);
        }
    }

    /// Tells all threads to end.
    pub(super) fn stop(&self) {
        self.word(0).store(1, Ordering::SeqCst);
    }

    pub(super) fn stopped(&self) -> bool {
        self.word(0).load(Ordering::SeqCst) != 0
    }

    /// The next step of a thread: they go on counting after its process was killed.
    pub(super) fn next_step(&self, slot: usize) -> u64 {
        self.word(STEPS + slot).fetch_add(1, Ordering::SeqCst)
    }

    /// Steps that a thread has begun.
    pub(super) fn steps(&self, slot: usize) -> u64 {
        self.word(STEPS + slot).load(Ordering::SeqCst)
    }

    /// Notes what a thread is about to do.
    pub(super) fn begins(&self, slot: usize, call: Call) {
        self.word(DOING + slot).store(call as u64, Ordering::SeqCst);
    }

    /// What a thread did last.
    pub(super) fn doing(&self, slot: usize) -> &'static str {
        let number = usize::try_from(self.word(DOING + slot).load(Ordering::SeqCst)).expect("a call");
        ROWS[number].name
    }

    /// Keeps the handle of a request, for others to misuse.
    pub(super) fn remember(&self, handle: u64) {
        let next = self.word(1).fetch_add(1, Ordering::Relaxed);
        let place = usize::try_from(next % HANDLES as u64).expect("a place");
        self.word(REMEMBERED + place).store(handle, Ordering::Relaxed);
    }

    /// The handle of some request that some thread fetched not long ago.
    pub(super) fn remembered(&self, random: &mut Random) -> u64 {
        let place = usize::try_from(random.below(HANDLES as u64)).expect("a place");
        self.word(REMEMBERED + place).load(Ordering::Relaxed)
    }

    /// Counts a call's end.
    pub(super) fn count(&self, call: Call, result: Result<(), Errno>) {
        let at = COUNTS + call as usize * OUTCOMES + outcome(result);
        self.word(at).fetch_add(1, Ordering::Relaxed);
    }

    fn counted(&self, call: Call, outcome: usize) -> u64 {
        self.word(COUNTS + call as usize * OUTCOMES + outcome).load(Ordering::Relaxed)
    }

    /// All calls that ended.
    pub(super) fn calls(&self) -> u64 {
        (COUNTS..WORDS).map(|at| self.word(at).load(Ordering::Relaxed)).sum()
    }

    /// How often each call ended how; one line for each.
    pub(super) fn table(&self) -> Vec<String> {
        let line = |call: Call, name: &str| {
            let seen = (0..OUTCOMES).filter_map(|outcome| match self.counted(call, outcome) {
                0 => None,
                count => Some(format!("{} {count}", outcome_name(outcome))),
            });
            format!("{name}: {}", seen.collect::<Vec<_>>().join(", "))
        };
        ROWS.iter().map(|row| line(row.call, row.name)).collect()
    }

    /// What should have been seen and was not: `everything` is that each call ended well once.
    pub(super) fn missing(&self, everything: bool) -> Vec<String> {
        let calls = ROWS.iter().map(|row| row.call).filter(|call| everything && call.may_succeed());
        let wanted = ESSENTIAL.iter().copied().chain(calls.map(|call| (call, Ok(()))));
        let unseen = wanted.filter(|(call, result)| self.counted(*call, outcome(*result)) == 0);
        unseen
            .map(|(call, result)| format!("{} {}", call.row().name, outcome_name(outcome(result))))
            .collect()
    }
}
