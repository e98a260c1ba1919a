// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waits for a condition, never for a time.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Time between two checks of a condition.
const PERIOD: Duration = Duration::from_millis(5);

/// A point in time this many seconds ahead, multiplied by the plan's slowness.
pub(crate) fn deadline(seconds: u64) -> Instant {
    static SLOWNESS: OnceLock<u32> = OnceLock::new();
    let slowness = *SLOWNESS.get_or_init(|| super::Context::new().slowness());
    Instant::now() + Duration::from_secs(seconds) * slowness
}

/// Waits until `condition` holds. Panics after this many seconds, with `what` in the message.
#[track_caller]
pub(crate) fn wait_until(seconds: u64, what: &str, mut condition: impl FnMut() -> bool) {
    let end = deadline(seconds);
    loop {
        // A thread that could not run until then checks once more.
        let over = Instant::now() >= end;
        if condition() {
            return;
        }
        assert!(!over, "waited {seconds} s in vain for {what}");
        std::thread::sleep(PERIOD);
    }
}
