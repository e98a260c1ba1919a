// SPDX-License-Identifier: GPL-2.0-only
//! Exhaustive search of the small state space: two tags, two serving threads, two servers, every input in every
//! state, until no state is new.
//!
//! A [`World`] is the engine's queue and life of the device, together with their surroundings in the kernel:
//! submitters, which must get an end for each request; threads of servers, each at one of the points where the
//! glue drops the queue's lock; deadlines; the holder of the device's lock. It keeps its own account of each
//! request, and compares it with the engine's after every step. [`World::inputs`] lists the possible next inputs,
//! [`World::apply`] applies one, and [`World::check`] checks the state in between.
//!
//! [`World::key`] drops differences that do not matter, which makes the space finite: only the equality of
//! generations and epochs matters, all tenures that are over are alike, and threads are interchangeable. A thread
//! that is in no call may answer any request that its server holds, whether it knows or guesses the handle.
//!
//! The search relies on these rules for the glue, besides those in the engine's documentation:
//!
//! * A woken thread that is sent away ([`Work::Superseded`]) passes the wake-up on.
//! * It checks the wake-ups when asked to, whether or not any woken thread arrives.
//! * A thread that stops copies for a server that was declared dead announces the requeued requests.
//! * While a thread waits for memory, none of its requests is COPYING.

mod effect;

use std::collections::{HashMap, HashSet, VecDeque};
use std::mem::{Discriminant, discriminant};

use zosbd2_engine::Errno;
use zosbd2_engine::device::{self, Change, DRAIN_TOTAL_MS, Life, Phase, Policy, Terms};
use zosbd2_engine::queue::{
    Answer, Deadline, End, Fetched, MOST_ROOM, Overdue, Queue, QueueState, Refused, Wake, Work,
};
use zosbd2_engine::request::{self, FUA, Handle, MAYBE_EXECUTED, Op, Request, Slot, State};
use zosbd2_engine::v2::{Handles, decode_handle};

const TAGS: usize = 2;
const THREADS: usize = 2;
const LENGTH: u32 = 4096;
const TAG_BITS: u32 = 4;

/// The handle of a request of the only queue, in the form for its server.
fn encode(handle: Handle) -> u64 {
    Handles::new(handle.epoch(), 0, TAG_BITS).encode(handle)
}
const GRACE_MS: u32 = 1000;

/// A list of at most two small numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Few {
    items: [u8; 2],
    count: u8,
}

impl Few {
    fn list(&self) -> &[u8] {
        &self.items[..usize::from(self.count)]
    }

    fn push(&mut self, item: u8) {
        self.items[usize::from(self.count)] = item;
        self.count += 1;
    }

    fn push_first(&mut self, item: u8) {
        self.push(item);
        let count = usize::from(self.count);
        self.items[..count].rotate_right(1);
    }

    fn pop(&mut self) -> Option<u8> {
        let last = *self.list().last()?;
        self.count -= 1;
        Some(last)
    }

    fn pop_first(&mut self) -> Option<u8> {
        let first = *self.list().first()?;
        self.remove(first);
        Some(first)
    }

    fn remove(&mut self, item: u8) {
        let old = *self;
        *self = Self::default();
        old.list().iter().filter(|other| **other != item).for_each(|other| self.push(*other));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    /// One server, whose attaching is unknown; `op_id`, notices, one request at a time.
    One,
    Two,
}

/// What becomes of a request when its data is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// No data is copied.
    Nothing,
    /// The server keeps it.
    Stays,
    /// It succeeds.
    Ends,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Item {
    handle: Handle,
    then: Then,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Copies data: requests with data are COPYING.
    Copies,
    /// Waits for memory, for any time: nothing is COPYING. The first item waits.
    Waits,
    /// Writes descriptors to the server's memory, for any time.
    Writes,
}

/// What a thread does with requests while it holds no lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Job {
    epoch: u32,
    /// Gives requests to the server; otherwise answers them.
    delivers: bool,
    stage: Stage,
    items: [Option<Item>; 2],
}

/// The place of a server's thread, always outside the queue's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thread {
    /// In no call; may call for any server.
    Idle,
    /// On the list of sleepers.
    Asleep(u32),
    /// Taken off the list for work, not running yet, perhaps for long.
    Woken(u32),
    /// Likewise, to be sent away.
    SentAway(u32),
    Works(Job),
}

impl Thread {
    /// The server for which it is in a call.
    const fn epoch(self) -> Option<u32> {
        match self {
            Self::Idle => None,
            Self::Asleep(epoch)
            | Self::Woken(epoch)
            | Self::SentAway(epoch)
            | Self::Works(Job { epoch, .. }) => Some(epoch),
        }
    }
}

/// The account of one tag.
#[derive(Clone, Copy, Debug)]
struct Tag {
    state: State,
    request: Request,
    /// The latest handle, and its server.
    handle: Option<Handle>,
    epoch: u32,
}

impl Tag {
    const fn taken(&self) -> bool {
        matches!(self.state, State::Held | State::Copying | State::Doomed)
    }
}

/// What the holder of the device's lock does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Locked {
    No,
    /// The server of this epoch died; its requests are requeued, and nothing else is done yet.
    Detach(u32),
    /// The server was declared dead; likewise.
    Bury(u32),
    /// Requests fail, from this tag on.
    Fail(u16),
    /// The disk is deleted; sleepers are sent away next.
    Leave,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    Submit {
        tag: u16,
        op: Op,
        last: bool,
    },
    Announce,
    /// A check of the wake-ups under way.
    Look,
    Expire(u16, Policy),
    /// By a third thread, because both may sleep.
    Notify,
    Attach,
    Start,
    /// The last close of a server's descriptor.
    Close(u32),
    /// The same, for a server that was declared dead: its process notices, and leaves.
    Leave(u32),
    Detach,
    /// A server is declared dead: its requests are requeued, its threads sent away.
    Bury(u32),
    Buried,
    GraceOver,
    Drain,
    /// The same for a device whose server never fetched, or is known to be dead.
    DrainUnserved,
    GiveUp,
    FailNext,
    Delete,
    SendAway,
    Fetch {
        thread: usize,
        most: usize,
        room: u64,
    },
    Arrive {
        thread: usize,
        most: usize,
        room: u64,
    },
    ArriveKilled(usize),
    /// Or the end of its time limit.
    Signal(usize),
    /// An answer without a copy.
    Finish {
        thread: usize,
        tag: u16,
    },
    /// Answers with data, of one chunk.
    Commit {
        thread: usize,
        then: [Then; TAGS],
    },
    Copied(usize),
    /// The memory for this item is missing.
    Fault {
        thread: usize,
        item: usize,
    },
    FaultServed(usize),
    FaultRefused(usize),
    /// An answer whose data was copied piece by piece.
    Scattered(usize),
    Delivered(usize),
    TakeBack(usize),
}

/// Number of variants.
const INPUTS: usize = 32;

impl Input {
    /// Whether it happens by itself, whatever submitters and servers do: the teardown continues, and a copy,
    /// which waits for nothing, stops.
    const fn comes_of_itself(self) -> bool {
        matches!(
            self,
            Self::Detach
                | Self::Buried
                | Self::GraceOver
                | Self::Drain
                | Self::DrainUnserved
                | Self::GiveUp
                | Self::FailNext
                | Self::Delete
                | Self::SendAway
                | Self::Copied(_)
                | Self::Fault { .. }
        )
    }

