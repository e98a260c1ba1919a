// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device of the kernel in memory: its requests, its servers, and its life.
//!
//! ```text
//! submit --> queued --fetch--> held --answer--> done
//!               ^               |
//!               +- death, late -+   as the oldest, marked
//! ```
//!
//! One lock guards all of it; whoever changes something wakes all that wait. A request has a number, in the order of
//! submission, and a new handle each time that a server gets it.

use super::cache::Cache;
use crate::Errno;
use crate::v2::{Status, name};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};
use zosbd2_abi::v2;

/// How often threads that wait look at the timers.
const TICK: Duration = Duration::from_millis(10);

/// The result of a request: the data of a read, or nothing.
pub(super) type Done = Arc<OnceLock<Result<Vec<u8>, Errno>>>;

/// See the module.
#[derive(Debug)]
pub(super) struct Device {
    name: String,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) raw: v2::Status,
    pub(super) servers: Vec<Attached>,
    pub(super) queues: Vec<Queue>,
    /// All that have not ended, by their numbers.
    pub(super) requests: BTreeMap<u64, Request>,
    /// Numbers of the held requests.
    pub(super) handles: HashMap<u64, u64>,
    pub(super) cache: Cache,
    pub(super) submitted: u64,
    pub(super) random: u64,
    /// When the last server was lost.
    orphaned: Option<Instant>,
    pub(super) wakers: Vec<Waker>,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) waiting: VecDeque<u64>,
    in_flight: u32,
}

/// A server, by its epoch.
#[derive(Debug, Default)]
pub(super) struct Attached {
    /// It was closed or declared dead.
    pub(super) dead: bool,
    pub(super) fetched: bool,
    pub(super) claimed: bool,
}

#[derive(Debug)]
pub(super) struct Request {
    pub(super) raw: v2::Request,
    /// Of a write.
    pub(super) data: Vec<u8>,
    /// Epoch of the server that holds the request, and its handle.
    pub(super) holder: Option<(u32, u64)>,
    /// Of a held flush: what it covers.
    pub(super) covers: u64,
    /// When its deadline began to run.
    since: Instant,
    pub(super) done: Done,
}

impl Device {
    pub(super) fn new(create: &v2::Create, seed: u64) -> Self {
        let or = |value, default| if value == 0 { default } else { value };
        let raw = v2::Status {
            handle: 1,
            name: create.name,
            serial: create.serial,
            size_bytes: create.size_bytes,
            logical_block_size: create.logical_block_size,
            physical_block_size: create.physical_block_size,
            io_min: create.io_min,
            io_opt: create.io_opt,
            max_io_bytes: or(create.max_io_bytes, v2::DEFAULT_IO_BYTES),
            queues: create.queues,
            depth: or(create.depth, v2::DEFAULT_DEPTH),
            discard_granularity: create.discard_granularity,
            max_discard_bytes: create.max_discard_bytes,
            max_write_zeroes_bytes: create.max_write_zeroes_bytes,
            max_secure_erase_bytes: create.max_secure_erase_bytes,
            deadline_ms: create.deadline_ms,
            deadline_policy: create.deadline_policy,
            grace_ms: create.grace_ms,
            create_flags: create.flags,
            state: v2::STATE_CREATED,
            epoch: 1,
            servers: 1,
            version: 2,
            ..v2::Status::default()
        };
        let state = State {
            raw,
            servers: vec![Attached::default()],
            queues: (0..create.queues).map(|_| Queue::default()).collect(),
            requests: BTreeMap::new(),
            handles: HashMap::new(),
            cache: Cache::new(create.flags & v2::CREATE_VOLATILE_CACHE != 0),
            submitted: 0,
            random: seed,
            orphaned: None,
            wakers: Vec::new(),
        };
        Self { name: name::text(&create.name), state: Mutex::new(state), changed: Condvar::new() }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.tick(Instant::now());
        state
    }

