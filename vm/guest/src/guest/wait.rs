// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waits for a condition, never for a time.

use super::patience::Patience;
use super::step::Step;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Time between two checks of a condition.
const PERIOD: Duration = Duration::from_millis(5);
/// Time after which a wait is reported as a step.
const NOTABLE: Duration = Duration::from_secs(1);

/// The plan's slowness, which multiplies all limits. Outside the guest there is no plan, and the slowness is
/// 1.
pub(crate) fn slowness() -> u32 {
    static SLOWNESS: OnceLock<u32> = OnceLock::new();
    *SLOWNESS.get_or_init(|| {
        if std::path::Path::new(zosbd2_vm_guest::protocol::PLAN).exists() {
            super::Context::new().slowness()
        } else {
            1
        }
    })
}

/// Waits until `condition` holds. Panics after this many seconds, as [`Patience`] counts them, with `what` in the message.
#[track_caller]
pub(crate) fn wait_until(seconds: u64, what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    let mut patience = Patience::seconds(seconds);
    let mut step = None;
    loop {
        // A thread that could not run until then checks once more.
        let over = patience.over();
        if condition() {
            return;
        }
        assert!(!over, "waited {seconds} s in vain for {what} ({:.0?} in all)", begin.elapsed());
        if step.is_none() && begin.elapsed() >= NOTABLE {
            step = Some(Step::begin(&format!("waiting for {what}")));
        }
        std::thread::sleep(PERIOD);
    }
}
