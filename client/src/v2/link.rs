// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connects the requests that a lane has handed out with the lane.
//!
//! An answer takes one of two ways. While the lane hands requests out, its own thread collects the answers in
//! [`OWN`], and the lane gives them with its next call. All other answers go through the [`Outbox`]: the first
//! completer gives them to the kernel, on its own thread. Buffers come back to the lane's pool either way.
//!
//! A link is closed when its lane ends. Answers are then dropped, and the link keeps neither the channel nor the server's
//! descriptor, however long requests live.

use super::outbox::{Outbox, Pushed};
use super::serve::calls::Calls;
use super::serve::notes::Notes;
use super::{Answers, Batch, Buffer, Channel, Fetched, ServerId};
use crate::{Errno, StopToken};
use std::cell::RefCell;
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
    answers: Vec<Answer>,
}

thread_local! {
    pub(super) static OWN: RefCell<Own> = const { RefCell::new(Own { lane: 0, answers: Vec::new() }) };
}

impl Own {
    /// Takes the answer if it is one to a request of the lane that hands out.
    #[inline]
    pub(super) fn push(&mut self, lane: usize, answer: &mut Option<Answer>) {
        if lane == self.lane {
            self.answers.extend(answer.take());
        }
    }
}

/// Runs `hand_out` and collects in `answers` what this thread answers meanwhile.
#[inline]
pub(super) fn collect<C: Channel + 'static, R>(
    link: &Arc<LaneLink<C>>,
    answers: &mut Vec<Answer>,
    hand_out: impl FnOnce() -> R,
) -> R {
    let lane = Arc::as_ptr(link).cast::<()>() as usize;
    let mut own = Own { lane, answers: std::mem::take(answers) };
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
}

/// See the module.
#[derive(Debug)]
pub(super) struct LaneLink<C> {
    id: ServerId,
    stop: StopToken,
    notes: Arc<Notes>,
    /// `None` after the lane's end.
    channel: Mutex<Option<C>>,
    outbox: Outbox<Answer>,
    /// Memory of the one who delivers.
    kit: Mutex<Kit>,
    /// Buffers on their way to the pool.
    returned: Mutex<Vec<Buffer>>,
}

#[derive(Debug)]
struct Kit {
    taken: Vec<Answer>,
    answers: Answers,
}

impl<C: Channel + Clone + 'static> LaneLink<C> {
    /// A link for a queue of this depth.
    pub(super) fn new(channel: &C, stop: &StopToken, notes: &Arc<Notes>, depth: usize) -> Arc<Self> {
        let kit = Kit { taken: Vec::with_capacity(depth), answers: Answers::with_capacity(depth) };
        Arc::new(Self {
            id: channel.id(),
            stop: stop.clone(),
            notes: notes.clone(),
            channel: Mutex::new(Some(channel.clone())),
            outbox: Outbox::with_capacity(depth),
            kit: Mutex::new(kit),
            returned: Mutex::new(Vec::with_capacity(depth)),
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

    /// The buffers that came back.
    #[inline]
    pub(super) fn returned(&self) -> MutexGuard<'_, Vec<Buffer>> {
        lock(&self.returned)
    }

    /// Ends the link: later answers are dropped.
    pub(super) fn close(&self) {
        drop(self.outbox.close());
        lock(&self.channel).take();
    }

    /// Gives everything in the outbox to the kernel.
    fn deliver_all(&self) {
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
                    // The requests go to the next server when this one ends.
                    self.notes.note(error);
                }
            }
            self.returned().extend(taken.drain(..).filter_map(|answer| answer.buffer));
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
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
