// SPDX-License-Identifier: GPL-2.0-only
//! The states of one request, and the handles that name it.
//!
//! ```text
//!         submit              fetch                  answer with nothing to copy
//!   FREE ---------> QUEUED ----------------------> HELD --------------------------> FREE
//!                    |  ^                          | ^ |
//!                    |  |   unfetch, server died   | | | answer with data,
//!                    |  +--------------------------+ | | or pin
//!                    |            copied to a server | |
//!                    |             or copy faulted   | v
//!                    +-------------------------> COPYING --------------------------> FREE
//!                    ^ fetch with data            | |    answered
//!                    +----------------------------+ |
//!                      copy over, server dead       | deadline, teardown
//!                                                   v    copy over
//!                                                DOOMED ---------------------------> FREE
//!
//!   QUEUED, HELD ------------------------------------------------------------------> FREE
//!                  deadline, teardown
//! ```
//!
//! What a deadline does is a matter of the device's policy: drawn is the one that fails requests. The others
//! take HELD back to QUEUED, as when a server died.
//!
//! * FREE: the tag is not in use, or its request has just been ended by whoever got the effect to do so.
//! * QUEUED: waits for a server, in FIFO order.
//! * HELD: a server has it; its handle is valid. When the server dies it goes back to QUEUED, marked as
//!   maybe executed. A server that was declared dead may be in the middle of a copy: then the request goes
//!   back when the copy stops, unless it was the whole of an answer, which counts.
//! * COPYING: data is being moved between the request's pages and a server's memory, so the pages must
//!   stay. Copies never wait for a page fault in this state: a fault ends it first, so it is short. It
//!   belongs to whoever copies: only he, or deadline and teardown by way of DOOMED, takes it further.
//! * DOOMED: failed by deadline or teardown while COPYING; whoever copies ends it.
//!
//! Every edge is a method of [`Queue`](crate::queue::Queue); [`EDGES`] lists them for the table test.

/// Stands for "no tag" in the links of the FIFO.
pub(crate) const NO_TAG: u16 = u16::MAX;

/// Bits of a version 1 `op_id` that carry the tag.
pub const OP_ID_TAG_BITS: u32 = 10;

/// Most requests one queue can hold; also bounded by [`OP_ID_TAG_BITS`].
pub const MAX_DEPTH: u16 = 1024;

/// What a request asks for. The numbers are those of `abi::v2` and of the kernel shim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    /// Data from the device to the submitter.
    #[default]
    Read = 0,
    /// Data from the submitter to the device.
    Write = 1,
    /// The range's contents are not needed any more.
    Discard = 2,
    /// What was written before must become durable.
    Flush = 3,
    /// The range must read as zeros.
    WriteZeroes = 4,
    /// The range's contents must not be recoverable.
    SecureErase = 5,
}

impl Op {
    /// Number of operations.
    pub const COUNT: usize = 6;

    /// The operation of this number.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Read),
            1 => Some(Self::Write),
            2 => Some(Self::Discard),
            3 => Some(Self::Flush),
            4 => Some(Self::WriteZeroes),
            5 => Some(Self::SecureErase),
            _ => None,
        }
    }

    /// Whether it changes what the device has.
    #[must_use]
    pub const fn changes(self) -> bool {
        !matches!(self, Self::Read | Self::Flush)
    }
}

/// [`Request::flags`]: the write must be durable when it is answered.
pub const FUA: u8 = 1;
/// [`Request::flags`]: the range of a write-zeroes must stay allocated.
pub const NO_UNMAP: u8 = 2;
/// [`Request::flags`]: an earlier server had it and may have executed it.
pub const MAYBE_EXECUTED: u8 = 4;

/// What a submitter asked for. Offsets and lengths are in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The operation.
    pub op: Op,
    /// [`FUA`], [`NO_UNMAP`], [`MAYBE_EXECUTED`].
    pub flags: u8,
    /// First byte on the device.
    pub offset: u64,
    /// Length in bytes.
    pub length: u32,
}

/// Where a request is in its life; see the drawing above.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// The tag is not in use.
    #[default]
    Free,
    /// Waits for a server.
    Queued,
    /// A server has it.
    Held,
    /// Its data is being copied.
    Copying,
    /// Failed while its data was being copied.
    Doomed,
}

/// Every edge of the drawing as (from, to). The table test drives each and refuses any other.
pub const EDGES: &[(State, State)] = &[
    (State::Free, State::Queued),
    (State::Queued, State::Held),
    (State::Queued, State::Copying),
    (State::Queued, State::Free),
    (State::Held, State::Copying),
    (State::Held, State::Free),
    (State::Held, State::Queued),
    (State::Copying, State::Held),
    (State::Copying, State::Queued),
    (State::Copying, State::Free),
    (State::Copying, State::Doomed),
    (State::Doomed, State::Free),
];

/// Names one tenure of a request by a server: valid from the fetch until the answer, the deadline, the
/// teardown or the server's death, and never again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Handle {
    pub(crate) tag: u16,
    pub(crate) generation: u32,
    pub(crate) epoch: u32,
}

impl Handle {
    /// The tag of the request; meaningful to whoever got the handle from the engine.
    #[must_use]
    pub const fn tag(self) -> u16 {
        self.tag
    }

    /// Which tenure of its tag it is.
    #[must_use]
    pub const fn generation(self) -> u32 {
        self.generation
    }

    /// The server that has the request.
    #[must_use]
    pub const fn epoch(self) -> u32 {
        self.epoch
    }

    /// The 32-bit form of version 1: the low bits of the generation above the tag.
    #[must_use]
    pub const fn op_id(self) -> u32 {
        self.generation.wrapping_shl(OP_ID_TAG_BITS) | self.tag as u32
    }
}

/// State of one tag. The storage of a queue is an array of these, indexed by tag.
#[derive(Clone, Copy, Debug, Default)]
pub struct Slot {
    pub(crate) state: State,
    pub(crate) previous: u16,
    pub(crate) next: u16,
    /// Goes up at every fetch.
    pub(crate) generation: u32,
    /// The server that fetched it last, and its thread.
    pub(crate) epoch: u32,
    pub(crate) thread: u32,
    pub(crate) request: Request,
    /// When it was submitted, and when it was fetched last.
    pub(crate) submitted_ns: u64,
    pub(crate) fetched_ns: u64,
    /// Of a flush that was fetched: the last era of the cache that it covers.
    pub(crate) covers: u64,
}

impl Slot {
    /// Where the tag's request is in its life.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Whether `handle` names the present tenure, if there is one.
    #[inline]
    pub(crate) const fn is(&self, handle: Handle) -> bool {
        self.generation == handle.generation && self.epoch == handle.epoch
    }

    /// Whether the tenure that `handle` names is HELD.
    #[inline]
    pub(crate) const fn is_held_by(&self, handle: Handle) -> bool {
        matches!(self.state, State::Held) && self.is(handle)
    }
}
