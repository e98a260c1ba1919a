// SPDX-License-Identifier: GPL-2.0-only
//! Exhaustive search: the block layer's flush machinery above the engine, while writes are lost.
//!
//! The block layer has one flush of a queue in flight. Requests that need a flush meanwhile wait, and the
//! next flush answers all of them: flushes of submitters, and durable writes on a device without FUA, which
//! wait for a flush before their data, after it, or both. No flush is made while the data of such a write is
//! in flight, unless another request has waited for long.
//!
//! Writes that an old server answers after a server with another cache has attached are lost, whether before or after
//! that server's first fetch. The promise, for each lost write: no flush succeeds that was sent after the write had
//! ended, unless such a flush has failed. A flush that the old server holds and answers before that first fetch
//! does not fail. From each state, a queue that becomes quiet has at most two failed flushes.
//!
//! The search uses the engine's real queues and cache. A state consists of the machinery's contents and the
//! order of the relevant times; the search ends when no state is new.

use std::collections::{HashSet, VecDeque};
use std::fmt::Write as _;

use zosbd2_engine::Errno;
use zosbd2_engine::cache::Cache;
use zosbd2_engine::device::Policy;
use zosbd2_engine::queue::{Deadline, Moment, Overdue, Queue, QueueState, Surroundings, Wake, Work};
use zosbd2_engine::request::{Handle, Op, Request, Slot};

const OLD: u32 = 1;
const NEW: u32 = 2;
const FLUSH: u16 = 0;
const DATA: u16 = 1;
/// Tag of the first lost write; the second one has the next tag.
const LOST: u16 = 2;
const TAGS: usize = 4;

/// Parameters of a search.
#[derive(Clone, Copy, Debug)]
struct Terms {
    queues: usize,
    /// Number of writes that are lost, one after another.
    lost: usize,
    /// Most submitters that wait for flushes of a queue.
    waiting: usize,
    /// Whether there are durable writes, one at a time in each queue.
    writes: bool,
    /// Whether the old server holds a flush.
    old_flush: bool,
    wrong: Wrong,
}

/// A deviation from the kernel or from the rule, which the search must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Nothing,
    /// The first failed flush counts as made after the loss, so the second one reports it.
    OnePredecessorFewer,
    /// A write counts as sent when it reaches the driver.
    YoungWrites,
}

/// A request that waits for a flush. `relies`: the lost writes on which its submitter relies, one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Waits {
    Flush { relies: u8 },
    Before { relies: u8, sent: u64, after: bool },
    After { relies: u8 },
}

impl Waits {
    const fn relies(self) -> u8 {
        match self {
            Self::Flush { relies } | Self::Before { relies, .. } | Self::After { relies } => relies,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flush {
    No,
    /// On its way to the driver.
    Made(u64),
    Held(Handle, u64),
    /// The block layer does not know yet.
    Answered(bool),
}

/// The data of a durable write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Data {
    No,
    OnItsWay { relies: u8, sent: u64, after: bool },
    Held { handle: Handle, relies: u8, sent: u64, after: bool },
    Answered { relies: u8, after: bool },
}

#[derive(Clone, Debug)]
struct Machinery {
    pending: Vec<Waits>,
    running: Vec<Waits>,
    flush: Flush,
    data: Data,
    /// Writes whose ends the block layer knows, but the engine does not.
    ended: u8,
    state: QueueState,
    slots: [Slot; TAGS],
}

/// Progress of a write that will be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    Held(Handle),
    Answered,
    /// Its submitter knows its end.
    Ended,
    /// The engine knows its end, too.
    Told,
}

#[derive(Clone, Debug)]
struct World {
    terms: Terms,
    now: u64,
    cache: Cache,
    queues: Vec<Machinery>,
    lost: Vec<Lost>,
    /// The new server has fetched.
    fetched: bool,
    /// Lost writes that were reported to a submitter.
    reported: u8,
}

#[derive(Clone, Copy, Debug)]
enum Input {
    SendFlush(usize),
    SendWrite { queue: usize, before: bool, after: bool },
    BringFlush(usize),
    BringData(usize),
    AnswerFlush { queue: usize, ok: bool },
    ExpireFlush(usize),
    TellFlush(usize),
    AnswerData(usize),
    TellData(usize),
    TellEngine(usize),
    LosePatience(usize),
    Lose(usize),
    FirstFetch,
}

impl World {
    fn new(terms: Terms) -> Self {
        let machinery = Machinery {
            pending: Vec::new(),
            running: Vec::new(),
            flush: Flush::No,
            data: Data::No,
            ended: 0,
            state: QueueState::default(),
            slots: [Slot::default(); TAGS],
        };
        let mut world = Self {
            terms,
            now: 1000,
            cache: Cache::new(),
            queues: vec![machinery; terms.queues],
            lost: Vec::new(),
            fetched: false,
            reported: 0,
        };
        for number in 0..terms.queues {
            world.queue(number).attach(OLD);
            world.queue(number).lose_cache(OLD);
        }
        for tag in (LOST..).take(terms.lost) {
            let handle = world.submit(0, tag, Op::Write, 1000, OLD);
            world.lost.push(Lost::Held(handle));
        }
        if terms.old_flush {
            let handle = world.submit(0, FLUSH, Op::Flush, 1000, OLD);
            world.queues[0].running.push(Waits::Flush { relies: 0 });
            world.queues[0].flush = Flush::Held(handle, 1000);
        }
        for number in 0..terms.queues {
            world.queue(number).attach(NEW);
        }
        world
    }

