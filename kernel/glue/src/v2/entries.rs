// SPDX-License-Identifier: GPL-2.0-only
//! The array of commits in the memory of the server: its entries are read one by one where that must be, and refused entries
//! get their status.
//!
//! Called in the server's process context with no lock held; may sleep.

use core::mem::offset_of;
use core::slice;

use zosbd2_abi::v2 as abi;
use zosbd2_engine::Errno;

use super::progress::{Progress, note};
use crate::shim;

/// Reads entries of `bytes` one by one. Stops before the first one that cannot be read, or of which a part is
/// unknown. Returns the number of entries, which is at least 1.
///
/// # Errors
///
/// `EFAULT` if the first entry cannot be read, `E2BIG` if its unknown part is not zero.
#[cold]
#[inline(never)]
pub(super) fn read_each(user: u64, bytes: u32, entries: &mut [abi::Commit]) -> Result<usize, Errno> {
    let mut at = user;
    let mut read = 0_usize;
    for entry in entries {
        match read_one(at, bytes, entry) {
            Ok(()) => {}
            Err(errno) if read == 0 => return Err(errno),
            Err(_) => break,
        }
        read = read.wrapping_add(1);
        at = at.wrapping_add(bytes.into());
    }
    Ok(read)
}

fn read_one(user: u64, bytes: u32, entry: &mut abi::Commit) -> Result<(), Errno> {
    shim::user_read_all(user, slice::from_mut(entry))?;
    let unknown = bytes.saturating_sub(abi::COMMIT_BYTES);
    if unknown > 0 && !shim::user_is_zero(user.wrapping_add(abi::COMMIT_BYTES.into()), unknown)? {
        return Err(Errno::E2BIG);
    }
    Ok(())
}

/// Refuses entries of which a part is unknown and not zero.
#[cold]
pub(super) fn refuse_unknown(entries: &mut [abi::Commit], progress: &mut Progress) {
    for entry in entries {
        note(entry, progress, Err(Errno::E2BIG));
        progress.processed = progress.processed.wrapping_add(1);
    }
}

/// Writes the status of the refused entries of `bytes`.
#[cold]
pub(super) fn tell(user: u64, bytes: u32, entries: &[abi::Commit]) -> Result<(), Errno> {
    let mut at = user.wrapping_add(offset_of!(abi::Commit, status) as u64);
    for entry in entries {
        if entry.status != 0 {
            shim::user_write(at, &entry.status)?;
        }
        at = at.wrapping_add(bytes.into());
    }
    Ok(())
}
