// SPDX-License-Identifier: GPL-2.0-only
//! One queue of a device: which request is fetched when, whose answer is accepted, who is woken.
//!
//! Every method is called with the queue's lock held by the caller, who carries out the returned effects:
//!
//! * [`Wake`]: take so many waiters off the list of sleeping servers before the lock is dropped, and wake them. If it
//!   says so, call [`Queue::look_after`] after [`LOOK_MS`].
//! * [`End`]: end the block request of that tag with that result, after the lock is dropped. The engine has
//!   already forgotten it, so nobody else can end it too, and who drops the `End` leaks the block request.
//!
//! # Who sleeps, who is woken
//!
//! A server that finds no work calls [`Queue::wait`] and sleeps. It says how many requests it takes at a time, its
//! *room*. Whenever work is queued, servers are woken until those on their way have room for it: a request wakes one
//! server, a burst as many as it needs, and a queue whose servers are busy wakes none. A woken server that arrives
//! takes what it wants and looks whether what is left needs others.
//!
//! A woken server may get no processor for long (a throttled group, a low priority). So while work is queued, servers
//! sleep and wake-ups are under way, the queue is looked after every [`LOOK_MS`]. If no woken server arrived between
//! two looks, the wake-ups under way count no more, and others are woken instead. Servers that are only woken to be
//! sent away ([`Queue::wake_all`]) are never counted: nobody waits for their arrival.

use crate::cache::Cache;
use crate::device::{Phase, Policy};
use crate::errno::Errno;
use crate::latency::Latencies;
use crate::loss::QueueLoss;
use crate::request::{
    FUA, Handle, MAX_DEPTH, MAYBE_EXECUTED, NO_TAG, OP_ID_TAG_BITS, Op, Request, Slot, State,
};

/// Most servers that are woken at once; those who arrive wake the others.
pub const MOST_WAKES: u32 = 8;
/// Most requests that one wake-up counts for, however many its server takes at a time.
pub const MOST_ROOM: u32 = 16;
/// From one look after the wake-ups under way to the next, in milliseconds.
pub const LOOK_MS: u32 = 20;

/// Which sleeping servers the caller must wake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Wake {
    /// How many servers, all of which sleep; at most [`MOST_WAKES`].
    pub servers: u32,
    /// Call [`Queue::look_after`] after [`LOOK_MS`]. Said once until then.
    pub look: bool,
}

impl Wake {
    /// Nobody.
    pub const NONE: Self = Self { servers: 0, look: false };
}

/// A request that a server got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Names this tenure.
    pub handle: Handle,
    /// What is asked for.
    pub request: Request,
    /// It is a write whose data the server gets with it: COPYING until [`Queue::copied`].
    pub copying: bool,
}

/// What a server that asked for work gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A request.
    Request(Fetched),
    /// A shutdown notice (version 1, `OP_SHUTDOWN_NOTICE`).
    Notice,
    /// The device is gone; do not ask again.
    Gone,
    /// Another server has taken over; do not ask again.
    Superseded,
    /// Nothing: the caller may [`wait`](Queue::wait).
    Nothing,
}

/// End the block request of this tag with this result. Only a queue makes one, and it cannot be copied: whoever ends
/// the block request uses it up.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct End {
    tag: u16,
    result: Result<(), Errno>,
}

impl End {
    /// Whose block request.
    #[inline]
    #[must_use]
    pub const fn tag(&self) -> u16 {
        self.tag
    }

    /// What its submitter gets.
    #[inline]
    pub const fn result(&self) -> Result<(), Errno> {
        self.result
    }

    /// Both, for who ends the block request now.
    #[inline]
    pub fn use_up(self) -> (u16, Result<(), Errno>) {
        (self.tag, self.result)
    }
}

/// What an answer leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// The answer ends the request.
    End(End),
    /// The request is COPYING: copy this much data in, then [`Queue::answered`] or [`Queue::copied`].
    CopyIn(Handle, Request),
}

