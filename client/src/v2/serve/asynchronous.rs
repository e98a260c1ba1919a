// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lane of an [`AsyncBackend`]: a future that fetches, polls the futures of its requests, and gives answers.
//!
//! ```text
//! poll: hand out and poll what was woken --> exchange, without sleeping --> again, while there are requests
//!          nothing to hand out, nothing to give --> wait for the descriptor and for the futures
//! ```
//!
//! The lane is polled by the library's own threads ([`AsyncLanes`]) or by an executor. It fetches no more
//! requests than it has slots. When it is dropped, nothing is answered: the link is closed before the futures
//! are dropped with their requests.

use super::exchange::{Exchange, Exchanged, Mode};
use super::ready::{Readiness, Sleeper};
use super::session::{Lanes, Session};
use super::slots::Slots;
use super::{End, ServeOptions};
use crate::v2::async_backend::carry_out;
use crate::v2::{AsyncBackend, Channel, Request};
use crate::{Errno, Error, Result};
use std::future::Future;
use std::task::{Context, Poll};

/// Rounds after which other tasks of the executor have their turn.
const ROUNDS: u32 = 64;

/// A lane. `make` turns a request into a future, `size` is that of the backend.
pub(super) struct AsyncLane<'s, C: Channel + Clone + 'static, R, F, M, S> {
    session: &'s Session<C>,
    exchange: Exchange<'s, C>,
    slots: Slots<F>,
    make: M,
    size: S,
    pub(super) ready: R,
    /// There were no requests when the lane last looked.
    dry: bool,
}

impl<'s, C, R, F, M, S> AsyncLane<'s, C, R, F, M, S>
where
    C: Channel + Clone + 'static,
    R: Readiness,
    F: Future<Output = ()>,
    M: FnMut(Request) -> F,
    S: Fn() -> u64,
{
    pub(super) fn new(
        session: &'s Session<C>,
        options: &ServeOptions,
        exchange: Exchange<'s, C>,
        ready: R,
        make: M,
        size: S,
    ) -> Self {
        let depth = session.channel.status().depth as usize;
        let slots = Slots::new(options.in_flight_of(depth));
        Self { session, exchange, slots, make, size, ready, dry: false }
    }

    /// Serves until the device is gone or taken over.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<End>> {
        self.slots.register(context.waker());
        for _ in 0..ROUNDS {
            let Self { exchange, slots, make, size, .. } = self;
            exchange.hand_out(&*size, slots, |slots, request| slots.start(make(request)), Slots::poll_woken);
            if slots.take_panic() {
                self.session.notes.panicked("future", None);
            }
            let exchange = &self.exchange;
            let room = self.slots.room().saturating_sub(exchange.held_back());
            if !exchange.has_answers() {
                if exchange.taken_over() && exchange.elsewhere() == 0 && exchange.held_back() == 0 {
                    return Poll::Ready(Ok(End::TakenOver));
                }
                // The futures that hold slots or memory will wake the lane.
                if exchange.taken_over() || exchange.is_short() || room == 0 {
                    return Poll::Pending;
                }
                if self.dry {
                    match self.ready.poll_ready(context) {
                        Poll::Pending => {
                            // Nobody sets a timer for a task, so memory goes back at once when the last request ends.
                            if self.slots.is_idle() {
                                self.exchange.rest();
                            }
                            return Poll::Pending;
                        }
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(self.failed(&error))),
                    }
                }
            }
            match self.exchange.exchange(&self.size, Mode::Look(room)) {
                Ok(Exchanged::Gone) => return Poll::Ready(Ok(End::Gone)),
                Ok(Exchanged::Requests | Exchanged::Nothing) => {
                    self.dry = self.exchange.drained().unwrap_or(self.dry);
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    #[cold]
    fn failed(&self, error: &std::io::Error) -> Error {
        let source = Errno::from_io_error(error).unwrap_or(Errno::IO);
        Error::Fetch { device: self.session.notes.device(), source }
    }
}

impl<C: Channel + Clone + 'static, R, F, M, S> Drop for AsyncLane<'_, C, R, F, M, S> {
    fn drop(&mut self) {
        self.exchange.close();
    }
}

/// The lanes of an asynchronous backend on the library's own threads. `sleepers` makes the sleeper of a lane.
pub(super) struct AsyncLanes<'s, C, B: ?Sized, N> {
    pub(super) session: &'s Session<C>,
    pub(super) backend: &'s B,
    pub(super) options: &'s ServeOptions,
    pub(super) sleepers: N,
}

impl<'s, C, B, N, R> Lanes for AsyncLanes<'s, C, B, N>
where
    C: Channel + Clone + 'static,
    B: AsyncBackend + ?Sized,
    N: Fn() -> Result<R> + Sync,
    R: Sleeper,
{
    type Lane = (Exchange<'s, C>, R);

    fn prepare(&self, queue: u32) -> Result<Self::Lane> {
        let exchange = Exchange::new(self.session, self.options, queue, || self.backend.size())?;
        Ok((exchange, (self.sleepers)()?))
    }

    fn work(&self, (exchange, sleeper): Self::Lane) -> Result<End> {
        let waker = sleeper.waker();
        let make = |request| carry_out(self.backend, request);
        let size = || self.backend.size();
        let mut lane = AsyncLane::new(self.session, self.options, exchange, sleeper, make, size);
        loop {
            if let Poll::Ready(end) = lane.poll(&mut Context::from_waker(&waker)) {
                return end;
            }
            lane.ready.sleep();
        }
    }

    fn size(&self) -> u64 {
        self.backend.size()
    }
}
