// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ioctls of interface version 2, one function each. ENTER is in [`super::enter`].
//!
//! [`crate::v2`] calls them on a control node that answered the ping, or on a server descriptor, or on a
//! descriptor that another process passed as one. The numbers carry the sizes of their arguments, so a
//! foreign driver that defines the same number accesses no more memory than the module does. The argument
//! belongs to the kernel during the call and to the caller afterwards. After an error the kernel may have
//! changed a part of it, which is harmless because every bit pattern is valid.

use super::fork::OwnFd;
use rustix::fd::{BorrowedFd, FromRawFd, OwnedFd};
use rustix::io::Result;
use rustix::ioctl::{Ioctl, IoctlOutput, NoArg, Opcode, Updater, ioctl};
use std::ffi::c_void;
use zosbd2_abi::{v1, v2};

/// Pings a control node, which is that of both versions.
pub(crate) fn ping(node: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: the call carries no pointer, so even a foreign driver cannot access memory of this process.
    let call = unsafe { NoArg::<{ v1::IOCTL_PING as Opcode }>::new() };
    // SAFETY: as above.
    unsafe { ioctl(node, call) }
}

macro_rules! updating {
    ($(#[$doc:meta])* $name:ident, $number:ident, $argument:ident, $bytes:ident) => {
        $(#[$doc])*
        pub(crate) fn $name(node: BorrowedFd<'_>, argument: &mut v2::$argument) -> Result<()> {
            argument.size = v2::$bytes;
            // SAFETY: the kernel reads and writes at most the bytes of this `repr(C)` struct of plain
            // integers, as its first field says; the reference is exclusive.
            let call = unsafe { Updater::<{ v2::$number as Opcode }, v2::$argument>::new(argument) };
            // SAFETY: see above. On nodes and descriptors of the module the number stands for this call; the
            // module's header says why it is harmless on others.
            unsafe { ioctl(node, call) }
        }
    };
}

updating!(
    /// Gets the abilities and limits of the module.
    info, IOCTL_INFO, Info, INFO_BYTES
);
updating!(
    /// Destroys a device and waits until it is gone.
    destroy, IOCTL_DESTROY, Destroy, DESTROY_BYTES
);
updating!(
    /// Gets the properties and the state of a device.
    status, IOCTL_STATUS, Status, STATUS_BYTES
);
updating!(
    /// Changes settings of a device.
    settings, IOCTL_SETTINGS, Settings, SETTINGS_BYTES
);
updating!(
    /// Creates the block node.
    start, IOCTL_START, Start, START_BYTES
);
updating!(
    /// Changes the size.
    resize, IOCTL_RESIZE, Resize, RESIZE_BYTES
);
updating!(
    /// States what a server has of the servers before it.
    claim, IOCTL_CLAIM, Claim, CLAIM_BYTES
);
updating!(
    /// Gets the counters of one queue.
    stats, IOCTL_STATS, Stats, STATS_BYTES
);

updating!(
    /// Gets the latency histograms of one queue.
    latency, IOCTL_LATENCY, Latency, LATENCY_BYTES
);
updating!(
    /// Reads or replaces the blob.
    blob, IOCTL_BLOB, Blob, BLOB_ARGUMENT_BYTES
);

/// Lists the requests of a queue that were submitted at least `age_ms` ago into `entries`. Returns the number
/// of written entries and the number of such requests.
pub(crate) fn requests(
    node: BorrowedFd<'_>,
    queue: u32,
    age_ms: u32,
    entries: &mut [v2::Outstanding],
) -> Result<(usize, usize)> {
    let mut argument = v2::Requests {
        size: v2::REQUESTS_BYTES,
        queue,
        age_ms,
        entries: entries.as_mut_ptr().expose_provenance() as u64,
        capacity: u32::try_from(entries.len()).unwrap_or(u32::MAX),
        ..v2::Requests::default()
    };
    // SAFETY: as in `updating`; besides the argument the kernel writes at most `capacity` entries of plain
    // integers behind `entries`, which is borrowed exclusively until the call returns.
    let call = unsafe { Updater::<{ v2::IOCTL_REQUESTS as Opcode }, v2::Requests>::new(&mut argument) };
    // SAFETY: as above.
    unsafe { ioctl(node, call) }?;
    Ok((argument.count as usize, argument.total as usize))
}

/// Creates a device; returns its server descriptor.
pub(crate) fn create(node: BorrowedFd<'_>, argument: &mut v2::Create) -> Result<OwnFd> {
    argument.size = v2::CREATE_BYTES;
    // SAFETY: `Opening` passes this struct, for which the number is defined; see `updating`.
    OwnFd::open(|| unsafe { ioctl(node, Opening { number: v2::IOCTL_CREATE, argument }) })
}

/// Becomes the server of a device; returns a server descriptor.
pub(crate) fn attach(node: BorrowedFd<'_>, argument: &mut v2::Attach) -> Result<OwnFd> {
    argument.size = v2::ATTACH_BYTES;
    // SAFETY: `Opening` passes this struct, for which the number is defined; see `updating`.
    OwnFd::open(|| unsafe { ioctl(node, Opening { number: v2::IOCTL_ATTACH, argument }) })
}

/// Lists devices into `entries`. Returns the number of written entries and the number of devices.
pub(crate) fn list(node: BorrowedFd<'_>, entries: &mut [v2::ListEntry]) -> Result<(usize, usize)> {
    let mut argument = v2::List {
        size: v2::LIST_BYTES,
        entries: entries.as_mut_ptr().expose_provenance() as u64,
        capacity: u32::try_from(entries.len()).unwrap_or(u32::MAX),
        ..v2::List::default()
    };
    // SAFETY: as in `updating`; besides the argument the kernel writes at most `capacity` entries of plain
    // integers behind `entries`, which is borrowed exclusively until the call returns.
    let call = unsafe { Updater::<{ v2::IOCTL_LIST as Opcode }, v2::List>::new(&mut argument) };
    // SAFETY: as above.
    unsafe { ioctl(node, call) }?;
    Ok((argument.count as usize, argument.total as usize))
}

/// An ioctl whose result is a new descriptor.
struct Opening<'a, T> {
    number: u32,
    argument: &'a mut T,
}

// SAFETY: `argument` is valid and exclusive during the call, and `IS_MUTATING` says that the call changes it.
// Both users of this type in this module pair a number with the argument that it is defined for, and their
// calls return a new descriptor that nobody else owns.
unsafe impl<T> Ioctl for Opening<'_, T> {
    type Output = OwnedFd;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.number as Opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(self.argument).cast()
    }

    unsafe fn output_from_ptr(result: IoctlOutput, _: *mut c_void) -> Result<OwnedFd> {
        // SAFETY: the call succeeded, so its result is a new descriptor that nobody else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(result) })
    }
}
