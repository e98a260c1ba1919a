// SPDX-License-Identifier: GPL-2.0-only
//! The fake servers: processes with several threads, how they carry out requests, and how they die.
//!
//! They are honest unless a defect is planted. A server does not carry out a request marked as
//! maybe executed while an earlier server may still do so. A server takes over its disk after it has attached and
//! before it fetches, and then claims the cache if it has it. A server that takes over a disk fences
//! the earlier server if that one is dead or has another cache, so that it no longer writes to the
//! disk. A replaced server then answers with an error, or its cache swallows the write.

use crate::device::Task as Work;
use crate::settings::{BLOCK, Defect};
use crate::thread::{State, Thread};
use crate::world::World;
use zosbd2_abi::v2 as abi;
use zosbd2_engine::device::Phase;
use zosbd2_engine::queue::Fetched;
use zosbd2_engine::request::{FUA, MAYBE_EXECUTED, Op, Request};

/// A request that a server holds.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) raw: u64,
    pub(crate) op_id: u32,
    pub(crate) queue: usize,
    pub(crate) tag: u16,
    generation: u32,
    pub(crate) request: Request,
    /// The thread that fetched the request.
    thread: usize,
    /// Write: the data, if the server has it. Read that was carried out: the data read.
    pub(crate) data: Option<Vec<u64>>,
    /// Whether it succeeded, once it was carried out.
    pub(crate) done: Option<bool>,
    /// Another server holds the request, so it must not be carried out any more.
    void: bool,
}

/// A server process.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each flag records an independent event")]
pub(crate) struct Process {
    pub(crate) epoch: u32,
    pub(crate) cache: usize,
    pub(crate) killed: bool,
    closed: bool,
    attached: bool,
    /// Fenced: it must not write to the disk any more.
    fenced: bool,
    /// The content of its cache is lost.
    emptied: bool,
    /// Its cache has swallowed a write, or may have.
    pub(crate) swallowed: bool,
    pub(crate) hung_until: u64,
    /// Its threads never sleep in ENTER: they poll.
    pub(crate) polls: bool,
    pub(crate) tasks: Vec<Task>,
    /// Handles that it held.
    history: Vec<u64>,
}

/// A commit, with data that only the simulator knows.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) commit: abi::Commit,
    /// The server's memory that the commit names.
    pub(crate) data: Vec<u64>,
    /// The op id of the answer.
    pub(crate) op_id: u32,
    pub(crate) op: Op,
}

pub(crate) fn blocks(request: &Request) -> (usize, usize) {
    let number = |bytes: u64| usize::try_from(bytes / u64::from(BLOCK)).unwrap_or(usize::MAX);
    (number(request.offset), number(request.length.into()))
}

impl World {
    /// Starts a process, which asks to attach.
    pub(crate) fn start_server(&mut self, take_over: bool, mut survived: bool) {
        let number = self.processes.len();
        let cache = self.store.add_cache();
        let polls = self.settings.version == 2 && self.random.one_in(3);
        self.processes.push(Process {
            epoch: 0,
            cache,
            killed: false,
            closed: false,
            attached: false,
            fenced: false,
            emptied: false,
            swallowed: false,
            hung_until: 0,
            polls,
            tasks: Vec::new(),
            history: Vec::new(),
        });
        self.newest = Some(number);
        self.say(|| format!("process {number} starts, take over {take_over}, survived {survived}"));
        if self.settings.version == 1 {
            self.processes[number].attached = true;
            self.start_threads(number);
            return;
        }
        // The first server has no predecessor whose cache could survive.
        survived &= self.device.life.epoch() > 0;
        self.ask(Work::Attach(number, take_over, survived));
    }

