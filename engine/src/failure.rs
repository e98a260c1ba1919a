// SPDX-License-Identifier: GPL-2.0-only
//! With which error a request fails when its server answers with an error number.
//!
//! The block layer and those above it take some errors for something else than a failure:
//!
//! | errno | by whom | taken for |
//! |---|---|---|
//! | `EOPNOTSUPP` of a flush | `blkdev_fsync()` | a disk without a cache: fsync succeeds |
//! | `EOPNOTSUPP` of a read or write | file systems | a feature to do without |
//! | `EAGAIN` | `io_uring`, device mapper, programs | nothing was tried, try again |
//! | `EREMCHG` | device mapper | its own sign to queue the request again |
//! | `ENODATA` of a read | XFS | there is no such attribute |
//! | `ENOSPC` of a read | XFS | the file system is full |
//! | `ENOMEM`, `EBUSY` | page faults, NFS, programs | the kernel, not the disk, is short of something for now |
//! | `EINVAL` | programs; 6.12, while 6.1 has `EIO` | direct I/O that is not aligned |
//! | `ETIME`, `ETOOMANYREFS`, `EOVERFLOW` | file systems | limits of zones and durations, which these disks do not have |
//!
//! So a submitter gets what every caller sees as a failure: `EIO`, or a number that says which failure and means nothing
//! else. "Not supported" is passed on where it has a meaning that is right: the kernel writes zeros instead of asking
//! for them, and does without discards. What is not in the block layer's own table is `EIO` there, too.

use crate::errno::Errno;
use crate::request::{FUA, Op, Request};

/// The error with which the request fails, if its server answers with this one.
#[cold]
#[must_use]
pub const fn told(request: &Request, errno: Errno) -> Errno {
    let writes = match request.op {
        // What became durable is told by success alone.
        Op::Flush => return Errno::EIO,
        Op::Write if request.flags & FUA != 0 => return Errno::EIO,
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
