// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connects the requests that a lane has handed out with the lane.
//!
//! An answer takes one of two ways. While the lane hands requests out, its own thread collects the answers in
//! [`OWN`], and the lane gives them with its next call. All other answers go through the [`Outbox`]: the first
//! completer gives them to the kernel, on its own thread. Buffers come back to the lane's pool either way.
//!
//! If the kernel takes no answers for good, the link is broken: the answers that could not be given are lost, and their requests
//! stay with this server until it ends. So the lane ends with the error, and the session leaves the device
//! ([`Deserted`]), which also ends the lane's sleep.
//!
//! A link is closed when its lane ends. Answers are then dropped, and the link keeps neither the channel nor the server's
//! descriptor, however long requests live.

use super::outbox::{Outbox, Pushed};
use super::serve::calls::Calls;
use super::serve::notes::Notes;
use super::serve::place::Deserted;
use super::{Answers, Batch, Buffer, Channel, Fetched, ServerId};
use crate::sys::enter::Collected;
use crate::{Errno, Error, StopToken};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use zosbd2_abi::v2;

/// An answer, and the buffer that its data is in.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) fetched: Fetched,
    pub(super) result: Result<(), Errno>,
    pub(super) buffer: Option<Buffer>,
}

impl Answer {
    /// Adds the answer to a batch. A failure is told.
    #[inline]
    pub(super) fn put<'a>(&'a self, batch: &mut Batch<'a>, notes: &Notes) {
        match (self.result, &self.buffer) {
            (Err(error), _) => {
                notes.failed(&self.fetched, error);
                batch.fail(&self.fetched, error);
            }
            (Ok(()), Some(buffer)) if self.fetched.op() == v2::OP_READ => batch.read(&self.fetched, buffer),
            (Ok(()), _) => batch.done(&self.fetched),
        }
    }
}

/// The answers that the lane which hands out on this thread will give.
#[derive(Debug, Default)]
pub(super) struct Own {
    /// Address of the lane's link; 0: no lane hands out.
    lane: usize,
    /// Present if a lane hands out.
    answers: Option<Box<Collected>>,
}

thread_local! {
    pub(super) static OWN: RefCell<Own> = const { RefCell::new(Own { lane: 0, answers: None }) };
}

impl Own {
    /// Whether this is the link of the lane that hands out.
    #[inline]
    pub(super) fn collects(&self, link: &dyn Link) -> bool {
        address(link) == self.lane
    }

    /// Takes the answer, of success, if it is one to a request of the lane that hands out.
    #[inline]
    pub(super) fn done(&mut self, link: &dyn Link, request: &Fetched, buffer: &mut Option<Buffer>) -> bool {
        match &mut self.answers {
            Some(answers) if address(link) == self.lane => {
                answers.done(request, buffer.take());
                true
            }
            _ => false,
        }
    }

    /// The same with an answer of failure.
    pub(super) fn failed(
        &mut self,
        link: &dyn Link,
        request: &Fetched,
        error: Errno,
        buffer: &mut Option<Buffer>,
    ) -> bool {
        match &mut self.answers {
            Some(answers) if address(link) == self.lane => {
                answers.failed(request, error, buffer.take());
                true
            }
            _ => false,
        }
    }
}

#[inline]
fn address(link: &dyn Link) -> usize {
    std::ptr::from_ref(link).cast::<()>() as usize
}

/// Runs `hand_out`, which must not panic, and collects in `answers` what this thread answers meanwhile. `answers` is
/// present.
#[inline]
pub(super) fn collect<C: Channel + Clone + 'static, R>(
    link: &Arc<LaneLink<C>>,
    answers: &mut Option<Box<Collected>>,
    hand_out: impl FnOnce() -> R,
) -> R {
    let mut own = Own { lane: address(&**link), answers: answers.take() };
    // Another lane may be handing out on this thread, and has its turn again afterwards.
    OWN.with_borrow_mut(|current| std::mem::swap(current, &mut own));
    let result = hand_out();
    OWN.with_borrow_mut(|current| std::mem::swap(current, &mut own));
    *answers = own.answers;
    result
}

/// What a request needs of its lane.
pub(super) trait Link: Send + Sync {
    /// Sees to it that the answer is given.
    fn deliver(&self, answer: Answer);

    /// Tells that the backend failed a request. [`deliver`](Self::deliver) does it by itself.
    fn failed(&self, request: &Fetched, error: Errno);
}

