// SPDX-License-Identifier: GPL-2.0-only
//! The fake block layer: tags, the flush machinery, the timer; and the submitters above it.
//!
//! As in blk-mq, a request has a tag until it ends, and the next request gets the tag only after the timer
//! has dropped its reference. At most one flush of a queue is in flight, with the tag of one of the I/Os that
//! wait for it. I/Os that come meanwhile wait for the next flush. A write that must be durable is followed by
//! a flush if the device does not support FUA.

use crate::settings::{BLOCK, Defect};
use crate::world::World;
use zosbd2_engine::Errno;
use zosbd2_engine::queue::{Deadline, End, LOOK_MS, Overdue, Wake};
use zosbd2_engine::request::{FUA, Op, Request, State};

/// Step of an I/O in the flush machinery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Waits for a flush before its data.
    Before,
    Data,
    /// Waits for a flush after its data.
    After,
}

/// A submitter's I/O.
#[derive(Clone, Debug)]
struct Io {
    submitter: usize,
    queue: usize,
    tag: u16,
    op: Op,
    first: usize,
    blocks: usize,
    fua: bool,
    stage: Stage,
    began: u64,
    began_ns: u64,
    /// Its data belongs to the flush machinery.
    sequence: bool,
    /// Data that a read returned, or values of a write.
    data: Vec<u64>,
    /// Floors of a read, or of an I/O that waits for a flush.
    floors: Vec<u64>,
}

/// How long a flush waits at most for the data of other I/Os, if something makes the block layer check.
const PENDING_NS: u64 = 5_000_000_000;

/// Owner of a request in the driver.
#[derive(Clone, Debug)]
enum Whose {
    Io(usize),
    /// The queue's flush machinery.
    Flush,
}

/// A request in the driver.
#[derive(Clone, Debug)]
pub(crate) struct Started {
    /// Identifies this request among those with the same tag.
    pub(crate) id: u64,
    whose: Whose,
    /// The request, as the driver got it.
    pub(crate) request: Request,
    /// Contents of its pages.
    pub(crate) data: Vec<u64>,
    /// Number of copies that use the pages.
    pub(crate) copying: u32,
    /// Time of its submission.
    pub(crate) submitted: u64,
    /// Whether its answer was accepted.
    pub(crate) accepted: bool,
    /// Blocks whose values are lost although the answer was accepted.
    pub(crate) lost: Vec<usize>,
    deadline_ns: u64,
    timed_out: bool,
    ended: bool,
}

/// A hardware queue.
#[derive(Debug, Default)]
struct HwQueue {
    tags: Vec<Option<usize>>,
    started: Vec<Option<Started>>,
    flush_pending: Vec<usize>,
    flush_running: Vec<usize>,
    /// When the flush was made that is on its way to the driver.
    flush_made: Option<u64>,
    /// Since when I/Os wait for the next flush.
    pending_since: u64,
    /// Writes of the flush machinery with data on its way to, or in, the driver. The next flush waits for
    /// them.
    in_data: u32,
    /// I/Os that continue after a flush.
    again: Vec<usize>,
    /// Submitters in the middle of a plugged list that is not announced yet.
    plugged: u32,
}

#[derive(Clone, Debug)]
enum Doing {
    Thinking,
    /// Submits these I/Os to this queue; the flag says that the last one was refused.
    Submitting(usize, Vec<usize>, bool),
    Waiting,
}

#[derive(Clone, Debug)]
struct Submitter {
    doing: Doing,
    /// Number of I/Os that have not ended.
    left: usize,
    /// Pollers must be woken.
    tell: bool,
    /// When it continues: a program does not retry a failed I/O at once.
    rests_until: u64,
}

/// The timer of a device. It holds a reference to one request at a time.
#[derive(Debug, Default)]
struct Timer {
    holds: Option<(usize, u16, u64)>,
    /// The deadline was handled; next the timer drops its reference.
    handled: bool,
    end: Option<End>,
    tell: bool,
    /// A flush that ended while the timer held a reference to it.
    flushed: Option<Result<(), Errno>>,
}

