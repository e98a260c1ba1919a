// SPDX-License-Identifier: GPL-2.0-only
//! Exhaustive search of the small state space: two tags, two servers, every input in every state, until no
//! state is new.
//!
//! A [`World`] is the engine's queue together with all that surrounds it in the kernel: submitters, who owe
//! nothing and are owed an end for each request; servers, each at one of the points where the glue drops the
//! lock; deadlines; and a teardown. [`World::inputs`] lists what can happen next, [`World::apply`] lets it
//! happen, [`World::check`] says what must hold in between. Generations only matter by being equal or not, so
//! [`World::key`] forgets their values, which makes the space finite.

use std::collections::{HashMap, HashSet, VecDeque};

use zosbd2_engine::Errno;
use zosbd2_engine::device::{self, Phase};
use zosbd2_engine::queue::{Answer, End, Queue, QueueState, Refused, Wake, Work};
use zosbd2_engine::request::{self, Handle, Op, Request, Slot, State};

const TAGS: usize = 2;
const SERVERS: usize = 2;

/// Where a server is: always outside the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Server {
    /// Outside the kernel, with nothing.
    Idle,
    /// On the list of sleepers.
    Asleep,
    /// Taken off the list, not up yet.
    Woken,
    /// Writes the head of a request to its memory, which takes as long as the server likes.
    Delivers(Handle, Op),
    /// Outside the kernel, with a request.
    Holds(Handle, Op),
    /// Copies a write's data out.
    CopiesOut(Handle),
    /// Waits for memory to go on copying out.
    FaultsOut(Handle),
    /// Copies a read's data in.
    CopiesIn(Handle),
    /// Waits for memory to go on copying in.
    FaultsIn(Handle),
    /// Has been told that the device is gone.
    Left,
}

impl Server {
    /// The tenure it is about.
    const fn tenure(self) -> Option<(Handle, Op)> {
        match self {
            Self::Delivers(handle, op) | Self::Holds(handle, op) => Some((handle, op)),
            Self::CopiesOut(handle) | Self::FaultsOut(handle) => Some((handle, Op::Write)),
            Self::CopiesIn(handle) | Self::FaultsIn(handle) => Some((handle, Op::Read)),
            Self::Idle | Self::Asleep | Self::Woken | Self::Left => None,
        }
    }

    const fn copies(self) -> bool {
        matches!(self, Self::CopiesOut(_) | Self::CopiesIn(_))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    Submit {
        tag: u16,
        op: Op,
        last: bool,
    },
    Announce,
    Expire(u16),
    Drain,
    GiveUp,
    FailNext,
    Delete,
    /// By a server besides the two: both may sleep.
    Notify,
    Fetch(usize),
    Arrive(usize),
    ArriveKilled(usize),
    Signal(usize),
    Die(usize),
    Copied(usize),
    Fault(usize),
    FaultServed(usize),
    FaultRefused(usize),
    Delivered(usize),
    GiveBack(usize),
    Answer {
        server: usize,
        ok: bool,
    },
    /// By an `op_id` that another server got or is about to get: seen, or guessed.
    AnswerForOther {
        server: usize,
        ok: bool,
    },
}

impl Input {
    /// Whether it comes of itself, whatever submitters and servers do: the teardown goes on, and a copy,
    /// which waits for nothing, comes to its end.
    const fn comes_of_itself(self) -> bool {
        matches!(
            self,
            Self::Drain | Self::GiveUp | Self::FailNext | Self::Delete | Self::Copied(_) | Self::Fault(_)
        )
    }
}

#[derive(Clone, Debug)]
struct World {
    state: QueueState,
    slots: [Slot; TAGS],
    servers: [Server; SERVERS],
    /// Sleeping servers, the one that slept last at the end.
    sleepers: Vec<usize>,
    /// Whether the tag's submitter waits for its end.
    owed: [bool; TAGS],
    /// What the tag's request asks for, while it is owed.
    ops: [Op; TAGS],
    /// What is queued, the oldest first.
    fifo: Vec<u16>,
    /// The handle of the tag's latest tenure.
    latest: [Option<Handle>; TAGS],
    /// The handle of the tenure before that.
    earlier: [Option<Handle>; TAGS],
    /// Requests were submitted without `last` and not announced yet.
    unannounced: bool,
    notices: u32,
    /// Where the teardown's loop over the tags is, while it runs.
    failing_from: Option<u16>,
}

type Key = (Phase, Vec<u8>, Vec<u16>, Vec<usize>, Vec<u8>, [bool; TAGS], bool, u32, Option<u16>, [u8; TAGS]);

impl World {
    fn new() -> Self {
        Self {
            state: QueueState::default(),
            slots: [Slot::default(); TAGS],
            servers: [Server::Idle; SERVERS],
            sleepers: Vec::new(),
            owed: [false; TAGS],
            ops: [Op::Read; TAGS],
            fifo: Vec::new(),
            latest: [None; TAGS],
            earlier: [None; TAGS],
            unannounced: false,
            notices: 0,
            failing_from: None,
        }
    }

