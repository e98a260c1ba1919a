// SPDX-License-Identifier: GPL-2.0-only
//! Interface version 2 in terms of the engine: the checks of a create, the effects of an answer, and the form
//! of handles and requests for a server.

use zosbd2_abi::v2 as abi;

use crate::device::Policy;
use crate::errno::Errno;
use crate::failure;
use crate::name::Name;
use crate::queue::Outstanding;
use crate::request::{FUA, Handle, MAYBE_EXECUTED, NO_UNMAP, Op, Request, State};

// Flags are passed on unchanged.
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

/// Properties of the machine that limit a device.
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

/// Whether `bytes` is a multiple of `block`, which is a power of two.
const fn in_blocks(bytes: u64, block: u32) -> bool {
    bytes & (block as u64).wrapping_sub(1) == 0
}

/// Checks the size of a device.
///
/// # Errors
///
/// `ERANGE` if it is 0 or too large, `EINVAL` if it is not a multiple of the logical block.
pub fn check_size(size_bytes: u64, logical_block_size: u32) -> Result<(), Errno> {
    if size_bytes == 0 || size_bytes > abi::MAX_SIZE_BYTES {
        return Err(Errno::ERANGE);
    }
    holds(in_blocks(size_bytes, logical_block_size))
}

fn check_serial(serial: &[u8; abi::SERIAL_BYTES]) -> Result<(), Errno> {
    let length = serial.iter().take_while(|byte| (0x20..0x7f).contains(*byte)).count();
    holds(length < abi::SERIAL_BYTES && serial.iter().skip(length).all(|byte| *byte == 0))
}

/// Decodes a `deadline_policy`.
#[must_use]
pub const fn deadline_policy(number: u32) -> Option<Policy> {
    match number {
        abi::DEADLINE_FAIL => Some(Policy::Fail),
        abi::DEADLINE_REQUEUE => Some(Policy::Requeue),
        abi::DEADLINE_DECLARE_DEAD => Some(Policy::DeclareDead),
        _ => None,
    }
}

/// Checks new settings.
///
/// # Errors
///
/// `EINVAL` for an unknown flag or policy and for a field that is set without its flag, `ERANGE` for a time that is too
/// long.
pub fn check_settings(asked: &abi::Settings) -> Result<(), Errno> {
    holds(asked.flags & !abi::SETTINGS_FLAGS == 0 && asked.reserved == 0)?;
    let unused = |flag, value| holds(asked.flags & flag != 0 || value == 0);
    unused(abi::SETTINGS_GRACE, asked.grace_ms)?;
    unused(abi::SETTINGS_DEADLINE, asked.deadline_ms)?;
    unused(abi::SETTINGS_POLICY, asked.deadline_policy)?;
    within(asked.deadline_ms, 0, abi::MAX_MILLISECONDS)?;
    within(asked.grace_ms, 0, abi::MAX_MILLISECONDS)?;
    holds(deadline_policy(asked.deadline_policy).is_some())
}

/// Checks a create and replaces 0 by the defaults. Does not touch the device's handle.
///
/// # Errors
///
/// `ERANGE` for a number outside its range, `EINVAL` for an invalid form, invalid flags or an invalid name.
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
    holds(in_blocks(full.io_min.into(), full.physical_block_size))?;
    within(full.io_opt, 0, abi::MAX_PHYSICAL_BLOCK_SIZE)?;
    // `io_min` may be any multiple of the physical block.
    holds(full.io_opt.checked_rem(full.io_min) == Some(0))?;
    full.max_io_bytes = or(create.max_io_bytes, abi::DEFAULT_IO_BYTES);
    within(full.max_io_bytes, machine.page_bytes, abi::MAX_IO_BYTES)?;
    holds(in_blocks(full.max_io_bytes.into(), logical))?;

    full.queues = or(create.queues, 1);
    within(full.queues, 1, machine.cpus)?;
    full.depth = or(create.depth, abi::DEFAULT_DEPTH);
    within(full.depth, 1, abi::MAX_DEPTH)?;
    let tags = full.queues.checked_shl(tag_bits(full.depth)).ok_or(Errno::EOVERFLOW)?;
    // `depth` is at most 2^10, so the shift lost no bits for a number of CPUs below 2^22.
    holds(full.queues < 1 << 16 && tags <= abi::MAX_TAGS).map_err(|_| Errno::EOVERFLOW)?;

    full.discard_granularity = or(create.discard_granularity, full.physical_block_size);
    within(full.discard_granularity, logical, abi::MAX_PHYSICAL_BLOCK_SIZE)?;
    holds(full.discard_granularity.is_power_of_two())?;
    for most in [full.max_discard_bytes, full.max_write_zeroes_bytes, full.max_secure_erase_bytes] {
        holds(in_blocks(most.into(), logical))?;
    }
    // The block layer rounds the limit down to a multiple of the discard granularity, and takes 0 for no
    // limit.
    let least = full.discard_granularity.max(full.physical_block_size);
    holds(full.max_discard_bytes == 0 || full.max_discard_bytes >= least)?;
    within(full.deadline_ms, 0, abi::MAX_MILLISECONDS)?;
    within(full.grace_ms, 0, abi::MAX_MILLISECONDS)?;
    holds(create.reserved == 0 && deadline_policy(create.deadline_policy).is_some())?;
    check_size(full.size_bytes, logical)?;
    Ok((name, full))
}