/// The block layer of one device.
#[derive(Debug)]
pub(crate) struct Block {
    queues: Vec<HwQueue>,
    ios: Vec<Option<Io>>,
    submitters: Vec<Submitter>,
    timer: Timer,
    next_id: u64,
    /// Nothing new is submitted.
    pub(crate) frozen: bool,
    /// The disk is dead: nothing new will ever be submitted.
    pub(crate) dead: bool,
    /// I/Os that ended.
    pub(crate) finished: u64,
    /// I/Os that failed.
    pub(crate) failed: u64,
}

/// Actors of the block layer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    /// A submitter.
    Submitter(usize),
    /// The flush machinery of a queue.
    Flush(usize),
    /// The timer.
    Timer,
}

impl Block {
    /// The block layer of a device with this many queues and tags.
    #[must_use]
    pub(crate) fn new(queues: usize, depth: u16, submitters: usize) -> Self {
        let depth = usize::from(depth);
        let queue = || HwQueue { tags: vec![None; depth], started: vec![None; depth], ..HwQueue::default() };
        let submitter = Submitter { doing: Doing::Thinking, left: 0, tell: false, rests_until: 0 };
        Self {
            queues: (0..queues).map(|_| queue()).collect(),
            ios: Vec::new(),
            submitters: vec![submitter; submitters],
            timer: Timer::default(),
            next_id: 1,
            frozen: false,
            dead: false,
            finished: 0,
            failed: 0,
        }
    }

    /// The request of this tag in the driver.
    pub(crate) fn started(&mut self, queue: usize, tag: u16) -> Option<&mut Started> {
        self.queues[queue].started[usize::from(tag)].as_mut().filter(|started| !started.ended)
    }

    /// Whether a submitter is about to announce queued requests.
    #[must_use]
    pub(crate) fn plugged(&self, queue: usize) -> bool {
        self.queues[queue].plugged > 0
    }

    /// Number of I/Os that have not ended.
    #[must_use]
    pub(crate) fn outstanding(&self) -> usize {
        self.ios.iter().flatten().count()
    }

    /// Whether the driver has no request, and can get none from pending work.
    #[must_use]
    pub(crate) fn quiet(&self) -> bool {
        self.outstanding() == 0
            && self.timer.holds.is_none()
            && self.submitters.iter().all(|submitter| matches!(submitter.doing, Doing::Thinking))
    }

    /// Adds the actors that can run.
    pub(crate) fn ready(&self, now_ns: u64, started: bool, parts: &mut Vec<Part>) {
        for (number, submitter) in self.submitters.iter().enumerate() {
            let ready = match submitter.doing {
                Doing::Thinking => {
                    let rests = submitter.rests_until > now_ns;
                    submitter.tell || started && !self.frozen && !self.dead && !rests
                }
                Doing::Submitting(..) => true,
                Doing::Waiting => submitter.tell || submitter.left == 0,
            };
            if ready {
                parts.push(Part::Submitter(number));
            }
        }
        for (number, queue) in self.queues.iter().enumerate() {
            if queue.flush_made.is_some() || !queue.again.is_empty() {
                parts.push(Part::Flush(number));
            }
        }
        if self.timer.holds.is_some() || self.next_deadline_ns() <= now_ns {
            parts.push(Part::Timer);
        }
    }

    /// Time of the timer's next action.
    #[must_use]
    pub(crate) fn next_ns(&self, now_ns: u64) -> u64 {
        let idle = self.frozen || self.dead;
        let rests = self.submitters.iter().filter(|_| !idle).map(|submitter| submitter.rests_until);
        self.next_deadline_ns().min(rests.filter(|until| *until > now_ns).min().unwrap_or(u64::MAX))
    }

    fn next_deadline_ns(&self) -> u64 {
        let started = self.queues.iter().flat_map(|queue| queue.started.iter().flatten());
        let waiting = started.filter(|started| !started.timed_out && !started.ended);
        waiting.map(|started| started.deadline_ns).min().unwrap_or(u64::MAX)
    }

