// SPDX-License-Identifier: GPL-2.0-only
//! A commit with its data in several pieces.
//!
//! Called in the server's process context with no lock held; may sleep.

use core::mem::size_of;

use zosbd2_abi::v2 as abi;
use zosbd2_engine::Errno;
use zosbd2_engine::queue::Moment;
use zosbd2_engine::request::Handle;
use zosbd2_engine::v2::{Plan, plan};

use super::answer::{conclude, finish, lock_to_answer};
use crate::block::QueueBlock;
use crate::shim::{self, Place};
use crate::transfer::Transfer;

/// Iovec entries that are read at once.
const PIECES: usize = 8;

/// Carries out an entry with data in several pieces. The request is HELD while the pieces are read.
#[cold]
pub(super) fn scattered(
    block: &QueueBlock,
    moment: Moment,
    handle: Handle,
    entry: &abi::Commit,
) -> Result<(), Errno> {
    let mut locked = lock_to_answer(block, moment);
    let mut queue = locked.queue();
    let held = queue.answered_by(handle).map_err(|_| Errno::ESTALE)?;
    let data = match plan(held.request(), entry)? {
        Plan::Copy(data) => data,
        Plan::Finish(result) => {
            let end = held.finish(result);
            let written = queue.written();
            drop(locked);
            // SAFETY: an effect of this queue.
            unsafe { finish(block, handle, end, written) };
            return Ok(());
        }
    };
    drop(locked);
    let (bytes, to_user) = (data.bytes, data.to_server());
    let mut pieces = [abi::Iovec::default(); PIECES];
    let mut place = Place::default();
    let (mut at, mut left, mut done) = (entry.address, entry.iovec_count as usize, 0_u32);
    while done < bytes {
        let Some(pieces) = pieces.get_mut(..left.min(PIECES)).filter(|pieces| !pieces.is_empty()) else {
            // The pieces have fewer bytes than the result states.
            return Err(Errno::EINVAL);
        };
        shim::user_read_all(at, pieces)?;
        for piece in &*pieces {
            let rest = bytes.saturating_sub(done);
            let part = u32::try_from(piece.length).map_or(rest, |length| length.min(rest));
            if part > 0 {
                Transfer { handle, user: piece.address, bytes: part, to_user }.run(block, &mut place)?;
                done = done.wrapping_add(part);
            }
        }
        left = left.saturating_sub(pieces.len());
        at = at.wrapping_add((pieces.len() as u64).wrapping_mul(size_of::<abi::Iovec>() as u64));
    }
    conclude(block, moment, handle, data)
}
