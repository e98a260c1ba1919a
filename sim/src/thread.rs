// SPDX-License-Identifier: GPL-2.0-only
//! A thread of a server, inside and outside its calls.
//!
//! Inside a call it does the same as the glue (`v2/enter.rs`, `v2/commit.rs`, `v2/run.rs`, `transfer.rs`, and
//! `v1/operation.rs`), one critical section or one copy per step. A stopped thread stops in user mode, or
//! while it waits for memory; it never stops in a critical section or a copy.

use crate::device::Task;
use crate::server::{Entry, blocks};
use crate::settings::{BLOCK, Defect};
use crate::world::World;
use zosbd2_engine::device::Phase;
use zosbd2_engine::queue::{Answer, End, Fetched, Refused, Work};
use zosbd2_engine::request::{Handle, MAYBE_EXECUTED, Op, Request};
use zosbd2_engine::v2::{Handles, Move, Plan, Way, check_commit, decode_handle, plan, tag_bits};

/// Entries per run of ENTER.
const CHUNK: usize = 16;

/// A thread.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each flag records an independent event")]
pub(crate) struct Thread {
    pub(crate) process: usize,
    /// Number of the thread in its process.
    place: usize,
    pub(crate) state: State,
    /// It was woken.
    woken: bool,
    /// Woken for work, not to be sent away.
    counted: bool,
    pub(crate) signal: bool,
    pub(crate) hung_until: u64,
    /// It has no CPU until this time, wherever it is.
    pub(crate) stalled_until: u64,
    /// When its call times out.
    sleeps_until: u64,
    /// It gets no more requests.
    pub(crate) sent_away: bool,
    /// Block requests that it is about to end.
    ends: Vec<(usize, End)>,
    /// What it reports after these ends: the queue, the server, and the number of writes that may be only in
    /// a cache.
    over: Vec<(usize, u32, u32)>,
    /// Pollers must be woken.
    tell: bool,
}

/// Place of a thread.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// In user mode.
    User,
    Commit(Call),
    /// The data of these copies is moved next.
    CommitCopy(Call, Vec<Copying>),
    CommitCopied(Call, Vec<Copying>),
    /// Copies that have to wait for memory.
    CommitSlow(Call, Vec<Copying>, Slow),
    /// Waits for the device's lock, and for what the first fetch decides.
    FirstFetch(Call),
    Fetch(Call),
    Copy(Call, Vec<Parcel>, Stop),
    Copied(Call, Vec<Parcel>, Stop),
    /// The parcel of this number, and those before it, have to wait for memory.
    FetchSlow(Call, Vec<Parcel>, Stop, usize, Slow),
    HandOver(Call, Vec<Parcel>, Stop),
    TakeBack(Call, Vec<Parcel>),
    Asleep(Call),
    Polls,
    /// It will not run again.
    Out,
}

/// An ENTER, or an operation call of version 1.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    queue: usize,
    entries: Vec<Entry>,
    capacity: usize,
    minimum: usize,
    room: Room,
    timeout_ns: u64,
    fetched: usize,
    refused: usize,
    slept: bool,
}

/// Memory for the data of fetched writes.
#[derive(Clone, Debug)]
enum Room {
    /// The rest of the arena, in bytes.
    Arena(u64),
    /// The lengths of the unused buffers, the next one last.
    Buffers(Vec<u64>),
}

impl Room {
    /// Bytes for the next write.
    fn next(&self) -> u64 {
        match self {
            Self::Arena(bytes) => *bytes,
            Self::Buffers(unused) => unused.last().copied().unwrap_or(0),
        }
    }

    /// A write of this length takes its place, also if it is lost while its data is copied.
    fn take(&mut self, length: u64) {
        match self {
            Self::Arena(bytes) => *bytes -= length,
            Self::Buffers(unused) => {
                unused.pop();
            }
        }
    }
}

/// A request on its way to the server.
#[derive(Clone, Debug)]
pub(crate) struct Parcel {
    fetched: Fetched,
    id: u64,
    data: Option<Vec<u64>>,
    slow: bool,
}

/// A copy for a commit.
#[derive(Clone, Debug)]
pub(crate) struct Copying {
    queue: usize,
    handle: Handle,
    request: Request,
    id: u64,
    data: Move,
    entry: Entry,
    slow: bool,
}

/// Why no more requests were taken from the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Enough,
    Nothing,
    Never,
}

/// A transfer that waits for memory: the number of copied blocks, and the next step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slow {
    done: usize,
    next: SlowStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlowStep {
    Fault,
    Pin,
    Copy,
    Unpin,
    Finish,
}

const SLOW: Slow = Slow { done: 0, next: SlowStep::Pin };

/// Result of a step of a transfer.
enum Went {
    On(Slow),
    Done,
    /// The server no longer holds the request.
    Lost,
    /// The memory cannot be accessed, or the thread is being killed.
    Failed,
}

