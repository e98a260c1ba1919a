// SPDX-License-Identifier: GPL-2.0-only
//! The commits of an ENTER: a server's answers, each for itself.
//!
//! Called in the server's process context with no lock held; may sleep. Entries are copied in once and used
//! as copies. Those of one queue that follow each other share its lock: first all are looked up and their
//! requests pinned, then data is copied with no lock held, then all are freed, then their block requests
//! end together. No request is pinned while anything is read from the server's memory that may fault.

use core::mem::{offset_of, size_of};

use zosbd2_abi::v2 as abi;
use zosbd2_engine::Errno;
use zosbd2_engine::queue::End;
use zosbd2_engine::request::Handle;
use zosbd2_engine::v2::{Plan, check_commit, decode_handle, plan};

use crate::block::{Device, QueueBlock};
use crate::shim;
use crate::transfer::{self, Copied};

/// Entries that are worked on at once; they are on the stack.
const CHUNK: usize = 8;
/// Pieces of a commit's data that are read at once.
const PIECES: usize = 8;

/// How far an ENTER came.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Entries carried out or refused.
    pub processed: u32,
    /// Entries refused.
    pub refused: u32,
    /// Requests fetched.
    pub fetched: u32,
}

/// Carries out `count` commits at `user`.
///
/// # Errors
///
/// `EFAULT` when the array ends too early or a refusal cannot be told; `progress` says how far it came.
#[inline(never)]
pub fn all(device: &Device, epoch: u32, user: u64, count: u32, progress: &mut Progress) -> Result<(), Errno> {
    let mut chunk = [abi::Commit::default(); CHUNK];
    let mut left = count as usize;
    let mut at = user;
    while left > 0 {
        let Some(entries) = chunk.get_mut(..left.min(CHUNK)) else { break };
        let entries = if shim::user_read_all(at, entries).is_ok() {
            entries
        } else {
            // Those before the end of the memory count.
            let Some(first) = entries.get_mut(..1) else { break };
            shim::user_read_all(at, first)?;
            first
        };
        let before = progress.refused;
        process(device, epoch, entries, progress);
        if progress.refused != before {
            tell(at, entries)?;
        }
        left = left.saturating_sub(entries.len());
        at = at.wrapping_add((entries.len() as u64).wrapping_mul(size_of::<abi::Commit>() as u64));
    }
    Ok(())
}

/// Writes the status of the refused entries.
#[cold]
fn tell(user: u64, entries: &[abi::Commit]) -> Result<(), Errno> {
    let mut at = user.wrapping_add(offset_of!(abi::Commit, status) as u64);
    for entry in entries {
        if entry.status != 0 {
            shim::user_write(at, &entry.status.cast_unsigned())?;
        }
        at = at.wrapping_add(size_of::<abi::Commit>() as u64);
    }
    Ok(())
}

/// An entry that names a request of this server, perhaps.
#[derive(Clone, Copy)]
struct Named {
    queue: u32,
    handle: Handle,
}

fn name(device: &Device, epoch: u32, entry: &abi::Commit) -> Result<Named, Errno> {
    check_commit(entry)?;
    let (queue, handle) = decode_handle(entry.handle, epoch, device.tag_bits()).ok_or(Errno::ESTALE)?;
    Ok(Named { queue, handle })
}

#[inline]
fn process(device: &Device, epoch: u32, entries: &mut [abi::Commit], progress: &mut Progress) {
    let mut rest = entries;
    while let [first, ..] = &mut *rest {
        let block = name(device, epoch, first)
            .and_then(|named| device.queue(named.queue).ok_or(Errno::ESTALE).map(|block| (block, named)));
        let done = match block {
            Ok((block, named)) if first.flags & abi::COMMIT_IOVEC != 0 => {
                note(first, progress, scattered(block, named.handle, first));
                1
            }
            Ok((block, named)) => run(device, epoch, block, named, rest, progress),
            Err(errno) => {
                note(first, progress, Err(errno));
                1
            }
        };
        progress.processed = progress.processed.wrapping_add(u32::try_from(done).unwrap_or(0));
        rest = rest.get_mut(done..).unwrap_or_default();
    }
}

/// Writes down what became of an entry.
#[inline]
fn note(entry: &mut abi::Commit, progress: &mut Progress, result: Result<(), Errno>) {
    if let Err(errno) = result {
        entry.status = errno.negative();
        progress.refused = progress.refused.wrapping_add(1);
    }
}

/// What an entry led to so far.
#[derive(Clone, Copy)]
enum Step {
    /// Nothing more is to be done.
    Done,
    /// A copy is to be made, and its request is COPYING.
    Copy(Copying),
    /// The block request is to be ended.
    End(End),
}

/// A copy that is to be made.
#[derive(Clone, Copy)]
struct Copying {
    handle: Handle,
    plan: Plan,
    length: u32,
}

