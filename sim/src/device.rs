// SPDX-License-Identifier: GPL-2.0-only
//! The device as the kernel's glue keeps it: the engine's state, the sleeping servers, and all work
//! under the device lock, which takes one queue lock at a time.
//!
//! The order of calls is that of `kernel/glue/src/v2/server.rs`, `entry.rs` and `block.rs`, and of
//! the teardown in `kernel/shim/disk.c`. Anything else may happen between two critical sections.

use crate::settings::{Defect, Settings};
use crate::world::World;
use std::collections::VecDeque;
use zosbd2_engine::Errno;
use zosbd2_engine::cache::Cache;
use zosbd2_engine::device::{Change, DRAIN_STALL_MS, DRAIN_TICK_MS, DRAIN_TOTAL_MS, Life, Phase, Terms};
use zosbd2_engine::latency::Latencies;
use zosbd2_engine::queue::{Moment, Queue, QueueState, Surroundings, Wake};
use zosbd2_engine::request::Slot;

/// A queue.
#[derive(Debug)]
pub(crate) struct QueueBlock {
    pub(crate) state: QueueState,
    pub(crate) slots: Vec<Slot>,
    latencies: Latencies,
    /// Sleeping threads; the last one in the list fell asleep last.
    pub(crate) waiters: Vec<usize>,
    /// Wake-ups that are counted on.
    pub(crate) waking: u32,
    /// Time of the next check of them, and whether a thread arrived since it was requested.
    pub(crate) look_ns: Option<u64>,
    pub(crate) arrived: bool,
    /// Tags that are QUEUED, in the order in which they must be fetched.
    pub(crate) fifo: VecDeque<u16>,
    /// Step in which the request of the tag was fetched.
    pub(crate) fetched: Vec<u64>,
    /// Newest tenure of the tag that a server was told of.
    pub(crate) told: Vec<u32>,
    /// When the newest server got the queue.
    pub(crate) attached_ns: u64,
    /// When the last write was answered that may be only in a cache.
    pub(crate) written: u64,
    /// Answered writes, maybe only in a cache, whose block requests have not ended.
    pub(crate) unended: u32,
    /// Servers from this epoch on share a cache.
    pub(crate) cache_from: u32,
    /// When the end of a write was last reported.
    pub(crate) ended: u64,
    /// Consecutive failed flushes since the loss, none of which can have been made before it.
    pub(crate) failed_flushes: u32,
}

/// The device.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) queues: Vec<QueueBlock>,
    pub(crate) life: Life,
    /// The newest server whose first fetch has decided what is lost.
    pub(crate) fetched: u32,
    cache: Option<Cache>,
    pub(crate) size_bytes: u64,
    /// The work that holds the device lock.
    lock: Option<u64>,
    works: Vec<Work>,
    next_work: u64,
    grace_ns: Option<u64>,
    tick_ns: Option<u64>,
    /// The newest epoch that is to be declared dead, and whether that has yet to happen.
    dead: u32,
    bury: bool,
    pub(crate) sealed: bool,
    pub(crate) teardown: Teardown,
    pub(crate) destroyed_ns: u64,
    /// A flush that was fetched before this step and succeeded covers older writes.
    pub(crate) covered: u64,
    /// When the last lost write had ended that no flush has reported; 0: none.
    pub(crate) lost: u64,
    /// Writes that may be lost and whose block requests have not ended.
    pub(crate) unended: u32,
}

/// Progress of the teardown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Teardown {
    /// No teardown.
    No,
    Drain,
    /// The grace's work is cancelled.
    NoGrace,
    /// Dirty data is written out.
    WriteBack,
    Freeze,
    /// The drain's and the bury's work are cancelled.
    NoWork,
    Gone,
    /// The last work of the teardown is running.
    Last,
    Done,
}

/// Work under the device lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// A process attaches: its number, whether it takes over, whether the cache will survive.
    Attach(usize, bool, bool),
    /// It takes the disk, and claims the cache if that survived.
    Claim(usize, bool, bool),
    /// A thread of the server of this epoch is about to fetch for the first time.
    FirstFetch(u32),
    Start(usize),
    Detach(u32),
    DeclareDead(u32),
    Drain,
    Tick,
    Gone,
    GraceOver,
    Resize(u64),
}

