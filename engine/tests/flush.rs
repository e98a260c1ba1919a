// SPDX-License-Identifier: GPL-2.0-only
//! Honest flush: random sequences of writes, flushes and changes of servers on two queues. The tests compare
//! the engine with a model that lists the contents of the servers' caches, and check the promise itself: a
//! flush that was sent after a write had been answered does not succeed if that write is lost, unless such a
//! flush has failed before. The latencies, which are counted at the same place, are tested here, too.

mod effect;

use proptest::prelude::*;
use zosbd2_engine::Errno;
use zosbd2_engine::cache::Cache;
use zosbd2_engine::device::{Life, Terms};
use zosbd2_engine::latency::{BUCKETS, Histograms, Latencies, bucket};
use zosbd2_engine::queue::{Moment, Queue, QueueState, Refused, Surroundings, Wake, Work};
use zosbd2_engine::request::{FUA, Handle, Op, Request, Slot};

const DEPTH: usize = 4;

#[derive(Clone, Copy, Debug)]
enum Call {
    /// A request of this kind is submitted to this queue.
    Submit { queue: usize, op: Op, fua: bool },
    /// The newest server fetches all queued requests.
    Fetch,
    /// The nth held request is answered.
    Answer { nth: usize, ok: bool },
    /// Another server takes over.
    Attach,
    /// The newest server dies, and another one attaches.
    Die,
    /// The newest server claims the caches of the servers before it.
    Claim,
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
        6 => (0..2_usize, op, any::<bool>()).prop_map(|(queue, op, fua)| Call::Submit { queue, op, fua: fua && op == Op::Write }),
        4 => Just(Call::Fetch),
        6 => (0..8_usize, prop::bool::weighted(0.9)).prop_map(|(nth, ok)| Call::Answer { nth, ok }),
        1 => Just(Call::Attach),
        1 => Just(Call::Die),
        1 => Just(Call::Claim),
    ]
}

/// A request that is queued or held.
#[derive(Clone, Copy, Debug)]
struct Asked {
    queue: usize,
    tag: u16,
    op: Op,
    fua: bool,
    submitted: u64,
}

#[derive(Clone, Copy, Debug)]
struct Taken {
    asked: Asked,
    handle: Handle,
    epoch: u32,
    /// When it was fetched.
    fetched: u64,
}

/// A cache that exists: the answer times of the writes in it, in order.
#[derive(Debug, Default)]
struct Model {
    cached: Vec<u64>,
    /// Servers from this epoch on have that cache.
    from: u32,
    /// Writes were lost.
    lost: bool,
    /// When each write was answered that is lost, and of which nobody was told who could rely on it.
    untold: Vec<u64>,
}

impl Model {
    /// The server of `epoch` fetches for the first time, and does not have this cache.
    fn lose(&mut self, epoch: u32) {
        self.lost |= !self.cached.is_empty();
        self.untold.append(&mut self.cached);
        self.from = epoch;
    }

    /// A server answers that it carried this out.
    fn answer(&mut self, taken: Taken, now: u64) {
        let own = taken.epoch >= self.from;
        let Asked { op, fua, .. } = taken.asked;
        match op {
            Op::Write | Op::WriteZeroes if !fua && own => self.cached.push(now),
            Op::Write | Op::WriteZeroes if !fua => {
                self.lost = true;
                self.untold.push(now);
            }
            Op::Flush if own => self.cached.retain(|answered| *answered > taken.fetched),
            _ => {}
        }
    }

    /// A flush ended so: the promise.
    fn check(&mut self, submitted: u64, result: Result<(), Errno>) -> Result<(), TestCaseError> {
        if result.is_err() {
            self.untold.retain(|answered| *answered > submitted);
        }
        let betrayed = self.untold.iter().find(|answered| **answered <= submitted);
        prop_assert_eq!(betrayed, None, "a flush of {} vouches for a lost write", submitted);
        Ok(())
    }
}

struct Device {
    life: Life,
    cache: Cache,
    states: [QueueState; 2],
    slots: [[Slot; DEPTH]; 2],
    epoch: u32,
    /// Each call has its own time.
    now: u64,
    waiting: Vec<Asked>,
    taken: Vec<Taken>,
    model: Model,
}

impl Device {
    /// A device with a server, whose cache is empty.
    fn new() -> Self {
        let mut device = Self {
            life: Life::new(Terms { attached: true, ..Terms::default() }),
            cache: Cache::new(),
            states: [QueueState::default(); 2],
            slots: [[Slot::default(); DEPTH]; 2],
            epoch: 0,
            now: 0,
            waiting: Vec::new(),
            taken: Vec::new(),
            model: Model::default(),
        };
        device.change(false);
        device
    }