/// What became of a request when a copy of its data stopped without an answer.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Copied {
    /// Its server keeps it, or the handle was stale.
    Kept,
    /// It is QUEUED again: its server was declared dead.
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

/// What a deadline led to.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Overdue {
    /// No request is there: the block request was ended just now, or is refused and about to be. Its clock may go on.
    NotHere,
    /// The request is about to be over.
    Over,
    /// End its block request.
    End(End),
    /// Whoever copies its data ends it.
    Doomed,
    /// It is QUEUED again.
    Requeued(Wake),
    /// The server of this epoch is to be declared dead: the life of the device first, then
    /// [`Queue::declare_dead`] of each queue.
    ServerDead(u32),
    /// It waits on: there is nobody to blame, or its copy will end soon.
    Waits,
}

/// A request that is not FREE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outstanding {
    /// Its tag.
    pub tag: u16,
    /// Where it is in its life.
    pub state: State,
    /// What is asked for.
    pub request: Request,
    /// When it was submitted.
    pub submitted_ns: u64,
    /// When it was fetched last; makes sense unless it is QUEUED.
    pub fetched_ns: u64,
    /// The server that fetched it last, and its thread, as above.
    pub epoch: u32,
    /// See `epoch`.
    pub thread: u32,
}

/// When a request is late, and what happens then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deadline {
    /// What happens.
    pub policy: Policy,
    /// How long a server has for a request, in nanoseconds.
    pub ns: u64,
}

/// Who calls, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Of any monotonic clock.
    pub now_ns: u64,
    /// Number of the calling thread, for reports.
    pub thread: u32,
}

/// What a queue works with besides its own state.
#[derive(Debug, Default)]
pub struct Surroundings<'a> {
    /// That of the device's servers, if they may have a volatile one.
    pub cache: Option<&'a Cache>,
    /// Where latencies are counted, if they are.
    pub latencies: Option<&'a mut Latencies>,
    /// Who calls, and when; counts for fetches, answers, deadlines and servers that attach.
    pub moment: Moment,
    /// Writes answered with these that may be in nothing but a cache.
    pub written: u32,
}

/// Why an answer is not accepted. The request it may have meant is untouched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No request with this name is with a server: late, twice, never fetched or invented.
    Stale,
    /// The request is of another kind.
    WrongKind,
}

/// What happened so far; wraps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests fetched, of each operation.
    pub fetched: [u64; Op::COUNT],
    /// Requests that ended well, of each operation.
    pub committed: [u64; Op::COUNT],
    /// Bytes of the requests of each operation that ended well.
    pub bytes: [u64; Op::COUNT],
    /// Requests that a server failed.
    pub failed: u64,
    /// Requests that passed their deadline.
    pub expired: u64,
    /// Requests taken back from servers that died.
    pub requeued: u64,
    /// Answers that named no request of the server's.
    pub stale: u64,
    /// Flushes that a server carried out, and that failed because writes before it were lost with a cache.
    pub lost_flushes: u64,
    /// Servers woken.
    pub wakeups: u64,
    /// Times that a server slept.
    pub sleeps: u64,
}

/// A request that is HELD by who named it, for as long as he holds the lock.
#[derive(Debug)]
pub struct Held<'a, 'b> {
    state: &'a mut QueueState,
    slot: &'a mut Slot,
    around: &'a mut Surroundings<'b>,
    tag: u16,
}