impl Thread {
    /// Whether it has requests pinned.
    pub(crate) fn copies(&self) -> bool {
        matches!(
            self.state,
            State::CommitCopy(..)
                | State::CommitCopied(..)
                | State::Copy(..)
                | State::Copied(..)
                | State::CommitSlow(_, _, Slow { next: SlowStep::Copy | SlowStep::Unpin, .. })
                | State::FetchSlow(_, _, _, _, Slow { next: SlowStep::Copy | SlowStep::Unpin, .. })
        )
    }

    /// A thread in user mode.
    #[must_use]
    pub(crate) fn new(process: usize, place: usize) -> Self {
        Self {
            process,
            place,
            state: State::User,
            woken: false,
            counted: false,
            signal: false,
            hung_until: 0,
            stalled_until: 0,
            sleeps_until: u64::MAX,
            sent_away: false,
            ends: Vec::new(),
            over: Vec::new(),
            tell: false,
        }
    }
}

impl World {
    /// A thread was taken off the list of sleepers, for work or to be sent away. It may get no processor for
    /// long.
    pub(crate) fn woken(&mut self, thread: usize, counted: bool) {
        self.say(|| format!("thread {thread} is woken"));
        if self.random.one_in(50) {
            let ms = self.random.pick(&[10, 100, 1000, 10_000]);
            self.threads[thread].stalled_until = self.now_ns + ms * 1_000_000;
        }
        (self.threads[thread].woken, self.threads[thread].counted) = (true, counted);
    }

    /// Pollers check again.
    pub(crate) fn wake_pollers(&mut self) {
        for thread in self.threads.iter_mut().filter(|thread| matches!(thread.state, State::Polls)) {
            thread.woken = true;
        }
    }

    /// Whether a thread can run, and when it can if it only waits for a time.
    pub(crate) fn thread_ready(&self, number: usize) -> (bool, u64) {
        let thread = &self.threads[number];
        if thread.stalled_until > self.now_ns {
            return (false, thread.stalled_until);
        }
        if !thread.ends.is_empty() || !thread.over.is_empty() || thread.tell {
            return (true, 0);
        }
        let process = &self.processes[thread.process];
        let interrupted = thread.signal || process.killed;
        let waits = matches!(
            &thread.state,
            State::User
                | State::CommitSlow(_, _, Slow { next: SlowStep::Fault, .. })
                | State::FetchSlow(_, _, _, _, Slow { next: SlowStep::Fault, .. })
        );
        let until = match thread.state {
            State::Out => u64::MAX,
            State::Asleep(_) if !thread.woken && !interrupted => thread.sleeps_until,
            State::Polls if !thread.woken && !interrupted => u64::MAX,
            State::FirstFetch(_) if self.device.fetched < process.epoch => u64::MAX,
            _ if waits && !process.killed => thread.hung_until.max(process.hung_until),
            _ => 0,
        };
        (until <= self.now_ns, until)
    }

    /// Whether it sleeps in poll although poll would report an event.
    pub(crate) fn overlooks(&mut self, number: usize) -> bool {
        let thread = &self.threads[number];
        let polls = matches!(thread.state, State::Polls) && !thread.woken;
        polls && self.poll(number)
    }

    /// Like `server::poll`.
    fn poll(&mut self, number: usize) -> bool {
        let epoch = self.processes[self.threads[number].process].epoch;
        (0..self.settings.queues).any(|queue| {
            let queue = self.queue(queue);
            queue.superseded(epoch) || queue.phase() == Phase::Gone || queue.queued() > 0
        })
    }

    /// A thread takes one step.
    pub(crate) fn step_thread(&mut self, number: usize) {
        let thread = &mut self.threads[number];
        if let Some((queue, end)) = thread.ends.pop() {
            self.end(queue, end);
            return;
        }
        if let Some((queue, epoch, written)) = thread.over.pop() {
            self.ended(queue, epoch, written);
            return;
        }
        if std::mem::take(&mut thread.tell) {
            self.wake_pollers();
            return;
        }
        let state = std::mem::replace(&mut thread.state, State::Out);
        let state = match state {
            State::User => self.in_user_mode(number),
            State::Commit(call) => self.commit(number, call),
            State::CommitCopy(call, copies) => self.commit_copy(number, call, copies),
            State::CommitCopied(call, copies) => self.commit_copied(number, call, copies),
            State::CommitSlow(call, copies, slow) => self.commit_slow(number, call, copies, slow),
            State::FirstFetch(call) => State::Fetch(call),
            State::Fetch(call) => self.fetch(number, call),
            State::Copy(call, parcels, stop) => self.copy(call, parcels, stop),
            State::Copied(call, parcels, stop) => self.copied(number, call, parcels, stop),
            State::FetchSlow(call, parcels, stop, at, slow) => {
                self.fetch_slow(number, call, parcels, stop, at, slow)
            }
            State::HandOver(call, parcels, stop) => self.hand_over(number, call, parcels, stop),
            State::TakeBack(call, parcels) => self.give_back(number, &call, &parcels),
            State::Asleep(call) => self.wakes(number, call),
            State::Polls => self.polls(number),
            State::Out => State::Out,
        };
        let out = matches!(state, State::Out);
        self.threads[number].state = state;
        if out {
            self.thread_gone(self.threads[number].process);
        }
    }

