// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks a request from the kernel before a backend sees it.
//!
//! Pure. The geometry is that of the created device; only the size may change later.

use super::Fetched;
use crate::BadRequest;
use zosbd2_abi::v2;

/// The limits that requests must fit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    /// Size of the device in bytes.
    pub(super) size: u64,
    /// Logical block size in bytes: a power of two.
    pub(super) block: u64,
    /// Most data of one request, and size of the arena, in bytes.
    pub(super) max_io: u64,
    /// Whether the data of writes comes in buffers, one for each write, instead of an arena.
    pub(super) buffers: bool,
}

/// A checked request. Its range is inside the device and consists of whole blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Read,
    /// The data is at this offset of the arena, or in the buffer of this number.
    Write(usize),
    /// The data is still in the kernel.
    WriteWithoutData,
    Discard,
    Flush,
    WriteZeroes,
    SecureErase,
}

impl Geometry {
    /// Checks `request`.
    #[inline]
    pub(super) fn look(&self, request: &Fetched) -> Result<Wanted, BadRequest> {
        let wanted = match request.op() {
            v2::OP_READ => Wanted::Read,
            v2::OP_WRITE => Wanted::WriteWithoutData,
            v2::OP_FLUSH => return Ok(Wanted::Flush),
            v2::OP_DISCARD => Wanted::Discard,
            v2::OP_WRITE_ZEROES => Wanted::WriteZeroes,
            v2::OP_SECURE_ERASE => Wanted::SecureErase,
            other => return Err(BadRequest::Opcode(other)),
        };
        let (start, length) = (request.offset(), request.length());
        if length == 0 || (start | length) & (self.block - 1) != 0 {
            return Err(BadRequest::NotBlocks { start, length, block: self.block });
        }
        if start > self.size || length > self.size - start {
            return Err(BadRequest::OutOfDevice {
                start,
                end: start.saturating_add(length),
                size: self.size,
            });
        }
        match wanted {
            Wanted::Read | Wanted::WriteWithoutData if length > self.max_io => {
                Err(BadRequest::TooLong { length, max: self.max_io })
            }
            Wanted::WriteWithoutData if request.flags() & v2::REQUEST_DATA != 0 => {
                let (at, arena) = (request.data(), self.max_io);
                if !self.buffers && (at > arena || length > arena - at) {
                    return Err(BadRequest::OutOfArena { at, length, arena });
                }
                // The arena is in memory, so the offset fits a `usize`.
                usize::try_from(at).map(Wanted::Write).map_err(|_| BadRequest::OutOfArena {
                    at,
                    length,
                    arena,
                })
            }
            other => Ok(other),
        }
    }
}

/// Name of the operation in messages.
pub(super) fn operation_name(op: u32) -> &'static str {
    match op {
        v2::OP_READ => "read",
        v2::OP_WRITE => "write",
        v2::OP_DISCARD => "discard",
        v2::OP_FLUSH => "flush",
        v2::OP_WRITE_ZEROES => "write of zeros",
        v2::OP_SECURE_ERASE => "secure erase",
        _ => "request",
    }
}