/// Progress of a work.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Waits,
    /// The task has reached this queue.
    Queue(usize),
    /// Wakes pollers.
    Tell(usize),
    /// The phase is passed on to the queues.
    Phase(usize, Change),
    /// Requests are ended, from this tag of this queue on.
    Fail(usize, u16, Change),
    Over(Change),
}

#[derive(Clone, Copy, Debug)]
struct Work {
    id: u64,
    task: Task,
    stage: Stage,
    /// A block request to end: its queue, its tag, and the result for its submitter.
    end: Option<(usize, u16, Result<(), Errno>)>,
    epoch: u32,
}

impl Device {
    /// A new device.
    #[must_use]
    pub(crate) fn new(settings: &Settings) -> Self {
        let depth = usize::from(settings.depth);
        let queue = || QueueBlock {
            state: QueueState::default(),
            slots: vec![Slot::default(); depth],
            latencies: Latencies::default(),
            waiters: Vec::new(),
            waking: 0,
            look_ns: None,
            arrived: false,
            fifo: VecDeque::new(),
            fetched: vec![0; depth],
            told: vec![0; depth],
            attached_ns: 0,
            written: 0,
            unended: 0,
            cache_from: 0,
            ended: 0,
            failed_flushes: 0,
        };
        let terms = Terms {
            attached: settings.version != 1,
            grace_ms: settings.grace_ms,
            auto_destroy: settings.auto_destroy,
        };
        Self {
            queues: (0..settings.queues).map(|_| queue()).collect(),
            life: Life::new(terms),
            fetched: 0,
            cache: settings.volatile.then(Cache::new),
            size_bytes: u64::MAX,
            lock: None,
            works: Vec::new(),
            next_work: 1,
            grace_ns: None,
            tick_ns: None,
            dead: 0,
            bury: false,
            sealed: false,
            teardown: Teardown::No,
            destroyed_ns: u64::MAX,
            covered: 0,
            lost: 0,
            unended: 0,
        }
    }

    fn add(&mut self, task: Task) {
        self.works.push(Work { id: self.next_work, task, stage: Stage::Waits, end: None, epoch: 0 });
        self.next_work += 1;
    }

    fn has(&self, wanted: impl Fn(Task) -> bool) -> bool {
        self.works.iter().any(|work| wanted(work.task))
    }

    /// Whether no work is pending.
    #[must_use]
    pub(crate) fn idle(&self) -> bool {
        self.works.is_empty()
    }

    /// Time of the next delayed work that nobody else starts.
    #[must_use]
    pub(crate) fn next_ns(&self) -> u64 {
        let looks = self.queues.iter().filter_map(|queue| queue.look_ns);
        looks.chain(self.grace_ns).chain(self.tick_ns).min().unwrap_or(u64::MAX)
    }

    /// Adds the numbers of the works that can run.
    pub(crate) fn ready(&self, works: &mut Vec<usize>) {
        for (number, work) in self.works.iter().enumerate() {
            if self.lock.is_none() || self.lock == Some(work.id) {
                works.push(number);
            }
        }
    }
}

