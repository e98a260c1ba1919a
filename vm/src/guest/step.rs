// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a test is doing, for the people who watch and for the message about a test that hangs.
//!
//! A test's process leaves its steps in a file, which init reads. Other processes have no steps.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Where init finds the steps.
pub(crate) const STEP: &str = "/run/step";

static RECORDED: AtomicBool = AtomicBool::new(false);
static STEPS: Mutex<Vec<(u64, String)>> = Mutex::new(Vec::new());

/// A step, until it is dropped. A step that begins meanwhile is a part of it, or another thread's.
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

    /// Says how far it is.
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

/// From here on this process's steps are left for init.
pub(crate) fn record() {
    RECORDED.store(true, Ordering::Relaxed);
}

/// The steps that a test's process is in, outermost first; empty if it has told none.
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
    // A step that cannot be left is not worth failing for. The rename shows init one text or the other, whole.
    let fresh = format!("{STEP}.new");
    let _ = fs::write(&fresh, texts.join(": ")).and_then(|()| fs::rename(&fresh, STEP));
}
