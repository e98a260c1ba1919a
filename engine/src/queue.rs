// SPDX-License-Identifier: GPL-2.0-only
//! One queue of a device: which request is fetched next, which answer is accepted, which server is woken.
//!
//! Every method is called with the queue's lock held. The caller carries out the returned effects:
//!
//! * [`Wake`]: take this many waiters off the list of sleeping servers before the lock is dropped, and wake them. If
//!   it says so, call [`Queue::look_after`] after [`LOOK_MS`].
//! * [`End`]: end the block request of that tag with that result, after the lock is dropped. The engine has
//!   already forgotten it, so nobody else can end it, too. Dropping the `End` leaks the block request.
//!
//! # Sleeping and waking
//!
//! A server that finds no work calls [`Queue::wait`] and sleeps. It states how many requests it takes at a time, its
//! *room*. When work is queued, servers are woken until the woken ones have room for it: a request wakes one server, a
//! burst as many as it needs, and a queue whose servers are busy wakes none. A woken server that arrives fetches its
//! requests, and wakes others if the rest needs them.
//!
//! A woken server may get no processor for long (a throttled group, a low priority). So while work is queued, servers
//! sleep and wake-ups are under way, the queue is checked every [`LOOK_MS`]. If no woken server arrived between two
//! checks, the wake-ups under way no longer count, and others are woken instead. Servers that are only woken to be
//! sent away ([`Queue::wake_all`]) never count, because nobody waits for their arrival.

use core::mem::offset_of;

use crate::cache::Cache;
use crate::device::{Phase, Policy};
use crate::errno::Errno;
use crate::latency::Latencies;
use crate::loss::QueueLoss;
use crate::request::{
    FUA, Handle, MAX_DEPTH, MAYBE_EXECUTED, NO_TAG, OP_ID_TAG_BITS, Op, Request, Slot, State,
};

/// Most servers to wake at once. Servers that arrive wake the others.
pub const MOST_WAKES: u32 = 8;
/// Most requests that one wake-up counts for, however many its server takes at a time. A server that arrives takes as
/// many as it can, so to wake a second one for requests that the first one takes costs a wake-up for nothing.
pub const MOST_ROOM: u32 = 64;
/// Time between two checks of the wake-ups under way, in milliseconds.
pub const LOOK_MS: u32 = 20;

/// The sleeping servers that the caller must wake. It cannot be copied, because carrying it out uses it up.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Wake {
    /// Number of servers, all of which sleep; at most [`MOST_WAKES`].
    pub servers: u32,
    /// Call [`Queue::look_after`] after [`LOOK_MS`]. Set once until then.
    pub look: bool,
}

impl Wake {
    /// Wake no server.
    pub const NONE: Self = Self { servers: 0, look: false };
}

/// A request that a server fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Handle of this tenure.
    pub handle: Handle,
    /// The request.
    pub request: Request,
    /// The request is a write whose data comes with it: COPYING until [`Queue::copied`].
    pub copying: bool,
}

/// Result of a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A request.
    Request(Fetched),
    /// A shutdown notice (version 1, `OP_SHUTDOWN_NOTICE`).
    Notice,
    /// The device is gone; do not fetch again.
    Gone,
    /// Another server has taken over; do not fetch again.
    Superseded,
    /// Nothing is queued: the caller may [`wait`](Queue::wait).
    Nothing,
}

/// End the block request of this tag with this result. Only a queue makes this value, and it cannot be
/// copied: ending the block request uses it up.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct End {
    tag: u16,
    result: Result<(), Errno>,
}

impl End {
    /// Tag of the block request.
    #[inline]
    #[must_use]
    pub const fn tag(&self) -> u16 {
        self.tag
    }

    /// Result for the submitter.
    #[inline]
    pub const fn result(&self) -> Result<(), Errno> {
        self.result
    }

    /// Tag and result, for the caller that ends the block request now.
    #[inline]
    pub fn use_up(self) -> (u16, Result<(), Errno>) {
        (self.tag, self.result)
    }
}

/// Effect of an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// The answer ends the request.
    End(End),
    /// The request is COPYING: copy its data in, then call [`Queue::answered`] or [`Queue::copied`].
    CopyIn(Handle, Request),
}

/// What became of a request when a copy of its data stopped without an answer.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Copied {
    /// The server keeps it, or the handle was stale.
    Kept,
    /// It is QUEUED again, because its server was declared dead.
    Requeued,
    /// It failed meanwhile: end its block request.
    Ended(End),
}

impl Copied {
    /// The block request to end, if any.
    #[inline]
    #[must_use]
    pub fn end(self) -> Option<End> {
        match self {
            Self::Ended(end) => Some(end),
            Self::Kept | Self::Requeued => None,
        }
    }
}

