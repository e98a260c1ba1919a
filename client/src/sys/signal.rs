// SPDX-License-Identifier: MIT OR Apache-2.0
//! The signals of a serving thread.

use rustix::io::Errno;

/// Blocks, for the calling thread, the signals that the kernel sends to a thread for what it wrote: SIGXFSZ (beyond
/// `RLIMIT_FSIZE`) and SIGPIPE (nobody reads). Their default is the death of the process; the write fails as well,
/// with `EFBIG` or `EPIPE`, which is enough.
///
/// Nothing else of the process changes: threads that this one starts have them blocked too, other threads and what the
/// process has set for the signals stay as they are. A signal that was blocked goes with its thread.
pub(crate) fn block_signals_of_writes() -> Result<(), Errno> {
    // SAFETY: zero is a valid value of a set of signals.
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
    // SAFETY: the set was initialised and is read during the call only; no old set is asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(Errno::from_raw_os_error(error)),
    }
}
