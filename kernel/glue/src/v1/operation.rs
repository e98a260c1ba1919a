// SPDX-License-Identifier: GPL-2.0-only
//! Version 1's one call for servers: answer a request, fetch the next.
//!
//! Called by a server thread in its own process context; may sleep. The buffer is read and written at fixed
//! offsets ([`zosbd2_abi::v1`]), and only where the interface defines it.
//!
//! No request is lost here. A request whose data or head cannot be given to the server returns to the queue
//! as the oldest. If an answer's data cannot be read, the request stays with the server.

use zosbd2_abi::v1 as abi;
use zosbd2_engine::Errno;
use zosbd2_engine::device::Phase;
use zosbd2_engine::queue::{Answer, End, Fetched, Moment, Refused, Work};
use zosbd2_engine::request::{Handle, Op, Request};
use zosbd2_engine::v1::{self, Call};

use crate::block::{Device, QueueBlock};
use crate::shim::Place;
use crate::transfer::{self, Transfer};
use crate::{shim, trace};

/// Segments that are written to the server together with the head.
const SEGMENTS_AT_ONCE: u32 = 30;
const HEAD_WORDS: usize = 6;
/// Requests that a wake-up counts for. A thread takes one at a time, but returns for the next at once, which
/// costs less than waking another thread.
const WAKE_ROOM: u32 = 16;
const SEGMENT_BYTES: u32 = 16;

/// An ioctl on the block node.
///
/// # Errors
///
/// Like [`run`]; `EINVAL` for an unknown number.
pub fn node(device: &Device, may_write: bool, command: u32, argument: u64) -> Result<(), Errno> {
    match command {
        abi::IOCTL_BLOCK_PING => Ok(()),
        abi::IOCTL_OPERATION => run(device.queue(0).ok_or(Errno::ENOENT)?, may_write, argument),
        _ => Err(Errno::EINVAL),
    }
}

/// Carries out the answer in the buffer at `user`, then fetches into it.
///
/// # Errors
///
/// As in `docs/abi-v1.md`: `EBADF` without write permission, `ENOMEM` for an unusable buffer, `ENOENT` if the
/// handle belongs to another device or the device is gone, `EINVAL` for an unknown opcode or an answer of the
/// wrong kind, `EINTR`.
fn run(block: &QueueBlock, may_write: bool, user: u64) -> Result<(), Errno> {
    #[cfg(zosbd2_faults)]
    shim::backtrace();
    #[cfg(zosbd2_faults)]
    shim::overrun();
    if !may_write {
        return Err(Errno::EBADF);
    }
    // The handle, its padding, the opcode, its padding.
    let front: [u32; 4] = read_front(user)?;
    let [handle, _, opcode, _] = front;
    if handle != block.device().params().handle {
        return Err(Errno::ENOENT);
    }
    let call = Call::decode(opcode)?;
    block.device().note_caller();
    match call {
        Call::Fetch => {}
        Call::Answer(op) => answer(block, op, user)?,
        Call::Notice => {
            let mut locked = block.lock();
            if locked.queue().phase() == Phase::Gone {
                return Err(Errno::ENOENT);
            }
            let wake = locked.queue().notify();
            locked.wake(wake);
        }
    }
    fetch(block, user)
}

fn read_front(user: u64) -> Result<[u32; 4], Errno> {
    let first: u64 = shim::user_read(user).map_err(|_| Errno::ENOMEM)?;
    let second: u64 = shim::user_read(user.wrapping_add(8)).map_err(|_| Errno::ENOMEM)?;
    // The low half of each word comes first in memory.
    #[expect(clippy::cast_possible_truncation, reason = "splits a word into its halves")]
    Ok([first as u32, (first >> 32) as u32, second as u32, (second >> 32) as u32])
}