/// Effect of a deadline.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Overdue {
    /// No such request: the block request has just ended, or was refused and is about to end. Its timer may
    /// continue.
    NotHere,
    /// The request is about to end.
    Over,
    /// End the block request.
    End(End),
    /// The request is DOOMED; the thread that copies its data ends it.
    Doomed,
    /// It is QUEUED again.
    Requeued(Wake),
    /// Declare the server of this epoch dead: first in the life of the device, then by
    /// [`Queue::declare_dead`] of each queue.
    ServerDead(u32),
    /// It continues to wait: no server is to blame, or its copy will stop soon.
    Waits,
}

/// A request that is not FREE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outstanding {
    /// Its tag.
    pub tag: u16,
    /// State.
    pub state: State,
    /// The request.
    pub request: Request,
    /// Time of the submission.
    pub submitted_ns: u64,
    /// Time of the last fetch; meaningless if it is QUEUED.
    pub fetched_ns: u64,
    /// Epoch and thread of the last fetch, likewise.
    pub epoch: u32,
    /// See `epoch`.
    pub thread: u32,
}

/// Deadline and policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deadline {
    /// What happens to a late request.
    pub policy: Policy,
    /// Time for a request, in nanoseconds.
    pub ns: u64,
}

/// The calling thread and the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Time of any monotonic clock.
    pub now_ns: u64,
    /// Number of the calling thread, for reports.
    pub thread: u32,
}

/// Data of the device and the caller that a queue uses.
#[derive(Debug, Default)]
pub struct Surroundings<'a> {
    /// The cache of the device's servers, if they may have a volatile one.
    pub cache: Option<&'a Cache>,
    /// Where to count latencies, if at all.
    pub latencies: Option<&'a mut Latencies>,
    /// Calling thread and time; used for fetches, answers, deadlines and attaching servers.
    pub moment: Moment,
    /// Number of writes answered through this value that may be only in a cache.
    pub written: u32,
}

/// Why an answer is refused. No request is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// This server holds no request of this handle: late, repeated, never fetched or invented.
    Stale,
    /// The answer is for another kind of request.
    WrongKind,
}

/// Counters; they wrap. Answers change them, so they share no cache line with what every submission uses. A submission
/// that wakes a server counts that here, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(align(64))]
pub struct Counters {
    /// Requests fetched, by operation.
    pub fetched: [u64; Op::COUNT],
    /// Requests that succeeded, by operation.
    pub committed: [u64; Op::COUNT],
    /// Bytes of successful requests, by operation.
    pub bytes: [u64; Op::COUNT],
    /// Requests that a server failed.
    pub failed: u64,
    /// Requests that passed their deadline.
    pub expired: u64,
    /// Requests returned to the queue from a server that died or was late.
    pub requeued: u64,
    /// Answers with a stale handle.
    pub stale: u64,
    /// Flushes that a server carried out, but that failed because earlier writes were lost with a cache.
    pub lost_flushes: u64,
    /// Wake-ups.
    pub wakeups: u64,
    /// Wake-ups that no longer counted, because nobody arrived for [`LOOK_MS`]; others were woken instead.
    pub overdue: u64,
    /// Sleeps of servers.
    pub sleeps: u64,
}

/// A request that is HELD by the server in `handle`, while the caller holds the lock.
#[derive(Debug)]
pub struct Held<'a, 'b> {
    state: &'a mut QueueState,
    slot: &'a mut Slot,
    around: &'a mut Surroundings<'b>,
    tag: u16,
}

impl Held<'_, '_> {
    /// The request.
    #[inline]
    #[must_use]
    pub const fn request(&self) -> &Request {
        &self.slot.request
    }

    /// HELD to COPYING: its pages stay until [`Queue::copied`] or [`Queue::answered`].
    #[inline]
    pub const fn pin(self) {
        self.slot.state = State::Copying;
    }

    /// HELD to FREE: an answer with nothing to copy.
    #[inline]
    pub fn finish(self, result: Result<(), Errno>) -> End {
        end_answered(self.state, self.around, self.slot, self.tag, result)
    }
}

/// State of one queue besides its slots. The first cache line has what submissions use; answers change the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct QueueState {
    phase: Phase,
    /// The caller was asked to check the wake-ups under way.
    looked_after: bool,
    first: u16,
    last: u16,
    /// Requests that are QUEUED.
    queued: u32,
    /// Servers on the list of waiters.
    waiting: u32,
    /// Servers taken off the list that have not arrived yet and are still counted on.
    waking: u32,
    /// Requests that one of them takes, as the last server to sleep stated.
    room: u32,
    /// Number of arrivals, which wraps, and its value at the last check of the wake-ups under way.
    arrived: u32,
    arrived_before: u32,
    /// Shutdown notices to give out.
    notices: u32,
    /// The server that gets requests.
    epoch: u32,
    /// Servers before this epoch are dead.
    oldest: u32,
    /// Servers from this epoch on share a cache.
    cache_from: u32,
    /// When the newest server attached.
    attached_ns: u64,
    /// Writes of servers before `cache_from` that a flush has covered, but whose block requests have not
    /// ended.
    covered: u32,
    /// Number of accepted answers, which measures a server's progress.
    answers: u64,
    /// Requests that are HELD, COPYING or DOOMED.
    held: u32,
    /// Number of answered writes that may be only in the cache, and whose block requests have not ended.
    unended: u32,
    /// Era of the last of such writes, also of those that have ended; 0: none.
    unflushed: u64,
    /// When the last of them was answered or had ended.
    unflushed_ns: u64,
    /// How far this queue's flushes have reported a loss.
    loss: QueueLoss,
    counters: Counters,
}

