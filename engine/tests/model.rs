// SPDX-License-Identifier: GPL-2.0-only
//! Random sequences of every call, for many servers, against a naive model with whole lists instead of links
//! and counts. A failure prints the shortest sequence found, and the seed with which `PROPTEST_RNG_SEED`
//! repeats the run.

mod effect;

use std::hash::{BuildHasher, RandomState};
use std::ops::RangeBounds;

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};
use zosbd2_engine::Errno;
use zosbd2_engine::device::{Phase, Policy};
use zosbd2_engine::queue::{
    Answer, Counters, Deadline, End, Fetched, MOST_ROOM, MOST_WAKES, Overdue, Queue, QueueState, Refused,
    Wake, Work,
};
use zosbd2_engine::request::{self, FUA, Handle, MAYBE_EXECUTED, NO_UNMAP, Op, Request, Slot, State};
use zosbd2_engine::v2::{Handles, decode_handle, tag_bits};

/// Number of the queue in the device.
const QUEUE: u32 = 5;
const BLOCK: u32 = 512;

#[derive(Clone, Copy, Debug)]
enum Call {
    Submit {
        tag: u16,
        op: Op,
        flags: u8,
        blocks: u32,
        last: bool,
    },
    Announce,
    /// A fetch by the server this many epochs before the newest: a batch of at most this many requests, with
    /// room for the data of this many blocks.
    Fetch {
        before: u32,
        most: usize,
        blocks: u64,
    },
    Arrive(u32),
    Look,
    Leave,
    Notify,
    /// Calls with a handle take that of the nth last fetch of the run, current or stale.
    Answer {
        nth: usize,
        op: Op,
        ok: bool,
    },
    /// An invented `op_id`: this tag, and this number of a tenure.
    Invent {
        tag: u32,
        number: u32,
        op: Op,
    },
    /// The same for version 2, by the server of an epoch, which writes another epoch into the handle.
    InventHandle {
        tag: u32,
        number: u32,
        epoch: u32,
        written: u32,
    },
    Finish {
        nth: usize,
        result: Result<(), Errno>,
    },
    Pin(usize),
    Copied(usize),
    Answered(usize),
    Unfetch(usize),
    Expire(u16, Policy),
    FailNext(u16),
    Phase(Phase),
    WakeAll,
    /// Another server takes over, as in the glue.
    TakeOver,
    /// The server this many epochs before the newest dies.
    Requeue(u32),
    /// That server is declared dead.
    Bury(u32),
}

/// A number that supplies the choices. Proptest's own combinators are slow, even more so without
/// optimisation.
struct Choices(u128);

impl Choices {
    fn below(&mut self, bound: u32) -> u32 {
        let choice = self.0 % u128::from(bound);
        self.0 /= u128::from(bound);
        u32::try_from(choice).unwrap()
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(u32::try_from(of.len()).unwrap()) as usize]
    }

    fn yes(&mut self) -> bool {
        self.below(2) == 1
    }

    fn op(&mut self) -> Op {
        // Most are operations with data.
        let number = self.one_of(&[1, 1, 1, 0, 0, 2, 3, 4, 5]);
        Op::from_number(number).expect("an operation")
    }

    fn tag(&mut self) -> u16 {
        u16::try_from(self.below(9)).unwrap()
    }

    /// Number of fetches before the latest one; small numbers may be current.
    fn nth(&mut self) -> usize {
        let most = self.one_of(&[8, 8, 8, 200]);
        self.below(most) as usize
    }

    /// Number of epochs before the newest.
    fn before(&mut self) -> u32 {
        self.one_of(&[0, 0, 0, 0, 0, 0, 1, 2, u32::MAX])
    }

    /// Number of a tenure.
    fn number(&mut self) -> u32 {
        let small = self.below(8);
        if self.yes() { small } else { self.below(u32::MAX) }
    }

    fn epoch(&mut self) -> u32 {
        let small = self.below(5);
        small + self.one_of(&[0, 0, 0, 65_536])
    }
}