    fn queue(&mut self, queue: usize) -> Queue<'_> {
        let moment = Moment { now_ns: self.now, thread: 0 };
        Queue::new(&mut self.states[queue], &mut self.slots[queue]).within(Surroundings {
            cache: Some(&self.cache),
            latencies: None,
            moment,
            written: 0,
        })
    }

    /// Another server attaches. It has not fetched yet.
    fn attach(&mut self) {
        self.epoch += 1;
        let epoch = self.epoch;
        assert_eq!(self.life.attach(true), Ok(epoch));
        for queue in 0..2 {
            self.queue(queue).attach(epoch);
        }
    }

    /// The newest server is about to fetch.
    fn settle(&mut self) {
        let epoch = self.epoch;
        if self.life.first_fetch(epoch) {
            for queue in 0..2 {
                self.queue(queue).lose_cache(epoch);
            }
            self.model.lose(epoch);
        }
    }

    /// Another server attaches, and fetches nothing at first.
    fn change(&mut self, survived: bool) {
        self.attach();
        if survived {
            assert_eq!(self.life.claim_cache(self.epoch), Ok(()));
        }
        self.settle();
    }

    /// A request is submitted to the first queue.
    fn submit_at(&mut self, tag: u16, op: Op, now: u64) {
        self.now = now;
        let request = Request { op, flags: 0, offset: 0, length: 512 };
        assert_eq!(self.queue(0).submit(tag, request, now, true), Ok(Wake::NONE));
    }

    /// The server answers the oldest request.
    fn finish_at(&mut self, now: u64) -> Result<(), Errno> {
        self.now = now;
        let epoch = self.epoch;
        let Work::Request(got) = self.queue(0).fetch(epoch, 0) else { panic!("nothing there") };
        self.queue(0).finish(got.handle, Ok(())).expect("held").result()
    }

    /// All waiting requests fail.
    fn empty(&mut self) {
        self.waiting.clear();
        for queue in 0..2 {
            while self.queue(queue).fail_next(0).is_some() {}
        }
    }

    /// Number of flushes of a quiet disk that fail until one succeeds.
    fn failures(&mut self) -> u32 {
        let mut failed = 0;
        while failed < 10 {
            let (sent, answered) = (self.now + 1, self.now + 2);
            self.submit_at(3, Op::Flush, sent);
            if self.finish_at(answered).is_ok() {
                break;
            }
            failed += 1;
        }
        failed
    }

    /// Reports the end of a write that the first server answered.
    fn ended_at(&mut self, now: u64) {
        self.now = now;
        self.queue(0).ended(1, 1);
    }

    fn submit(&mut self, queue: usize, op: Op, fua: bool) {
        let all = || self.waiting.iter().chain(self.taken.iter().map(|taken| &taken.asked));
        let used = |tag: u16| all().any(|asked| asked.queue == queue && asked.tag == tag);
        let Some(tag) = (0..4).find(|tag| !used(*tag)) else { return };
        let request = Request { op, flags: if fua { FUA } else { 0 }, offset: 0, length: 512 };
        let submitted = self.now;
        assert_eq!(self.queue(queue).submit(tag, request, submitted, true), Ok(Wake::NONE));
        self.waiting.push(Asked { queue, tag, op, fua, submitted });
    }

    fn fetch(&mut self) {
        self.settle();
        let (epoch, fetched) = (self.epoch, self.now);
        for number in 0..2 {
            while let Work::Request(got) = self.queue(number).fetch(epoch, 0) {
                let at = self
                    .waiting
                    .iter()
                    .position(|asked| asked.queue == number && asked.tag == got.handle.tag())
                    .expect("it waited");
                let asked = self.waiting.swap_remove(at);
                self.taken.push(Taken { asked, handle: got.handle, epoch, fetched });
            }
        }
    }

    fn call(&mut self, call: Call) -> Result<(), TestCaseError> {
        self.now += 1;
        match call {
            Call::Submit { queue, op, fua } => self.submit(queue, op, fua),
            Call::Fetch => self.fetch(),
            Call::Answer { nth, ok } => {
                if self.taken.is_empty() {
                    return Ok(());
                }
                let nth = nth % self.taken.len();
                let taken = self.taken.swap_remove(nth);
                let said = if ok { Ok(()) } else { Err(Errno::ENOSPC) };
                let now = self.now;
                if ok {
                    self.model.answer(taken, now);
                }
                let flush = taken.asked.op == Op::Flush;
                let lost = flush && self.cache.lost();
                let wanted = if lost { said.and(Err(Errno::EIO)) } else { said };
                let mut queue = self.queue(taken.asked.queue);
                let end = queue.finish(taken.handle, said);
                // The block request ends at once.
                let written = queue.written();
                if written > 0 {
                    queue.ended(taken.epoch, written);
                }
                prop_assert_eq!(end, Ok(effect::end(taken.asked.tag, wanted)));
                prop_assert!(!self.cache.lost() || self.model.lost, "nothing is lost");
                if flush {
                    self.model.check(taken.asked.submitted, wanted)?;
                }
            }
            Call::Attach => self.attach(),
            Call::Claim => {
                let fetched = self.life.clone().first_fetch(self.epoch);
                let claimed = self.life.claim_cache(self.epoch);
                prop_assert!(claimed.is_ok() || !fetched, "{:?}", claimed);
            }
            Call::Die => {
                let dead = self.epoch;
                for queue in 0..2 {
                    prop_assert_eq!(self.queue(queue).requeue(dead, |_| ()), Wake::NONE);
                }
                self.attach();
                let (back, kept): (Vec<Taken>, _) =
                    std::mem::take(&mut self.taken).into_iter().partition(|taken| taken.epoch == dead);
                self.taken = kept;
                for taken in back {
                    let refused = self.queue(taken.asked.queue).finish(taken.handle, Ok(()));
                    prop_assert_eq!(refused, Err(Refused::Stale), "of a dead server");
                    self.waiting.push(taken.asked);
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 6000, ..ProptestConfig::default() })]

    #[test]
    fn a_flush_vouches_for_what_is_durable_alone(calls in prop::collection::vec(calls(), 1..60)) {
        let mut device = Device::new();
        for call in calls {
            device.call(call)?;
        }
        // The next flushes of a queue report the loss.
        device.call(Call::Die)?;
        device.call(Call::Claim)?;
        device.settle();
        device.empty();
        let lost = device.cache.lost();
        let failed = device.failures();
        prop_assert!(if lost { failed == 1 || failed == 2 } else { failed == 0 }, "{} flushes failed", failed);
    }
}