    fn queue(&mut self) -> Queue<'_> {
        Queue::new(&mut self.state, &mut self.slots)
    }

    fn phase(&self) -> Phase {
        self.clone().queue().phase()
    }

    /// The FIFO's order, found by emptying a copy.
    fn order(&self) -> Vec<u16> {
        let mut copy = self.clone();
        let mut tags = Vec::new();
        loop {
            match copy.queue().fetch() {
                Work::Request(fetched) => tags.push(fetched.handle.tag()),
                Work::Notice(_) => {}
                Work::Nothing | Work::Gone => return tags,
            }
        }
    }

    fn current(&self, handle: Handle) -> bool {
        self.latest[usize::from(handle.tag())] == Some(handle)
    }

    fn key(&self) -> Key {
        let states = self.slots.iter().zip(self.ops).map(|(slot, op)| match slot.state() {
            State::Free => 0,
            state => 8 * state as u8 + op as u8,
        });
        let states = states.collect();
        let handle =
            |handle: Handle| u8::from(self.current(handle)) + 2 * u8::try_from(handle.tag()).unwrap();
        let servers = self
            .servers
            .iter()
            .flat_map(|server| match *server {
                Server::Idle => [0, 0, 0],
                Server::Asleep => [1, 0, 0],
                Server::Woken => [2, 0, 0],
                Server::Holds(h, op) => [3, handle(h), op as u8],
                Server::CopiesOut(h) => [4, handle(h), 0],
                Server::FaultsOut(h) => [5, handle(h), 0],
                Server::CopiesIn(h) => [6, handle(h), 0],
                Server::FaultsIn(h) => [7, handle(h), 0],
                Server::Left => [8, 0, 0],
                Server::Delivers(h, op) => [9, handle(h), op as u8],
            })
            .collect();
        let tenures =
            |tag: usize| u8::from(self.latest[tag].is_some()) + u8::from(self.earlier[tag].is_some());
        (
            self.phase(),
            states,
            self.fifo.clone(),
            self.sleepers.clone(),
            servers,
            self.owed,
            self.unannounced,
            self.notices,
            self.failing_from,
            std::array::from_fn(tenures),
        )
    }

    fn wake(&mut self, wake: Wake) {
        if wake == Wake::One {
            let server = self.sleepers.pop().expect("nobody sleeps, and yet one is to be woken");
            assert_eq!(self.servers[server], Server::Asleep);
            self.servers[server] = Server::Woken;
        }
    }

    fn end(&mut self, end: Option<End>) {
        if let Some(end) = end {
            let owed = &mut self.owed[usize::from(end.tag)];
            assert!(*owed, "the request of tag {} ended twice", end.tag);
            *owed = false;
            self.fifo.retain(|tag| *tag != end.tag);
        }
    }

