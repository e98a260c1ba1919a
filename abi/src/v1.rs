// SPDX-License-Identifier: MIT OR Apache-2.0
//! Interface version 1: that of the original zosbd2, kept so that its programs run unmodified.
//!
//! All ioctl numbers are raw small integers, not `_IOC` encoded. All integers are in host order. Layouts
//! are those of x86-64 and of every ABI that aligns `u64` to 8 bytes.
//!
//! The `error` fields carry 0 or the *negative* errno that the ioctl also returns.

/// Bytes of a name field. A name uses at most `NAME_BYTES - 1` bytes; the kernel forces the last byte to NUL.
pub const NAME_BYTES: usize = 32;
/// The only logical block size, in bytes.
pub const BLOCK_SIZE: u32 = 4096;
/// Smallest device, in blocks of [`BLOCK_SIZE`] (4 MiB).
pub const MIN_BLOCK_COUNT: u64 = 1024;
/// Largest device, in blocks of [`BLOCK_SIZE`] (12 TiB).
pub const MAX_BLOCK_COUNT: u64 = 3_221_225_472;
/// Shortest request timeout, in seconds.
pub const MIN_TIMEOUT_S: u32 = 1;
/// Longest request timeout, in seconds.
pub const MAX_TIMEOUT_S: u32 = 1200;
/// Most segments of one request; also what `max_segments` 0 or above means.
pub const MAX_SEGMENTS: u32 = 256;
/// Most segments of one request. `max_segments` 0, or a larger value, means this limit.
pub const MAX_BATCH_QUEUE: u32 = 256;
/// Largest accepted `batch_queue`. The field has no effect.
pub const MAX_DATA_BYTES: u32 = 1_048_576;
/// Most bytes of one discard request: the largest multiple of [`BLOCK_SIZE`] that fits 32 bits.
pub const MAX_DISCARD_BYTES: u32 = !(BLOCK_SIZE - 1);
/// Entries of the fixed array in [`List`].
pub const LIST_ENTRIES: usize = 50;

/// Control node: does nothing, returns 0.
pub const IOCTL_PING: u32 = 12;
/// Control node: create a device ([`Create`], in and out).
pub const IOCTL_CREATE: u32 = 21;
/// Control node: destroy by handle ([`DestroyByHandle`], in and out).
pub const IOCTL_DESTROY_BY_HANDLE: u32 = 22;
/// Control node: destroy by name ([`DestroyByName`], in and out).
pub const IOCTL_DESTROY_BY_NAME: u32 = 23;
/// Control node: destroy all devices ([`DestroyAll`], in only).
pub const IOCTL_DESTROY_ALL: u32 = 25;
/// Control node: look up a handle by name ([`HandleByName`], in and out).
pub const IOCTL_HANDLE_BY_NAME: u32 = 26;
/// Control node: list handles ([`List`], out only).
pub const IOCTL_LIST: u32 = 60;
/// Control node: status of one device ([`Status`], in and out).
pub const IOCTL_STATUS: u32 = 61;
/// Block node: does nothing, returns 0.
pub const IOCTL_BLOCK_PING: u32 = 53;
/// Block node: answer a request and fetch the next ([`Operation`], in and out).
pub const IOCTL_OPERATION: u32 = 58;

/// Server to kernel: no answer, just fetch.
pub const OP_FETCH: u32 = 30;
/// Server to kernel: answer to a read, data area filled; then fetch.
pub const OP_ANSWER_READ: u32 = 31;
/// Server to kernel: answer to a write; then fetch.
pub const OP_ANSWER_WRITE: u32 = 37;
/// Server to kernel: answer to a discard; then fetch.
pub const OP_ANSWER_DISCARD: u32 = 38;
/// Server to kernel: number reserved by the original, never implemented (`EINVAL`).
pub const OP_STATUS: u32 = 39;
/// Kernel to server: nothing to do, fetch again (only together with an error).
pub const OP_NOTHING: u32 = 40;
/// Kernel to server: a read request.
pub const OP_READ: u32 = 41;
/// Kernel to server: a write request, data area filled.
pub const OP_WRITE: u32 = 42;
/// Kernel to server: a discard request.
pub const OP_DISCARD: u32 = 43;
/// Both ways: ask for a shutdown notice to be given to one fetcher; that notice.
pub const OP_SHUTDOWN_NOTICE: u32 = 6502;
/// Kernel to server: the device is being destroyed, do not call again.
pub const OP_GONE: u32 = 8086;
/// The payload of [`OP_SHUTDOWN_NOTICE`], kernel to server.
pub const SHUTDOWN_ACTION: u32 = 86;

