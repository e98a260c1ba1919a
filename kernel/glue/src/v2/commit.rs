// SPDX-License-Identifier: GPL-2.0-only
//! The commits of an ENTER: a server's answers, which are independent of each other.
//!
//! Called in the server's process context with no lock held; may sleep. Entries are copied in once and used
//! as copies. Consecutive entries of one queue share its lock (`run.rs`).

use zosbd2_abi::v2 as abi;
use zosbd2_engine::Errno;
use zosbd2_engine::queue::Moment;
use zosbd2_engine::v2::{check_commit, decode_handle, foreign_handle};

use super::answer::trace_refusal;
use super::ended::Ended;
use super::entries::{read_each, refuse_unknown, tell};
use super::progress::{Progress, note};
use super::run::Run;
use super::scattered::scattered;
use crate::block::Device;
use crate::shim;

/// Entries per run; they are on the stack.
pub(super) const CHUNK: usize = 16;
/// Bytes after which no more copies are begun in one run. Between runs the thread yields its processor, and
/// stops if it is being killed.
pub const RUN_BYTES: u32 = 4 << 20;

/// Carries out the commits of `enter`.
///
/// # Errors
///
/// `EFAULT` if the array ends too early, or if a status cannot be written, `EINTR` if the caller is being
/// killed; `progress` says how far it came.
#[inline(never)]
pub fn all<'a>(
    device: &'a Device,
    epoch: u32,
    enter: &abi::Enter,
    progress: &mut Progress,
    ended: &mut Ended<'a>,
) -> Result<(), Errno> {
    let mut chunk = [abi::Commit::default(); CHUNK];
    let mut left = enter.commit_count as usize;
    let mut at = enter.commits;
    let bytes = enter.commit_bytes;
    // The server carried all of these requests out before the call.
    let moment = shim::now();
    while left > 0 {
        let Some(entries) = chunk.get_mut(..left.min(CHUNK)) else { break };
        let (entries, known) = if bytes == abi::COMMIT_BYTES && shim::user_read_all(at, entries).is_ok() {
            (entries, true)
        } else {
            match read_each(at, bytes, entries) {
                Ok(read) => (entries.get_mut(..read).unwrap_or_default(), true),
                Err(Errno::E2BIG) => (entries.get_mut(..1).unwrap_or_default(), false),
                Err(errno) => return Err(errno),
            }
        };
        let before = progress.refused;
        let processed = if known {
            process(device, epoch, moment, entries, progress, ended)
        } else {
            refuse_unknown(entries, progress);
            Ok(())
        };
        left = left.saturating_sub(entries.len());
        if progress.refused != before || left > 0 {
            // What follows may wait for the server's memory.
            ended.tell_now();
        }
        if progress.refused != before {
            tell(at, bytes, entries)?;
        }
        processed?;
        if left > 0 {
            shim::pause()?;
        }
        at = at.wrapping_add((entries.len() as u64).wrapping_mul(bytes.into()));
    }
    Ok(())
}

#[inline]
fn process<'a>(
    device: &'a Device,
    epoch: u32,
    moment: Moment,
    entries: &mut [abi::Commit],
    progress: &mut Progress,
    ended: &mut Ended<'a>,
) -> Result<(), Errno> {
    let mut rest = entries;
    while let [first, ..] = &mut *rest {
        let named = check_commit(first).and_then(|()| {
            let (queue, handle) =
                decode_handle(first.handle, epoch, device.tag_bits()).ok_or(Errno::ESTALE)?;
            Ok((device.queue(queue).ok_or(Errno::ESTALE)?, handle))
        });
        let done = match named {
            Ok((block, handle)) if first.flags & abi::COMMIT_IOVEC != 0 => {
                ended.tell_now();
                let result = scattered(block, moment, handle, first);
                trace_refusal(block, handle, result);
                note(first, progress, result);
                1
            }
            Ok((block, _)) => Run::carry_out(block, epoch, moment, rest, progress, ended),
            Err(errno) => {
                if errno == Errno::ESTALE {
                    count_stranger(device, first.handle);
                }
                note(first, progress, Err(errno));
                1
            }
        };
        progress.processed = progress.processed.wrapping_add(u32::try_from(done).unwrap_or(0));
        rest = rest.get_mut(done..).unwrap_or_default();
        if !rest.is_empty() {
            ended.tell_now();
            shim::pause()?;
        }
    }
    if shim::signal_fatal() { Err(Errno::EINTR) } else { Ok(()) }
}

/// The handle belongs to another server or is invented, so its queue is unknown. The first queue counts it.
#[cold]
fn count_stranger(device: &Device, raw: u64) {
    let Some(block) = device.queue(0) else { return };
    block.lock().queue().count_stale();
    trace_refusal(block, foreign_handle(raw), Err(Errno::ESTALE));
}
