// SPDX-License-Identifier: GPL-2.0-only
//! The commits of an ENTER: a server's answers, which are independent of each other.
//!
//! Called in the server's process context with no lock held; may sleep. Entries are copied in once and used
//! as copies. Consecutive entries of one queue share its lock. First all entries are looked up and their
//! requests pinned, then data is copied with no lock held, then all requests are freed, then their block
//! requests end together. A copy that met a missing page is carried out after that, alone: no request is
//! pinned while the kernel waits for the server's memory.

use core::mem::{offset_of, size_of};
use core::slice;

use zosbd2_abi::v2 as abi;
use zosbd2_engine::Errno;
use zosbd2_engine::queue::{End, Moment, Queue};
use zosbd2_engine::request::Handle;
use zosbd2_engine::v2::{Handles, Move, Plan, Way, check_commit, decode_handle, foreign_handle, plan};

use crate::block::{Device, Locked, QueueBlock, Successes};
use crate::list::List;
use crate::shim::Place;
use crate::transfer::{self, Transfer};
use crate::{shim, trace};

/// Entries per run; they are on the stack.
const CHUNK: usize = 16;
/// Iovec entries that are read at once.
const PIECES: usize = 8;
/// Bytes after which no more copies are begun in one run. Between runs the thread yields its processor, and
/// stops if it is being killed.
pub const RUN_BYTES: u32 = 4 << 20;

/// Progress of an ENTER.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Entries carried out or refused.
    pub processed: u32,
    /// Entries refused.
    pub refused: u32,
    /// Requests fetched.
    pub fetched: u32,
}

impl Progress {
    /// Writes the progress into an ENTER's argument. May sleep.
    ///
    /// # Errors
    ///
    /// `EFAULT`.
    #[inline]
    pub fn tell(&self, results: u64) -> Result<(), Errno> {
        shim::user_write_all(results, &[self.processed, self.refused, self.fetched])
    }
}

/// Carries out the commits of `enter`.
///
/// # Errors
///
/// `EFAULT` if the array ends too early, or if a status cannot be written, `EINTR` if the caller is being
/// killed; `progress` says how far it came.
#[inline(never)]
pub fn all<'a>(
    device: &'a Device,
    epoch: u32,
    enter: &abi::Enter,
    progress: &mut Progress,
    ended: &mut Ended<'a>,
) -> Result<(), Errno> {
    let mut chunk = [abi::Commit::default(); CHUNK];
    let mut left = enter.commit_count as usize;
    let mut at = enter.commits;
    let bytes = enter.commit_bytes;
    // The server carried all of these requests out before the call.
    let moment = shim::now();
    while left > 0 {
        let Some(entries) = chunk.get_mut(..left.min(CHUNK)) else { break };
        let (entries, known) = if bytes == abi::COMMIT_BYTES && shim::user_read_all(at, entries).is_ok() {
            (entries, true)
        } else {
            match read_each(at, bytes, entries) {
                Ok(read) => (entries.get_mut(..read).unwrap_or_default(), true),
                Err(Errno::E2BIG) => (entries.get_mut(..1).unwrap_or_default(), false),
                Err(errno) => return Err(errno),
            }
        };
        let before = progress.refused;
        let processed = if known {
            process(device, epoch, moment, entries, progress, ended)
        } else {
            refuse_unknown(entries, progress);
            Ok(())
        };
        left = left.saturating_sub(entries.len());
        if progress.refused != before || left > 0 {
            // What follows may wait for the server's memory.
            ended.tell_now();
        }
        if progress.refused != before {
            tell(at, bytes, entries)?;
        }
        processed?;
        if left > 0 {
            shim::pause()?;
        }
        at = at.wrapping_add((entries.len() as u64).wrapping_mul(bytes.into()));
    }
    Ok(())
}

/// Reads entries of `bytes` one by one. Stops before the first one that cannot be read, or of which a part is
/// unknown. Returns the number of entries, which is at least 1.
///
/// # Errors
///
/// `EFAULT` if the first entry cannot be read, `E2BIG` if its unknown part is not zero.
#[cold]
#[inline(never)]
fn read_each(user: u64, bytes: u32, entries: &mut [abi::Commit]) -> Result<usize, Errno> {
    let mut at = user;
    let mut read = 0_usize;
    for entry in entries {
        match read_one(at, bytes, entry) {
            Ok(()) => {}
            Err(errno) if read == 0 => return Err(errno),
            Err(_) => break,
        }
        read = read.wrapping_add(1);
        at = at.wrapping_add(bytes.into());
    }
    Ok(read)
}