    /// From now on the server relies on its disk: on the cache of its predecessor, or on no other
    /// server writing to the disk.
    pub(crate) fn takes_disk(&mut self, number: usize, take_over: bool, survived: bool) {
        let really = survived && !self.planted(Defect::LosesCache);
        self.store.unreported |= self.settings.volatile && !really;
        let before = self.on_disk.replace(number);
        let fences = !self.planted(Defect::NotFenced);
        for other in (0..self.processes.len()).filter(|other| *other != number) {
            let dead = self.processes[other].closed
                || !take_over && Some(other) == before
                || (0..self.settings.queues).any(|queue| {
                    let epoch = self.processes[other].epoch;
                    self.queue(queue).is_dead(epoch)
                });
            let own_cache = self.settings.volatile && !really;
            if !self.processes[other].attached {
                continue;
            }
            if fences && (dead || own_cache) {
                self.processes[other].fenced = true;
            }
            if own_cache {
                self.empty_cache(other);
            }
        }
        if let (true, Some(before)) = (really, before) {
            let cache = self.processes[before].cache;
            self.processes[number].cache = cache;
        }
        self.cache = self.processes[number].cache;
        self.processes[number].attached = true;
    }

    fn empty_cache(&mut self, number: usize) {
        if std::mem::replace(&mut self.processes[number].emptied, true) {
            return;
        }
        let cache = self.processes[number].cache;
        let had = self.store.caches[cache].clone();
        for (block, value) in had.into_iter().enumerate() {
            let Some(value) = value else { continue };
            self.processes[number].swallowed = true;
            self.lose_answered(block, value);
            if cache == self.cache {
                let shows = self.store.disk[block];
                self.account.lose(block, shows, self.steps);
            }
        }
        let swallowed = self.processes[number].swallowed;
        // Servers that share the cache lost the same data.
        for process in self.processes.iter_mut().filter(|process| process.cache == cache) {
            process.swallowed |= swallowed;
        }
        self.store.caches[cache].fill(None);
        self.check_disk();
    }

    /// The kernel attached it, or refused to if the epoch is 0.
    pub(crate) fn attached(&mut self, number: usize, epoch: u32, take_over: bool, survived: bool) {
        let process = &mut self.processes[number];
        if epoch == 0 {
            process.killed = true;
            process.closed = true;
            return;
        }
        process.epoch = epoch;
        self.ask(Work::Claim(number, take_over, survived));
    }

    /// It takes the disk, unless it has lost the device. It claims the caches of the servers before it if it has
    /// all of them: the loss of a cache that the kernel does not know of makes that claim false.
    pub(crate) fn claims(&mut self, number: usize, take_over: bool, survived: bool) {
        let epoch = self.processes[number].epoch;
        if let Err(errno) = self.device.life.may_change(epoch) {
            self.say(|| format!("process {number} gives up: {errno:?}"));
            self.processes[number].killed = true;
            self.processes[number].closed = true;
            self.ask(Work::Detach(epoch));
            return;
        }
        let survived = survived && (!self.store.unreported || self.planted(Defect::ClaimsTooMuch));
        self.takes_disk(number, take_over, survived);
        if survived && let Err(errno) = self.device.life.claim_cache(epoch) {
            self.violation(format!("process {number} cannot claim the cache: {errno:?}"));
        }
        self.start_threads(number);
        if !self.device.life.started() {
            self.ask(Work::Start(number));
        }
    }

    fn start_threads(&mut self, number: usize) {
        for place in 0..self.settings.threads {
            self.threads.push(Thread::new(number, place));
        }
    }

    /// Whether it gets requests, or will when it runs again.
    pub(crate) fn serves(&self, number: usize) -> bool {
        let process = &self.processes[number];
        if process.killed || !process.attached {
            return !process.killed;
        }
        let orphaned = matches!(self.device.life.phase(), Phase::Orphaned | Phase::Failed);
        let mut threads = self.threads.iter().filter(|thread| thread.process == number).peekable();
        !orphaned && (threads.peek().is_none() || threads.any(|thread| !thread.sent_away))
    }

    /// One of its threads is gone for good.
    pub(crate) fn thread_gone(&mut self, number: usize) {
        let gone =
            self.threads.iter().all(|thread| thread.process != number || matches!(thread.state, State::Out));
        let process = &mut self.processes[number];
        if !gone || process.closed {
            return;
        }
        process.closed = true;
        process.tasks.clear();
        let epoch = process.epoch;
        self.say(|| format!("process {number} is gone"));
        if self.settings.version == 2 {
            self.ask(Work::Detach(epoch));
        }
    }

