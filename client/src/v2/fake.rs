// SPDX-License-Identifier: MIT OR Apache-2.0
//! A scripted kernel for the tests of the serve loop, for what a kernel that keeps its word does not do.
//!
//! [`testing`](super::testing) cannot take its place: the scripts name the requests of each single call, refuse chosen
//! answers, end calls with chosen errors in the middle of a batch, hand out requests outside of the device, deny memory to
//! chosen threads, and count the calls.
//!
//! | file | content |
//! |---|---|
//! | `enter` | a call: processes answers, takes the next step of the script |
//! | `sleep` | how asynchronous lanes wait for it |
//!
//! It hands out a script, and then reports that the device is gone, or sleeps until it is destroyed. It moves
//! data as the kernel does, checks every answer against the interface, and records it. The data of a write
//! consists of its fill byte.

mod enter;
mod sleep;

use super::channel::Keeper;
use super::{Batch, Channel, Entered, Fetch, Identity, ServerId, Status};
use crate::sys::counting::uncounted;
use crate::{Errno, Result};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::Waker;
use std::thread;
use std::time::Duration;
use zosbd2_abi::v2;

#[cfg(feature = "tokio")]
pub(super) use sleep::FakeReady;
pub(super) use sleep::FakeSleeper;

/// A request of the script.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spec {
    pub(super) op: u32,
    pub(super) flags: u32,
    pub(super) offset: u64,
    pub(super) length: u64,
    /// Fill byte of a write.
    pub(super) fill: u8,
    /// The data of a write does not come with the request, although it would fit.
    pub(super) withheld: bool,
    /// The error with which the fake refuses the first answer.
    pub(super) refuse: Option<Errno>,
}

impl Spec {
    pub(super) fn new(op: u32, offset: u64, length: u64) -> Self {
        Self { op, flags: 0, offset, length, fill: 0, withheld: false, refuse: None }
    }

    pub(super) fn write(offset: u64, length: u64, fill: u8) -> Self {
        Self { fill, ..Self::new(v2::OP_WRITE, offset, length) }
    }
}

/// One step of the script.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Processes all answers and returns these requests. Requests without room come in the next call.
    Requests(Vec<Spec>),
    /// Processes no answer and fails.
    Fail(Errno),
    /// Processes this many answers, and fetches nothing.
    Partial(usize),
    /// Processes all answers and fails.
    FailAfterAnswers(Errno),
}

/// An answer as the kernel saw it. `index` is the request's place in the script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) index: u64,
    pub(super) result: i64,
    /// Of a read.
    pub(super) data: Vec<u8>,
}

#[derive(Debug)]
struct Held {
    spec: Spec,
    /// The server has the data of the write.
    given: bool,
}

#[derive(Default)]
struct State {
    steps: VecDeque<Step>,
    fetched: u64,
    held: HashMap<u64, Held>,
    answers: Vec<Answer>,
    /// Number of answers in each call that had any, and whether the call fetched.
    calls: Vec<(usize, bool)>,
    /// Bytes of the arena in each call that fetched.
    arenas: Vec<usize>,
    destroyed: bool,
    /// How often the server left the device, and whether the last placeholder still exists.
    left: usize,
    kept: Arc<AtomicBool>,
    asleep: usize,
    /// Tasks that wait for news.
    wakers: Vec<Waker>,
    /// A request that is submitted again for each answer, and how often.
    again: Option<(Spec, usize)>,
}

pub(super) struct Fake {
    identity: Identity,
    status: Status,
    size: AtomicU64,
    /// The size that the kernel returns when asked.
    pub(super) true_size: AtomicU64,
    sleeps: bool,
    /// Calls that fetch from this queue fail.
    broken_queue: Option<u32>,
    /// Threads whose names begin with this text get no memory, because the status that they see is too large
    /// for it.
    poor: Option<(&'static str, Status)>,
    /// Number of failing attempts to leave the device.
    stuck: AtomicUsize,
    state: Mutex<State>,
    changed: Condvar,
}

/// A handle that differs from the place in the script and has its highest bit set.
fn handle(index: u64) -> u64 {
    (1 << 63) | (index << 20) | 0xABCDE
}

impl Fake {
    pub(super) fn new(size: u64, max_io: u32, steps: impl IntoIterator<Item = Step>) -> Self {
        let status = v2::Status {
            size_bytes: size,
            logical_block_size: 512,
            max_io_bytes: max_io,
            queues: 1,
            depth: 128,
            create_flags: v2::CREATE_VOLATILE_CACHE,
            version: 2,
            name: super::name::field("fake").expect("a name"),
            ..v2::Status::default()
        };
        Self {
            identity: Identity::new(),
            status: Status::from(&status),
            size: AtomicU64::new(size),
            true_size: AtomicU64::new(size),
            sleeps: false,
            broken_queue: None,
            poor: None,
            stuck: AtomicUsize::new(0),
            state: Mutex::new(State { steps: steps.into_iter().collect(), ..State::default() }),
            changed: Condvar::new(),
        }
    }

    /// Sleeps at the end of the script until it is destroyed.
    pub(super) fn sleeping(mut self, queues: u32) -> Self {
        self.sleeps = true;
        self.status.queues = queues;
        self
    }

    /// The queues are this deep, and not 128 requests.
    pub(super) fn deep(mut self, depth: u32) -> Self {
        self.status.depth = depth;
        self
    }