    fn queue(&mut self, queue: usize) -> Queue<'_> {
        let moment = Moment { now_ns: self.now, thread: 0 };
        let around = Surroundings { cache: Some(&self.cache), latencies: None, moment, written: 0 };
        let machinery = &mut self.queues[queue];
        Queue::new(&mut machinery.state, &mut machinery.slots).within(around)
    }

    /// A request is submitted, and its server fetches it.
    fn submit(&mut self, queue: usize, tag: u16, op: Op, made: u64, epoch: u32) -> Handle {
        let request = Request { op, flags: 0, offset: 0, length: 512 };
        assert_eq!(self.queue(queue).submit(tag, request, made, true), Ok(Wake::NONE));
        let Work::Request(got) = self.queue(queue).fetch(epoch, 0) else { panic!("nothing there") };
        assert_eq!(got.handle.tag(), tag);
        got.handle
    }

    /// The lost writes on which a submitter relies that sends a flush now.
    fn relies(&self) -> u8 {
        let ended = |lost: &&Lost| matches!(lost, Lost::Ended | Lost::Told);
        (1 << self.lost.iter().take_while(ended).count()) - 1
    }

    fn waits(&mut self, queue: usize, waits: Waits) {
        self.queues[queue].pending.push(waits);
        self.queues[queue].pending.sort();
        self.kick(queue, false);
    }

    fn kick(&mut self, queue: usize, impatient: bool) {
        let now = self.now;
        let machinery = &mut self.queues[queue];
        let data = machinery.data != Data::No;
        if !machinery.pending.is_empty() && machinery.flush == Flush::No && (!data || impatient) {
            machinery.running = std::mem::take(&mut machinery.pending);
            machinery.flush = Flush::Made(now);
        }
    }

    /// The flush ends with an error, or will: all requests that it answers are told.
    fn report(&mut self, queue: usize) {
        let relies = self.queues[queue].running.iter().fold(0, |relies, waits| relies | waits.relies());
        self.reported |= relies;
    }