    fn epoch(&self, thread: usize) -> u32 {
        self.processes[self.threads[thread].process].epoch
    }

    fn in_user_mode(&mut self, number: usize) -> State {
        let process = self.threads[number].process;
        self.threads[number].signal = false;
        if self.processes[process].killed {
            return State::Out;
        }
        let sent_away = self.threads[number].sent_away;
        if sent_away && self.processes[process].tasks.is_empty() {
            return State::Out;
        }
        if self.random.one_in(3) && self.carry_out_one(number) {
            return State::User;
        }
        let version = self.settings.version;
        let polls = self.processes[process].polls;
        if polls && !sent_away && !self.has_task(number, 0) && self.random.one_in(2) {
            self.threads[number].woken = true;
            return State::Polls;
        }
        if self.random.one_in(10) {
            return State::User;
        }
        let mut entries = self.answers(number);
        if version == 1 {
            entries.truncate(1);
        }
        let queues = self.settings.queues;
        let own = self.threads[number].place % queues;
        let queue = if self.random.one_in(4) { self.random.index(queues) } else { own };
        let capacity = if sent_away { 0 } else { self.random.index(4) };
        // A thread with work does not sleep while it holds that work.
        let busy = self.has_task(number, entries.len());
        let minimum = if busy || polls { 0 } else { self.random.index(capacity + 1) };
        let room = self.room(capacity);
        // Some queue may have no other thread.
        let only = queue != own || self.settings.threads < queues;
        let timeout_ns = match self.random.below(4) {
            0 => self.random.pick(&[0, 1_000_000, 100_000_000]),
            _ if only => 1_000_000,
            _ => u64::MAX,
        };
        let call = Call {
            queue,
            entries,
            capacity,
            minimum,
            room,
            timeout_ns,
            fetched: 0,
            refused: 0,
            slept: false,
        };
        if version == 1 {
            let call =
                Call { capacity: 1, minimum: 1, room: Room::Arena(u64::MAX), timeout_ns: u64::MAX, ..call };
            if self.random.one_in(200) {
                let wake = self.queue(0).notify();
                self.wake(0, wake);
            }
            return match call.entries.is_empty() {
                false => State::Commit(call),
                true if busy => State::User,
                true => State::Fetch(call),
            };
        }
        self.enter(number, call)
    }

    /// The memory that an ENTER names for data: an arena, or buffers of any length, also none and too many.
    fn room(&mut self, capacity: usize) -> Room {
        let block = u64::from(BLOCK);
        if self.random.one_in(2) {
            return Room::Arena(block * self.random.pick(&[0, 1, 4, 16]));
        }
        let mut unused = vec![0; self.random.index(capacity + 2)];
        unused.fill_with(|| block * self.random.pick(&[0, 1, 1, 2, 4, 16]));
        Room::Buffers(unused)
    }

    /// The rest of an ENTER.
    fn enter(&mut self, number: usize, call: Call) -> State {
        if !call.entries.is_empty() {
            return State::Commit(call);
        }
        if call.capacity == 0 && self.settings.version == 2 {
            return self.leaves(number);
        }
        let epoch = self.epoch(number);
        if self.device.fetched < epoch && self.settings.version == 2 {
            self.ask(Task::FirstFetch(epoch));
            return State::FirstFetch(call);
        }
        State::Fetch(call)
    }

    /// Back to user mode.
    fn leaves(&mut self, number: usize) -> State {
        if self.processes[self.threads[number].process].killed { State::Out } else { State::User }
    }

    fn refuse(&mut self, number: usize, call: &mut Call, entry: &Entry, stale: bool) {
        call.refused += 1;
        let process = self.threads[number].process;
        let (raw, version) = (entry.commit.handle, self.settings.version);
        if stale || version == 1 {
            self.forget(process, raw);
        }
    }

    /// The first entries, of one queue: looked up, answered or pinned.
    fn commit(&mut self, number: usize, mut call: Call) -> State {
        if self.settings.version == 1 {
            return self.answer_v1(number, call);
        }
        let epoch = self.epoch(number);
        let bits = tag_bits(self.settings.depth.into());
        let mut copies = Vec::new();
        let mut own = None;
        let mut done = 0;
        while done < CHUNK {
            let Some(entry) = call.entries.first().cloned() else { break };
            let named = check_commit(&entry.commit)
                .ok()
                .and_then(|()| decode_handle(entry.commit.handle, epoch, bits))
                .map(|(queue, handle)| (usize::try_from(queue).unwrap_or(usize::MAX), handle))
                .filter(|(queue, _)| *queue < self.settings.queues);
            let Some((queue, handle)) = named else {
                if own.is_some() {
                    break;
                }
                call.entries.remove(0);
                self.refuse(number, &mut call, &entry, true);
                return self.enter(number, call);
            };
            if own.is_some_and(|own| own != queue) {
                break;
            }
            own = Some(queue);
            call.entries.remove(0);
            done += 1;
            self.commit_one(number, &mut call, (queue, handle), entry, &mut copies);
        }
        if copies.is_empty() { self.enter(number, call) } else { State::CommitCopy(call, copies) }
    }

