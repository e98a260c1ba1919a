// SPDX-License-Identifier: GPL-2.0-only
//! The buffers that an ENTER offers for the data of writes.

use zosbd2_abi::v2 as abi;
use zosbd2_engine::Errno;

use super::enter::CHUNK;
use crate::list::List;
use crate::shim;

/// The buffers of an ENTER, each for the data of one write. Each entry of the array is read once, ahead of its use, while no lock
/// is held and no request is pinned.
pub(super) struct Buffers {
    /// Entries that were read and are not used up.
    ahead: List<abi::Iovec, CHUNK>,
    /// How many of them, from the first on, have data of requests that are on their way to the server.
    pub(super) used: usize,
    /// Number of the first of them in the array.
    first: u64,
}

impl Buffers {
    #[inline]
    pub(super) const fn new() -> Self {
        Self { ahead: List::new(), used: 0, first: 0 }
    }

    /// Forgets the used entries and reads more, so that there are enough for the next requests, or all that are left.
    ///
    /// # Errors
    ///
    /// `EFAULT`.
    #[inline(never)]
    pub(super) fn read_ahead(&mut self, enter: &abi::Enter) -> Result<(), Errno> {
        self.ahead.remove_first(self.used);
        self.first = self.first.wrapping_add(self.used as u64);
        self.used = 0;
        // No more than one buffer for each request can be used.
        let usable = enter.buffer_count.min(enter.capacity);
        let next = self.first.wrapping_add(self.ahead.len() as u64);
        let left = usize::try_from(u64::from(usable).saturating_sub(next)).unwrap_or(0);
        let more = left.min(CHUNK.saturating_sub(self.ahead.len()));
        if more == 0 {
            return Ok(());
        }
        let at = enter.buffers.wrapping_add(next.wrapping_mul(size_of::<abi::Iovec>() as u64));
        shim::user_read_all(at, self.ahead.append(more))
    }

    /// Bytes of the next unused buffer.
    #[inline]
    pub(super) fn room(&self) -> u64 {
        self.ahead.items().get(self.used).map_or(0, |buffer| buffer.length)
    }

    /// Uses the next buffer. Returns its number.
    #[inline]
    pub(super) const fn take(&mut self) -> u64 {
        let number = self.first.wrapping_add(self.used as u64);
        self.used = self.used.wrapping_add(1);
        number
    }

    /// Address of a buffer that is used.
    #[inline]
    pub(super) fn address(&self, number: u64) -> Option<u64> {
        let index = usize::try_from(number.wrapping_sub(self.first)).ok()?;
        self.ahead.items().get(index).map(|buffer| buffer.address)
    }
}