    fn inputs(&self, inputs: &mut Vec<Input>) {
        inputs.clear();
        for (queue, machinery) in self.queues.iter().enumerate() {
            if machinery.pending.len() + machinery.running.len() < self.terms.waiting {
                inputs.push(Input::SendFlush(queue));
            }
            let writes = |waits: &&Waits| !matches!(waits, Waits::Flush { .. });
            let waiting = machinery.pending.iter().chain(&machinery.running).filter(writes).count();
            if self.terms.writes && machinery.data == Data::No && waiting == 0 && machinery.ended == 0 {
                for (before, after) in [(true, true), (true, false), (false, true)] {
                    inputs.push(Input::SendWrite { queue, before, after });
                }
            }
            match machinery.flush {
                Flush::No if machinery.data != Data::No && !machinery.pending.is_empty() => {
                    inputs.push(Input::LosePatience(queue));
                }
                Flush::Made(_) if self.fetched => inputs.push(Input::BringFlush(queue)),
                Flush::No | Flush::Made(_) => {}
                Flush::Held(..) => {
                    inputs.push(Input::AnswerFlush { queue, ok: true });
                    inputs.push(Input::AnswerFlush { queue, ok: false });
                    inputs.push(Input::ExpireFlush(queue));
                }
                Flush::Answered(_) => inputs.push(Input::TellFlush(queue)),
            }
            match machinery.data {
                Data::OnItsWay { .. } if self.fetched => inputs.push(Input::BringData(queue)),
                Data::No | Data::OnItsWay { .. } => {}
                Data::Held { .. } => inputs.push(Input::AnswerData(queue)),
                Data::Answered { .. } => inputs.push(Input::TellData(queue)),
            }
            if machinery.ended > 0 {
                inputs.push(Input::TellEngine(queue));
            }
        }
        if !self.fetched {
            inputs.push(Input::FirstFetch);
        }
        // One after another.
        if let Some(next) = self.lost.iter().position(|lost| *lost != Lost::Told) {
            inputs.push(Input::Lose(next));
        }
    }

    fn apply(&mut self, input: Input) {
        self.now += 1;
        let (now, relies) = (self.now, self.relies());
        match input {
            Input::SendFlush(queue) => self.waits(queue, Waits::Flush { relies }),
            Input::SendWrite { queue, before: true, after } => {
                self.waits(queue, Waits::Before { relies, sent: now, after });
            }
            Input::SendWrite { queue, after, .. } => {
                self.queues[queue].data = Data::OnItsWay { relies, sent: now, after };
            }
            Input::BringFlush(queue) => {
                let Flush::Made(made) = self.queues[queue].flush else { unreachable!() };
                let made = if self.terms.wrong == Wrong::OnePredecessorFewer { u64::MAX } else { made };
                let handle = self.submit(queue, FLUSH, Op::Flush, made, NEW);
                self.queues[queue].flush = Flush::Held(handle, made);
            }
            Input::BringData(queue) => {
                let Data::OnItsWay { relies, sent, after } = self.queues[queue].data else { unreachable!() };
                let sent = if self.terms.wrong == Wrong::YoungWrites { now } else { sent };
                let handle = self.submit(queue, DATA, Op::Write, sent, NEW);
                self.queues[queue].data = Data::Held { handle, relies, sent, after };
            }
            Input::AnswerFlush { queue, ok } => {
                let Flush::Held(handle, _) = self.queues[queue].flush else { unreachable!() };
                let said = if ok { Ok(()) } else { Err(Errno::EIO) };
                let end = self.queue(queue).finish(handle, said).expect("held");
                assert!(self.fetched || end.result() == said, "nothing is lost yet");
                self.queues[queue].flush = Flush::Answered(end.result().is_ok());
                if end.result().is_err() {
                    self.report(queue);
                }
            }
            Input::ExpireFlush(queue) => {
                let overdue = self.queue(queue).expire(FLUSH, Deadline { policy: Policy::Fail, ns: 1 });
                assert!(matches!(overdue, Overdue::End(ref end) if end.result().is_err()), "{overdue:?}");
                self.queues[queue].flush = Flush::Answered(false);
                self.report(queue);
            }
            Input::TellFlush(queue) => self.tell_flush(queue),
            Input::AnswerData(queue) => {
                let Data::Held { handle, relies, after, .. } = self.queues[queue].data else {
                    unreachable!()
                };
                assert_eq!(self.queue(queue).finish(handle, Ok(())).expect("held").result(), Ok(()));
                self.queues[queue].data = Data::Answered { relies, after };
            }
            Input::TellData(queue) => {
                let Data::Answered { relies, after } = self.queues[queue].data else { unreachable!() };
                self.queues[queue].data = Data::No;
                self.queues[queue].ended += 1;
                if after {
                    self.waits(queue, Waits::After { relies });
                } else {
                    self.kick(queue, false);
                }
            }
            Input::TellEngine(queue) => {
                let written = std::mem::take(&mut self.queues[queue].ended);
                self.queue(queue).ended(NEW, written.into());
            }
            Input::LosePatience(queue) => self.kick(queue, true),
            Input::FirstFetch => {
                self.fetched = true;
                for queue in 0..self.queues.len() {
                    self.queue(queue).lose_cache(NEW);
                }
            }
            Input::Lose(number) => {
                self.lost[number] = match self.lost[number] {
                    Lost::Held(handle) => {
                        assert_eq!(self.queue(0).finish(handle, Ok(())).expect("held").result(), Ok(()));
                        Lost::Answered
                    }
                    Lost::Answered => Lost::Ended,
                    Lost::Ended | Lost::Told => {
                        self.queue(0).ended(OLD, 1);
                        Lost::Told
                    }
                }
            }
        }
    }