    /// Whether servers do it that want to serve, or it happens by itself but ends nothing early.
    const fn serves(self) -> bool {
        matches!(
            self,
            Self::Announce
                | Self::Look
                | Self::Attach
                | Self::Detach
                | Self::Buried
                | Self::Leave(_)
                | Self::FailNext
                | Self::Fetch { .. }
                | Self::Arrive { .. }
                | Self::Finish { .. }
                | Self::Commit { .. }
                | Self::Copied(_)
                | Self::FaultServed(_)
                | Self::Delivered(_)
        )
    }
}

#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a thing that holds, or does not")]
struct World {
    version: Version,
    terms: Terms,
    state: QueueState,
    slots: [Slot; TAGS],
    life: Life,
    tags: [Tag; TAGS],
    /// Queued tags, the oldest first.
    fifo: Few,
    threads: [Thread; THREADS],
    /// Sleeping threads; the last one fell asleep last.
    sleepers: Few,
    /// Wake-ups that are counted on.
    waking: u8,
    /// Whether a check of them is pending, and whether a thread arrived since it was requested, or since the
    /// last check.
    looks: bool,
    arrived: bool,
    /// Requests were submitted without `last` and not announced yet.
    unannounced: bool,
    notices: u8,
    /// Open servers: the newest, and one older.
    newest: bool,
    older: Option<u32>,
    /// The newest server gets requests.
    serving: bool,
    /// Servers before this epoch were declared dead.
    oldest: u32,
    locked: Locked,
}

const fn request_of(tag: u16, op: Op, flags: u8) -> Request {
    Request { op, flags, offset: 8 * LENGTH as u64 * tag as u64, length: LENGTH }
}

impl World {
    fn new(version: Version, terms: Terms) -> Self {
        let tag =
            |tag| Tag { state: State::Free, request: request_of(tag, Op::Read, 0), handle: None, epoch: 0 };
        let mut life = Life::new(terms);
        if version == Version::One {
            life.set_started();
        }
        Self {
            version,
            terms,
            state: QueueState::default(),
            slots: [Slot::default(); TAGS],
            life,
            tags: [tag(0), tag(1)],
            fifo: Few::default(),
            threads: [Thread::Idle; THREADS],
            sleepers: Few::default(),
            waking: 0,
            looks: false,
            arrived: false,
            unannounced: false,
            notices: 0,
            // Version 1 has no descriptors to close.
            newest: version == Version::One,
            older: None,
            serving: version == Version::One,
            oldest: 0,
            locked: Locked::No,
        }
    }

