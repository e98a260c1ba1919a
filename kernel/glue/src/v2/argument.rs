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
        check_size(user, known)?;
    }
    read.map(|()| value)
}

#[cold]
fn check_size(user: u64, known: u32) -> Result<(), Errno> {
    // A too short argument may end at the end of its memory, so only the size is read first.
    let size: u32 = shim::user_read(user)?;
    holds(size >= known)?;
    if size > known {
        let tail = user.wrapping_add(known.into());
        if size > MAX_BYTES || !shim::user_is_zero(tail, size.wrapping_sub(known))? {
            return Err(Errno::E2BIG);
        }
    }
    Ok(())
}

/// An argument of version 2.
pub trait Argument: Plain {
    /// The size field.
    fn size(&self) -> u32;
}

macro_rules! arguments {
    ($($name:ident)*) => { $(
        impl Argument for abi::$name {
            #[inline]
            fn size(&self) -> u32 {
                self.size
            }
        }
    )* };
}

arguments!(Info Create Attach Destroy List Status Start Resize Claim Stats Latency Requests Blob Enter);

/// `EINVAL` unless `condition` holds.
pub const fn holds(condition: bool) -> Result<(), Errno> {
    if condition { Ok(()) } else { Err(Errno::EINVAL) }
}
