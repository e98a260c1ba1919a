// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ENTER call, made safe: it answers requests, moves their data and fetches more.
//!
//! The kernel copies data from and to the addresses in the answers, as many bytes as the request has. Two
//! rules make that safe. The memory of an answer is borrowed until the call is over ([`Batch`]). The length
//! comes from a [`Fetched`], which only the kernel can make and which records its server. A request that was
//! answered before has a stale handle, which the kernel refuses.
//!
//! | file | content |
//! |---|---|
//! | `batch` | the answers of a call |
//! | `buffers` | the buffers that a call offers for the data of writes |
//! | `owned` | both with memory of their own, to be collected over time |
//! | `provide` | the other side, for channels that are not the kernel |
//! | `transfer` | how that side moves data |

mod batch;
mod buffers;
mod owned;
mod provide;
mod transfer;

pub use batch::{Answers, Batch};
pub use buffers::{BufferList, Buffers};
pub(crate) use owned::{Collected, Offer};
pub use provide::{Answer, Identity};

use crate::Errno;
use crate::sys::fork::OwnFd;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::ioctl::{Opcode, Updater, ioctl};
use std::sync::atomic::{AtomicU32, Ordering};
use zosbd2_abi::v2;

/// Identifies a server within this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerId(u32);

/// Bit of the ids of channels that are not the kernel's: see [`Identity`].
const OWN: u32 = 1 << 31;

impl ServerId {
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed) & !OWN)
    }

    const fn is_own(self) -> bool {
        self.0 & OWN != 0
    }
}

/// A request that [`Server::enter`](crate::Server::enter) fetched.
///
/// The server holds it until the kernel accepts an answer, from any thread.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct Fetched(v2::Request);

impl Fetched {
    /// An empty entry for [`Fetch::requests`].
    pub const EMPTY: Self = Self(v2::Request {
        handle: 0,
        offset: 0,
        length: 0,
        data: 0,
        op: 0,
        flags: 0,
        queue: 0,
        reserved: 0,
    });

    /// Identifies the request in messages. Its bits have no meaning.
    #[must_use]
    pub fn handle(&self) -> u64 {
        self.0.handle
    }

    /// One of the `OP_` numbers of [`abi`](crate::v2::abi).
    #[must_use]
    pub fn op(&self) -> u32 {
        self.0.op
    }

    /// `REQUEST_` flags of [`abi`](crate::v2::abi).
    #[must_use]
    pub fn flags(&self) -> u32 {
        self.0.flags
    }

    /// First byte on the device.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.0.offset
    }

    /// Length in bytes; 0 for a flush.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.0.length
    }

    /// With `REQUEST_DATA`: offset of a write's data in the arena, or number of the buffer that has the data.
    #[must_use]
    pub fn data(&self) -> u64 {
        self.0.data
    }

    /// Queue of the request.
    #[must_use]
    pub fn queue(&self) -> u32 {
        self.0.queue
    }

    /// Records that the data of the write is at offset `data` of the arena.
    pub(crate) fn set_data(&mut self, data: u64) {
        self.0.data = data;
        self.0.flags |= v2::REQUEST_DATA;
    }
}

/// The result of an answer that did this many bytes of its request.
#[expect(clippy::cast_possible_wrap, reason = "a request is much shorter than 2^63 bytes")]
const fn bytes(length: u64) -> i64 {
    length as i64
}

fn status(entry: &v2::Commit) -> Errno {
    Errno::from_raw_os_error(entry.status.saturating_neg())
}

/// What to fetch, and how long to wait for it.
#[derive(Debug, Default)]
pub struct Fetch<'a> {
    /// Receives the requests; empty: fetch nothing.
    pub requests: &'a mut [Fetched],
    /// Receives the data of writes, one behind the other; empty: without buffers, writes come without data.
    pub arena: &'a mut [u8],
    /// Receive the data of one write each. The kernel refuses a call with both an arena and buffers (`EINVAL`).
    pub buffers: Option<Buffers<'a>>,
    /// Queue to fetch from.
    pub queue: u32,
    /// Number of requests to wait for.
    pub minimum: u32,
    /// Time to poll before sleeping, in microseconds.
    pub spin_us: u32,
    /// Longest wait, in milliseconds.
    pub timeout_ms: Option<u32>,
}