    fn queue(&mut self) -> Queue<'_> {
        Queue::new(&mut self.state, &mut self.slots)
    }

    fn phase(&self) -> Phase {
        self.life.phase()
    }

    fn owes(&self) -> bool {
        self.tags.iter().any(|tag| tag.state != State::Free)
    }

    fn open(&self, epoch: u32) -> bool {
        self.newest && epoch == self.life.epoch() || self.older == Some(epoch)
    }

    fn sent_away(&self, epoch: u32) -> bool {
        epoch != self.life.epoch() || epoch < self.oldest
    }

    /// The tag of a tenure that is not over.
    fn tag(&mut self, handle: Handle) -> Option<&mut Tag> {
        let tag = &mut self.tags[usize::from(handle.tag())];
        (tag.handle == Some(handle) && tag.taken()).then_some(tag)
    }

    fn is_held(&mut self, handle: Handle) -> bool {
        self.tag(handle).is_some_and(|tag| tag.state == State::Held)
    }

    /// All differences that matter, and no others.
    fn key(&self) -> u64 {
        let mut key = 0_u64;
        let mut push = |value: u64, bits: u32| {
            assert!(value < 1 << bits);
            key = key << bits | value;
        };
        let older = |epoch: u32| u64::from(epoch != self.life.epoch());
        let item = |item: Option<Item>| {
            let Some(Item { handle, then }) = item else { return 0 };
            let tag = &self.tags[usize::from(handle.tag())];
            if tag.handle == Some(handle) && tag.taken() {
                1 + 2 * then as u64 + u64::from(handle.tag())
            } else {
                0
            }
        };
        let thread = |thread: Thread| match thread {
            Thread::Idle => 0,
            Thread::Asleep(epoch) => 1 + older(epoch),
            Thread::Woken(epoch) => 3 + older(epoch),
            Thread::SentAway(epoch) => 5 + older(epoch),
            Thread::Works(Job { epoch, delivers, stage, items: [first, second] }) => {
                let what = 4 * older(epoch) + stage as u64;
                1 << 10 | u64::from(delivers) << 9 | what << 6 | item(first) << 3 | item(second)
            }
        };
        let [first, second] = self.threads.map(thread);
        push(first.min(second), 11);
        push(first.max(second), 11);
        for tag in &self.tags {
            let Tag { state, request, epoch, .. } = *tag;
            push(state as u64, 3);
            let asked = 2 * request.op as u64 + u64::from(request.flags & MAYBE_EXECUTED != 0);
            let ends = matches!(state, State::Free | State::Doomed);
            push(if ends { 0 } else { asked }, 3);
            push(if ends || state == State::Queued { 0 } else { older(epoch) }, 1);
        }
        push(u64::from(self.fifo.list() == [1, 0]), 1);
        push(self.phase() as u64, 3);
        push(u64::from(self.life.started()), 1);
        push(u64::from(self.phase().is_there() && self.terms.grace_ms == 0), 1);
        push(u64::from(self.newest), 1);
        push(u64::from(self.newest && self.life.epoch() < self.oldest), 1);
        push(u64::from(self.older.is_some()), 1);
        push(u64::from(self.older.is_some_and(|epoch| epoch < self.oldest)), 1);
        push(u64::from(self.waking), 2);
        push(u64::from(self.looks), 1);
        push(u64::from(self.looks && self.arrived), 1);
        push(u64::from(self.unannounced), 1);
        push(self.notices.into(), 1);
        push(
            match self.locked {
                Locked::No => 0,
                Locked::Leave => 1,
                Locked::Detach(epoch) => 2 + older(epoch),
                Locked::Fail(from) => 4 + u64::from(from),
                Locked::Bury(epoch) => 6 + older(epoch),
            },
            3,
        );
        key
    }

    /// Requests that a wake-up counts for.
    const fn room(&self) -> u32 {
        match self.version {
            Version::One => MOST_ROOM,
            Version::Two => 1,
        }
    }

    /// The wake-ups that must come.
    fn due(&self) -> Wake {
        let work = u32::from(self.fifo.count) + u32::from(self.notices);
        let covered = u32::from(self.waking) * self.room();
        let wanted = work.saturating_sub(covered).div_ceil(self.room());
        let servers = wanted.min(self.sleepers.count.into());
        let left = u32::from(self.sleepers.count) - servers;
        Wake { servers, look: work > 0 && left > 0 && !self.looks }
    }

    fn wake(&mut self, Wake { servers, look }: Wake) {
        assert_eq!(Wake { servers, look }, self.due(), "who is woken");
        if look {
            (self.looks, self.arrived) = (true, false);
        }
        for _ in 0..servers {
            let thread = self.sleepers.pop().expect("one sleeps");
            let epoch = self.asleep(thread);
            self.threads[usize::from(thread)] = Thread::Woken(epoch);
            self.waking += 1;
        }
    }

    fn wake_all(&mut self) {
        self.queue().wake_all();
        while let Some(thread) = self.sleepers.pop() {
            let epoch = self.asleep(thread);
            self.threads[usize::from(thread)] = Thread::SentAway(epoch);
        }
    }

    fn asleep(&self, thread: u8) -> u32 {
        let thread = self.threads[usize::from(thread)];
        let Thread::Asleep(epoch) = thread else { panic!("{thread:?} does not sleep") };
        epoch
    }

    /// A woken thread has the lock.
    fn arrive(&mut self, thread: usize) -> u32 {
        match self.threads[thread] {
            Thread::Woken(epoch) => {
                self.queue().arrive(epoch);
                if !self.sent_away(epoch) {
                    self.waking = self.waking.saturating_sub(1);
                    self.arrived = true;
                }
                epoch
            }
            Thread::SentAway(epoch) => epoch,
            other => panic!("{other:?} was not woken"),
        }
    }

    /// Checks the wake-ups under way.
    fn look(&mut self) {
        self.looks = false;
        if !self.arrived {
            self.waking = 0;
        }
        let stuck = !self.arrived && self.fifo.count > 0 && self.sleepers.count > 0;
        let wake = self.queue().look_after();
        assert!(!stuck || wake.servers > 0, "a thread without a processor holds up the queue");
        self.wake(wake);
    }

    fn announce(&mut self) {
        let wake = self.queue().announce();
        self.wake(wake);
    }

    /// Ends the request of a tag, with exactly the effect that must come.
    fn end(&mut self, end: Option<End>, tag: u16, result: Result<(), Errno>) {
        assert_eq!(end.map(|end| (end.tag(), end.result())), Some((tag, result)));
        let state = &mut self.tags[usize::from(tag)].state;
        assert_ne!(*state, State::Free, "the request of tag {tag} ended twice");
        *state = State::Free;
        self.fifo.remove(u8::try_from(tag).unwrap());
    }

    /// Passes the phase on to the queue, and begins what the engine asks for.
    fn carry_out(&mut self, change: Change) {
        let phase = self.phase();
        self.queue().set_phase(phase);
        self.locked =
            if matches!(change, Change::Fail | Change::Destroy) { Locked::Fail(0) } else { Locked::No };
        assert!(self.locked == Locked::No || !phase.takes_requests());
        assert_eq!(change == Change::Destroy, self.locked != Locked::No && self.life.unwanted());
    }

    fn inputs(&self, inputs: &mut Vec<Input>) {
        inputs.clear();
        let phase = self.phase();
        let two = self.version == Version::Two;
        for number in 0..2 {
            let state = self.tags[usize::from(number)].state;
            if state == State::Free {
                if self.life.started() && phase.takes_requests() {
                    let discard = (!two).then_some(Op::Discard);
                    for op in [Op::Read, Op::Write].into_iter().chain(discard) {
                        inputs.push(Input::Submit { tag: number, op, last: true });
                        inputs.push(Input::Submit { tag: number, op, last: false });
                    }
                }
            } else if state != State::Doomed {
                inputs.push(Input::Expire(number, Policy::Fail));
                if two {
                    let others = [Policy::Requeue, Policy::DeclareDead];
                    inputs.extend(others.map(|policy| Input::Expire(number, policy)));
                }
            }
        }
        if self.unannounced {
            inputs.push(Input::Announce);
        }
        if self.looks {
            inputs.push(Input::Look);
        }
        if !two && self.notices == 0 && phase != Phase::Gone {
            inputs.push(Input::Notify);
        }
        match self.locked {
            Locked::No => self.device_inputs(inputs),
            Locked::Detach(_) => inputs.push(Input::Detach),
            Locked::Bury(_) => inputs.push(Input::Buried),
            Locked::Fail(_) => inputs.push(Input::FailNext),
            Locked::Leave => inputs.push(Input::SendAway),
        }
        for thread in 0..THREADS {
            match self.threads[thread] {
                Thread::Idle => {
                    // Idle threads are alike.
                    if self.threads[..thread].contains(&Thread::Idle) {
                        continue;
                    }
                    if self.newest && phase != Phase::Gone {
                        self.fetches(|most, room| inputs.push(Input::Fetch { thread, most, room }));
                    }
                    self.commits(thread, inputs);
                }
                Thread::Asleep(_) => inputs.push(Input::Signal(thread)),
                Thread::Woken(_) | Thread::SentAway(_) => {
                    self.fetches(|most, room| inputs.push(Input::Arrive { thread, most, room }));
                    inputs.push(Input::ArriveKilled(thread));
                }
                Thread::Works(job) => Self::job_inputs(two, thread, job, inputs),
            }
        }
    }

    fn device_inputs(&self, inputs: &mut Vec<Input>) {
        let phase = self.phase();
        if self.version == Version::Two {
            if phase.is_there() && !(self.newest && self.older.is_some()) {
                inputs.push(Input::Attach);
            }
            if phase.is_there() && !self.life.started() && (self.newest || self.older.is_some()) {
                inputs.push(Input::Start);
            }
            for epoch in self.older.into_iter().chain(self.newest.then_some(self.life.epoch())) {
                // A call keeps the descriptor open.
                if self.threads.iter().all(|thread| thread.epoch() != Some(epoch)) {
                    let dead = epoch < self.oldest;
                    inputs.push(if dead { Input::Leave(epoch) } else { Input::Close(epoch) });
                }
            }
        }
        if self.version == Version::Two && phase != Phase::Gone {
            if let Some(epoch) = self.older.filter(|epoch| *epoch >= self.oldest) {
                inputs.push(Input::Bury(epoch));
            }
            // Otherwise the older server would die with it.
            if self.serving && self.older.is_none_or(|epoch| epoch < self.oldest) {
                inputs.push(Input::Bury(self.life.epoch()));
            }
        }
        match phase {
            Phase::Live => inputs.extend([Input::Drain, Input::DrainUnserved]),
            Phase::Failed => inputs.push(Input::Drain),
            Phase::Orphaned => inputs.extend([Input::Drain, Input::GraceOver]),
            Phase::Draining => inputs.push(Input::GiveUp),
            Phase::Failing | Phase::Gone => {}
        }
        if matches!(phase, Phase::Draining | Phase::Failing) && !self.owes() {
            inputs.push(Input::Delete);
        }
    }

    /// How many requests a call may fetch, and with room for the data of how many: all cases that differ.
    fn fetches(&self, mut each: impl FnMut(usize, u64)) {
        if self.version == Version::One {
            each(1, u64::MAX);
            return;
        }
        let is_write = |tag: &&u8| self.tags[usize::from(**tag)].request.op == Op::Write;
        for most in 1..=self.fifo.list().len().max(1) {
            let writes = self.fifo.list().iter().take(most).filter(is_write).count() as u64;
            for fit in 0..writes {
                each(most, (fit + 1) * u64::from(LENGTH) - 1);
            }
            each(most, u64::MAX);
        }
    }

    fn commits(&self, thread: usize, inputs: &mut Vec<Input>) {
        let held = |tag: usize| self.tags[tag].state == State::Held;
        let thens = |tag: usize| match (self.version, self.tags[tag].request.op) {
            _ if !held(tag) => &[][..],
            (_, Op::Read) => &[Then::Ends],
            (Version::Two, Op::Write) => &[Then::Stays, Then::Ends],
            _ => &[],
        };
        for tag in 0..2 {
            if held(usize::from(tag)) {
                inputs.push(Input::Finish { thread, tag });
            }
        }
        for first in thens(0) {
            inputs.push(Input::Commit { thread, then: [*first, Then::Nothing] });
        }
        for second in thens(1) {
            inputs.push(Input::Commit { thread, then: [Then::Nothing, *second] });
            if self.version == Version::Two && self.tags[0].epoch == self.tags[1].epoch {
                inputs.extend(thens(0).iter().map(|first| Input::Commit { thread, then: [*first, *second] }));
            }
        }
    }

    fn job_inputs(two: bool, thread: usize, job: Job, inputs: &mut Vec<Input>) {
        match job.stage {
            Stage::Copies => {
                inputs.push(Input::Copied(thread));
                for (item, copied) in job.items.iter().enumerate() {
                    if copied.is_some_and(|copied| copied.then != Then::Nothing) {
                        inputs.push(Input::Fault { thread, item });
                    }
                }
            }
            Stage::Waits => {
                inputs.extend([Input::FaultServed(thread), Input::FaultRefused(thread)]);
                if two && matches!(job.items, [Some(Item { then: Then::Ends, .. }), None]) {
                    inputs.push(Input::Scattered(thread));
                }
            }
            Stage::Writes => inputs.extend([Input::Delivered(thread), Input::TakeBack(thread)]),
        }
    }

    /// A thread fetches its requests at once.
    fn fetch(&mut self, thread: usize, epoch: u32, most: usize, mut room: u64, woken: bool) {
        let phase = self.phase();
        let superseded = self.sent_away(epoch);
        let mut items = [None; 2];
        for (index, item) in items.iter_mut().enumerate().take(most) {
            let work = self.queue().fetch(epoch, room);
            let wanted = self.fifo.list().first().copied();
            match work {
                Work::Gone => {
                    assert_eq!(phase, Phase::Gone);
                    break;
                }
                _ if phase == Phase::Gone => panic!("{work:?} of a device that is gone"),
                Work::Superseded => {
                    assert!(superseded);
                    break;
                }
                _ if superseded => panic!("{work:?} for a server that was superseded"),
                Work::Notice => {
                    self.notices = self.notices.checked_sub(1).expect("a notice");
                    self.announce();
                    self.threads[thread] = Thread::Idle;
                    return;
                }
                Work::Nothing => {
                    assert!(wanted.is_none() && self.notices == 0, "there is work");
                    if index == 0 {
                        let room = self.room();
                        self.queue().wait(room);
                        self.sleepers.push(u8::try_from(thread).unwrap());
                        self.threads[thread] = Thread::Asleep(epoch);
                        return;
                    }
                    break;
                }
                Work::Request(Fetched { handle, request, copying }) => {
                    assert_eq!(
                        (Some(handle.tag()), self.notices),
                        (wanted.map(u16::from), 0),
                        "not the oldest"
                    );
                    self.fifo.pop_first();
                    let tag = &mut self.tags[usize::from(handle.tag())];
                    assert_eq!(request, tag.request);
                    assert_eq!(copying, request.op == Op::Write && u64::from(LENGTH) <= room);
                    let number = |handle: Handle| encode(handle) << 16;
                    let newer = tag.handle.is_none_or(|old| number(old) < number(handle));
                    assert!(newer, "a handle was given twice");
                    assert_eq!(decode_handle(encode(handle), epoch, TAG_BITS), Some((0, handle)));
                    tag.state = if copying { State::Copying } else { State::Held };
                    (tag.handle, tag.epoch) = (Some(handle), epoch);
                    let then = if copying { Then::Stays } else { Then::Nothing };
                    *item = Some(Item { handle, then });
                    if copying {
                        room -= u64::from(LENGTH);
                    }
                }
            }
        }
        if items[0].is_some() || woken {
            self.announce();
        }
        self.threads[thread] = if items[0].is_some() {
            let copies = items.iter().flatten().any(|item| item.then != Then::Nothing);
            let stage = if copies { Stage::Copies } else { Stage::Writes };
            Thread::Works(Job { epoch, delivers: true, stage, items })
        } else {
            Thread::Idle
        };
    }

    fn job(&self, thread: usize) -> Job {
        let Thread::Works(job) = self.threads[thread] else { panic!("{:?}", self.threads[thread]) };
        job
    }

    /// Ends the copies of a thread. The server keeps the requests, or they succeed, as `then` says; requests
    /// that failed meanwhile are lost.
    fn end_copies(&mut self, job: &mut Job, then: impl Fn(Then) -> Then) {
        for place in &mut job.items {
            let Some(Item { handle, then: is }) = *place else { continue };
            let what = then(is);
            let tag = handle.tag();
            let doomed = self.tag(handle).is_some_and(|tag| tag.state == State::Doomed);
            let end = match what {
                Then::Nothing => continue,
                Then::Stays => self.queue().copied(handle).end(),
                Then::Ends => self.queue().answered(handle),
            };
            if doomed {
                self.end(end, tag, Err(Errno::EIO));
                *place = None;
            } else if what == Then::Ends {
                self.end(end, tag, Ok(()));
                *place = None;
            } else {
                assert_eq!(end, None);
                let dead = job.epoch < self.oldest;
                let tag = self.tag(handle).expect("who copies keeps it");
                assert_eq!(tag.state, State::Copying);
                tag.state = State::Held;
                if dead {
                    self.take_back_tag(handle.tag());
                }
            }
        }
        if self.sent_away(job.epoch) {
            self.announce();
        }
    }

    /// HELD back to QUEUED, maybe executed.
    fn take_back_tag(&mut self, number: u16) {
        let tag = &mut self.tags[usize::from(number)];
        assert_eq!(tag.state, State::Held);
        tag.state = State::Queued;
        tag.request.flags |= MAYBE_EXECUTED;
        self.fifo.push_first(u8::try_from(number).unwrap());
    }

    /// Pins the requests to be copied; requests that the server no longer holds are lost.
    fn pin(&mut self, job: &mut Job) {
        for place in &mut job.items {
            let Some(Item { handle, then }) = *place else { continue };
            if then == Then::Nothing {
                continue;
            }
            let held = self.is_held(handle);
            assert_eq!(self.queue().pin(handle), if held { Ok(()) } else { Err(Refused::Stale) });
            if let (true, Some(tag)) = (held, self.tag(handle)) {
                tag.state = State::Copying;
            } else {
                *place = None;
            }
        }
    }

    /// Continues the job, or ends it.
    fn go_on(&mut self, thread: usize, mut job: Job) {
        let copies = job.items.iter().flatten().any(|item| item.then != Then::Nothing);
        job.stage = if copies { Stage::Copies } else { Stage::Writes };
        self.threads[thread] = if copies || job.delivers { Thread::Works(job) } else { Thread::Idle };
    }

    /// Requeues the requests that the server cannot be given, in order.
    fn take_back(&mut self, thread: usize) {
        for item in self.job(thread).items.into_iter().rev().flatten() {
            let held = self.is_held(item.handle);
            if let (true, Some(tag)) = (held, self.tag(item.handle)) {
                tag.state = State::Queued;
                self.fifo.push_first(u8::try_from(item.handle.tag()).unwrap());
            }
            let wake = self.queue().unfetch(item.handle);
            if held { self.wake(wake) } else { assert_eq!(wake, Wake::NONE) }
        }
        self.threads[thread] = Thread::Idle;
    }

    /// An answer without a copy, to a request that is HELD.
    fn finish(&mut self, tag: u16) {
        let Tag { handle, request, .. } = self.tags[usize::from(tag)];
        let handle = handle.expect("fetched");
        let mut copy = *self;
        if self.version == Version::One {
            assert_eq!(self.queue().handle_of(handle.op_id()), Some(handle));
            let Ok(Answer::End(failed)) = copy.queue().answer(handle, request.op, false) else {
                panic!("refused")
            };
            assert_eq!((failed.tag(), failed.result()), (tag, Err(Errno::EIO)));
            if request.op == Op::Read {
                *self = Self { state: copy.state, slots: copy.slots, ..*self };
                self.end(Some(failed), tag, Err(Errno::EIO));
            } else {
                let Ok(Answer::End(end)) = self.queue().answer(handle, request.op, true) else {
                    panic!("refused")
                };
                self.end(Some(end), tag, Ok(()));
            }
            return;
        }
        assert_eq!(self.queue().answered_by(handle).map(|held| *held.request()), Ok(request));
        let failed = copy.queue().finish(handle, Err(Errno::ENOSPC));
        assert_eq!(failed, Ok(effect::end(tag, Err(Errno::ENOSPC))));
        let end = self.queue().finish(handle, Ok(()));
        self.end(end.ok(), tag, Ok(()));
    }

    fn commit(&mut self, thread: usize, then: [Then; TAGS]) {
        let mut items = [None; 2];
        let mut epoch = 0;
        let mut places = items.iter_mut();
        for (tag, then) in self.tags.iter().zip(then) {
            if then != Then::Nothing {
                let handle = tag.handle.expect("fetched");
                epoch = tag.epoch;
                *places.next().expect("room") = Some(Item { handle, then });
            }
        }
        let mut job = Job { epoch, delivers: false, stage: Stage::Copies, items };
        if self.version == Version::One {
            let handle = items[0].expect("one").handle;
            let tag = &mut self.tags[usize::from(handle.tag())];
            tag.state = State::Copying;
            let request = tag.request;
            assert_eq!(self.queue().handle_of(handle.op_id()), Some(handle));
            assert_eq!(self.queue().answer(handle, Op::Read, true), Ok(Answer::CopyIn(handle, request)));
        } else {
            for item in items.iter().flatten() {
                let request = self.tags[usize::from(item.handle.tag())].request;
                assert_eq!(self.queue().answered_by(item.handle).map(|held| *held.request()), Ok(request));
            }
            self.pin(&mut job);
            assert_eq!(job.items, items);
        }
        self.threads[thread] = Thread::Works(job);
    }

    /// The last close of a descriptor: the server's requests are requeued.
    fn close(&mut self, epoch: u32) {
        if self.older == Some(epoch) {
            self.older = None;
        } else {
            self.newest = false;
        }
        let mut taken = self.take_back_all(|old| old == epoch);
        let wake = self.queue().requeue(epoch, |tag| assert_eq!(taken.pop_first(), u8::try_from(tag).ok()));
        assert_eq!(taken.count, 0);
        self.wake(wake);
        self.locked = Locked::Detach(epoch);
    }

    /// Requeues requests of servers, from the last tag on; returns the tags in that order.
    fn take_back_all(&mut self, wanted: impl Fn(u32) -> bool) -> Few {
        let mut taken = Few::default();
        for number in (0..2).rev() {
            let tag = self.tags[usize::from(number)];
            if tag.state == State::Held && wanted(tag.epoch) {
                self.take_back_tag(number);
                taken.push(u8::try_from(number).unwrap());
            }
        }
        taken
    }

    /// A server is declared dead: its requests are requeued, and its threads are sent away.
    fn bury(&mut self, epoch: u32) {
        self.oldest = epoch + 1;
        let mut taken = self.take_back_all(|old| old <= epoch);
        let each = |tag| assert_eq!(taken.pop_first(), u8::try_from(tag).ok());
        self.queue().declare_dead(epoch, each);
        assert_eq!(taken.count, 0);
        if self.sent_away(self.life.epoch()) {
            self.waking = 0;
        }
        self.wake_all();
        self.locked = Locked::Bury(epoch);
    }

    /// Tells the life of the device of a server's death.
    fn detach(&mut self, epoch: u32, closed: bool) {
        let served = epoch == self.life.epoch() && self.serving;
        self.serving &= !served;
        let wanted = match self.phase() {
            _ if !served => Change::None,
            Phase::Live if self.life.started() && self.terms.grace_ms > 0 => {
                Change::Grace(self.terms.grace_ms)
            }
            Phase::Live if !self.life.started() || self.terms.auto_destroy => Change::Destroy,
            Phase::Live | Phase::Draining => Change::Fail,
            Phase::Failing | Phase::Gone => Change::None,
            phase => panic!("{phase:?}, and served"),
        };
        let change = if closed { self.life.detach(epoch, 0) } else { self.life.declare_dead(epoch, 0) };
        assert_eq!(change, wanted);
        self.carry_out(change);
    }

    fn fail_next(&mut self, from: u16) {
        let mut end = self.queue().fail_next(from);
        let mut next = None;
        for number in from..2 {
            let tag = &mut self.tags[usize::from(number)];
            match tag.state {
                State::Free | State::Doomed => {}
                State::Copying => tag.state = State::Doomed,
                State::Queued | State::Held => {
                    next = Some(number + 1);
                    self.end(end.take(), number, Err(Errno::EIO));
                    break;
                }
            }
        }
        assert_eq!(end, None);
        self.locked = next.map_or(Locked::No, Locked::Fail);
    }

    fn attach(&mut self) {
        let epoch = self.life.epoch();
        assert_eq!(self.life.attach(self.serving), Ok(epoch + 1));
        if self.newest {
            self.older = Some(epoch);
        }
        (self.newest, self.serving) = (true, true);
        let phase = self.phase();
        assert_eq!(phase, Phase::Live);
        self.queue().set_phase(phase);
        self.queue().attach(epoch + 1);
        self.waking = 0;
        self.wake_all();
    }

    fn expire(&mut self, number: u16, policy: Policy) {
        let (newest, phase) = (self.life.epoch(), self.phase());
        let overdue = self.queue().expire(number, Deadline { policy, ns: 0 });
        let Tag { state, epoch, .. } = self.tags[usize::from(number)];
        match (policy, state) {
            (Policy::Fail, State::Copying) => {
                assert_eq!(overdue, Overdue::Doomed);
                self.tags[usize::from(number)].state = State::Doomed;
            }
            (Policy::Fail, _) => {
                let Overdue::End(end) = overdue else { panic!("{overdue:?}") };
                self.end(Some(end), number, Err(Errno::EIO));
            }
            (Policy::Requeue, State::Held) => {
                let Overdue::Requeued(wake) = overdue else { panic!("{overdue:?}") };
                self.take_back_tag(number);
                self.wake(wake);
            }
            (Policy::DeclareDead, State::Held | State::Copying) => {
                assert_eq!(overdue, Overdue::ServerDead(epoch));
            }
            (Policy::DeclareDead, _) if phase == Phase::Live && newest >= self.oldest => {
                assert_eq!(overdue, Overdue::ServerDead(newest));
            }
            (Policy::Requeue | Policy::DeclareDead, _) => assert_eq!(overdue, Overdue::Waits),
        }
    }

    fn apply(&mut self, input: Input) {
        self.take(input);
        // A fetch of all requests needs no announcement.
        self.unannounced &= self.fifo.count > 0;
    }

    #[expect(clippy::too_many_lines, reason = "one arm per input, each a few lines")]
    fn take(&mut self, input: Input) {
        match input {
            Input::Submit { tag, op, last } => {
                let flags = if op == Op::Write { FUA } else { 0 };
                let request = request_of(tag, op, flags);
                let wake = self.queue().submit(tag, request, 0, last);
                let at = &mut self.tags[usize::from(tag)];
                (at.state, at.request) = (State::Queued, request);
                self.fifo.push(u8::try_from(tag).unwrap());
                self.unannounced = !last;
                if last {
                    self.wake(wake.expect("free, and the device takes requests"));
                } else {
                    assert_eq!(wake, Ok(Wake::NONE));
                }
            }
            Input::Announce => {
                self.unannounced = false;
                self.announce();
            }
            Input::Look => self.look(),
            Input::Expire(tag, policy) => self.expire(tag, policy),
            Input::Notify => {
                self.notices += 1;
                let wake = self.queue().notify();
                self.wake(wake);
            }
            Input::Attach => self.attach(),
            Input::Start => {
                assert_eq!(self.life.may_start(), Ok(()));
                self.life.set_started();
            }
            Input::Close(epoch) | Input::Leave(epoch) => self.close(epoch),
            Input::Detach => {
                let Locked::Detach(epoch) = self.locked else { panic!("nobody detaches") };
                self.detach(epoch, true);
            }
            Input::Bury(epoch) => self.bury(epoch),
            Input::Buried => {
                let Locked::Bury(epoch) = self.locked else { panic!("nobody died") };
                self.detach(epoch, false);
            }
            Input::GraceOver => {
                // A grace of an earlier orphaned phase.
                assert_eq!(self.life.grace_over(0), Change::Grace(self.terms.grace_ms));
                let change = self.life.grace_over(self.terms.grace_ms.into());
                assert_eq!(change, if self.terms.auto_destroy { Change::Destroy } else { Change::Fail });
                self.carry_out(change);
            }
            Input::Drain => {
                let answers = self.queue().answers();
                let change = self.life.drain(0, answers, true);
                assert_eq!(change, if self.serving { Change::None } else { Change::Fail });
                self.carry_out(change);
            }
            Input::DrainUnserved => {
                let answers = self.queue().answers();
                let change = self.life.drain(0, answers, false);
                assert_eq!(change, Change::Fail);
                self.carry_out(change);
            }
            Input::GiveUp => {
                let (answers, outstanding) = (self.queue().answers(), self.queue().outstanding());
                let change = self.life.tick(DRAIN_TOTAL_MS, answers, outstanding);
                assert_eq!(change, Change::Fail);
                self.carry_out(change);
            }
            Input::FailNext => {
                let Locked::Fail(from) = self.locked else { panic!("nothing fails") };
                self.fail_next(from);
            }
            Input::Delete => {
                self.life.gone();
                self.carry_out(Change::None);
                self.locked = Locked::Leave;
            }
            Input::SendAway => {
                self.wake_all();
                self.locked = Locked::No;
            }
            Input::Fetch { thread, most, room } => self.fetch(thread, self.life.epoch(), most, room, false),
            Input::Arrive { thread, most, room } => {
                let epoch = self.arrive(thread);
                self.threads[thread] = Thread::Idle;
                self.fetch(thread, epoch, most, room, true);
            }
            Input::ArriveKilled(thread) => {
                self.arrive(thread);
                self.threads[thread] = Thread::Idle;
                self.announce();
            }
            Input::Signal(thread) => {
                self.queue().leave();
                self.sleepers.remove(u8::try_from(thread).unwrap());
                self.threads[thread] = Thread::Idle;
                self.announce();
            }
            Input::Finish { tag, .. } => self.finish(tag),
            Input::Commit { thread, then } => self.commit(thread, then),
            Input::Copied(thread) => {
                let mut job = self.job(thread);
                self.end_copies(&mut job, |then| then);
                job.stage = Stage::Writes;
                self.threads[thread] = if job.delivers { Thread::Works(job) } else { Thread::Idle };
            }
            Input::Fault { thread, item } => {
                let mut job = self.job(thread);
                if !job.delivers {
                    job.items.swap(0, item);
                }
                let unpin = |then| if then == Then::Nothing { then } else { Then::Stays };
                self.end_copies(&mut job, unpin);
                job.stage = Stage::Waits;
                self.threads[thread] = Thread::Works(job);
            }
            Input::FaultServed(thread) => {
                let mut job = self.job(thread);
                self.pin(&mut job);
                self.go_on(thread, job);
            }
            Input::FaultRefused(thread) => {
                let mut job = self.job(thread);
                if job.delivers {
                    self.take_back(thread);
                } else {
                    job.items[0] = None;
                    self.pin(&mut job);
                    self.go_on(thread, job);
                }
            }
            Input::Scattered(thread) => {
                let handle = self.job(thread).items[0].expect("it answers").handle;
                if self.is_held(handle) {
                    self.finish(handle.tag());
                } else {
                    assert_eq!(self.queue().finish(handle, Ok(())), Err(Refused::Stale));
                }
                self.threads[thread] = Thread::Idle;
            }
            Input::Delivered(thread) => self.threads[thread] = Thread::Idle,
            Input::TakeBack(thread) => self.take_back(thread),
        }
    }

    fn check(&self) {
        let mut copy = *self;
        let queue = copy.queue();
        let count = |wanted: fn(&Thread) -> bool| self.threads.iter().filter(|thread| wanted(thread)).count();
        let asleep = count(|thread| matches!(thread, Thread::Asleep(_)));
        let tags = |wanted: fn(&Tag) -> bool| self.tags.iter().filter(|tag| wanted(tag)).count();
        assert_eq!(queue.outstanding() as usize, tags(|tag| tag.state != State::Free), "outstanding");
        assert_eq!(queue.held() as usize, tags(Tag::taken), "held");
        assert_eq!(queue.queued() as usize, tags(|tag| tag.state == State::Queued), "queued");
        assert_eq!(
            (queue.waiting() as usize, queue.waking() as usize),
            (asleep, self.waking.into()),
            "waiting and waking"
        );
        assert_eq!(usize::from(self.sleepers.count), asleep);
        let phase = self.phase();
        assert_eq!(queue.phase(), phase);
        for (slot, tag) in self.slots.iter().zip(&self.tags) {
            assert_eq!(slot.state(), tag.state, "a request is lost, or there twice");
        }
        for thread in self.threads {
            assert!(thread.epoch().is_none_or(|epoch| self.open(epoch)), "the search itself is wrong");
        }
        let work = self.fifo.count > 0 || self.notices > 0;
        if work && !self.unannounced && phase != Phase::Gone {
            assert!(asleep == 0 || self.waking > 0, "a thread sleeps while there is work");
            assert!(asleep == 0 || self.looks, "nobody looks after the wake-ups under way");
        }
        let stays = |thread: &Thread| matches!(thread, Thread::Asleep(old) if self.sent_away(*old));
        assert!(!self.threads.iter().any(stays), "a thread of an older server sleeps on");
        if phase == Phase::Gone && self.locked != Locked::Leave {
            assert_eq!((self.owes(), asleep), (false, 0), "something outlived the device");
        }
        if !phase.takes_requests() && !matches!(self.locked, Locked::Fail(_)) {
            let left = self.tags.iter().all(|tag| matches!(tag.state, State::Free | State::Doomed));
            assert!(left, "not everything was failed");
        }
        if !matches!(self.locked, Locked::Detach(_) | Locked::Bury(_)) {
            let waits = phase.takes_requests() && self.life.started() && !self.serving;
            assert!(!waits || phase == Phase::Orphaned, "requests wait for nobody");
            let served = self.tags.iter().all(|tag| !tag.taken() || self.open(tag.epoch));
            assert!(served, "a request is with a server that is dead");
        }
        let held_by_dead = |tag: &Tag| tag.state == State::Held && tag.epoch < self.oldest;
        assert!(!self.tags.iter().any(held_by_dead), "a request is with a server that was declared dead");
        // Copied requests are pinned or doomed, so their pages stay.
        let mut copied = [0; TAGS];
        for thread in self.threads {
            let Thread::Works(Job { stage: Stage::Copies, items, .. }) = thread else { continue };
            for item in items.iter().flatten().filter(|item| item.then != Then::Nothing) {
                assert_eq!(self.tags[usize::from(item.handle.tag())].handle, Some(item.handle));
                copied[usize::from(item.handle.tag())] += 1;
            }
        }
        let pinned = self.tags.map(|tag| usize::from(matches!(tag.state, State::Copying | State::Doomed)));
        assert_eq!(copied, pinned, "who copies and what is copied");
        self.check_order();
    }

    /// Checks the FIFO's order and contents by emptying a copy of it.
    fn check_order(&self) {
        let mut copy = *self;
        let mut epoch = self.life.epoch();
        if self.phase() == Phase::Gone {
            return;
        }
        if self.sent_away(epoch) {
            epoch += 1;
            copy.queue().attach(epoch);
        }
        for _ in 0..self.notices {
            assert_eq!(copy.queue().fetch(epoch, 0), Work::Notice);
        }
        for tag in self.fifo.list() {
            assert!(copy.queue().has_work(epoch));
            let work = copy.queue().fetch(epoch, 0);
            let Work::Request(fetched) = work else { panic!("{work:?} before the queue's end") };
            assert_eq!(fetched.handle.tag(), u16::from(*tag), "not in the order of age");
            assert_eq!(fetched.request, self.tags[usize::from(*tag)].request);
        }
        assert!(!copy.queue().has_work(epoch));
        assert_eq!(copy.queue().fetch(epoch, 0), Work::Nothing);
    }

    /// Checks that refused calls change nothing.
    fn check_refusals(&self) {
        let mut copy = *self;
        let mut stale = 0;
        for number in 0..3 {
            let tag = self.tags.get(usize::from(number));
            stale += copy.refuse_handles(number, tag);
            let free = tag.is_some_and(|tag| tag.state == State::Free);
            if !free || !self.phase().takes_requests() {
                assert_eq!(copy.queue().submit(number, Request::default(), 0, true), Err(Errno::EIO));
            }
            if tag.is_none_or(|tag| matches!(tag.state, State::Free | State::Doomed)) {
                let doomed = tag.is_some_and(|tag| tag.state == State::Doomed);
                let wanted = if doomed { Overdue::Over } else { Overdue::NotHere };
                for policy in [Policy::Fail, Policy::Requeue, Policy::DeclareDead] {
                    assert_eq!(copy.queue().expire(number, Deadline { policy, ns: 0 }), wanted);
                }
            }
        }
        assert_eq!(copy.queue().fail_next(2), None);
        if !self.unannounced {
            assert_eq!(copy.queue().announce(), Wake::NONE, "an announcement comes late");
        }
        let goodbye = if self.phase() == Phase::Gone { Work::Gone } else { Work::Superseded };
        for epoch in [self.life.epoch().wrapping_sub(1), self.life.epoch() + 1, u32::MAX] {
            assert!(copy.queue().superseded(epoch) && copy.queue().has_work(epoch));
            assert_eq!(copy.queue().fetch(epoch, u64::MAX), goodbye);
        }
        let newest = self.life.epoch();
        assert_eq!((copy.queue().superseded(newest), copy.queue().is_dead(newest)), {
            let dead = newest < self.oldest;
            (dead, dead)
        });
        if self.phase() == Phase::Gone {
            assert!(copy.queue().has_work(self.life.epoch()));
            assert_eq!(copy.queue().fetch(self.life.epoch(), u64::MAX), Work::Gone);
        }
        copy.refuse_life(self);
        let mut same = *self;
        let nobody = decode_handle(0xffff, 0, TAG_BITS).expect("of epoch 0").1;
        for _ in 0..stale {
            assert_eq!(same.queue().answered_by(nobody).map(|held| *held.request()), Err(Refused::Stale));
        }
        assert_eq!(
            (copy.state, copy.slots, copy.life),
            (same.state, same.slots, same.life),
            "something refused left its mark"
        );
    }

    /// Tries every invalid handle of a tag: over, of another server, invented. Returns how many were counted
    /// as stale.
    fn refuse_handles(&mut self, number: u16, tag: Option<&Tag>) -> u32 {
        let latest = tag.and_then(|tag| tag.handle);
        let raw = latest.map_or(0, encode);
        let generation = u32::try_from(raw >> 16 & 0xffff_ffff).unwrap();
        let epoch = tag.map_or(0, |tag| tag.epoch);
        let newest = self.life.epoch();
        let state = tag.map_or(State::Free, |tag| tag.state);
        let mut refused = 0;
        for generation in [generation.wrapping_sub(1), generation, generation.wrapping_add(1)] {
            for epoch in [epoch, epoch.wrapping_sub(1), epoch + 1, newest, u32::MAX] {
                let raw = u64::from(epoch & 0xffff) << 48 | u64::from(generation) << 16 | u64::from(number);
                let (queue, handle) = decode_handle(raw, epoch, TAG_BITS).expect("of this server");
                assert_eq!((queue, decode_handle(raw, epoch ^ 1, TAG_BITS)), (0, None));
                let live = latest == Some(handle);
                let held = live && state == State::Held;
                if held {
                    let request = tag.expect("held").request;
                    let wrong = if request.op == Op::Read { Op::Write } else { Op::Read };
                    assert_eq!(self.queue().answer(handle, wrong, true), Err(Refused::WrongKind));
                    assert_eq!(self.queue().answer(handle, Op::Flush, false), Err(Refused::WrongKind));
                    assert_eq!(self.queue().answered_by(handle).map(|held| *held.request()), Ok(request));
                } else {
                    refused += 2;
                    assert_eq!(
                        self.queue().answered_by(handle).map(|held| *held.request()),
                        Err(Refused::Stale)
                    );
                    assert_eq!(self.queue().answer(handle, Op::Read, true), Err(Refused::Stale));
                    assert_eq!(self.queue().finish(handle, Ok(())), Err(Refused::Stale));
                    assert_eq!(self.queue().pin(handle), Err(Refused::Stale));
                    assert_eq!(self.queue().unfetch(handle), Wake::NONE);
                }
                if !live || !matches!(state, State::Copying | State::Doomed) {
                    assert_eq!(
                        (self.queue().copied(handle).end(), self.queue().answered(handle)),
                        (None, None)
                    );
                }
                // An `op_id` does not contain the server.
                let named = self.queue().handle_of(handle.op_id());
                let same = latest.is_some_and(|latest| latest.op_id() == handle.op_id());
                assert_eq!(named, if same && state == State::Held { latest } else { None });
            }
        }
        refused
    }

    /// Tries the calls that the device's life does not allow now.
    fn refuse_life(&mut self, before: &Self) {
        let phase = before.phase();
        let life = &mut self.life;
        if !phase.is_there() {
            assert_eq!((life.attach(false), life.attach(true)), (Err(Errno::ENODEV), Err(Errno::ENODEV)));
            assert_eq!(life.may_start(), Err(Errno::ENODEV));
            assert_eq!(life.drain(0, 0, true), Change::None);
            assert_eq!(life.claim_cache(life.epoch()), Err(Errno::ENODEV));
        } else if life.started() {
            assert_eq!(life.may_start(), Err(Errno::EALREADY));
        }
        if phase.is_there() {
            // Of older servers, and of the newest one if it is dead.
            let wanted = Err(Errno::ESHUTDOWN);
            assert_eq!(life.claim_cache(life.epoch().wrapping_sub(1)), wanted);
            assert!(before.serving || life.claim_cache(life.epoch()) == wanted);
        }
        assert!(!life.first_fetch(life.epoch().wrapping_sub(1)));
        let detaching = matches!(before.locked, Locked::Detach(epoch) if epoch == life.epoch());
        if phase.is_there() && before.serving {
            assert_eq!(life.attach(false), Err(Errno::EBUSY));
        }
        if phase != Phase::Orphaned {
            assert_eq!(life.grace_over(u64::MAX), Change::None);
        }
        let mut queue = *before;
        let (answers, outstanding) = (queue.queue().answers(), queue.queue().outstanding());
        let mut other = self.life;
        if phase == Phase::Draining {
            assert_eq!(other.tick(0, answers, outstanding), Change::None);
        } else {
            assert_eq!(other.tick(DRAIN_TOTAL_MS, answers, outstanding), Change::None);
        }
        assert_eq!(other.phase(), phase);
        if before.version == Version::Two {
            let open = u32::from(before.newest || detaching) + u32::from(before.older.is_some());
            let older = matches!(before.locked, Locked::Detach(epoch) if epoch != self.life.epoch());
            assert_eq!(self.life.servers(), open + u32::from(older));
        }
    }
}

