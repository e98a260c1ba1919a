// SPDX-License-Identifier: GPL-2.0-only
//! Arguments of version 2, which begin with their own size.

use core::mem::size_of;

use zosbd2_engine::Errno;

use crate::shim::{self, Plain};

/// Longest argument that is looked at, in bytes.
const MAX_BYTES: u32 = 4096;

/// Reads an argument, as much of it as is known. May sleep.
///
/// # Errors
///
/// `EINVAL` when it is shorter than the first version of it, `E2BIG` when it is longer than what is known and
/// not zero there, or longer than a page; `EFAULT`.
#[inline]
pub fn read<T: Plain>(user: u64) -> Result<T, Errno> {
    let value = shim::user_read::<T>(user);
    let size: u32 = shim::user_read(user)?;
    let known = u32::try_from(size_of::<T>()).unwrap_or(u32::MAX);
    if size < known {
        // What is too short may end where the memory does.
        return Err(Errno::EINVAL);
    }
    if size > known {
        let tail = user.wrapping_add(known.into());
        if size > MAX_BYTES || !shim::user_is_zero(tail, size.wrapping_sub(known))? {
            return Err(Errno::E2BIG);
        }
    }
    value
}

/// `EINVAL` unless `condition` holds.
pub const fn holds(condition: bool) -> Result<(), Errno> {
    if condition { Ok(()) } else { Err(Errno::EINVAL) }
}
