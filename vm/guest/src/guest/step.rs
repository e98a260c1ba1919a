// SPDX-License-Identifier: MIT OR Apache-2.0
//! The current step of a test, for people who watch and for the message about a hung test.
//!
//! A test's process writes its steps into a file, which init reads. Other processes have no steps.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// File with the steps.
pub(crate) const STEP: &str = "/run/step";

static RECORDED: AtomicBool = AtomicBool::new(false);
static STEPS: Mutex<Vec<(u64, String)>> = Mutex::new(Vec::new());

/// A step, until it is dropped. A step that begins meanwhile is a part of it, or belongs to another thread.
#[derive(Debug)]
pub(crate) struct Step(u64);

impl Step {
    /// Begins a step.
    pub(crate) fn begin(what: &str) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        change(|steps| steps.push((number, what.to_owned())));
        Self(number)
    }

    /// Reports the progress of the step.
    pub(crate) fn tell(&self, what: &str) {
        change(|steps| {
            if let Some((_, text)) = steps.iter_mut().find(|(number, _)| *number == self.0) {
                what.clone_into(text);
            }
        });
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        change(|steps| steps.retain(|(number, _)| *number != self.0));
    }
}

/// From now on this process writes its steps for init.
pub(crate) fn record() {
    RECORDED.store(true, Ordering::Relaxed);
}

/// The current steps of a test's process, outermost first; empty if there are none.
pub(crate) fn current() -> String {
    fs::read_to_string(STEP).unwrap_or_default()
}

fn change(change: impl FnOnce(&mut Vec<(u64, String)>)) {
    if !RECORDED.load(Ordering::Relaxed) {
        return;
    }
    let mut steps = STEPS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    change(&mut steps);
    let texts: Vec<&str> = steps.iter().map(|(_, text)| text.as_str()).collect();
    // A step that cannot be written is no reason to fail. The rename lets init see one text or the other,
    // never a mixture.
    let fresh = format!("{STEP}.new");
    let _ = fs::write(&fresh, texts.join(": ")).and_then(|()| fs::rename(&fresh, STEP));
}