/// The states from which a path leads into `goal`, along the steps given as (from, to).
fn reaching(steps: impl Iterator<Item = (u32, u32)> + Clone, goal: &[bool]) -> Vec<bool> {
    // The steps into state n are those from starts[n] up to starts[n + 1].
    let mut starts = vec![0_u32; goal.len() + 2];
    for (_, to) in steps.clone() {
        starts[to as usize + 2] += 1;
    }
    for index in 1..starts.len() {
        starts[index] += starts[index - 1];
    }
    let mut from = vec![0_u32; *starts.last().unwrap() as usize];
    for (before, to) in steps {
        let place = &mut starts[to as usize + 1];
        from[*place as usize] = before;
        *place += 1;
    }
    let mut open: Vec<u32> = (0..).zip(goal).filter_map(|(number, goal)| goal.then_some(number)).collect();
    let mut reaches = goal.to_vec();
    while let Some(number) = open.pop() {
        let (first, end) = (starts[number as usize], starts[number as usize + 1]);
        for before in &from[first as usize..end as usize] {
            if !std::mem::replace(&mut reaches[*before as usize], true) {
                open.push(*before);
            }
        }
    }
    reaches
}

/// How each state was first reached.
#[derive(Default)]
struct Ways(Vec<Option<(u32, Input)>>);