    fn free_tag(&self, queue: usize) -> Option<u16> {
        let held = |tag: u16| self.timer.holds.is_some_and(|(of, held, _)| (of, held) == (queue, tag));
        (0_u16..)
            .zip(&self.queues[queue].tags)
            .find(|(tag, io)| io.is_none() && !held(*tag))
            .map(|(tag, _)| tag)
    }
}

impl World {
    /// The actor takes one step.
    pub(crate) fn step_block(&mut self, part: Part) {
        match part {
            Part::Submitter(number) => self.step_submitter(number),
            Part::Flush(queue) => self.step_flush(queue),
            Part::Timer => self.step_timer(),
        }
    }

    fn step_submitter(&mut self, number: usize) {
        if std::mem::take(&mut self.block.submitters[number].tell) {
            self.wake_pollers();
            return;
        }
        let doing = std::mem::replace(&mut self.block.submitters[number].doing, Doing::Waiting);
        let doing = match doing {
            Doing::Thinking => self.think(number),
            Doing::Submitting(queue, ios, false) if !ios.is_empty() => self.submit_next(number, queue, ios),
            Doing::Submitting(queue, _, _) => {
                // The last request was refused, or went to another queue.
                self.announce(queue);
                self.block.queues[queue].plugged -= 1;
                self.block.submitters[number].tell = true;
                Doing::Waiting
            }
            Doing::Waiting => Doing::Thinking,
        };
        self.block.submitters[number].doing = doing;
    }

    /// Chooses the next action, and gets tags for it.
    fn think(&mut self, number: usize) -> Doing {
        let queue = self.random.index(self.settings.queues);
        let mut ios = Vec::new();
        for _ in 0..=self.random.index(self.settings.batch) {
            let Some(tag) = self.block.free_tag(queue) else { break };
            let io = self.choose(number, queue, tag);
            let at = self.block.ios.iter().position(Option::is_none).unwrap_or(self.block.ios.len());
            if at == self.block.ios.len() {
                self.block.ios.push(None);
            }
            self.say(|| format!("submitter {number}: {io:?}"));
            self.block.queues[queue].tags[usize::from(tag)] = Some(at);
            self.block.submitters[number].left += 1;
            let machinery = io.stage != Stage::Data;
            self.block.ios[at] = Some(io);
            if machinery {
                self.wait_for_flush(queue, at);
            } else {
                ios.push(at);
                if self.is_step(at) {
                    self.block.queues[queue].in_data += 1;
                }
            }
        }
        if ios.is_empty() {
            return if self.block.submitters[number].left > 0 { Doing::Waiting } else { Doing::Thinking };
        }
        self.block.queues[queue].plugged += 1;
        Doing::Submitting(queue, ios, false)
    }

    fn choose(&mut self, submitter: usize, queue: usize, tag: u16) -> Io {
        let volatile = self.settings.volatile;
        let op = match self.random.below(20) {
            8..14 => Op::Read,
            14 => Op::Discard,
            15 if self.settings.version == 2 => Op::WriteZeroes,
            16 if self.settings.version == 2 => Op::SecureErase,
            17..20 if volatile => Op::Flush,
            _ => Op::Write,
        };
        let flush = op == Op::Flush;
        let fua = op == Op::Write && volatile && self.random.one_in(5);
        let before = flush || op == Op::Write && volatile && self.random.one_in(10);
        let blocks = if flush { 0 } else { 1 + self.random.index(self.settings.blocks.min(4)) };
        let first = if flush { 0 } else { self.random.index(self.settings.blocks - blocks + 1) };
        let now = self.steps;
        let data = match op {
            Op::Write => (first..first + blocks).map(|block| self.account.write_begins(block, now)).collect(),
            Op::Read => vec![0; blocks],
            _ => Vec::new(),
        };
        if matches!(op, Op::Discard | Op::WriteZeroes | Op::SecureErase) {
            (first..first + blocks).for_each(|block| self.account.zero_begins(block));
        }
        let after = fua && !self.settings.fua;
        let floors = if op == Op::Read || before || after { self.account.floors() } else { Vec::new() };
        let stage = if before { Stage::Before } else { Stage::Data };
        Io {
            submitter,
            queue,
            tag,
            op,
            first,
            blocks,
            fua,
            stage,
            began: now,
            began_ns: self.now_ns,
            sequence: op == Op::Write && (before || after),
            data,
            floors,
        }
    }