/// The call for a number; some calls are more frequent than others.
fn call(number: u128) -> Call {
    let mut choices = Choices(number);
    let choices = &mut choices;
    match choices.below(60) {
        0..10 => Call::Submit {
            tag: choices.tag(),
            op: choices.op(),
            flags: choices.one_of(&[0, FUA, NO_UNMAP]),
            blocks: choices.below(4),
            last: choices.yes(),
        },
        10..18 => Call::Fetch {
            before: choices.before(),
            most: 1 + choices.below(4) as usize,
            blocks: choices.one_of(&[0, 1, 2, 3, 5, 7, u64::MAX / u64::from(BLOCK)]),
        },
        18..24 => Call::Answer { nth: choices.nth(), op: choices.op(), ok: choices.yes() },
        24..26 => {
            let tags = choices.one_of(&[10, 10, 10, 1024]);
            Call::Invent { tag: choices.below(tags), number: choices.number(), op: choices.op() }
        }
        26..29 => Call::InventHandle {
            tag: choices.below(20),
            number: choices.number(),
            epoch: choices.epoch(),
            written: choices.epoch(),
        },
        29..33 => Call::Finish {
            nth: choices.nth(),
            result: choices.one_of(&[Ok(()), Ok(()), Err(Errno::EIO), Err(Errno::ENOSPC)]),
        },
        33..36 => Call::Pin(choices.nth()),
        36..39 => Call::Copied(choices.nth()),
        39..42 => Call::Answered(choices.nth()),
        42..44 => Call::Unfetch(choices.nth()),
        44 => {
            let tag = choices.tag();
            Call::Expire(tag, choices.one_of(&[Policy::Fail, Policy::Requeue, Policy::DeclareDead]))
        }
        45 => Call::FailNext(choices.tag()),
        46..48 => Call::Phase(choices.one_of(&PHASES)),
        48..50 => Call::Arrive(choices.one_of(&[0, 0, 0, 1])),
        50 => Call::Look,
        51 => Call::Leave,
        52 => Call::Notify,
        53 => Call::WakeAll,
        54..56 => Call::TakeOver,
        56..58 => Call::Requeue(choices.before()),
        58 => Call::Bury(choices.one_of(&[0, 1, 1, 1, 2])),
        _ => Call::Announce,
    }
}

/// Phases that accept requests are more frequent.
const PHASES: [Phase; 12] = [
    Phase::Live,
    Phase::Live,
    Phase::Live,
    Phase::Live,
    Phase::Live,
    Phase::Draining,
    Phase::Draining,
    Phase::Orphaned,
    Phase::Orphaned,
    Phase::Failed,
    Phase::Failing,
    Phase::Gone,
];

/// A tenure of a request: its tag, the number of the tenure, and its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tenure {
    tag: usize,
    number: usize,
    epoch: u32,
}

#[derive(Debug)]
struct Model {
    states: Vec<State>,
    requests: Vec<Request>,
    /// Number of tenures of the tag's requests, and server of the latest.
    tenures: Vec<usize>,
    epochs: Vec<u32>,
    fifo: Vec<usize>,
    asleep: u32,
    waking: u32,
    room: u32,
    looks: bool,
    /// Arrivals since a check was requested.
    arrivals: u32,
    notices: u32,
    phase: Phase,
    epoch: u32,
    /// The newest server that was declared dead, plus one.
    oldest: u32,
    answers: u64,
    counters: Counters,
}

impl Model {
    fn new(depth: usize) -> Self {
        Self {
            states: vec![State::Free; depth],
            requests: vec![Request::default(); depth],
            tenures: vec![0; depth],
            epochs: vec![0; depth],
            fifo: Vec::new(),
            asleep: 0,
            waking: 0,
            room: 1,
            looks: false,
            arrivals: 0,
            notices: 0,
            phase: Phase::Live,
            epoch: 0,
            oldest: 0,
            answers: 0,
            counters: Counters::default(),
        }
    }