    fn tell_flush(&mut self, queue: usize) {
        let Flush::Answered(ok) = self.queues[queue].flush else { unreachable!() };
        self.queues[queue].flush = Flush::No;
        for waits in std::mem::take(&mut self.queues[queue].running) {
            let betrayed = waits.relies() & !self.reported;
            let vouches = ok && !matches!(waits, Waits::After { .. });
            assert!(!vouches || betrayed == 0, "a flush succeeds for {waits:?}, and nobody was told");
            match waits {
                Waits::Before { relies, sent, after } if ok => {
                    self.queues[queue].data = Data::OnItsWay { relies, sent, after };
                }
                _ => {}
            }
        }
        self.kick(queue, false);
    }

    /// Ends all requests in flight, and then sends a flush.
    fn check_that_it_ends(mut self) {
        let mut inputs = Vec::new();
        loop {
            self.inputs(&mut inputs);
            let goes_on = |input: &&Input| {
                !matches!(
                    input,
                    Input::SendFlush(_)
                        | Input::SendWrite { .. }
                        | Input::LosePatience(_)
                        | Input::ExpireFlush(_)
                        | Input::AnswerFlush { ok: false, .. }
                )
            };
            let Some(next) = inputs.iter().find(goes_on) else { break };
            self.apply(*next);
        }
        for queue in 0..self.queues.len() {
            let mut failed = 0;
            loop {
                self.apply(Input::SendFlush(queue));
                self.apply(Input::BringFlush(queue));
                self.apply(Input::AnswerFlush { queue, ok: true });
                let ok = self.queues[queue].flush == Flush::Answered(true);
                self.apply(Input::TellFlush(queue));
                if ok {
                    break;
                }
                failed += 1;
                assert!(failed <= 2 && queue == 0, "flush {failed} of queue {queue} fails");
            }
        }
    }