impl Held<'_, '_> {
    /// What it asks for.
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

/// State of one queue besides its slots.
#[derive(Clone, Copy, Debug)]
pub struct QueueState {
    phase: Phase,
    /// The server that gets requests.
    epoch: u32,
    /// Since when it does.
    attached_ns: u64,
    /// Servers before this one are dead.
    oldest: u32,
    /// Servers from this one on share a cache.
    cache_from: u32,
    /// Era of the cache of the last answered write that may be in nothing else; 0: none.
    unflushed: u64,
    /// When the last of such writes was answered or had ended.
    unflushed_ns: u64,
    /// Such writes whose block requests are not ended yet.
    unended: u32,
    /// Writes of servers before `cache_from` whose block requests are not ended, although a flush has covered them.
    covered: u32,
    /// How far this queue's flushes have reported a loss.
    loss: QueueLoss,
    first: u16,
    last: u16,
    /// Requests that are QUEUED.
    queued: u32,
    /// Requests that are HELD, COPYING or DOOMED.
    held: u32,
    /// Servers on the list of waiters.
    waiting: u32,
    /// Servers taken off the list that have not arrived yet, as far as they are waited for.
    waking: u32,
    /// Requests that one of them takes, as the last one to sleep said.
    room: u32,
    /// Those that arrived, which wraps, and how many they were at the last look after the wake-ups under way.
    arrived: u32,
    arrived_before: u32,
    /// The caller was asked to look after the wake-ups under way.
    looked_after: bool,
    /// Shutdown notices to hand out.
    notices: u32,
    /// Answers accepted so far, the measure of a server's progress.
    answers: u64,
    counters: Counters,
}

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
                sleeps: 0,
            },
        }
    }
}

impl QueueState {
    /// Whether writes that may be in nothing but a cache are answered, and their block requests not ended.
    const fn has_unended(&self) -> bool {
        self.unended > 0 || self.covered > 0
    }
}

/// A queue: its state and its slots, borrowed from the caller for as long as he holds the lock.
#[derive(Debug)]
pub struct Queue<'a> {
    state: &'a mut QueueState,
    slots: &'a mut [Slot],
    around: Surroundings<'a>,
}

impl<'a> Queue<'a> {
    /// Joins a queue's parts. `slots` has one entry per tag, at most [`MAX_DEPTH`].
    pub const fn new(state: &'a mut QueueState, slots: &'a mut [Slot]) -> Self {
        debug_assert!(slots.len() <= MAX_DEPTH as usize);
        let moment = Moment { now_ns: 0, thread: 0 };
        Self { state, slots, around: Surroundings { cache: None, latencies: None, moment, written: 0 } }
    }

    /// The same queue, with what is around it.
    #[inline]
    #[must_use]
    pub fn within(self, around: Surroundings<'a>) -> Self {
        Self { around, ..self }
    }