    fn commit_one(
        &mut self,
        number: usize,
        call: &mut Call,
        (queue, handle): (usize, Handle),
        entry: Entry,
        copies: &mut Vec<Copying>,
    ) {
        let mut locked = self.queue(queue);
        let Ok(held) = locked.answered_by(handle) else {
            self.refuse(number, call, &entry, true);
            return;
        };
        let request = *held.request();
        match plan(&request, &entry.commit) {
            Ok(Plan::Finish(result)) => {
                let end = held.finish(result);
                self.answered(number, queue, handle, &request, result.is_ok(), end);
                self.forget(self.threads[number].process, entry.commit.handle);
            }
            Ok(Plan::Copy(data)) => {
                held.pin();
                let id = self.pin(queue, handle.tag());
                let slow = self.random.one_in(6);
                copies.push(Copying { queue, handle, request, id, data, entry, slow });
            }
            Err(_) => self.refuse(number, call, &entry, false),
        }
    }

    /// A copy begins, so the pages must stay. Returns the identity of the request.
    fn pin(&mut self, queue: usize, tag: u16) -> u64 {
        let Some(started) = self.block.started(queue, tag) else {
            self.violation(format!("tag {tag} of queue {queue} is copied, which is not started"));
            return 0;
        };
        started.copying += 1;
        started.id
    }

    fn unpin(&mut self, queue: usize, tag: u16, id: u64) {
        match self.block.started(queue, tag).filter(|started| started.id == id) {
            Some(started) => started.copying -= 1,
            None => self.violation(format!("tag {tag} of queue {queue} went away while it was copied")),
        }
    }

    /// Moves blocks between a request's pages and a server's memory.
    fn move_blocks(&mut self, copying: &Copying, process: usize, done: usize, count: usize) -> Vec<u64> {
        let Copying { queue, handle, request, id, data, entry, .. } = copying;
        let Some(started) = self.block.started(*queue, handle.tag()).filter(|started| started.id == *id)
        else {
            self.violation(format!("a copy of tag {} of queue {queue}, which went away", handle.tag()));
            return Vec::new();
        };
        if data.to_server() {
            let values = started.data[done..done + count].to_vec();
            if data.way == Way::Out {
                self.lands(process, request, done, &values);
            }
            values
        } else {
            let values = &entry.data[done..done + count];
            started.data[done..done + count].copy_from_slice(values);
            Vec::new()
        }
    }

    fn commit_copy(&mut self, number: usize, call: Call, mut copies: Vec<Copying>) -> State {
        let process = self.threads[number].process;
        for copying in &mut copies {
            let count = length(&copying.request);
            // A copy that meets a missing page may have copied a part.
            let count = if copying.slow { self.random.index(count + 1) } else { count };
            let values = self.move_blocks(copying, process, 0, count);
            if copying.data.way == Way::OutAndKeep && !copying.slow {
                copying.entry.data = values;
            }
        }
        State::CommitCopied(call, copies)
    }

    fn commit_copied(&mut self, number: usize, mut call: Call, copies: Vec<Copying>) -> State {
        let queue = copies.first().map_or(0, |copying| copying.queue);
        let process = self.threads[number].process;
        let mut left = Vec::new();
        let mut kept_any = false;
        for copying in copies {
            let (tag, raw) = (copying.handle.tag(), copying.entry.commit.handle);
            let kept = copying.slow || copying.data.way == Way::OutAndKeep;
            kept_any |= kept;
            self.unpin(queue, tag, copying.id);
            if !kept {
                if let Some(end) = self.queue(queue).answered(copying.handle) {
                    self.copied_in(number, queue, &copying, end);
                }
                self.forget(process, raw);
            } else if let Some(end) = self.queue(queue).copied(copying.handle).end() {
                self.threads[number].ends.push((queue, end));
                self.refuse(number, &mut call, &copying.entry, true);
            } else {
                self.note_taken_back(number, queue, tag);
                if copying.slow {
                    left.push(copying);
                } else {
                    self.keeps(process, &copying);
                }
            }
        }
        if kept_any {
            let wake = self.queue(queue).announce();
            self.wake(queue, wake);
        }
        if left.is_empty() { self.enter(number, call) } else { State::CommitSlow(call, left, SLOW) }
    }

    /// A copy completed an answer: it ends the request, unless the request failed meanwhile.
    fn copied_in(&mut self, number: usize, queue: usize, copying: &Copying, end: End) {
        // A doomed request failed before, whatever the server answers.
        let accepted = end.result().is_ok();
        self.answered(number, queue, copying.handle, &copying.request, accepted, end);
    }

