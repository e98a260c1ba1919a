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
//! One thread at a time uses an exchange. Requests that it has handed out may be answered anywhere
//! ([`link`](crate::v2::link)). Dropping an exchange answers nothing: what the server holds then goes to the next
//! server.

use super::ServeOptions;
use super::calls::Calls;
use super::limits::Limits;
use super::session::Session;
use crate::v2::geometry::Wanted;
use crate::v2::link::{Answer, LaneLink, Link, collect};
use crate::v2::pool::{Pool, Use};
use crate::v2::{Answers, Buffer, BufferList, Channel, Fetch, Fetched, Operation, Request};
use crate::{Errno, Error, Result};
use std::sync::Arc;

/// Bytes of unused buffers that an idle lane keeps.
const KEPT_WHEN_IDLE: usize = 64 << 10;
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
    spin_us: u32,
    pool: Pool,
    answers: Answers,
    /// The fetched requests, at the front.
    requests: Vec<Fetched>,
    fetched: usize,
    /// Requests for which there was no memory.
    short: Vec<Fetched>,
    /// The buffers that the next call offers for the data of writes, and memory for their list.
    offered: Vec<Option<Buffer>>,
    list: BufferList,
    /// Length of the offered buffers: that of the longest write lately.
    expected: usize,
    /// Number of buffers to offer: as many as writes came lately, and one more.
    wanted: usize,
    /// Longest write since the last trim.
    longest: usize,
    /// The pool was trimmed, so shorter writes may set the length of the offered buffers.
    trimmed: bool,
    /// Writes whose data the next call copies, and writes that have their data.
    filling: Vec<(Fetched, Buffer)>,
    filled: Vec<(Fetched, Buffer)>,
    /// Answers that the next call gives.
    own: Vec<Answer>,
    /// Number of requests that were handed out, and of those that were answered on this thread, ever.
    handed: u64,
    answered: u64,
    rounds: u32,
    /// Most requests of a call.
    most: usize,
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
        let Session { channel, stop, notes, .. } = session;
        let status = channel.status();
        let depth = status.depth as usize;
        let batch = options.most_requests();
        let pool = Pool::new(status.max_io_bytes as usize, depth, options.locks_memory())
            .map_err(|source| Error::Buffers { device: status.name.clone(), source })?;
        Ok(Self {
            link: LaneLink::new(channel, stop, notes, depth),
            calls: Calls::new(channel, stop, notes),
            limits: Limits::new(channel, notes, true, size),
            queue,
            spin_us: options.spin_us(),
            pool,
            answers: Answers::with_capacity(batch * 2),
            requests: vec![Fetched::EMPTY; batch],
            fetched: 0,
            short: Vec::with_capacity(batch),
            offered: Vec::with_capacity(batch),
            list: BufferList::with_capacity(batch),
            expected: 0,
            wanted: 1,
            longest: 0,
            trimmed: false,
            filling: Vec::with_capacity(batch),
            filled: Vec::with_capacity(batch),
            own: Vec::with_capacity(batch * 2),
            handed: 0,
            answered: 0,
            rounds: 0,
            most: batch,
            drained: None,
        })
    }

    /// Hands out all requests that have what they need, and then calls `more`. Answers that this thread gives in
    /// both wait for the next exchange.
    #[inline]
    pub(super) fn hand_out<T>(
        &mut self,
        size: impl Fn() -> u64,
        taker: &mut T,
        mut handle: impl FnMut(&mut T, Request),
        more: impl FnOnce(&mut T),
    ) {
        let Self {
            link, limits, pool, requests, fetched, short, offered, filling, filled, own, handed, ..
        } = self;
        let most = self.most;
        let (longest, wanted) = (&mut self.longest, &mut self.wanted);
        let mut writes = 0;
        let new = |fetched, operation, buffer| {
            let link: Arc<dyn Link> = link.clone();
            Request::new(fetched, operation, buffer, link)
        };
        let waiting = short.len();
        collect(link, own, || {
            for (fetched, buffer) in filled.drain(..) {
                *handed += 1;
                handle(taker, new(fetched, Operation::Write, Some(buffer)));
            }
            for at in 0..waiting + *fetched {
                let request = if at < waiting { short[at] } else { requests[at - waiting] };
                let (operation, for_a) = match limits.check(&request, &size) {
                    Ok(Wanted::Read) => (Operation::Read, Some(Use::Read)),
                    Ok(Wanted::WriteWithoutData) => (Operation::Write, Some(Use::Write)),
                    Ok(Wanted::Discard) => (Operation::Discard, None),
                    Ok(Wanted::Flush) => (Operation::Flush, None),
                    Ok(Wanted::WriteZeroes) => (Operation::WriteZeroes, None),
                    Ok(Wanted::SecureErase) => (Operation::SecureErase, None),
                    // The data is in the offered buffer of this number.
                    Ok(Wanted::Write(number)) => {
                        writes += 1;
                        *longest = (*longest).max(bytes(&request));
                        *handed += 1;
                        let buffer = offered.get_mut(number).and_then(Option::take);
                        let fits = |buffer: &Buffer| buffer.len() >= bytes(&request);
                        match buffer.filter(fits) {
                            Some(buffer) => handle(taker, new(request, Operation::Write, Some(buffer))),
                            None => new(request, Operation::Write, None).complete(Err(Errno::IO)),
                        }
                        continue;
                    }
                    Err(error) => {
                        *handed += 1;
                        new(request, Operation::Flush, None).complete(Err(error));
                        continue;
                    }
                };
                let buffer = match for_a {
                    None => None,
                    Some(for_a) => {
                        let Some(buffer) = pool.take(bytes(&request), for_a) else {
                            short.push(request);
                            continue;
                        };
                        Some(buffer)
                    }
                };
                match buffer {
                    Some(buffer) if operation == Operation::Write => {
                        writes += 1;
                        *longest = (*longest).max(bytes(&request));
                        filling.push((request, buffer));
                    }
                    buffer => {
                        *handed += 1;
                        handle(taker, new(request, operation, buffer));
                    }
                }
            }
            more(taker);
        });
        // One more than came, so that the number can grow; a round without writes halves it.
        *wanted = if writes >= *wanted { writes * 2 } else { (*wanted).max(2) - 1 }.clamp(1, most);
        short.drain(..waiting);
        *fetched = 0;
    }

    /// Whether a call would give something.
    pub(super) fn has_answers(&self) -> bool {
        !self.own.is_empty() || !self.filling.is_empty()
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

    /// Sleeps until an answer has been given elsewhere, but not longer than about a second.
    pub(super) fn wait_elsewhere(&mut self) {
        let seen = self.link.delivered();
        if self.handed - self.answered > seen {
            self.link.wait_delivered(seen);
        }
        self.take_returned();
    }

    /// Takes back the buffers of requests that were answered elsewhere.
    #[inline]
    pub(super) fn take_returned(&mut self) {
        let mut returned = self.link.returned();
        for buffer in returned.drain(..) {
            self.pool.give(buffer);
        }
    }

    /// Gives the answers, copies the data of writes, and fetches.
    #[inline]
    pub(super) fn exchange(&mut self, size: impl Fn() -> u64, mode: Mode) -> Result<Exchanged> {
        let mut batch = self.answers.begin(self.calls.channel.id());
        for answer in &self.own {
            answer.put(&mut batch, self.calls.notes);
        }
        let held_back = !self.filling.is_empty() || !self.short.is_empty() || self.calls.taken_over;
        for (request, buffer) in &mut self.filling {
            batch.copy(request, buffer);
        }
        let looks = match mode {
            _ if held_back => 0,
            Mode::Sleep => self.requests.len(),
            Mode::Look(most) => most.min(self.requests.len()),
        };
        // The offered buffers have no data here: all writes that came with data were handed out.
        if self.longest > self.expected || self.trimmed {
            set_expected(&mut self.offered, &mut self.pool, &mut self.expected, self.longest);
            if std::mem::take(&mut self.trimmed) {
                self.longest = 0;
            }
        }
        offer(&mut self.offered, &mut self.pool, self.wanted.min(looks), self.expected);
        let mut buffers = self.list.begin();
        for buffer in self.offered.iter_mut().flatten().take(looks) {
            buffers.push(buffer);
        }
        let fetch = match mode {
            _ if looks == 0 => Fetch::nothing(),
            Mode::Sleep => Fetch {
                requests: &mut self.requests,
                arena: &mut [],
                buffers: Some(buffers),
                queue: self.queue,
                minimum: 1,
                spin_us: self.spin_us,
                timeout_ms: (self.pool.spare() > KEPT_WHEN_IDLE).then_some(IDLE_MS),
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
        self.drained = (asked != 0).then_some(given.fetched + given.kept < asked && given.refused == 0);
        if given.gone {
            return Ok(Exchanged::Gone);
        }
        let mut refused = Vec::new();
        if given.refused != 0 {
            refused.extend(batch.refused().map(|(handle, _)| handle));
            self.calls.fail_refused(&mut batch)?;
        }
        self.answered += self.own.len() as u64;
        for buffer in self.own.drain(..).filter_map(|answer| answer.buffer) {
            self.pool.give(buffer);
        }
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
        if self.rounds >= ROUNDS || (given.fetched == 0 && mode == Mode::Sleep && !held_back) {
            self.rounds = 0;
            self.pool.trim();
            self.trimmed = true;
        }
        let nothing = self.fetched == 0 && self.filled.is_empty();
        Ok(if nothing { Exchanged::Nothing } else { Exchanged::Requests })
    }
}

/// Offers buffers of another length from now on.
#[inline]
fn set_expected(offered: &mut Vec<Option<Buffer>>, pool: &mut Pool, expected: &mut usize, length: usize) {
    if length != *expected {
        *expected = length;
        for buffer in offered.drain(..).flatten() {
            pool.give(buffer);
        }
    }
}

/// Fills the list of offered buffers up to this number. If there is no memory, fewer are offered, and writes come
/// without data.
#[inline]
fn offer(offered: &mut Vec<Option<Buffer>>, pool: &mut Pool, wanted: usize, length: usize) {
    // Those that were not used move to the front, because a buffer's number is its place.
    offered.retain(Option::is_some);
    while offered.len() < wanted {
        // The reserve is for writes that have arrived.
        let Some(buffer) = pool.take_spare(length) else { return };
        offered.push(Some(buffer));
    }
}

/// The length of a read or write, which was compared with that of the longest request.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "see above")]
fn bytes(request: &Fetched) -> usize {
    request.length() as usize
}

impl<C: Channel + Clone + 'static> Drop for Exchange<'_, C> {
    fn drop(&mut self) {
        self.link.close();
    }
}
