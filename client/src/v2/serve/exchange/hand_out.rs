// SPDX-License-Identifier: MIT OR Apache-2.0
//! How an exchange hands out: each request that has its data, or memory for it, becomes a [`Request`].
//!
//! A request for which there is no memory waits in `short`, and a write without its data in `filling`, until exchanges have
//! got both. While the lane hands out, the answers of its thread are collected for the next exchange.

use super::Exchange;
use crate::Errno;
use crate::v2::geometry::{Wanted, operation_name};
use crate::v2::link::{LaneLink, collect};
use crate::v2::pool::Use;
use crate::v2::{Channel, Fetched, Operation, Request};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use zosbd2_abi::v2;

impl<C: Channel + Clone + 'static> Exchange<'_, C> {
    /// Hands out all requests that have what they need, and then calls `more`. Answers that this thread gives in
    /// both wait for the next exchange. A panic of either is noted; `handle` then goes on with the next request.
    #[inline]
    pub(in crate::v2::serve) fn hand_out<T>(
        &mut self,
        size: impl Fn() -> u64,
        taker: &mut T,
        mut handle: impl FnMut(&mut T, Request),
        more: impl FnOnce(&mut T),
    ) {
        let (link, mut own) = (self.link.clone(), self.own.take());
        let notes = self.calls.notes;
        collect(&link, &mut own, || {
            if !self.filled.is_empty() || !self.short.is_empty() {
                self.hand_out_waiting(taker, &mut handle);
            }
            // One frame for all requests, because each costs. After a panic another one continues.
            while self.looked_at < self.fetched {
                let run = || self.hand_out_fetched(&size, taker, &mut handle);
                if catch_unwind(AssertUnwindSafe(run)).is_err() {
                    let request = &self.requests[self.looked_at - 1];
                    let range = Some((request.offset(), request.length()));
                    notes.panicked(operation_name(request.op()), range);
                }
            }
            if catch_unwind(AssertUnwindSafe(|| more(taker))).is_err() {
                notes.panicked("future", None);
            }
        });
        self.own = own;
        if self.fetched > 0 {
            self.offering.adapt();
        }
        (self.fetched, self.looked_at) = (0, 0);
    }

    /// Hands out the fetched requests from `looked_at` on.
    #[inline]
    fn hand_out_fetched<T>(
        &mut self,
        size: &impl Fn() -> u64,
        taker: &mut T,
        handle: &mut impl FnMut(&mut T, Request),
    ) {
        let Self { link, limits, pool, requests, looked_at, short, offering, filling, handed, .. } = self;
        for request in &requests[*looked_at..self.fetched] {
            *looked_at += 1;
            let mut hand_out = |operation, buffer| {
                *handed += 1;
                let link = link.clone();
                handle(taker, Request::new(*request, operation, buffer, link));
            };
            match limits.check(request, size) {
                Ok(Wanted::Read) => match pool.take(bytes(request), Use::Read) {
                    Some(buffer) => hand_out(Operation::Read, Some(buffer)),
                    None => short.push(*request),
                },
                // The data is in the offered buffer of this number.
                Ok(Wanted::Write(number)) => {
                    offering.note_write(bytes(request));
                    match offering.take(number, pool) {
                        Some(buffer) if buffer.len() >= bytes(request) => {
                            hand_out(Operation::Write, Some(buffer));
                        }
                        buffer => {
                            *handed += 1;
                            Request::new(*request, Operation::Write, buffer, link.clone())
                                .complete(Err(Errno::IO));
                        }
                    }
                }
                Ok(Wanted::WriteWithoutData) => {
                    offering.note_write(bytes(request));
                    match pool.take(bytes(request), Use::Write) {
                        Some(buffer) => filling.push((*request, buffer)),
                        None => short.push(*request),
                    }
                }
                Ok(Wanted::Flush) => hand_out(Operation::Flush, None),
                Ok(Wanted::Discard) => hand_out(Operation::Discard, None),
                Ok(Wanted::WriteZeroes) => hand_out(Operation::WriteZeroes, None),
                Ok(Wanted::SecureErase) => hand_out(Operation::SecureErase, None),
                Err(error) => {
                    *handed += 1;
                    Request::new(*request, Operation::Flush, None, link.clone()).complete(Err(error));
                }
            }
        }
    }

    /// Hands out what waited for its data or for memory, as far as there is memory now.
    #[cold]
    fn hand_out_waiting<T>(&mut self, taker: &mut T, handle: &mut impl FnMut(&mut T, Request)) {
        let notes = self.calls.notes;
        let mut hand_out = |link: &Arc<LaneLink<C>>, request: Fetched, operation, buffer| {
            let owned = Request::new(request, operation, Some(buffer), link.clone());
            if catch_unwind(AssertUnwindSafe(|| handle(taker, owned))).is_err() {
                let range = Some((request.offset(), request.length()));
                notes.panicked(operation_name(request.op()), range);
            }
        };
        for (request, buffer) in self.filled.drain(..) {
            self.handed += 1;
            hand_out(&self.link, request, Operation::Write, buffer);
        }
        let Self { link, pool, short, filling, handed, .. } = self;
        // Those that still have no memory stay, in their order. They were checked before.
        short.retain(|request| {
            let for_a = if request.op() == v2::OP_READ { Use::Read } else { Use::Write };
            let Some(buffer) = pool.take(bytes(request), for_a) else { return true };
            if for_a == Use::Write {
                filling.push((*request, buffer));
            } else {
                *handed += 1;
                hand_out(link, *request, Operation::Read, buffer);
            }
            false
        });
    }
}

/// The length of a read or write, which was compared with that of the longest request.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "see above")]
fn bytes(request: &Fetched) -> usize {
    request.length() as usize
}