    /// Wakes all that wait, after a change.
    pub(super) fn wake(&self, mut state: MutexGuard<'_, State>) {
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        self.changed.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Makes those that wait look again.
    pub(super) fn nudge(&self) {
        self.wake(self.lock());
    }

    /// Sleeps until something changes, or shortly.
    pub(super) fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, TICK);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.tick(Instant::now());
        state
    }

    pub(super) fn status(&self) -> Status {
        let state = self.lock();
        Status::from(&v2::Status { lost: state.cache.lost().into(), ..state.raw })
    }

    /// Creates the node.
    pub(super) fn start(&self) -> Result<(), Errno> {
        let mut state = self.lock();
        match state.raw.state {
            v2::STATE_CREATED => state.raw.state = v2::STATE_LIVE,
            v2::STATE_DESTROYED => return Err(Errno::NODEV),
            _ => return Err(Errno::ALREADY),
        }
        (state.raw.major, state.raw.minor) = (259, 1);
        self.wake(state);
        Ok(())
    }

    /// Attaches a server and returns its epoch.
    pub(super) fn attach(&self, take_over: bool) -> Result<u32, Errno> {
        let mut state = self.lock();
        match state.raw.state {
            v2::STATE_DESTROYED => return Err(Errno::NODEV),
            v2::STATE_ORPHANED | v2::STATE_FAILED => state.raw.state = v2::STATE_LIVE,
            _ if !take_over => return Err(Errno::BUSY),
            _ => {}
        }
        state.orphaned = None;
        state.raw.epoch += 1;
        state.raw.servers += 1;
        state.servers.push(Attached::default());
        let now = Instant::now();
        state.requests.values_mut().for_each(|request| request.since = now);
        let epoch = state.raw.epoch;
        self.wake(state);
        Ok(epoch)
    }

    /// The server of this epoch is dead. `closed`: its descriptor is closed, too.
    pub(super) fn lose(&self, epoch: u32, closed: bool) {
        let mut state = self.lock();
        state.raw.servers -= u32::from(closed);
        state.lose(epoch);
        self.wake(state);
    }

    /// Destroys the device, also if it is open with `force`.
    pub(super) fn destroy(&self, force: bool) -> Result<(), Errno> {
        let mut state = self.lock();
        match state.raw.state {
            v2::STATE_DESTROYED => return Err(Errno::NODEV),
            _ if state.raw.opens > 0 && !force => return Err(Errno::BUSY),
            _ => state.end(),
        }
        self.wake(state);
        Ok(())
    }

    /// Submits a request to a queue. Waits while the queue is full.
    pub(super) fn submit(&self, queue: u32, raw: v2::Request, data: Vec<u8>) -> Result<Done, Errno> {
        let mut state = self.lock();
        let at = queue as usize;
        loop {
            match state.raw.state {
                v2::STATE_DESTROYED | v2::STATE_FAILED => return Err(Errno::IO),
                _ if state.queues[at].in_flight < state.raw.depth => break,
                _ => state = self.wait(state),
            }
        }
        let end = raw.offset.checked_add(raw.length);
        if end.is_none_or(|end| end > state.raw.size_bytes) {
            return Err(Errno::IO);
        }
        let done = Done::default();
        let request = Request {
            raw: v2::Request { queue, ..raw },
            data,
            holder: None,
            covers: 0,
            since: Instant::now(),
            done: done.clone(),
        };
        let number = state.submitted;
        state.submitted += 1;
        state.requests.insert(number, request);
        state.queues[at].waiting.push_back(number);
        state.queues[at].in_flight += 1;
        self.wake(state);
        Ok(done)
    }
}

impl State {
    /// A number that the seed decides.
    pub(super) fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.random;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// Why a server of this epoch gets no requests.
    pub(super) fn over(&self, epoch: u32) -> Option<Errno> {
        match self {
            Self { raw: v2::Status { state: v2::STATE_DESTROYED, .. }, .. } => Some(Errno::NODEV),
            _ if self.raw.epoch != epoch || self.server(epoch).dead => Some(Errno::SHUTDOWN),
            _ => None,
        }
    }

