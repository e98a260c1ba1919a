// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory that one thread passes to the operation call.
//!
//! A buffer belongs to one thread at a time, and the kernel uses it only during the call. This module does
//! not interpret the content, and no accessor reaches outside the buffer. Between two calls only the setters
//! change fields.

use std::mem::offset_of;
use zosbd2_abi::v1::{self, Operation, OperationHead, OperationTail, Segment};

/// Alignment of the data area, so that copies on both sides cross as few pages as possible.
const PAGE: usize = 4096;

const HANDLE: usize = offset_of!(OperationHead, handle);
const OPCODE: usize = offset_of!(OperationHead, opcode);
const DATA_SIZE: usize = offset_of!(OperationHead, data_size);
const SIGNAL: usize = offset_of!(OperationHead, signal_no);
const TOTAL: usize = offset_of!(OperationHead, total_bytes);
const COUNT: usize = offset_of!(OperationHead, segment_count);
const ERROR: usize = offset_of!(Operation, tail) + offset_of!(OperationTail, error);
const OP_ID: usize = offset_of!(Operation, tail) + offset_of!(OperationTail, op_id);

/// 1052728 bytes: head, 256 segments, tail and 1 MiB of data, zeroed at first.
///
/// Getters return the content, whether the kernel or a setter put it there.
pub struct OperationBuffer {
    storage: Box<[u8]>,
    start: usize,
}

impl std::fmt::Debug for OperationBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OperationBuffer")
            .field("handle", &self.handle())
            .field("opcode", &self.opcode())
            .field("op_id", &self.op_id())
            .field("error", &self.error())
            .field("total_bytes", &self.total_bytes())
            .field("segment_count", &self.segment_count())
            .finish_non_exhaustive()
    }
}

impl Default for OperationBuffer {
    fn default() -> Self {
        Self::new()
    }
}

impl OperationBuffer {
    /// A zeroed buffer. The system allocates its pages on first use.
    #[must_use]
    pub fn new() -> Self {
        let storage = vec![0; v1::OPERATION_BYTES + PAGE].into_boxed_slice();
        let data = storage.as_ptr().addr() + v1::OPERATION_DATA_OFFSET;
        let start = data.next_multiple_of(PAGE) - data;
        Self { storage, start }
    }

    /// All bytes, as the kernel sees them.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.storage[self.start..self.start + v1::OPERATION_BYTES]
    }

    /// All bytes, as the kernel sees them.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + v1::OPERATION_BYTES]
    }

    /// The data area.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.bytes()[v1::OPERATION_DATA_OFFSET..]
    }

    /// The data area.
    pub fn data_mut(&mut self) -> &mut [u8] {
        &mut self.bytes_mut()[v1::OPERATION_DATA_OFFSET..]
    }

    /// The used segments, at most 256 whatever the count says, and the data area.
    pub(super) fn split(&mut self) -> (Segments<'_>, &mut [u8]) {
        let count = used_segments(self.segment_count());
        let (head, data) = self.bytes_mut().split_at_mut(v1::OPERATION_DATA_OFFSET);
        let end = v1::OPERATION_SEGMENTS_OFFSET + count * size_of::<Segment>();
        (Segments { bytes: &head[v1::OPERATION_SEGMENTS_OFFSET..end] }, data)
    }

    /// The used segments, at most 256 whatever the count says.
    #[must_use]
    pub fn segments(&self) -> Segments<'_> {
        let end = v1::OPERATION_SEGMENTS_OFFSET + used_segments(self.segment_count()) * size_of::<Segment>();
        Segments { bytes: &self.bytes()[v1::OPERATION_SEGMENTS_OFFSET..end] }
    }

    /// Handle of the device; the kernel returns 0 here.
    #[must_use]
    pub fn handle(&self) -> u32 {
        u32::from_ne_bytes(self.get(HANDLE))
    }

    /// Sets the handle of the device.
    pub fn set_handle(&mut self, handle: u32) {
        self.set(HANDLE, handle.to_ne_bytes());
    }

    /// One of the `OP_` numbers.
    #[must_use]
    pub fn opcode(&self) -> u32 {
        u32::from_ne_bytes(self.get(OPCODE))
    }

    /// Sets the operation code.
    pub fn set_opcode(&mut self, opcode: u32) {
        self.set(OPCODE, opcode.to_ne_bytes());
    }

    /// Number of the request.
    #[must_use]
    pub fn op_id(&self) -> u32 {
        u32::from_ne_bytes(self.get(OP_ID))
    }

    /// Sets the number of the request that is answered.
    pub fn set_op_id(&mut self, op_id: u32) {
        self.set(OP_ID, op_id.to_ne_bytes());
    }

    /// Result of the request; the kernel returns 0 here.
    #[must_use]
    pub fn error(&self) -> i32 {
        i32::from_ne_bytes(self.get(ERROR))
    }

    /// Sets the result: 0, or anything else to fail the request.
    pub fn set_error(&mut self, error: i32) {
        self.set(ERROR, error.to_ne_bytes());
    }

    /// Bytes of the request, or of the data area in writes.
    #[must_use]
    pub fn data_size(&self) -> u64 {
        u64::from_ne_bytes(self.get(DATA_SIZE))
    }

    /// Pending signal, together with `EINTR`; 0 if unknown.
    #[must_use]
    pub fn signal(&self) -> u32 {
        u32::from_ne_bytes(self.get(SIGNAL))
    }

    /// Bytes of the request.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        u64::from_ne_bytes(self.get(TOTAL))
    }

    /// Number of segments, as the kernel states it.
    #[must_use]
    pub fn segment_count(&self) -> u32 {
        u32::from_ne_bytes(self.get(COUNT))
    }

    /// Fills in a request, as the kernel does. For fake kernels.
    #[cfg(test)]
    pub(super) fn set_request(&mut self, op_id: u32, opcode: u32, total: u64, segments: &[Segment]) {
        self.set_handle(0);
        self.set_opcode(opcode);
        self.set_op_id(op_id);
        self.set_error(0);
        self.set(TOTAL, total.to_ne_bytes());
        self.set(COUNT, u32::try_from(segments.len()).unwrap_or(u32::MAX).to_ne_bytes());
        for (index, segment) in segments.iter().take(v1::MAX_SEGMENTS as usize).enumerate() {
            let at = v1::OPERATION_SEGMENTS_OFFSET + index * size_of::<Segment>();
            self.set(at, segment.start.to_ne_bytes());
            self.set(at + 8, segment.length.to_ne_bytes());
        }
    }

    /// Fills in a signal number, as the kernel does. For fake kernels.
    #[cfg(test)]
    pub(super) fn set_signal(&mut self, signal: u32) {
        self.set(SIGNAL, signal.to_ne_bytes());
    }

    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut field = [0; N];
        field.copy_from_slice(&self.bytes()[at..at + N]);
        field
    }

    fn set<const N: usize>(&mut self, at: usize, field: [u8; N]) {
        self.bytes_mut()[at..at + N].copy_from_slice(&field);
    }
}

