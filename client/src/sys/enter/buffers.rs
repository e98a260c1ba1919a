// SPDX-License-Identifier: MIT OR Apache-2.0
//! The buffers that one call of ENTER offers for the data of writes, in a list that is reused for the next call.

use crate::sys::memory::Region;
use std::marker::PhantomData;
use zosbd2_abi::v2;

/// Memory for the list of buffers of one thread, reused for each call.
#[derive(Debug, Default)]
pub struct BufferList {
    pub(super) entries: Vec<v2::Iovec>,
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
    pub(super) entries: &'a mut Vec<v2::Iovec>,
    pub(super) memory: PhantomData<&'a mut [u8]>,
}

impl<'a> Buffers<'a> {
    /// Reborrows this value for another call.
    pub(super) fn again(&mut self) -> Buffers<'_> {
        Buffers { entries: self.entries, memory: PhantomData }
    }

    /// Appends a buffer. Its number is the number of buffers before it.
    #[inline]
    pub fn push(&mut self, memory: &'a mut [u8]) {
        let (address, length) = (memory.as_mut_ptr().expose_provenance() as u64, memory.len() as u64);
        self.entries.push(v2::Iovec { address, length });
    }

    /// Appends a region as a buffer.
    ///
    /// # Panics
    ///
    /// If the region may only be read.
    #[inline]
    pub fn push_region(&mut self, region: Region<'a>) {
        assert!(region.is_writable(), "the region may only be read");
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
