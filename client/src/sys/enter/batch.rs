// SPDX-License-Identifier: MIT OR Apache-2.0
//! The answers of one call of ENTER, in memory that is reused for the next call.
//!
//! An answer names memory only through a function that borrows it until the call is over, and that compares its
//! length with that of the request.

use super::{Fetched, ServerId, bytes, status};
use crate::Errno;
use crate::sys::memory::Region;
use std::marker::PhantomData;
use zosbd2_abi::v2;

/// Memory for the answers of one thread, reused for each call.
#[derive(Debug)]
pub struct Answers {
    pub(super) entries: Vec<v2::Commit>,
    /// Numbers of the entries whose memory may be written to. Only kept for batches that do not go to the kernel.
    pub(super) writable: Vec<usize>,
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
/// belongs to another server, or if the memory is shorter than the request, or if the data of a write would go to memory
/// that may only be read.
#[derive(Debug)]
pub struct Batch<'a> {
    pub(super) entries: &'a mut Vec<v2::Commit>,
    pub(super) writable: &'a mut Vec<usize>,
    pub(super) processed: usize,
    pub(super) server: ServerId,
    pub(super) memory: PhantomData<&'a mut [u8]>,
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
    ///
    /// # Panics
    ///
    /// If `target` may only be read, besides the reasons above.
    #[inline]
    pub fn write_region(&mut self, request: &Fetched, target: Region<'a>) {
        self.check(request, target.length());
        assert!(target.is_writable(), "the region may only be read");
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
    pub(super) fn check(&self, request: &Fetched, length: usize) {
        assert!(length as u64 >= request.0.length, "the memory is shorter than the request");
        assert!(self.server.0 == request.0.reserved, "the request belongs to another server");
    }

    /// Records that the memory of the next entry may be written to. The kernel knows that by itself.
    #[inline]
    pub(super) fn note_writable(&mut self) {
        if self.server.is_own() {
            self.writable.push(self.entries.len());
        }
    }

    #[inline]
    pub(super) fn push(&mut self, request: &Fetched, result: i64, address: usize, flags: u32) {
        let (handle, address) = (request.0.handle, address as u64);
        self.entries.push(v2::Commit { handle, result, address, flags, ..v2::Commit::default() });
    }
}