/// Argument of [`IOCTL_CREATE`]. Callers exist that pass only the first 68 bytes: the kernel reads at
/// most [`CREATE_USED_BYTES`] and writes only `handle` and `error`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Create {
    /// Name of the block node, NUL terminated unless all bytes are used.
    pub name: [u8; NAME_BYTES],
    /// Logical block size in bytes: [`BLOCK_SIZE`].
    pub block_size: u32,
    /// Ignored.
    pub reserved: u32,
    /// Size in blocks, [`MIN_BLOCK_COUNT`] to [`MAX_BLOCK_COUNT`].
    pub block_count: u64,
    /// Request timeout in seconds, [`MIN_TIMEOUT_S`] to [`MAX_TIMEOUT_S`].
    pub timeout_s: u32,
    /// Most segments of one request; 0 or more than [`MAX_SEGMENTS`] means [`MAX_SEGMENTS`].
    pub max_segments: u32,
    /// 0 to [`MAX_BATCH_QUEUE`]; no effect.
    pub batch_queue: u32,
    /// Out: the handle, on success.
    pub handle: u32,
    /// Out: 0 or negative errno.
    pub error: i32,
    /// Tail padding; never read nor written by the kernel.
    pub padding: u32,
}

/// Bytes of [`Create`] that the kernel may read.
pub const CREATE_USED_BYTES: usize = 68;

/// Argument of [`IOCTL_DESTROY_BY_HANDLE`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DestroyByHandle {
    /// Handle of the device.
    pub handle: u32,
    /// Out: 0 or negative errno.
    pub error: i32,
    /// 0: fail with `EBUSY` while the block node is open. Otherwise: destroy the device even if it is open.
    pub force: u32,
}

/// Argument of [`IOCTL_DESTROY_BY_NAME`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DestroyByName {
    /// Name of the device.
    pub name: [u8; NAME_BYTES],
    /// Out: 0 or negative errno.
    pub error: i32,
    /// As in [`DestroyByHandle`].
    pub force: u32,
}

/// Argument of [`IOCTL_DESTROY_ALL`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DestroyAll {
    /// As in [`DestroyByHandle`].
    pub force: u32,
}

/// Argument of [`IOCTL_HANDLE_BY_NAME`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandleByName {
    /// Name of the device.
    pub name: [u8; NAME_BYTES],
    /// Out: the handle.
    pub handle: u32,
    /// Out: 0 or negative errno.
    pub error: i32,
}

/// Argument of [`IOCTL_LIST`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List {
    /// Used entries of `handles`.
    pub count: u32,
    /// Handles in the order of creation; the rest is 0.
    pub handles: [u32; LIST_ENTRIES],
}

/// Argument of [`IOCTL_STATUS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// In: handle of the device.
    pub query: u32,
    /// Padding, 0.
    pub reserved: u32,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Size in blocks.
    pub block_count: u64,
    /// Logical block size in bytes.
    pub block_size: u32,
    /// Effective `max_segments`.
    pub max_segments: u32,
    /// Request timeout in milliseconds.
    pub timeout_ms: u32,
    /// Handle of the device.
    pub handle: u32,
    /// Name of the device.
    pub name: [u8; NAME_BYTES],
}

/// One piece of a request: absolute byte offset on the device and byte length.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// First byte on the device.
    pub start: u64,
    /// Length in bytes.
    pub length: u64,
}

