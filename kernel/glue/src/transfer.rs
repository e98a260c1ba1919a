// SPDX-License-Identifier: GPL-2.0-only
//! Moves data between a request's pages and a server's memory.
//!
//! Called by a server in its own process context, with no lock held; may sleep, but not with the request
//! pinned: page faults are served while it is HELD, so that deadline and teardown never wait for a server's
//! memory.

use zosbd2_engine::Errno;
use zosbd2_engine::request::Handle;

use crate::block::QueueBlock;
use crate::shim;

/// Bytes brought in at once when a copy meets a page that is not there.
const FAULT_IN_BYTES: u32 = 65536;

/// Whether a copy between a request and the server came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// All is copied; the request is still COPYING.
    All,
    /// The request is not ours any more (deadline, teardown).
    Lost,
}

/// Copies `bytes` of a request's data, from its byte `start` on, to or from `user`. The request is COPYING on
/// entry, by the caller, and `start` + `bytes` is within it.
///
/// # Errors
///
/// `EFAULT` when the memory cannot be used, `EINTR` when the caller is being killed. The request is HELD
/// then, or lost.
#[inline]
pub fn copy(
    block: &QueueBlock,
    handle: Handle,
    user: u64,
    (start, bytes): (u32, u32),
    to_user: bool,
) -> Result<Copied, Errno> {
    let mut done = 0;
    // SAFETY: COPYING on entry.
    if unsafe { block.copy(handle, user, (start, bytes), &mut done, to_user) }.is_ok() {
        return Ok(Copied::All);
    }
    copy_with_faults(block, handle, user, (start, bytes), done, to_user)
}

#[cold]
fn copy_with_faults(
    block: &QueueBlock,
    handle: Handle,
    user: u64,
    (start, bytes): (u32, u32),
    mut done: u32,
    to_user: bool,
) -> Result<Copied, Errno> {
    loop {
        let end = block.lock().queue().copied(handle);
        if end.is_some() {
            block.end_if(end);
            return Ok(Copied::Lost);
        }
        if shim::signal_fatal() {
            return Err(Errno::EINTR);
        }
        let rest = bytes.saturating_sub(done).min(FAULT_IN_BYTES);
        let wanted = user.wrapping_add(u64::from(done));
        // All of the next stretch, or at least the next byte: the stretch may be longer than what the
        // server gave, and the copy then fails at the right place.
        if shim::user_fault_in(wanted, rest, to_user).is_err() {
            shim::user_fault_in(wanted, 1, to_user)?;
        }
        if block.lock().queue().pin(handle).is_err() {
            return Ok(Copied::Lost);
        }
        // SAFETY: COPYING since `pin`.
        if unsafe { block.copy(handle, user, (start, bytes), &mut done, to_user) }.is_ok() {
            return Ok(Copied::All);
        }
    }
}