    /// The server now has the data of the write.
    fn keeps(&mut self, process: usize, copying: &Copying) {
        let raw = copying.entry.commit.handle;
        for task in self.processes[process].tasks.iter_mut().filter(|task| task.raw == raw) {
            task.data = Some(copying.entry.data.clone());
        }
    }

    /// A copy stopped: records whether the request was requeued because its server is dead.
    fn note_taken_back(&mut self, number: usize, queue: usize, tag: u16) {
        if self.is_queued(queue, tag) && !self.device.queues[queue].fifo.contains(&tag) {
            self.device.queues[queue].fifo.push_front(tag);
            self.threads[number].tell = !self.planted(Defect::ForgetsPollers);
        }
    }

    fn commit_slow(&mut self, number: usize, mut call: Call, mut copies: Vec<Copying>, slow: Slow) -> State {
        let Some(mut copying) = copies.pop() else { return self.enter(number, call) };
        match self.transfer(number, &mut copying, slow) {
            Went::On(slow) => {
                copies.push(copying);
                return State::CommitSlow(call, copies, slow);
            }
            Went::Done => self.conclude(number, &mut call, &copying),
            Went::Lost => self.refuse(number, &mut call, &copying.entry, true),
            Went::Failed => self.refuse(number, &mut call, &copying.entry, false),
        }
        if copies.is_empty() { self.enter(number, call) } else { State::CommitSlow(call, copies, SLOW) }
    }

    /// Everything is copied, and the request is HELD.
    fn conclude(&mut self, number: usize, call: &mut Call, copying: &Copying) {
        let process = self.threads[number].process;
        if copying.data.way == Way::OutAndKeep {
            self.keeps(process, copying);
            return;
        }
        match self.queue(copying.queue).finish(copying.handle, Ok(())) {
            Ok(end) => {
                self.copied_in(number, copying.queue, copying, end);
                self.forget(process, copying.entry.commit.handle);
            }
            Err(_) => self.refuse(number, call, &copying.entry, true),
        }
    }

    /// One step of `Transfer::run`.
    fn transfer(&mut self, number: usize, copying: &mut Copying, slow: Slow) -> Went {
        let Copying { queue, handle, .. } = *copying;
        let tag = handle.tag();
        let total = length(&copying.request);
        let process = self.threads[number].process;
        match slow.next {
            SlowStep::Fault => {
                if self.processes[process].killed || self.random.one_in(20) {
                    return Went::Failed;
                }
                Went::On(Slow { next: SlowStep::Pin, ..slow })
            }
            SlowStep::Pin => {
                if self.queue(queue).pin(handle).is_err() {
                    return Went::Lost;
                }
                copying.id = self.pin(queue, tag);
                Went::On(Slow { next: SlowStep::Copy, ..slow })
            }
            SlowStep::Copy => {
                let count = self.random.index(total - slow.done + 1);
                let values = self.move_blocks(copying, process, slow.done, count);
                if copying.data.to_server() {
                    copying.entry.data.truncate(slow.done);
                    copying.entry.data.extend(values);
                }
                Went::On(Slow { done: slow.done + count, next: SlowStep::Unpin })
            }
            SlowStep::Unpin => {
                self.unpin(queue, tag, copying.id);
                if self.stopped(number, queue, handle) {
                    return Went::Lost;
                }
                if slow.done < total {
                    return Went::On(Slow { next: SlowStep::Fault, ..slow });
                }
                Went::On(Slow { next: SlowStep::Finish, ..slow })
            }
            SlowStep::Finish => Went::Done,
        }
    }

    /// Like `transfer::stopped`.
    fn stopped(&mut self, number: usize, queue: usize, handle: Handle) -> bool {
        let end = self.queue(queue).copied(handle).end();
        self.note_taken_back(number, queue, handle.tag());
        if self.queue(queue).superseded(handle.epoch()) {
            let wake = self.queue(queue).announce();
            self.wake(queue, wake);
        }
        let failed = end.is_some();
        self.threads[number].ends.extend(end.map(|end| (queue, end)));
        failed
    }

    /// A server's answer was accepted.
    fn answered(
        &mut self,
        number: usize,
        queue: usize,
        handle: Handle,
        request: &Request,
        well: bool,
        end: End,
    ) {
        self.say(|| format!("thread {number}: answers tag {}: {well}, so {:?}", handle.tag(), end.result()));
        let thread = &mut self.threads[number];
        let (tag, failed) = (end.tag(), end.result().is_err());
        thread.ends.push((queue, end));
        if !self.settings.volatile {
            return;
        }
        if request.op == Op::Flush {
            self.flush_answered(queue, handle, well, failed);
            return;
        }
        if !well {
            return;
        }
        let durable = request.flags & zosbd2_engine::request::FUA != 0;
        if matches!(request.op, Op::Write | Op::WriteZeroes | Op::SecureErase)
            && !(request.op == Op::Write && durable)
        {
            let (epoch, over) = (handle.epoch(), &mut thread.over);
            match over.iter_mut().find(|(at, server, _)| (*at, *server) == (queue, epoch)) {
                Some((.., written)) => *written += 1,
                None => over.push((queue, epoch, 1)),
            }
        }
        let process = thread.process;
        let lost = if self.swallows(process, request) { blocks(request) } else { (0, 0) };
        let now = self.now_ns;
        if let Some(started) = self.block.started(queue, tag) {
            started.lost = (lost.0..lost.0 + lost.1).collect();
            started.accepted = true;
        }
        let device = &mut self.device;
        let own = handle.epoch() >= device.queues[queue].cache_from;
        match request.op {
            Op::Write if durable => {}
            Op::Write | Op::WriteZeroes | Op::SecureErase if own => {
                device.queues[queue].written = now;
                device.queues[queue].unended += 1;
            }
            Op::Write | Op::WriteZeroes | Op::SecureErase => device.unended += 1,
            Op::Read | Op::Discard | Op::Flush => {}
        }
        device.queues[queue].failed_flushes = 0;
    }

