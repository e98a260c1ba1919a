// SPDX-License-Identifier: MIT OR Apache-2.0
//! A request to stop serving, from any thread.
//!
//! A token is cheap to clone; all clones are one. Not to be used inside a signal handler (it takes a lock):
//! let a thread wait for signals and call it. Requests are remembered, so one that comes before
//! [`serve`](super::serve) is not lost.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Asks [`serve`](super::serve) to destroy its device and return.
#[derive(Clone, Debug, Default)]
pub struct StopToken {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    requests: Mutex<u64>,
    changed: Condvar,
}

impl StopToken {
    /// A token that nobody has used yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks to stop. Asking again makes `serve` try again if the destroy failed.
    pub fn request(&self) {
        let mut requests = self.lock();
        *requests = requests.wrapping_add(1);
        self.shared.changed.notify_all();
    }

    /// Whether anybody asked.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        *self.lock() != 0
    }

    /// Sleeps until `done` or until there are requests that the caller has not seen; returns their number.
    pub(super) fn wait(&self, seen: u64, done: impl Fn() -> bool) -> u64 {
        let requests = self.lock();
        *self
            .shared
            .changed
            .wait_while(requests, |requests| *requests == seen && !done())
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps for `time`, or less when somebody asks to stop.
    pub(super) fn pause(&self, time: Duration) {
        let requests = self.lock();
        let before = *requests;
        // How it ended does not matter: the caller tries again either way.
        drop(self.shared.changed.wait_timeout_while(requests, time, |requests| *requests == before));
    }

    /// Makes the sleepers look at their condition again.
    pub(super) fn wake(&self) {
        let _requests = self.lock();
        self.shared.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