/// The fixed part of [`Operation`] before the segments: what a server writes at most and the kernel fills.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OperationHead {
    /// Handle of the device, set by the server on every call; the kernel returns 0.
    pub handle: u32,
    /// Padding.
    pub reserved0: u32,
    /// One of the `OP_` numbers.
    pub opcode: u32,
    /// Padding.
    pub reserved1: u32,
    /// Bytes in the data area (requests: writes and discards); ignored in answers.
    pub data_size: u64,
    /// With `EINTR`: the pending signal, 0 when not known.
    pub signal_no: u32,
    /// Padding.
    pub reserved2: u32,
    /// Requests: total bytes. [`OP_SHUTDOWN_NOTICE`]: the action in the low 32 bits.
    pub total_bytes: u64,
    /// Requests: used entries of the segment array.
    pub segment_count: u32,
    /// Padding.
    pub reserved3: u32,
}

/// The fixed part of [`Operation`] between the segments and the data area.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OperationTail {
    /// Answers: 0, or anything else to fail the request with `EIO`. The kernel returns 0.
    pub error: i32,
    /// Names the request; an answer repeats it.
    pub op_id: u32,
}

/// Argument of [`IOCTL_OPERATION`] without the data area, which follows at once.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What the call is about.
    pub head: OperationHead,
    /// The pieces of a request, ascending and contiguous; unused entries are 0.
    pub segments: [Segment; MAX_SEGMENTS as usize],
    /// Result and name of the request.
    pub tail: OperationTail,
}

/// Offset of [`Operation::segments`].
pub const OPERATION_SEGMENTS_OFFSET: usize = 48;
/// Offset of [`Operation::tail`].
pub const OPERATION_TAIL_OFFSET: usize = 4144;
/// Offset of the data area.
pub const OPERATION_DATA_OFFSET: usize = 4152;
/// Bytes that a server must supply to [`IOCTL_OPERATION`].
pub const OPERATION_BYTES: usize = OPERATION_DATA_OFFSET + MAX_DATA_BYTES as usize;

const _: () = {
    use core::mem::{align_of, offset_of, size_of};
    assert!(size_of::<Create>() == 72 && align_of::<Create>() == 8);
    assert!(offset_of!(Create, block_size) == 32);
    assert!(offset_of!(Create, block_count) == 40);
    assert!(offset_of!(Create, timeout_s) == 48);
    assert!(offset_of!(Create, max_segments) == 52);
    assert!(offset_of!(Create, batch_queue) == 56);
    assert!(offset_of!(Create, handle) == 60);
    assert!(offset_of!(Create, error) == 64);
    assert!(offset_of!(Create, padding) == CREATE_USED_BYTES);
    assert!(size_of::<DestroyByHandle>() == 12);
    assert!(offset_of!(DestroyByHandle, error) == 4);
    assert!(size_of::<DestroyByName>() == 40);
    assert!(offset_of!(DestroyByName, error) == 32);
    assert!(size_of::<DestroyAll>() == 4);
    assert!(size_of::<HandleByName>() == 40);
    assert!(offset_of!(HandleByName, handle) == 32);
    assert!(offset_of!(HandleByName, error) == 36);
    assert!(size_of::<List>() == 204);
    assert!(size_of::<Status>() == 72 && align_of::<Status>() == 8);
    assert!(offset_of!(Status, size_bytes) == 8);
    assert!(offset_of!(Status, block_count) == 16);
    assert!(offset_of!(Status, block_size) == 24);
    assert!(offset_of!(Status, max_segments) == 28);
    assert!(offset_of!(Status, timeout_ms) == 32);
    assert!(offset_of!(Status, handle) == 36);
    assert!(offset_of!(Status, name) == 40);
    assert!(size_of::<Segment>() == 16);
    assert!(size_of::<OperationHead>() == OPERATION_SEGMENTS_OFFSET);
    assert!(offset_of!(OperationHead, opcode) == 8);
    assert!(offset_of!(OperationHead, data_size) == 16);
    assert!(offset_of!(OperationHead, signal_no) == 24);
    assert!(offset_of!(OperationHead, total_bytes) == 32);
    assert!(offset_of!(OperationHead, segment_count) == 40);
    assert!(offset_of!(Operation, segments) == OPERATION_SEGMENTS_OFFSET);
    assert!(offset_of!(Operation, tail) == OPERATION_TAIL_OFFSET);
    assert!(size_of::<Operation>() == OPERATION_DATA_OFFSET);
    assert!(OPERATION_BYTES == 1_052_728);
};