    fn submit_next(&mut self, number: usize, queue: usize, mut ios: Vec<usize>) -> Doing {
        let io = ios.remove(0);
        // Most plugs end with their last request, some with an announcement.
        let last = ios.is_empty() && !self.random.one_in(4);
        let taken = self.submit_io(io, last);
        if !ios.is_empty() {
            return Doing::Submitting(queue, ios, false);
        }
        if last && taken {
            self.block.queues[queue].plugged -= 1;
            self.block.submitters[number].tell = true;
            return Doing::Waiting;
        }
        Doing::Submitting(queue, ios, true)
    }

    /// Gives the data request of an I/O to the driver. Returns whether the driver took it.
    fn submit_io(&mut self, at: usize, last: bool) -> bool {
        let Some(io) = &self.block.ios[at] else { return false };
        let (queue, tag) = (io.queue, io.tag);
        let flags = if io.fua && self.settings.fua { FUA } else { 0 };
        let bytes = |blocks: usize| u64::try_from(blocks).unwrap_or(0) * u64::from(BLOCK);
        let length = u32::try_from(bytes(io.blocks)).unwrap_or(0);
        let request = Request { op: io.op, flags, offset: bytes(io.first), length };
        let data = if io.op == Op::Write { io.data.clone() } else { vec![u64::MAX; io.blocks] };
        let began_ns = io.began_ns;
        let taken = self.submit(queue, tag, Whose::Io(at), request, began_ns, data, last);
        if !taken {
            self.io_ends(queue, at, Err(Errno::EIO), &[]);
        }
        taken
    }

    /// The driver's `queue_rq`. `made_ns`: when the request was made.
    #[expect(clippy::too_many_arguments, reason = "a request has this many fields")]
    fn submit(
        &mut self,
        queue: usize,
        tag: u16,
        whose: Whose,
        request: Request,
        made_ns: u64,
        data: Vec<u64>,
        last: bool,
    ) -> bool {
        let id = self.block.next_id;
        self.block.next_id += 1;
        let deadline_ns = self.now_ns + self.timeout_ns();
        let started = Started {
            id,
            whose,
            request,
            data,
            copying: 0,
            submitted: made_ns,
            accepted: false,
            lost: Vec::new(),
            deadline_ns,
            timed_out: false,
            ended: false,
        };
        let place = &mut self.block.queues[queue].started[usize::from(tag)];
        // The timer may hold a reference to the previous request of the tag: a write whose flush now borrows
        // the tag.
        if place.as_ref().is_some_and(|before| !before.ended) {
            self.violation(format!("tag {tag} of queue {queue} is started twice"));
            return false;
        }
        *place = Some(started);
        if request.offset + u64::from(request.length) > self.device.size_bytes {
            self.block.queues[queue].started[usize::from(tag)] = None;
            return false;
        }
        let Ok(wake) = self.queue(queue).submit(tag, request, made_ns, last) else {
            self.block.queues[queue].started[usize::from(tag)] = None;
            return false;
        };
        self.device.queues[queue].fifo.push_back(tag);
        self.say(|| format!("queue {queue}: tag {tag} is queued, last {last}"));
        self.wake(queue, wake);
        true
    }

