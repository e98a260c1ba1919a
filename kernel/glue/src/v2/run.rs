// SPDX-License-Identifier: GPL-2.0-only
//! A run: consecutive commits of one queue, each with its data in one piece.
//!
//! First all entries are looked up and their requests pinned, then data is copied with no lock held, then all requests are
//! freed, then their block requests end together. A copy that met a missing page is carried out after that, alone: no
//! request is pinned while the kernel waits for the server's memory.

use zosbd2_abi::v2 as abi;
use zosbd2_engine::Errno;
use zosbd2_engine::queue::{End, Moment, Queue};
use zosbd2_engine::request::Handle;
use zosbd2_engine::v2::{Handles, Move, Plan, Way, check_commit, plan};

use super::answer::{conclude, lock_to_answer, trace_answer, trace_refusal};
use super::commit::{CHUNK, RUN_BYTES};
use super::ended::Ended;
use super::progress::{Progress, note};
use crate::block::{QueueBlock, Successes};
use crate::list::List;
use crate::shim::Place;
use crate::trace;
use crate::transfer::Transfer;

/// Consecutive entries of one queue, each with its data in one piece.
/// Each step is a separate function: a loop over many requests that needs the registers.
pub(super) struct Run<'a> {
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
    pub(super) fn carry_out<'a>(
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
