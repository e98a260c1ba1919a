// SPDX-License-Identifier: MIT OR Apache-2.0
//! The scheduling policy of a serving thread.

use rustix::io::Errno;

/// Makes the calling thread `SCHED_BATCH`: it does not preempt other threads when it is woken.
///
/// A submitter then keeps its CPU until it waits, and the server finds several requests at once instead of
/// being switched to for each. An idle CPU still runs the server at once. No privilege is needed. An error
/// changes nothing.
pub(crate) fn wake_without_preempting() -> Result<(), Errno> {
    // SAFETY: zero is a valid value of every field.
    let parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: 0 names the calling thread, and the kernel reads the parameters during the call only.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}