fn answer(block: &QueueBlock, op: Op, user: u64) -> Result<(), Errno> {
    let tail: abi::OperationTail =
        shim::user_read(user.wrapping_add(abi::OPERATION_TAIL_OFFSET as u64)).map_err(|_| Errno::ENOMEM)?;
    let mut locked = block.lock_at(shim::now());
    let mut queue = locked.queue();
    if queue.phase() == Phase::Gone {
        return Err(Errno::ENOENT);
    }
    // Late or repeated: programs repeat an answer after a signal and must get their next request.
    let Some(handle) = queue.handle_of(tail.op_id) else { return Ok(()) };
    let answer = queue.answer(handle, op, tail.error == 0);
    drop(locked);
    match answer {
        // SAFETY: an effect of this queue.
        Ok(Answer::End(end)) => unsafe { answered(block, handle, Some(end)) },
        Ok(Answer::CopyIn(handle, request)) => {
            let user = user.wrapping_add(abi::OPERATION_DATA_OFFSET as u64);
            let transfer = Transfer { handle, user, bytes: request.length, to_user: false };
            // SAFETY: the answer made it COPYING.
            if unsafe { transfer.attempt(block) }.is_ok() {
                let end = block.lock_at(shim::now()).queue().answered(handle);
                // SAFETY: an effect of this queue.
                unsafe { answered(block, handle, end) };
            } else if slowly(block, &transfer)? {
                let end = block.lock_at(shim::now()).queue().finish(handle, Ok(()));
                // SAFETY: an effect of this queue.
                unsafe { answered(block, handle, end.ok()) };
            }
        }
        Err(Refused::Stale) => {}
        Err(Refused::WrongKind) => return Err(Errno::EINVAL),
    }
    Ok(())
}

/// The data of an answer is copied: ends its request, unless the request failed meanwhile.
///
/// # Safety
///
/// `end` is an effect of this queue.
unsafe fn answered(block: &QueueBlock, handle: Handle, end: Option<End>) {
    if trace::on() && end.as_ref().is_some_and(|end| end.result().is_ok()) {
        trace::commit(block, handle, Ok(()));
    }
    // SAFETY: the caller's promise.
    unsafe { block.end_if(end) };
}

/// Copies data whose memory had a missing page. The request is COPYING on entry and HELD afterwards. Returns
/// `false` if the request was lost meanwhile. Errors are those of version 1.
#[cold]
fn slowly(block: &QueueBlock, transfer: &Transfer) -> Result<bool, Errno> {
    if transfer::stopped(block, transfer.handle) {
        return Ok(false);
    }
    match transfer.run(block, &mut Place::default()) {
        Ok(()) => Ok(true),
        Err(Errno::ESTALE) => Ok(false),
        Err(Errno::EFAULT) => Err(Errno::ENOMEM),
        Err(other) => Err(other),
    }
}

fn fetch(block: &QueueBlock, user: u64) -> Result<(), Errno> {
    let mut slept = false;
    let mut forever = shim::timeout(None);
    let mut locked = block.lock();
    loop {
        if locked.queue().queued() > 0 {
            locked.set_moment(Moment { thread: shim::thread(), ..shim::now() });
        }
        match locked.queue().fetch(0, u64::MAX) {
            Work::Request(fetched) => {
                if trace::on() {
                    trace::fetch(block, fetched.handle);
                }
                let wake = locked.queue().announce();
                locked.wake(wake);
                drop(locked);
                if deliver(block, &fetched, user)? {
                    return Ok(());
                }
                locked = block.lock();
            }
            Work::Notice => {
                let wake = locked.queue().announce();
                locked.wake(wake);
                drop(locked);
                return write_plain(user, abi::OP_SHUTDOWN_NOTICE, 0);
            }
            Work::Gone | Work::Superseded => {
                drop(locked);
                // A thread in the call gets the goodbye; a later call finds no device.
                return if slept { write_plain(user, abi::OP_GONE, 0) } else { Err(Errno::ENOENT) };
            }
            Work::Nothing => {
                slept = true;
                if locked.sleep(0, WAKE_ROOM, &mut forever).is_err() {
                    drop(locked);
                    // The error suffices; it does not matter if the buffer cannot be written.
                    let _ignored = write_plain(user, abi::OP_NOTHING, shim::signal_pending());
                    return Err(Errno::EINTR);
                }
            }
        }
    }
}

