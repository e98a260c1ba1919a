// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lane of a [`Handler`]: hands out requests on a thread of its own, and sleeps in the kernel.
//!
//! While the handler holds as many requests as the queue is deep, the lane fetches nothing, and waits for answers.
//!
//! When another server has taken over, the lane ends after the last of its requests was answered, here or
//! elsewhere. When the device is gone, it ends at once, and later answers are dropped.

use super::exchange::{Exchange, Exchanged, Mode};
use super::session::{Lanes, Session};
use super::{End, ServeOptions};
use crate::Result;
use crate::v2::{Channel, Handler};

/// The lanes of a handler.
pub(super) struct Owned<'s, C, H: ?Sized> {
    pub(super) session: &'s Session<C>,
    pub(super) handler: &'s H,
    pub(super) options: &'s ServeOptions,
}

impl<'s, C: Channel + Clone + 'static, H: Handler + ?Sized> Lanes for Owned<'s, C, H> {
    type Lane = Exchange<'s, C>;

    fn prepare(&self, queue: u32) -> Result<Self::Lane> {
        Exchange::new(self.session, self.options, queue, || self.handler.size())
    }

    fn work(&self, mut lane: Self::Lane) -> Result<End> {
        let size = || self.handler.size();
        loop {
            lane.hand_out(size, &mut (), |(), request| self.handler.handle(request), |()| {});
            if !lane.has_answers() {
                if lane.is_short() {
                    lane.wait_elsewhere();
                } else if lane.taken_over() {
                    if lane.elsewhere() == 0 {
                        lane.check()?;
                        return Ok(End::TakenOver);
                    }
                    lane.wait_elsewhere();
                } else {
                    lane.wait_for_room();
                }
            }
            if lane.exchange(size, Mode::Sleep)? == Exchanged::Gone {
                return Ok(End::Gone);
            }
        }
    }

    fn size(&self) -> u64 {
        self.handler.size()
    }
}
