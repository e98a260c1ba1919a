// SPDX-License-Identifier: GPL-2.0-only
//! Answered writes whose block requests have ended: when the engine learns of that.

use crate::block::{Locked, QueueBlock};
use crate::shim;

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
    pub(super) fn add(&mut self, block: &'a QueueBlock, epoch: u32, written: u32) {
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
