// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks each request of a lane, and keeps the size up to which requests are valid.
//!
//! That size is the smaller of the kernel's and the backend's. A lane calls [`Limits::renew`] after each call of the
//! kernel. A request beyond the size is checked again with sizes that were asked for anew, because the device
//! may have grown meanwhile.

use super::notes::Notes;
use crate::v2::geometry::{Geometry, Wanted};
use crate::v2::{Channel, Fetched};
use crate::{BadRequest, Errno, Error};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The limits of one lane. The functions get the backend's size from a closure; if it panics, no request is
/// valid.
pub(super) struct Limits<'s, C> {
    channel: &'s C,
    notes: &'s Notes,
    pub(super) geometry: Geometry,
    /// Size of the channel when `geometry.size` was set.
    told: u64,
}

impl<'s, C: Channel> Limits<'s, C> {
    /// With `buffers` the data of writes comes in buffers, otherwise in an arena.
    pub(super) fn new(channel: &'s C, notes: &'s Notes, buffers: bool, own: impl Fn() -> u64) -> Self {
        let status = channel.status();
        let geometry = Geometry {
            size: 0,
            block: u64::from(status.logical_block_size).max(1),
            max_io: u64::from(status.max_io_bytes),
            buffers,
        };
        let mut limits = Self { channel, notes, geometry, told: 0 };
        limits.set(channel.size(), own);
        limits
    }

    /// Takes over a new size of the channel.
    #[inline]
    pub(super) fn renew(&mut self, own: impl Fn() -> u64) {
        if self.channel.size() != self.told {
            self.set(self.channel.size(), own);
        }
    }

    /// Checks a request. The error is the answer to give.
    #[inline]
    pub(super) fn check(&mut self, request: &Fetched, own: impl Fn() -> u64) -> Result<Wanted, Errno> {
        match self.geometry.look(request) {
            Ok(wanted) => Ok(wanted),
            Err(bad) => self.look_again(request, bad, own),
        }
    }

    #[cold]
    fn look_again(
        &mut self,
        request: &Fetched,
        bad: BadRequest,
        own: impl Fn() -> u64,
    ) -> Result<Wanted, Errno> {
        let device = self.notes.device();
        if !matches!(bad, BadRequest::OutOfDevice { .. }) {
            let error = if matches!(bad, BadRequest::Opcode(_)) { Errno::OPNOTSUPP } else { Errno::IO };
            self.notes.note(Error::Request { device, op_id: request.handle(), source: bad });
            return Err(error);
        }
        match self.channel.refresh_size() {
            Ok(size) => self.set(size, own),
            Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "while serving"),
        }
        self.geometry.look(request).map_err(|bad| {
            // The request may have been submitted before the device shrank.
            tracing::debug!(device, %bad, "request failed");
            Errno::IO
        })
    }

    #[cold]
    fn set(&mut self, told: u64, own: impl Fn() -> u64) {
        self.told = told;
        let own = catch_unwind(AssertUnwindSafe(own)).map_err(|_| self.notes.panicked("size", None));
        self.geometry.size = own.map_or(0, |own| own.min(told));
    }
}