fn read_one(user: u64, bytes: u32, entry: &mut abi::Commit) -> Result<(), Errno> {
    shim::user_read_all(user, slice::from_mut(entry))?;
    let unknown = bytes.saturating_sub(abi::COMMIT_BYTES);
    if unknown > 0 && !shim::user_is_zero(user.wrapping_add(abi::COMMIT_BYTES.into()), unknown)? {
        return Err(Errno::E2BIG);
    }
    Ok(())
}

/// Refuses entries of which a part is unknown and not zero.
#[cold]
fn refuse_unknown(entries: &mut [abi::Commit], progress: &mut Progress) {
    for entry in entries {
        note(entry, progress, Err(Errno::E2BIG));
        progress.processed = progress.processed.wrapping_add(1);
    }
}

/// Writes the status of the refused entries of `bytes`.
#[cold]
fn tell(user: u64, bytes: u32, entries: &[abi::Commit]) -> Result<(), Errno> {
    let mut at = user.wrapping_add(offset_of!(abi::Commit, status) as u64);
    for entry in entries {
        if entry.status != 0 {
            shim::user_write(at, &entry.status)?;
        }
        at = at.wrapping_add(bytes.into());
    }
    Ok(())
}

#[inline]
fn process<'a>(
    device: &'a Device,
    epoch: u32,
    moment: Moment,
    entries: &mut [abi::Commit],
    progress: &mut Progress,
    ended: &mut Ended<'a>,
) -> Result<(), Errno> {
    let mut rest = entries;
    while let [first, ..] = &mut *rest {
        let named = check_commit(first).and_then(|()| {
            let (queue, handle) =
                decode_handle(first.handle, epoch, device.tag_bits()).ok_or(Errno::ESTALE)?;
            Ok((device.queue(queue).ok_or(Errno::ESTALE)?, handle))
        });
        let done = match named {
            Ok((block, handle)) if first.flags & abi::COMMIT_IOVEC != 0 => {
                ended.tell_now();
                let result = scattered(block, moment, handle, first);
                trace_refusal(block, handle, result);
                note(first, progress, result);
                1
            }
            Ok((block, _)) => Run::carry_out(block, epoch, moment, rest, progress, ended),
            Err(errno) => {
                if errno == Errno::ESTALE {
                    count_stranger(device, first.handle);
                }
                note(first, progress, Err(errno));
                1
            }
        };
        progress.processed = progress.processed.wrapping_add(u32::try_from(done).unwrap_or(0));
        rest = rest.get_mut(done..).unwrap_or_default();
        if !rest.is_empty() {
            ended.tell_now();
            shim::pause()?;
        }
    }
    if shim::signal_fatal() { Err(Errno::EINTR) } else { Ok(()) }
}

/// The handle belongs to another server or is invented, so its queue is unknown. The first queue counts it.
#[cold]
fn count_stranger(device: &Device, raw: u64) {
    let Some(block) = device.queue(0) else { return };
    block.lock().queue().count_stale();
    trace_refusal(block, foreign_handle(raw), Err(Errno::ESTALE));
}

/// Records the outcome of an entry.
#[inline]
fn note(entry: &mut abi::Commit, progress: &mut Progress, result: Result<(), Errno>) {
    if let Err(errno) = result {
        entry.status = errno.negative();
        progress.refused = progress.refused.wrapping_add(1);
    }
}

/// Takes the queue's lock to answer requests. If an answered write may be lost with a cache, the time of the
/// answer must be exact, so it is read under the lock; otherwise `moment` is good enough.
#[inline]
fn lock_to_answer(block: &QueueBlock, moment: Moment) -> Locked<'_> {
    let mut locked = block.lock_at(moment);
    if block.device().has_cache() {
        locked.set_moment(Moment { thread: moment.thread, ..shim::now() });
    }
    locked
}

/// Writes that the server answered, that may be only in a cache, and whose block requests have ended. The engine is
/// told with the next lock of their queue, at the latest when this value is dropped, and always before the thread
/// waits for memory or gives up its processor: until then, a loss of the cache makes every flush fail.
#[derive(Debug)]
pub struct Ended<'a> {
    /// The queue, the server's epoch, and the number of writes.
    writes: Option<(&'a QueueBlock, u32, u32)>,
}