/// Carries out the entries from the first one on, which names `first`, that are of the queue `block` and
/// have their data in one piece. Returns how many they are, at least one.
#[inline]
fn run(
    device: &Device,
    epoch: u32,
    block: &QueueBlock,
    first: Named,
    entries: &mut [abi::Commit],
    progress: &mut Progress,
) -> usize {
    let mut steps = [Step::Done; CHUNK];
    let (mut done, mut copies) = (0_usize, 0_usize);
    let mut known = Some(first);
    let mut locked = block.lock();
    for (entry, step) in entries.iter_mut().zip(&mut steps) {
        let named = match known.take() {
            Some(named) => named,
            None => match name(device, epoch, entry) {
                Ok(named) if named.queue == first.queue && entry.flags & abi::COMMIT_IOVEC == 0 => named,
                // Of another kind.
                _ => break,
            },
        };
        let handle = named.handle;
        done = done.wrapping_add(1);
        let mut queue = locked.queue();
        let planned = queue
            .request_of(handle)
            .map_err(|_| Errno::ESTALE)
            .and_then(|request| plan(&request, entry).map(|plan| (request.length, plan)));
        match planned {
            Ok((_, Plan::Finish(result))) => {
                if let Ok(end) = queue.finish(handle, result) {
                    *step = Step::End(end);
                }
            }
            Ok((length, plan)) => {
                if queue.pin(handle).is_ok() {
                    *step = Step::Copy(Copying { handle, plan, length });
                    copies = copies.wrapping_add(1);
                }
            }
            Err(errno) => note(entry, progress, Err(errno)),
        }
    }
    drop(locked);
    if copies > 0 {
        for (entry, step) in entries.iter_mut().zip(&mut steps) {
            let Step::Copy(copy) = *step else { continue };
            let moved = move_data(block, entry, copy);
            if moved.is_err() {
                *step = Step::Done;
                note(entry, progress, moved);
            }
        }
        let mut locked = block.lock();
        for step in steps.iter_mut().take(done) {
            let Step::Copy(copy) = *step else { continue };
            let end = match copy.plan {
                Plan::CopyOnly => locked.queue().copied(copy.handle),
                Plan::CopyIn(_) | Plan::CopyOut | Plan::Finish(_) => locked.queue().answered(copy.handle),
            };
            *step = end.map_or(Step::Done, Step::End);
        }
        drop(locked);
    }
    finish(block, steps.get(..done).unwrap_or_default());
    done
}

/// Ends the block requests, those that succeeded together.
#[inline]
fn finish(block: &QueueBlock, steps: &[Step]) {
    let mut tags = [0; CHUNK];
    let mut count = 0;
    for step in steps {
        let Step::End(end) = *step else { continue };
        if end.result.is_err() {
            block.end(end);
        } else if let Some(place) = tags.get_mut(count) {
            *place = end.tag;
            count = count.wrapping_add(1);
        }
    }
    match tags.get(..count) {
        Some([]) | None => {}
        Some(tags) => block.end_well(tags),
    }
}

/// Makes the copy of an entry in one piece. On success its request is still COPYING, otherwise HELD or lost.
#[inline]
fn move_data(block: &QueueBlock, entry: &abi::Commit, copy: Copying) -> Result<(), Errno> {
    let Copying { handle, plan, length } = copy;
    let (bytes, to_user) = match plan {
        Plan::CopyIn(bytes) => (bytes, false),
        Plan::CopyOut | Plan::CopyOnly => (length, true),
        Plan::Finish(_) => return Ok(()),
    };
    if bytes > 0 && transfer::copy(block, handle, entry.address, (0, bytes), to_user)? == Copied::Lost {
        return Err(Errno::ESTALE);
    }
    if !to_user && bytes < length {
        // SAFETY: still COPYING.
        unsafe { block.zero(handle, bytes) };
    }
    Ok(())
}

/// Carries out an entry whose data is in several pieces. The request is HELD while they are read.
#[cold]
fn scattered(block: &QueueBlock, handle: Handle, entry: &abi::Commit) -> Result<(), Errno> {
    let mut locked = block.lock();
    let mut queue = locked.queue();
    let request = queue.request_of(handle).map_err(|_| Errno::ESTALE)?;
    let plan = plan(&request, entry)?;
    if let Plan::Finish(result) = plan {
        let end = queue.finish(handle, result);
        drop(locked);
        block.end_if(end.ok());
        return Ok(());
    }
    drop(locked);
    let (bytes, to_user) = match plan {
        Plan::CopyIn(bytes) => (bytes, false),
        _ => (request.length, true),
    };
    let mut pieces = [abi::Iovec::default(); PIECES];
    let (mut at, mut left, mut done) = (entry.address, entry.iovec_count as usize, 0_u32);
    while done < bytes {
        let Some(pieces) = pieces.get_mut(..left.min(PIECES)).filter(|pieces| !pieces.is_empty()) else {
            // Fewer bytes in the pieces than in the result.
            return Err(Errno::EINVAL);
        };
        shim::user_read_all(at, pieces)?;
        for piece in &*pieces {
            let rest = bytes.saturating_sub(done);
            let part = u32::try_from(piece.length).map_or(rest, |length| length.min(rest));
            if part == 0 {
                continue;
            }
            block.lock().queue().pin(handle).map_err(|_| Errno::ESTALE)?;
            if transfer::copy(block, handle, piece.address, (done, part), to_user)? == Copied::Lost {
                return Err(Errno::ESTALE);
            }
            unpin(block, handle)?;
            done = done.wrapping_add(part);
        }
        left = left.saturating_sub(pieces.len());
        at = at.wrapping_add((pieces.len() as u64).wrapping_mul(size_of::<abi::Iovec>() as u64));
    }
    if plan == Plan::CopyOnly {
        return Ok(());
    }
    if !to_user && bytes < request.length {
        block.lock().queue().pin(handle).map_err(|_| Errno::ESTALE)?;
        // SAFETY: COPYING since `pin`.
        unsafe { block.zero(handle, bytes) };
        unpin(block, handle)?;
    }
    let end = block.lock().queue().finish(handle, Ok(())).map_err(|_| Errno::ESTALE)?;
    block.end(end);
    Ok(())
}

/// COPYING to HELD; `ESTALE` when the request was failed meanwhile.
fn unpin(block: &QueueBlock, handle: Handle) -> Result<(), Errno> {
    let end = block.lock().queue().copied(handle);
    if end.is_some() {
        block.end_if(end);
        return Err(Errno::ESTALE);
    }
    Ok(())
}
