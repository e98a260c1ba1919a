// SPDX-License-Identifier: MIT OR Apache-2.0
//! The answers of a lane that other threads give: the first one who finds nobody delivering delivers everything.
//!
//! ```text
//! push, nobody delivers -> the caller delivers: take, give to the kernel, take, ... until nothing waits
//! push, somebody delivers -> that one takes it with its next take
//! ```
//!
//! So the completions of one moment need one call of the kernel, and no completion waits for a thread that may
//! be asleep. Something waits only while somebody delivers. Any thread may call any function. Nothing is
//! allocated per item once the queue has grown to the most items that ever waited.
//!
//! When the box is closed, nothing more is delivered: new items come back to their callers, and the one who delivers
//! finds nothing more to take.

#[cfg(loom)]
use loom::sync::{Condvar, Mutex, MutexGuard};
use std::sync::PoisonError;
#[cfg(not(loom))]
use std::sync::{Condvar, Mutex, MutexGuard};

/// See the module.
#[derive(Debug)]
pub(super) struct Outbox<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    waiting: Vec<T>,
    delivering: bool,
    closed: bool,
    /// Number of delivered items, ever.
    delivered: u64,
    /// Somebody sleeps in `wait_delivered`.
    watched: bool,
}

/// What became of a pushed item.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pushed<T> {
    /// The thread that delivers will take it.
    Queued,
    /// The caller must deliver: call [`Outbox::take`] until it returns false.
    Deliver,
    /// The box is closed.
    Closed(T),
}

