// SPDX-License-Identifier: GPL-2.0-only
//! Interface version 1 in terms of the engine: the checks of a create, which answer fits which request, and
//! the form of a request for a server.

use zosbd2_abi::v1 as abi;

use crate::errno::Errno;
use crate::name::Name;
use crate::request::{Op, Request};

/// Most outstanding requests of a version 1 device. The original had no such limit, because every submitter
/// slept. Further submitters wait in the block layer.
pub const DEPTH: u16 = 256;

/// A checked create.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// Name of the block node.
    pub name: Name,
    /// Size in blocks of [`abi::BLOCK_SIZE`] bytes.
    pub block_count: u64,
    /// Request timeout in milliseconds.
    pub timeout_ms: u32,
    /// Most segments of a request, 1 to [`abi::MAX_SEGMENTS`].
    pub max_segments: u32,
}

impl Params {
    /// Checks a create in the original's order.
    ///
    /// # Errors
    ///
    /// `EINVAL` for the block size and the name, `EEXIST` for the name of the folder of version 2, `ERANGE` for
    /// size, timeout and batch queue.
    pub fn check(create: &abi::Create) -> Result<Self, Errno> {
        if create.block_size != abi::BLOCK_SIZE {
            return Err(Errno::EINVAL);
        }
        if !(abi::MIN_BLOCK_COUNT..=abi::MAX_BLOCK_COUNT).contains(&create.block_count) {
            return Err(Errno::ERANGE);
        }
        if !(abi::MIN_TIMEOUT_S..=abi::MAX_TIMEOUT_S).contains(&create.timeout_s) {
            return Err(Errno::ERANGE);
        }
        if create.batch_queue > abi::MAX_BATCH_QUEUE {
            return Err(Errno::ERANGE);
        }
        let name = Name::from_field(&create.name)?;
        let max_segments = match create.max_segments {
            0 => abi::MAX_SEGMENTS,
            asked => asked.min(abi::MAX_SEGMENTS),
        };
        // In range: at most 1200 * 1000.
        let timeout_ms = create.timeout_s.wrapping_mul(1000);
        Ok(Self { name, block_count: create.block_count, timeout_ms, max_segments })
    }

    /// Most bytes of a read or write request: every segment is one block, so every cut is at a block.
    #[must_use]
    pub const fn max_data_bytes(&self) -> u32 {
        self.max_segments.wrapping_mul(abi::BLOCK_SIZE)
    }

    /// The answer of STATUS for a device of these parameters.
    #[must_use]
    pub const fn status(&self, handle: u32) -> abi::Status {
        abi::Status {
            query: handle,
            reserved: 0,
            size_bytes: self.block_count.wrapping_mul(abi::BLOCK_SIZE as u64),
            block_count: self.block_count,
            block_size: abi::BLOCK_SIZE,
            max_segments: self.max_segments,
            timeout_ms: self.timeout_ms,
            handle,
            name: *self.name.bytes(),
        }
    }
}

/// What a call asks for before it fetches, by its opcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Nothing: the call only fetches.
    Fetch,
    /// Answer a request of this kind.
    Answer(Op),
    /// Queue a shutdown notice.
    Notice,
}

impl Call {
    /// Decodes an opcode from a server.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a number that is not an opcode of servers.
    pub const fn decode(opcode: u32) -> Result<Self, Errno> {
        match opcode {
            abi::OP_FETCH => Ok(Self::Fetch),
            abi::OP_ANSWER_READ => Ok(Self::Answer(Op::Read)),
            abi::OP_ANSWER_WRITE => Ok(Self::Answer(Op::Write)),
            abi::OP_ANSWER_DISCARD => Ok(Self::Answer(Op::Discard)),
            abi::OP_SHUTDOWN_NOTICE => Ok(Self::Notice),
            _ => Err(Errno::EINVAL),
        }
    }
}

/// The head of a request in the form for servers.
#[must_use]
pub fn request_head(request: &Request) -> abi::OperationHead {
    let total = u64::from(request.length);
    let (opcode, data_size) = match request.op {
        Op::Read => (abi::OP_READ, 0),
        Op::Write => (abi::OP_WRITE, total),
        // The block layer sends no other operations to a device of version 1.
        Op::Discard | Op::Flush | Op::WriteZeroes | Op::SecureErase => (abi::OP_DISCARD, total),
    };
    abi::OperationHead {
        opcode,
        data_size,
        total_bytes: total,
        segment_count: segment_count(request),
        ..abi::OperationHead::default()
    }
}

/// Number of segments of a request: one for a discard, one per block otherwise.
#[must_use]
pub const fn segment_count(request: &Request) -> u32 {
    match request.op {
        Op::Discard | Op::Flush | Op::WriteZeroes | Op::SecureErase => 1,
        Op::Read | Op::Write => request.length.div_ceil(abi::BLOCK_SIZE),
    }
}

/// The `index`th segment of a request; empty beyond the last.
#[must_use]
pub fn segment(request: &Request, index: u32) -> abi::Segment {
    let step = match request.op {
        Op::Discard | Op::Flush | Op::WriteZeroes | Op::SecureErase => request.length,
        Op::Read | Op::Write => abi::BLOCK_SIZE,
    };
    let skipped = index.saturating_mul(step);
    let length = request.length.saturating_sub(skipped).min(step);
    if length == 0 {
        return abi::Segment::default();
    }
    abi::Segment { start: request.offset.wrapping_add(u64::from(skipped)), length: u64::from(length) }
}

/// The head of a call that returns no request: goodbye, notice, or nothing.
#[must_use]
pub fn plain_head(opcode: u32, signal_no: u32) -> abi::OperationHead {
    let total_bytes = if opcode == abi::OP_SHUTDOWN_NOTICE { u64::from(abi::SHUTDOWN_ACTION) } else { 0 };
    abi::OperationHead { opcode, signal_no, total_bytes, ..abi::OperationHead::default() }
}