/// Until a write's block request is ended nobody can rely on it: a flush that was sent before that leaves the loss to the
/// next, whether the write was lost before or after its end.
#[test]
fn what_is_answered_counts_when_it_is_ended() {
    const WRITE: u64 = 10;
    const ENDED: u64 = 15;
    for lost_as_it_is_answered in [false, true] {
        let mut device = Device::new();
        device.submit_at(0, Op::Write, 5);
        assert_eq!(device.finish_at(WRITE), Ok(()));
        device.submit_at(1, Op::Flush, WRITE + 2);
        if lost_as_it_is_answered {
            device.change(false);
            device.ended_at(ENDED);
        } else {
            device.ended_at(ENDED);
            device.change(false);
        }
        assert_eq!((device.finish_at(20), device.cache.lost()), (Err(Errno::EIO), true));
        // This flush may have been made before the end was known, so it does not count.
        device.submit_at(1, Op::Flush, ENDED);
        assert_eq!((device.finish_at(30), device.cache.lost()), (Err(Errno::EIO), true));
        assert_eq!((device.failures(), device.cache.lost()), (2, false));
    }
}

/// Between the attaching of a server and its first fetch, flushes neither fail nor vouch for what may be lost: the
/// flush that an older server holds covers that server's cache, and what it answers later is lost if nobody has it.
#[test]
fn nothing_is_lost_before_the_first_fetch() {
    for survived in [false, true] {
        let mut device = Device::new();
        device.submit_at(0, Op::Write, 5);
        assert_eq!(device.finish_at(10), Ok(()));
        device.ended_at(11);
        device.submit_at(1, Op::Flush, 12);
        let Work::Request(flush) = device.queue(0).fetch(1, 0) else { panic!("nothing there") };
        device.submit_at(0, Op::Write, 13);
        let Work::Request(write) = device.queue(0).fetch(1, 0) else { panic!("nothing there") };
        device.attach();
        assert!(!device.cache.lost());
        // A server that attaches and never fetches changes nothing.
        device.attach();
        device.now = 20;
        assert_eq!(device.queue(0).finish(flush.handle, Ok(())).expect("held").result(), Ok(()));
        assert_eq!(device.queue(0).finish(write.handle, Ok(())).expect("held").result(), Ok(()));
        device.ended_at(21);
        assert!(!device.cache.lost());
        if survived {
            assert_eq!(device.life.claim_cache(3), Ok(()));
        }
        device.settle();
        // The first write was flushed, the second one was not.
        assert_eq!(device.cache.lost(), !survived);
        assert_eq!(device.failures(), if survived { 0 } else { 2 });
        assert_eq!(device.life.claim_cache(3), Err(Errno::EALREADY));
    }
}

