// SPDX-License-Identifier: MIT OR Apache-2.0
//! One queue of a device that answers with owned requests: fetches, hands out, and gives answers.
//!
//! ```text
//! exchange: fetch --> hand_out: a Request for each --> answers of this thread --> exchange: give them, fetch
//!                               |                                                  ^
//!                               +-- no memory: waits here until buffers come back -+
//!                               +-- a write: its data is copied by an exchange ----+
//! ```
//!
//! A lane that sleeps for requests has handed out no more of them than its queue is deep. The kernel has no more in flight,
//! but hands a tag out anew when a deadline has ended its request, and the handler may hold that request still.
//!
//! [`hand_out`](Exchange::hand_out) is in a file of its own, as are the buffers that a call offers
//! ([`offering`](super::offering)).
//!
//! One thread at a time uses an exchange. Requests that it has handed out may be answered anywhere
//! ([`link`](crate::v2::link)). Dropping an exchange answers nothing: what the server holds then goes to the next
//! server.

mod hand_out;

use super::ServeOptions;
use super::calls::Calls;
use super::limits::Limits;
use super::offering::Offering;
use super::session::Session;
use crate::sys::enter::Collected;
use crate::v2::link::LaneLink;
use crate::v2::pool::Pool;
use crate::v2::{Buffer, Channel, Fetch, Fetched};
use crate::{Error, Result};
use std::sync::Arc;

/// Bytes of buffers that an idle lane keeps, if they suffice for the longest request. A lane with no more sets no timer
/// for its sleep.
const KEPT_WHEN_IDLE: usize = 512 << 10;
/// Rounds between two trims of the pool.
const ROUNDS: u32 = 256;
/// How long a lane is idle before it gives memory back.
const IDLE_MS: u32 = 1000;

/// See the module.
pub(super) struct Exchange<'s, C: Channel + Clone + 'static> {
    link: Arc<LaneLink<C>>,
    calls: Calls<'s, C>,
    limits: Limits<'s, C>,
    queue: u32,
    /// Most requests elsewhere.
    depth: u64,
    spin_us: u32,
    pool: Pool,
    /// Bytes of unused buffers that the lane keeps when it is idle.
    kept: usize,
    /// The fetched requests, at the front, and how many of them were looked at.
    requests: Vec<Fetched>,
    fetched: usize,
    looked_at: usize,
    /// Requests for which there was no memory.
    short: Vec<Fetched>,
    /// The buffers that the next call offers for the data of writes.
    offering: Offering,
    /// Writes whose data the next call copies, and writes that have their data.
    filling: Vec<(Fetched, Buffer)>,
    filled: Vec<(Fetched, Buffer)>,
    /// Answers that the next call gives; always present.
    own: Option<Box<Collected>>,
    /// Number of requests that were handed out, and of those that were answered on this thread, ever.
    handed: u64,
    answered: u64,
    /// Number of answers that were given elsewhere, as last heard.
    delivered: u64,
    rounds: u32,
    /// Whether the last call that looked for requests left none; `None`: the last call did not look.
    drained: Option<bool>,
}

/// How to exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Sleep until there is a request.
    Sleep,
    /// Fetch up to this many requests that are there.
    Look(usize),
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exchanged {
    /// There is something to hand out.
    Requests,
    /// There is nothing to hand out.
    Nothing,
    /// The device is gone.
    Gone,
}

