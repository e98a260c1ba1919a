// SPDX-License-Identifier: MIT OR Apache-2.0
//! The places of a session's lanes, and the news that a session cannot go on.
//!
//! A session can go on if each queue has a lane, and if no answer is lost. Otherwise requests stay with this server for
//! ever, unless it leaves the device: then the next server gets them.

use super::End;
use crate::StopToken;
use crate::serving::CountOut;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Whether the session must leave the device. Clones are the same. Any thread may call any function.
#[derive(Clone, Debug, Default)]
pub(in crate::v2) struct Deserted(Arc<AtomicBool>);

impl Deserted {
    /// Makes the session leave the device. `stop` is the session's.
    pub(in crate::v2) fn set(&self, stop: &StopToken) {
        self.0.store(true, Ordering::Release);
        stop.wake();
    }

    /// Whether it must.
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A lane's place in its session. Dropping it leaves the queue without the lane, unless it was told how the lane
/// ended.
pub(super) struct Place<'a> {
    lanes: &'a AtomicUsize,
    deserted: &'a Deserted,
    taken_over: &'a AtomicBool,
    done: bool,
    /// Dropped last, because others look at the counts when all lanes are counted out.
    _count_out: CountOut<'a>,
}

impl<'a> Place<'a> {
    /// A place that is counted in `lanes` already.
    pub(super) fn new(
        lanes: &'a AtomicUsize,
        deserted: &'a Deserted,
        taken_over: &'a AtomicBool,
        count_out: CountOut<'a>,
    ) -> Self {
        Self { lanes, deserted, taken_over, done: false, _count_out: count_out }
    }

    /// Leaves the place, after the lane has ended like this; `None`: it has failed.
    pub(super) fn end(mut self, end: Option<End>) {
        self.done = end.is_some();
        if end == Some(End::TakenOver) {
            self.taken_over.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.done && self.lanes.fetch_sub(1, Ordering::Relaxed) == 1 {
            // The count-out wakes the session.
            self.deserted.0.store(true, Ordering::Release);
        }
    }
}
