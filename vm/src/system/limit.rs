// SPDX-License-Identifier: MIT OR Apache-2.0
//! The limit of a wait: on the time without progress, where time in which QEMU works counts less, and on the whole time.

use super::LAST_RESORT;
use crate::machine::STRETCH;
use std::time::{Duration, Instant};

/// The time that may pass without progress.
pub(super) struct Limit {
    quiet: Option<Duration>,
    start: Instant,
    seen: Instant,
    spent: Duration,
}

impl Limit {
    pub(super) fn new(quiet: Option<Duration>) -> Self {
        let now = Instant::now();
        Self { quiet, start: now, seen: now, spent: Duration::ZERO }
    }

    pub(super) fn progress(&mut self) {
        (self.seen, self.spent) = (Instant::now(), Duration::ZERO);
    }

    /// Why the wait is given up, if it is.
    pub(super) fn spent(&mut self, worked: &mut dyn FnMut() -> bool) -> Option<String> {
        let quiet = self.quiet?;
        let passed = self.seen.elapsed();
        self.seen += passed;
        self.spent += if worked() { passed / STRETCH } else { passed };
        if self.spent >= quiet {
            return Some(format!("no progress: the limit of {} s is spent", quiet.as_secs()));
        }
        let last = self.start.elapsed() >= LAST_RESORT;
        last.then(|| format!("it has not ended in {} minutes", LAST_RESORT.as_secs() / 60))
    }
}

#[cfg(test)]
mod tests {
    use super::super::QUIET;
    use super::*;

    #[test]
    fn a_wait_ends_sooner_if_the_machine_is_idle() {
        let start = Instant::now();
        let wait = |worked: bool| {
            let mut limit = Limit::new(Some(Duration::from_millis(20)));
            let begun = start.elapsed();
            while limit.spent(&mut || worked).is_none() {
                std::thread::yield_now();
            }
            start.elapsed().saturating_sub(begun)
        };
        assert!(wait(true) >= STRETCH * Duration::from_millis(20));
        assert!(wait(false) >= Duration::from_millis(20));
    }

    #[test]
    fn progress_begins_the_limit_anew_and_a_person_has_any_time() {
        let mut limit = Limit::new(Some(QUIET));
        limit.spent = QUIET.saturating_sub(Duration::from_secs(1));
        limit.progress();
        assert_eq!(limit.spent(&mut || false), None);
        // On a machine that was started just now, there is no such instant.
        if let Some(start) = limit.start.checked_sub(LAST_RESORT) {
            limit.start = start;
            assert!(limit.spent(&mut || false).is_some_and(|why| why.contains("45 minutes")));
        }
        let mut endless = Limit::new(None);
        endless.spent = Duration::MAX;
        assert_eq!(endless.spent(&mut || false), None);
    }
}
