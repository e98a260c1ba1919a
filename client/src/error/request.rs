// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can be wrong with a request from the kernel.

/// What is wrong with a request from the kernel.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// The interface does not define this operation code.
    #[error("operation code {0} is unknown")]
    Opcode(u32),
    /// The number of segments is 0 or above the limit.
    #[error("segment count {0} is outside 1..=256")]
    SegmentCount(u32),
    /// A segment is empty, or does not begin where the segment before it ends.
    #[error("segment {index} ({start}+{length}) is empty, wraps or does not follow the segment before it")]
    Segment {
        /// Its position in the array.
        index: usize,
        /// Its first byte.
        start: u64,
        /// Its length.
        length: u64,
    },
    /// The sum of the segments' lengths is not the stated total.
    #[error("segments sum up to {sum} bytes, not to {total}")]
    Total {
        /// Sum of the lengths.
        sum: u64,
        /// The stated total.
        total: u64,
    },
    /// A read or write is larger than the data area.
    #[error("{0} bytes do not fit the data area of 1048576")]
    TooLarge(u64),
    /// The range of a request is empty or not made of whole logical blocks.
    #[error("{length} bytes at {start} are not whole blocks of {block}")]
    NotBlocks {
        /// First byte.
        start: u64,
        /// Length.
        length: u64,
        /// The logical block size.
        block: u64,
    },
    /// A read or write is longer than the device allows.
    #[error("{length} bytes exceed the longest request of {max} bytes")]
    TooLong {
        /// Length.
        length: u64,
        /// Longest length.
        max: u64,
    },
    /// The data of a write is not inside the arena.
    #[error("{length} bytes of data at {at} are not in the arena of {arena} bytes")]
    OutOfArena {
        /// Offset of the data in the arena.
        at: u64,
        /// Length.
        length: u64,
        /// Size of the arena.
        arena: u64,
    },
    /// The request ends beyond the end of the device.
    #[error("bytes {start}..{end} are not on the device of {size} bytes")]
    OutOfDevice {
        /// First byte.
        start: u64,
        /// First byte after the request.
        end: u64,
        /// Size of the device.
        size: u64,
    },
}