    fn announce(&mut self) -> Wake {
        let work = u32::try_from(self.fifo.len()).unwrap() + self.notices;
        if work == 0 || self.asleep == 0 {
            return Wake::NONE;
        }
        let missing = work.saturating_sub(self.waking * self.room);
        let servers = missing.div_ceil(self.room).min(self.asleep).min(MOST_WAKES);
        self.asleep -= servers;
        self.waking += servers;
        self.counters.wakeups += u64::from(servers);
        let look = self.asleep > 0 && !self.looks;
        if look {
            (self.looks, self.arrivals) = (true, 0);
        }
        Wake { servers, look }
    }

    fn is(&self, tenure: Tenure, states: &[State]) -> bool {
        let Tenure { tag, number, epoch } = tenure;
        self.tenures[tag] == number && self.epochs[tag] == epoch && states.contains(&self.states[tag])
    }

    fn fetch(&mut self, tag: usize, copying: bool) -> Tenure {
        self.states[tag] = if copying { State::Copying } else { State::Held };
        self.tenures[tag] += 1;
        self.epochs[tag] = self.epoch;
        self.counters.fetched[self.requests[tag].op as usize] += 1;
        Tenure { tag, number: self.tenures[tag], epoch: self.epoch }
    }

    fn fail(&mut self, tag: usize) -> Option<End> {
        match self.states.get(tag)? {
            State::Queued | State::Held => {
                self.fifo.retain(|queued| *queued != tag);
                self.states[tag] = State::Free;
                Some(effect::end(u16::try_from(tag).unwrap(), Err(Errno::EIO)))
            }
            State::Copying => {
                self.states[tag] = State::Doomed;
                None
            }
            State::Free | State::Doomed => None,
        }
    }

    fn expire(&mut self, tag: usize, policy: Policy) -> Overdue {
        let Some(state @ (State::Queued | State::Held | State::Copying)) = self.states.get(tag).copied()
        else {
            let doomed = self.states.get(tag) == Some(&State::Doomed);
            return if doomed { Overdue::Over } else { Overdue::NotHere };
        };
        self.counters.expired += 1;
        let waits = state == State::Queued;
        match policy {
            Policy::Fail => self.fail(tag).map_or(Overdue::Doomed, Overdue::End),
            Policy::Requeue if state == State::Held => {
                self.take_back(tag);
                Overdue::Requeued(self.announce())
            }
            Policy::DeclareDead if !waits => Overdue::ServerDead(self.epochs[tag]),
            Policy::DeclareDead if self.phase == Phase::Live && self.epoch >= self.oldest => {
                Overdue::ServerDead(self.epoch)
            }
            Policy::Requeue | Policy::DeclareDead => Overdue::Waits,
        }
    }

    fn take_back(&mut self, tag: usize) {
        self.states[tag] = State::Queued;
        self.requests[tag].flags |= MAYBE_EXECUTED;
        self.counters.requeued += 1;
        self.fifo.insert(0, tag);
    }

    /// The server's answer ends the request.
    fn answer(&mut self, tag: usize, result: Result<(), Errno>) -> End {
        let Request { op, length, .. } = self.requests[tag];
        self.answers += 1;
        if result.is_ok() {
            self.counters.committed[op as usize] += 1;
            self.counters.bytes[op as usize] += u64::from(length);
        } else {
            self.counters.failed += 1;
        }
        self.free(tag, result)
    }

    fn free(&mut self, tag: usize, result: Result<(), Errno>) -> End {
        self.states[tag] = State::Free;
        effect::end(u16::try_from(tag).unwrap(), result)
    }

    /// Requeues the requests that the servers of these epochs hold; returns the tags, the oldest first.
    fn take_back_all(&mut self, epochs: impl RangeBounds<u32>) -> Vec<usize> {
        let wanted = |tag: &usize| self.states[*tag] == State::Held && epochs.contains(&self.epochs[*tag]);
        let taken: Vec<usize> = (0..self.states.len()).filter(wanted).collect();
        taken.iter().rev().for_each(|tag| self.take_back(*tag));
        taken
    }
}

