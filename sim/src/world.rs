// SPDX-License-Identifier: GPL-2.0-only
//! One episode: a device from its first server to its end, step by step, with checks after each
//! step.
//!
//! Each step chooses among all actors that can run. The clock advances a little with every step,
//! and jumps if every actor waits for it. After the given number of steps the device is destroyed,
//! and the episode ends when every actor is gone.

use crate::account::Account;
use crate::block::{Block, Part};
use crate::device::{Device, Task, Teardown};
use crate::random::Random;
use crate::server::Process;
use crate::settings::{BLOCK, Defect, Settings};
use crate::store::Store;
use crate::thread::{State, Thread};
use std::collections::VecDeque;

/// Number of trace lines that are kept.
const TRACE: usize = 2000;
/// An episode with more steps than this counts as endless.
const ENDLESS: u64 = 150_000;

/// The whole state of an episode.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) settings: Settings,
    defect: Option<Defect>,
    pub(crate) random: Random,
    pub(crate) now_ns: u64,
    /// Number of steps, which is the time of the account.
    pub(crate) steps: u64,
    pub(crate) device: Device,
    pub(crate) block: Block,
    pub(crate) account: Account,
    pub(crate) store: Store,
    /// The cache whose content is visible.
    pub(crate) cache: usize,
    pub(crate) processes: Vec<Process>,
    pub(crate) threads: Vec<Thread>,
    /// The process that last relied on its disk.
    pub(crate) on_disk: Option<usize>,
    /// The newest process.
    pub(crate) newest: Option<usize>,
    /// When the operator next makes sure that there is a server.
    operator_ns: u64,
    resizing: bool,
    /// The next thread that copies loses its CPU for a while.
    stalls: bool,
    ending: bool,
    violation: Option<String>,
    trace: Option<VecDeque<String>>,
}

/// The actors.
#[derive(Clone, Copy, Debug)]
enum Actor {
    Thread(usize),
    Block(Part),
    Work(usize),
    Teardown,
    Operator,
}

/// Counts of an episode.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Steps.
    pub steps: u64,
    /// Requests of submitters that ended.
    pub finished: u64,
    /// Requests of submitters that failed.
    pub failed: u64,
    /// Servers that attached.
    pub servers: u64,
    /// Requests returned to a queue.
    pub requeued: u64,
    /// Answers that were late, repeated or for no request.
    pub stale: u64,
    /// Flushes that failed because a cache was lost.
    pub lost_flushes: u64,
    /// Late requests.
    pub expired: u64,
}

impl Counts {
    /// Adds other counts.
    pub const fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.finished += other.finished;
        self.failed += other.failed;
        self.servers += other.servers;
        self.requeued += other.requeued;
        self.stale += other.stale;
        self.lost_flushes += other.lost_flushes;
        self.expired += other.expired;
    }
}

/// What is wrong, and the last steps if they were traced.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The violated rule.
    pub what: String,
    /// The last steps.
    pub trace: Vec<String>,
}

/// Runs the episode of a seed. With `traced`, a failure carries the last steps.
pub fn episode(seed: u64, defect: Option<Defect>, traced: bool) -> Result<Counts, Failure> {
    let mut world = World::new(seed, defect, traced);
    world.run();
    match world.violation.take() {
        None => Ok(world.counts()),
        Some(what) => {
            let trace = world.trace.take().unwrap_or_default().into();
            Err(Failure { what: format!("step {}: {what}", world.steps), trace })
        }
    }
}

impl World {
    fn new(seed: u64, defect: Option<Defect>, traced: bool) -> Self {
        let mut random = Random::new(seed);
        let settings = Settings::random(&mut random);
        let mut device = Device::new(&settings);
        device.size_bytes = u64::try_from(settings.blocks).unwrap_or(0) * u64::from(BLOCK);
        if settings.version == 1 {
            device.life.set_started();
        }
        let mut world = Self {
            defect,
            random,
            now_ns: 0,
            // Later than the first zeros.
            steps: 2,
            device,
            block: Block::new(settings.queues, settings.depth, settings.submitters),
            account: Account::new(settings.blocks),
            store: Store::new(settings.blocks),
            cache: 0,
            processes: Vec::new(),
            threads: Vec::new(),
            on_disk: None,
            newest: None,
            operator_ns: 0,
            resizing: false,
            stalls: false,
            ending: false,
            violation: None,
            trace: traced.then(VecDeque::new),
            settings,
        };
        let settings = format!("{:?}", world.settings);
        world.say(|| settings);
        world.start_server(false, false);
        world
    }

