// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks a request from the kernel before other code relies on it.
//!
//! [`Worker`](super::Worker) calls it on each fetched read, write and discard. Pure: it reads the buffer and
//! changes nothing.

use super::OperationBuffer;
use crate::BadRequest;
use zosbd2_abi::v1;

/// A request that fits the device and the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// First byte on the device.
    pub(super) offset: u64,
    /// Length in bytes, at least 1.
    pub(super) length: u64,
}

/// The range of the request in `buffer`, on a device of `size` bytes. Reads and writes (`has_data`) must fit
/// the data area.
pub(super) fn extent(buffer: &OperationBuffer, size: u64, has_data: bool) -> Result<Extent, BadRequest> {
    let count = buffer.segment_count();
    if count == 0 || count > v1::MAX_SEGMENTS {
        return Err(BadRequest::SegmentCount(count));
    }
    let mut range = None;
    for (index, segment) in buffer.segments().iter().enumerate() {
        let v1::Segment { start, length } = segment;
        let (offset, at) = range.unwrap_or((start, start));
        match start.checked_add(length) {
            Some(end) if length > 0 && at == start => range = Some((offset, end)),
            _ => return Err(BadRequest::Segment { index, start, length }),
        }
    }
    let (offset, end) = range.ok_or(BadRequest::SegmentCount(count))?;
    let length = end - offset;
    if length != buffer.total_bytes() {
        return Err(BadRequest::Total { sum: length, total: buffer.total_bytes() });
    }
    if has_data && length > u64::from(v1::MAX_DATA_BYTES) {
        return Err(BadRequest::TooLarge(length));
    }
    if end > size {
        return Err(BadRequest::OutOfDevice { start: offset, end, size });
    }
    Ok(Extent { offset, length })
}

#[cfg(test)]
mod tests {
    use super::*;
    use zosbd2_abi::v1::Segment;

    fn check(total: u64, segments: &[(u64, u64)], has_data: bool) -> Result<Extent, BadRequest> {
        let segments: Vec<_> =
            segments.iter().map(|(start, length)| Segment { start: *start, length: *length }).collect();
        let mut buffer = OperationBuffer::new();
        buffer.set_request(1, v1::OP_READ, total, &segments);
        extent(&buffer, 4 << 20, has_data)
    }

    #[test]
    fn contiguous_segments_become_one_extent() {
        let extent = check(8192, &[(4096, 3584), (7680, 4096), (11776, 512)], true);
        assert_eq!(extent, Ok(Extent { offset: 4096, length: 8192 }));
        assert_eq!(check(4 << 20, &[(0, 4 << 20)], false), Ok(Extent { offset: 0, length: 4 << 20 }));
    }

    #[test]
    fn nonsense_is_named() {
        assert_eq!(check(0, &[], true), Err(BadRequest::SegmentCount(0)));
        assert_eq!(check(1, &[(0, 1); 257], true), Err(BadRequest::SegmentCount(257)));
        let gap = BadRequest::Segment { index: 1, start: 8192, length: 4096 };
        assert_eq!(check(8192, &[(0, 4096), (8192, 4096)], true), Err(gap));
        let empty = BadRequest::Segment { index: 0, start: 0, length: 0 };
        assert_eq!(check(0, &[(0, 0)], true), Err(empty));
        let wraps = BadRequest::Segment { index: 0, start: u64::MAX, length: 2 };
        assert_eq!(check(2, &[(u64::MAX, 2)], true), Err(wraps));
        assert_eq!(check(1, &[(0, 4096)], true), Err(BadRequest::Total { sum: 4096, total: 1 }));
        let big = (1 << 20) + 4096;
        assert_eq!(check(big, &[(0, big)], true), Err(BadRequest::TooLarge(big)));
        let outside = BadRequest::OutOfDevice { start: 4 << 20, end: (4 << 20) + 4096, size: 4 << 20 };
        assert_eq!(check(4096, &[(4 << 20, 4096)], false), Err(outside));
    }
}