    fn step_flush(&mut self, queue: usize) {
        if let Some(io) = self.block.queues[queue].again.pop() {
            self.submit_io(io, true);
            self.wake_pollers();
            return;
        }
        let Some(made) = self.block.queues[queue].flush_made.take() else { return };
        let first = self.block.queues[queue].flush_running.first();
        let Some(io) = first.and_then(|io| self.block.ios[*io].as_ref()) else { return };
        let tag = io.tag;
        let made = if self.planted(Defect::YoungFlushes) { u64::MAX } else { made };
        let request = Request { op: Op::Flush, ..Request::default() };
        if !self.submit(queue, tag, Whose::Flush, request, made, Vec::new(), true) {
            self.flush_ends(queue, Err(Errno::EIO));
        }
        self.wake_pollers();
    }

    /// Whether the data of an I/O belongs to the flush machinery.
    fn is_step(&self, at: usize) -> bool {
        self.block.ios[at].as_ref().is_some_and(|io| io.sequence)
    }

    /// The I/O waits for the next flush.
    fn wait_for_flush(&mut self, queue: usize, at: usize) {
        let now = self.now_ns;
        let hw = &mut self.block.queues[queue];
        if hw.flush_pending.is_empty() {
            hw.pending_since = now;
        }
        hw.flush_pending.push(at);
        self.kick_flush(queue);
    }

    /// Makes the next flush, for all waiting I/Os, if nothing has to end before. A work takes it to the
    /// driver.
    fn kick_flush(&mut self, queue: usize) {
        let now = self.now_ns;
        let hw = &mut self.block.queues[queue];
        let patient = now < hw.pending_since + PENDING_NS;
        if hw.flush_pending.is_empty() || !hw.flush_running.is_empty() || hw.in_data > 0 && patient {
            return;
        }
        hw.flush_running = std::mem::take(&mut hw.flush_pending);
        hw.flush_made = Some(now);
    }

    /// A flush of the machinery has ended, for all I/Os that wait for it.
    fn flush_ends(&mut self, queue: usize, result: Result<(), Errno>) {
        for at in std::mem::take(&mut self.block.queues[queue].flush_running) {
            let Some(io) = &mut self.block.ios[at] else { continue };
            match io.stage {
                Stage::Before if result.is_ok() => {
                    let (is_flush, began) = (io.op == Op::Flush, io.began);
                    io.stage = Stage::Data;
                    if let Err(error) = self.account.flushed(&io.floors, began) {
                        self.violation(error);
                    }
                    if is_flush {
                        self.finish_io(at, Ok(()));
                    } else {
                        self.block.queues[queue].in_data += 1;
                        self.block.queues[queue].again.push(at);
                    }
                }
                _ => self.finish_io(at, result),
            }
        }
        self.kick_flush(queue);
    }

    /// The driver ends the request of a tag.
    pub(crate) fn end(&mut self, queue: usize, end: End) {
        let (tag, result) = end.use_up();
        self.end_tag(queue, tag, result);
    }

    /// Like [`end`](Self::end), whether or not an effect says so.
    pub(crate) fn end_tag(&mut self, queue: usize, tag: u16, result: Result<(), Errno>) {
        if self.planted(Defect::ForgetsEnd) {
            return;
        }
        self.end_once(queue, tag, result);
        if self.planted(Defect::EndsTwice) {
            self.end_once(queue, tag, result);
        }
    }

    fn end_once(&mut self, queue: usize, tag: u16, result: Result<(), Errno>) {
        self.say(|| format!("queue {queue}: tag {tag} ends: {result:?}"));
        let Some(started) = self.block.started(queue, tag) else {
            self.violation(format!("tag {tag} of queue {queue} ends, which is not started"));
            return;
        };
        if started.copying > 0 {
            self.violation(format!("tag {tag} of queue {queue} ends while it is copied"));
            return;
        }
        started.ended = true;
        let Started { whose, data, lost, id, .. } = started.clone();
        let held = self.block.timer.holds == Some((queue, tag, id));
        if !held {
            self.block.queues[queue].started[usize::from(tag)] = None;
        }
        let Whose::Io(at) = whose else {
            if held {
                self.block.timer.flushed = Some(result);
            } else {
                self.flush_ends(queue, result);
            }
            return;
        };
        let Some(io) = &mut self.block.ios[at] else { return };
        if io.op == Op::Read {
            io.data = data;
        }
        self.io_ends(queue, at, result, &lost);
    }