    /// The device was created without a volatile cache.
    pub(super) fn without_cache(mut self) -> Self {
        self.status.create_flags = 0;
        self
    }

    /// This many readers submit a request each, and the next one when it is answered, until there were `requests`.
    #[cfg(feature = "tokio")]
    pub(super) fn with_readers(self, readers: usize, requests: usize, spec: Spec) -> Self {
        let mut state = self.state.lock().expect("state");
        state.steps.push_back(Step::Requests(vec![spec; readers]));
        state.again = Some((spec, requests - readers));
        drop(state);
        self
    }

    /// Makes calls fail that fetch from this queue.
    pub(super) fn without_fetches_from(mut self, queue: u32) -> Self {
        self.broken_queue = Some(queue);
        self
    }

    /// Denies memory to threads whose names begin with this text.
    pub(super) fn without_memory_for(mut self, threads: &'static str) -> Self {
        self.poor = Some((threads, Status { max_io_bytes: 0, ..self.status.clone() }));
        self
    }

    /// Makes this many attempts to leave the device fail.
    pub(super) fn stuck(self, attempts: usize) -> Self {
        self.stuck.store(attempts, Ordering::Relaxed);
        self
    }

    /// How often the server left the device.
    pub(super) fn left_to_others(&self) -> usize {
        self.state.lock().expect("state").left
    }

    pub(super) fn destroy(&self) {
        let mut state = self.state.lock().expect("state");
        state.destroyed = true;
        state.wake();
        drop(state);
        self.changed.notify_all();
    }

    /// Waits, for at most a minute, until this many threads sleep in a call.
    pub(super) fn wait_asleep(&self, count: usize) {
        let state = self.state.lock().expect("state");
        let limit = Duration::from_secs(60);
        let fewer = |state: &mut State| state.asleep < count;
        let (state, waited) = self.changed.wait_timeout_while(state, limit, fewer).expect("state");
        drop(state);
        assert!(!waited.timed_out(), "fewer than {count} threads sleep");
    }

    /// Waits, for at most a minute, until the device has this size.
    pub(super) fn wait_size(&self, size: u64) {
        let state = self.state.lock().expect("state");
        let other = |_: &mut State| self.size.load(Ordering::Relaxed) != size;
        let limit = Duration::from_secs(60);
        let (state, waited) = self.changed.wait_timeout_while(state, limit, other).expect("state");
        drop(state);
        assert!(!waited.timed_out(), "the device did not get the size {size}");
    }

    /// Waits, for at most a minute, until this many requests were answered.
    pub(super) fn wait_answers(&self, count: usize) {
        let state = self.state.lock().expect("state");
        let limit = Duration::from_secs(60);
        let fewer = |state: &mut State| state.answers.len() < count;
        let (state, waited) = self.changed.wait_timeout_while(state, limit, fewer).expect("state");
        drop(state);
        assert!(!waited.timed_out(), "fewer than {count} answers");
    }

    /// The answers, in the order of the script.
    pub(super) fn answers(&self) -> Vec<Answer> {
        let mut answers = self.state.lock().expect("state").answers.clone();
        answers.sort_by_key(|answer| answer.index);
        answers
    }

    /// The results only.
    pub(super) fn results(&self) -> Vec<(u64, i64)> {
        self.answers().iter().map(|answer| (answer.index, answer.result)).collect()
    }

    pub(super) fn calls(&self) -> Vec<(usize, bool)> {
        self.state.lock().expect("state").calls.clone()
    }

    pub(super) fn arenas(&self) -> Vec<usize> {
        self.state.lock().expect("state").arenas.clone()
    }

    /// Number of requests that were fetched and never answered.
    pub(super) fn left(&self) -> usize {
        self.state.lock().expect("state").held.len()
    }
}

impl Channel for Fake {
    fn enter(&self, batch: &mut Batch<'_>, fetch: Fetch<'_>) -> Entered {
        uncounted(|| self.carry_out(batch, fetch))
    }

    fn id(&self) -> ServerId {
        self.identity.id()
    }

    fn status(&self) -> &Status {
        match &self.poor {
            Some((threads, poor))
                if thread::current().name().is_some_and(|name| name.starts_with(threads)) =>
            {
                poor
            }
            _ => &self.status,
        }
    }

    fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    fn refresh_size(&self) -> Result<u64> {
        self.size.store(self.true_size.load(Ordering::Relaxed), Ordering::Relaxed);
        Ok(self.size())
    }
    fn resize(&self, size_bytes: u64) -> Result<()> {
        let _state = self.state.lock().expect("state");
        self.size.store(size_bytes, Ordering::Relaxed);
        self.true_size.store(size_bytes, Ordering::Relaxed);
        self.changed.notify_all();
        Ok(())
    }

    fn leave(&self) -> Result<Option<Keeper>> {
        let stuck = self.stuck.load(Ordering::Relaxed);
        if stuck > 0 {
            self.stuck.store(stuck - 1, Ordering::Relaxed);
            return Err(super::control::failed("attach to device", "fake", Errno::NOMEM));
        }
        let mut state = self.state.lock().expect("state");
        state.left += 1;
        state.kept.store(true, Ordering::Relaxed);
        self.changed.notify_all();
        Ok(Some(Box::new(Placeholder(state.kept.clone()))))
    }
}

/// Holds the device after the server has left it.
pub(super) struct Placeholder(Arc<AtomicBool>);

impl Drop for Placeholder {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}
