// SPDX-License-Identifier: GPL-2.0-only
//! The error with which a request fails when its server answers with an error number.
//!
//! The block layer and the code above it give some errors a meaning other than a failure of the request:
//!
//! | errno | interpreted by | as |
//! |---|---|---|
//! | `EOPNOTSUPP` of a flush | `blkdev_fsync()` | a disk without a cache: fsync succeeds |
//! | `EOPNOTSUPP` of a read or write | file systems | a feature to do without |
//! | `EAGAIN` | `io_uring`, device mapper, programs | nothing was done: try again |
//! | `EREMCHG` | device mapper | its own mark to queue the request again |
//! | `ENODATA` of a read | XFS | the attribute does not exist |
//! | `ENOSPC` of a read | XFS | the file system is full |
//! | `ENOMEM`, `EBUSY` | page faults, NFS, programs | a temporary shortage in the kernel, not on the disk |
//! | `EINVAL` | programs (6.12; 6.1 returns `EIO`) | direct I/O that is not aligned |
//! | `ETIME`, `ETOOMANYREFS`, `EOVERFLOW` | file systems | limits of zones and durations, which these disks do not have |
//!
//! So a submitter gets an error that every caller treats as a failure: `EIO`, or a number that names the failure and
//! has no other meaning. "Not supported" is passed on where its meaning is right: the kernel then writes zeros itself,
//! or does without discards. The block layer itself turns errors outside its own table into `EIO`.

use crate::errno::Errno;
use crate::request::{Op, Request};

/// The error with which the request fails if its server answers with this error.
#[cold]
#[must_use]
pub const fn told(request: &Request, errno: Errno) -> Errno {
    let writes = match request.op {
        // Only a successful flush says which data is durable.
        Op::Flush => return Errno::EIO,
        Op::Read => false,
        Op::Write | Op::Discard | Op::WriteZeroes | Op::SecureErase => true,
    };
    let passes = match errno {
        Errno::ENODEV
        | Errno::EBADE
        | Errno::ENOLINK
        | Errno::EILSEQ
        | Errno::ETIMEDOUT
        | Errno::EREMOTEIO => true,
        Errno::ENOSPC => writes,
        Errno::EOPNOTSUPP => matches!(request.op, Op::Discard | Op::WriteZeroes | Op::SecureErase),
        _ => false,
    };
    if passes { errno } else { Errno::EIO }
}