    /// A thread was told of a request.
    pub(crate) fn told(
        &mut self,
        thread: usize,
        queue: usize,
        raw: u64,
        fetched: &Fetched,
        data: Option<Vec<u64>>,
    ) {
        let number = self.threads[thread].process;
        let (tag, generation) = (fetched.handle.tag(), fetched.handle.generation());
        let not_fenced = self.planted(Defect::NotFenced);
        if fetched.request.flags & MAYBE_EXECUTED != 0 && !not_fenced {
            for process in &mut self.processes {
                for task in &mut process.tasks {
                    let same = task.queue == queue && task.tag == tag;
                    task.void |= same && task.generation.wrapping_sub(generation) > u32::MAX / 2;
                }
            }
        }
        let latest = &mut self.device.queues[queue].told[usize::from(tag)];
        let void = latest.wrapping_sub(generation) < u32::MAX / 2 && *latest != generation;
        *latest = if void { *latest } else { generation };
        let process = &mut self.processes[number];
        process.history.push(raw);
        process.tasks.push(Task {
            raw,
            op_id: fetched.handle.op_id(),
            queue,
            tag,
            generation,
            request: fetched.request,
            thread,
            data,
            done: None,
            // The thread took so long to get here that another server already holds the request.
            void: void && !not_fenced,
        });
    }

    /// Whether a thread holds requests that it is not about to answer.
    pub(crate) fn has_task(&self, thread: usize, answers: usize) -> bool {
        let tasks = &self.processes[self.threads[thread].process].tasks;
        tasks.iter().filter(|task| task.thread == thread).count() > answers
    }

    /// Carries out one of the requests that a thread holds, if any.
    pub(crate) fn carry_out_one(&mut self, thread: usize) -> bool {
        let number = self.threads[thread].process;
        // Most threads carry out their own requests.
        let any = self.random.one_in(8);
        let wanted = |task: &Task| {
            let has_data = task.request.op != Op::Write || task.data.is_some() || task.void;
            task.done.is_none() && has_data && (any || task.thread == thread)
        };
        let tasks = &self.processes[number].tasks;
        let candidates: Vec<usize> = (0..tasks.len()).filter(|at| wanted(&tasks[*at])).collect();
        if candidates.is_empty() {
            return false;
        }
        let at = self.random.pick(&candidates);
        let mut task = self.processes[number].tasks[at].clone();
        let done = !self.random.one_in(40) && self.carry_out(number, &mut task);
        task.done = Some(done);
        self.say(|| format!("thread {thread}: carries out {:?} of tag {}: {done}", task.request, task.tag));
        self.processes[number].tasks[at] = task;
        true
    }

    /// Carries out a request. Returns whether it succeeded.
    fn carry_out(&mut self, number: usize, task: &mut Task) -> bool {
        if task.void {
            return false;
        }
        let Process { cache, fenced, emptied, swallowed, .. } = self.processes[number];
        let (first, count) = blocks(&task.request);
        let volatile = self.settings.volatile;
        if fenced {
            let harmless = task.request.op == Op::Flush && !swallowed;
            // Writes that a cache swallows.
            let writes = matches!(task.request.op, Op::Write | Op::WriteZeroes | Op::SecureErase);
            let cached = writes && volatile && emptied && task.request.flags & FUA == 0;
            self.processes[number].swallowed |= cached;
            return harmless || cached && self.random.one_in(2);
        }
        let durable = task.request.flags & FUA != 0 && !self.planted(Defect::LiesAboutFua);
        let through = !volatile || durable;
        match task.request.op {
            Op::Read if self.planted(Defect::StaleReads) => {
                task.data = Some(self.store.disk[first..first + count].to_vec());
            }
            Op::Read => {
                task.data = Some((first..first + count).map(|block| self.store.read(cache, block)).collect());
            }
            Op::Write => {
                let values = task.data.clone().unwrap_or_default();
                (first..)
                    .zip(values)
                    .for_each(|(block, value)| self.store.write(cache, block, value, through));
            }
            Op::Discard if self.random.one_in(2) => {}
            Op::Discard | Op::WriteZeroes | Op::SecureErase => {
                (first..first + count).for_each(|block| self.store.write(cache, block, 0, through));
            }
            Op::Flush if self.planted(Defect::LiesAboutFlush) => {}
            Op::Flush => self.store.flush(cache),
        }
        true
    }

