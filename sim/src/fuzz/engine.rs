// SPDX-License-Identifier: GPL-2.0-only
//! Sequences of engine calls in any order, on two queues and the life of one device. The simulator
//! calls the engine as the glue does; this target calls anything at any time. It checks that
//! nothing panics, that every accepted request ends once, that requests are fetched in order, and
//! that a wake-up is for a sleeping server.

use super::Bytes;
use std::collections::VecDeque;
use zosbd2_engine::Errno;
use zosbd2_engine::cache::Cache;
use zosbd2_engine::device::{EDGES, Life, Phase, Policy, Terms};
use zosbd2_engine::latency::Latencies;
use zosbd2_engine::queue::{
    Answer, Deadline, End, Moment, Overdue, Queue, QueueState, Surroundings, Wake, Work,
};
use zosbd2_engine::request::{self, Handle, Op, Request, Slot, State};

const QUEUES: usize = 2;
const DEPTH: u16 = 4;

struct One {
    state: QueueState,
    slots: Vec<Slot>,
    latencies: Latencies,
    fifo: VecDeque<u16>,
    taken: Vec<bool>,
    asleep: u32,
    woken: u32,
    handles: Vec<Handle>,
}

impl One {
    fn new() -> Self {
        Self {
            state: QueueState::default(),
            slots: vec![Slot::default(); DEPTH.into()],
            latencies: Latencies::default(),
            fifo: VecDeque::new(),
            taken: vec![false; DEPTH.into()],
            asleep: 0,
            woken: 0,
            handles: Vec::new(),
        }
    }

    fn queue<'a>(&'a mut self, cache: &'a Cache, now_ns: u64) -> Queue<'a> {
        let moment = Moment { now_ns, thread: 1 };
        let around =
            Surroundings { cache: Some(cache), latencies: Some(&mut self.latencies), moment, written: 0 };
        Queue::new(&mut self.state, &mut self.slots).within(around)
    }

    fn wake(&mut self, Wake { servers, .. }: Wake) {
        assert!(self.asleep >= servers, "so many do not sleep");
        self.asleep -= servers;
        self.woken += servers;
    }

    fn end(&mut self, end: End) {
        let (ended, _) = end.use_up();
        let taken = &mut self.taken[usize::from(ended)];
        assert!(std::mem::take(taken), "tag {ended} ends, and was over");
        self.fifo.retain(|tag| *tag != ended);
    }

    /// A call may have put this tag back at the front.
    fn put_back(&mut self, tag: u16, before: State) {
        let now = self.slots[usize::from(tag)].state();
        if before != State::Queued && now == State::Queued {
            self.fifo.push_front(tag);
        }
    }
}

struct Device {
    queues: Vec<One>,
    cache: Cache,
    life: Life,
    epoch: u32,
    now_ns: u64,
}

/// The target.
///
/// # Panics
///
/// On a defect.
pub fn engine(data: &[u8]) {
    let mut bytes = Bytes(data);
    let terms = Terms { attached: true, grace_ms: bytes.below(3).into(), auto_destroy: bytes.below(2) == 1 };
    let mut device = Device {
        queues: (0..QUEUES).map(|_| One::new()).collect(),
        cache: Cache::new(),
        life: Life::new(terms),
        epoch: 0,
        now_ns: 0,
    };
    // Longer sequences find little more.
    for _ in 0..512 {
        if bytes.is_empty() {
            break;
        }
        device.now_ns += u64::from(bytes.u8()) << 14;
        let phase = device.life.phase();
        let states = device.states();
        device.call(&mut bytes);
        let next = device.life.phase();
        assert!(phase == next || EDGES.contains(&(phase, next)), "{phase:?} to {next:?}");
        device.check(&states);
    }
    device.finish();
}

impl Device {
    fn states(&self) -> Vec<State> {
        self.queues.iter().flat_map(|one| one.slots.iter().map(Slot::state)).collect()
    }