    /// A flush was answered: a failed flush reports losses, and flushes fail neither without a loss nor for
    /// long.
    fn flush_answered(&mut self, queue: usize, handle: Handle, well: bool, failed: bool) {
        let tag = handle.tag();
        let made = self.block.started(queue, tag).map_or(0, |started| started.submitted);
        let device = &mut self.device;
        let block = &mut device.queues[queue];
        if well && handle.epoch() >= block.cache_from {
            device.covered = device.covered.max(block.fetched[usize::from(tag)]);
        }
        if !failed {
            return;
        }
        let may_fail = !well || device.lost > 0 || device.unended > 0;
        let quiet = device.unended == 0 && block.unended == 0;
        if device.lost > 0 && quiet && (block.failed_flushes > 0 || made > device.lost.max(block.ended)) {
            block.failed_flushes += 1;
            if block.failed_flushes == 2 {
                device.lost = 0;
            }
        }
        self.told_of_loss(queue);
        if !may_fail {
            self.violation("a flush fails although nothing is lost".to_owned());
        }
    }

    /// The block requests of this many writes, which a thread of this server answered, have ended.
    fn ended(&mut self, queue: usize, epoch: u32, written: u32) {
        let now = self.now_ns;
        self.queue(queue).ended(epoch, written);
        let device = &mut self.device;
        let block = &mut device.queues[queue];
        block.ended = now;
        if epoch < block.cache_from {
            device.lost = now;
            device.unended -= written;
            device.queues.iter_mut().for_each(|queue| queue.failed_flushes = 0);
        } else {
            block.written = now;
            block.unended -= written;
        }
    }

    fn fetch(&mut self, number: usize, mut call: Call) -> State {
        let (epoch, queue) = (self.epoch(number), call.queue);
        let most = (call.capacity - call.fetched).min(CHUNK);
        let (mut parcels, mut pinned): (Vec<Parcel>, bool) = (Vec::new(), false);
        let thread = u32::try_from(number).unwrap_or(0) + 1;
        let stop = loop {
            if parcels.len() == most {
                break Stop::Enough;
            }
            match self.queue_for(queue, thread).fetch(epoch, call.room.next()) {
                Work::Request(fetched) => {
                    let tag = fetched.handle.tag();
                    let oldest = self.device.queues[queue].fifo.pop_front();
                    self.say(|| format!("thread {number}: fetches {fetched:?}"));
                    if oldest != Some(tag) {
                        self.violation(format!(
                            "queue {queue}: {tag} is fetched, but {oldest:?} is the oldest"
                        ));
                    }
                    self.check_fetched(queue, &fetched, call.room.next());
                    self.device.queues[queue].fetched[usize::from(tag)] = self.steps;
                    let mut id = 0;
                    if fetched.copying {
                        id = self.pin(queue, tag);
                        pinned = true;
                        call.room.take(fetched.request.length.into());
                    }
                    let slow = fetched.copying && self.random.one_in(6);
                    parcels.push(Parcel { fetched, id, data: None, slow });
                }
                // Version 2 has no notices.
                Work::Notice if self.settings.version == 1 => {
                    let wake = self.queue(queue).announce();
                    self.wake(queue, wake);
                    return self.leaves(number);
                }
                Work::Notice => {}
                Work::Nothing => break Stop::Nothing,
                Work::Gone | Work::Superseded => break Stop::Never,
            }
        };
        if !parcels.is_empty() {
            let wake = self.queue(queue).announce();
            self.wake(queue, wake);
            return if pinned {
                State::Copy(call, parcels, stop)
            } else {
                State::HandOver(call, parcels, stop)
            };
        }
        match stop {
            Stop::Never => {
                if !self.planted(Defect::ForgetsAnnounce) {
                    let wake = self.queue(queue).announce();
                    self.wake(queue, wake);
                }
                return self.sent_away(number);
            }
            Stop::Enough => return self.leaves(number),
            Stop::Nothing => {}
        }
        let version = self.settings.version;
        if version == 2 && (call.fetched >= call.minimum || call.refused > 0) {
            return self.leaves(number);
        }
        let room = u32::try_from(call.capacity).unwrap_or(u32::MAX);
        self.queue(queue).wait(room);
        self.device.queues[queue].waiters.push(number);
        let first = !std::mem::replace(&mut call.slept, true);
        let thread = &mut self.threads[number];
        thread.woken = false;
        if first {
            thread.sleeps_until = self.now_ns.saturating_add(call.timeout_ns);
        }
        self.say(|| format!("thread {number}: sleeps"));
        State::Asleep(call)
    }

