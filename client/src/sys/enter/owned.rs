// SPDX-License-Identifier: MIT OR Apache-2.0
//! Answers and buffers for ENTER that own their memory, so that they can be collected over time.
//!
//! [`Batch`] and [`Buffers`] borrow memory, and are made for each call. Here each request writes its entry once. The memory
//! of an entry is a [`Buffer`] that nobody else can reach until it is taken out, and moving a buffer does not move
//! its bytes, so the addresses in the entries stay valid.

use super::{Answers, Batch, BufferList, Buffers, Fetched, ServerId};
use crate::Errno;
use crate::sys::memory::Buffer;
use std::marker::PhantomData;
use zosbd2_abi::v2;

/// Answers that wait for the next call, and the buffers with their data.
#[derive(Debug)]
pub(crate) struct Collected {
    answers: Answers,
    buffers: Vec<Buffer>,
    server: ServerId,
}

impl Collected {
    /// Room for `count` answers to requests of this server.
    pub(crate) fn with_capacity(count: usize, server: ServerId) -> Self {
        Self { answers: Answers::with_capacity(count), buffers: Vec::with_capacity(count), server }
    }

    /// Number of answers.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.answers.entries.len()
    }

    /// Adds an answer of success. A read gets the bytes of the buffer.
    #[inline]
    pub(crate) fn done(&mut self, request: &Fetched, buffer: Option<Buffer>) {
        let mut address = 0;
        if let Some(buffer) = buffer {
            if request.op() == v2::OP_READ {
                self.batch().check(request, buffer.len());
                address = buffer.as_ptr().expose_provenance();
            }
            // With the buffer its bytes stay where they are.
            self.buffers.push(buffer);
        }
        self.batch().push(request, super::bytes(request.length()), address, 0);
    }

    /// Adds an answer of failure.
    #[cold]
    pub(crate) fn failed(&mut self, request: &Fetched, error: Errno, buffer: Option<Buffer>) {
        self.batch().fail(request, error);
        self.buffers.extend(buffer);
    }

    /// The answers so far. More can be appended.
    #[inline]
    pub(crate) fn batch(&mut self) -> Batch<'_> {
        let Answers { entries, writable } = &mut self.answers;
        Batch { entries, writable, processed: 0, server: self.server, memory: PhantomData }
    }

    /// Forgets all answers, which were given, and hands their buffers to `take`.
    #[inline]
    pub(crate) fn clear(&mut self, mut take: impl FnMut(Buffer)) {
        self.answers.entries.clear();
        self.answers.writable.clear();
        while let Some(buffer) = self.buffers.pop() {
            take(buffer);
        }
    }
}

/// Buffers that calls offer for the data of writes. An entry of the list is written when its buffer changes, not for
/// each call.
#[derive(Debug, Default)]
pub(crate) struct Offer {
    list: BufferList,
    /// `None`: the place is empty, which [`close_gaps`](Self::close_gaps) mends.
    buffers: Vec<Option<Buffer>>,
    gaps: bool,
}

impl Offer {
    /// Room for `count` buffers.
    pub(crate) fn with_capacity(count: usize) -> Self {
        Self { list: BufferList::with_capacity(count), buffers: Vec::with_capacity(count), gaps: false }
    }

    /// Number of places.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.buffers.len()
    }

    /// Adds a buffer.
    pub(crate) fn push(&mut self, mut buffer: Buffer) {
        self.list.entries.push(describe(&mut buffer));
        self.buffers.push(Some(buffer));
    }

    /// Removes the last buffer.
    pub(crate) fn pop(&mut self) -> Option<Buffer> {
        self.list.entries.pop();
        self.buffers.pop().flatten()
    }

    /// Takes the buffer of this number, and puts another one in its place.
    #[inline]
    pub(crate) fn replace(&mut self, number: usize, other: Option<Buffer>) -> Option<Buffer> {
        let (place, entry) = (self.buffers.get_mut(number)?, self.list.entries.get_mut(number)?);
        let taken = std::mem::replace(place, other);
        match place {
            Some(buffer) => *entry = describe(buffer),
            None => self.gaps = true,
        }
        taken
    }

    /// Removes empty places. The numbers of buffers change.
    #[inline]
    pub(crate) fn close_gaps(&mut self) {
        if std::mem::take(&mut self.gaps) {
            self.rewrite();
        }
    }

    #[cold]
    fn rewrite(&mut self) {
        self.buffers.retain(Option::is_some);
        self.list.entries.clear();
        self.list.entries.extend(self.buffers.iter_mut().flatten().map(describe));
    }

    /// The list for a call. There must be no gaps.
    #[inline]
    pub(crate) fn buffers(&mut self) -> Buffers<'_> {
        debug_assert!(!self.gaps, "an empty place would be written to");
        Buffers { entries: &mut self.list.entries, memory: PhantomData }
    }
}

#[inline]
fn describe(buffer: &mut Buffer) -> v2::Iovec {
    v2::Iovec { address: buffer.as_mut_ptr().expose_provenance() as u64, length: buffer.len() as u64 }
}