impl Ways {
    fn print(&self, mut state: u32) {
        let mut inputs = Vec::new();
        while let Some((from, input)) = self.0[state as usize] {
            inputs.push(input);
            state = from;
        }
        eprintln!("the way there:");
        for input in inputs.iter().rev() {
            eprintln!("    {input:?}");
        }
    }
}

/// Prints the path to a failing step.
struct Step<'a> {
    ways: &'a Ways,
    number: u32,
    input: Input,
    world: &'a World,
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.ways.print(self.number);
            eprintln!("then {:?} in {:#?}", self.input, self.world);
        }
    }
}

/// Results of the search.
#[derive(Default)]
struct Found {
    edges: HashSet<(State, State)>,
    phases: HashSet<(Phase, Phase)>,
    inputs: HashSet<Discriminant<Input>>,
}

/// Properties of each state, by number.
#[derive(Default)]
struct Facts {
    /// No submitter waits for an end.
    rests: Vec<bool>,
    /// No request waits for a server.
    taken: Vec<bool>,
    /// The device is gone.
    gone: Vec<bool>,
    /// Servers get requests.
    served: Vec<bool>,
}

impl Facts {
    fn push(&mut self, world: &World) {
        let phase = world.phase();
        self.rests.push(!world.owes());
        self.taken.push(world.fifo.count == 0);
        self.gone.push(phase == Phase::Gone && world.locked == Locked::No);
        self.served.push(phase.is_there() || phase == Phase::Draining && world.serving);
    }
}

