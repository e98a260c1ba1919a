// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ENTER call, made safe: it answers requests, moves their data and fetches more.
//!
//! The kernel copies data from and to the addresses in the answers, as many bytes as the request has. Two
//! rules make that safe. The memory of an answer is borrowed until the call is over ([`Batch`]). The length
//! comes from a [`Fetched`], which only the kernel can make and which records its server. A request that was
//! answered before has a stale handle, which the kernel refuses.

mod owned;
mod provide;

pub(crate) use owned::{Collected, Offer};
pub use provide::{Answer, Identity};

use crate::Errno;
use crate::sys::fork::OwnFd;
use crate::sys::memory::Region;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::ioctl::{Opcode, Updater, ioctl};
use std::marker::PhantomData;
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

/// Memory for the answers of one thread, reused for each call.
#[derive(Debug)]
pub struct Answers {
    entries: Vec<v2::Commit>,
    /// Numbers of the entries whose memory may be written to. Only kept for batches that do not go to the kernel.
    writable: Vec<usize>,
}

impl Answers {
    /// Room for `count` answers; it grows on demand.
    #[must_use]
    pub fn with_capacity(count: usize) -> Self {
        Self { entries: Vec::with_capacity(count), writable: Vec::new() }
    }

    /// Begins a batch of answers to requests of this server. Drops all earlier answers.
    pub fn begin(&mut self, server: ServerId) -> Batch<'_> {
        self.entries.clear();
        self.writable.clear();
        let Self { entries, writable } = self;
        Batch { entries, writable, processed: 0, server, memory: PhantomData }
    }
}

/// The answers of one call, and the memory that they borrow.
///
/// Every request must belong to the server of the batch. Functions that take memory panic if the request
/// belongs to another server, or if the memory is shorter than the request.
#[derive(Debug)]
pub struct Batch<'a> {
    entries: &'a mut Vec<v2::Commit>,
    writable: &'a mut Vec<usize>,
    processed: usize,
    server: ServerId,
    memory: PhantomData<&'a mut [u8]>,
}

impl<'a> Batch<'a> {
    /// Number of answers, processed or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the batch is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the kernel has processed all answers.
    #[must_use]
    pub fn is_processed(&self) -> bool {
        self.processed >= self.entries.len()
    }

    /// Completes a request that moves no data: a write whose data is in the arena, or an operation without
    /// data.
    #[inline]
    pub fn done(&mut self, request: &Fetched) {
        self.push(request, bytes(request.0.length), 0, 0);
    }

    /// Fails the request.
    #[inline]
    pub fn fail(&mut self, request: &Fetched, error: Errno) {
        self.push(request, i64::from(-error.raw_os_error()), 0, 0);
    }

    /// Completes a read with `data`.
    #[inline]
    pub fn read(&mut self, request: &Fetched, data: &'a [u8]) {
        self.check(request, data.len());
        self.push(request, bytes(request.0.length), data.as_ptr().expose_provenance(), 0);
    }

    /// Completes a read with `data`, which may be shorter than the request: the rest reads as zeros.
    pub fn read_and_zero(&mut self, request: &Fetched, data: &'a [u8]) {
        let length = (data.len() as u64).min(request.0.length);
        let address = if length == 0 { 0 } else { data.as_ptr().expose_provenance() };
        self.push(request, bytes(length), address, v2::COMMIT_ZERO_FILL);
    }

    /// Completes a read with the bytes of `region`.
    #[inline]
    pub fn read_region(&mut self, request: &Fetched, region: Region<'a>) {
        self.check(request, region.length());
        self.push(request, bytes(request.0.length), region.address().expose_provenance(), 0);
    }

    /// Copies the data of the write to `target` and completes the write.
    #[inline]
    pub fn write(&mut self, request: &Fetched, target: &'a mut [u8]) {
        self.check(request, target.len());
        self.note_writable();
        self.push(request, bytes(request.0.length), target.as_mut_ptr().expose_provenance(), 0);
    }

    /// Copies the data of the write to `target` and completes the write.
    #[inline]
    pub fn write_region(&mut self, request: &Fetched, target: Region<'a>) {
        self.check(request, target.length());
        self.note_writable();
        self.push(request, bytes(request.0.length), target.address().expose_provenance(), 0);
    }

