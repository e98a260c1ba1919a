// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stores the bytes of a device.

use crate::{Errno, SparseMemory};

/// Storage behind a device, called by [`serve`](super::serve) from all its worker threads at once.
///
/// Ranges are inside the device, never empty, and multiples of 4096 with every kernel module of this
/// project. Each call is one request: its submitter waits until the call returns, at most for the
/// device's timeout, after which the request has failed and what the call still does is in vain. Any error
/// reaches the submitter as an I/O error. A panic does too, and the worker lives on.
///
/// Interface version 1 has no flush: what a write acknowledged must be as durable as it will ever be.
pub trait Backend: Sync {
    /// Fills all of `buffer`, which holds unrelated older data at first, with the bytes from `offset` on.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno>;

    /// Stores `data` at `offset`.
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno>;

    /// The bytes are of no use any more; what reads of them give afterwards is up to the backend. Up to
    /// 4 GiB - 4096 at once. By default not supported.
    fn discard(&self, offset: u64, length: u64) -> Result<(), Errno> {
        let _ = (offset, length);
        Err(Errno::OPNOTSUPP)
    }
}

/// A RAM disk.
impl Backend for SparseMemory {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.read_at(offset, buffer).map_err(|_| Errno::INVAL)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.write_at(offset, data).map_err(|_| Errno::INVAL)
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), Errno> {
        SparseMemory::discard(self, offset, length).map_err(|_| Errno::INVAL)
    }
}
