// SPDX-License-Identifier: MIT OR Apache-2.0
//! Prints what a command does while there is no other output.
//!
//! [`doing`] announces work that may take seconds, and [`said`] that something was printed. If nothing was
//! printed for [`QUIET`], a line shows the work of each thread and its time. So no command is silent for more
//! than five seconds.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

/// Longest silence.
const QUIET: Duration = Duration::from_secs(4);
/// Time between two checks.
const PERIOD: Duration = Duration::from_millis(250);

struct Work {
    number: u64,
    thread: ThreadId,
    what: String,
    detail: String,
    since: Instant,
}

struct State {
    said: Option<Instant>,
    next: u64,
    works: Vec<Work>,
}

static STATE: Mutex<State> = Mutex::new(State { said: None, next: 0, works: Vec::new() });

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Work of this thread, until it is dropped.
pub(crate) struct Doing(u64);

/// Begins some work: "building this". It interrupts the thread's previous work.
pub(crate) fn doing(what: impl Into<String>) -> Doing {
    static NARRATOR: Once = Once::new();
    NARRATOR.call_once(|| {
        thread::spawn(|| {
            loop {
                thread::sleep(PERIOD);
                let lines = state().due(Instant::now());
                for line in lines {
                    tell(&line);
                }
            }
        });
    });
    let mut state = state();
    let (number, now) = (state.next, Instant::now());
    state.next += 1;
    // Earlier output counts.
    state.said.get_or_insert(now);
    let (what, detail) = (what.into(), String::new());
    state.works.push(Work { number, thread: thread::current().id(), what, detail, since: now });
    Doing(number)
}

/// Whether lines go to standard error.
static ON_STDERR: AtomicBool = AtomicBool::new(false);

/// From now on, lines go to standard error: standard output is for something else.
pub(crate) fn on_stderr() {
    ON_STDERR.store(true, Ordering::Relaxed);
}

/// Prints a line of progress.
pub(crate) fn tell(line: &str) {
    if ON_STDERR.load(Ordering::Relaxed) {
        eprintln!("{line}");
    } else {
        println!("{line}");
    }
}

/// Records that something was printed.
pub(crate) fn said() {
    state().said = Some(Instant::now());
}

impl Doing {
    /// Replaces the description of the work.
    pub(crate) fn next(&self, what: impl Into<String>) {
        self.change(|work| {
            (work.what, work.detail, work.since) = (what.into(), String::new(), Instant::now());
        });
    }

    /// Sets the progress of the work.
    pub(crate) fn detail(&self, detail: impl Into<String>) {
        self.change(|work| work.detail = detail.into());
    }

    fn change(&self, change: impl FnOnce(&mut Work)) {
        let mut state = state();
        if let Some(work) = state.works.iter_mut().find(|work| work.number == self.0) {
            change(work);
        }
    }
}

impl Drop for Doing {
    fn drop(&mut self) {
        state().works.retain(|work| work.number != self.0);
    }
}

impl State {
    /// The lines to print now.
    fn due(&mut self, now: Instant) -> Vec<String> {
        if self.said.is_none_or(|said| now.saturating_duration_since(said) < QUIET) {
            return Vec::new();
        }
        // The newest work of each thread. A thread that waits for others began the oldest work.
        let mut current: Vec<&Work> = Vec::new();
        for work in &self.works {
            current.retain(|other| other.thread != work.thread);
            current.push(work);
        }
        if current.len() > 1 {
            let first = current.iter().map(|work| work.number).min();
            current.retain(|work| Some(work.number) != first);
        }
        let line = |work: &Work| {
            let detail = if work.detail.is_empty() { String::new() } else { format!(": {}", work.detail) };
            let seconds = now.saturating_duration_since(work.since).as_secs();
            format!("... {}{detail} ({seconds} s so far)", work.what)
        };
        let lines: Vec<String> = current.into_iter().map(line).collect();
        if !lines.is_empty() {
            self.said = Some(now);
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(number: u64, thread: ThreadId, what: &str, since: Instant) -> Work {
        Work { number, thread, what: what.to_owned(), detail: String::new(), since }
    }

    #[test]
    fn what_goes_on_is_said_after_four_quiet_seconds_and_not_before() {
        let start = Instant::now();
        let here = thread::current().id();
        let works = vec![work(0, here, "testing", start), work(1, here, "building", start)];
        let mut state = State { said: Some(start), next: 2, works };
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(state.due(at(3)), [""; 0]);
        assert_eq!(state.due(at(4)), ["... building (4 s so far)"]);
        assert_eq!(state.due(at(5)), [""; 0], "it was said just now");
        state.works[1].detail = "3 of 7".to_owned();
        assert_eq!(state.due(at(8)), ["... building: 3 of 7 (8 s so far)"]);
        state.works.clear();
        assert_eq!(state.due(at(60)), [""; 0], "nothing goes on");
    }

    #[test]
    fn each_thread_is_named_but_the_one_that_waits_for_them() {
        let start = Instant::now();
        let [one, two] = [(); 2].map(|()| thread::spawn(|| thread::current().id()).join().expect("an id"));
        let works = vec![
            work(0, thread::current().id(), "tests", start),
            work(1, one, "[6.1] booting", start),
            work(2, two, "[6.12] smoke", start),
        ];
        let mut state = State { said: Some(start), next: 3, works };
        let lines = state.due(start + QUIET);
        assert_eq!(lines, ["... [6.1] booting (4 s so far)", "... [6.12] smoke (4 s so far)"]);
    }
}
