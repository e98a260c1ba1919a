// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory of a blocking lane: mapped before serving, used up and freed in each round.
//!
//! Only pages that were used are in memory, unless the memory of the process is locked.

use super::ServeOptions;
use crate::v2::{Answers, Batch, Buffer, Fetched, Status};
use crate::{Error, Result};
use zosbd2_abi::v2;

/// The memory of one lane.
pub(super) struct Memory {
    pub(super) requests: Vec<Fetched>,
    pub(super) answers: Answers,
    /// Results of reads. The kernel uses it until the answers are given.
    pub(super) reads: Buffer,
    /// Data of writes, whether it comes with the requests or later.
    pub(super) arena: Buffer,
}

impl Memory {
    pub(super) fn new(status: &Status, options: &ServeOptions, regions: bool) -> Result<Self> {
        // With regions the buffers are rarely used.
        let populated = options.locks_memory() && !regions;
        let buffer = || {
            Buffer::new(status.max_io_bytes as usize, populated)
                .map_err(|source| Error::Buffers { device: status.name.clone(), source })
        };
        Ok(Self {
            requests: vec![Fetched::EMPTY; options.most_requests()],
            answers: Answers::with_capacity(options.most_requests()),
            reads: buffer()?,
            arena: buffer()?,
        })
    }
}

/// The unused rest of a buffer.
pub(super) struct FreeSpace<'b> {
    pub(super) free: &'b mut [u8],
}

impl<'b> FreeSpace<'b> {
    #[inline]
    pub(super) fn take(&mut self, length: usize) -> Option<&'b mut [u8]> {
        if length > self.free.len() {
            return None;
        }
        let (taken, rest) = std::mem::take(&mut self.free).split_at_mut(length);
        self.free = rest;
        Some(taken)
    }
}

/// Requests the data of as many writes as fit into the arena.
pub(super) fn ask_for_data<'b>(requests: &mut [Fetched], arena: &'b mut [u8], batch: &mut Batch<'b>) {
    let mut space = FreeSpace { free: arena };
    let mut at = 0;
    for request in requests {
        if request.op() != v2::OP_WRITE {
            continue;
        }
        let place = usize::try_from(request.length()).ok().and_then(|length| space.take(length));
        let Some(place) = place else { return };
        batch.copy(request, place);
        request.set_data(at);
        at += request.length();
    }
}
