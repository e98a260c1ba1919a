// SPDX-License-Identifier: GPL-2.0-only
//! The queues of a device together: how many threads wait for their requests, and which requests nobody serves.
//!
//! Called in process context with the device's lock held and that of no queue.

use zosbd2_engine::watch::{QueueWatch, Seen};

use crate::block::Device;

/// The queues of a device at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Survey {
    /// Threads that wait for requests in ENTER.
    pub threads: u32,
    /// Requests that nobody serves.
    pub unserved: u32,
    /// For how long requests of some queue have been unserved, in milliseconds.
    pub unserved_ms: u64,
}

impl Survey {
    /// Looks at the queues for a report.
    #[must_use]
    pub fn of(device: &Device, now_ms: u64) -> Self {
        let mut survey = Self::default();
        each(device, |seen, watch, _| {
            survey.threads = survey.threads.saturating_add(seen.waiting);
            survey.unserved = survey.unserved.saturating_add(seen.unserved());
            survey.unserved_ms = survey.unserved_ms.max(watch.unserved_ms(now_ms, seen));
        });
        survey
    }
}

/// Looks at the queues for their watches. `live`: the device has a server. Returns whether to tell that requests are
/// unserved, and the number of flushes that failed because a cache was lost.
pub fn look(device: &Device, now_ms: u64, live: bool) -> (bool, u64) {
    let (mut tell, mut lost_flushes) = (false, 0_u64);
    each(device, |seen, watch, lost| {
        tell |= watch.look(now_ms, seen, live);
        lost_flushes = lost_flushes.wrapping_add(lost);
    });
    (tell, lost_flushes)
}

/// Passes each queue to `action`: what it looks like, its watch, and the number of flushes that failed because a cache was
/// lost.
fn each(device: &Device, mut action: impl FnMut(&Seen, &mut QueueWatch, u64)) {
    let process_lives = device.process_lives();
    for block in device.queues() {
        let mut locked = block.lock();
        let seen = locked.seen(process_lives);
        let lost_flushes = locked.queue().counters().lost_flushes;
        action(&seen, locked.watch(), lost_flushes);
    }
}