    fn call(&mut self, bytes: &mut Bytes<'_>) {
        let number = usize::from(bytes.below(2));
        let what = bytes.below(24);
        if what >= 18 {
            self.live(what, bytes);
            return;
        }
        let (epoch, now_ns) = (self.epoch, self.now_ns);
        let one = &mut self.queues[number];
        let handle = match one.handles.len() {
            0 => Handle::default(),
            // The latest handles may be valid.
            length => one.handles[length - 1 - usize::from(bytes.u8()) % length.min(12)],
        };
        let tag = handle.tag();
        let before = one.slots[usize::from(tag)].state();
        let (asleep, woken) = (one.asleep > 0, one.woken > 0);
        let mut queue = one.queue(&self.cache, now_ns);
        let (mut wake, mut end) = (Wake::NONE, None);
        match what {
            0..4 => {
                let tag = u16::from(bytes.below(5));
                let op = Op::from_number(bytes.below(6).into()).unwrap_or_default();
                let request = Request { op, flags: bytes.below(4), offset: 0, length: 512 };
                if let Ok(said) = queue.submit(tag, request, now_ns, bytes.below(2) == 0) {
                    one.wake(said);
                    assert!(!std::mem::replace(&mut one.taken[usize::from(tag)], true));
                    one.fifo.push_back(tag);
                }
                return;
            }
            4..8 => {
                let from = epoch.wrapping_sub(bytes.one_of(&[0, 0, 0, 1]));
                match queue.fetch(from, bytes.one_of(&[0, 4096])) {
                    Work::Request(fetched) => {
                        wake = queue.announce();
                        assert_eq!(one.fifo.pop_front(), Some(fetched.handle.tag()), "not the oldest");
                        assert!(!one.handles.contains(&fetched.handle), "used again");
                        one.handles.push(fetched.handle);
                    }
                    Work::Nothing => {
                        queue.wait(bytes.u8().into());
                        one.asleep += 1;
                    }
                    Work::Notice | Work::Gone | Work::Superseded => wake = queue.announce(),
                }
                one.wake(wake);
                return;
            }
            8 => end = queue.finish(handle, bytes.one_of(&[Ok(()), Err(Errno::EIO)])).ok(),
            9 => {
                let op = Op::from_number(bytes.below(6).into()).unwrap_or_default();
                if let Ok(Answer::End(ended)) = queue.answer(handle, op, bytes.below(4) > 0) {
                    end = Some(ended);
                }
            }
            10 => drop(queue.pin(handle)),
            11 => {
                end = queue.copied(handle).end();
                wake = queue.announce();
            }
            12 => end = queue.answered(handle),
            13 => wake = queue.unfetch(handle),
            14 => {
                let policy = bytes.one_of(&[Policy::Fail, Policy::Requeue, Policy::DeclareDead]);
                let ns = u64::from(bytes.u8()) << 16;
                match queue.expire(tag, Deadline { policy, ns }) {
                    Overdue::End(ended) => end = Some(ended),
                    Overdue::Requeued(said) => wake = said,
                    _ => {}
                }
            }
            15 if woken => {
                queue.arrive(epoch);
                wake = queue.announce();
                if !queue.superseded(epoch) {
                    one.woken -= 1;
                }
            }
            16 if asleep => {
                queue.leave();
                wake = queue.announce();
                one.asleep -= 1;
            }
            17 => {
                let raw = u32::from_le_bytes(bytes.array());
                let named = queue.handle_of(raw);
                assert!(named.is_none_or(|handle| handle.op_id() == raw));
            }
            _ if bytes.below(2) == 0 => {
                wake = queue.look_after();
                one.woken = queue.waking().wrapping_sub(wake.servers);
            }
            _ => wake = queue.announce(),
        }
        one.wake(wake);
        one.put_back(tag, before);
        if let Some(end) = end {
            one.end(end);
        }
    }

