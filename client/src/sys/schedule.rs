// SPDX-License-Identifier: MIT OR Apache-2.0
//! The scheduling policy of a serving thread.

use rustix::io::Errno;

/// Makes the calling thread one that does not interrupt others when it is woken (`SCHED_BATCH`).
///
/// A submitter then goes on submitting on its CPU until it waits, and the server finds several requests at
/// once instead of being switched to for each. An idle CPU takes the server up at once all the same. No
/// privilege is needed; an error changes nothing.
pub(crate) fn wake_without_preempting() -> Result<(), Errno> {
    // SAFETY: zero is a valid value of every field.
    let parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: 0 names the calling thread; the parameters are read during the call only.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}
