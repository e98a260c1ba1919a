// SPDX-License-Identifier: GPL-2.0-only
//! Honest flush: random sequences of writes, flushes and changes of servers on two queues, against a model that keeps
//! a list of what is in the servers' caches. And latencies, which are counted at the same place.

use proptest::prelude::*;
use zosbd2_engine::Errno;
use zosbd2_engine::cache::Cache;
use zosbd2_engine::latency::{BUCKETS, Histograms, Latencies, bucket};
use zosbd2_engine::queue::{End, Moment, Queue, QueueState, Refused, Surroundings, Wake, Work};
use zosbd2_engine::request::{FUA, Handle, Op, Request, Slot};

const DEPTH: usize = 4;

#[derive(Clone, Copy, Debug)]
enum Call {
    /// A server gets a request of this kind, from this queue.
    Fetch { queue: usize, op: Op, fua: bool },
    /// The nth of the requests that servers have is answered.
    Answer { nth: usize, ok: bool },
    /// Another server takes over.
    Attach { survived: bool },
    /// The newest server is dead, and another one follows.
    Die { survived: bool },
}

fn calls() -> impl Strategy<Value = Call> {
    let op = prop_oneof![
        4 => Just(Op::Write),
        4 => Just(Op::Flush),
        1 => Just(Op::Read),
        1 => Just(Op::Discard),
        1 => Just(Op::WriteZeroes),
    ];
    prop_oneof![
        6 => (0..2_usize, op, any::<bool>()).prop_map(|(queue, op, fua)| Call::Fetch { queue, op, fua: fua && op == Op::Write }),
        6 => (0..8_usize, prop::bool::weighted(0.9)).prop_map(|(nth, ok)| Call::Answer { nth, ok }),
        1 => any::<bool>().prop_map(|survived| Call::Attach { survived }),
        1 => any::<bool>().prop_map(|survived| Call::Die { survived }),
    ]
}

#[derive(Clone, Copy, Debug)]
struct Taken {
    queue: usize,
    handle: Handle,
    op: Op,
    fua: bool,
    epoch: u32,
    /// Of a flush: how many writes had been answered when it was fetched.
    covers: usize,
}

/// What is in a cache that is there: numbers of writes, in the order of their answers.
#[derive(Debug, Default)]
struct Model {
    answered: usize,
    cached: Vec<usize>,
    /// Servers from this one on have that cache.
    from: u32,
    lost: bool,
}

impl Model {
    fn attach(&mut self, epoch: u32, survived: bool) {
        if !survived {
            self.lost |= !self.cached.is_empty();
            self.cached.clear();
            self.from = epoch;
        }
    }

    /// A server says that it carried this out.
    fn answer(&mut self, taken: Taken) -> Result<(), Errno> {
        let own = taken.epoch >= self.from;
        match taken.op {
            Op::Write | Op::WriteZeroes if !taken.fua => {
                self.answered += 1;
                if own {
                    self.cached.push(self.answered);
                } else {
                    self.lost = true;
                }
            }
            Op::Flush if own => {
                self.cached.retain(|write| *write > taken.covers);
                if std::mem::take(&mut self.lost) {
                    return Err(Errno::EIO);
                }
            }
            Op::Flush if self.lost => return Err(Errno::EIO),
            _ => {}
        }
        Ok(())
    }
}

struct Device {
    cache: Cache,
    states: [QueueState; 2],
    slots: [[Slot; DEPTH]; 2],
    epoch: u32,
    taken: Vec<Taken>,
    model: Model,
}

