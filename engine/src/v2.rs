// SPDX-License-Identifier: GPL-2.0-only
//! Interface version 2 in terms of the engine: what a create may ask for, what an answer leads to, and how a
//! request is named and shown to a server.

use zosbd2_abi::v2 as abi;

use crate::device::Policy;
use crate::errno::Errno;
use crate::failure;
use crate::name::Name;
use crate::queue::Outstanding;
use crate::request::{FUA, Handle, MAYBE_EXECUTED, NO_UNMAP, Op, Request, State};

// Flags are passed on as they are.
const _: () = {
    assert!(abi::REQUEST_FUA == FUA as u32);
    assert!(abi::REQUEST_NO_UNMAP == NO_UNMAP as u32);
    assert!(abi::REQUEST_MAYBE_EXECUTED == MAYBE_EXECUTED as u32);
    assert!(abi::OP_READ == Op::Read as u32 && abi::OP_WRITE == Op::Write as u32);
    assert!(abi::OP_DISCARD == Op::Discard as u32 && abi::OP_FLUSH == Op::Flush as u32);
    assert!(abi::OP_WRITE_ZEROES == Op::WriteZeroes as u32);
    assert!(abi::OP_SECURE_ERASE == Op::SecureErase as u32);
    assert!(abi::OPERATIONS == Op::COUNT);
};

/// What the machine sets limits by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Number of CPUs.
    pub cpus: u32,
    /// Bytes of a page.
    pub page_bytes: u32,
}

/// Bits of a tag in a queue of this depth.
#[must_use]
pub const fn tag_bits(depth: u32) -> u32 {
    match depth.checked_next_power_of_two() {
        Some(power) => power.trailing_zeros(),
        None => 32,
    }
}

const fn or(value: u32, default: u32) -> u32 {
    if value == 0 { default } else { value }
}

const fn within(value: u32, least: u32, most: u32) -> Result<(), Errno> {
    if least <= value && value <= most { Ok(()) } else { Err(Errno::ERANGE) }
}

