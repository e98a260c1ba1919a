// SPDX-License-Identifier: GPL-2.0-only
//! How far an ENTER came: what its caller reads even after an error.

use zosbd2_abi::v2 as abi;
use zosbd2_engine::Errno;

use crate::shim;

/// Progress of an ENTER.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Entries carried out or refused.
    pub processed: u32,
    /// Entries refused.
    pub refused: u32,
    /// Requests fetched.
    pub fetched: u32,
}

impl Progress {
    /// Writes the progress into an ENTER's argument. May sleep.
    ///
    /// # Errors
    ///
    /// `EFAULT`.
    #[inline]
    pub fn tell(&self, results: u64) -> Result<(), Errno> {
        shim::user_write_all(results, &[self.processed, self.refused, self.fetched])
    }
}

/// Records the outcome of an entry.
#[inline]
pub(super) fn note(entry: &mut abi::Commit, progress: &mut Progress, result: Result<(), Errno>) {
    if let Err(errno) = result {
        entry.status = errno.negative();
        progress.refused = progress.refused.wrapping_add(1);
    }
}