    /// The block layer learns of the end of an I/O's data.
    fn io_ends(&mut self, queue: usize, at: usize, result: Result<(), Errno>, lost: &[usize]) {
        let Some(io) = &mut self.block.ios[at] else { return };
        let (first, step) = (io.first, io.sequence);
        let values = if lost.is_empty() { Vec::new() } else { io.data.clone() };
        let waits = result.is_ok() && io.fua && !self.settings.fua;
        if waits {
            io.stage = Stage::After;
        }
        if step {
            self.block.queues[queue].in_data -= 1;
        }
        if waits {
            self.wait_for_flush(queue, at);
        } else {
            self.finish_io(at, result);
        }
        if step {
            self.kick_flush(queue);
        }
        if result.is_ok() {
            self.lose_blocks(lost, first, &values);
        }
    }

    /// The flush in flight of a queue fails, which tells the I/Os that wait for it of earlier losses.
    pub(crate) fn told_of_loss(&mut self, queue: usize) {
        for at in &self.block.queues[queue].flush_running {
            if let Some(io) = &self.block.ios[*at] {
                self.account.told(&io.floors, io.began);
            }
        }
    }

    /// A cache with this value of a block is lost. If the write was answered, the thread that ends it does
    /// not know.
    pub(crate) fn lose_answered(&mut self, block: usize, value: u64) {
        for started in self.block.queues.iter_mut().flat_map(|queue| queue.started.iter_mut().flatten()) {
            let Whose::Io(at) = started.whose else { continue };
            let Some(io) = self.block.ios[at].as_ref().filter(|_| started.accepted && !started.ended) else {
                continue;
            };
            let written = block.checked_sub(io.first).and_then(|at| io.data.get(at));
            if io.op == Op::Write && written == Some(&value) && !started.lost.contains(&block) {
                started.lost.push(block);
            }
        }
    }

    /// Values of an ended I/O, from the block `first` on, are stored nowhere.
    fn lose_blocks(&mut self, lost: &[usize], first: usize, values: &[u64]) {
        for block in lost {
            let value = values.get(block - first).copied().unwrap_or(0);
            let shows = self.visible(*block);
            self.account.answered_lost(*block, value, shows, self.steps);
        }
    }

    /// An I/O has ended.
    fn finish_io(&mut self, at: usize, result: Result<(), Errno>) {
        let Some(io) = self.block.ios[at].take() else {
            self.violation(format!("I/O {at} ends twice"));
            return;
        };
        self.block.queues[io.queue].tags[usize::from(io.tag)] = None;
        self.block.submitters[io.submitter].left -= 1;
        self.block.finished += 1;
        self.block.failed += u64::from(result.is_err());
        let rest_ms = if result.is_err() { self.random.pick(&[0, 1, 100, 2000]) } else { 0 };
        self.block.submitters[io.submitter].rests_until = self.now_ns + rest_ms * 1_000_000;
        self.say(|| {
            format!("submitter {}: {:?} of step {} is over: {result:?}", io.submitter, io.op, io.began)
        });
        if result.is_err() {
            return;
        }
        let now = self.steps;
        match io.op {
            Op::Read => {
                if let Err(error) = self.account.check_read(io.first, &io.data, &io.floors) {
                    self.violation(format!("a read of step {}: {error}", io.began));
                }
            }
            Op::Write => io.data.iter().for_each(|value| self.account.write_ends(*value, now, io.fua)),
            Op::Discard => {
                (io.first..io.first + io.blocks).for_each(|block| self.account.zero_ends(block, None, now));
            }
            Op::WriteZeroes | Op::SecureErase => {
                let blocks = io.first..io.first + io.blocks;
                blocks.for_each(|block| self.account.zero_ends(block, Some(io.began), now));
            }
            Op::Flush => {}
        }
        // A promise of durability is checked when it is made.
        if io.fua || io.op == Op::Flush {
            self.check_disk();
        }
    }