impl World {
    /// The engine's queue, as the holder of the lock sees it.
    pub(crate) fn queue(&mut self, queue: usize) -> Queue<'_> {
        self.queue_for(queue, 0)
    }

    /// The engine's queue, as a thread with the lock sees it.
    pub(crate) fn queue_for(&mut self, queue: usize, thread: u32) -> Queue<'_> {
        let moment = Moment { now_ns: self.now_ns, thread };
        let cache = self.device.cache.as_ref();
        let block = &mut self.device.queues[queue];
        let around = Surroundings { cache, latencies: Some(&mut block.latencies), moment, written: 0 };
        Queue::new(&mut block.state, &mut block.slots).within(around)
    }

    /// Checks the wake-ups under way.
    fn look(&mut self, queue: usize) {
        let block = &mut self.device.queues[queue];
        block.look_ns = None;
        if !block.arrived {
            block.waking = 0;
        }
        let wake = self.queue(queue).look_after();
        self.wake(queue, wake);
    }

    /// Wakes the thread that fell asleep last, as the shim does.
    pub(crate) fn wake_one(&mut self, queue: usize) {
        match self.device.queues[queue].waiters.pop() {
            Some(thread) => self.woken(thread, true),
            None => self.violation(format!("queue {queue}: the engine wakes somebody, but nobody sleeps")),
        }
    }

    fn wake_all(&mut self, queue: usize) {
        self.queue(queue).wake_all();
        while let Some(thread) = self.device.queues[queue].waiters.pop() {
            self.woken(thread, false);
        }
    }

    /// Starts a work.
    pub(crate) fn ask(&mut self, task: Task) {
        self.say(|| format!("asked for: {task:?}"));
        self.device.add(task);
    }

    /// Asks for this server to be declared dead.
    pub(crate) fn bury(&mut self, epoch: u32) {
        self.device.dead = self.device.dead.max(epoch);
        if !self.device.bury {
            self.device.bury = true;
            let epoch = self.device.dead;
            self.ask(Task::DeclareDead(epoch));
        }
    }

    /// Begins the destruction, unless it has begun.
    pub(crate) fn destroy(&mut self) {
        if self.device.sealed {
            return;
        }
        self.say(|| "destroyed".to_owned());
        self.device.sealed = true;
        self.device.teardown = Teardown::Drain;
        self.device.destroyed_ns = self.now_ns;
        self.ask(Task::Drain);
    }

    /// Starts delayed works whose time has come.
    pub(crate) fn timers(&mut self) {
        for queue in 0..self.settings.queues {
            if self.device.queues[queue].look_ns.is_some_and(|at| at <= self.now_ns) {
                self.look(queue);
            }
        }
        if self.device.grace_ns.is_some_and(|at| at <= self.now_ns) {
            self.device.grace_ns = None;
            self.ask(Task::GraceOver);
        }
        if self.device.tick_ns.is_some_and(|at| at <= self.now_ns) {
            self.device.tick_ns = None;
            if !self.planted(Defect::ForgetsTick) {
                self.ask(Task::Tick);
            }
        }
    }

    /// Continues the teardown if possible.
    pub(crate) fn step_teardown(&mut self) {
        let started = self.device.life.started();
        self.device.teardown = match self.device.teardown {
            Teardown::Drain if !self.device.has(|task| task == Task::Drain) => {
                self.device.grace_ns = None;
                Teardown::NoGrace
            }
            Teardown::NoGrace if !self.device.has(|task| task == Task::GraceOver) => {
                if started {
                    self.ask(Task::Tick);
                    Teardown::WriteBack
                } else {
                    Teardown::Gone
                }
            }
            Teardown::WriteBack if self.random.one_in(50) => {
                self.block.dead = true;
                Teardown::Freeze
            }
            Teardown::Freeze if self.block.quiet() => {
                self.device.tick_ns = None;
                // Works that have not begun are cancelled.
                self.device.works.retain(|work| {
                    let cancelled = matches!(work.task, Task::Tick | Task::DeclareDead(_));
                    !(cancelled && matches!(work.stage, Stage::Waits))
                });
                Teardown::NoWork
            }
            Teardown::NoWork
                if !self.device.has(|task| matches!(task, Task::Tick | Task::DeclareDead(_))) =>
            {
                self.device.tick_ns = None;
                Teardown::Gone
            }
            Teardown::Gone => {
                self.ask(Task::Gone);
                Teardown::Last
            }
            Teardown::Last if !self.device.has(|task| task == Task::Gone) => Teardown::Done,
            other => other,
        };
        let bound_ms = DRAIN_TOTAL_MS + DRAIN_STALL_MS;
        let late = self.now_ns.saturating_sub(self.device.destroyed_ns) > bound_ms * 1_000_000;
        if late && self.device.teardown != Teardown::Done {
            let (teardown, left) = (self.device.teardown, self.block.outstanding());
            self.violation(format!("the destruction takes too long: {teardown:?}, {left} I/Os left"));
        }
    }

    fn now_ms(&self) -> u64 {
        self.now_ns / 1_000_000
    }

    /// Continues one of the works.
    pub(crate) fn step_work(&mut self, number: usize) {
        let mut work = self.device.works[number];
        if let Some((queue, tag, result)) = work.end.take() {
            self.end_tag(queue, tag, result);
        } else {
            self.device.lock = Some(work.id);
            work.stage = self.go_on(&mut work);
        }
        let over = matches!(work.stage, Stage::Over(_)) && work.end.is_none();
        if !over {
            self.device.works[number] = work;
            return;
        }
        self.device.works.swap_remove(number);
        self.device.lock = None;
        if let Stage::Over(Change::Destroy) = work.stage
            && self.device.life.unwanted()
        {
            self.destroy();
        }
        match work.task {
            Task::Attach(process, take_over, survived) => {
                self.attached(process, work.epoch, take_over, survived);
            }
            Task::FirstFetch(epoch) => self.device.fetched = self.device.fetched.max(epoch),
            _ => {}
        }
    }

    fn go_on(&mut self, work: &mut Work) -> Stage {
        match work.stage {
            Stage::Waits => self.begin(work),
            Stage::Queue(queue) => {
                self.on_queue(queue, work);
                match work.task {
                    Task::Gone | Task::FirstFetch(_) => self.next_queue(queue, work),
                    _ => Stage::Tell(queue),
                }
            }
            Stage::Tell(queue) => {
                self.wake_pollers();
                self.next_queue(queue, work)
            }
            Stage::Phase(queue, change) => {
                let phase = self.device.life.phase();
                self.queue(queue).set_phase(phase);
                if queue + 1 < self.settings.queues {
                    return Stage::Phase(queue + 1, change);
                }
                self.phase_passed_on(work, change)
            }
            Stage::Fail(queue, from, change) => self.fail(work, queue, from, change),
            Stage::Over(change) => Stage::Over(change),
        }
    }

    /// Begins a work that just took the lock.
    fn begin(&mut self, work: &mut Work) -> Stage {
        let now_ms = self.now_ms();
        let task = work.task;
        self.say(|| format!("begins: {task:?}"));
        match work.task {
            Task::Attach(_, take_over, _) => match self.device.life.attach(take_over) {
                Ok(epoch) => {
                    work.epoch = epoch;
                    Stage::Queue(0)
                }
                Err(errno) => {
                    self.say(|| format!("refused: {errno:?}"));
                    Stage::Over(Change::None)
                }
            },
            Task::Claim(process, take_over, survived) => {
                self.claims(process, take_over, survived);
                Stage::Over(Change::None)
            }
            Task::FirstFetch(epoch) => {
                if self.device.life.first_fetch(epoch) {
                    work.epoch = epoch;
                    self.store.unreported = false;
                    Stage::Queue(0)
                } else {
                    Stage::Over(Change::None)
                }
            }
            Task::Start(_) => {
                if self.device.life.may_start().is_ok() {
                    self.device.life.set_started();
                }
                Stage::Over(Change::None)
            }
            Task::Detach(_) => Stage::Queue(0),
            Task::DeclareDead(_) => {
                self.device.bury = false;
                // The newest epoch that the timer has named until now.
                work.task = Task::DeclareDead(self.device.dead);
                Stage::Queue(0)
            }
            Task::Drain => {
                let (answers, _) = self.progress();
                let change = self.device.life.drain(now_ms, answers, true);
                Stage::Phase(0, change)
            }
            Task::Tick => {
                let (answers, outstanding) = self.progress();
                match self.device.life.tick(now_ms, answers, outstanding) {
                    Change::None => self.phase_passed_on(work, Change::None),
                    change => Stage::Phase(0, change),
                }
            }
            Task::Gone => {
                self.device.life.gone();
                Stage::Phase(0, Change::None)
            }
            Task::GraceOver => match self.device.life.grace_over(now_ms) {
                Change::None => Stage::Over(Change::None),
                change => Stage::Phase(0, change),
            },
            Task::Resize(bytes) => {
                if self.device.life.phase().is_there() {
                    self.device.size_bytes = bytes;
                }
                Stage::Over(Change::None)
            }
        }
    }

    fn progress(&mut self) -> (u64, u32) {
        (0..self.settings.queues).fold((0, 0), |(answers, outstanding), queue| {
            let queue = self.queue(queue);
            (answers + queue.answers(), outstanding + queue.outstanding())
        })
    }

    fn on_queue(&mut self, queue: usize, work: &Work) {
        match work.task {
            Task::Attach(..) => {
                let phase = self.device.life.phase();
                let mut locked = self.queue(queue);
                locked.set_phase(phase);
                locked.attach(work.epoch);
                self.device.queues[queue].attached_ns = self.now_ns;
                self.device.queues[queue].waking = 0;
                self.wake_all(queue);
            }
            Task::FirstFetch(epoch) if self.planted(Defect::ForgetsLoss) => {
                self.say(|| format!("queue {queue}: nobody says that server {epoch} has no cache"));
            }
            Task::FirstFetch(epoch) => {
                self.queue(queue).lose_cache(epoch);
                let block = &mut self.device.queues[queue];
                block.cache_from = epoch;
                if block.written > self.device.covered {
                    self.device.lost = self.device.lost.max(block.written);
                    self.device.queues.iter_mut().for_each(|queue| queue.failed_flushes = 0);
                }
                let block = &mut self.device.queues[queue];
                block.written = 0;
                self.device.unended += std::mem::take(&mut block.unended);
            }
            Task::Detach(epoch) => self.take_back(queue, epoch, false),
            Task::DeclareDead(epoch) => {
                self.take_back(queue, epoch, true);
                self.wake_all(queue);
            }
            Task::Gone => self.wake_all(queue),
            _ => {}
        }
    }

    fn take_back(&mut self, queue: usize, epoch: u32, declared: bool) {
        if self.planted(Defect::ForgetsTakeBack) {
            return;
        }
        let mut tags = Vec::new();
        let each = |tag| tags.push(tag);
        let mut locked = self.queue(queue);
        let wake = if declared {
            locked.declare_dead(epoch, each);
            Wake::NONE
        } else {
            locked.requeue(epoch, each)
        };
        if declared && epoch >= self.device.life.epoch() {
            self.device.queues[queue].waking = 0;
        }
        self.say(|| format!("queue {queue}: taken back: {tags:?}"));
        for tag in tags {
            self.device.queues[queue].fifo.push_front(tag);
        }
        self.wake(queue, wake);
    }

    fn next_queue(&mut self, queue: usize, work: &Work) -> Stage {
        if queue + 1 < self.settings.queues {
            return Stage::Queue(queue + 1);
        }
        let now_ms = self.now_ms();
        let change = match work.task {
            Task::Detach(epoch) => self.device.life.detach(epoch, now_ms),
            Task::DeclareDead(epoch) => self.device.life.declare_dead(epoch, now_ms),
            Task::Gone => {
                self.wake_pollers();
                return Stage::Over(Change::None);
            }
            _ => return Stage::Over(Change::None),
        };
        Stage::Phase(0, change)
    }

    /// The rest of `carry_out`, and of its callers.
    fn phase_passed_on(&mut self, work: &Work, change: Change) -> Stage {
        match change {
            Change::Grace(ms) => {
                self.say(|| format!("a grace of {ms} ms"));
                self.device.grace_ns = Some(self.now_ns + u64::from(ms) * 1_000_000);
            }
            Change::Fail | Change::Destroy => return Stage::Fail(0, 0, change),
            Change::None if work.task == Task::Gone => return Stage::Queue(0),
            Change::None => {}
        }
        self.after(work);
        Stage::Over(change)
    }

    fn after(&mut self, work: &Work) {
        if work.task == Task::Tick && self.device.life.phase() == Phase::Draining {
            self.device.tick_ns = Some(self.now_ns + u64::from(DRAIN_TICK_MS) * 1_000_000);
        }
    }

    fn fail(&mut self, work: &mut Work, queue: usize, from: u16, change: Change) -> Stage {
        let copying = self.planted(Defect::EndsCopying);
        if copying && let Some(tag) = self.some_copied(queue) {
            work.end = Some((queue, tag, Err(Errno::EIO)));
            return Stage::Fail(queue, from, change);
        }
        let end = self.queue(queue).fail_next(from);
        if let Some(end) = end {
            self.device.queues[queue].fifo.retain(|tag| *tag != end.tag());
            let (tag, result) = end.use_up();
            work.end = Some((queue, tag, result));
            if let Some(from) = tag.checked_add(1) {
                return Stage::Fail(queue, from, change);
            }
        }
        if queue + 1 < self.settings.queues {
            return Stage::Fail(queue + 1, 0, change);
        }
        self.after(work);
        Stage::Over(change)
    }

    fn some_copied(&mut self, queue: usize) -> Option<u16> {
        (0..self.settings.depth)
            .find(|tag| self.block.started(queue, *tag).is_some_and(|started| started.copying > 0))
    }
}
