// SPDX-License-Identifier: GPL-2.0-only
//! Reports about one queue: counters, latencies, and unanswered requests.
//!
//! Servers and observers call it in process context; may sleep. No lock is held during a copy to user memory,
//! so a long list is made in steps, and requests may come and go between the steps.

use core::mem::size_of;

use zosbd2_abi::v2 as abi;
use zosbd2_engine::Errno;
use zosbd2_engine::v2::report;

use super::argument::{self, holds};
use crate::block::{Device, QueueBlock};
use crate::list::List;
use crate::shim;

/// Requests per step. They are on the stack.
pub const STEP: usize = 8;

/// The counters of a queue.
#[must_use]
pub fn counts(block: &QueueBlock) -> abi::Stats {
    let mut locked = block.lock();
    let queue = locked.queue();
    let counters = queue.counters();
    let [read_bytes, written_bytes, ..] = counters.bytes;
    abi::Stats {
        size: abi::STATS_BYTES,
        flags: 0,
        queue: block.index(),
        queued: queue.queued(),
        held: queue.held(),
        waiting: queue.waiting(),
        fetched: counters.fetched,
        committed: counters.committed,
        read_bytes,
        written_bytes,
        failed: counters.failed,
        expired: counters.expired,
        requeued: counters.requeued,
        stale: counters.stale,
        wakeups: counters.wakeups,
        sleeps: counters.sleeps,
        lost_flushes: counters.lost_flushes,
    }
}

/// STATS.
///
/// # Errors
///
/// `EINVAL` if the queue does not exist.
pub fn stats(device: &Device, user: u64) -> Result<(), Errno> {
    let asked: abi::Stats = argument::read(user)?;
    holds(asked.flags == 0)?;
    let block = device.queue(asked.queue).ok_or(Errno::EINVAL)?;
    shim::user_write(user, &abi::Stats { size: asked.size, ..counts(block) })
}

/// LATENCY.
///
/// # Errors
///
/// Like STATS.
#[inline(never)]
pub fn latency(device: &Device, user: u64) -> Result<(), Errno> {
    let (size, queue) = latency_head(user)?;
    let block = device.queue(queue).ok_or(Errno::EINVAL)?;
    let head = user.wrapping_add(HISTOGRAMS as u64);
    shim::user_write_all(user, &[size, 0, queue, 0])?;
    let latencies = block.lock().latencies();
    for (at, histogram) in (0_u64..).zip([&latencies.waiting, &latencies.serving, &latencies.total]) {
        let offset = at.wrapping_mul(size_of::<[u64; abi::LATENCY_BUCKETS]>() as u64);
        shim::user_write_all(head.wrapping_add(offset), histogram)?;
    }
    Ok(())
}

/// Offset of the first histogram.
const HISTOGRAMS: usize = core::mem::offset_of!(abi::Latency, waiting);

/// A separate frame, because the histograms are large.
#[inline(never)]
fn latency_head(user: u64) -> Result<(u32, u32), Errno> {
    let asked: abi::Latency = argument::read(user)?;
    holds(asked.flags == 0 && asked.reserved == 0)?;
    Ok((asked.size, asked.queue))
}

/// REQUESTS.
///
/// # Errors
///
/// Like STATS.
pub fn requests(device: &Device, user: u64) -> Result<(), Errno> {
    let asked: abi::Requests = argument::read(user)?;
    holds(asked.flags == 0 && asked.reserved == 0)?;
    let block = device.queue(asked.queue).ok_or(Errno::EINVAL)?;
    let age_ns = u64::from(asked.age_ms).wrapping_mul(1_000_000);
    let (mut from, mut count, mut total) = (Some(0), 0_u32, 0_u32);
    while let Some(tag) = from {
        let mut step = List::<_, STEP>::new();
        from = look(block, tag, age_ns, &mut step);
        for entry in step.items() {
            total = total.wrapping_add(1);
            if count < asked.capacity {
                let offset = u64::from(count).wrapping_mul(size_of::<abi::Outstanding>() as u64);
                shim::user_write(asked.entries.wrapping_add(offset), entry)?;
                count = count.wrapping_add(1);
            }
        }
    }
    shim::user_write(user, &abi::Requests { count, total, ..asked })
}

/// Appends requests of at least this age, from the tag `from` on, to the list. Returns the tag to continue
/// from.
pub fn look(
    block: &QueueBlock,
    mut from: u16,
    age_ns: u64,
    step: &mut List<abi::Outstanding, STEP>,
) -> Option<u16> {
    let now_ns = shim::now_ns();
    let mut locked = block.lock();
    while step.len() < STEP {
        let request = locked.queue().outstanding_from(from)?;
        from = request.tag.wrapping_add(1);
        let entry = report(&request, now_ns);
        if entry.age_ns >= age_ns {
            step.push(entry);
        }
    }
    Some(from)
}
