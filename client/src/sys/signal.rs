// SPDX-License-Identifier: MIT OR Apache-2.0
//! The signals of a serving thread.

use rustix::io::Errno;

/// Blocks, for the calling thread, the signals that the kernel sends for a failed write: SIGXFSZ (beyond
/// `RLIMIT_FSIZE`) and SIGPIPE (no reader). Their default action kills the process. The write also fails,
/// with `EFBIG` or `EPIPE`, which is enough.
///
/// Threads that this thread starts inherit the block. Other threads, and the process's signal handlers, do
/// not change. A blocked signal disappears with its thread.
pub(crate) fn block_signals_of_writes() -> Result<(), Errno> {
    // SAFETY: zero is a valid value of a signal set.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is borrowed exclusively during the call.
    let mut ended = unsafe { libc::sigemptyset(&raw mut set) };
    for signal in [libc::SIGXFSZ, libc::SIGPIPE] {
        // SAFETY: as above.
        ended |= unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    if ended != 0 {
        return Err(Errno::INVAL);
    }
    // SAFETY: the set was initialised and is read during the call only; the old set is not requested.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(Errno::from_raw_os_error(error)),
    }
}