const fn holds(condition: bool) -> Result<(), Errno> {
    if condition { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Whether the size of a device can be had.
///
/// # Errors
///
/// `ERANGE` when it is none or too large, `EINVAL` when it is not a multiple of the logical block.
pub fn check_size(size_bytes: u64, logical_block_size: u32) -> Result<(), Errno> {
    if size_bytes == 0 || size_bytes > abi::MAX_SIZE_BYTES {
        return Err(Errno::ERANGE);
    }
    holds(size_bytes.is_multiple_of(logical_block_size.into()))
}

fn check_serial(serial: &[u8; abi::SERIAL_BYTES]) -> Result<(), Errno> {
    let length = serial.iter().take_while(|byte| (0x20..0x7f).contains(*byte)).count();
    holds(length < abi::SERIAL_BYTES && serial.iter().skip(length).all(|byte| *byte == 0))
}

/// What this `deadline_policy` means.
#[must_use]
pub const fn deadline_policy(number: u32) -> Option<Policy> {
    match number {
        abi::DEADLINE_FAIL => Some(Policy::Fail),
        abi::DEADLINE_REQUEUE => Some(Policy::Requeue),
        abi::DEADLINE_DECLARE_DEAD => Some(Policy::DeclareDead),
        _ => None,
    }
}

/// Checks a create and fills in what 0 stands for. The device's number is not touched.
///
/// # Errors
///
/// `ERANGE` for a number outside its range, `EINVAL` for one of the wrong form, for flags and for names.
pub fn check_create(create: &abi::Create, machine: Machine) -> Result<(Name, abi::Create), Errno> {
    let mut full = *create;
    holds(create.flags & !abi::CREATE_FLAGS == 0)?;
    let (fua, cache) = (create.flags & abi::CREATE_FUA, create.flags & abi::CREATE_VOLATILE_CACHE);
    holds(fua == 0 || cache != 0)?;
    let name = Name::from_v2_field(&create.name)?;
    check_serial(&create.serial)?;

    full.logical_block_size = or(create.logical_block_size, abi::MIN_BLOCK_SIZE);
    let logical = full.logical_block_size;
    within(logical, abi::MIN_BLOCK_SIZE, machine.page_bytes)?;
    holds(logical.is_power_of_two())?;
    full.physical_block_size = or(create.physical_block_size, logical);
    within(full.physical_block_size, logical, abi::MAX_PHYSICAL_BLOCK_SIZE)?;
    holds(full.physical_block_size.is_power_of_two())?;
    full.io_min = or(create.io_min, full.physical_block_size);
    within(full.io_min, full.physical_block_size, abi::MAX_PHYSICAL_BLOCK_SIZE)?;
    holds(full.io_min.is_multiple_of(full.physical_block_size))?;
    within(full.io_opt, 0, abi::MAX_PHYSICAL_BLOCK_SIZE)?;
    holds(full.io_opt.is_multiple_of(full.io_min))?;
    full.max_io_bytes = or(create.max_io_bytes, abi::DEFAULT_IO_BYTES);
    within(full.max_io_bytes, machine.page_bytes, abi::MAX_IO_BYTES)?;
    holds(full.max_io_bytes.is_multiple_of(logical))?;

    full.queues = or(create.queues, 1);
    within(full.queues, 1, machine.cpus)?;
    full.depth = or(create.depth, abi::DEFAULT_DEPTH);
    within(full.depth, 1, abi::MAX_DEPTH)?;
    let tags = full.queues.checked_shl(tag_bits(full.depth)).ok_or(Errno::EOVERFLOW)?;
    // `depth` is at most 2^10, so nothing was shifted out of a number of CPUs that is below 2^22.
    holds(full.queues < 1 << 16 && tags <= abi::MAX_TAGS).map_err(|_| Errno::EOVERFLOW)?;

    full.discard_granularity = or(create.discard_granularity, full.physical_block_size);
    within(full.discard_granularity, logical, abi::MAX_PHYSICAL_BLOCK_SIZE)?;
    holds(full.discard_granularity.is_power_of_two())?;
    for most in [full.max_discard_bytes, full.max_write_zeroes_bytes, full.max_secure_erase_bytes] {
        holds(most.is_multiple_of(logical))?;
    }
    // The block layer rounds the limit down to what can be discarded, and takes 0 for no limit.
    let least = full.discard_granularity.max(full.physical_block_size);
    holds(full.max_discard_bytes == 0 || full.max_discard_bytes >= least)?;
    within(full.deadline_ms, 0, abi::MAX_MILLISECONDS)?;
    within(full.grace_ms, 0, abi::MAX_MILLISECONDS)?;
    holds(create.reserved == 0 && deadline_policy(create.deadline_policy).is_some())?;
    check_size(full.size_bytes, logical)?;
    Ok((name, full))
}

/// The handles that a server gets of one queue, as numbers: the low bits of its epoch, the generation, then queue and
/// tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handles {
    /// What all of them have in common.
    common: u64,
    /// Where they have it.
    mask: u64,
    queue: u32,
    epoch: u32,
}

impl Handles {
    /// Those of a queue for the server of `epoch`. `tag_bits` is that of the device's depth.
    #[inline]
    #[must_use]
    pub const fn new(epoch: u32, queue: u32, tag_bits: u32) -> Self {
        let tags = 1_u32.wrapping_shl(tag_bits).wrapping_sub(1) & 0xffff;
        let index = queue.wrapping_shl(tag_bits) & 0xffff;
        let mask = 0xffff << 48 | (0xffff ^ tags) as u64;
        Self { common: (epoch as u64) << 48 | index as u64, mask, queue, epoch }
    }

    /// The number of one of them.
    #[inline]
    #[must_use]
    pub const fn encode(&self, handle: Handle) -> u64 {
        self.common | (handle.generation as u64) << 16 | handle.tag as u64
    }

    /// The handle that a number from the server names, if it may be one of these.
    #[inline]
    #[must_use]
    pub const fn decode(&self, raw: u64) -> Option<Handle> {
        if raw & self.mask != self.common {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "splits a word into its parts")]
        let (tag, generation) = ((raw & !self.mask) as u16, (raw >> 16) as u32);
        Some(Handle { tag, generation, epoch: self.epoch })
    }
}

/// The queue and the handle that a number from the server of `epoch` names, if it may be one of its.
#[inline]
#[must_use]
pub const fn decode_handle(raw: u64, epoch: u32, tag_bits: u32) -> Option<(u32, Handle)> {
    let queue = ((raw & 0xffff) as u32).wrapping_shr(tag_bits);
    match Handles::new(epoch, queue, tag_bits).decode(raw) {
        Some(handle) => Some((queue, handle)),
        None => None,
    }
}

/// What is in a number that names no request of the server that gave it, for those who trace.
#[must_use]
pub const fn foreign_handle(raw: u64) -> Handle {
    #[expect(clippy::cast_possible_truncation, reason = "splits a word into its parts")]
    let (tag, generation, epoch) = (raw as u16, (raw >> 16) as u32, (raw >> 48) as u16);
    Handle { tag, generation, epoch: epoch as u32 }
}

/// A request as a server sees it. `data`: where in the arena the data of a write is, if it is there.
#[inline]
#[must_use]
pub fn describe(handles: &Handles, handle: Handle, request: &Request, data: Option<u64>) -> abi::Request {
    abi::Request {
        handle: handles.encode(handle),
        offset: request.offset,
        length: request.length.into(),
        data: data.unwrap_or(0),
        op: request.op as u32,
        flags: u32::from(request.flags) | if data.is_some() { abi::REQUEST_DATA } else { 0 },
        queue: handles.queue,
        reserved: 0,
    }
}