const _: () = {
    // On the machines that are optimised for.
    const CACHE_LINE: usize = 64;
    assert!(offset_of!(QueueState, answers) >= CACHE_LINE);
    assert!(offset_of!(QueueState, attached_ns) < CACHE_LINE);
};

impl Default for QueueState {
    fn default() -> Self {
        Self {
            phase: Phase::Live,
            epoch: 0,
            attached_ns: 0,
            oldest: 0,
            cache_from: 0,
            unflushed: 0,
            unflushed_ns: 0,
            unended: 0,
            covered: 0,
            loss: QueueLoss::new(),
            first: NO_TAG,
            last: NO_TAG,
            queued: 0,
            held: 0,
            waiting: 0,
            waking: 0,
            room: 1,
            arrived: 0,
            arrived_before: 0,
            looked_after: false,
            notices: 0,
            answers: 0,
            counters: Counters {
                fetched: [0; Op::COUNT],
                committed: [0; Op::COUNT],
                bytes: [0; Op::COUNT],
                failed: 0,
                expired: 0,
                requeued: 0,
                stale: 0,
                lost_flushes: 0,
                wakeups: 0,
                overdue: 0,
                sleeps: 0,
            },
        }
    }
}

impl QueueState {
    /// Whether writes that may be only in a cache are answered, while their block requests have not ended.
    const fn has_unended(&self) -> bool {
        self.unended > 0 || self.covered > 0
    }
}

/// A queue: its state and its slots, borrowed while the caller holds the lock.
#[derive(Debug)]
pub struct Queue<'a> {
    state: &'a mut QueueState,
    slots: &'a mut [Slot],
    around: Surroundings<'a>,
}

impl<'a> Queue<'a> {
    /// Combines a queue's parts. `slots` has one entry per tag, at most [`MAX_DEPTH`].
    pub const fn new(state: &'a mut QueueState, slots: &'a mut [Slot]) -> Self {
        debug_assert!(slots.len() <= MAX_DEPTH as usize);
        let moment = Moment { now_ns: 0, thread: 0 };
        Self { state, slots, around: Surroundings { cache: None, latencies: None, moment, written: 0 } }
    }

    /// Adds the data of the device and the caller.
    #[inline]
    #[must_use]
    pub fn within(self, around: Surroundings<'a>) -> Self {
        Self { around, ..self }
    }

