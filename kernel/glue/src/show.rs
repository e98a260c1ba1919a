// SPDX-License-Identifier: GPL-2.0-only
//! One queue as text, for the debugfs files of `kernel/shim/debug.c`.
//!
//! Process context, may sleep. The numbers of one line are taken together under the queue's lock; the text is
//! made without the lock.

use core::ffi::CStr;

use zosbd2_abi::v2 as abi;
use zosbd2_engine::latency::{Histograms, bound_ns};

use crate::block::QueueBlock;
use crate::list::List;
use crate::shim::{Line, shown};
use crate::v2::report::{STEP, counts, look};

const OPERATIONS: [&CStr; abi::OPERATIONS] =
    [c"read", c"write", c"discard", c"flush", c"write-zeroes", c"secure-erase"];
const STATES: [&CStr; 5] = [c"free", c"queued", c"held", c"copying", c"doomed"];

/// Writes the requested file; `what` is a number of [`shown`].
pub fn show(block: &QueueBlock, line: &Line, what: u32) {
    match what {
        shown::STATS => stats(block, line),
        shown::LATENCY => latency(block, line),
        _ => requests(block, line),
    }
}

/// One line for each operation, then one for the queue.
#[inline(never)]
fn stats(block: &QueueBlock, line: &Line) {
    let stats = counts(block);
    for ((fetched, committed), name) in stats.fetched.iter().zip(&stats.committed).zip(OPERATIONS) {
        if !line.begin(stats.queue) {
            return;
        }
        line.word(c"op", name);
        line.number(c"fetched", *fetched);
        line.number(c"committed", *committed);
        line.end();
    }
    if !line.begin(stats.queue) {
        return;
    }
    line.number(c"queued", stats.queued.into());
    line.number(c"held", stats.held.into());
    line.number(c"waiting", stats.waiting.into());
    line.number(c"read_bytes", stats.read_bytes);
    line.number(c"written_bytes", stats.written_bytes);
    line.number(c"failed", stats.failed);
    line.number(c"expired", stats.expired);
    line.number(c"requeued", stats.requeued);
    line.number(c"stale", stats.stale);
    line.number(c"wakeups", stats.wakeups);
    line.number(c"overdue_wakeups", block.lock().queue().counters().overdue);
    line.number(c"sleeps", stats.sleeps);
    line.number(c"lost_flushes", stats.lost_flushes);
    line.end();
}

/// One line for each bucket with a count. The last bucket has no upper bound, and its line has none.
#[inline(never)]
fn latency(block: &QueueBlock, line: &Line) {
    let histograms = block.lock().latencies();
    let Histograms { waiting, serving, total } = &histograms;
    let buckets = waiting.iter().zip(serving).zip(total).enumerate();
    for (index, ((waiting, serving), total)) in buckets {
        if *waiting == 0 && *serving == 0 && *total == 0 {
            continue;
        }
        if !line.begin(block.index()) {
            return;
        }
        if let Some(bound) = bound_ns(index) {
            line.number(c"below_ns", bound);
        }
        line.number(c"waiting", *waiting);
        line.number(c"serving", *serving);
        line.number(c"total", *total);
        line.end();
    }
}

/// One line for each unanswered request.
#[inline(never)]
fn requests(block: &QueueBlock, line: &Line) {
    let mut from = Some(0);
    while let Some(tag) = from {
        let mut step = List::<_, STEP>::new();
        from = look(block, tag, 0, &mut step);
        for entry in step.items() {
            if !line.begin(block.index()) {
                return;
            }
            line.number(c"tag", entry.tag.into());
            line.word(c"op", word(&OPERATIONS, entry.op));
            line.number(c"flags", entry.flags.into());
            line.number(c"offset", entry.offset);
            line.number(c"length", entry.length);
            line.word(c"state", word(&STATES, entry.state));
            line.number(c"age_ns", entry.age_ns);
            line.number(c"held_ns", entry.held_ns);
            line.number(c"epoch", entry.epoch.into());
            line.number(c"thread", entry.thread.into());
            line.end();
        }
    }
}

fn word(words: &'static [&CStr], number: u32) -> &'static CStr {
    words.get(number as usize).copied().unwrap_or(c"?")
}