/// See the module.
#[derive(Debug)]
pub(super) struct LaneLink<C> {
    id: ServerId,
    stop: StopToken,
    notes: Arc<Notes>,
    deserted: Deserted,
    /// `None` after the lane's end.
    channel: Mutex<Option<C>>,
    /// Why answers could not be given, until the lane takes it.
    broken: Mutex<Option<Error>>,
    is_broken: AtomicBool,
    outbox: Outbox<Answer>,
    /// Memory of the one who delivers.
    kit: Mutex<Kit>,
    /// Buffers on their way to the pool.
    returned: Mutex<Vec<Buffer>>,
    /// Whether there may be such buffers.
    any_returned: AtomicBool,
}

#[derive(Debug)]
struct Kit {
    taken: Vec<Answer>,
    answers: Answers,
}

impl<C: Channel + Clone + 'static> LaneLink<C> {
    /// A link for a queue of this depth.
    pub(super) fn new(
        channel: &C,
        stop: &StopToken,
        notes: &Arc<Notes>,
        deserted: &Deserted,
        depth: usize,
    ) -> Arc<Self> {
        let kit = Kit { taken: Vec::with_capacity(depth), answers: Answers::with_capacity(depth) };
        Arc::new(Self {
            id: channel.id(),
            stop: stop.clone(),
            notes: notes.clone(),
            deserted: deserted.clone(),
            channel: Mutex::new(Some(channel.clone())),
            broken: Mutex::new(None),
            is_broken: AtomicBool::new(false),
            outbox: Outbox::with_capacity(depth),
            kit: Mutex::new(kit),
            returned: Mutex::new(Vec::with_capacity(depth)),
            any_returned: AtomicBool::new(false),
        })
    }

    /// Number of answers that were given through the outbox, ever.
    pub(super) fn delivered(&self) -> u64 {
        self.outbox.delivered()
    }

    /// Waits until more than `seen` answers were given through the outbox, but not longer than about a second. Returns
    /// their number.
    pub(super) fn wait_delivered(&self, seen: u64) -> u64 {
        self.outbox.wait_delivered(seen)
    }

    /// The buffers that came back, if there are any.
    #[inline]
    pub(super) fn returned(&self) -> Option<MutexGuard<'_, Vec<Buffer>>> {
        // The lock orders the rest. A buffer that is missed here is found the next time.
        let any =
            self.any_returned.load(Ordering::Relaxed) && self.any_returned.swap(false, Ordering::Relaxed);
        any.then(|| lock(&self.returned))
    }

    /// Ends the link: later answers are dropped.
    pub(super) fn close(&self) {
        drop(self.outbox.close());
        lock(&self.channel).take();
    }

    /// Fails with the error that broke the link.
    #[inline]
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.is_broken.load(Ordering::Acquire) { Err(self.error()) } else { Ok(()) }
    }

    #[cold]
    fn error(&self) -> Error {
        let lost = || Error::Fetch { device: self.notes.device(), source: Errno::IO };
        lock(&self.broken).take().unwrap_or_else(lost)
    }

    /// Ends the link because of this error, and sees to it that the lane ends with the error.
    #[cold]
    fn break_with(&self, error: Error) {
        lock(&self.broken).get_or_insert(error);
        self.is_broken.store(true, Ordering::Release);
        // Ends the lane's wait for answers.
        drop(self.outbox.close());
        self.deserted.set(&self.stop);
    }

    /// Gives everything in the outbox to the kernel.
    fn deliver_all(&self) {
        // A panic of the channel would leave the outbox without anybody who delivers.
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| self.give_all())) {
            let operation = "delivery of answers";
            self.break_with(Error::BackendPanicked { device: self.notes.device(), operation, range: None });
            resume_unwind(payload);
        }
    }

    fn give_all(&self) {
        let mut kit = lock(&self.kit);
        let Kit { taken, answers } = &mut *kit;
        let channel = lock(&self.channel).clone();
        let mut done = 0;
        while self.outbox.take(done, taken) {
            done = taken.len();
            if let Some(channel) = &channel {
                let mut batch = answers.begin(self.id);
                for answer in &*taken {
                    answer.put(&mut batch, &self.notes);
                }
                let mut calls = Calls::new(channel, &self.stop, &self.notes);
                if let Err(error) = calls.give_all(&mut batch) {
                    self.break_with(error);
                }
            }
            lock(&self.returned).extend(taken.drain(..).filter_map(|answer| answer.buffer));
            self.any_returned.store(true, Ordering::Relaxed);
        }
    }
}

impl<C: Channel + Clone + 'static> Link for LaneLink<C> {
    fn deliver(&self, answer: Answer) {
        match self.outbox.push(answer) {
            Pushed::Queued => {}
            Pushed::Deliver => self.deliver_all(),
            Pushed::Closed(answer) => drop(answer),
        }
    }

    fn failed(&self, request: &Fetched, error: Errno) {
        self.notes.failed(request, error);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