impl<T> Outbox<T> {
    /// An empty box with room for this many items.
    pub(super) fn with_capacity(capacity: usize) -> Self {
        let waiting = Vec::with_capacity(capacity);
        let state = State { waiting, delivering: false, closed: false, delivered: 0, watched: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Adds an item.
    pub(super) fn push(&self, item: T) -> Pushed<T> {
        let mut state = self.lock();
        if state.closed {
            return Pushed::Closed(item);
        }
        state.waiting.push(item);
        if state.delivering {
            return Pushed::Queued;
        }
        state.delivering = true;
        Pushed::Deliver
    }

    /// Counts `done` items as delivered, and moves all that wait into `items`, which is empty. Returns false, and
    /// ends the delivery, if there are none or the box is closed.
    pub(super) fn take(&self, done: usize, items: &mut Vec<T>) -> bool {
        let mut state = self.lock();
        state.delivered += done as u64;
        if state.closed || state.waiting.is_empty() {
            state.delivering = false;
        } else {
            std::mem::swap(&mut state.waiting, items);
        }
        if state.watched {
            self.changed.notify_all();
        }
        state.delivering
    }

    /// Number of items that were delivered, ever.
    pub(super) fn delivered(&self) -> u64 {
        self.lock().delivered
    }

    /// Sleeps until more than `seen` items were delivered, but not longer than about a second. Returns how many were.
    #[cfg(not(loom))]
    pub(super) fn wait_delivered(&self, seen: u64) -> u64 {
        let mut state = self.lock();
        state.watched = true;
        let limit = std::time::Duration::from_secs(1);
        let few = |state: &mut State<T>| state.delivered <= seen && !state.closed;
        let waited = self.changed.wait_timeout_while(state, limit, few);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.watched = false;
        state.delivered
    }

    /// The same for loom, which knows no time.
    #[cfg(loom)]
    pub(super) fn wait_delivered(&self, seen: u64) -> u64 {
        let mut state = self.lock();
        state.watched = true;
        while state.delivered <= seen && !state.closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.watched = false;
        state.delivered
    }

    /// Closes the box and returns the items that nobody will deliver.
    pub(super) fn close(&self) -> Vec<T> {
        let mut state = self.lock();
        state.closed = true;
        self.changed.notify_all();
        std::mem::take(&mut state.waiting)
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_first_delivers_all_until_nothing_waits() {
        let outbox = Outbox::with_capacity(4);
        let mut items = Vec::new();
        assert_eq!(outbox.push(1), Pushed::Deliver);
        assert_eq!(outbox.push(2), Pushed::Queued);
        assert!(outbox.take(0, &mut items));
        assert_eq!(items, [1, 2]);
        assert_eq!(outbox.push(3), Pushed::Queued);
        items.clear();
        assert!(outbox.take(2, &mut items));
        assert_eq!((items.as_slice(), outbox.delivered()), ([3].as_slice(), 2));
        items.clear();
        assert!(!outbox.take(1, &mut items));
        assert_eq!((outbox.push(4), outbox.delivered()), (Pushed::Deliver, 3));
        assert_eq!(outbox.wait_delivered(2), 3);
    }

    #[test]
    fn a_closed_box_takes_and_gives_nothing() {
        let outbox = Outbox::with_capacity(4);
        assert_eq!(outbox.push(1), Pushed::Deliver);
        assert_eq!(outbox.close(), [1]);
        assert_eq!(outbox.push(2), Pushed::Closed(2));
        assert!(!outbox.take(0, &mut Vec::new()));
        assert_eq!(outbox.wait_delivered(7), 0, "does not sleep");
    }
}

/// All interleavings: `RUSTFLAGS="--cfg loom" cargo test -p zosbd2 --lib outbox`.
#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicUsize, Ordering};
    use loom::thread;

    /// Pushes, and delivers if it is told to. Returns what it delivered.
    fn complete(outbox: &Outbox<usize>, delivering: &AtomicUsize, item: usize) -> Vec<usize> {
        let mut delivered = Vec::new();
        if outbox.push(item) == Pushed::Deliver {
            assert_eq!(delivering.fetch_add(1, Ordering::SeqCst), 0, "two deliver at once");
            let mut items = Vec::new();
            let mut done = 0;
            while take(outbox, delivering, done, &mut items) {
                done = items.len();
                delivered.append(&mut items);
            }
        }
        delivered
    }

    fn take(outbox: &Outbox<usize>, delivering: &AtomicUsize, done: usize, items: &mut Vec<usize>) -> bool {
        // Whoever is told to stop must not be counted when the next one begins.
        delivering.fetch_sub(1, Ordering::SeqCst);
        let more = outbox.take(done, items);
        if more {
            assert_eq!(delivering.fetch_add(1, Ordering::SeqCst), 0, "two deliver at once");
        }
        more
    }

    #[test]
    fn each_item_is_delivered_once() {
        loom::model(|| {
            let outbox = Arc::new(Outbox::with_capacity(3));
            let delivering = Arc::new(AtomicUsize::new(0));
            let others: Vec<_> = (1..3)
                .map(|item| {
                    let (outbox, delivering) = (outbox.clone(), delivering.clone());
                    thread::spawn(move || complete(&outbox, &delivering, item))
                })
                .collect();
            let mut all = complete(&outbox, &delivering, 0);
            for other in others {
                all.extend(other.join().unwrap());
            }
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2]);
            assert_eq!(outbox.delivered(), 3);
        });
    }

    #[test]
    fn who_waits_for_a_delivery_wakes_up() {
        loom::model(|| {
            let outbox = Arc::new(Outbox::with_capacity(2));
            let other = {
                let outbox = outbox.clone();
                thread::spawn(move || complete(&outbox, &AtomicUsize::new(0), 7))
            };
            assert_eq!(outbox.wait_delivered(0), 1);
            assert_eq!(other.join().unwrap(), [7]);
        });
    }

    #[test]
    fn a_closed_box_loses_nothing() {
        loom::model(|| {
            let outbox = Arc::new(Outbox::with_capacity(2));
            let other = {
                let outbox = outbox.clone();
                thread::spawn(move || match outbox.push(7) {
                    Pushed::Deliver => {
                        let mut items = Vec::new();
                        let taken = outbox.take(0, &mut items);
                        assert_eq!(taken, !items.is_empty());
                        items.len()
                    }
                    Pushed::Closed(item) => usize::from(item == 7),
                    Pushed::Queued => panic!("nobody else delivers"),
                })
            };
            let left = outbox.close().len();
            assert_eq!(left + other.join().unwrap(), 1);
        });
    }
}
