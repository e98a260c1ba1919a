// SPDX-License-Identifier: MIT OR Apache-2.0
//! The futures of an asynchronous lane, each in a slot that is allocated once.
//!
//! The lane's own future polls them. A slot has a waker of its own, which notes the slot and wakes the lane; so
//! only futures that were woken are polled, and nothing is allocated per request. A waker may be called from any
//! thread, also after the slot has another future, or none.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// See the module.
pub(super) struct Slots<F> {
    all: Vec<Slot<F>>,
    /// Slots without a future.
    unused: Vec<usize>,
    most: usize,
    woken: Arc<Woken>,
    /// A future has panicked since somebody asked.
    panicked: bool,
}

struct Slot<F> {
    future: Pin<Box<Option<F>>>,
    waker: Waker,
}

/// The slots that were woken, one bit each, and the waker of the lane.
struct Woken {
    words: Box<[AtomicU64]>,
    lane: Mutex<Option<Waker>>,
}

struct SlotWaker {
    woken: Arc<Woken>,
    index: usize,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let Woken { words, lane } = &*self.woken;
        // The lane looks at the words after it was woken.
        words[self.index / 64].fetch_or(1 << (self.index % 64), Ordering::Release);
        let lane = lane.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(lane) = lane {
            lane.wake();
        }
    }
}

impl<F: Future<Output = ()>> Slots<F> {
    /// Room for this many futures, allocated as they come.
    pub(super) fn new(most: usize) -> Self {
        let words = (0..most.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self {
            all: Vec::with_capacity(most),
            unused: Vec::with_capacity(most),
            most,
            woken: Arc::new(Woken { words, lane: Mutex::new(None) }),
            panicked: false,
        }
    }

    /// Number of further futures for which there is room.
    #[inline]
    pub(super) fn room(&self) -> usize {
        self.most - self.all.len() + self.unused.len()
    }

    /// Whether there is no future.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.all.len() == self.unused.len()
    }

    /// Wakes of slots go to this waker from now on.
    #[inline]
    pub(super) fn register(&self, waker: &Waker) {
        let mut lane = self.woken.lane.lock().unwrap_or_else(PoisonError::into_inner);
        if !lane.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *lane = Some(waker.clone());
        }
    }

    /// Takes a future in and polls it. There must be room.
    #[inline]
    pub(super) fn start(&mut self, future: F) {
        let index = self.unused.pop().unwrap_or_else(|| self.add());
        self.all[index].future.set(Some(future));
        self.poll(index);
    }

    /// Polls the futures that were woken.
    #[inline]
    pub(super) fn poll_woken(&mut self) {
        for at in 0..self.woken.words.len() {
            let word = &self.woken.words[at];
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let mut bits = word.swap(0, Ordering::Acquire);
            while bits != 0 {
                self.poll(at * 64 + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
    }

    /// Whether a future has panicked since the last call.
    #[inline]
    pub(super) fn take_panic(&mut self) -> bool {
        std::mem::take(&mut self.panicked)
    }

    #[inline]
    fn poll(&mut self, index: usize) {
        let Slot { future, waker } = &mut self.all[index];
        // Without a future the wake came late.
        let Some(present) = future.as_mut().as_pin_mut() else { return };
        let mut context = Context::from_waker(waker);
        match catch_unwind(AssertUnwindSafe(|| present.poll(&mut context))) {
            Ok(Poll::Pending) => return,
            Ok(Poll::Ready(())) => future.set(None),
            Err(_) => {
                self.panicked = true;
                // Its request is dropped with it, and fails.
                let _ = catch_unwind(AssertUnwindSafe(|| future.set(None)));
            }
        }
        self.unused.push(index);
    }

    #[cold]
    fn add(&mut self) -> usize {
        let index = self.all.len();
        let waker = SlotWaker { woken: self.woken.clone(), index };
        self.all.push(Slot { future: Box::pin(None), waker: Arc::new(waker).into() });
        index
    }
}

/// A waker that somebody keeps wakes nobody afterwards, and keeps nothing of the executor's.
impl<F> Drop for Slots<F> {
    fn drop(&mut self) {
        self.woken.lane.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::sync::atomic::AtomicUsize;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn only_what_was_woken_is_polled() {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let (polls, wakers) = (Cell::new(0), Mutex::new(Vec::<Waker>::new()));
        let future = |ends: usize| {
            let (polls, wakers, mut left) = (&polls, &wakers, ends);
            std::future::poll_fn(move |context| {
                polls.set(polls.get() + 1);
                wakers.lock().expect("wakers").push(context.waker().clone());
                left -= 1;
                if left == 0 { Poll::Ready(()) } else { Poll::Pending }
            })
        };
        let mut slots = Slots::new(70);
        slots.register(&count.clone().into());
        for _ in 0..70 {
            slots.start(future(2));
        }
        assert_eq!((slots.room(), polls.get()), (0, 70));
        slots.poll_woken();
        assert_eq!(polls.get(), 70);
        let wakers_then = std::mem::take(&mut *wakers.lock().expect("wakers"));
        for at in [0, 64, 69] {
            wakers_then[at].wake_by_ref();
        }
        assert_eq!(count.0.load(Ordering::Relaxed), 3);
        slots.poll_woken();
        assert_eq!((slots.room(), polls.get()), (3, 73));
        // A late wake meets no future, or the next one.
        wakers_then[64].wake_by_ref();
        slots.poll_woken();
        assert_eq!((slots.room(), polls.get()), (3, 73));
        slots.start(future(1));
        assert_eq!((slots.room(), slots.take_panic()), (3, false));
    }

    #[test]
    fn a_panic_ends_one_future() {
        let mut slots = Slots::new(1);
        slots.start(async { panic!("planted") });
        assert!(slots.take_panic());
        assert_eq!((slots.room(), slots.take_panic()), (1, false));
    }
}