/// The handles of one queue for one server, as numbers: the low bits of the epoch, the generation, then queue
/// and tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handles {
    /// The bits that all of these handles have in common.
    common: u64,
    /// The position of these bits.
    mask: u64,
    queue: u32,
    epoch: u32,
}

impl Handles {
    /// The handles of a queue for the server of `epoch`. `tag_bits` depends on the device's depth.
    #[inline]
    #[must_use]
    pub const fn new(epoch: u32, queue: u32, tag_bits: u32) -> Self {
        let tags = 1_u32.wrapping_shl(tag_bits).wrapping_sub(1) & 0xffff;
        let index = queue.wrapping_shl(tag_bits) & 0xffff;
        let mask = 0xffff << 48 | (0xffff ^ tags) as u64;
        Self { common: (epoch as u64) << 48 | index as u64, mask, queue, epoch }
    }

    /// The number of a handle.
    #[inline]
    #[must_use]
    pub const fn encode(&self, handle: Handle) -> u64 {
        self.common | (handle.generation as u64) << 16 | handle.tag as u64
    }

    /// The handle for a number from the server, if the number is of the right form.
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

/// The queue and the handle for a number from the server of `epoch`, if the number is of the right form.
#[inline]
#[must_use]
pub const fn decode_handle(raw: u64, epoch: u32, tag_bits: u32) -> Option<(u32, Handle)> {
    let queue = ((raw & 0xffff) as u32).wrapping_shr(tag_bits);
    match Handles::new(epoch, queue, tag_bits).decode(raw) {
        Some(handle) => Some((queue, handle)),
        None => None,
    }
}

/// Decodes a number that names no request of its server, for tracing.
#[must_use]
pub const fn foreign_handle(raw: u64) -> Handle {
    #[expect(clippy::cast_possible_truncation, reason = "splits a word into its parts")]
    let (tag, generation, epoch) = (raw as u16, (raw >> 16) as u32, (raw >> 48) as u16);
    Handle { tag, generation, epoch: epoch as u32 }
}

/// The form of a request for a server. `data`: where a write's data is, if it comes with the write.
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

/// The form of an unanswered request in a report.
#[must_use]
pub const fn report(request: &Outstanding, now_ns: u64) -> abi::Outstanding {
    let state = match request.state {
        // A FREE request is not outstanding.
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

/// Effect of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// The request ends with this result.
    Finish(Result<(), Errno>),
    /// Data is copied; then the request succeeds, unless the server keeps it.
    Copy(Move),
}

/// A copy of data from the start of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Number of bytes.
    pub bytes: u32,
    /// Direction.
    pub way: Way,
}

/// Direction of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the server to the request.
    In,
    /// From the server to the request; the rest of the request is zeroed.
    InAndZero,
    /// From the request to the server.
    Out,
    /// From the request to the server, which keeps the request.
    OutAndKeep,
}

impl Move {
    /// Whether the copy writes to the server's memory.
    #[inline]
    #[must_use]
    pub const fn to_server(self) -> bool {
        matches!(self.way, Way::Out | Way::OutAndKeep)
    }

    const fn plan(bytes: u32, way: Way) -> Plan {
        Plan::Copy(Self { bytes, way })
    }
}

/// Checks the parts of an answer that do not depend on its request.
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
    let unused = commit.reserved == 0 && commit.status == 0;
    holds(commit.flags & !abi::COMMIT_FLAGS == 0 && unused && pieces)
}

/// The effect of the answer `commit`, which [`check_commit`] accepted, on `request`.
///
/// # Errors
///
/// `EINVAL` if the answer does not suit this request, which is not changed.
#[inline]
pub fn plan(request: &Request, commit: &abi::Commit) -> Result<Plan, Errno> {
    let has_address = commit.address != 0;
    // The most frequent answer.
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

/// Checks the stated size of the elements of an array. `known` is that of the first version, which is the present one.
///
/// # Errors
///
/// `EINVAL` if they are too short, `E2BIG` if they are longer than any element.
#[inline]
const fn check_element(bytes: u32, known: u32) -> Result<(), Errno> {
    if bytes < known {
        Err(Errno::EINVAL)
    } else if bytes > abi::MAX_ELEMENT_BYTES {
        Err(Errno::E2BIG)
    } else {
        Ok(())
    }
}

/// Checks the argument of an ENTER, except for its memory.
///
/// # Errors
///
/// `EINVAL`, and `E2BIG` for an element that is too long.
#[inline]
pub const fn check_enter(enter: &abi::Enter) -> Result<(), Errno> {
    let sizes = match check_element(enter.commit_bytes, abi::COMMIT_BYTES) {
        Ok(()) => check_element(enter.request_bytes, abi::REQUEST_BYTES),
        error => error,
    };
    if sizes.is_err() {
        return sizes;
    }
    holds(
        enter.flags & !abi::ENTER_FLAGS == 0
            && enter.commit_count <= abi::MAX_BATCH
            && enter.capacity <= abi::MAX_BATCH
            && enter.minimum <= enter.capacity
            && enter.spin_us <= abi::MAX_SPIN_US
            && (enter.flags & abi::ENTER_TIMEOUT != 0 || enter.timeout_ms == 0)
            && (enter.arena != 0 || enter.arena_bytes == 0)
            && enter.buffer_count <= abi::MAX_BATCH
            && (enter.buffer_count == 0 || enter.arena_bytes == 0),
    )
}