/// The engine's queue, the model, and the servers' knowledge.
struct Run {
    state: QueueState,
    slots: Vec<Slot>,
    model: Model,
    fetched: Vec<(Handle, Tenure)>,
}

impl Run {
    fn new(depth: usize) -> Self {
        let slots = vec![Slot::default(); depth];
        Self { state: QueueState::default(), slots, model: Model::new(depth), fetched: Vec::new() }
    }

    fn queue(&mut self) -> Queue<'_> {
        Queue::new(&mut self.state, &mut self.slots)
    }

    fn named(&self, nth: usize) -> Option<(Handle, Tenure)> {
        self.fetched.iter().rev().cycle().nth(nth).copied()
    }

    fn bits(&self) -> u32 {
        tag_bits(u32::try_from(self.slots.len()).unwrap())
    }

    fn submit(&mut self, tag: u16, request: Request, last: bool) -> Result<(), TestCaseError> {
        let at = usize::from(tag);
        let model = &mut self.model;
        let free = model.states.get(at) == Some(&State::Free);
        let takes = matches!(model.phase, Phase::Live | Phase::Orphaned | Phase::Draining);
        let wanted = if free && takes {
            model.states[at] = State::Queued;
            model.requests[at] = request;
            model.fifo.push(at);
            Ok(if last { model.announce() } else { Wake::NONE })
        } else {
            Err(Errno::EIO)
        };
        prop_assert_eq!(self.queue().submit(tag, request, 0, last), wanted);
        Ok(())
    }

    fn fetch(&mut self, epoch: u32, most: usize, mut room: u64) -> Result<(), TestCaseError> {
        let gone = self.model.phase == Phase::Gone;
        let superseded = !gone && (epoch != self.model.epoch || epoch < self.model.oldest);
        for nth in 0..most {
            let work = self.queue().fetch(epoch, room);
            let model = &mut self.model;
            match work {
                Work::Gone => prop_assert!(gone),
                Work::Superseded => prop_assert!(superseded),
                Work::Notice => {
                    prop_assert!(!gone && !superseded && model.notices > 0);
                    model.notices -= 1;
                    continue;
                }
                Work::Nothing => {
                    prop_assert!(!gone && !superseded && model.fifo.is_empty() && model.notices == 0);
                    if nth == 0 {
                        let room = u32::try_from(most).unwrap();
                        self.queue().wait(room);
                        self.model.room = room.clamp(1, MOST_ROOM);
                        self.model.asleep += 1;
                        self.model.counters.sleeps += 1;
                    }
                }
                Work::Request(Fetched { handle, request, copying }) => {
                    prop_assert!(!gone && !superseded && model.notices == 0 && !model.fifo.is_empty());
                    let tag = model.fifo.remove(0);
                    prop_assert_eq!(usize::from(handle.tag()), tag);
                    prop_assert_eq!(request, model.requests[tag]);
                    let fits = request.op == Op::Write && u64::from(request.length) <= room;
                    prop_assert_eq!(copying, fits);
                    room -= if fits { request.length.into() } else { 0 };
                    let tenure = model.fetch(tag, fits);
                    self.note(handle, tenure)?;
                    continue;
                }
            }
            break;
        }
        let wake = self.model.announce();
        prop_assert_eq!(self.queue().announce(), wake);
        Ok(())
    }

    /// Checks that a handle is new, and valid for its own server but not for another.
    fn note(&mut self, handle: Handle, tenure: Tenure) -> Result<(), TestCaseError> {
        prop_assert!(self.fetched.iter().all(|(other, _)| *other != handle), "used again");
        let bits = self.bits();
        let raw = Handles::new(tenure.epoch, QUEUE, bits).encode(handle);
        prop_assert_eq!(decode_handle(raw, tenure.epoch, bits), Some((QUEUE, handle)));
        prop_assert_eq!(decode_handle(raw, tenure.epoch + 1, bits), None);
        self.fetched.push((handle, tenure));
        Ok(())
    }

    fn answer(&mut self, (handle, tenure): (Handle, Tenure), op: Op, ok: bool) -> Result<(), TestCaseError> {
        let held = self.model.is(tenure, &[State::Held]);
        // An `op_id` does not contain the server.
        let by_id = self.queue().handle_of(handle.op_id());
        prop_assert_eq!(by_id, held.then_some(handle));
        let answer = self.queue().answer(handle, op, ok);
        let model = &mut self.model;
        let wanted = if !held {
            model.counters.stale += 1;
            Err(Refused::Stale)
        } else if model.requests[tenure.tag].op != op {
            Err(Refused::WrongKind)
        } else if ok && op == Op::Read {
            model.states[tenure.tag] = State::Copying;
            Ok(Answer::CopyIn(handle, model.requests[tenure.tag]))
        } else {
            Ok(Answer::End(model.answer(tenure.tag, if ok { Ok(()) } else { Err(Errno::EIO) })))
        };
        prop_assert_eq!(answer, wanted);
        Ok(())
    }

    fn invent(&mut self, tag: u32, number: u32, op: Op) -> Result<(), TestCaseError> {
        let op_id = number << request::OP_ID_TAG_BITS | tag;
        let tag = tag as usize;
        // An `op_id` has no room for the top bits of the generation.
        let named = self.model.tenures.get(tag).is_some_and(|last| *last == number as usize & 0x3f_ffff);
        let held = named && self.model.states[tag] == State::Held;
        let found = self.queue().handle_of(op_id);
        prop_assert_eq!(found.map(Handle::op_id), held.then_some(op_id));
        if let Some(handle) = found {
            let tenure = Tenure { tag, number: self.model.tenures[tag], epoch: self.model.epochs[tag] };
            self.answer((handle, tenure), op, false)?;
        }
        Ok(())
    }

    fn invent_handle(
        &mut self,
        tag: u32,
        number: u32,
        epoch: u32,
        written: u32,
    ) -> Result<(), TestCaseError> {
        let bits = self.bits();
        let raw = u64::from(written & 0xffff) << 48 | u64::from(number) << 16 | u64::from(tag);
        let decoded = decode_handle(raw, epoch, bits);
        prop_assert_eq!(decoded.is_some(), epoch & 0xffff == written & 0xffff);
        let Some((queue, handle)) = decoded else { return Ok(()) };
        prop_assert_eq!(queue, tag >> bits);
        let tag = tag as usize & ((1 << bits) - 1);
        prop_assert_eq!(usize::from(handle.tag()), tag);
        let tenure = Tenure { tag, number: number as usize, epoch };
        let held = tag < self.slots.len() && self.model.is(tenure, &[State::Held]);
        let wanted = held.then(|| self.model.requests[tag]).ok_or(Refused::Stale);
        prop_assert_eq!(self.queue().answered_by(handle).map(|held| *held.request()), wanted);
        if !held {
            self.model.counters.stale += 1;
        }
        let wanted = if held { Ok(self.model.answer(tag, Ok(()))) } else { Err(Refused::Stale) };
        prop_assert_eq!(self.queue().finish(handle, Ok(())), wanted);
        Ok(())
    }

    /// `copied`, or `answered`.
    fn copy_over(&mut self, nth: usize, answered: bool) -> Result<(), TestCaseError> {
        let Some((handle, tenure)) = self.named(nth) else { return Ok(()) };
        let mut queue = self.queue();
        let end = if answered { queue.answered(handle) } else { queue.copied(handle).end() };
        let model = &mut self.model;
        let copies = model.is(tenure, &[State::Copying, State::Doomed]);
        let doomed = model.states[tenure.tag] == State::Doomed;
        let wanted = match (copies, doomed, answered) {
            (false, ..) => None,
            (true, true, _) => Some(model.free(tenure.tag, Err(Errno::EIO))),
            (true, false, true) => Some(model.answer(tenure.tag, Ok(()))),
            (true, false, false) => {
                model.states[tenure.tag] = State::Held;
                if tenure.epoch < model.oldest {
                    model.take_back(tenure.tag);
                }
                None
            }
        };
        prop_assert_eq!(end, wanted);
        Ok(())
    }

    fn call(&mut self, call: Call) -> Result<(), TestCaseError> {
        let newest = self.model.epoch;
        match call {
            Call::Submit { tag, op, flags, blocks, last } => {
                let request = Request { op, flags, offset: u64::from(tag), length: blocks * BLOCK };
                self.submit(tag, request, last)?;
            }
            Call::Announce => {
                let wanted = self.model.announce();
                prop_assert_eq!(self.queue().announce(), wanted);
            }
            Call::Fetch { before, most, blocks } => {
                self.fetch(newest.wrapping_sub(before), most, blocks * u64::from(BLOCK))?;
            }
            Call::Arrive(before) => self.arrive(newest.wrapping_sub(before)),
            Call::Look => self.look()?,
            Call::Leave => {
                self.queue().leave();
                self.model.asleep = self.model.asleep.saturating_sub(1);
            }
            Call::Notify => {
                self.model.notices += 1;
                let wanted = self.model.announce();
                prop_assert_eq!(self.queue().notify(), wanted);
            }
            Call::Answer { nth, op, ok } => {
                if let Some(named) = self.named(nth) {
                    self.answer(named, op, ok)?;
                }
            }
            Call::Invent { tag, number, op } => self.invent(tag, number, op)?,
            Call::InventHandle { tag, number, epoch, written } => {
                self.invent_handle(tag, number, epoch, written)?;
            }
            Call::Finish { nth, result } => {
                let Some((handle, tenure)) = self.named(nth) else { return Ok(()) };
                let held = self.model.is(tenure, &[State::Held]);
                let wanted =
                    if held { Ok(self.model.answer(tenure.tag, result)) } else { Err(Refused::Stale) };
                prop_assert_eq!(self.queue().finish(handle, result), wanted);
            }
            Call::Pin(nth) => {
                let Some((handle, tenure)) = self.named(nth) else { return Ok(()) };
                let held = self.model.is(tenure, &[State::Held]);
                prop_assert_eq!(self.queue().pin(handle), held.then_some(()).ok_or(Refused::Stale));
                if held {
                    self.model.states[tenure.tag] = State::Copying;
                }
            }
            Call::Copied(nth) => self.copy_over(nth, false)?,
            Call::Answered(nth) => self.copy_over(nth, true)?,
            Call::Unfetch(nth) => {
                let Some((handle, tenure)) = self.named(nth) else { return Ok(()) };
                let wanted = if self.model.is(tenure, &[State::Held]) {
                    self.model.states[tenure.tag] = State::Queued;
                    self.model.fifo.insert(0, tenure.tag);
                    self.model.announce()
                } else {
                    Wake::NONE
                };
                prop_assert_eq!(self.queue().unfetch(handle), wanted);
            }
            Call::Expire(tag, policy) => {
                let wanted = self.model.expire(usize::from(tag), policy);
                prop_assert_eq!(self.queue().expire(tag, Deadline { policy, ns: 0 }), wanted);
            }
            Call::FailNext(from) => {
                let depth = self.slots.len();
                let wanted = (usize::from(from)..depth).find_map(|tag| self.model.fail(tag));
                prop_assert_eq!(self.queue().fail_next(from), wanted);
            }
            Call::Phase(phase) => {
                self.queue().set_phase(phase);
                self.model.phase = phase;
            }
            Call::WakeAll => self.wake_all(),
            Call::TakeOver => {
                self.model.epoch += 1;
                self.model.waking = 0;
                self.queue().attach(newest + 1);
                self.wake_all();
            }
            Call::Requeue(before) => {
                let epoch = newest.wrapping_sub(before);
                let wanted = self.model.take_back_all(epoch..=epoch);
                let woken = self.model.announce();
                let mut taken = Vec::new();
                let wake = self.queue().requeue(epoch, |tag| taken.insert(0, usize::from(tag)));
                prop_assert_eq!((wake, taken), (woken, wanted));
            }
            Call::Bury(before) => self.bury(before)?,
        }
        Ok(())
    }

    /// A server is declared dead.
    fn bury(&mut self, before: u32) -> Result<(), TestCaseError> {
        // A server that never existed cannot be late.
        let newest = self.model.epoch;
        let Some(epoch) = newest.checked_sub(before) else { return Ok(()) };
        self.model.oldest = self.model.oldest.max(epoch + 1);
        let wanted = self.model.take_back_all(..=epoch);
        if newest < self.model.oldest {
            self.model.waking = 0;
        }
        let mut taken = Vec::new();
        self.queue().declare_dead(epoch, |tag| taken.insert(0, usize::from(tag)));
        prop_assert_eq!(taken, wanted);
        self.wake_all();
        Ok(())
    }

    /// A thread of the server of `epoch` that was woken is up.
    fn arrive(&mut self, epoch: u32) {
        self.queue().arrive(epoch);
        if epoch == self.model.epoch && epoch >= self.model.oldest {
            self.model.waking = self.model.waking.saturating_sub(1);
            self.model.arrivals += 1;
        }
    }

    /// Somebody looks after the wake-ups under way, asked for or not.
    fn look(&mut self) -> Result<(), TestCaseError> {
        if self.model.arrivals == 0 {
            self.model.counters.overdue += u64::from(self.model.waking);
            self.model.waking = 0;
        }
        self.model.looks = false;
        let wanted = self.model.announce();
        prop_assert_eq!(self.queue().look_after(), wanted);
        Ok(())
    }

    fn wake_all(&mut self) {
        self.queue().wake_all();
        self.model.asleep = 0;
    }

    /// The visible state of the queue equals that of the model.
    fn compare(&mut self) -> Result<(), TestCaseError> {
        let states: Vec<State> = self.slots.iter().map(Slot::state).collect();
        prop_assert_eq!(&states, &self.model.states);
        let queue = Queue::new(&mut self.state, &mut self.slots);
        let model = &self.model;
        let busy = model.states.iter().filter(|state| **state != State::Free).count();
        prop_assert_eq!(queue.outstanding() as usize, busy);
        prop_assert_eq!(queue.queued() as usize, model.fifo.len());
        prop_assert_eq!(queue.held() as usize, busy - model.fifo.len());
        prop_assert_eq!((queue.waiting(), queue.waking()), (model.asleep, model.waking));
        prop_assert_eq!(queue.counters(), &model.counters);
        prop_assert_eq!((queue.answers(), queue.phase()), (model.answers, model.phase));
        let work = !model.fifo.is_empty() || model.notices > 0 || model.phase == Phase::Gone;
        for epoch in [model.epoch, model.epoch.wrapping_sub(1), model.epoch + 1] {
            let superseded = epoch != model.epoch || epoch < model.oldest;
            prop_assert_eq!(queue.superseded(epoch), superseded);
            prop_assert_eq!(queue.has_work(epoch), work || superseded);
        }
        Ok(())
    }
}

#[test]
fn the_engine_does_what_the_model_does() {
    let mut config = ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() };
    if let RngSeed::Random = config.rng_seed {
        config.rng_seed = RngSeed::Fixed(RandomState::new().hash_one("seed"));
    }
    println!("PROPTEST_RNG_SEED={}", config.rng_seed);
    let calls = prop::collection::vec(any::<u128>(), 1..200);
    let calls = calls.prop_map(|numbers| numbers.into_iter().map(call).collect::<Vec<_>>());
    let outcome = TestRunner::new(config).run(&(1..9_usize, calls), |(depth, calls)| {
        let mut run = Run::new(depth);
        for call in calls {
            run.call(call)?;
            run.compare()?;
        }
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}