    /// A copy of a write's data has arrived in the server's memory, which is its store.
    pub(crate) fn lands(&mut self, number: usize, request: &Request, done: usize, values: &[u64]) {
        let Process { cache, emptied, .. } = self.processes[number];
        if emptied {
            self.processes[number].swallowed = true;
            return;
        }
        let through = !self.settings.volatile;
        let first = blocks(request).0 + done;
        (first..).zip(values).for_each(|(block, value)| self.store.write(cache, block, *value, through));
    }

    /// Whether this server's successful answers are stored nowhere.
    pub(crate) fn swallows(&self, number: usize, request: &Request) -> bool {
        let writes = matches!(request.op, Op::Write | Op::WriteZeroes | Op::SecureErase);
        let cached = writes && request.flags & FUA == 0;
        cached && self.processes[number].emptied && self.processes[number].swallowed
    }

    /// The next answers of a thread, some of them invalid.
    pub(crate) fn answers(&mut self, thread: usize) -> Vec<Entry> {
        let number = self.threads[thread].process;
        let any = self.random.one_in(4);
        let mut entries = Vec::new();
        for at in 0..self.processes[number].tasks.len() {
            if self.random.one_in(4) {
                continue;
            }
            let task = self.processes[number].tasks[at].clone();
            if !any && task.thread != thread {
                continue;
            }
            if let Some(entry) = self.answer_to(&task) {
                entries.push(entry);
            }
        }
        if self.random.one_in(20) {
            // The first one twice.
            entries.extend(entries.first().cloned());
        }
        if self.random.one_in(20) {
            let invented = self.random.next();
            let history = &self.processes[number].history;
            let old = history[history.len().saturating_sub(30)..].to_vec();
            let raw = if old.is_empty() || self.random.one_in(2) { invented } else { self.random.pick(&old) };
            // A handle that is still valid would give a wrong answer, which would not be the
            // engine's fault.
            if !self.processes[number].tasks.iter().any(|task| task.raw == raw) {
                let commit = abi::Commit { handle: raw, ..abi::Commit::default() };
                let op_id = u32::try_from(raw & 0xffff_ffff).unwrap_or(0);
                entries.push(Entry { commit, data: Vec::new(), op_id, op: Op::Flush });
            }
        }
        entries
    }

    fn answer_to(&mut self, task: &Task) -> Option<Entry> {
        let length = i64::from(task.request.length);
        let mut commit = abi::Commit { handle: task.raw, result: length, ..abi::Commit::default() };
        let mut data = Vec::new();
        match (task.request.op, task.done) {
            (_, Some(false)) => commit.result = -5,
            (Op::Read, Some(true)) => {
                commit.address = 1;
                data = task.data.clone()?;
            }
            (Op::Write, None) if task.data.is_none() && !task.void => {
                commit.address = 1;
                // Copied data is not durable yet.
                if task.request.flags & FUA != 0 || self.random.one_in(4) {
                    commit.flags = abi::COMMIT_COPY_ONLY;
                }
            }
            (_, None) => return None,
            (_, Some(true)) => {}
        }
        if commit.flags == 0 && self.random.one_in(60) {
            // An invalid combination of flags.
            commit.flags = abi::COMMIT_COPY_ONLY | abi::COMMIT_ZERO_FILL;
        }
        Some(Entry { commit, data, op_id: task.op_id, op: task.request.op })
    }

    /// A server's answer was accepted, or refused for good: the server no longer holds the request.
    pub(crate) fn forget(&mut self, number: usize, raw: u64) {
        self.processes[number].tasks.retain(|task| task.raw != raw);
    }
}