    /// Calls that concern all queues.
    fn live(&mut self, what: u8, bytes: &mut Bytes<'_>) {
        let now_ms = self.now_ns / 1_000_000;
        match what {
            18 | 19 => {
                let Ok(epoch) = self.life.attach(what == 18) else { return };
                self.epoch = epoch;
                for one in &mut self.queues {
                    let mut queue = one.queue(&self.cache, self.now_ns);
                    queue.attach(epoch);
                    queue.wake_all();
                    (one.asleep, one.woken) = (0, 0);
                }
                if bytes.below(2) == 0 {
                    assert_eq!(self.life.claim_cache(epoch), Ok(()));
                }
                // Another server may attach before this one fetches.
                if bytes.below(4) != 0 && self.life.first_fetch(epoch) {
                    for one in &mut self.queues {
                        one.queue(&self.cache, self.now_ns).lose_cache(epoch);
                    }
                }
            }
            20 | 21 => {
                let declared = what == 21;
                for one in &mut self.queues {
                    let mut tags = Vec::new();
                    let mut queue = one.queue(&self.cache, self.now_ns);
                    let each = |tag| tags.push(tag);
                    if declared {
                        queue.declare_dead(self.epoch, each);
                        queue.wake_all();
                        (one.asleep, one.woken) = (0, 0);
                    } else {
                        let wake = queue.requeue(self.epoch, each);
                        one.wake(wake);
                    }
                    for tag in tags {
                        one.fifo.push_front(tag);
                    }
                }
                let _change = self.life.declare_dead(self.epoch, now_ms);
            }
            22 => {
                let _change = match bytes.below(4) {
                    0 => self.life.grace_over(now_ms),
                    1 => self.life.tick(now_ms, bytes.u8().into(), bytes.below(2).into()),
                    2 if bytes.below(8) == 0 => self.life.drain(now_ms, 0, bytes.below(2) == 0),
                    _ => {
                        self.life.set_started();
                        return;
                    }
                };
            }
            _ => {}
        }
        let phase = self.life.phase();
        for one in &mut self.queues {
            one.queue(&self.cache, self.now_ns).set_phase(phase);
            if !phase.takes_requests() {
                fail_all(one, &self.cache);
            }
        }
    }

    /// After each call: every state change is an edge of the drawing, and all counts are right.
    fn check(&mut self, before: &[State]) {
        let after = self.states();
        for edge in before.iter().copied().zip(after) {
            // A failed teardown may doom a request that it just took, and a call that takes all
            // back may take several edges.
            let known = edge.0 == edge.1 || request::EDGES.contains(&edge);
            assert!(known, "{edge:?}");
        }
        for one in &mut self.queues {
            let taken = one.taken.iter().filter(|taken| **taken).count();
            let states: Vec<State> = one.slots.iter().map(Slot::state).collect();
            let (fifo, asleep, woken) = (one.fifo.len(), one.asleep, one.woken);
            let queue = one.queue(&self.cache, self.now_ns);
            assert_eq!(usize::try_from(queue.queued()), Ok(fifo));
            assert_eq!(usize::try_from(queue.outstanding()), Ok(taken));
            assert_eq!(states.iter().filter(|state| **state == State::Queued).count(), fifo);
            assert_eq!((queue.waiting(), queue.waking()), (asleep, woken));
        }
    }

    /// Destroys the device: everything must end.
    fn finish(&mut self) {
        for one in &mut self.queues {
            one.queue(&self.cache, self.now_ns).set_phase(Phase::Failing);
            fail_all(one, &self.cache);
        }
        for one in &mut self.queues {
            for handle in std::mem::take(&mut one.handles) {
                if let Some(end) = one.queue(&self.cache, 0).copied(handle).end() {
                    one.end(end);
                }
            }
        }
        for one in &mut self.queues {
            fail_all(one, &self.cache);
            assert!(one.taken.iter().all(|taken| !taken), "a request never ended");
            assert_eq!(one.queue(&self.cache, 0).outstanding(), 0);
        }
    }
}

fn fail_all(one: &mut One, cache: &Cache) {
    let mut from = Some(0);
    while let Some(tag) = from {
        let end = one.queue(cache, 0).fail_next(tag);
        from = end.as_ref().and_then(|end| end.tag().checked_add(1));
        if let Some(end) = end {
            one.end(end);
        }
    }
}
