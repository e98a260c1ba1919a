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
//! The effect of a deadline depends on the device's policy. The drawing shows the policy that fails requests. The
//! other policies take HELD back to QUEUED, as after the death of a server.
//!
//! * FREE: the tag is not in use, or the engine has just told the caller to end its request.
//! * QUEUED: waits for a server, in FIFO order.
//! * HELD: a server holds it, and its handle is valid. When the server dies, it returns to QUEUED, marked as
//!   maybe executed. A server that is declared dead may be in the middle of a copy. The request then returns
//!   when the copy stops, unless the copy completes an answer, which counts.
//! * COPYING: data is moved between the request's pages and a server's memory, so the pages must stay. A copy
//!   does not wait for a page fault in this state: a fault ends the state first, so the state is short. Only
//!   the copying thread takes the request further, except that a deadline or a teardown makes it DOOMED.
//! * DOOMED: a deadline or a teardown failed it while COPYING. The copying thread ends it.
//!
//! Every edge is a method of [`Queue`](crate::queue::Queue); [`EDGES`] lists them for the table test.

/// Stands for "no tag" in the links of the FIFO.
pub(crate) const NO_TAG: u16 = u16::MAX;

/// Bits of a version 1 `op_id` that carry the tag.
pub const OP_ID_TAG_BITS: u32 = 10;

/// Most requests one queue can hold; also bounded by [`OP_ID_TAG_BITS`].
pub const MAX_DEPTH: u16 = 1024;

/// Operations. The numbers are those of `abi::v2` and of the kernel shim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    /// Data from the device to the submitter.
    #[default]
    Read = 0,
    /// Data from the submitter to the device.
    Write = 1,
    /// The contents of the range are no longer needed.
    Discard = 2,
    /// Earlier writes must become durable.
    Flush = 3,
    /// The range must read as zeros.
    WriteZeroes = 4,
    /// The range's contents must not be recoverable.
    SecureErase = 5,
}

impl Op {
    /// Number of operations.
    pub const COUNT: usize = 6;

    /// The operation with this number.
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

    /// Whether it changes the contents of the device.
    #[must_use]
    pub const fn changes(self) -> bool {
        !matches!(self, Self::Read | Self::Flush)
    }
}

/// [`Request::flags`]: the write must be durable when it is answered.
pub const FUA: u8 = 1;
/// [`Request::flags`]: the range of a write-zeroes must stay allocated.
pub const NO_UNMAP: u8 = 2;
/// [`Request::flags`]: an earlier server or thread held the request and may have executed it.
pub const MAYBE_EXECUTED: u8 = 4;

/// A submitter's request. Offsets and lengths are in bytes.
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

/// State of a request; see the drawing above.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// The tag is not in use.
    #[default]
    Free,
    /// Waiting for a server.
    Queued,
    /// A server holds it.
    Held,
    /// Its data is being copied.
    Copying,
    /// It failed while its data was being copied.
    Doomed,
}

/// Every edge of the drawing as (from, to). The table test drives each edge and refuses all others.
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

/// Names one tenure of a request. A handle is valid from the fetch until the answer, the deadline, the
/// teardown or the server's death, and never again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Handle {
    pub(crate) tag: u16,
    pub(crate) generation: u32,
    pub(crate) epoch: u32,
}

impl Handle {
    /// The tag of the request; meaningful for code that got the handle from the engine.
    #[must_use]
    pub const fn tag(self) -> u16 {
        self.tag
    }

    /// Number of the tenure of its tag.
    #[must_use]
    pub const fn generation(self) -> u32 {
        self.generation
    }

    /// Epoch of the server that holds the request.
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    pub(crate) state: State,
    pub(crate) previous: u16,
    pub(crate) next: u16,
    /// Increases with every fetch.
    pub(crate) generation: u32,
    /// Epoch and thread of the last fetch.
    pub(crate) epoch: u32,
    pub(crate) thread: u32,
    pub(crate) request: Request,
    /// Time of the submission, and of the last fetch.
    pub(crate) submitted_ns: u64,
    pub(crate) fetched_ns: u64,
    /// For a fetched flush: the newest era of the cache that it covers.
    pub(crate) covers: u64,
}

impl Slot {
    /// State of the tag's request.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Whether `handle` names the current tenure, if there is one.
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