/// Gives a fetched request to the server. Returns `false` if the request was lost meanwhile: fetch another.
fn deliver(block: &QueueBlock, fetched: &Fetched, user: u64) -> Result<bool, Errno> {
    let delivered = deliver_parts(block, fetched, user);
    if delivered.is_err() {
        block.lock().unfetch(fetched.handle);
    }
    delivered
}

fn deliver_parts(block: &QueueBlock, fetched: &Fetched, user: u64) -> Result<bool, Errno> {
    let Fetched { handle, request, .. } = fetched;
    if request.op == Op::Write {
        let data = user.wrapping_add(abi::OPERATION_DATA_OFFSET as u64);
        let (handle, bytes) = (*handle, request.length);
        let transfer = Transfer { handle, user: data, bytes, to_user: true };
        // SAFETY: a write that was fetched with its data is COPYING.
        if unsafe { transfer.attempt(block) }.is_ok() {
            if transfer::stopped(block, handle) {
                return Ok(false);
            }
        } else if !slowly(block, &transfer)? {
            return Ok(false);
        }
    }
    write_request(user, request).map_err(|_| Errno::ENOMEM)?;
    let tail = abi::OperationTail { error: 0, op_id: handle.op_id() };
    shim::user_write(user.wrapping_add(abi::OPERATION_TAIL_OFFSET as u64), &tail)
        .map_err(|_| Errno::ENOMEM)?;
    Ok(true)
}

fn head_words(head: &abi::OperationHead) -> [u64; HEAD_WORDS] {
    [
        u64::from(head.handle),
        u64::from(head.opcode),
        head.data_size,
        u64::from(head.signal_no),
        head.total_bytes,
        u64::from(head.segment_count),
    ]
}

/// Writes the head and all 256 segments; unused segments are zero.
fn write_request(user: u64, request: &Request) -> Result<(), Errno> {
    const WORDS: usize = HEAD_WORDS + 2 * SEGMENTS_AT_ONCE as usize;
    let count = v1::segment_count(request);
    let mut words = [0_u64; WORDS];
    for (word, value) in words.iter_mut().zip(head_words(&v1::request_head(request))) {
        *word = value;
    }
    let mut filled = HEAD_WORDS;
    let mut at = user;
    let mut index = 0;
    while index < count {
        let segment = v1::segment(request, index);
        for (word, value) in words.iter_mut().skip(filled).zip([segment.start, segment.length]) {
            *word = value;
        }
        filled = filled.wrapping_add(2);
        index = index.wrapping_add(1);
        if filled == WORDS || index == count {
            shim::user_write_all(at, words.get(..filled).ok_or(Errno::ENOMEM)?)?;
            at = at.wrapping_add((filled as u64).wrapping_mul(8));
            filled = 0;
        }
    }
    let unused = abi::MAX_SEGMENTS.saturating_sub(count).wrapping_mul(SEGMENT_BYTES);
    shim::user_clear(at, unused)
}

/// Writes a head without a request, and zeroes all other fields.
fn write_plain(user: u64, opcode: u32, signal_no: u32) -> Result<(), Errno> {
    let head = head_words(&v1::plain_head(opcode, signal_no));
    let rest = u32::try_from(abi::OPERATION_DATA_OFFSET.saturating_sub(abi::OPERATION_SEGMENTS_OFFSET));
    shim::user_write_all(user, &head).map_err(|_| Errno::ENOMEM)?;
    shim::user_clear(user.wrapping_add(abi::OPERATION_SEGMENTS_OFFSET as u64), rest.unwrap_or(0))
        .map_err(|_| Errno::ENOMEM)
}