impl<'a> Ended<'a> {
    /// No writes.
    #[inline]
    #[must_use]
    pub const fn none() -> Self {
        Self { writes: None }
    }

    /// Adds writes of the server of `epoch`.
    #[inline]
    fn add(&mut self, block: &'a QueueBlock, epoch: u32, written: u32) {
        if written > 0 {
            self.tell_now();
            self.writes = Some((block, epoch, written));
        }
    }

    /// Tells the engine, if these are writes of the queue that is locked.
    #[inline]
    pub fn tell(&mut self, locked: &mut Locked<'_>) {
        match self.writes {
            Some((block, epoch, written)) if core::ptr::eq(block, locked.block()) => {
                self.writes = None;
                locked.set_moment(shim::now());
                locked.queue().ended(epoch, written);
            }
            _ => {}
        }
    }

    /// Tells the engine. No lock is held.
    #[inline]
    pub fn tell_now(&mut self) {
        if let Some((block, ..)) = self.writes {
            self.tell(&mut block.lock());
        }
    }

    /// Tells the engine, unless these are writes of this queue. No lock is held.
    #[inline]
    pub fn tell_unless(&mut self, next: &QueueBlock) {
        if self.writes.is_some_and(|(block, ..)| !core::ptr::eq(block, next)) {
            self.tell_now();
        }
    }
}

impl Drop for Ended<'_> {
    #[inline]
    fn drop(&mut self) {
        self.tell_now();
    }
}

/// Traces an answer that was not accepted.
#[cold]
fn trace_refusal(block: &QueueBlock, handle: Handle, result: Result<(), Errno>) {
    if result.is_err() && trace::on() {
        trace::commit(block, handle, result);
    }
}

/// A copy that an entry needs.
#[derive(Clone, Copy)]
struct Copying {
    /// Address in the server's memory.
    user: u64,
    handle: Handle,
    data: Move,
    /// Index of the entry.
    entry: u8,
    /// The copy met a missing page.
    slow: bool,
}

/// Consecutive entries of one queue, each with its data in one piece.
/// Each step is a separate function: a loop over many requests that needs the registers.
struct Run<'a> {
    block: &'a QueueBlock,
    handles: Handles,
    moment: Moment,
    tracing: bool,
    /// Copies to make with no lock held.
    copies: List<Copying, CHUNK>,
    /// Requests of the queue `block` that succeeded; their block requests end together, last.
    well: Successes<CHUNK>,
    /// Requests of the queue that failed.
    failed: List<End, CHUNK>,
    /// Writes that may be only in a cache.
    written: u32,
}

