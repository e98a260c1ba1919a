// SPDX-License-Identifier: GPL-2.0-only
//! Arguments of version 2, which begin with their own size.

use core::mem::size_of;
use core::slice;

use zosbd2_abi::v2 as abi;
use zosbd2_engine::Errno;

use crate::shim::{self, Plain};

/// Longest accepted argument, in bytes.
const MAX_BYTES: u32 = 4096;

/// Reads the known part of an argument. May sleep.
///
/// # Errors
///
/// `EINVAL` if the argument is shorter than its first version. `E2BIG` if it is longer than a page, or longer
/// than the known part and not zero there. `EFAULT` if it cannot be read.
#[inline]
pub fn read<T: Argument>(user: u64) -> Result<T, Errno> {
    let known = u32::try_from(size_of::<T>()).unwrap_or(u32::MAX);
    // Read into its place: a `Result` with the value would be a second copy on the stack, and the frames of the callers
    // are near the limit.
    let mut value = T::default();
    let read = shim::user_read_all(user, slice::from_mut(&mut value));
    if read.is_err() || value.size() != known {
        let size = check_size(user, T::FIRST_BYTES, known)?;
        if T::FIRST_BYTES < known && size < known {
            return shim::user_read_front(user, size as usize);
        }
    }
    read.map(|()| value)
}

/// Writes an argument back, as far as its caller knows it.
///
/// # Errors
///
/// `EFAULT`.
pub fn write<T: Argument>(user: u64, value: &T) -> Result<(), Errno> {
    shim::user_write_front(user, value, value.size() as usize)
}

#[cold]
fn check_size(user: u64, first: u32, known: u32) -> Result<u32, Errno> {
    // A too short argument may end at the end of its memory, so only the size is read first.
    let size: u32 = shim::user_read(user)?;
    holds(size >= first)?;
    if size > known {
        let tail = user.wrapping_add(known.into());
        if size > MAX_BYTES || !shim::user_is_zero(tail, size.wrapping_sub(known))? {
            return Err(Errno::E2BIG);
        }
    }
    Ok(size)
}

/// An argument of version 2.
pub trait Argument: Plain {
    /// Bytes of its first version.
    const FIRST_BYTES: u32;

    /// The size field.
    fn size(&self) -> u32;
}

macro_rules! arguments {
    ($($name:ident $first:ident,)*) => { $(
        impl Argument for abi::$name {
            const FIRST_BYTES: u32 = abi::$first;

            #[inline]
            fn size(&self) -> u32 {
                self.size
            }
        }
    )* };
}

arguments! {
    Info INFO_BYTES,
    Create CREATE_BYTES,
    Attach ATTACH_BYTES,
    Destroy DESTROY_BYTES,
    List LIST_BYTES,
    Status STATUS_FIRST_BYTES,
    Settings SETTINGS_BYTES,
    Start START_BYTES,
    Resize RESIZE_BYTES,
    Claim CLAIM_BYTES,
    Stats STATS_BYTES,
    Latency LATENCY_BYTES,
    Requests REQUESTS_BYTES,
    Blob BLOB_ARGUMENT_BYTES,
    Enter ENTER_BYTES,
}

/// `EINVAL` unless `condition` holds.
pub const fn holds(condition: bool) -> Result<(), Errno> {
    if condition { Ok(()) } else { Err(Errno::EINVAL) }
}
