// SPDX-License-Identifier: MIT OR Apache-2.0
//! Moves data from and to the memory of answers and buffers, as the kernel does for ENTER: by a system call.
//!
//! The memory may be a region, which others access at the same time, and which may not be accessible: it may be read-only, or the
//! file behind it may have become shorter. An access of this process would be a data race, or end with a signal. The
//! kernel's copy is to a region's owner what ENTER's copy is, and fails with `EFAULT`.
//!
//! A sandbox that forbids `process_vm_readv(2)` to its processes makes the functions fail with its error.

use crate::Errno;
use libc::{iovec, process_vm_readv, process_vm_writev};
use rustix::process::getpid;

/// Copies the bytes at this address of this process to `target`.
pub(super) fn read(address: u64, target: &mut [u8]) -> Result<(), Errno> {
    let own = target.as_mut_ptr();
    each(address, target.len(), |done, there| {
        let here = iovec { iov_base: own.wrapping_add(done).cast(), iov_len: there.iov_len };
        // SAFETY: the kernel writes to the rest of `target`, which is borrowed exclusively. It reads the other memory, which
        // it checks itself: no address makes this fail otherwise than with an error.
        unsafe {
            process_vm_readv(getpid().as_raw_nonzero().get(), &raw const here, 1, &raw const there, 1, 0)
        }
    })
}

/// Copies `data` to this address of this process.
///
/// # Safety
///
/// The bytes there are borrowed, exclusively or as a region, and are not those of `data`.
pub(super) unsafe fn write(data: &[u8], address: u64) -> Result<(), Errno> {
    each(address, data.len(), |done, there| {
        let rest = data.as_ptr().wrapping_add(done).cast_mut();
        let here = iovec { iov_base: rest.cast(), iov_len: there.iov_len };
        // SAFETY: the kernel reads the rest of `data`. It writes to memory that the caller vouches for, and does not if
        // that memory is read-only.
        unsafe {
            process_vm_writev(getpid().as_raw_nonzero().get(), &raw const here, 1, &raw const there, 1, 0)
        }
    })
}

/// Calls `copy` until all bytes are copied: a call may end early. It gets the number of bytes that are done, and the place of
/// the others.
fn each(address: u64, length: usize, copy: impl Fn(usize, iovec) -> isize) -> Result<(), Errno> {
    let start = usize::try_from(address).map_err(|_| Errno::FAULT)?;
    let mut done = 0;
    while done < length {
        let place = std::ptr::with_exposed_provenance_mut(start.checked_add(done).ok_or(Errno::FAULT)?);
        let copied = copy(done, iovec { iov_base: place, iov_len: length - done });
        match usize::try_from(copied) {
            Ok(0) => return Err(Errno::FAULT),
            Ok(copied) => done += copied,
            Err(_) => return Err(last_error()),
        }
    }
    Ok(())
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::FAULT)
}