impl Run<'_> {
    /// Carries out the leading entries that belong to the queue `block` and have their data in one piece,
    /// like the first entry. Returns their number.
    // A separate frame from that of the entries.
    #[inline(never)]
    fn carry_out<'a>(
        block: &'a QueueBlock,
        epoch: u32,
        moment: Moment,
        entries: &mut [abi::Commit],
        progress: &mut Progress,
        ended: &mut Ended<'a>,
    ) -> usize {
        let mut run = Run {
            block,
            handles: Handles::new(epoch, block.index(), block.device().tag_bits()),
            moment,
            tracing: trace::on(),
            copies: List::new(),
            well: Successes::new(),
            failed: List::new(),
            written: 0,
        };
        let done = run.begin(entries, progress);
        let slow = !run.copies.is_empty() && {
            let slow = run.copy();
            run.settle(entries, progress);
            slow
        };
        if !run.well.is_empty() {
            // SAFETY: effects of this queue.
            unsafe { block.end_well(run.well) };
        }
        while let Some(end) = run.failed.pop() {
            // SAFETY: an effect of this queue.
            unsafe { block.end(end) };
        }
        ended.add(block, epoch, run.written);
        if slow {
            ended.tell_now();
            for copying in run.copies.items().iter().filter(|copying| copying.slow) {
                if let Some(entry) = entries.get_mut(usize::from(copying.entry)) {
                    let result = copying.run(block, moment);
                    trace_refusal(block, copying.handle, result);
                    note(entry, progress, result);
                }
            }
        }
        done
    }

    /// Looks up all requests. Requests without a copy end; the others are COPYING.
    #[inline(never)]
    fn begin(&mut self, entries: &mut [abi::Commit], progress: &mut Progress) -> usize {
        let mut done = 0_u8;
        let mut bytes = 0_u32;
        let mut locked = lock_to_answer(self.block, self.moment);
        let mut queue = locked.queue();
        for entry in entries {
            if bytes >= RUN_BYTES {
                break;
            }
            let handle = match self.handles.decode(entry.handle) {
                Some(handle) if entry.flags & abi::COMMIT_IOVEC == 0 && check_commit(entry).is_ok() => handle,
                // An entry of another kind.
                _ => break,
            };
            let refused = match queue.held_by(handle) {
                Ok(held) => match plan(held.request(), entry) {
                    Ok(Plan::Copy(data)) => {
                        held.pin();
                        bytes = bytes.saturating_add(data.bytes);
                        self.copies.push(Copying {
                            user: entry.address,
                            handle,
                            data,
                            entry: done,
                            slow: false,
                        });
                        None
                    }
                    Ok(Plan::Finish(result)) => {
                        let end = held.finish(result);
                        self.answered(handle, end);
                        None
                    }
                    Err(errno) => Some(errno),
                },
                // Entries are carried out in order: the outcome of this one is known only after the copies.
                Err(_) if self.copies.items().iter().any(|copying| copying.handle == handle) => break,
                Err(_) => {
                    queue.count_stale();
                    Some(Errno::ESTALE)
                }
            };
            if let Some(errno) = refused {
                trace_refusal(self.block, handle, Err(errno));
                note(entry, progress, Err(errno));
            }
            done = done.wrapping_add(1);
        }
        self.written = queue.written();
        done.into()
    }

    /// Makes the copies whose memory is present. Returns whether copies are left.
    #[inline(never)]
    fn copy(&mut self) -> bool {
        let mut slow = false;
        for copying in self.copies.items_mut() {
            // SAFETY: `begin` made it COPYING, and `settle` comes after this.
            copying.slow = unsafe { copying.attempt(self.block) }.is_err();
            slow |= copying.slow;
        }
        slow
    }

    /// Unpins all requests whose copy was tried. Requests whose data was copied end.
    #[inline(never)]
    fn settle(&mut self, entries: &mut [abi::Commit], progress: &mut Progress) {
        let mut kept_any = false;
        let mut locked = lock_to_answer(self.block, self.moment);
        let mut queue = locked.queue();
        for index in 0..self.copies.len() {
            let Some(copying) = self.copies.items().get(index) else { break };
            if copying.slow || copying.data.way == Way::OutAndKeep {
                kept_any = true;
                self.keep(&mut queue, index, entries, progress);
            } else {
                let Copying { handle, entry, .. } = *copying;
                match queue.answered(handle) {
                    Some(end) if end.result().is_ok() => self.answered(handle, end),
                    Some(end) => self.failed_meanwhile(end, entries.get_mut(usize::from(entry)), progress),
                    None => {}
                }
            }
        }
        self.written = self.written.wrapping_add(queue.written());
        if kept_any {
            // Requests of a server that was declared dead have returned to the queue.
            let wake = queue.announce();
            locked.wake(wake);
        }
        drop(locked);
        if kept_any {
            self.block.wake_pollers();
        }
    }

    /// The server keeps the request of a copy, at least until the memory is present, unless the request
    /// failed meanwhile.
    #[cold]
    #[inline(never)]
    fn keep(
        &mut self,
        queue: &mut Queue<'_>,
        index: usize,
        entries: &mut [abi::Commit],
        progress: &mut Progress,
    ) {
        let Some(copying) = self.copies.items_mut().get_mut(index) else { return };
        let outcome = queue.copied(copying.handle);
        if let Some(end) = trace::copied(self.block, copying.handle, outcome) {
            copying.slow = false;
            let entry = usize::from(copying.entry);
            self.failed_meanwhile(end, entries.get_mut(entry), progress);
        }
    }

    /// The request of an entry failed while its data was copied, so the entry was no answer.
    #[cold]
    fn failed_meanwhile(&mut self, end: End, entry: Option<&mut abi::Commit>, progress: &mut Progress) {
        self.failed.push(end);
        if let Some(entry) = entry {
            note(entry, progress, Err(Errno::ESTALE));
        }
    }

    /// An answer ended this request.
    #[inline]
    fn answered(&mut self, handle: Handle, end: End) {
        if self.tracing {
            trace_answer(self.block, handle);
        }
        if let Some(end) = self.well.push(end) {
            self.failed.push(end);
        }
    }
}

impl Copying {
    #[inline]
    const fn transfer(&self) -> Transfer {
        let Self { user, handle, data, .. } = *self;
        Transfer { handle, user, bytes: data.bytes, to_user: data.to_server() }
    }