    fn inputs(&self) -> Vec<Input> {
        let mut inputs = Vec::new();
        let phase = self.phase();
        for tag in 0..TAGS {
            let number = u16::try_from(tag).unwrap();
            if self.owed[tag] {
                inputs.push(Input::Expire(number));
            } else if phase != Phase::Gone {
                for op in [Op::Read, Op::Write, Op::Discard] {
                    inputs.push(Input::Submit { tag: number, op, last: true });
                    inputs.push(Input::Submit { tag: number, op, last: false });
                }
            }
        }
        if self.unannounced {
            inputs.push(Input::Announce);
        }
        if self.notices == 0 && phase != Phase::Gone {
            inputs.push(Input::Notify);
        }
        match phase {
            Phase::Live => inputs.push(Input::Drain),
            Phase::Draining => inputs.push(Input::GiveUp),
            Phase::Failing | Phase::Gone => {}
        }
        if self.failing_from.is_some() {
            inputs.push(Input::FailNext);
        }
        if matches!(phase, Phase::Draining | Phase::Failing) && self.owed == [false; TAGS] {
            inputs.push(Input::Delete);
        }
        for (index, server) in self.servers.iter().enumerate() {
            match *server {
                Server::Idle => {
                    inputs.push(Input::Fetch(index));
                    if self.servers[1 - index].tenure().is_some() {
                        inputs.push(Input::AnswerForOther { server: index, ok: true });
                        inputs.push(Input::AnswerForOther { server: index, ok: false });
                    }
                }
                Server::Asleep => inputs.push(Input::Signal(index)),
                Server::Woken => inputs.extend([Input::Arrive(index), Input::ArriveKilled(index)]),
                Server::Holds(..) => inputs.extend([
                    Input::Answer { server: index, ok: true },
                    Input::Answer { server: index, ok: false },
                    Input::Die(index),
                ]),
                Server::Delivers(..) => inputs.extend([Input::Delivered(index), Input::GiveBack(index)]),
                Server::CopiesOut(_) | Server::CopiesIn(_) => {
                    inputs.extend([Input::Copied(index), Input::Fault(index)]);
                }
                Server::FaultsOut(_) | Server::FaultsIn(_) => {
                    inputs.extend([Input::FaultServed(index), Input::FaultRefused(index)]);
                }
                Server::Left => {}
            }
        }
        inputs
    }

    fn fetch(&mut self, server: usize) {
        let gone = self.phase() == Phase::Gone;
        match self.queue().fetch() {
            Work::Request(fetched) => {
                self.wake(fetched.wake);
                let (handle, op) = (fetched.handle, fetched.request.op);
                let tag = usize::from(handle.tag());
                assert!(self.owed[tag], "a request nobody waits for was fetched");
                assert_eq!((self.ops[tag], self.fifo.remove(0)), (op, handle.tag()), "not the oldest");
                let given = [self.latest[tag], self.earlier[tag]];
                assert!(!given.contains(&Some(handle)), "a handle was given twice");
                self.earlier[tag] = self.latest[tag];
                self.latest[tag] = Some(handle);
                self.servers[server] =
                    if op == Op::Write { Server::CopiesOut(handle) } else { Server::Delivers(handle, op) };
            }
            Work::Notice(wake) => {
                self.notices -= 1;
                self.wake(wake);
                self.servers[server] = Server::Idle;
            }
            Work::Gone => self.servers[server] = Server::Left,
            Work::Nothing => {
                self.queue().wait();
                self.sleepers.push(server);
                self.servers[server] = Server::Asleep;
            }
        }
        assert_eq!(self.servers[server] == Server::Left, gone, "goodbye to nobody else, and to all");
    }

    /// A server cannot be given what it fetched.
    fn give_back(&mut self, server: usize, handle: Handle) {
        let (end, wake) = self.queue().unfetch(handle);
        self.end(end);
        // The engine says by the state whether it took it back.
        let tag = handle.tag();
        if self.slots[usize::from(tag)].state() == State::Queued && !self.fifo.contains(&tag) {
            assert!(self.current(handle));
            self.fifo.insert(0, tag);
        }
        self.servers[server] = Server::Idle;
        self.wake(wake);
    }