    fn counts(&mut self) -> Counts {
        let mut counts = Counts {
            steps: self.steps,
            finished: self.block.finished,
            failed: self.block.failed,
            servers: u64::from(self.device.life.epoch()),
            ..Counts::default()
        };
        for queue in 0..self.settings.queues {
            let counters = *self.queue(queue).counters();
            counts.requeued += counters.requeued;
            counts.stale += counters.stale;
            counts.lost_flushes += counters.lost_flushes;
            counts.expired += counters.expired;
        }
        counts
    }

    /// Whether this defect is planted.
    pub(crate) fn planted(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    /// Records a violation. Only the first one is kept.
    pub(crate) fn violation(&mut self, what: String) {
        if self.violation.is_none() {
            self.say(|| format!("WRONG: {what}"));
            self.violation = Some(what);
        }
    }

    /// Adds a line to the trace, if there is one.
    pub(crate) fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            if trace.len() == TRACE {
                trace.pop_front();
            }
            let ms = self.now_ns / 1_000_000;
            trace.push_back(format!("{:>7} {ms:>7} ms  {}", self.steps, line()));
        }
    }

    /// The value that a reader would get.
    pub(crate) fn visible(&self, block: usize) -> u64 {
        self.store.read(self.cache, block)
    }

    /// Checks that the disk has all durable values.
    pub(crate) fn check_disk(&mut self) {
        if let Err(error) = self.account.check_disk(&self.store.disk) {
            self.violation(error);
        }
    }

    fn run(&mut self) {
        let mut actors = Vec::new();
        let (mut parts, mut works) = (Vec::new(), Vec::new());
        while self.violation.is_none() && !self.over() {
            self.steps += 1;
            self.now_ns += 1 + self.random.below(20_000);
            // Any actor may be slow.
            if self.random.one_in(400) {
                let ms = self.random.pick(&[1, 1, 1, 1, 1, 10, 10, 300]);
                self.now_ns += ms * 1_000_000;
            }
            self.timers();
            if self.random.one_in(self.settings.faults) {
                self.fault();
            }
            if self.steps >= self.settings.steps {
                self.end_it();
            }
            if self.steps > ENDLESS {
                let left = self.block.outstanding();
                self.violation(format!("no end after {ENDLESS} steps, {left} I/Os left"));
            }
            actors.clear();
            let wake_ns = self.ready(&mut actors, &mut parts, &mut works);
            if actors.is_empty() {
                self.check_rest();
                if wake_ns == u64::MAX {
                    self.violation("nobody can go on, ever".to_owned());
                }
                self.now_ns = self.now_ns.max(wake_ns);
                continue;
            }
            match self.random.pick(&actors) {
                Actor::Thread(number) => {
                    self.step_thread(number);
                    if self.stalls && self.threads[number].copies() {
                        self.stalls = false;
                        let ms = self.random.pick(&[1, 300, 1000, 2000]);
                        self.threads[number].stalled_until = self.now_ns + ms * 1_000_000;
                    }
                }
                Actor::Block(part) => self.step_block(part),
                Actor::Work(number) => self.step_work(number),
                Actor::Teardown => self.step_teardown(),
                Actor::Operator => self.operator(),
            }
            self.check();
        }
        if self.violation.is_none() {
            self.check_end();
        }
    }

    /// Finds the actors that can run. Returns the time when the next waiting actor can.
    fn ready(&mut self, actors: &mut Vec<Actor>, parts: &mut Vec<Part>, works: &mut Vec<usize>) -> u64 {
        let mut wake_ns = self.device.next_ns().min(self.block.next_ns(self.now_ns));
        for number in 0..self.threads.len() {
            let (ready, until) = self.thread_ready(number);
            if ready {
                actors.push(Actor::Thread(number));
            } else {
                wake_ns = wake_ns.min(until);
            }
        }
        parts.clear();
        let started = self.device.life.started();
        self.block.ready(self.now_ns, started, parts);
        actors.extend(parts.iter().copied().map(Actor::Block));
        works.clear();
        self.device.ready(works);
        actors.extend(works.iter().copied().map(Actor::Work));
        match self.device.teardown {
            Teardown::No if self.operator_ns <= self.now_ns => actors.push(Actor::Operator),
            Teardown::No => wake_ns = wake_ns.min(self.operator_ns),
            Teardown::Done => {}
            Teardown::Freeze if !self.block.quiet() => {}
            _ => actors.push(Actor::Teardown),
        }
        wake_ns
    }

    /// The operator makes sure that there is a server, and that a resize gets its quiet moment.
    fn operator(&mut self) {
        let ms = self.random.pick(&[1, 5, 50, 100, 500]);
        self.operator_ns = self.now_ns + ms * 1_000_000;
        if self.resizing && self.block.quiet() {
            self.resizing = false;
            self.block.frozen = self.ending;
            let least = self.settings.blocks;
            let blocks = if self.random.one_in(2) { least } else { least.div_ceil(2) };
            self.ask(Task::Resize(u64::try_from(blocks).unwrap_or(0) * u64::from(BLOCK)));
        }
        if self.ending && self.block.quiet() {
            self.destroy();
            return;
        }
        let served = self.newest.is_some_and(|newest| self.serves(newest));
        if !served {
            let (take_over, survived) = (self.random.one_in(4), self.random.one_in(2));
            self.start_server(take_over, survived);
        }
    }

    /// Injects a fault or an unexpected event.
    fn fault(&mut self) {
        if self.threads.is_empty() {
            return;
        }
        let thread = self.random.index(self.threads.len());
        let process = self.threads[thread].process;
        let ms = self.random.pick(&[1, 30, 300, 3000, 10_000]);
        let until = self.now_ns + ms * 1_000_000;
        match self.random.below(13) {
            0 => {
                self.say(|| format!("process {process} is killed"));
                self.processes[process].killed = true;
            }
            1..3 => self.threads[thread].hung_until = until,
            3 => self.processes[process].hung_until = until,
            4..6 => self.threads[thread].signal = true,
            6 if !self.device.sealed => {
                let survived = self.random.one_in(2);
                self.start_server(true, survived);
            }
            7 if !self.ending => {
                self.resizing = true;
                self.block.frozen = true;
            }
            8 => {
                let newest = self.newest.unwrap_or(process);
                self.say(|| format!("process {newest} is killed"));
                self.processes[newest].killed = true;
            }
            // In the middle of a copy.
            9..11 => self.stalls = true,
            _ => {}
        }
    }

    /// Begins the destruction, once.
    fn end_it(&mut self) {
        if self.ending {
            return;
        }
        self.ending = true;
        self.say(|| "it is enough".to_owned());
        if self.settings.polite {
            self.block.frozen = true;
        } else {
            self.destroy();
        }
    }

    fn over(&self) -> bool {
        self.device.teardown == Teardown::Done
            && self.device.idle()
            && self.threads.iter().all(|thread| matches!(thread.state, State::Out))
    }

    /// The checks after each step.
    fn check(&mut self) {
        for queue in 0..self.settings.queues {
            let awaited = self.device.queues[queue].waking;
            let looks = self.device.queues[queue].look_ns.is_some();
            let fifo = self.device.queues[queue].fifo.len();
            let sleeping = self.device.queues[queue].waiters.len();
            let plugged = self.block.plugged(queue);
            let locked = self.queue(queue);
            let (queued, waiting, waking) = (locked.queued(), locked.waiting(), locked.waking());
            let outstanding = locked.outstanding();
            let same = |count: u32, length: usize| usize::try_from(count) == Ok(length);
            let wrong = if !same(queued, fifo) {
                format!("{queued} requests are queued, and should be {fifo}")
            } else if !same(waiting, sleeping) {
                format!("{waiting} servers wait, and {sleeping} sleep")
            } else if waking != awaited {
                format!("{waking} servers are being woken, and {awaited} are")
            } else if queued > 0 && waiting > 0 && waking == 0 && !plugged {
                format!("{waiting} servers sleep while {queued} requests are queued")
            } else if queued > 0 && waiting > 0 && !looks && !plugged {
                format!("nobody looks after {waking} wake-ups under way, {waiting} servers sleep")
            } else if outstanding > self.settings.depth.into() {
                format!("{outstanding} requests are outstanding")
            } else {
                continue;
            };
            self.violation(format!("queue {queue}: {wrong}"));
        }
    }

    /// The checks for the state in which every actor waits for the clock.
    fn check_rest(&mut self) {
        for number in 0..self.threads.len() {
            if self.overlooks(number) {
                self.violation(format!("thread {number} polls, and was not told that there is something"));
            }
        }
    }

    /// The checks for the end of the episode.
    fn check_end(&mut self) {
        let left = self.block.outstanding();
        if left > 0 || !self.block.quiet() {
            self.violation(format!("{left} I/Os never ended"));
        }
        for queue in 0..self.settings.queues {
            let outstanding = self.queue(queue).outstanding();
            if outstanding > 0 {
                self.violation(format!("queue {queue}: {outstanding} requests are outstanding in the end"));
            }
        }
        // The last power failure.
        self.check_disk();
    }
}