fn used_segments(count: u32) -> usize {
    count.min(v1::MAX_SEGMENTS) as usize
}

/// The segments of a request, in order.
#[derive(Clone, Copy)]
pub struct Segments<'a> {
    bytes: &'a [u8],
}

impl<'a> Segments<'a> {
    /// Number of segments, at most 256.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() / size_of::<Segment>()
    }

    /// Whether there are no segments.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Each segment.
    pub fn iter(&self) -> impl Iterator<Item = Segment> + use<'a> {
        self.bytes.chunks_exact(size_of::<Segment>()).map(|chunk| {
            let [start, length] = [0, 8].map(|at| {
                let mut field = [0; 8];
                field.copy_from_slice(&chunk[at..at + 8]);
                u64::from_ne_bytes(field)
            });
            Segment { start, length }
        })
    }
}

impl std::fmt::Debug for Segments<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_where_the_interface_puts_them() {
        let mut buffer = OperationBuffer::new();
        assert_eq!(buffer.bytes().len(), 1_052_728);
        assert_eq!(buffer.data().len(), 1 << 20);
        assert_eq!(buffer.data().as_ptr().addr() % 4096, 0);
        buffer.set_handle(0x0101_0101);
        buffer.set_opcode(0x0202_0202);
        buffer.set_error(-5);
        buffer.set_op_id(0x0404_0404);
        let bytes = buffer.bytes();
        assert_eq!(bytes[0..4], [1; 4]);
        assert_eq!(bytes[8..12], [2; 4]);
        assert_eq!(bytes[4144..4148], (-5_i32).to_ne_bytes());
        assert_eq!(bytes[4148..4152], [4; 4]);
        assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), 16);
    }

    #[test]
    fn requests_are_read_back() {
        let mut buffer = OperationBuffer::new();
        let segments = [Segment { start: 4096, length: 3584 }, Segment { start: 7680, length: 512 }];
        buffer.set_request(7, v1::OP_READ, 4096, &segments);
        assert_eq!((buffer.op_id(), buffer.opcode(), buffer.total_bytes()), (7, v1::OP_READ, 4096));
        assert!(buffer.segments().iter().eq(segments));
        assert_eq!(buffer.split().0.len(), 2);
    }

    #[test]
    fn a_lying_segment_count_stays_inside() {
        let mut buffer = OperationBuffer::new();
        buffer.set(COUNT, u32::MAX.to_ne_bytes());
        assert_eq!(buffer.segments().len(), 256);
        assert_eq!(buffer.split().0.iter().count(), 256);
    }
}
