// SPDX-License-Identifier: MIT OR Apache-2.0
//! A request to stop serving, from any thread.
//!
//! A token is cheap to clone; all clones are one. Not to be used inside a signal handler (it takes a lock):
//! let a thread wait for signals and call it. Requests are remembered, so one that comes before serving
//! begins is not lost.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Asks those who serve with it to destroy their device and return: see [`Server::serve`] and
/// [`v1::serve`](crate::v1::serve).
///
/// [`Server::serve`]: crate::Server::serve
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

    /// Asks to stop. Asking again makes [`v1::serve`](crate::v1::serve) try again if the destroy failed, and
    /// [`Server::serve`](crate::Server::serve) destroy by force.
    pub fn request(&self) {
        let mut requests = self.lock();
        *requests = requests.saturating_add(1);
        self.shared.changed.notify_all();
    }

    /// Whether anybody asked.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.requests() != 0
    }

    /// How often somebody asked.
    pub(crate) fn requests(&self) -> u64 {
        *self.lock()
    }

    /// Sleeps until `done` or until there are requests that the caller has not seen; returns their number.
    pub(crate) fn wait(&self, seen: u64, done: impl Fn() -> bool) -> u64 {
        let requests = self.lock();
        *self
            .shared
            .changed
            .wait_while(requests, |requests| *requests == seen && !done())
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`wait`](Self::wait), for at most `time`.
    pub(crate) fn wait_for(&self, time: Duration, seen: u64, done: impl Fn() -> bool) -> u64 {
        let requests = self.lock();
        let waited =
            self.shared.changed.wait_timeout_while(requests, time, |requests| *requests == seen && !done());
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Sleeps for `time`, or less when somebody asks to stop.
    pub(crate) fn pause(&self, time: Duration) {
        self.pause_unless(time, || false);
    }

    /// Sleeps for `time`, or until somebody asks to stop or until `done`.
    pub(crate) fn pause_unless(&self, time: Duration, done: impl Fn() -> bool) {
        let end = Instant::now() + time;
        let mut requests = self.lock();
        let before = *requests;
        while *requests == before && !done() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let woken = self.shared.changed.wait_timeout(requests, left);
            requests = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Makes the sleepers look at their condition again.
    pub(crate) fn wake(&self) {
        let _requests = self.lock();
        self.shared.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