    /// The differences that matter: the order of times, and whether a loss is the last one.
    fn key(&self) -> String {
        let cache = format!("{:?}", self.cache);
        let losses = number(&cache, "losses: ");
        let mut times = vec![number(&cache, "lost_ns: ")];
        let mut facts = vec![losses == number(&cache, "reported: ")];
        for machinery in &self.queues {
            let state = format!("{:?}", machinery.state);
            let flags = state.split("loss: ").nth(1).expect("there is one");
            facts.push(number(flags, "number: ") == losses);
            facts.extend(["unended: true", "failed: true"].map(|flag| flags.contains(flag)));
            times.push(number(flags, "since_ns: "));
            times.push(number(&state, "unflushed_ns: "));
            let sent = |waits: &Waits| if let Waits::Before { sent, .. } = waits { *sent } else { 0 };
            times.extend(machinery.pending.iter().chain(&machinery.running).map(sent));
            times.push(match machinery.flush {
                Flush::Made(made) | Flush::Held(_, made) => made,
                Flush::No | Flush::Answered(_) => 0,
            });
            times.push(match machinery.data {
                Data::OnItsWay { sent, .. } | Data::Held { sent, .. } => sent,
                Data::No | Data::Answered { .. } => 0,
            });
        }
        let mut sorted = times.clone();
        sorted.sort_unstable();
        sorted.dedup();
        let ranks: Vec<_> =
            times.iter().map(|time| sorted.binary_search(time).expect("it is there")).collect();
        let lost: Vec<_> = self.lost.iter().map(std::mem::discriminant).collect();
        let mut key = format!("{ranks:?}{facts:?}{}{}{lost:?}", self.reported, self.fetched);
        for machinery in &self.queues {
            let untimed = |waits: &Waits| match *waits {
                Waits::Before { relies, after, .. } => Waits::Before { relies, sent: 0, after },
                other => other,
            };
            let pending: Vec<_> = machinery.pending.iter().map(untimed).collect();
            let running: Vec<_> = machinery.running.iter().map(untimed).collect();
            let flush = match machinery.flush {
                Flush::No => 0,
                Flush::Made(_) => 1,
                Flush::Held(..) => 2,
                Flush::Answered(ok) => 3 + u8::from(ok),
            };
            let data = match machinery.data {
                Data::No => (0, 0, false),
                Data::OnItsWay { relies, after, .. } => (1, relies, after),
                Data::Held { relies, after, .. } => (2, relies, after),
                Data::Answered { relies, after } => (3, relies, after),
            };
            let ended = machinery.ended;
            write!(key, "{pending:?}{running:?}{flush}{data:?}{ended}").expect("strings have room");
        }
        key
    }
}

/// The number behind a name in the output of `Debug`.
fn number(text: &str, name: &str) -> u64 {
    let (_, rest) = text.split_once(name).unwrap_or_else(|| panic!("no {name} in {text}"));
    let end = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().expect("a number")
}

/// Returns the number of states.
fn search(root: World) -> usize {
    let mut seen = HashSet::from([root.key()]);
    let (mut worlds, mut inputs) = (VecDeque::from([(root, Vec::new())]), Vec::new());
    while let Some((world, way)) = worlds.pop_front() {
        world.inputs(&mut inputs);
        for input in &inputs {
            let mut next = world.clone();
            let mut way = way.clone();
            way.push(*input);
            let way = Way(way);
            next.apply(*input);
            if seen.insert(next.key()) {
                next.clone().check_that_it_ends();
                let mut way = way;
                worlds.push_back((next, std::mem::take(&mut way.0)));
            }
        }
    }
    println!("{} states", seen.len());
    seen.len()
}

/// The path to a state, printed if the state breaks the promise.
struct Way(Vec<Input>);

impl Drop for Way {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:#?}", self.0);
        }
    }
}

const ONE_QUEUE: Terms =
    Terms { queues: 1, lost: 1, waiting: 3, writes: true, old_flush: false, wrong: Wrong::Nothing };

#[test]
fn one_queue_keeps_the_promise() {
    assert!(search(World::new(ONE_QUEUE)) > 10_000);
}

#[test]
fn one_queue_keeps_the_promise_for_two_losses() {
    assert!(search(World::new(Terms { lost: 2, waiting: 2, ..ONE_QUEUE })) > 10_000);
}

#[test]
fn a_flush_of_the_old_server_keeps_the_promise() {
    assert!(search(World::new(Terms { old_flush: true, waiting: 2, ..ONE_QUEUE })) > 5_000);
}

#[test]
fn two_queues_keep_the_promise() {
    let two = Terms { queues: 2, waiting: 2, writes: false, ..ONE_QUEUE };
    assert!(search(World::new(two)) > 5_000);
}

/// The second flush that was made after the loss reports it, not the first one.
#[test]
#[should_panic(expected = "nobody was told")]
fn one_predecessor_fewer_breaks_the_promise() {
    search(World::new(Terms { writes: false, wrong: Wrong::OnePredecessorFewer, ..ONE_QUEUE }));
}

/// The reporting flush may answer only a write that was sent before the loss.
#[test]
#[should_panic(expected = "nobody was told")]
fn writes_sent_before_the_loss_count() {
    search(World::new(Terms { wrong: Wrong::YoungWrites, ..ONE_QUEUE }));
}