impl Device {
    fn queue(&mut self, queue: usize) -> Queue<'_> {
        Queue::new(&mut self.states[queue], &mut self.slots[queue])
            .within(Surroundings { cache: Some(&self.cache), ..Surroundings::default() })
    }

    fn attach(&mut self, survived: bool) {
        self.epoch += 1;
        let epoch = self.epoch;
        for queue in 0..2 {
            self.queue(queue).attach(epoch, survived);
        }
        self.model.attach(epoch, survived);
    }

    fn fetch(&mut self, queue: usize, op: Op, fua: bool) {
        let used =
            |tag: u16| self.taken.iter().any(|taken| taken.queue == queue && taken.handle.tag() == tag);
        let Some(tag) = (0..4).find(|tag| !used(*tag)) else { return };
        let request = Request { op, flags: if fua { FUA } else { 0 }, offset: 0, length: 512 };
        assert_eq!(self.queue(queue).submit(tag, request, 0, true), Ok(Wake::None));
        self.take(queue, op, fua);
    }

    fn take(&mut self, queue: usize, op: Op, fua: bool) {
        let epoch = self.epoch;
        let Work::Request(fetched) = self.queue(queue).fetch(epoch, 0) else { panic!("nothing there") };
        let covers = self.model.answered;
        self.taken.push(Taken { queue, handle: fetched.handle, op, fua, epoch, covers });
    }

    fn call(&mut self, call: Call) -> Result<(), TestCaseError> {
        match call {
            Call::Fetch { queue, op, fua } => self.fetch(queue, op, fua),
            Call::Answer { nth, ok } => {
                if self.taken.is_empty() {
                    return Ok(());
                }
                let nth = nth % self.taken.len();
                let taken = self.taken.swap_remove(nth);
                let said = if ok { Ok(()) } else { Err(Errno::ENOSPC) };
                let wanted = said.and_then(|()| self.model.answer(taken));
                let end = self.queue(taken.queue).finish(taken.handle, said);
                prop_assert_eq!(end, Ok(End { tag: taken.handle.tag(), result: wanted }));
                prop_assert_eq!(self.cache.lost(), self.model.lost);
            }
            Call::Attach { survived } => self.attach(survived),
            Call::Die { survived } => {
                let dead = self.epoch;
                for queue in 0..2 {
                    let mut again = Vec::new();
                    let wake = self.queue(queue).requeue(dead, |tag| again.push(tag));
                    prop_assert_eq!(wake, Wake::None);
                }
                self.attach(survived);
                let lost: Vec<Taken> = self.taken.extract_if(.., |taken| taken.epoch == dead).collect();
                for taken in &lost {
                    let refused = self.queue(taken.queue).finish(taken.handle, Ok(()));
                    prop_assert_eq!(refused, Err(Refused::Stale), "of a dead server");
                }
                for queue in 0..2 {
                    let mut mine: Vec<Taken> =
                        lost.iter().copied().filter(|taken| taken.queue == queue).collect();
                    mine.sort_by_key(|taken| taken.handle.tag());
                    for taken in mine {
                        self.take(queue, taken.op, taken.fua);
                    }
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn a_flush_vouches_for_what_is_durable_alone(calls in prop::collection::vec(calls(), 1..60)) {
        let mut device = Device {
            cache: Cache::new(),
            states: [QueueState::default(); 2],
            slots: [[Slot::default(); DEPTH]; 2],
            epoch: 0,
            taken: Vec::new(),
            model: Model::default(),
        };
        device.attach(false);
        for call in calls {
            device.call(call)?;
        }
    }
}

#[test]
fn latencies_fall_into_buckets_of_powers_of_two() {
    assert_eq!([0, 1, 1023, 1024, 2047, 2048, 1 << 40, u64::MAX].map(bucket), [0, 0, 0, 1, 1, 2, 31, 31]);
    for bits in 10..64_u32 {
        let least = 1_u64 << bits;
        let wanted = (bits as usize - 9).min(BUCKETS - 1);
        assert_eq!((bucket(least), bucket(least + (least - 1))), (wanted, wanted), "2^{bits} ns");
    }
}

/// A request counts once, when it is answered, from its own submission and its last fetch on.
#[test]
fn answered_requests_are_counted() {
    let (mut state, mut slots) = (QueueState::default(), [Slot::default(); 2]);
    let mut latencies = Latencies::default();
    let mut at = |now_ns: u64, thread: u32, each: &mut dyn FnMut(&mut Queue<'_>)| {
        let moment = Moment { now_ns, thread };
        let around = Surroundings { cache: None, latencies: Some(&mut latencies), moment };
        each(&mut Queue::new(&mut state, &mut slots).within(around));
    };
    let mut handle = None;
    at(0, 0, &mut |queue| {
        assert_eq!(queue.submit(0, Request::default(), 1_000, true), Ok(Wake::None));
        assert_eq!(queue.submit(1, Request::default(), 1_000, true), Ok(Wake::None));
    });
    for (now_ns, thread) in [(2_000, 6), (5_000, 7)] {
        at(now_ns, thread, &mut |queue| {
            let Work::Request(fetched) = queue.fetch(0, 0) else { panic!("nothing there") };
            handle = Some(fetched.handle);
            let seen = queue.outstanding_from(0).expect("it is there");
            assert_eq!((seen.thread, seen.submitted_ns, seen.fetched_ns), (thread, 1_000, now_ns));
            if now_ns == 2_000 {
                assert_eq!(queue.unfetch(fetched.handle), Wake::None);
            }
        });
    }
    at(13_000, 7, &mut |queue| {
        assert_eq!(queue.finish(handle.expect("fetched"), Ok(())), Ok(End { tag: 0, result: Ok(()) }));
        assert_eq!(queue.outstanding_from(0).map(|seen| seen.tag), Some(1));
        // Failed, and so not counted.
        assert_eq!(queue.fail_next(0).map(|end| end.tag), Some(1));
        assert_eq!(queue.outstanding_from(0), None);
    });
    let one = |ns: u64| {
        let mut histogram = [0; BUCKETS];
        histogram[bucket(ns)] = 1;
        histogram
    };
    let wanted = Histograms { waiting: one(4_000), serving: one(8_000), total: one(12_000) };
    assert_eq!(latencies.histograms(), wanted);
}
