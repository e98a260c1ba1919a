// SPDX-License-Identifier: MIT OR Apache-2.0
//! State that all processes of the fuzzer share and that outlives killed processes: the progress and the current
//! call of each thread, handles of requests, and the outcomes of all calls.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

use super::calls::{Call, ESSENTIAL, OUTCOMES, ROWS, outcome, outcome_name};
use crate::guest::Random;
use crate::guest::raw::SharedWords;

/// Number of threads that have a slot.
pub(super) const SLOTS: usize = 12;
/// Number of remembered handles.
const HANDLES: usize = 64;

/// Index of the first word of each kind.
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

    /// Resets the progress of threads and the request to end. The counts of outcomes stay.
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

    /// The next step of a thread. The count continues after the thread's process was killed.
    pub(super) fn next_step(&self, slot: usize) -> u64 {
        self.word(STEPS + slot).fetch_add(1, Ordering::SeqCst)
    }

    /// Number of steps that a thread has begun.
    pub(super) fn steps(&self, slot: usize) -> u64 {
        self.word(STEPS + slot).load(Ordering::SeqCst)
    }

    /// Records the call that a thread is about to make.
    pub(super) fn begins(&self, slot: usize, call: Call) {
        self.word(DOING + slot).store(call as u64, Ordering::SeqCst);
    }

    /// The last call of a thread.
    pub(super) fn doing(&self, slot: usize) -> &'static str {
        let number = usize::try_from(self.word(DOING + slot).load(Ordering::SeqCst)).expect("a call");
        ROWS[number].name
    }

    /// Remembers the handle of a request, for other threads to misuse.
    pub(super) fn remember(&self, handle: u64) {
        let next = self.word(1).fetch_add(1, Ordering::Relaxed);
        let place = usize::try_from(next % HANDLES as u64).expect("a place");
        self.word(REMEMBERED + place).store(handle, Ordering::Relaxed);
    }

    /// The handle of a request that some thread fetched recently.
    pub(super) fn remembered(&self, random: &mut Random) -> u64 {
        let place = usize::try_from(random.below(HANDLES as u64)).expect("a place");
        self.word(REMEMBERED + place).load(Ordering::Relaxed)
    }

    /// Counts the outcome of a call.
    pub(super) fn count(&self, call: Call, result: Result<(), Errno>) {
        let at = COUNTS + call as usize * OUTCOMES + outcome(result);
        self.word(at).fetch_add(1, Ordering::Relaxed);
    }

    fn counted(&self, call: Call, outcome: usize) -> u64 {
        self.word(COUNTS + call as usize * OUTCOMES + outcome).load(Ordering::Relaxed)
    }

    /// Number of calls that ended.
    pub(super) fn calls(&self) -> u64 {
        (COUNTS..WORDS).map(|at| self.word(at).load(Ordering::Relaxed)).sum()
    }

    /// The outcomes of each call; one line per call and outcome.
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

    /// Outcomes that should have occurred and did not. With `everything`, each call must have succeeded once.
    pub(super) fn missing(&self, everything: bool) -> Vec<String> {
        let calls = ROWS.iter().map(|row| row.call).filter(|call| everything && call.may_succeed());
        let wanted = ESSENTIAL.iter().copied().chain(calls.map(|call| (call, Ok(()))));
        let unseen = wanted.filter(|(call, result)| self.counted(*call, outcome(*result)) == 0);
        unseen
            .map(|(call, result)| format!("{} {}", call.row().name, outcome_name(outcome(result))))
            .collect()
    }
}
