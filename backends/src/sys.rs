// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls on block devices that no safe library offers. All unsafe code of this crate is here.

use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::{Errno, Result};
use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};
use std::ffi::c_int;

/// Gets whether a block device is read-only.
const BLKROGET: Opcode = opcode::none(0x12, 94);
/// Discards bytes of a block device, given as two 64-bit numbers.
const BLKDISCARD: Opcode = opcode::none(0x12, 119);

/// Whether the block device is read-only. The descriptor must be that of a block device.
pub(crate) fn is_read_only(device: impl AsFd) -> Result<bool> {
    // SAFETY: the kernel has this call for every block device, and writes one C int.
    let call = unsafe { Getter::<BLKROGET, c_int>::new() };
    // SAFETY: as above.
    unsafe { ioctl(device, call) }.map(|set| set != 0)
}

/// Discards `length` bytes from `offset` on. The descriptor must be that of a block device.
pub(crate) fn discard(device: impl AsFd, offset: u64, length: u64) -> Result<()> {
    let device: BorrowedFd<'_> = device.as_fd();
    loop {
        // SAFETY: the kernel has this call for every block device, and reads two 64-bit numbers.
        let call = unsafe { Setter::<BLKDISCARD, [u64; 2]>::new([offset, length]) };
        // SAFETY: as above. The caller wants the device's data discarded.
        match unsafe { ioctl(device, call) } {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