/// Kinds of inputs.
const ANY: u8 = 1;
const OWN: u8 = 2;
const SERVES: u8 = 4;
const SIGNAL: u8 = 8;

const fn kinds(input: Input) -> u8 {
    let own = if input.comes_of_itself() { OWN } else { 0 };
    let serves = if input.serves() { SERVES } else { 0 };
    ANY | own | serves | if matches!(input, Input::Signal(_)) { SIGNAL } else { 0 }
}

fn search(name: &str, roots: &[World]) -> Found {
    let mut found = Found::default();
    let (mut numbers, mut ways, mut worlds) = (HashMap::new(), Ways::default(), VecDeque::new());
    let (mut steps, mut inputs, mut facts) = (Vec::new(), Vec::new(), Facts::default());
    let mut see = |world: &World, way, ways: &mut Ways, worlds: &mut VecDeque<(u32, World)>| {
        let next = u32::try_from(numbers.len()).expect("few enough states");
        let number = *numbers.entry(world.key()).or_insert(next);
        if number == next {
            ways.0.push(way);
            world.check_refusals();
            facts.push(world);
            worlds.push_back((number, *world));
        }
        number
    };
    for root in roots {
        root.check();
        see(root, None, &mut ways, &mut worlds);
    }
    while let Some((number, world)) = worlds.pop_front() {
        world.inputs(&mut inputs);
        for &input in &inputs {
            let mut next = world;
            let step = Step { ways: &ways, number, input, world: &world };
            next.apply(input);
            next.check();
            drop(step);
            let before = world.slots.iter().map(Slot::state);
            let after = next.slots.iter().map(Slot::state);
            found.edges.extend(before.zip(after).filter(|(before, after)| before != after));
            if world.phase() != next.phase() {
                found.phases.insert((world.phase(), next.phase()));
            }
            let target = see(&next, Some((number, input)), &mut ways, &mut worlds);
            steps.push((number, target, kinds(input)));
            found.inputs.insert(discriminant(&input));
        }
    }
    println!("{name}: {} states, {} transitions", ways.0.len(), steps.len());
    let reach = |kinds: u8, goal: &[bool], from: &[bool], what: &str| {
        let steps = steps.iter().filter(move |step| step.2 & kinds != 0);
        let reaches = reaching(steps.map(|(from, to, _)| (*from, *to)), goal);
        if let Some(stuck) = (0..reaches.len()).find(|state| from[*state] && !reaches[*state]) {
            ways.print(u32::try_from(stuck).unwrap());
            panic!("no way to {what}");
        }
    };
    let all = vec![true; ways.0.len()];
    reach(ANY, &facts.rests, &all, "a state in which nobody waits for an end");
    reach(OWN, &facts.gone, &all, "the device's end without submitters and servers");
    reach(SERVES, &facts.taken, &facts.served, "a state in which servers have every request");
    reach(SERVES | SIGNAL, &facts.rests, &facts.served, "the end of every request by servers");
    found
}