/// Threads that end writes may come in another order than that in which they read the clock: the latest time
/// counts.
#[test]
fn the_last_end_of_a_write_counts() {
    let mut device = Device::new();
    device.submit_at(0, Op::Write, 5);
    device.submit_at(1, Op::Write, 6);
    assert_eq!((device.finish_at(10), device.finish_at(11)), (Ok(()), Ok(())));
    device.submit_at(2, Op::Flush, 22);
    device.ended_at(27);
    device.ended_at(20);
    device.change(false);
    assert_eq!((device.finish_at(30), device.cache.lost()), (Err(Errno::EIO), true));
    assert_eq!((device.failures(), device.cache.lost()), (2, false));
}

/// A flush covered a write before its thread could report the end of the write: nothing of it can be lost.
#[test]
fn what_a_flush_has_covered_is_not_lost_for_being_told_late() {
    let mut device = Device::new();
    device.submit_at(0, Op::Write, 5);
    assert_eq!(device.finish_at(10), Ok(()));
    device.submit_at(1, Op::Flush, 12);
    assert_eq!(device.finish_at(13), Ok(()));
    device.change(false);
    assert!(!device.cache.lost());
    device.ended_at(20);
    assert!(!device.cache.lost());
    device.submit_at(1, Op::Flush, 30);
    assert_eq!(device.finish_at(31), Ok(()));
    // A write of the next server is lost all the same.
    device.submit_at(0, Op::Write, 32);
    assert_eq!(device.finish_at(33), Ok(()));
    device.change(false);
    device.queue(0).ended(2, 1);
    assert_eq!((device.failures(), device.cache.lost()), (2, false));
}

/// A flush that its server fails also tells its submitters of an error, and no other flush is needed for
/// that.
#[test]
fn a_flush_that_its_server_fails_counts() {
    let mut device = Device::new();
    device.submit_at(0, Op::Write, 5);
    assert_eq!(device.finish_at(10), Ok(()));
    device.ended_at(11);
    device.change(false);
    for (sent, lost) in [(20, true), (30, false)] {
        device.submit_at(1, Op::Flush, sent);
        let epoch = device.epoch;
        let Work::Request(got) = device.queue(0).fetch(epoch, 0) else { panic!("nothing there") };
        let end = device.queue(0).finish(got.handle, Err(Errno::EIO)).expect("held");
        assert_eq!((end.result(), device.cache.lost()), (Err(Errno::EIO), lost));
    }
    assert_eq!(device.queue(0).counters().lost_flushes, 0);
    assert_eq!(device.failures(), 0);
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

/// A request counts once, when it is answered, with its own submission and its last fetch.
#[test]
fn answered_requests_are_counted() {
    let (mut state, mut slots) = (QueueState::default(), [Slot::default(); 2]);
    let mut latencies = Latencies::default();
    let mut at = |now_ns: u64, thread: u32, each: &mut dyn FnMut(&mut Queue<'_>)| {
        let moment = Moment { now_ns, thread };
        let around = Surroundings { cache: None, latencies: Some(&mut latencies), moment, written: 0 };
        each(&mut Queue::new(&mut state, &mut slots).within(around));
    };
    let mut handle = None;
    at(0, 0, &mut |queue| {
        assert_eq!(queue.submit(0, Request::default(), 1_000, true), Ok(Wake::NONE));
        assert_eq!(queue.submit(1, Request::default(), 1_000, true), Ok(Wake::NONE));
    });
    for (now_ns, thread) in [(2_000, 6), (5_000, 7)] {
        at(now_ns, thread, &mut |queue| {
            let Work::Request(fetched) = queue.fetch(0, 0) else { panic!("nothing there") };
            handle = Some(fetched.handle);
            let seen = queue.outstanding_from(0).expect("it is there");
            assert_eq!((seen.thread, seen.submitted_ns, seen.fetched_ns), (thread, 1_000, now_ns));
            if now_ns == 2_000 {
                assert_eq!(queue.unfetch(fetched.handle), Wake::NONE);
            }
        });
    }
    at(13_000, 7, &mut |queue| {
        assert_eq!(queue.finish(handle.expect("fetched"), Ok(())), Ok(effect::end(0, Ok(()))));
        assert_eq!(queue.outstanding_from(0).map(|seen| seen.tag), Some(1));
        // A failed request is not counted.
        assert_eq!(queue.fail_next(0).map(|end| end.tag()), Some(1));
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