    fn timeout_ns(&self) -> u64 {
        // blk-mq's default, if the device has none.
        let ms = if self.settings.deadline_ms == 0 { 30_000 } else { self.settings.deadline_ms };
        u64::from(ms) * 1_000_000
    }

    fn step_timer(&mut self) {
        if std::mem::take(&mut self.block.timer.tell) {
            self.wake_pollers();
            return;
        }
        let Some((queue, tag, id)) = self.block.timer.holds else {
            self.take_late();
            return;
        };
        if let Some(end) = self.block.timer.end.take() {
            self.end(queue, end);
            return;
        }
        if self.block.timer.handled {
            self.block.timer.holds = None;
            self.block.timer.handled = false;
            let place = &mut self.block.queues[queue].started[usize::from(tag)];
            if place.as_ref().is_some_and(|started| started.ended && started.id == id) {
                *place = None;
            }
            if let Some(result) = self.block.timer.flushed.take() {
                self.flush_ends(queue, result);
            }
            return;
        }
        self.block.timer.handled = true;
        let over = self.expire(queue, tag);
        let deadline_ns = self.now_ns + self.timeout_ns();
        if let Some(started) = self.block.started(queue, tag).filter(|started| !over && started.id == id) {
            started.timed_out = false;
            started.deadline_ns = deadline_ns;
        }
    }

    /// Takes a reference to a late request.
    fn take_late(&mut self) {
        for (number, queue) in self.block.queues.iter_mut().enumerate() {
            for (tag, started) in (0_u16..).zip(queue.started.iter_mut()) {
                let Some(started) = started else { continue };
                if !started.timed_out && !started.ended && started.deadline_ns <= self.now_ns {
                    started.timed_out = true;
                    self.block.timer.holds = Some((number, tag, started.id));
                    return;
                }
            }
        }
    }

    /// Like `expire` of the glue.
    fn expire(&mut self, queue: usize, tag: u16) -> bool {
        if self.settings.deadline_ms == 0 {
            return false;
        }
        let ns = u64::from(self.settings.deadline_ms) * 1_000_000;
        let deadline = Deadline { policy: self.settings.policy, ns };
        let overdue = self.queue(queue).expire(tag, deadline);
        self.say(|| format!("queue {queue}: tag {tag} is late: {overdue:?}"));
        match overdue {
            Overdue::Over | Overdue::Doomed => return true,
            Overdue::End(end) => {
                self.device.queues[queue].fifo.retain(|queued| *queued != tag);
                self.block.timer.end = Some(end);
                return true;
            }
            Overdue::Requeued(wake) => {
                self.device.queues[queue].fifo.push_front(tag);
                self.wake(queue, wake);
                self.block.timer.tell = true;
            }
            Overdue::ServerDead(epoch) => {
                let had = self.now_ns - self.device.queues[queue].attached_ns;
                if epoch == self.device.life.epoch() && had < ns {
                    self.violation(format!("server {epoch} is dead for what it had for {had} ns"));
                }
                self.bury(epoch);
            }
            Overdue::NotHere | Overdue::Waits => {}
        }
        false
    }

    fn announce(&mut self, queue: usize) {
        let wake = self.queue(queue).announce();
        self.wake(queue, wake);
    }

    /// Whether the request of a tag is QUEUED again after a server held it.
    pub(crate) fn is_queued(&self, queue: usize, tag: u16) -> bool {
        self.device.queues[queue].slots[usize::from(tag)].state() == State::Queued
    }

    /// Carries out a wake-up.
    pub(crate) fn wake(&mut self, queue: usize, Wake { servers, look }: Wake) {
        let block = &mut self.device.queues[queue];
        block.waking += servers;
        if look {
            block.arrived = false;
            block.look_ns = Some(self.now_ns + u64::from(LOOK_MS) * 1_000_000);
        }
        if !self.planted(Defect::ForgetsWake) {
            for _ in 0..servers {
                self.wake_one(queue);
            }
        }
    }
}
