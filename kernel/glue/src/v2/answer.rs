// SPDX-License-Identifier: GPL-2.0-only
//! What every answer of a server needs, whatever the form of its data: the lock, the end of the request, and the trace.
//!
//! Called in the server's process context with no lock held; may sleep.

use zosbd2_engine::Errno;
use zosbd2_engine::queue::{End, Moment};
use zosbd2_engine::request::Handle;
use zosbd2_engine::v2::{Move, Way};

use super::ended::Ended;
use crate::block::{Locked, QueueBlock};
use crate::{shim, trace, transfer};

/// Takes the queue's lock to answer requests. If an answered write may be lost with a cache, the time of the
/// answer must be exact, so it is read under the lock; otherwise `moment` is good enough.
#[inline]
pub(super) fn lock_to_answer(block: &QueueBlock, moment: Moment) -> Locked<'_> {
    let mut locked = block.lock_at(moment);
    if block.device().has_cache() {
        locked.set_moment(Moment { thread: moment.thread, ..shim::now() });
    }
    locked
}

/// Ends the request of an entry whose data was copied, unless the server keeps it. The request is HELD.
#[cold]
pub(super) fn conclude(block: &QueueBlock, moment: Moment, handle: Handle, data: Move) -> Result<(), Errno> {
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
pub(super) unsafe fn finish(block: &QueueBlock, handle: Handle, end: End, written: u32) {
    trace_answer(block, handle);
    // SAFETY: the caller's promise.
    unsafe { block.end(end) };
    let mut ended = Ended::none();
    ended.add(block, handle.epoch(), written);
}

/// Traces an answer that was not accepted.
#[cold]
pub(super) fn trace_refusal(block: &QueueBlock, handle: Handle, result: Result<(), Errno>) {
    if result.is_err() && trace::on() {
        trace::commit(block, handle, result);
    }
}

/// Traces an answer that ends its request, before the request ends.
#[cold]
pub(super) fn trace_answer(block: &QueueBlock, handle: Handle) {
    if trace::on() {
        trace::commit(block, handle, Ok(()));
    }
}
