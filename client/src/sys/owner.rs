// SPDX-License-Identifier: MIT OR Apache-2.0
//! The owner of a descriptor's open file description (`F_SETOWN`): a process number that duplicates share.
//!
//! The system sends signals to the owner of a description that has `O_ASYNC`. The module never does, so the owner of a
//! server descriptor is only a note. The kernel translates the number between PID namespaces, and forgets it when the
//! process has ended.

use rustix::fd::{AsRawFd as _, BorrowedFd};
use rustix::io::Errno;

/// Notes the calling process as the owner.
pub(crate) fn set_owner(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let own = libc::c_long::from(std::process::id());
    // SAFETY: the call takes and changes no memory of this process.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETOWN, own) } {
        0.. => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}

/// The owner: a process that has not ended and that the caller's PID namespace has.
pub(crate) fn owner(fd: BorrowedFd<'_>) -> Option<u32> {
    // SAFETY: as above. Negative results are errors and process groups.
    let owner = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETOWN) };
    u32::try_from(owner).ok().filter(|owner| *owner != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};
    use rustix::fd::AsFd as _;

    #[test]
    fn duplicates_share_the_owner() {
        let fd = eventfd(0, EventfdFlags::CLOEXEC).expect("eventfd");
        let other = fd.try_clone().expect("duplicate");
        assert_eq!(owner(fd.as_fd()), None);
        set_owner(fd.as_fd()).expect("set");
        assert_eq!(owner(other.as_fd()), Some(std::process::id()));
    }
}