    /// A fetched request equals the block layer's request, except for the mark. A write comes with its data if there is
    /// room for all of it.
    fn check_fetched(&mut self, queue: usize, fetched: &Fetched, room: u64) {
        let Fetched { request, copying, .. } = fetched;
        let fits = request.op == Op::Write && u64::from(request.length) <= room;
        if *copying != fits {
            self.violation(format!(
                "queue {queue}: {request:?} with {room} bytes of room, copied: {copying}"
            ));
        }
        let tag = fetched.handle.tag();
        let asked = self.block.started(queue, tag).map(|started| started.request);
        let got = Request { flags: fetched.request.flags & !MAYBE_EXECUTED, ..fetched.request };
        if asked != Some(got) {
            self.violation(format!("queue {queue}: tag {tag} is {got:?}, but {asked:?} was asked for"));
        }
    }

    fn sent_away(&mut self, number: usize) -> State {
        self.say(|| format!("thread {number}: is sent away"));
        self.threads[number].sent_away = true;
        if self.settings.version == 1 {
            return State::Out;
        }
        if (0..self.settings.queues).any(|queue| self.queue(queue).phase() == Phase::Gone) {
            return State::Out;
        }
        self.leaves(number)
    }

    fn wakes(&mut self, number: usize, call: Call) -> State {
        let queue = call.queue;
        let thread = &mut self.threads[number];
        let (woken, signal) = (thread.woken, thread.signal);
        thread.woken = false;
        let killed = self.processes[self.threads[number].process].killed;
        if woken && self.threads[number].counted {
            let epoch = self.epoch(number);
            let present = !self.queue(queue).superseded(epoch);
            self.queue(queue).arrive(epoch);
            if present {
                let block = &mut self.device.queues[queue];
                block.waking = block.waking.saturating_sub(1);
                block.arrived = true;
            }
        } else if !woken {
            self.device.queues[queue].waiters.retain(|waiter| *waiter != number);
            self.queue(queue).leave();
        }
        self.say(|| format!("thread {number}: is up, woken {woken}, signal {signal}, killed {killed}"));
        if !woken || killed {
            if !self.planted(Defect::ForgetsAnnounce) {
                let wake = self.queue(queue).announce();
                self.wake(queue, wake);
            }
            return self.leaves(number);
        }
        self.fetch(number, call)
    }

    fn polls(&mut self, number: usize) -> State {
        let process = self.threads[number].process;
        if self.processes[process].killed {
            return State::Out;
        }
        self.threads[number].woken = false;
        if self.threads[number].signal || self.poll(number) {
            return State::User;
        }
        State::Polls
    }

    fn copy(&mut self, call: Call, mut parcels: Vec<Parcel>, stop: Stop) -> State {
        for parcel in parcels.iter_mut().filter(|parcel| parcel.fetched.copying && !parcel.slow) {
            let tag = parcel.fetched.handle.tag();
            let started = self.block.started(call.queue, tag).filter(|started| started.id == parcel.id);
            parcel.data = started.map(|started| started.data.clone());
            if parcel.data.is_none() {
                self.violation(format!("a copy of tag {tag} of queue {}, which went away", call.queue));
            }
        }
        State::Copied(call, parcels, stop)
    }

    fn copied(&mut self, number: usize, call: Call, mut parcels: Vec<Parcel>, stop: Stop) -> State {
        let queue = call.queue;
        let mut lost = vec![false; parcels.len()];
        for (parcel, lost) in parcels.iter().zip(&mut lost).filter(|(parcel, _)| parcel.fetched.copying) {
            let handle = parcel.fetched.handle;
            self.unpin(queue, handle.tag(), parcel.id);
            if let Some(end) = self.queue(queue).copied(handle).end() {
                self.threads[number].ends.push((queue, end));
                *lost = true;
            } else {
                self.note_taken_back(number, queue, handle.tag());
            }
        }
        let epoch = self.epoch(number);
        if self.queue(queue).superseded(epoch) {
            let wake = self.queue(queue).announce();
            self.wake(queue, wake);
        }
        let mut lost = lost.into_iter();
        parcels.retain(|_| !lost.next().unwrap_or(false));
        match parcels.iter().rposition(|parcel| parcel.slow) {
            Some(at) => State::FetchSlow(call, parcels, stop, at, SLOW),
            None => self.parcels_left(number, call, parcels, stop),
        }
    }

    fn parcels_left(&mut self, _number: usize, call: Call, parcels: Vec<Parcel>, stop: Stop) -> State {
        if parcels.is_empty() && self.settings.version == 1 {
            return State::Fetch(call);
        }
        State::HandOver(call, parcels, stop)
    }

