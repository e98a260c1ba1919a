// SPDX-License-Identifier: MIT OR Apache-2.0
//! The call that answers requests, moves their data and fetches more, made safe.
//!
//! The kernel reads and writes memory at addresses that answers carry, as many bytes as the request has. So
//! an answer with memory is made from borrowed memory, which stays borrowed until the call is over
//! ([`Batch`]), and from the [`Request`] itself, which only the kernel can make and which names the server it
//! came from: its length is what the kernel will move. A request that was answered before has a handle that
//! the kernel does not accept again.

use crate::Errno;
use crate::sys::memory::Region;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::ioctl::{Opcode, Updater, ioctl};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, Ordering};
use zosbd2_abi::v2;

/// Tells the servers of this process apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerId(u32);

impl ServerId {
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// A request of the kernel's, as fetched by [`Server::enter`](crate::Server::enter).
///
/// It stays with the server until an answer is accepted, from whichever thread.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub struct Request(v2::Request);

impl Request {
    /// A place for a request.
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

    /// Names it in messages; the bits mean nothing.
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

    /// Where in the arena the data of a write is, with `REQUEST_DATA`.
    #[must_use]
    pub fn data(&self) -> u64 {
        self.0.data
    }

    /// Queue it came from.
    #[must_use]
    pub fn queue(&self) -> u32 {
        self.0.queue
    }

    /// Notes that the data of a write now is at `data` of the arena.
    pub(crate) fn set_data(&mut self, data: u64) {
        self.0.data = data;
        self.0.flags |= v2::REQUEST_DATA;
    }

    /// A request as the kernel would make it.
    #[cfg(test)]
    pub(crate) fn forge(mut raw: v2::Request, server: ServerId) -> Self {
        raw.reserved = server.0;
        Self(raw)
    }
}

/// Memory for the answers of one thread, used again for each call.
#[derive(Debug)]
pub struct Answers {
    entries: Vec<v2::Commit>,
}

impl Answers {
    /// Room for `count` answers; it grows when more are given.
    #[must_use]
    pub fn with_capacity(count: usize) -> Self {
        Self { entries: Vec::with_capacity(count) }
    }

    /// Begins a batch of answers to requests of this server; earlier ones are forgotten.
    pub(crate) fn begin(&mut self, server: ServerId) -> Batch<'_> {
        self.entries.clear();
        Batch { entries: &mut self.entries, processed: 0, server, memory: PhantomData }
    }
}

/// Answers to be given in one call, and the memory they name.
///
/// Requests must be of the server that the batch was made for. Functions that take memory panic when they are
/// not, and when the memory is shorter than the request.
#[derive(Debug)]
pub struct Batch<'a> {
    entries: &'a mut Vec<v2::Commit>,
    processed: usize,
    server: ServerId,
    memory: PhantomData<&'a mut [u8]>,
}

impl<'a> Batch<'a> {
    /// Number of answers, given or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the kernel has looked at all of them.
    #[must_use]
    pub fn is_processed(&self) -> bool {
        self.processed >= self.entries.len()
    }

    /// The request is done; a write whose data came in the arena, or anything without data.
    #[inline]
    pub fn done(&mut self, request: &Request) {
        self.push(request, request.0.length.cast_signed(), 0, 0);
    }

    /// The request fails.
    #[inline]
    pub fn fail(&mut self, request: &Request, error: Errno) {
        self.push(request, i64::from(-error.raw_os_error()), 0, 0);
    }

    /// The read is done; `data` is what it brings.
    #[inline]
    pub fn read(&mut self, request: &Request, data: &'a [u8]) {
        self.check(request, data.len());
        self.push(request, request.0.length.cast_signed(), data.as_ptr().expose_provenance(), 0);
    }

    /// The read is done; what it brings is in `region`.
    #[inline]
    pub fn read_region(&mut self, request: &Request, region: Region<'a>) {
        self.check(request, region.length());
        self.push(request, request.0.length.cast_signed(), region.address().expose_provenance(), 0);
    }

