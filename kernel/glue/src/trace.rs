// SPDX-License-Identifier: GPL-2.0-only
//! The tracepoints for decisions of the engine. The tracepoints of submission and end are in the shim.
//!
//! Called with the queue's lock held, or, for a commit, before the block request is ended, so that the events
//! of one tag are in the order in which they happened. While tracing is off, only [`on`] is called.

use zosbd2_engine::Errno;
use zosbd2_engine::queue::{Copied, End};
use zosbd2_engine::request::Handle;

use crate::block::QueueBlock;
use crate::shim;

/// Whether any tracepoint is enabled. Checked once for many requests.
#[inline]
#[must_use]
pub fn on() -> bool {
    shim::tracing()
}

/// A server fetched this request.
#[cold]
pub fn fetch(block: &QueueBlock, handle: Handle) {
    let tag = u32::from(handle.tag());
    // SAFETY: the queue lives as long as its block.
    unsafe { shim::zosbd2_trace_fetch(block.queue(), tag, handle.generation(), handle.epoch()) };
}

/// An answer ended this request, or was refused.
#[cold]
pub fn commit(block: &QueueBlock, handle: Handle, result: Result<(), Errno>) {
    let (tag, generation, epoch) = (u32::from(handle.tag()), handle.generation(), handle.epoch());
    let status = result.map_or_else(Errno::negative, |()| 0);
    // SAFETY: the queue lives as long as its block.
    unsafe { shim::zosbd2_trace_commit(block.queue(), tag, generation, epoch, status) };
}

/// A request was requeued.
#[cold]
pub fn requeue(block: &QueueBlock, tag: u16) {
    // SAFETY: the queue lives as long as its block.
    unsafe { shim::zosbd2_trace_requeue(block.queue(), tag.into()) };
}

/// A copy stopped without an answer, with this outcome. Returns the block request to end, if any.
#[inline]
pub fn copied(block: &QueueBlock, handle: Handle, outcome: Copied) -> Option<End> {
    if outcome == Copied::Requeued && on() {
        requeue(block, handle.tag());
    }
    outcome.end()
}

/// A deadline passed, with this outcome: a number of [`shim::late`].
pub fn timeout(block: &QueueBlock, tag: u32, action: u32) {
    // SAFETY: the queue lives as long as its block.
    unsafe { shim::zosbd2_trace_timeout(block.queue(), tag, action) };
}