    /// The phase set by [`set_phase`](Self::set_phase).
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.state.phase
    }

    /// Moves the queue to another phase. A phase that accepts no requests refuses submissions; the caller
    /// then ends the existing requests with [`fail_next`](Self::fail_next).
    pub const fn set_phase(&mut self, phase: Phase) {
        self.state.phase = phase;
    }

    /// Gives the requests to another server from now on. The old server keeps the requests that it holds,
    /// unless it is dead. The caller wakes all sleepers, so that the old server's threads leave.
    ///
    /// Nothing is lost yet: until the new server's first fetch, the old server may flush its cache.
    pub const fn attach(&mut self, epoch: u32) {
        self.state.epoch = epoch;
        // The wake-ups under way are for threads of the old server.
        self.state.waking = 0;
        self.state.attached_ns = self.around.moment.now_ns;
    }

    /// The server of `epoch`, which is about to fetch for the first time, does not have the caches of the servers before
    /// it: writes that are only in these caches are lost, and so are their later ones.
    pub fn lose_cache(&mut self, epoch: u32) {
        self.state.cache_from = epoch;
        let unended = core::mem::take(&mut self.state.unended);
        let unflushed = core::mem::take(&mut self.state.unflushed);
        match self.around.cache {
            Some(cache) if unflushed > 0 && cache.holds(unflushed) => {
                cache.lose_unended(unended.into());
                cache.lose(self.state.unflushed_ns);
            }
            // A flush has covered these writes before their end was reported.
            _ => self.state.covered = self.state.covered.wrapping_add(unended),
        }
    }

    /// Whether a fetch of this server would return something, including a goodbye.
    #[must_use]
    pub fn has_work(&self, epoch: u32) -> bool {
        self.state.queued > 0
            || self.state.notices > 0
            || self.state.phase == Phase::Gone
            || self.superseded(epoch)
    }

    /// Whether this server was superseded or declared dead.
    #[inline]
    #[must_use]
    pub const fn superseded(&self, epoch: u32) -> bool {
        self.state.epoch != epoch || epoch < self.state.oldest
    }

    /// The counters.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.state.counters
    }

    /// Number of requests that servers hold.
    #[must_use]
    pub const fn held(&self) -> u32 {
        self.state.held
    }

    /// Number of requests that are not FREE.
    #[must_use]
    pub const fn outstanding(&self) -> u32 {
        self.state.queued.wrapping_add(self.state.held)
    }

    /// Number of queued requests.
    #[must_use]
    pub const fn queued(&self) -> u32 {
        self.state.queued
    }

    /// Number of sleeping servers that have not been chosen to be woken.
    #[must_use]
    pub const fn waiting(&self) -> u32 {
        self.state.waiting
    }

    /// Number of wake-ups under way.
    #[must_use]
    pub const fn waking(&self) -> u32 {
        self.state.waking
    }

    /// Number of answers accepted since the queue was created.
    #[must_use]
    pub const fn answers(&self) -> u64 {
        self.state.answers
    }

    /// FREE to QUEUED. `last` is false if the submitter submits more requests at once, and then either passes
    /// `last` or calls [`announce`](Self::announce). Only these wake a server.
    ///
    /// # Errors
    ///
    /// `EIO` if the device accepts no requests, or if `tag` is out of range or in use. The caller then fails
    /// the block request.
    #[inline]
    pub fn submit(&mut self, tag: u16, request: Request, now_ns: u64, last: bool) -> Result<Wake, Errno> {
        if !self.state.phase.takes_requests() {
            return Err(Errno::EIO);
        }
        let slot = self.slots.get_mut(usize::from(tag)).ok_or(Errno::EIO)?;
        if slot.state != State::Free {
            return Err(Errno::EIO);
        }
        slot.state = State::Queued;
        slot.request = request;
        slot.submitted_ns = now_ns;
        self.link_last(tag);
        Ok(if last { self.announce() } else { Wake::NONE })
    }

    /// Announces requests that were submitted without `last` to the sleeping servers. Also wakes other
    /// servers for requests that an arrived server has left.
    #[inline]
    pub const fn announce(&mut self) -> Wake {
        let state = &mut *self.state;
        let work = state.queued.saturating_add(state.notices);
        if state.waiting == 0 || work == 0 {
            return Wake::NONE;
        }
        let mut servers = 0;
        while state.waiting > 0 && servers < MOST_WAKES && state.waking.saturating_mul(state.room) < work {
            state.waiting = state.waiting.wrapping_sub(1);
            state.waking = state.waking.wrapping_add(1);
            servers = servers.wrapping_add(1);
        }
        state.counters.wakeups = state.counters.wakeups.wrapping_add(servers as u64);
        // Without a sleeping server there is nothing to check.
        let look = state.waiting > 0 && !state.looked_after;
        if look {
            state.looked_after = true;
            state.arrived_before = state.arrived;
        }
        Wake { servers, look }
    }

    /// Checks the wake-ups under way, [`LOOK_MS`] after the caller was asked to.
    pub const fn look_after(&mut self) -> Wake {
        let state = &mut *self.state;
        state.looked_after = false;
        if state.arrived == state.arrived_before {
            state.counters.overdue = state.counters.overdue.wrapping_add(state.waking as u64);
            state.waking = 0;
        }
        self.announce()
    }

    /// Fetches for a server: goodbye, a notice, the oldest request, or nothing. A write of at most `room`
    /// bytes comes with its data. When the server has fetched enough, it calls [`announce`](Self::announce)
    /// in the same critical section.
    #[inline]
    pub fn fetch(&mut self, epoch: u32, room: u64) -> Work {
        if self.state.phase == Phase::Gone {
            return Work::Gone;
        }
        if self.superseded(epoch) {
            return Work::Superseded;
        }
        if self.state.notices > 0 {
            self.state.notices = self.state.notices.wrapping_sub(1);
            return Work::Notice;
        }
        self.fetch_more(epoch, room)
    }

    /// Like [`fetch`](Self::fetch), if that has just returned a request to this server in the same critical
    /// section.
    #[inline]
    pub fn fetch_more(&mut self, epoch: u32, room: u64) -> Work {
        let tag = self.state.first;
        let Some(slot) = self.slots.get_mut(usize::from(tag)) else {
            return Work::Nothing;
        };
        let next = slot.next;
        let request = slot.request;
        let copying = request.op == Op::Write && u64::from(request.length) <= room;
        slot.generation = slot.generation.wrapping_add(1);
        slot.epoch = epoch;
        slot.thread = self.around.moment.thread;
        slot.fetched_ns = self.around.moment.now_ns;
        if request.op == Op::Flush {
            slot.covers = self.around.cache.map_or(0, Cache::flush_begins);
        }
        slot.state = if copying { State::Copying } else { State::Held };
        let handle = Handle { tag, generation: slot.generation, epoch };
        self.state.first = next;
        if let Some(slot) = self.slots.get_mut(usize::from(next)) {
            slot.previous = NO_TAG;
        } else {
            self.state.last = NO_TAG;
        }
        self.state.queued = self.state.queued.wrapping_sub(1);
        self.state.held = self.state.held.wrapping_add(1);
        if let Some(count) = self.state.counters.fetched.get_mut(request.op as usize) {
            *count = count.wrapping_add(1);
        }
        Work::Request(Fetched { handle, request, copying })
    }

    /// The caller, which takes `room` requests at a time, is now on the list of sleeping servers. Called in
    /// the same critical section in which [`fetch`](Self::fetch) returned [`Work::Nothing`].
    #[inline]
    pub const fn wait(&mut self, room: u32) {
        // The servers of one queue are usually alike. Otherwise a wake-up too many, or a late one, does no
        // harm.
        self.state.room = match room {
            0 => 1,
            1..=MOST_ROOM => room,
            _ => MOST_ROOM,
        };
        self.state.waiting = self.state.waiting.wrapping_add(1);
        self.state.counters.sleeps = self.state.counters.sleeps.wrapping_add(1);
    }

    /// A server that a [`Wake`] woke has the lock. It fetches in the same critical section, or, if it must
    /// leave (a fatal signal), passes the wake-up on with [`announce`](Self::announce).
    #[inline]
    pub const fn arrive(&mut self, epoch: u32) {
        // Wake-ups of a server that lost the device are no longer counted.
        if !self.superseded(epoch) {
            self.state.waking = self.state.waking.saturating_sub(1);
            self.state.arrived = self.state.arrived.wrapping_add(1);
        }
    }

    /// A server left the list of sleeping servers by itself (a signal), without a wake-up.
    #[inline]
    pub const fn leave(&mut self) {
        self.state.waiting = self.state.waiting.saturating_sub(1);
    }

    /// Requests one shutdown notice for some server.
    pub const fn notify(&mut self) -> Wake {
        self.state.notices = self.state.notices.saturating_add(1);
        self.announce()
    }

    /// The caller wakes all sleeping servers, for a goodbye. They fetch without [`arrive`](Self::arrive), and
    /// no wake-up is counted for them, because nobody waits for a thread that is sent away.
    pub const fn wake_all(&mut self) {
        self.state.waiting = 0;
    }

    /// The handle for a version 1 `op_id`, if a server holds that request.
    #[must_use]
    pub fn handle_of(&self, op_id: u32) -> Option<Handle> {
        let tag = u16::try_from(op_id & 1_u32.wrapping_shl(OP_ID_TAG_BITS).wrapping_sub(1)).ok()?;
        let slot = self.slots.get(usize::from(tag))?;
        let handle = Handle { tag, generation: slot.generation, epoch: slot.epoch };
        (slot.state == State::Held && handle.op_id() == op_id).then_some(handle)
    }

    /// An answer to the request of `handle`: HELD to FREE, or to COPYING if a read's data must be copied in
    /// first. `ok` is false if the server reports a failure.
    ///
    /// # Errors
    ///
    /// See [`Refused`]; nothing is changed.
    #[inline]
    pub fn answer(&mut self, handle: Handle, op: Op, ok: bool) -> Result<Answer, Refused> {
        let held = self.answered_by(handle)?;
        let request = *held.request();
        if request.op != op {
            return Err(Refused::WrongKind);
        }
        if ok && op == Op::Read {
            held.pin();
            return Ok(Answer::CopyIn(handle, request));
        }
        Ok(Answer::End(held.finish(if ok { Ok(()) } else { Err(Errno::EIO) })))
    }

    /// The request of `handle`, if it is HELD.
    ///
    /// # Errors
    ///
    /// [`Refused::Stale`] if this server does not hold it.
    #[inline]
    pub fn held_by(&mut self, handle: Handle) -> Result<Held<'_, 'a>, Refused> {
        match self.slots.get_mut(usize::from(handle.tag)) {
            Some(slot) if slot.is_held_by(handle) => {
                Ok(Held { state: self.state, slot, around: &mut self.around, tag: handle.tag })
            }
            _ => Err(Refused::Stale),
        }
    }

    /// Like [`held_by`](Self::held_by), for an answer: counts a stale handle.
    ///
    /// # Errors
    ///
    /// Like [`held_by`](Self::held_by).
    #[inline]
    pub fn answered_by(&mut self, handle: Handle) -> Result<Held<'_, 'a>, Refused> {
        match self.slots.get_mut(usize::from(handle.tag)) {
            Some(slot) if slot.is_held_by(handle) => {
                Ok(Held { state: self.state, slot, around: &mut self.around, tag: handle.tag })
            }
            _ => {
                self.state.counters.stale = self.state.counters.stale.wrapping_add(1);
                Err(Refused::Stale)
            }
        }
    }

    /// An answer without a copy: HELD to FREE.
    ///
    /// # Errors
    ///
    /// [`Refused::Stale`] if this server does not hold the request; nothing is changed.
    #[inline]
    pub fn finish(&mut self, handle: Handle, result: Result<(), Errno>) -> Result<End, Refused> {
        self.held_by(handle).map(|held| held.finish(result))
    }

    /// HELD to COPYING: the copy continues after a page fault.
    ///
    /// # Errors
    ///
    /// [`Refused::Stale`] if the server no longer holds the request.
    pub fn pin(&mut self, handle: Handle) -> Result<(), Refused> {
        self.held_by(handle).map(Held::pin)
    }

    /// The copy stopped and the server keeps the request: COPYING to HELD, or DOOMED to FREE. If the server
    /// was declared dead meanwhile, the request is QUEUED again and the handle is stale, and the caller calls
    /// [`announce`](Self::announce) before it drops the lock. Only the thread that made the copy calls this.
    /// A stale handle changes nothing.
    #[inline]
    pub fn copied(&mut self, handle: Handle) -> Copied {
        let slot = match self.slots.get_mut(usize::from(handle.tag)) {
            Some(slot) if slot.is(handle) => slot,
            _ => return Copied::Kept,
        };
        match slot.state {
            State::Copying => {
                slot.state = State::Held;
                if slot.epoch < self.state.oldest {
                    self.take_back(handle.tag);
                    return Copied::Requeued;
                }
                Copied::Kept
            }
            State::Doomed => Copied::Ended(free(self.state, slot, handle.tag, Err(Errno::EIO))),
            State::Free | State::Queued | State::Held => Copied::Kept,
        }
    }

    /// All data of an answer is copied in: COPYING to FREE with success, or DOOMED to FREE with `EIO`, which
    /// counts as no answer. Only the thread that made the copy calls this. A stale handle changes nothing.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "it is a part of end_answered, which see")]
    #[must_use]
    pub fn answered(&mut self, handle: Handle) -> Option<End> {
        let slot = self.slots.get_mut(usize::from(handle.tag))?;
        if !slot.is(handle) {
            return None;
        }
        match slot.state {
            State::Copying => Some(end_answered(self.state, &mut self.around, slot, handle.tag, Ok(()))),
            // The request has failed, so this is no answer.
            State::Doomed => Some(free(self.state, slot, handle.tag, Err(Errno::EIO))),
            State::Free | State::Queued | State::Held => None,
        }
    }

    /// Number of writes answered through this value that may be only in a cache. When their block requests
    /// have ended, the caller must call [`ended`](Self::ended).
    #[inline]
    #[must_use]
    pub const fn written(&self) -> u32 {
        self.around.written
    }

    /// The block requests of this many such writes, which the server of `epoch` answered, have ended, so
    /// their submitters know. Before that, no submitter can rely on a flush for these writes.
    #[cold]
    pub fn ended(&mut self, epoch: u32, written: u32) {
        let Some(cache) = self.around.cache else { return };
        let now_ns = self.around.moment.now_ns;
        if epoch < self.state.cache_from {
            // It does not matter which writes these are: only the last end counts.
            let covered = self.state.covered.min(written);
            self.state.covered = self.state.covered.wrapping_sub(covered);
            let lost = written.wrapping_sub(covered);
            if lost > 0 {
                cache.ended(lost.into(), now_ns);
            }
        } else {
            self.state.unended = self.state.unended.saturating_sub(written);
            // Threads may get here in another order than that in which they read the clock.
            self.state.unflushed_ns = self.state.unflushed_ns.max(now_ns);
        }
        let unended = self.state.has_unended();
        self.state.loss.writes_ended(cache.losses(), now_ns, unended);
    }

    /// The server could not be given the request: HELD back to QUEUED, as the oldest. A stale handle changes
    /// nothing. Neither does the handle of a COPYING or DOOMED request: another thread answers it, perhaps
    /// with a guessed handle, and needs its pages.
    pub fn unfetch(&mut self, handle: Handle) -> Wake {
        match self.slots.get_mut(usize::from(handle.tag)) {
            Some(slot) if slot.is_held_by(handle) => {
                slot.state = State::Queued;
                self.state.held = self.state.held.wrapping_sub(1);
                self.link_first(handle.tag);
                self.announce()
            }
            _ => Wake::NONE,
        }
    }

    /// The server of `epoch` is dead, and none of its calls is running: the requests that it HELD are QUEUED
    /// again as the oldest, marked as maybe executed. Calls `each` with the tag of each.
    pub fn requeue(&mut self, epoch: u32, each: impl FnMut(u16)) -> Wake {
        self.take_back_if(|slot| slot.epoch == epoch, each);
        self.announce()
    }

    /// Declares the server of `epoch`, and all earlier ones, dead. They get nothing any more. Their HELD
    /// requests are QUEUED again as by [`requeue`](Self::requeue), and their COPYING requests follow when the
    /// copies stop. The caller [wakes all](Self::wake_all) sleepers: the servers' threads leave, and those of
    /// a newer server see the queued requests.
    pub fn declare_dead(&mut self, epoch: u32, each: impl FnMut(u16)) {
        let next = epoch.saturating_add(1);
        self.state.oldest = self.state.oldest.max(next);
        if self.is_dead(self.state.epoch) {
            // The wake-ups under way are for threads of the dead server.
            self.state.waking = 0;
        }
        self.take_back_if(|slot| slot.epoch < next, each);
    }

    /// Whether a server was declared dead.
    #[must_use]
    pub const fn is_dead(&self, epoch: u32) -> bool {
        epoch < self.state.oldest
    }

    fn take_back_if(&mut self, wanted: impl Fn(&Slot) -> bool, mut each: impl FnMut(u16)) {
        // From the last on, so that the first tag becomes the oldest.
        for index in (0..self.slots.len()).rev() {
            #[expect(clippy::cast_possible_truncation, reason = "there are at most MAX_DEPTH slots")]
            let tag = index as u16;
            if self.slots.get(index).is_some_and(|slot| slot.state == State::Held && wanted(slot)) {
                self.take_back(tag);
                each(tag);
            }
        }
    }

    /// HELD back to QUEUED, as the oldest, marked as maybe executed.
    #[cold]
    fn take_back(&mut self, tag: u16) {
        if let Some(slot) = self.slots.get_mut(usize::from(tag)) {
            slot.state = State::Queued;
            slot.request.flags |= MAYBE_EXECUTED;
            self.state.held = self.state.held.wrapping_sub(1);
            self.state.counters.requeued = self.state.counters.requeued.wrapping_add(1);
            self.link_first(tag);
        }
    }

    /// The deadline of the request of `tag` has passed: [`Policy::Fail`] takes QUEUED and HELD to FREE and
    /// COPYING to DOOMED, [`Policy::Requeue`] takes HELD to QUEUED. Unless the request has ended, its timer
    /// starts again.
    ///
    /// A server is declared dead only for its own time: the time that a request waited for an earlier server
    /// does not count.
    pub fn expire(&mut self, tag: u16, deadline: Deadline) -> Overdue {
        let Some(slot) = self.slots.get(usize::from(tag)) else { return Overdue::NotHere };
        let (state, epoch, submitted_ns) = (slot.state, slot.epoch, slot.submitted_ns);
        match state {
            State::Free => return Overdue::NotHere,
            State::Doomed => return Overdue::Over,
            State::Queued | State::Held | State::Copying => {}
        }
        self.state.counters.expired = self.state.counters.expired.wrapping_add(1);
        match (deadline.policy, state) {
            (Policy::Fail, _) => self.fail(tag).map_or(Overdue::Doomed, Overdue::End),
            (Policy::Requeue, State::Held) => {
                self.take_back(tag);
                Overdue::Requeued(self.announce())
            }
            (Policy::DeclareDead, State::Held | State::Copying)
                if self.had_time(epoch, submitted_ns, deadline) =>
            {
                Overdue::ServerDead(epoch)
            }
            // The server left the request in the queue for all that time.
            (Policy::DeclareDead, State::Queued)
                if matches!(self.state.phase, Phase::Live)
                    && !self.is_dead(self.state.epoch)
                    && self.had_time(self.state.epoch, submitted_ns, deadline) =>
            {
                Overdue::ServerDead(self.state.epoch)
            }
            _ => Overdue::Waits,
        }
    }

    /// Whether this server had the whole deadline for a request submitted at that time.
    const fn had_time(&self, epoch: u32, submitted_ns: u64, deadline: Deadline) -> bool {
        // An older server gets no requests any more, so it has held this one for long.
        let newest = epoch == self.state.epoch;
        let attached_ns = self.state.attached_ns;
        let since = if newest && attached_ns > submitted_ns { attached_ns } else { submitted_ns };
        self.around.moment.now_ns.saturating_sub(since) >= deadline.ns
    }

    /// Counts an answer with a handle that cannot name a request of its server.
    pub const fn count_stale(&mut self) {
        self.state.counters.stale = self.state.counters.stale.wrapping_add(1);
    }

    /// The first request at or after the tag `from` that is not FREE.
    #[must_use]
    pub fn outstanding_from(&self, from: u16) -> Option<Outstanding> {
        let slots = self.slots.get(usize::from(from)..)?;
        let (tag, slot) = (from..).zip(slots).find(|(_, slot)| slot.state != State::Free)?;
        Some(Outstanding {
            tag,
            state: slot.state,
            request: slot.request,
            submitted_ns: slot.submitted_ns,
            fetched_ns: slot.fetched_ns,
            epoch: slot.epoch,
            thread: slot.thread,
        })
    }

    /// Fails the first request at or after `from` that can end now, and dooms COPYING requests on the way.
    /// Called in a loop, with the lock dropped in between, until `None`.
    #[must_use]
    pub fn fail_next(&mut self, from: u16) -> Option<End> {
        let mut tag = from;
        while usize::from(tag) < self.slots.len() {
            if let Some(end) = self.fail(tag) {
                return Some(end);
            }
            tag = tag.checked_add(1)?;
        }
        None
    }

    fn fail(&mut self, tag: u16) -> Option<End> {
        if self.slots.get(usize::from(tag))?.state == State::Queued {
            self.unlink(tag);
            // Balances the count that `free` subtracts for a held request.
            self.state.held = self.state.held.wrapping_add(1);
        }
        let slot = self.slots.get_mut(usize::from(tag))?;
        match slot.state {
            State::Queued | State::Held => Some(free(self.state, slot, tag, Err(Errno::EIO))),
            State::Copying => {
                slot.state = State::Doomed;
                None
            }
            State::Free | State::Doomed => None,
        }
    }

    #[inline]
    fn link_last(&mut self, tag: u16) {
        let previous = self.state.last;
        self.set_links(tag, previous, NO_TAG);
        if let Some(slot) = self.slots.get_mut(usize::from(previous)) {
            slot.next = tag;
        } else {
            self.state.first = tag;
        }
        self.state.last = tag;
        self.state.queued = self.state.queued.wrapping_add(1);
    }

    fn link_first(&mut self, tag: u16) {
        let next = self.state.first;
        self.set_links(tag, NO_TAG, next);
        if let Some(slot) = self.slots.get_mut(usize::from(next)) {
            slot.previous = tag;
        } else {
            self.state.last = tag;
        }
        self.state.first = tag;
        self.state.queued = self.state.queued.wrapping_add(1);
    }

    #[inline]
    fn set_links(&mut self, tag: u16, previous: u16, next: u16) {
        if let Some(slot) = self.slots.get_mut(usize::from(tag)) {
            slot.previous = previous;
            slot.next = next;
        }
    }

    #[inline]
    fn unlink(&mut self, tag: u16) {
        let Some(&Slot { previous, next, .. }) = self.slots.get(usize::from(tag)) else {
            return;
        };
        if let Some(slot) = self.slots.get_mut(usize::from(previous)) {
            slot.next = next;
        } else {
            self.state.first = next;
        }
        if let Some(slot) = self.slots.get_mut(usize::from(next)) {
            slot.previous = previous;
        } else {
            self.state.last = previous;
        }
        self.state.queued = self.state.queued.wrapping_sub(1);
    }
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "it is most of the cost of an answer, and has two callers")]
fn end_answered(
    state: &mut QueueState,
    around: &mut Surroundings<'_>,
    slot: &mut Slot,
    tag: u16,
    mut result: Result<(), Errno>,
) -> End {
    state.answers = state.answers.wrapping_add(1);
    if around.cache.is_some() {
        result = cached(state, around, slot, result);
    }
    if let Some(latencies) = &mut around.latencies {
        latencies.count(slot.submitted_ns, slot.fetched_ns, around.moment.now_ns);
    }
    let counters = &mut state.counters;
    if result.is_ok() {
        let request = &slot.request;
        if let Some(count) = counters.committed.get_mut(request.op as usize) {
            *count = count.wrapping_add(1);
        }
        if let Some(bytes) = counters.bytes.get_mut(request.op as usize) {
            *bytes = bytes.wrapping_add(request.length.into());
        }
    } else {
        counters.failed = counters.failed.wrapping_add(1);
    }
    free(state, slot, tag, result)
}