    /// Only `done` bytes of the request are; of a read, they are in `data`. The kernel fails it when that is less than
    /// its length.
    pub(crate) fn short(&mut self, request: &Request, done: u64, data: Option<&'a [u8]>) {
        let address = data.filter(|_| done != 0).map_or(0, |data| {
            self.check(request, data.len());
            data.as_ptr().expose_provenance()
        });
        self.push(request, done.min(request.0.length).cast_signed(), address, 0);
    }

    /// The write is done when its data has been copied to `target`.
    #[inline]
    pub fn write(&mut self, request: &Request, target: &'a mut [u8]) {
        self.check(request, target.len());
        self.push(request, request.0.length.cast_signed(), target.as_mut_ptr().expose_provenance(), 0);
    }

    /// The write is done when its data has been copied to `target`.
    #[inline]
    pub fn write_region(&mut self, request: &Request, target: Region<'a>) {
        self.check(request, target.length());
        self.push(request, request.0.length.cast_signed(), target.address().expose_provenance(), 0);
    }

    /// The data of the write is copied to `target`; the request still wants its answer.
    #[inline]
    pub fn copy(&mut self, request: &Request, target: &'a mut [u8]) {
        self.check(request, target.len());
        let address = target.as_mut_ptr().expose_provenance();
        self.push(request, request.0.length.cast_signed(), address, v2::COMMIT_COPY_ONLY);
    }

    /// The answers that the kernel refused, as (handle, why).
    pub fn refused(&self) -> impl Iterator<Item = (u64, Errno)> {
        let seen = &self.entries[..self.processed.min(self.entries.len())];
        seen.iter().filter(|entry| entry.status != 0).map(|entry| (entry.handle, status(entry)))
    }

    /// Makes of each answer that was refused with anything but `ESTALE` one that fails the request, and
    /// forgets all others. Those that said so already are forgotten too.
    pub(crate) fn fail_refused(&mut self, error: Errno) {
        let result = i64::from(-error.raw_os_error());
        self.entries.retain_mut(|entry| {
            let keep = entry.status != 0 && status(entry) != Errno::STALE && entry.result >= 0;
            *entry = v2::Commit { handle: entry.handle, result, ..v2::Commit::default() };
            keep
        });
        self.processed = 0;
    }

    #[inline]
    fn check(&self, request: &Request, length: usize) {
        assert!(length as u64 >= request.0.length, "the memory is shorter than the request");
        assert!(self.server.0 == request.0.reserved, "the request is another server's");
    }

    #[inline]
    fn push(&mut self, request: &Request, result: i64, address: usize, flags: u32) {
        let (handle, address) = (request.0.handle, address as u64);
        self.entries.push(v2::Commit { handle, result, address, flags, ..v2::Commit::default() });
    }
}

/// The kernel's side, for a double of it.
#[cfg(test)]
impl Batch<'_> {
    /// The next answer that was not looked at.
    pub(crate) fn next(&self) -> Option<v2::Commit> {
        self.entries.get(self.processed).copied()
    }

    /// Marks the next answer as carried out (0) or refused (a negative errno).
    pub(crate) fn process(&mut self, status: i32) {
        self.entries[self.processed].status = status;
        self.processed += 1;
    }

    /// Copies `length` bytes from where the next answer says.
    pub(crate) fn copy_from_server(&self, length: usize) -> Vec<u8> {
        let address = usize::try_from(self.entries[self.processed].address).expect("an address");
        let mut bytes = vec![0; length];
        let source = std::ptr::with_exposed_provenance::<u8>(address);
        // SAFETY: the answer was made from memory that is borrowed as long as the batch; the double names the
        // length of the request, which is not above that of the memory.
        unsafe { std::ptr::copy_nonoverlapping(source, bytes.as_mut_ptr(), length) };
        bytes
    }

    /// Copies `bytes` to where the next answer says; for answers to writes.
    pub(crate) fn copy_to_server(&mut self, bytes: &[u8]) {
        let address = usize::try_from(self.entries[self.processed].address).expect("an address");
        let target = std::ptr::with_exposed_provenance_mut::<u8>(address);
        // SAFETY: as above; for writes the memory was borrowed exclusively or is a region.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
    }
}

