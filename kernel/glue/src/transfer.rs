// SPDX-License-Identifier: GPL-2.0-only
//! Moves data between a request's pages and a server's memory.
//!
//! Called by a server in its own process context, with no lock held. The kernel serves page faults while the
//! caller has no request pinned, so deadlines and teardown never wait for a server's memory. A request that
//! failed meanwhile is ended here.

use zosbd2_engine::Errno;
use zosbd2_engine::request::Handle;

use crate::block::QueueBlock;
use crate::shim::Place;
use crate::{shim, trace};

/// Bytes to bring in at once when a copy meets a missing page.
const FAULT_IN_BYTES: u32 = 65536;
/// Attempts to bring memory in before it counts as inaccessible. If memory is short, a page may be reclaimed
/// again at once, but not this often.
const ATTEMPTS: u32 = 1000;

/// A copy between a request and the server's memory.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// The request.
    pub handle: Handle,
    /// Address in the server's memory.
    pub user: u64,
    /// Number of bytes; together with the start of the copy they are within the request.
    pub bytes: u32,
    /// Whether the copy goes from the request to the server.
    pub to_user: bool,
}

impl Transfer {
    /// Copies the first bytes of the request at once. Does not sleep.
    ///
    /// # Errors
    ///
    /// `EFAULT` when a page is not there, for now or for good.
    ///
    /// # Safety
    ///
    /// The caller made the request COPYING and has not unpinned it, and `bytes` is within it.
    #[inline]
    pub unsafe fn attempt(&self, block: &QueueBlock) -> Result<(), Errno> {
        // SAFETY: the caller's promise.
        unsafe { block.copy_all(self.handle, self.user, self.bytes, self.to_user) }
    }

    /// Copies from `place` on, which advances with the copy, and brings in missing pages. The request is HELD
    /// before and after. May sleep; meanwhile neither this request nor another one of the caller is pinned.
    /// `place` is all zeros, or was advanced by copies of the same tenure.
    ///
    /// # Errors
    ///
    /// `ESTALE` if the server no longer holds the request, `EFAULT` if the memory cannot be accessed, `EINTR`
    /// if the caller is being killed.
    #[cold]
    pub fn run(&self, block: &QueueBlock, place: &mut Place) -> Result<(), Errno> {
        shim::user_check(self.user, self.bytes)?;
        let (mut done, mut in_vain) = (0, 0_u32);
        loop {
            let before = done;
            let copied = pinned(block, self.handle, || {
                // SAFETY: `pinned` runs this with the request COPYING; the place belongs to this tenure,
                // which the handle names.
                unsafe { block.copy(self.handle, place, self.user, self.bytes, &mut done, self.to_user) }
            })?;
            if copied.is_ok() {
                return Ok(());
            }
            in_vain = if done == before { in_vain.wrapping_add(1) } else { 0 };
            if in_vain > ATTEMPTS {
                return Err(Errno::EFAULT);
            }
            if shim::signal_fatal() {
                return Err(Errno::EINTR);
            }
            let rest = self.bytes.saturating_sub(done).min(FAULT_IN_BYTES);
            let wanted = self.user.wrapping_add(u64::from(done));
            // Bring in the whole next stretch, or at least the next byte: the stretch may be longer than the
            // server's memory, and the copy then fails at the right byte.
            if shim::user_fault_in(wanted, rest, self.to_user).is_err() {
                shim::user_fault_in(wanted, 1, self.to_user)?;
            }
        }
    }
}

/// Zeroes a request's data from its byte `start` on. The request is HELD before and after.
///
/// # Errors
///
/// `ESTALE` if the server no longer holds the request.
#[cold]
pub fn zero(block: &QueueBlock, handle: Handle, start: u32) -> Result<(), Errno> {
    // SAFETY: `pinned` runs this with the request COPYING.
    pinned(block, handle, || unsafe { block.zero(handle, start) })
}

/// A copy stopped, and the server keeps the request: COPYING to HELD. Returns whether the request failed
/// meanwhile, and was ended here. Another server may get the request soon; then its handle is stale.
pub fn stopped(block: &QueueBlock, handle: Handle) -> bool {
    let mut locked = block.lock();
    let outcome = locked.queue().copied(handle);
    let end = trace::copied(block, handle, outcome);
    let superseded = locked.queue().superseded(handle.epoch());
    if superseded {
        let wake = locked.queue().announce();
        locked.wake(wake);
    }
    drop(locked);
    if superseded {
        block.wake_pollers();
    }
    let failed = end.is_some();
    // SAFETY: an effect of this queue.
    unsafe { block.end_if(end) };
    failed
}

/// Runs `action`, which does not sleep, with the request COPYING. The request is HELD before and after.
///
/// # Errors
///
/// `ESTALE` if the server no longer holds the request.
fn pinned<T>(block: &QueueBlock, handle: Handle, action: impl FnOnce() -> T) -> Result<T, Errno> {
    block.lock().queue().pin(handle).map_err(|_| Errno::ESTALE)?;
    let result = action();
    if stopped(block, handle) { Err(Errno::ESTALE) } else { Ok(result) }
}