impl Fetch<'_> {
    /// Fetches nothing.
    #[must_use]
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Reborrows this value for another call.
    pub fn again(&mut self) -> Fetch<'_> {
        let buffers = self.buffers.as_mut().map(Buffers::again);
        Fetch {
            requests: &mut *self.requests,
            arena: &mut *self.arena,
            buffers,
            queue: self.queue,
            minimum: self.minimum,
            spin_us: self.spin_us,
            timeout_ms: self.timeout_ms,
        }
    }
}

/// Result of a call of [`Server::enter`](crate::Server::enter).
#[must_use]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entered {
    /// Number of answers that the kernel carried out or refused, counted from the first unprocessed one.
    pub processed: usize,
    /// Number of refused answers: see [`Batch::refused`].
    pub refused: usize,
    /// Number of fetched requests.
    pub fetched: usize,
    /// Number of requests that were fetched, too, and that a layer has kept for itself. So there may be more requests
    /// although fewer were returned than there was room for.
    pub kept: usize,
    /// Why nothing was fetched: see `Enter` in [`abi`](crate::v2::abi).
    pub error: Option<Errno>,
}

/// A server descriptor, which forked children do not get.
#[derive(Debug)]
pub(crate) struct ServerFd {
    fd: OwnFd,
    id: ServerId,
}

impl ServerFd {
    pub(crate) fn new(fd: OwnFd) -> Self {
        Self { fd, id: ServerId::next() }
    }

    pub(crate) fn id(&self) -> ServerId {
        self.id
    }

    pub(crate) fn into_fd(self) -> OwnedFd {
        self.fd.into_fd()
    }

    /// Passes the unprocessed answers of `batch` to the kernel, and fetches. A batch of another server fails
    /// with `EINVAL` without a call of the kernel.
    #[inline]
    pub(crate) fn enter(&self, batch: &mut Batch<'_>, fetch: Fetch<'_>) -> Entered {
        if batch.server != self.id {
            return Entered { error: Some(Errno::INVAL), ..Entered::default() };
        }
        let first = batch.processed.min(batch.entries.len());
        let commits = &mut batch.entries[first..];
        let Fetch { requests, arena, buffers, queue, minimum, spin_us, timeout_ms } = fetch;
        let buffers = buffers.as_ref().map_or(&[][..], |buffers| buffers.entries);
        let mut argument = v2::Enter {
            flags: if timeout_ms.is_some() { v2::ENTER_TIMEOUT } else { 0 },
            commits: commits.as_mut_ptr().expose_provenance() as u64,
            requests: requests.as_mut_ptr().expose_provenance() as u64,
            arena: if arena.is_empty() { 0 } else { arena.as_mut_ptr().expose_provenance() as u64 },
            arena_bytes: arena.len() as u64,
            buffers: buffers.as_ptr().expose_provenance() as u64,
            buffer_count: count(buffers.len()),
            commit_count: count(commits.len()),
            capacity: count(requests.len()),
            queue,
            minimum,
            spin_us,
            timeout_ms: timeout_ms.unwrap_or(0),
            ..v2::Enter::default()
        };
        // SAFETY: the kernel reads and writes the argument, `commit_count` commits, `capacity` requests (both
        // plain integers) and `arena_bytes` bytes, all borrowed exclusively here. It reads `buffer_count` entries, and
        // writes to the memory that they name, which `Buffers` borrows exclusively or as a region for longer than this
        // call. It also reads and writes the memory that the commits name. The batch borrows that memory for longer than this call, and
        // `Batch` checked that each piece is as long as its request.
        let call = unsafe { Updater::<{ v2::IOCTL_ENTER as Opcode }, v2::Enter>::new(&mut argument) };
        // SAFETY: as above.
        let error = unsafe { ioctl(self.fd.as_fd(), call) }.err();
        batch.processed = first + argument.processed as usize;
        let fetched = requests.len().min(argument.fetched as usize);
        for request in &mut requests[..fetched] {
            request.0.reserved = self.id.0;
        }
        let (processed, refused) = (argument.processed as usize, argument.refused as usize);
        Entered { processed, refused, fetched, kept: 0, error }
    }
}

impl AsFd for ServerFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The kernel refuses more than [`v2::MAX_BATCH`] entries.
fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
