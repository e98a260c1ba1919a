// SPDX-License-Identifier: MIT OR Apache-2.0
//! The storage behind a device, for backends that wait without a thread.

use super::backend::default_flush;
use super::{Capabilities, Operation, Request, Zero};
use crate::Errno;
use std::future::Future;

/// Like [`Backend`](super::Backend), but each operation is a future. Implementations can write `async fn`.
///
/// The lane of a queue polls the futures of its requests itself, in place: nothing is allocated or spawned per
/// request. So futures of one queue run at the same time, but never in parallel; a future that computes for long
/// spawns a task of its own. Any executor and any timer can be used inside, if the executor that polls the lane
/// supports them.
///
/// The data of a request is only lent to its future. A client that blocks runs in a thread pool, such as tokio's
/// `spawn_blocking`, with memory of its own, and the future copies. To have the buffer in another thread, use a
/// [`Handler`](super::Handler): a [`Request`] owns its buffer.
///
/// | what happens | what the submitter sees |
/// |---|---|
/// | the future returns an error | an I/O error |
/// | the future panics | `EIO`; serving returns the panic in the end |
/// | a stop is requested | its request is answered: the device is destroyed when dirty data is written |
/// | another server takes over | its request is answered; serving ends when all are |
/// | the future of the serve call is dropped, or the process dies | a delay: nothing is answered, and the next server gets the request |
pub trait AsyncBackend: Sync {
    /// Size of the device in bytes: see [`Backend::size`](super::Backend::size). Must not block.
    fn size(&self) -> u64;

    /// Capabilities of the backend. Called once, when the device is created. The thread model has no meaning
    /// here.
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    /// Fills all of `buffer` with the bytes from `offset` on.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> impl Future<Output = Result<(), Errno>> + Send;

    /// Stores `data` at `offset`. The future may change the bytes, for example encrypt them in place. With
    /// `fua` the data must be durable in the end.
    fn write(
        &self,
        offset: u64,
        data: &mut [u8],
        fua: bool,
    ) -> impl Future<Output = Result<(), Errno>> + Send;

    /// Makes durable what was answered before: see [`Backend::flush`](super::Backend::flush).
    fn flush(&self) -> impl Future<Output = Result<(), Errno>> + Send {
        async { default_flush() }
    }

    /// See [`Backend::discard`](super::Backend::discard).
    fn discard(&self, offset: u64, length: u64) -> impl Future<Output = Result<(), Errno>> + Send {
        let _ = (offset, length);
        async { Err(Errno::OPNOTSUPP) }
    }

    /// See [`Backend::write_zeroes`](super::Backend::write_zeroes).
    fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        zero: Zero,
    ) -> impl Future<Output = Result<(), Errno>> + Send {
        let _ = (offset, length, zero);
        async { Err(Errno::OPNOTSUPP) }
    }

    /// See [`Backend::secure_erase`](super::Backend::secure_erase).
    fn secure_erase(&self, offset: u64, length: u64) -> impl Future<Output = Result<(), Errno>> + Send {
        let _ = (offset, length);
        async { Err(Errno::OPNOTSUPP) }
    }
}

/// Carries one request out. If the future is dropped before its end, the request fails.
pub(super) async fn carry_out<B: AsyncBackend + ?Sized>(backend: &B, mut request: Request) {
    let (offset, length, fua) = (request.offset(), request.length(), request.fua());
    let result = match request.operation() {
        Operation::Read => backend.read(offset, request.data_mut()).await,
        Operation::Write => backend.write(offset, request.data_mut(), fua).await,
        Operation::Flush => backend.flush().await,
        Operation::Discard => backend.discard(offset, length).await,
        Operation::WriteZeroes => {
            backend.write_zeroes(offset, length, Zero { unmap: request.unmap(), fua }).await
        }
        Operation::SecureErase => backend.secure_erase(offset, length).await,
    };
    request.complete(result);
}
