// SPDX-License-Identifier: MIT OR Apache-2.0
//! The storage behind a device of version 1.

use crate::{Errno, SparseMemory};

/// Storage behind a device. [`serve`](super::serve) calls it from all its worker threads at once.
///
/// Ranges are inside the device, never empty, and multiples of 4096 bytes. Each call is one request: the
/// submitter waits until the call returns, at most for the device's timeout. After the timeout the request
/// has failed, and the rest of the call has no effect on the submitter. Any error reaches the submitter as an
/// I/O error. So does a panic, and the worker continues.
///
/// Interface version 1 has no flush: when `write` returns, the data must be as durable as it will ever be.
pub trait Backend: Sync {
    /// Fills all of `buffer` with the bytes from `offset` on. The buffer holds unrelated older data at first.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno>;

    /// Stores `data` at `offset`.
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno>;

    /// Discards bytes that are no longer needed, up to 4 GiB - 4096 at once. The backend decides what later
    /// reads return. Not supported by default.
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
