// SPDX-License-Identifier: MIT OR Apache-2.0
//! A request that the backend owns.
//!
//! ```text
//! lane: Handler::handle(request) --> any thread, any time: request.complete(result)
//!                                                           or dropped: EIO
//! ```
//!
//! The server holds the request until it is completed; its submitter waits meanwhile. Completing it inside of
//! [`Handler::handle`](super::Handler::handle) costs no call of the kernel, because the lane gives the answer with its
//! next one. Elsewhere the first completer gives all answers of that moment to the kernel in one call, on its
//! own thread; the call copies the data of reads, and does not sleep.
//!
//! A request may outlive its device and the lane. Completing it then does nothing.

use super::link::{Answer, Link, OWN};
use super::{Buffer, Fetched};
use crate::Errno;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use zosbd2_abi::v2;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Fill [`Request::data_mut`].
    Read,
    /// Store [`Request::data`].
    Write,
    /// The bytes are no longer needed.
    Discard,
    /// Make durable what was answered before the flush was handed out.
    Flush,
    /// Make the bytes read as zeros.
    WriteZeroes,
    /// Make the bytes unrecoverable.
    SecureErase,
}

impl Operation {
    /// All operations, ordered by number.
    pub const ALL: [Self; v2::OPERATIONS] =
        [Self::Read, Self::Write, Self::Discard, Self::Flush, Self::WriteZeroes, Self::SecureErase];

    /// Its number: one of the `OP_` numbers of [`abi`](crate::v2::abi).
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Read => v2::OP_READ,
            Self::Write => v2::OP_WRITE,
            Self::Discard => v2::OP_DISCARD,
            Self::Flush => v2::OP_FLUSH,
            Self::WriteZeroes => v2::OP_WRITE_ZEROES,
            Self::SecureErase => v2::OP_SECURE_ERASE,
        }
    }
}

/// As in the text of faults and of tools.
impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Discard => "discard",
            Self::Flush => "flush",
            Self::WriteZeroes => "write-zeroes",
            Self::SecureErase => "secure-erase",
        })
    }
}

/// A request and its data. It can be sent to any thread, and is answered once: by [`complete`](Self::complete), or
/// with `EIO` when it is dropped.
///
/// Its range is inside the device and consists of whole blocks. Moving a request moves no data.
#[must_use = "a dropped request fails"]
pub struct Request {
    fetched: Fetched,
    operation: Operation,
    /// Of a read or write.
    buffer: Option<Buffer>,
    /// `None` only after completion.
    link: Option<Arc<dyn Link>>,
}

impl Request {
    /// The parts were checked: a read or write has a buffer that is long enough.
    #[inline]
    pub(super) fn new(
        fetched: Fetched,
        operation: Operation,
        buffer: Option<Buffer>,
        link: Arc<dyn Link>,
    ) -> Self {
        Self { fetched, operation, buffer, link: Some(link) }
    }

    /// What to do.
    #[must_use]
    #[inline]
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// First byte on the device.
    #[must_use]
    #[inline]
    pub fn offset(&self) -> u64 {
        self.fetched.offset()
    }

    /// Length in bytes; 0 for a flush.
    #[must_use]
    #[inline]
    pub fn length(&self) -> u64 {
        self.fetched.length()
    }

    /// Queue that the request came from.
    #[must_use]
    pub fn queue(&self) -> u32 {
        self.fetched.queue()
    }

    /// Whether the write, or the zeros, must be durable before the request is completed.
    #[must_use]
    #[inline]
    pub fn fua(&self) -> bool {
        self.fetched.flags() & v2::REQUEST_FUA != 0
    }

    /// Of a [`Operation::WriteZeroes`]: whether the space may be freed.
    #[must_use]
    #[inline]
    pub fn unmap(&self) -> bool {
        self.fetched.flags() & v2::REQUEST_NO_UNMAP == 0
    }

    /// Whether an earlier server, or a late thread, may have carried the request out already. Carry it out
    /// again.
    #[must_use]
    pub fn maybe_executed(&self) -> bool {
        self.fetched.flags() & v2::REQUEST_MAYBE_EXECUTED != 0
    }

    /// The data of a write, or the buffer of a read, which holds unrelated older data until it is filled. Empty
    /// for other operations.
    #[must_use]
    #[inline]
    pub fn data(&self) -> &[u8] {
        match &self.buffer {
            Some(buffer) => &buffer[..bytes(&self.fetched)],
            None => &[],
        }
    }

    /// Like [`data`](Self::data), to fill the buffer of a read, or to change the data of a write in place, for
    /// example to encrypt it.
    #[must_use]
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        match &mut self.buffer {
            Some(buffer) => &mut buffer[..bytes(&self.fetched)],
            None => &mut [],
        }
    }

    /// Answers the request. For a successful read, the submitter gets [`data`](Self::data). An error reaches the
    /// submitter as an I/O error.
    #[inline]
    pub fn complete(self, result: Result<(), Errno>) {
        // Nothing is left to drop: the answer takes what is not plain data.
        ManuallyDrop::new(self).answer(result);
    }

    #[inline]
    fn answer(&mut self, result: Result<(), Errno>) {
        let Some(link) = self.link.take() else { return };
        let mut buffer = self.buffer.take();
        match result {
            Ok(()) => {
                // While the thread itself is being destroyed, its collection is gone.
                let own = OWN.try_with(|own| own.borrow_mut().done(&*link, &self.fetched, &mut buffer));
                if own != Ok(true) {
                    deliver(&*link, self.fetched, buffer);
                }
            }
            Err(error) => fail(&*link, self.fetched, error, buffer),
        }
    }
}

/// Answers success elsewhere than on the thread of the lane.
#[inline(never)]
fn deliver(link: &dyn Link, fetched: Fetched, buffer: Option<Buffer>) {
    link.deliver(Answer { fetched, result: Ok(()), buffer });
}

#[cold]
fn fail(link: &dyn Link, fetched: Fetched, error: Errno, mut buffer: Option<Buffer>) {
    let own = |link| OWN.try_with(|own| own.borrow().collects(link));
    if own(link) == Ok(true) {
        // Whoever is told may complete requests, so nothing is borrowed meanwhile.
        link.failed(&fetched, error);
        let failed = OWN.try_with(|own| own.borrow_mut().failed(link, &fetched, error, &mut buffer));
        if failed == Ok(true) {
            return;
        }
    }
    link.deliver(Answer { fetched, result: Err(error), buffer });
}

/// The length of a read or write, which was compared with that of a buffer.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "see above")]
fn bytes(fetched: &Fetched) -> usize {
    fetched.length() as usize
}

impl Drop for Request {
    #[inline]
    fn drop(&mut self) {
        // The parts are taken out, so that a completed request need not be in memory.
        if let Some(link) = self.link.take() {
            fail(&*link, self.fetched, Errno::IO, self.buffer.take());
        }
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request")
            .field("operation", &self.operation())
            .field("offset", &self.offset())
            .field("length", &self.length())
            .finish_non_exhaustive()
    }
}