/// A server with a volatile cache answered a request with this result. Returns the result for the submitter.
#[inline(never)]
fn cached(
    state: &mut QueueState,
    around: &mut Surroundings<'_>,
    slot: &Slot,
    result: Result<(), Errno>,
) -> Result<(), Errno> {
    let Some(cache) = around.cache else { return result };
    if slot.request.op == Op::Flush {
        return flushed(state, cache, slot, result);
    }
    result?;
    let now_ns = around.moment.now_ns;
    match slot.request.op {
        // No submitter relies on a lost discard.
        Op::Read | Op::Discard | Op::Flush => {}
        Op::Write if slot.request.flags & FUA != 0 => {}
        Op::Write | Op::WriteZeroes | Op::SecureErase => {
            around.written = around.written.wrapping_add(1);
            if slot.epoch >= state.cache_from {
                state.unflushed = cache.written();
                state.unflushed_ns = now_ns;
                state.unended = state.unended.wrapping_add(1);
                if slot.submitted_ns <= cache.lost_ns() {
                    state.loss.old_write_answered();
                }
            } else {
                // The write is in a cache that no flush will reach.
                cache.lose_unended(1);
            }
        }
    }
    Ok(())
}

/// A server with a volatile cache answered a flush with this result. Returns the result for the submitters. A
/// flush that the server failed tells its submitters of an error just as a flush that fails because of a
/// loss.
#[cold]
fn flushed(
    state: &mut QueueState,
    cache: &Cache,
    slot: &Slot,
    result: Result<(), Errno>,
) -> Result<(), Errno> {
    if result.is_ok() && slot.epoch >= state.cache_from {
        cache.flushed(slot.covers);
    }
    if !cache.losing() {
        let Some(loss) = cache.unreported() else { return result };
        let unended = state.has_unended();
        if state.loss.flush_fails(loss, slot.submitted_ns, state.unflushed_ns, unended) {
            cache.report(loss);
        }
    }
    result?;
    state.counters.lost_flushes = state.counters.lost_flushes.wrapping_add(1);
    Err(Errno::EIO)
}

#[inline]
const fn free(state: &mut QueueState, slot: &mut Slot, tag: u16, result: Result<(), Errno>) -> End {
    slot.state = State::Free;
    state.held = state.held.wrapping_sub(1);
    End { tag, result }
}