impl<'s, C: Channel + Clone + 'static> Exchange<'s, C> {
    /// Gets everything that serving needs.
    pub(super) fn new(
        session: &'s Session<C>,
        options: &ServeOptions,
        queue: u32,
        size: impl Fn() -> u64,
    ) -> Result<Self> {
        let Session { channel, stop, notes, deserted, .. } = session;
        let status = channel.status();
        let depth = status.depth as usize;
        let batch = options.most_requests();
        let pool = Pool::new(status.max_io_bytes as usize, depth, options.locks_memory())
            .map_err(|source| Error::Buffers { device: status.name.clone(), source })?;
        let kept = KEPT_WHEN_IDLE.max(pool.longest());
        Ok(Self {
            link: LaneLink::new(channel, stop, notes, deserted, depth),
            calls: Calls::new(channel, stop, notes),
            limits: Limits::new(channel, notes, true, size),
            queue,
            depth: status.depth.max(1).into(),
            spin_us: options.spin_us(),
            pool,
            kept,
            requests: vec![Fetched::EMPTY; batch],
            fetched: 0,
            looked_at: 0,
            short: Vec::with_capacity(batch),
            offering: Offering::new(batch),
            filling: Vec::with_capacity(batch),
            filled: Vec::with_capacity(batch),
            own: Some(Box::new(Collected::with_capacity(batch * 2, channel.id()))),
            handed: 0,
            answered: 0,
            delivered: 0,
            rounds: 0,
            drained: None,
        })
    }

    /// Whether a call would give something.
    pub(super) fn has_answers(&self) -> bool {
        self.own.as_ref().is_some_and(|own| own.len() > 0) || !self.filling.is_empty()
    }

    /// Whether requests wait for memory.
    pub(super) fn is_short(&self) -> bool {
        !self.short.is_empty()
    }

    /// Whether the last call left no requests in the queue. `None` if it did not look.
    pub(super) fn drained(&self) -> Option<bool> {
        self.drained
    }

    /// Drops all answers from now on.
    pub(super) fn close(&self) {
        self.link.close();
    }

    /// Fails if answers from elsewhere could not be given.
    pub(super) fn check(&self) -> Result<()> {
        self.link.check()
    }

    /// Whether another server gets the requests now.
    pub(super) fn taken_over(&self) -> bool {
        self.calls.taken_over
    }

    /// Number of requests that somebody else will answer.
    pub(super) fn elsewhere(&self) -> u64 {
        self.handed - self.answered - self.link.delivered()
    }

    /// Number of requests that this exchange holds back.
    pub(super) fn held_back(&self) -> usize {
        self.fetched + self.short.len() + self.filling.len() + self.filled.len()
    }

    /// Number of requests that may be fetched for a sleep, up to the size of a batch. The answers of this thread, which the
    /// next call gives, do not count as elsewhere.
    #[inline]
    fn room(&mut self) -> usize {
        let own = self.own.as_ref().map_or(0, |own| own.len());
        let out = self.handed - self.answered - own as u64;
        let most = self.depth.min(self.requests.len() as u64);
        // Takes the outbox's lock only if what was last heard does not suffice.
        if out - self.delivered + most > self.depth {
            self.delivered = self.link.delivered();
        }
        let room = (self.depth + self.delivered).saturating_sub(out);
        usize::try_from(room).unwrap_or(usize::MAX).min(self.requests.len())
    }

    /// Sleeps while as many requests are elsewhere as the queue is deep, but not longer than about a second.
    pub(super) fn wait_for_room(&mut self) {
        if self.room() == 0 {
            self.delivered = self.link.wait_delivered(self.handed - self.answered - self.depth);
        }
    }

    /// Sleeps until an answer has been given elsewhere, but not longer than about a second. Does not sleep if buffers have
    /// come back since the lane last looked.
    pub(super) fn wait_elsewhere(&mut self) {
        // In this order: a buffer comes back before its answer counts as given.
        let seen = self.link.delivered();
        if !self.take_returned() && self.handed - self.answered > seen {
            self.link.wait_delivered(seen);
            self.take_returned();
        }
    }

    /// Takes back the buffers of requests that were answered elsewhere. Returns whether there were any.
    #[inline]
    pub(super) fn take_returned(&mut self) -> bool {
        let Some(mut returned) = self.link.returned() else { return false };
        let any = !returned.is_empty();
        for buffer in returned.drain(..) {
            self.pool.give(buffer);
        }
        any
    }

    /// Gives memory back, because the lane is idle: what the pool has beyond the `kept` bytes, and what is offered beyond
    /// them.
    #[inline]
    pub(super) fn rest(&mut self) {
        self.take_returned();
        self.offering.rest(&mut self.pool, self.kept);
        if self.pool.spare() > self.kept {
            self.pool.shrink(self.kept);
            self.offering.trim();
        }
    }

    /// Gives the answers, copies the data of writes, and fetches. Fails if that is not possible for good, or if answers from
    /// elsewhere could not be given.
    #[inline]
    pub(super) fn exchange(&mut self, size: impl Fn() -> u64, mode: Mode) -> Result<Exchanged> {
        self.link.check()?;
        let held_back = !self.filling.is_empty() || !self.short.is_empty() || self.calls.taken_over;
        let looks = match mode {
            _ if held_back => 0,
            Mode::Sleep => self.room(),
            Mode::Look(most) => most.min(self.requests.len()),
        };
        let id = self.calls.channel.id();
        let own = self.own.get_or_insert_with(|| Box::new(Collected::with_capacity(0, id)));
        let answered = own.len();
        self.pool.note_peak();
        let mut batch = own.batch();
        for (request, buffer) in &mut self.filling {
            batch.copy(request, buffer);
        }
        let buffers = self.offering.prepare(&mut self.pool, looks);
        let fetch = match mode {
            _ if looks == 0 => Fetch::nothing(),
            Mode::Sleep => Fetch {
                requests: &mut self.requests[..looks],
                arena: &mut [],
                buffers: Some(buffers),
                queue: self.queue,
                minimum: 1,
                spin_us: self.spin_us,
                timeout_ms: (self.pool.mapped() > self.kept).then_some(IDLE_MS),
            },
            Mode::Look(_) => Fetch {
                requests: &mut self.requests[..looks],
                buffers: Some(buffers),
                queue: self.queue,
                ..Fetch::nothing()
            },
        };
        let asked = fetch.requests.len();
        let given = self.calls.give(&mut batch, fetch)?;
        // The call may have slept until then.
        self.link.check()?;
        self.drained = (asked != 0).then_some(given.fetched + given.kept < asked && given.refused == 0);
        if given.gone {
            return Ok(Exchanged::Gone);
        }
        let mut refused = Vec::new();
        if given.refused != 0 {
            refused.extend(batch.refused().map(|(handle, _)| handle));
            self.calls.fail_refused(&mut batch)?;
        }
        self.answered += answered as u64;
        own.clear(|buffer| self.pool.give(buffer));
        for (request, buffer) in self.filling.drain(..) {
            if refused.contains(&request.handle()) {
                self.pool.give(buffer);
            } else {
                self.filled.push((request, buffer));
            }
        }
        self.take_returned();
        self.fetched = given.fetched;
        self.limits.renew(size);
        self.rounds += 1;
        if self.rounds >= ROUNDS {
            self.rounds = 0;
            self.pool.trim();
            self.offering.trim();
        } else if given.fetched == 0 && mode == Mode::Sleep && looks > 0 {
            self.rest();
        }
        let nothing = self.fetched == 0 && self.filled.is_empty();
        Ok(if nothing { Exchanged::Nothing } else { Exchanged::Requests })
    }
}

impl<C: Channel + Clone + 'static> Drop for Exchange<'_, C> {
    fn drop(&mut self) {
        self.link.close();
    }
}
