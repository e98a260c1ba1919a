// SPDX-License-Identifier: MIT OR Apache-2.0
//! The errors of this crate: each names the operation and the object.
//!
//! Messages leave out their cause, which is `source()`; print the chain (`{:#}` of `anyhow`) to see both.

use crate::Errno;
use std::path::PathBuf;

/// Why a call on the control node or on a device failed.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A node could not be opened.
    #[error("open {}{hint}", path.display())]
    Open {
        /// The node.
        path: PathBuf,
        /// What the user may do about it, in parentheses, or nothing.
        hint: &'static str,
        /// What the kernel said.
        source: Errno,
    },
    /// A node exists but is not what this library expects there.
    #[error("open {}: {problem}", path.display())]
    WrongNode {
        /// The node.
        path: PathBuf,
        /// What it should be and is not.
        problem: &'static str,
    },
    /// A device name cannot be passed to the kernel.
    #[error("device name {name:?} {problem}")]
    Name {
        /// The name as given.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An option is outside its range; the kernel was not asked.
    #[error("{operation} device {name}: {option} {value} is outside {min}..={max}")]
    Range {
        /// What was asked for.
        operation: &'static str,
        /// Name of the device.
        name: String,
        /// Which option.
        option: &'static str,
        /// Its value.
        value: u64,
        /// Smallest accepted value.
        min: u64,
        /// Largest accepted value.
        max: u64,
    },
    /// An option makes no sense, alone or with another one; the kernel was not asked.
    #[error("{operation} device {name}: {option} {value} {problem}")]
    Option {
        /// What was asked for.
        operation: &'static str,
        /// Name of the device.
        name: String,
        /// Which option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A descriptor that was handed to this process is not what this library expects.
    #[error("take over descriptor: {problem}")]
    WrongDescriptor {
        /// What it should be and is not.
        problem: &'static str,
    },
    /// A call on the control node or on a server descriptor failed.
    #[error("{operation} {object}{hint}")]
    Control {
        /// What was asked for.
        operation: &'static str,
        /// Of which device.
        object: String,
        /// What it means for this operation, in parentheses, or nothing.
        hint: &'static str,
        /// What the kernel said.
        source: Errno,
    },
    /// The call that answers a request and fetches the next one failed.
    #[error("fetch a request of device {device}")]
    Fetch {
        /// Name of the device.
        device: String,
        /// What the kernel said.
        source: Errno,
    },
    /// The kernel sent a request that makes no sense. The request can still be answered.
    #[error("request {op_id} of device {device}")]
    Request {
        /// Name of the device.
        device: String,
        /// The request's number.
        op_id: u64,
        /// What is wrong with it.
        source: BadRequest,
    },
    /// The kernel did not take the answer to a request, which was failed then.
    #[error("answer request {handle:#x} of device {device}")]
    Refused {
        /// Name of the device.
        device: String,
        /// The request's handle.
        handle: u64,
        /// What the kernel said.
        source: Errno,
    },
    /// A backend named a region of another length than it was asked for; the request failed.
    #[error("backend of device {device} named {given} bytes of memory for {length} at {offset}")]
    Region {
        /// Name of the device.
        device: String,
        /// First byte on the device.
        offset: u64,
        /// Bytes asked for.
        length: usize,
        /// Bytes named.
        given: usize,
    },
    /// The backend panicked; the request it was given failed with an I/O error.
    #[error("backend of device {device} panicked in a {operation}")]
    BackendPanicked {
        /// Name of the device.
        device: String,
        /// In which of its functions, or in what kind of request.
        operation: &'static str,
    },
    /// A serving thread has no memory for its buffers.
    #[error("get buffers for a serving thread of device {device}")]
    Buffers {
        /// Name of the device.
        device: String,
        /// Why.
        source: MemoryError,
    },
    /// The CPUs of a serving thread could not be set; it serves on any.
    #[error("bind a serving thread of device {device} to its CPUs")]
    Cpus {
        /// Name of the device.
        device: String,
        /// What the kernel said.
        source: Errno,
    },
    /// The memory of the process could not be locked.
    #[error("lock the memory of the process{hint}")]
    LockMemory {
        /// What the user may do about it, in parentheses, or nothing.
        hint: &'static str,
        /// What the kernel said.
        source: Errno,
    },
    /// SIGINT and SIGTERM could not be caught.
    #[error("catch signals")]
    Signals {
        /// What the system said.
        source: std::io::Error,
    },
    /// A worker thread could not be started.
    #[error("start a worker thread for device {device}")]
    Spawn {
        /// Name of the device.
        device: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What is wrong with a request from the kernel.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// The operation code is none that the interface names.
    #[error("operation code {0} is unknown")]
    Opcode(u32),
    /// The number of segments is 0 or above the limit.
    #[error("segment count {0} is outside 1..=256")]
    SegmentCount(u32),
    /// A segment is empty or does not begin where the one before ended.
    #[error("segment {index} ({start}+{length}) is empty, wraps or does not follow the one before")]
    Segment {
        /// Its position in the array.
        index: usize,
        /// Its first byte.
        start: u64,
        /// Its length.
        length: u64,
    },
    /// The segments do not add up to the stated total.
    #[error("segments sum up to {sum} bytes, not to {total}")]
    Total {
        /// Sum of the lengths.
        sum: u64,
        /// What the request states.
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
    /// A read or write is longer than the device was created for.
    #[error("{length} bytes are more than the {max} of the longest request")]
    TooLong {
        /// Length.
        length: u64,
        /// Longest length.
        max: u64,
    },
    /// The data of a write is said to be outside the arena.
    #[error("{length} bytes of data at {at} are not in the arena of {arena} bytes")]
    OutOfArena {
        /// Where it is said to begin.
        at: u64,
        /// Length.
        length: u64,
        /// Size of the arena.
        arena: u64,
    },
    /// The request ends behind the end of the device.
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

/// Why an operation on a [`SparseMemory`](crate::SparseMemory) failed.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The size is 0 or more than the address space can hold.
    #[error("a memory of {0} bytes cannot exist")]
    Size(u64),
    /// The kernel refused the mapping.
    #[error("map {bytes} bytes of memory")]
    Map {
        /// Size of the mapping.
        bytes: u64,
        /// What the kernel said.
        source: Errno,
    },
    /// The file whose memory it was to be cannot be used.
    #[error("{operation} the file of a memory of {bytes} bytes")]
    File {
        /// What was tried.
        operation: &'static str,
        /// Size of the memory.
        bytes: u64,
        /// What the kernel said.
        source: Errno,
    },
    /// The range is not inside the memory.
    #[error("{operation} of {length} bytes at {offset} is not inside the memory of {size} bytes")]
    Bounds {
        /// `read`, `write`, `discard` and so on.
        operation: &'static str,
        /// First byte of the range.
        offset: u64,
        /// Length of the range.
        length: u64,
        /// Size of the memory.
        size: u64,
    },
}