    /// Copies the data of the write to `target`. The request still needs an answer.
    #[inline]
    pub fn copy(&mut self, request: &Fetched, target: &'a mut [u8]) {
        self.check(request, target.len());
        self.note_writable();
        let address = target.as_mut_ptr().expose_provenance();
        self.push(request, bytes(request.0.length), address, v2::COMMIT_COPY_ONLY);
    }

    /// The answers that the kernel refused, as (handle, error).
    pub fn refused(&self) -> impl Iterator<Item = (u64, Errno)> {
        let seen = &self.entries[..self.processed.min(self.entries.len())];
        seen.iter().filter(|entry| entry.status != 0).map(|entry| (entry.handle, status(entry)))
    }

    /// Keeps the answers that the kernel refused with an error other than `ESTALE`, and turns them into
    /// answers that fail their requests. Drops all others, and those that failed their request already.
    pub(crate) fn fail_refused(&mut self, error: Errno) {
        let result = i64::from(-error.raw_os_error());
        self.entries.retain_mut(|entry| {
            let keep = entry.status != 0 && status(entry) != Errno::STALE && entry.result >= 0;
            *entry = v2::Commit { handle: entry.handle, result, ..v2::Commit::default() };
            keep
        });
        self.writable.clear();
        self.processed = 0;
    }

    #[inline]
    fn check(&self, request: &Fetched, length: usize) {
        assert!(length as u64 >= request.0.length, "the memory is shorter than the request");
        assert!(self.server.0 == request.0.reserved, "the request belongs to another server");
    }

    /// Records that the memory of the next entry may be written to. The kernel knows that by itself.
    #[inline]
    fn note_writable(&mut self) {
        if self.server.is_own() {
            self.writable.push(self.entries.len());
        }
    }

    #[inline]
    fn push(&mut self, request: &Fetched, result: i64, address: usize, flags: u32) {
        let (handle, address) = (request.0.handle, address as u64);
        self.entries.push(v2::Commit { handle, result, address, flags, ..v2::Commit::default() });
    }
}

fn status(entry: &v2::Commit) -> Errno {
    Errno::from_raw_os_error(entry.status.saturating_neg())
}

/// Memory for the list of buffers of one thread, reused for each call.
#[derive(Debug, Default)]
pub struct BufferList {
    entries: Vec<v2::Iovec>,
}

impl BufferList {
    /// Room for `count` buffers; it grows on demand.
    #[must_use]
    pub fn with_capacity(count: usize) -> Self {
        Self { entries: Vec::with_capacity(count) }
    }

    /// Begins a list. Drops all earlier buffers.
    pub fn begin(&mut self) -> Buffers<'_> {
        self.entries.clear();
        Buffers { entries: &mut self.entries, memory: PhantomData }
    }
}

/// Buffers for the data of writes, one write each, and the memory that they borrow. The kernel uses them in their order:
/// a write gets the next one if its data fits, and otherwise comes without its data.
///
/// The contents of buffers that no fetched request names are undefined after the call: the kernel may have copied data of
/// requests that were lost before they could be handed over.
#[derive(Debug)]
pub struct Buffers<'a> {
    entries: &'a mut Vec<v2::Iovec>,
    memory: PhantomData<&'a mut [u8]>,
}

impl<'a> Buffers<'a> {
    /// Appends a buffer. Its number is the number of buffers before it.
    #[inline]
    pub fn push(&mut self, memory: &'a mut [u8]) {
        let (address, length) = (memory.as_mut_ptr().expose_provenance() as u64, memory.len() as u64);
        self.entries.push(v2::Iovec { address, length });
    }

    /// Appends a region as a buffer.
    #[inline]
    pub fn push_region(&mut self, region: Region<'a>) {
        let (address, length) = (region.address().expose_provenance() as u64, region.length() as u64);
        self.entries.push(v2::Iovec { address, length });
    }

    /// Number of buffers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the list is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
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
        let buffers =
            self.buffers.as_mut().map(|Buffers { entries, .. }| Buffers { entries, memory: PhantomData });
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
