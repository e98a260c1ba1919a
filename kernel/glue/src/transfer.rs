// SPDX-License-Identifier: GPL-2.0-only
//! Moves data between a request's pages and a server's memory.
//!
//! Called by a server in its own process context, with no lock held. Page faults are served while no request
//! of the caller's is pinned, so that deadline and teardown never wait for a server's memory. A request that
//! was failed meanwhile is ended here.

use zosbd2_engine::Errno;
use zosbd2_engine::request::Handle;

use crate::block::QueueBlock;
use crate::shim::Place;
use crate::{shim, trace};

/// Bytes brought in at once when a copy meets a page that is not there.
const FAULT_IN_BYTES: u32 = 65536;
/// Times that memory is brought in and then is not there to copy, before it counts as memory that cannot be used. When
/// memory is short a page may be gone again at once, but not so often.
const ATTEMPTS: u32 = 1000;

/// What is copied between a request and the server's memory.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// The request.
    pub handle: Handle,
    /// Where in the server's memory.
    pub user: u64,
    /// How many bytes; from where the copy begins, they are within the request.
    pub bytes: u32,
    /// Whether from the request to the server.
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

    /// Copies from `place` on, which moves with what is copied, and brings in what is not there. The request is HELD
    /// before and after. May sleep, with the request not pinned; no other of the caller's may be either. `place` is
    /// all zeroes, or was moved by copies of the same tenure.
    ///
    /// # Errors
    ///
    /// `ESTALE` when the request is not with this server any more, `EFAULT` when the memory cannot be used,
    /// `EINTR` when the caller is being killed.
    #[cold]
    pub fn run(&self, block: &QueueBlock, place: &mut Place) -> Result<(), Errno> {
        shim::user_check(self.user, self.bytes)?;
        let (mut done, mut in_vain) = (0, 0_u32);
        loop {
            let before = done;
            let copied = pinned(block, self.handle, || {
                // SAFETY: COPYING while `pinned` runs it; the place is of this tenure, which the handle names.
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
            // All of the next stretch, or at least the next byte: the stretch may be longer than what the
            // server gave, and the copy then fails at the right place.
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
/// `ESTALE` when the request is not with this server any more.
#[cold]
pub fn zero(block: &QueueBlock, handle: Handle, start: u32) -> Result<(), Errno> {
    // SAFETY: COPYING while `pinned` runs it.
    pinned(block, handle, || unsafe { block.zero(handle, start) })
}

/// The copy stopped, and the server keeps the request: COPYING to HELD. Returns whether it was failed meanwhile, and
/// is ended now. It may also be with another server soon; then its handle is stale.
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

/// Runs `action`, which does not sleep, with the request COPYING. It is HELD before and after.
///
/// # Errors
///
/// `ESTALE` when the request is not with this server any more.
fn pinned<T>(block: &QueueBlock, handle: Handle, action: impl FnOnce() -> T) -> Result<T, Errno> {
    block.lock().queue().pin(handle).map_err(|_| Errno::ESTALE)?;
    let result = action();
    if stopped(block, handle) { Err(Errno::ESTALE) } else { Ok(result) }
}