#[test]
fn version_1_keeps_the_promises() {
    let found = search("version 1", &[World::new(Version::One, Terms::default())]);
    let mut edges: HashSet<_> = request::EDGES.iter().copied().collect();
    // Its servers are unknown, so none can be declared dead.
    edges.remove(&(State::Copying, State::Queued));
    assert_eq!(found.edges, edges, "edges of a request");
    assert_eq!(found.inputs.len(), INPUTS - 9, "all but those of servers and of pieces");
    let phases = [
        (Phase::Live, Phase::Draining),
        (Phase::Live, Phase::Failing),
        (Phase::Draining, Phase::Failing),
        (Phase::Draining, Phase::Gone),
        (Phase::Failing, Phase::Gone),
    ];
    assert_eq!(found.phases, phases.into(), "edges of a device");
}

#[test]
fn version_2_keeps_the_promises() {
    let patient = Terms { attached: true, grace_ms: GRACE_MS, auto_destroy: false };
    let hasty = Terms { attached: true, grace_ms: 0, auto_destroy: true };
    let found = search("version 2", &[patient, hasty].map(|terms| World::new(Version::Two, terms)));
    assert_eq!(found.inputs.len(), INPUTS - 1, "all but notices");
    // Exactly the drawings in the engine's documentation.
    assert_eq!(found.edges, request::EDGES.iter().copied().collect(), "edges of a request");
    assert_eq!(found.phases, device::EDGES.iter().copied().collect(), "edges of a device");
}