    fn answer(&mut self, server: usize, handle: Handle, op: Op, ok: bool) {
        let valid = self.current(handle) && self.slots[usize::from(handle.tag())].state() == State::Held;
        let wrong = if op == Op::Read { Op::Write } else { Op::Read };
        let refused = if valid { Refused::WrongKind } else { Refused::Stale };
        let before = self.key();
        assert_eq!(self.queue().answer(handle, wrong, ok), Err(refused));
        assert_eq!(self.key(), before, "a refused answer changed something");
        match self.queue().answer(handle, op, ok) {
            Ok(Answer::End(end)) => {
                assert!(valid);
                assert_eq!(end.result.is_ok(), ok);
                self.end(Some(end));
                self.servers[server] = Server::Idle;
            }
            Ok(Answer::CopyIn(copied, request)) => {
                assert!(valid && ok && copied == handle && request.op == Op::Read);
                self.servers[server] = Server::CopiesIn(handle);
            }
            Err(refused) => {
                assert_eq!((refused, valid), (Refused::Stale, false));
                self.servers[server] = Server::Idle;
            }
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm per input, each a few lines")]
    fn apply(&mut self, input: Input) {
        match input {
            Input::Submit { tag, op, last } => {
                let takes = self.phase().takes_requests();
                let request = Request { op, offset: 0, length: 4096 };
                match self.queue().submit(tag, request, last) {
                    Ok(wake) => {
                        assert!(takes);
                        self.owed[usize::from(tag)] = true;
                        self.ops[usize::from(tag)] = op;
                        self.fifo.push(tag);
                        self.unannounced = !last;
                        self.wake(wake);
                    }
                    Err(_) => assert!(!takes, "a request was refused"),
                }
            }
            Input::Announce => {
                self.unannounced = false;
                let wake = self.queue().announce();
                self.wake(wake);
            }
            Input::Expire(tag) => {
                let end = self.queue().expire(tag);
                self.end(end);
            }
            Input::Drain => self.queue().set_phase(Phase::Draining),
            Input::GiveUp => {
                self.queue().set_phase(Phase::Failing);
                self.failing_from = Some(0);
            }
            Input::FailNext => {
                let from = self.failing_from.expect("the loop runs");
                let end = self.queue().fail_next(from);
                self.failing_from = end.map(|end| end.tag + 1);
                self.end(end);
            }
            Input::Delete => {
                self.queue().set_phase(Phase::Gone);
                self.queue().wake_all();
                for server in std::mem::take(&mut self.sleepers) {
                    self.servers[server] = Server::Woken;
                }
            }
            Input::Notify => {
                self.notices += 1;
                let wake = self.queue().notify();
                self.wake(wake);
            }
            Input::Fetch(server) => self.fetch(server),
            Input::Arrive(server) => {
                self.queue().arrive();
                self.fetch(server);
            }
            Input::ArriveKilled(server) => {
                self.queue().arrive();
                let wake = self.queue().announce();
                self.servers[server] = Server::Idle;
                self.wake(wake);
            }
            Input::Signal(server) => {
                self.sleepers.retain(|sleeper| *sleeper != server);
                self.queue().leave();
                self.servers[server] = Server::Idle;
                let wake = self.queue().announce();
                self.wake(wake);
            }
            // Another server takes its place.
            Input::Die(server) => self.servers[server] = Server::Idle,
            Input::Copied(server) => match self.servers[server] {
                Server::CopiesOut(handle) => {
                    let end = self.queue().copied(handle);
                    let lost = end.is_some();
                    self.end(end);
                    self.servers[server] =
                        if lost { Server::Idle } else { Server::Delivers(handle, Op::Write) };
                }
                Server::CopiesIn(handle) => {
                    let end = self.queue().answered(handle);
                    assert!(end.is_some(), "all data was copied and nothing ended");
                    self.end(end);
                    self.servers[server] = Server::Idle;
                }
                other => panic!("{other:?} copies nothing"),
            },
            Input::Fault(server) => {
                let (handle, next) = match self.servers[server] {
                    Server::CopiesOut(handle) => (handle, Server::FaultsOut(handle)),
                    Server::CopiesIn(handle) => (handle, Server::FaultsIn(handle)),
                    other => panic!("{other:?} copies nothing"),
                };
                let end = self.queue().copied(handle);
                self.servers[server] = if end.is_some() { Server::Idle } else { next };
                self.end(end);
            }
            Input::FaultServed(server) => {
                let (handle, next) = match self.servers[server] {
                    Server::FaultsOut(handle) => (handle, Server::CopiesOut(handle)),
                    Server::FaultsIn(handle) => (handle, Server::CopiesIn(handle)),
                    other => panic!("{other:?} waits for no memory"),
                };
                let valid =
                    self.current(handle) && self.slots[usize::from(handle.tag())].state() == State::Held;
                let pinned = self.queue().pin(handle).is_ok();
                assert_eq!(pinned, valid);
                self.servers[server] = if pinned { next } else { Server::Idle };
            }
            Input::FaultRefused(server) => match self.servers[server] {
                Server::FaultsOut(handle) => self.give_back(server, handle),
                Server::FaultsIn(handle) => self.servers[server] = Server::Holds(handle, Op::Read),
                other => panic!("{other:?} waits for no memory"),
            },
            Input::GiveBack(server) => {
                let Server::Delivers(handle, _) = self.servers[server] else {
                    panic!("nothing to give back")
                };
                self.give_back(server, handle);
            }
            Input::Delivered(server) => {
                let Server::Delivers(handle, op) = self.servers[server] else { panic!("nothing delivered") };
                self.servers[server] = Server::Holds(handle, op);
            }
            Input::Answer { server, ok } => {
                let Server::Holds(handle, op) = self.servers[server] else { panic!("it holds nothing") };
                self.answer(server, handle, op, ok);
            }
            Input::AnswerForOther { server, ok } => {
                let (handle, op) = self.servers[1 - server].tenure().expect("it has one");
                self.answer(server, handle, op, ok);
            }
        }
    }

    fn check(&self) {
        let mut copy = self.clone();
        let queue = copy.queue();
        let count = |wanted: fn(&Server) -> bool| self.servers.iter().filter(|server| wanted(server)).count();
        let asleep = count(|server| *server == Server::Asleep);
        let woken = count(|server| *server == Server::Woken);
        let owed = self.owed.iter().filter(|owed| **owed).count();
        assert_eq!(queue.outstanding() as usize, owed, "outstanding");
        assert_eq!(queue.waiting() as usize, asleep, "waiting");
        assert_eq!(queue.waking() as usize, woken, "waking");
        assert_eq!(self.sleepers.len(), asleep);
        let queued = self.slots.iter().filter(|slot| slot.state() == State::Queued).count();
        assert_eq!(queue.queued() as usize, queued, "queued");
        let (phase, waking) = (queue.phase(), queue.waking());
        for (slot, owed) in self.slots.iter().zip(self.owed) {
            assert_eq!(slot.state() != State::Free, owed, "a request is lost, or there twice");
        }
        let work = queued > 0 || self.notices > 0;
        if work && waking == 0 && !self.unannounced && phase != Phase::Gone {
            assert_eq!(asleep, 0, "a server sleeps while there is work");
        }
        if phase == Phase::Gone {
            assert_eq!((owed, asleep), (0, 0), "something outlived the device");
        }
        if phase == Phase::Failing && self.failing_from.is_none() {
            let allowed = [State::Free, State::Doomed];
            assert!(
                self.slots.iter().all(|slot| allowed.contains(&slot.state())),
                "not everything was failed"
            );
        }
        // What is copied is pinned, or doomed: its pages stay.
        for server in self.servers {
            if let Server::CopiesOut(handle) | Server::CopiesIn(handle) = server {
                let state = self.slots[usize::from(handle.tag())].state();
                assert!(self.current(handle) && matches!(state, State::Copying | State::Doomed), "{state:?}");
            }
        }
        assert_eq!(self.order(), self.fifo, "not in the order of submission");
        let mut copiers: Vec<_> = self.servers.iter().filter(|server| server.copies()).collect();
        copiers.retain(|server| server.tenure().is_some_and(|(handle, _)| self.current(handle)));
        let copied = self.slots.iter().filter(|slot| matches!(slot.state(), State::Copying | State::Doomed));
        assert_eq!(copiers.len(), copied.count(), "who copies and what is copied");
    }

    /// The handles whose tenure is over.
    fn dead(&self) -> Vec<Handle> {
        let live = |handle: Handle| {
            let state = self.slots[usize::from(handle.tag())].state();
            self.current(handle) && matches!(state, State::Held | State::Copying | State::Doomed)
        };
        self.latest.iter().chain(&self.earlier).flatten().copied().filter(|handle| !live(*handle)).collect()
    }

    /// What is not allowed changes nothing, to the last bit.
    fn check_refusals(&self) {
        let mut copy = self.clone();
        for handle in self.dead() {
            for op in [Op::Read, Op::Write, Op::Discard] {
                assert_eq!(copy.queue().answer(handle, op, true), Err(Refused::Stale));
            }
            assert_eq!(copy.queue().pin(handle), Err(Refused::Stale));
            assert_eq!(copy.queue().copied(handle), None);
            assert_eq!(copy.queue().answered(handle), None);
            assert_eq!(copy.queue().unfetch(handle), (None, Wake::None));
            assert_eq!(copy.queue().handle_of(handle.op_id()), None);
        }
        for latest in self.latest.iter().flatten() {
            let invented = latest.op_id().wrapping_add(1 << request::OP_ID_TAG_BITS);
            assert_eq!(copy.queue().handle_of(invented), None);
        }
        let tags = u32::try_from(TAGS).unwrap();
        for op_id in [0, tags, tags + (1 << request::OP_ID_TAG_BITS), u32::MAX] {
            assert_eq!(copy.queue().handle_of(op_id), None);
        }
        for (tag, owed) in (0..).zip(self.owed.into_iter().chain([true])) {
            if owed {
                assert_eq!(copy.queue().submit(tag, Request::default(), true), Err(Errno::EIO));
            } else {
                assert_eq!(copy.queue().expire(tag), None);
            }
        }
        assert_eq!(
            format!("{:?} {:?}", copy.state, copy.slots),
            format!("{:?} {:?}", self.state, self.slots),
            "something refused left its mark"
        );
    }
}

/// Which states have a way into `goal`, along the steps given as (from, to).
fn reaching(steps: &[(u32, u32)], goal: &[bool]) -> Vec<bool> {
    let mut backward = vec![Vec::new(); goal.len()];
    for &(from, to) in steps {
        backward[to as usize].push(from);
    }
    let mut open: Vec<u32> = (0..).zip(goal).filter_map(|(number, goal)| goal.then_some(number)).collect();
    let mut reaches = goal.to_vec();
    while let Some(number) = open.pop() {
        for &from in &backward[number as usize] {
            if !std::mem::replace(&mut reaches[from as usize], true) {
                open.push(from);
            }
        }
    }
    reaches
}

#[test]
fn every_state_keeps_the_promises() {
    let start = World::new();
    let mut numbers = HashMap::from([(start.key(), 0_u32)]);
    let mut worlds = VecDeque::from([(0, start)]);
    let (mut steps, mut own_steps) = (Vec::new(), Vec::new());
    let (mut rests, mut gone) = (vec![true], vec![false]);
    let mut edges = HashSet::new();
    let mut phases = HashSet::new();
    while let Some((number, world)) = worlds.pop_front() {
        for input in world.inputs() {
            let mut next = world.clone();
            let applied = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                next.apply(input);
                next.check();
            }));
            if let Err(panic) = applied {
                eprintln!("{input:?} in {world:#?}");
                std::panic::resume_unwind(panic);
            }
            for (before, after) in world.slots.iter().zip(&next.slots) {
                if before.state() != after.state() {
                    edges.insert((before.state(), after.state()));
                }
            }
            if world.phase() != next.phase() {
                phases.insert((world.phase(), next.phase()));
            }
            let found = u32::try_from(numbers.len()).expect("few enough states");
            let target = *numbers.entry(next.key()).or_insert(found);
            if target == found {
                next.check_refusals();
                rests.push(next.owed == [false; TAGS]);
                gone.push(next.phase() == Phase::Gone);
                worlds.push_back((target, next));
            }
            steps.push((number, target));
            if input.comes_of_itself() {
                own_steps.push((number, target));
            }
        }
    }
    // From every state there is a way to one in which nobody waits for an end, and one that needs neither
    // submitters nor servers to the end of the device.
    assert!(reaching(&steps, &rests).iter().all(|reaches| *reaches), "a request can get stuck");
    assert!(reaching(&own_steps, &gone).iter().all(|reaches| *reaches), "a teardown can get stuck");
    // The drawings in the engine's documentation, no more and no less.
    assert_eq!(edges, request::EDGES.iter().copied().collect(), "edges of a request");
    assert_eq!(phases, device::EDGES.iter().copied().collect(), "edges of a device");
    println!("{} states, {} transitions", numbers.len(), steps.len());
    assert!(numbers.len() > 1000, "the search found next to nothing: {} states", numbers.len());
}