    fn fetch_slow(
        &mut self,
        number: usize,
        call: Call,
        mut parcels: Vec<Parcel>,
        stop: Stop,
        at: usize,
        slow: Slow,
    ) -> State {
        let parcel = &mut parcels[at];
        let Fetched { handle, request, .. } = parcel.fetched;
        let entry = Entry {
            commit: zosbd2_abi::v2::Commit::default(),
            data: parcel.data.take().unwrap_or_default(),
            op_id: 0,
            op: request.op,
        };
        let data = Move { bytes: request.length, way: Way::OutAndKeep };
        let mut copying =
            Copying { queue: call.queue, handle, request, id: parcel.id, data, entry, slow: true };
        let went = self.transfer(number, &mut copying, slow);
        parcel.id = copying.id;
        parcel.data = Some(copying.entry.data);
        match went {
            Went::On(slow) => return State::FetchSlow(call, parcels, stop, at, slow),
            Went::Done => parcels[at].slow = false,
            Went::Lost => {
                parcels.remove(at);
            }
            Went::Failed => return State::TakeBack(call, parcels),
        }
        match parcels.iter().rposition(|parcel| parcel.slow) {
            Some(at) => State::FetchSlow(call, parcels, stop, at, SLOW),
            None => self.parcels_left(number, call, parcels, stop),
        }
    }

    fn hand_over(&mut self, number: usize, mut call: Call, parcels: Vec<Parcel>, stop: Stop) -> State {
        let queue = call.queue;
        if self.random.one_in(50) {
            // The memory for the requests is missing.
            return State::TakeBack(call, parcels);
        }
        let bits = tag_bits(self.settings.depth.into());
        let handles = Handles::new(self.epoch(number), u32::try_from(queue).unwrap_or(0), bits);
        let count = parcels.len();
        for parcel in parcels {
            let handle = parcel.fetched.handle;
            let raw = if self.settings.version == 1 { handle.op_id().into() } else { handles.encode(handle) };
            self.told(number, queue, raw, &parcel.fetched, parcel.data);
        }
        call.fetched += count;
        let enough = call.fetched >= call.minimum.max(1);
        match stop {
            Stop::Never => self.sent_away(number),
            Stop::Nothing if enough => self.leaves(number),
            Stop::Enough if call.fetched >= call.capacity => self.leaves(number),
            Stop::Nothing | Stop::Enough => State::Fetch(call),
        }
    }

    /// Returns requests that the server could not be told of, the last one first.
    fn give_back(&mut self, number: usize, call: &Call, parcels: &[Parcel]) -> State {
        let queue = call.queue;
        let wrong = self.planted(Defect::WrongOrder);
        let mut fifo = Vec::new();
        for at in 0..parcels.len() {
            let at = if wrong { at } else { parcels.len() - 1 - at };
            let handle = parcels[at].fetched.handle;
            let before = self.queue(queue).queued();
            let wake = self.queue(queue).unfetch(handle);
            if self.queue(queue).queued() != before {
                fifo.push(handle.tag());
            }
            self.wake(queue, wake);
        }
        // In their old order, whatever the order of their return.
        if wrong {
            fifo.reverse();
        }
        for tag in fifo {
            self.device.queues[queue].fifo.push_front(tag);
        }
        self.threads[number].tell = true;
        self.leaves(number)
    }

    /// Like `answer` of version 1.
    fn answer_v1(&mut self, number: usize, mut call: Call) -> State {
        if self.queue(0).phase() == Phase::Gone {
            return self.sent_away(number);
        }
        let Some(entry) = call.entries.pop() else { return State::Fetch(call) };
        let process = self.threads[number].process;
        let ok = entry.commit.result >= 0;
        let Some(handle) = self.queue(0).handle_of(entry.op_id) else {
            self.forget(process, entry.commit.handle);
            return State::Fetch(call);
        };
        let Some(request) = self.block.started(0, handle.tag()).map(|started| started.request) else {
            self.violation(format!("tag {} is HELD and not started", handle.tag()));
            return State::Out;
        };
        let answer = self.queue(0).answer(handle, entry.op, ok);
        match answer {
            Ok(Answer::End(end)) => {
                self.answered(number, 0, handle, &request, ok, end);
                self.forget(process, entry.commit.handle);
            }
            Ok(Answer::CopyIn(handle, request)) => {
                let id = self.pin(0, handle.tag());
                let data = Move { bytes: request.length, way: Way::In };
                let slow = self.random.one_in(6);
                let copying = Copying { queue: 0, handle, request, id, data, entry, slow };
                return State::CommitCopy(call, vec![copying]);
            }
            Err(Refused::Stale) => self.forget(process, entry.commit.handle),
            Err(Refused::WrongKind) => return self.leaves(number),
        }
        State::Fetch(call)
    }
}

/// Number of blocks of a request.
fn length(request: &Request) -> usize {
    usize::try_from(request.length / BLOCK).unwrap_or(usize::MAX)
}