/// A request that is not answered, as a report has it.
#[must_use]
pub const fn report(request: &Outstanding, now_ns: u64) -> abi::Outstanding {
    let state = match request.state {
        // One that is FREE is not outstanding.
        State::Free | State::Queued => abi::OUTSTANDING_QUEUED,
        State::Held => abi::OUTSTANDING_HELD,
        State::Copying => abi::OUTSTANDING_COPYING,
        State::Doomed => abi::OUTSTANDING_DOOMED,
    };
    let taken = state != abi::OUTSTANDING_QUEUED;
    abi::Outstanding {
        offset: request.request.offset,
        length: request.request.length as u64,
        age_ns: now_ns.saturating_sub(request.submitted_ns),
        held_ns: if taken { now_ns.saturating_sub(request.fetched_ns) } else { 0 },
        op: request.request.op as u32,
        flags: request.request.flags as u32,
        state,
        tag: request.tag as u32,
        epoch: if taken { request.epoch } else { 0 },
        thread: if taken { request.thread } else { 0 },
    }
}

/// What an answer leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// The request ends with this.
    Finish(Result<(), Errno>),
    /// Data is copied; then the request ends well, unless it is kept.
    Copy(Move),
}

/// A copy of data from the start of a request on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// How many bytes.
    pub bytes: u32,
    /// From where to where.
    pub way: Way,
}

/// From where to where data is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the server to the request.
    In,
    /// From the server to the request, whose rest is then zeroed.
    InAndZero,
    /// From the request to the server.
    Out,
    /// From the request to the server, who keeps the request.
    OutAndKeep,
}

impl Move {
    /// Whether the server's memory is written to.
    #[inline]
    #[must_use]
    pub const fn to_server(self) -> bool {
        matches!(self.way, Way::Out | Way::OutAndKeep)
    }

    const fn plan(bytes: u32, way: Way) -> Plan {
        Plan::Copy(Self { bytes, way })
    }
}

/// Checks what can be said of an answer before its request is known.
///
/// # Errors
///
/// `EINVAL`.
#[inline]
pub const fn check_commit(commit: &abi::Commit) -> Result<(), Errno> {
    let pieces = if commit.flags & abi::COMMIT_IOVEC == 0 {
        commit.iovec_count == 0
    } else {
        commit.address != 0 && commit.iovec_count >= 1 && commit.iovec_count <= abi::MAX_IOVECS
    };
    let unused = commit.reserved | commit.status.cast_unsigned();
    holds(commit.flags & !abi::COMMIT_FLAGS | unused == 0 && pieces)
}

/// What the answer `commit`, which [`check_commit`] found right, does to `request`.
///
/// # Errors
///
/// `EINVAL` when it makes no sense for this request, which stays as it is.
#[inline]
pub fn plan(request: &Request, commit: &abi::Commit) -> Result<Plan, Errno> {
    let has_address = commit.address != 0;
    // The usual answer.
    if commit.flags == 0 && has_address && commit.result == i64::from(request.length) {
        match request.op {
            Op::Read => return Ok(Move::plan(request.length, Way::In)),
            Op::Write => return Ok(Move::plan(request.length, Way::Out)),
            _ => return Err(Errno::EINVAL),
        }
    }
    let zero_fill = commit.flags & abi::COMMIT_ZERO_FILL != 0;
    if commit.flags & abi::COMMIT_COPY_ONLY != 0 {
        let room = commit.result >= i64::from(request.length);
        holds(request.op == Op::Write && has_address && !zero_fill && room)?;
        return Ok(Move::plan(request.length, Way::OutAndKeep));
    }
    holds(!zero_fill || request.op == Op::Read)?;
    let Ok(done) = u64::try_from(commit.result) else {
        let errno = Errno::from_result(commit.result).ok_or(Errno::EINVAL)?;
        return Ok(Plan::Finish(Err(failure::told(request, errno))));
    };
    let done = u32::try_from(done).ok().filter(|done| *done <= request.length).ok_or(Errno::EINVAL)?;
    let short = done < request.length;
    match request.op {
        Op::Read => {
            holds(has_address || done == 0)?;
            if short && !zero_fill {
                return Ok(Plan::Finish(Err(Errno::EIO)));
            }
            Ok(Move::plan(done, if short { Way::InAndZero } else { Way::In }))
        }
        Op::Write if short => Ok(Plan::Finish(Err(Errno::EIO))),
        Op::Write => Ok(if has_address { Move::plan(done, Way::Out) } else { Plan::Finish(Ok(())) }),
        Op::Discard | Op::Flush | Op::WriteZeroes | Op::SecureErase => {
            holds(!has_address)?;
            Ok(Plan::Finish(if short { Err(Errno::EIO) } else { Ok(()) }))
        }
    }
}

/// Checks what an enter asks for, besides its memory.
///
/// # Errors
///
/// `EINVAL`.
#[inline]
pub const fn check_enter(enter: &abi::Enter) -> Result<(), Errno> {
    holds(
        enter.flags & !abi::ENTER_FLAGS == 0
            && enter.reserved == 0
            && enter.commit_count <= abi::MAX_BATCH
            && enter.capacity <= abi::MAX_BATCH
            && enter.minimum <= enter.capacity
            && enter.spin_us <= abi::MAX_SPIN_US
            && (enter.flags & abi::ENTER_TIMEOUT != 0 || enter.timeout_ms == 0)
            && (enter.arena != 0 || enter.arena_bytes == 0),
    )
}