    /// Makes the copy of an entry in one piece, if its memory is present.
    ///
    /// # Safety
    ///
    /// The caller made its request COPYING and has not unpinned it.
    #[inline]
    unsafe fn attempt(&self, block: &QueueBlock) -> Result<(), Errno> {
        if self.data.bytes > 0 {
            // SAFETY: the caller's promise.
            unsafe { self.transfer().attempt(block) }?;
        }
        if self.data.way == Way::InAndZero {
            // SAFETY: the caller's promise.
            unsafe { block.zero(self.handle, self.data.bytes) };
        }
        Ok(())
    }

    /// Carries out an entry with data in one piece that has to wait for its memory. Its request is HELD.
    #[cold]
    fn run(&self, block: &QueueBlock, moment: Moment) -> Result<(), Errno> {
        self.transfer().run(block, &mut Place::default())?;
        conclude(block, moment, self.handle, self.data)
    }
}

/// Ends the request of an entry whose data was copied, unless the server keeps it. The request is HELD.
#[cold]
fn conclude(block: &QueueBlock, moment: Moment, handle: Handle, data: Move) -> Result<(), Errno> {
    match data.way {
        Way::OutAndKeep => return Ok(()),
        Way::InAndZero => transfer::zero(block, handle, data.bytes)?,
        Way::In | Way::Out => {}
    }
    let mut locked = block.lock_at(moment);
    // The kernel may have waited for memory since. Read under the lock: see lock_to_answer().
    locked.set_moment(Moment { thread: moment.thread, ..shim::now() });
    let mut queue = locked.queue();
    let end = queue.finish(handle, Ok(())).map_err(|_| Errno::ESTALE)?;
    let written = queue.written();
    drop(locked);
    // SAFETY: an effect of this queue.
    unsafe { finish(block, handle, end, written) };
    Ok(())
}

/// An answer with data in several pieces, or without data after all, ends its request.
///
/// # Safety
///
/// `end` is an effect of this queue.
#[cold]
unsafe fn finish(block: &QueueBlock, handle: Handle, end: End, written: u32) {
    trace_answer(block, handle);
    // SAFETY: the caller's promise.
    unsafe { block.end(end) };
    let mut ended = Ended::none();
    ended.add(block, handle.epoch(), written);
}

/// Carries out an entry with data in several pieces. The request is HELD while the pieces are read.
#[cold]
fn scattered(block: &QueueBlock, moment: Moment, handle: Handle, entry: &abi::Commit) -> Result<(), Errno> {
    let mut locked = lock_to_answer(block, moment);
    let mut queue = locked.queue();
    let held = queue.answered_by(handle).map_err(|_| Errno::ESTALE)?;
    let data = match plan(held.request(), entry)? {
        Plan::Copy(data) => data,
        Plan::Finish(result) => {
            let end = held.finish(result);
            let written = queue.written();
            drop(locked);
            // SAFETY: an effect of this queue.
            unsafe { finish(block, handle, end, written) };
            return Ok(());
        }
    };
    drop(locked);
    let (bytes, to_user) = (data.bytes, data.to_server());
    let mut pieces = [abi::Iovec::default(); PIECES];
    let mut place = Place::default();
    let (mut at, mut left, mut done) = (entry.address, entry.iovec_count as usize, 0_u32);
    while done < bytes {
        let Some(pieces) = pieces.get_mut(..left.min(PIECES)).filter(|pieces| !pieces.is_empty()) else {
            // The pieces have fewer bytes than the result states.
            return Err(Errno::EINVAL);
        };
        shim::user_read_all(at, pieces)?;
        for piece in &*pieces {
            let rest = bytes.saturating_sub(done);
            let part = u32::try_from(piece.length).map_or(rest, |length| length.min(rest));
            if part > 0 {
                Transfer { handle, user: piece.address, bytes: part, to_user }.run(block, &mut place)?;
                done = done.wrapping_add(part);
            }
        }
        left = left.saturating_sub(pieces.len());
        at = at.wrapping_add((pieces.len() as u64).wrapping_mul(size_of::<abi::Iovec>() as u64));
    }
    conclude(block, moment, handle, data)
}

/// Traces an answer that ends its request, before the request ends.
#[cold]
fn trace_answer(block: &QueueBlock, handle: Handle) {
    if trace::on() {
        trace::commit(block, handle, Ok(()));
    }
}