fn status(entry: &v2::Commit) -> Errno {
    Errno::from_raw_os_error(entry.status.saturating_neg())
}

/// What is to be fetched, and how long to wait for it.
#[derive(Debug, Default)]
pub struct Fetch<'a> {
    /// Where requests go; empty: nothing is fetched.
    pub requests: &'a mut [Request],
    /// Where the data of writes goes; empty: it does not come with the requests.
    pub arena: &'a mut [u8],
    /// Queue to fetch from.
    pub queue: u32,
    /// Requests to wait for.
    pub minimum: u32,
    /// Time to look for requests before sleeping, in microseconds.
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

    /// The same once more.
    pub(crate) fn again(&mut self) -> Fetch<'_> {
        Fetch { requests: &mut *self.requests, arena: &mut *self.arena, ..*self }
    }
}

/// What a call of [`Server::enter`](crate::Server::enter) did.
#[must_use]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entered {
    /// Answers that were carried out or refused, from the first one on that had been neither.
    pub processed: usize,
    /// Those that were refused: see [`Batch::refused`].
    pub refused: usize,
    /// Requests fetched.
    pub fetched: usize,
    /// Why nothing was fetched: see `Enter` in [`abi`](crate::v2::abi).
    pub error: Option<Errno>,
}

/// A server descriptor.
#[derive(Debug)]
pub(crate) struct ServerFd {
    fd: OwnedFd,
    id: ServerId,
}

impl ServerFd {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd, id: ServerId::next() }
    }

    pub(crate) fn id(&self) -> ServerId {
        self.id
    }

    pub(crate) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Gives the answers of `batch` that were not given yet, and fetches. A batch for another server is
    /// `EINVAL`, and the kernel is not called.
    #[inline]
    pub(crate) fn enter(&self, batch: &mut Batch<'_>, fetch: Fetch<'_>) -> Entered {
        if batch.server != self.id {
            return Entered { error: Some(Errno::INVAL), ..Entered::default() };
        }
        let first = batch.processed.min(batch.entries.len());
        let commits = &mut batch.entries[first..];
        let Fetch { requests, arena, queue, minimum, spin_us, timeout_ms } = fetch;
        let mut argument = v2::Enter {
            size: v2::ENTER_BYTES,
            flags: if timeout_ms.is_some() { v2::ENTER_TIMEOUT } else { 0 },
            commits: commits.as_mut_ptr().expose_provenance() as u64,
            requests: requests.as_mut_ptr().expose_provenance() as u64,
            arena: if arena.is_empty() { 0 } else { arena.as_mut_ptr().expose_provenance() as u64 },
            arena_bytes: arena.len() as u64,
            commit_count: count(commits.len()),
            capacity: count(requests.len()),
            queue,
            minimum,
            spin_us,
            timeout_ms: timeout_ms.unwrap_or(0),
            ..v2::Enter::default()
        };
        // SAFETY: the kernel reads and writes the argument, `commit_count` commits, `capacity` requests (both
        // plain integers) and `arena_bytes` bytes, all borrowed exclusively here. Through the commits it
        // reads and writes memory that the batch has borrowed for longer than this call: `Batch` made sure
        // that each piece is as long as the request of this server that it is for.
        let call = unsafe { Updater::<{ v2::IOCTL_ENTER as Opcode }, v2::Enter>::new(&mut argument) };
        // SAFETY: as above.
        let error = unsafe { ioctl(self.fd.as_fd(), call) }.err();
        batch.processed = first + argument.processed as usize;
        let fetched = requests.len().min(argument.fetched as usize);
        for request in &mut requests[..fetched] {
            request.0.reserved = self.id.0;
        }
        Entered { processed: argument.processed as usize, refused: argument.refused as usize, fetched, error }
    }
}

impl AsFd for ServerFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The kernel refuses more than [`v2::MAX_BATCH`].
fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