    /// Whether a call of the server with this epoch would return at once.
    pub(super) fn has_news(&self, epoch: u32) -> bool {
        self.over(epoch).is_some() || self.queues.iter().any(|queue| !queue.waiting.is_empty())
    }

    pub(super) fn server(&self, epoch: u32) -> &Attached {
        &self.servers[epoch as usize - 1]
    }

    pub(super) fn server_mut(&mut self, epoch: u32) -> &mut Attached {
        &mut self.servers[epoch as usize - 1]
    }

    /// Ends a request.
    pub(super) fn finish(&mut self, number: u64, result: Result<Vec<u8>, Errno>) {
        let Some(request) = self.requests.remove(&number) else { return };
        let queue = &mut self.queues[request.raw.queue as usize];
        queue.in_flight -= 1;
        match request.holder {
            Some((_, handle)) => drop(self.handles.remove(&handle)),
            None => queue.waiting.retain(|other| *other != number),
        }
        // Only here is it set.
        let _ = request.done.set(result);
    }

    /// Returns a held request to its queue as the oldest, marked.
    fn requeue(&mut self, number: u64, now: Instant) {
        let Some(request) = self.requests.get_mut(&number) else { return };
        if let Some((_, handle)) = request.holder.take() {
            self.handles.remove(&handle);
            request.raw.flags |= v2::REQUEST_MAYBE_EXECUTED;
            request.since = now;
            self.queues[request.raw.queue as usize].waiting.push_front(number);
        }
    }

    fn lose(&mut self, epoch: u32) {
        if std::mem::replace(&mut self.server_mut(epoch).dead, true) {
            return;
        }
        let now = Instant::now();
        let by = |request: &Request| request.holder.is_some_and(|(holder, _)| holder == epoch);
        let held: Vec<_> =
            self.requests.iter().filter(|(_, request)| by(request)).map(|(number, _)| *number).collect();
        for number in held.into_iter().rev() {
            self.requeue(number, now);
        }
        if epoch != self.raw.epoch {
            return;
        }
        match self.raw.state {
            v2::STATE_CREATED => self.end(),
            v2::STATE_LIVE => {
                self.raw.state = v2::STATE_ORPHANED;
                self.orphaned = Some(now);
            }
            _ => {}
        }
    }

    fn end(&mut self) {
        self.raw.state = v2::STATE_DESTROYED;
        self.fail_all();
    }

    fn fail_all(&mut self) {
        let all: Vec<_> = self.requests.keys().copied().collect();
        for number in all {
            self.finish(number, Err(Errno::IO));
        }
    }

    /// Looks at grace and deadlines.
    fn tick(&mut self, now: Instant) {
        let milliseconds = |number: u32| Duration::from_millis(number.into());
        if self.orphaned.is_some_and(|since| now.duration_since(since) >= milliseconds(self.raw.grace_ms)) {
            self.orphaned = None;
            if self.raw.create_flags & v2::CREATE_AUTO_DESTROY != 0 {
                self.raw.state = v2::STATE_DESTROYED;
            } else {
                self.raw.state = v2::STATE_FAILED;
            }
            self.fail_all();
        }
        if self.raw.deadline_ms == 0 || self.raw.state != v2::STATE_LIVE {
            return;
        }
        let limit = milliseconds(self.raw.deadline_ms);
        let is_late = |request: &Request| now.duration_since(request.since) >= limit;
        let late: Vec<_> =
            self.requests.iter().filter(|(_, request)| is_late(request)).map(|(number, _)| *number).collect();
        for number in late.into_iter().rev() {
            match self.raw.deadline_policy {
                v2::DEADLINE_FAIL => self.finish(number, Err(Errno::IO)),
                v2::DEADLINE_REQUEUE => self.requeue(number, now),
                _ => {
                    let holder = self.requests.get(&number).and_then(|request| request.holder);
                    self.lose(holder.map_or(self.raw.epoch, |(epoch, _)| epoch));
                }
            }
        }
    }
}