    /// The phase that [`set_phase`](Self::set_phase) set last.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.state.phase
    }

    /// Moves the queue to another phase. In one that takes no requests, submissions are refused; the caller
    /// then ends what is there with [`fail_next`](Self::fail_next).
    pub const fn set_phase(&mut self, phase: Phase) {
        self.state.phase = phase;
    }

    /// Gives the requests to another server from now on; those that the old one has stay with it, unless it is
    /// dead. What the old one's cache had and this one's has not, because its cache is another one, is lost. The caller
    /// wakes all, so that the old one's threads go.
    pub fn attach(&mut self, epoch: u32, cache_survived: bool) {
        self.state.epoch = epoch;
        // Those under way are for threads of the old one.
        self.state.waking = 0;
        self.state.attached_ns = self.around.moment.now_ns;
        if cache_survived {
            return;
        }
        self.state.cache_from = epoch;
        let unended = core::mem::take(&mut self.state.unended);
        let unflushed = core::mem::take(&mut self.state.unflushed);
        match self.around.cache {
            Some(cache) if unflushed > 0 && cache.holds(unflushed) => {
                cache.lose_unended(unended.into());
                cache.lose(self.state.unflushed_ns);
            }
            // A flush has covered them before their ends were told.
            _ => self.state.covered = self.state.covered.wrapping_add(unended),
        }
    }

    /// Whether a server would get something, be it a goodbye.
    #[must_use]
    pub fn has_work(&self, epoch: u32) -> bool {
        self.state.queued > 0
            || self.state.notices > 0
            || self.state.phase == Phase::Gone
            || self.superseded(epoch)
    }

    /// Whether another server has taken over from this one, or may: it was declared dead.
    #[inline]
    #[must_use]
    pub const fn superseded(&self, epoch: u32) -> bool {
        self.state.epoch != epoch || epoch < self.state.oldest
    }

    /// What happened so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.state.counters
    }

    /// Requests that a server has.
    #[must_use]
    pub const fn held(&self) -> u32 {
        self.state.held
    }

    /// Requests that are not FREE.
    #[must_use]
    pub const fn outstanding(&self) -> u32 {
        self.state.queued.wrapping_add(self.state.held)
    }

    /// Requests that wait for a server.
    #[must_use]
    pub const fn queued(&self) -> u32 {
        self.state.queued
    }

    /// Servers that sleep and have not been chosen to be woken.
    #[must_use]
    pub const fn waiting(&self) -> u32 {
        self.state.waiting
    }

    /// Wake-ups under way.
    #[must_use]
    pub const fn waking(&self) -> u32 {
        self.state.waking
    }

    /// Answers accepted since the queue was made.
    #[must_use]
    pub const fn answers(&self) -> u64 {
        self.state.answers
    }

    /// FREE to QUEUED, submitted at this time. `last` is false when the submitter is about to submit more and will then either
    /// submit with `last` or call [`announce`](Self::announce): only that wakes a server.
    ///
    /// # Errors
    ///
    /// `EIO` when the device takes no more requests, or `tag` is out of range or in use; the caller fails
    /// the block request himself.
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

    /// Makes requests submitted without `last` known to the sleeping servers; also wakes others for what a server that
    /// arrived has left.
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
        // With nobody left to wake there is nothing to look after.
        let look = state.waiting > 0 && !state.looked_after;
        if look {
            state.looked_after = true;
            state.arrived_before = state.arrived;
        }
        Wake { servers, look }
    }

    /// Looks after the wake-ups under way, [`LOOK_MS`] after the caller was asked to.
    pub const fn look_after(&mut self) -> Wake {
        let state = &mut *self.state;
        state.looked_after = false;
        if state.arrived == state.arrived_before {
            state.waking = 0;
        }
        self.announce()
    }

    /// What a server that asks now gets: goodbye, a notice, the oldest request, or nothing. A write of at
    /// most `room` bytes comes with its data. When the server has taken all that it wants, it calls
    /// [`announce`](Self::announce) in the same critical section.
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

    /// As [`fetch`](Self::fetch), which gave this server a request just now, in the same critical section.
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

    /// The caller, who takes `room` requests at a time, is now on the list of sleeping servers. Called in the same
    /// critical section in which [`fetch`](Self::fetch) gave [`Work::Nothing`].
    #[inline]
    pub const fn wait(&mut self, room: u32) {
        // Servers of one queue are alike; where they are not, a wake-up too many or one that follows does no harm.
        self.state.room = match room {
            0 => 1,
            1..=MOST_ROOM => room,
            _ => MOST_ROOM,
        };
        self.state.waiting = self.state.waiting.wrapping_add(1);
        self.state.counters.sleeps = self.state.counters.sleeps.wrapping_add(1);
    }

    /// A server that a [`Wake`] woke is up. It asks for work in the same critical section, or, if it must leave (a
    /// fatal signal), passes the wake-up on as [`announce`](Self::announce) says.
    #[inline]
    pub const fn arrive(&mut self, epoch: u32) {
        // Wake-ups of a server that lost the device are not counted any more.
        if !self.superseded(epoch) {
            self.state.waking = self.state.waking.saturating_sub(1);
            self.state.arrived = self.state.arrived.wrapping_add(1);
        }
    }

    /// A server left the list of sleeping servers on its own (a signal), without having been woken.
    #[inline]
    pub const fn leave(&mut self) {
        self.state.waiting = self.state.waiting.saturating_sub(1);
    }

    /// Asks for one shutdown notice for some server.
    pub const fn notify(&mut self) -> Wake {
        self.state.notices = self.state.notices.saturating_add(1);
        self.announce()
    }

    /// The caller wakes all sleeping servers, for a goodbye. They ask for work without [`arrive`](Self::arrive), and
    /// no wake-up is counted for them: who is only sent away may take its time.
    pub const fn wake_all(&mut self) {
        self.state.waiting = 0;
    }

    /// The handle a version 1 `op_id` names, if its request is with a server.
    #[must_use]
    pub fn handle_of(&self, op_id: u32) -> Option<Handle> {
        let tag = u16::try_from(op_id & 1_u32.wrapping_shl(OP_ID_TAG_BITS).wrapping_sub(1)).ok()?;
        let slot = self.slots.get(usize::from(tag))?;
        let handle = Handle { tag, generation: slot.generation, epoch: slot.epoch };
        (slot.state == State::Held && handle.op_id() == op_id).then_some(handle)
    }

    /// An answer to the request that `handle` names: HELD to FREE, or to COPYING when a read's data must be
    /// copied in first. `ok` is false when the server reports failure.
    ///
    /// # Errors
    ///
    /// See [`Refused`]; nothing changed.
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

    /// The request that `handle` names, if it is HELD.
    ///
    /// # Errors
    ///
    /// [`Refused::Stale`] when it is not with this server.
    #[inline]
    pub fn held_by(&mut self, handle: Handle) -> Result<Held<'_, 'a>, Refused> {
        match self.slots.get_mut(usize::from(handle.tag)) {
            Some(slot) if slot.is_held_by(handle) => {
                Ok(Held { state: self.state, slot, around: &mut self.around, tag: handle.tag })
            }
            _ => Err(Refused::Stale),
        }
    }

    /// As [`held_by`](Self::held_by), for an answer: one that comes too late is counted.
    ///
    /// # Errors
    ///
    /// As [`held_by`](Self::held_by).
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

    /// An answer with nothing to copy: HELD to FREE.
    ///
    /// # Errors
    ///
    /// [`Refused::Stale`] when it is not with this server; nothing changed.
    #[inline]
    pub fn finish(&mut self, handle: Handle, result: Result<(), Errno>) -> Result<End, Refused> {
        self.held_by(handle).map(|held| held.finish(result))
    }

    /// HELD to COPYING: the copy goes on after a page fault was served.
    ///
    /// # Errors
    ///
    /// [`Refused::Stale`] when the request is not with this server any more.
    pub fn pin(&mut self, handle: Handle) -> Result<(), Refused> {
        self.held_by(handle).map(Held::pin)
    }

    /// The copy stopped and the server keeps the request: COPYING to HELD, or DOOMED to FREE. If the server was
    /// declared dead meanwhile the request is QUEUED again and the handle stale, so the caller
    /// [`announce`](Self::announce)s before he drops the lock. Only called by whoever made the copy; a stale handle
    /// changes nothing.
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

    /// All data of an answer is copied in: COPYING to FREE with success, or DOOMED to FREE with `EIO`, which is no answer. Only
    /// called by whoever made the copy; a stale handle changes nothing.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "see end_answered, of which it is part")]
    #[must_use]
    pub fn answered(&mut self, handle: Handle) -> Option<End> {
        let slot = self.slots.get_mut(usize::from(handle.tag))?;
        if !slot.is(handle) {
            return None;
        }
        match slot.state {
            State::Copying => Some(end_answered(self.state, &mut self.around, slot, handle.tag, Ok(()))),
            // No answer any more.
            State::Doomed => Some(free(self.state, slot, handle.tag, Err(Errno::EIO))),
            State::Free | State::Queued | State::Held => None,
        }
    }

    /// Writes answered through this value that may be in nothing but a cache: when their block requests are ended
    /// [`ended`](Self::ended) is to be told.
    #[inline]
    #[must_use]
    pub const fn written(&self) -> u32 {
        self.around.written
    }

    /// The block requests of so many such writes, which the server of `epoch` answered, are ended: their submitters know by
    /// now. Until here no flush can be relied on for what of it is lost, or will be.
    #[cold]
    pub fn ended(&mut self, epoch: u32, written: u32) {
        let Some(cache) = self.around.cache else { return };
        let now_ns = self.around.moment.now_ns;
        if epoch < self.state.cache_from {
            // Which are which does not matter: the last of all to end is the one that counts.
            let covered = self.state.covered.min(written);
            self.state.covered = self.state.covered.wrapping_sub(covered);
            let lost = written.wrapping_sub(covered);
            if lost > 0 {
                cache.ended(lost.into(), now_ns);
            }
        } else {
            self.state.unended = self.state.unended.saturating_sub(written);
            // Whoever read the clock first need not be here first.
            self.state.unflushed_ns = self.state.unflushed_ns.max(now_ns);
        }
        let unended = self.state.has_unended();
        self.state.loss.writes_ended(cache.losses(), now_ns, unended);
    }

    /// The server could not be given the request: HELD back to QUEUED, as the oldest. A handle that is stale
    /// meanwhile changes nothing. Nor does one whose request is COPYING or DOOMED: somebody answers it, maybe
    /// before he was told its name, and its pages are his until he is done.
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

    /// The server of `epoch` is dead, and none of its calls is under way: what it HELD is QUEUED again as the
    /// oldest, marked as maybe executed. `each` is called with the tag of each.
    pub fn requeue(&mut self, epoch: u32, each: impl FnMut(u16)) -> Wake {
        self.take_back_if(|slot| slot.epoch == epoch, each);
        self.announce()
    }

    /// The server of `epoch` is dead as far as the device goes, and with it all before it: they get nothing any more,
    /// what they HELD is QUEUED again as by [`requeue`](Self::requeue), and what is COPYING follows when the copy
    /// stops. The caller [wakes all](Self::wake_all): their threads go, and those of a newer server see what is queued.
    pub fn declare_dead(&mut self, epoch: u32, each: impl FnMut(u16)) {
        let next = epoch.saturating_add(1);
        self.state.oldest = self.state.oldest.max(next);
        if self.is_dead(self.state.epoch) {
            // Those under way are for threads of the dead one.
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
        // From the last on, so that the first tag is the oldest.
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

    /// The deadline of the request of `tag` has passed: [`Policy::Fail`] takes QUEUED and HELD to FREE and COPYING
    /// to DOOMED, [`Policy::Requeue`] takes HELD to QUEUED. Unless the request is over, its clock starts anew.
    ///
    /// A server is only declared dead for time that it had itself: what a request waited for an earlier one does not
    /// count.
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
            // It let the request wait for all that time.
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

    /// Whether a server could have answered a request of that age for as long as the deadline says.
    const fn had_time(&self, epoch: u32, submitted_ns: u64, deadline: Deadline) -> bool {
        // Those before the newest get no requests any more, so they have had this one for long.
        let newest = epoch == self.state.epoch;
        let attached_ns = self.state.attached_ns;
        let since = if newest && attached_ns > submitted_ns { attached_ns } else { submitted_ns };
        self.around.moment.now_ns.saturating_sub(since) >= deadline.ns
    }

    /// An answer came that can be to no request of its server's: it is counted.
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

    /// Fails the first request at or after `from` that can be ended now, and dooms those being copied on
    /// the way. Called in a loop, with the lock dropped in between, until `None`.
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
            // Balances the count that `free` takes for a request a server has.
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
#[expect(clippy::inline_always, reason = "it is most of what an answer costs, and two call it")]
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

/// A server with a volatile cache answered a request with this result. What the submitter gets.
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
        // A lost discard changes nothing that anybody may rely on.
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
                // It is in a cache that no flush will reach.
                cache.lose_unended(1);
            }
        }
    }
    Ok(())
}

/// A server with a volatile cache answered a flush with this result. What the submitter gets. A flush that the server
/// failed tells its submitters of an error as well as one that fails for a loss.
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
