// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ioctls of interface version 1, one function each.
//!
//! [`crate::v1`] calls them on descriptors whose node it checked when it opened them: a control node (a
//! character device that answers the ping) or a block node of this project. The argument belongs to the
//! kernel during the call and to the caller afterwards, also after an error. After an error the kernel may
//! have changed a part of it, which is harmless because every bit pattern is valid.

use rustix::fd::BorrowedFd;
use rustix::io::{Errno, Result};
use rustix::ioctl::{NoArg, Opcode, Updater, ioctl};
use zosbd2_abi::v1;

macro_rules! updating {
    ($(#[$doc:meta])* $name:ident, $number:ident, $argument:ty) => {
        $(#[$doc])*
        pub(crate) fn $name(node: BorrowedFd<'_>, argument: &mut $argument) -> Result<()> {
            // SAFETY: the kernel reads and writes at most the bytes of this `repr(C)` struct of plain
            // integers, for which the interface defines this number; the reference is exclusive.
            let call = unsafe { Updater::<{ v1::$number as Opcode }, $argument>::new(argument) };
            // SAFETY: see above; the callers of this module checked that the node belongs to the module
            // zosbd2.
            unsafe { ioctl(node, call) }
        }
    };
}

updating!(
    /// Creates a device.
    create, IOCTL_CREATE, v1::Create
);
updating!(
    /// Destroys one device by its handle.
    destroy_by_handle, IOCTL_DESTROY_BY_HANDLE, v1::DestroyByHandle
);
updating!(
    /// Destroys one device by its name.
    destroy_by_name, IOCTL_DESTROY_BY_NAME, v1::DestroyByName
);
updating!(
    /// Destroys all devices.
    destroy_all, IOCTL_DESTROY_ALL, v1::DestroyAll
);
updating!(
    /// Looks up the handle of a name.
    handle_by_name, IOCTL_HANDLE_BY_NAME, v1::HandleByName
);
updating!(
    /// Lists all handles.
    list, IOCTL_LIST, v1::List
);
updating!(
    /// Gets the status of one device.
    status, IOCTL_STATUS, v1::Status
);

/// Pings a block node.
pub(crate) fn block_ping(node: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: the call carries no pointer, so even a foreign driver cannot access memory of this process.
    let call = unsafe { NoArg::<{ v1::IOCTL_BLOCK_PING as Opcode }>::new() };
    // SAFETY: as above.
    unsafe { ioctl(node, call) }
}

/// Answers and fetches. Fails with `EINVAL`, without a call of the kernel, if `buffer` is shorter than
/// [`v1::OPERATION_BYTES`].
pub(crate) fn operation(node: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<()> {
    let bytes = buffer.first_chunk_mut::<{ v1::OPERATION_BYTES }>().ok_or(Errno::INVAL)?;
    // SAFETY: the kernel reads and writes at most `OPERATION_BYTES` bytes behind this exclusive
    // reference, and every value of a byte is valid.
    let call = unsafe { Updater::<{ v1::IOCTL_OPERATION as Opcode }, [u8; v1::OPERATION_BYTES]>::new(bytes) };
    // SAFETY: see above; the callers of this module checked that the node belongs to the module zosbd2.
    unsafe { ioctl(node, call) }
}
