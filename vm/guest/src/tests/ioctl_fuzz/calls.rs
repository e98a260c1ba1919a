// SPDX-License-Identifier: MIT OR Apache-2.0
//! The calls that the fuzzer counts, and the errors that the documents allow for each call.

use rustix::io::Errno;

/// A call whose outcomes are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Call {
    Info,
    Create,
    Attach,
    Observe,
    Destroy,
    List,
    Status,
    Settings,
    Start,
    Resize,
    Claim,
    Stats,
    Enter,
    Latency,
    Requests,
    Blob,
    OwnStatus,
    OwnSettings,
    Succeed,
    /// One entry of an ENTER.
    Commit,
    /// A write that came with its data in a buffer of a list.
    Buffered,
    Ping1,
    Create1,
    DestroyByHandle1,
    DestroyByName1,
    DestroyAll1,
    HandleByName1,
    List1,
    Status1,
    BlockPing1,
    Fetch1,
    Answer1,
    /// Unknown ioctl numbers.
    UnknownControl,
    UnknownServer,
    UnknownBlock,
    Poll,
    Pass,
    Receive,
    Open,
    Read,
    Write,
    Sync,
    Discard,
    WriteZeroes,
    SecureErase,
    Rescan,
    FlushBuffers,
    Map,
}

/// A call in the table.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) call: Call,
    pub(super) name: &'static str,
    /// Allowed errors. `None` for submitters' calls, whose errors the block layer chooses.
    pub(super) errors: Option<&'static [Errno]>,
}

const fn row(call: Call, name: &'static str, errors: &'static [Errno]) -> Row {
    Row { call, name, errors: Some(errors) }
}

const fn any(call: Call, name: &'static str) -> Row {
    Row { call, name, errors: None }
}

const INVAL: Errno = Errno::INVAL;
const FAULT: Errno = Errno::FAULT;
const TOOBIG: Errno = Errno::TOOBIG;
const NOENT: Errno = Errno::NOENT;
const NODEV: Errno = Errno::NODEV;
const STALE: Errno = Errno::STALE;
const PERM: Errno = Errno::PERM;
const BUSY: Errno = Errno::BUSY;

/// One row per call, in the order of their numbers. Errors as in `docs/abi-v2.md` and `docs/abi-v1.md`.
pub(super) const ROWS: [Row; 48] = [
    row(Call::Info, "info", &[INVAL, TOOBIG, FAULT]),
    row(
        Call::Create,
        "create",
        &[INVAL, TOOBIG, FAULT, Errno::RANGE, Errno::OVERFLOW, Errno::EXIST, Errno::NOSPC, Errno::NOMEM],
    ),
    row(Call::Attach, "attach", &[INVAL, TOOBIG, FAULT, NOENT, STALE, BUSY, NODEV]),
    // An argument with changed flags belongs to another kind of attach.
    row(Call::Observe, "attach to observe", &[INVAL, TOOBIG, FAULT, NOENT, STALE, BUSY, NODEV]),
    row(Call::Destroy, "destroy", &[INVAL, TOOBIG, FAULT, NOENT, STALE, BUSY]),
    row(Call::List, "list", &[INVAL, TOOBIG, FAULT]),
    row(Call::Status, "status", &[INVAL, TOOBIG, FAULT, NOENT]),
    row(Call::Settings, "settings", &[INVAL, TOOBIG, FAULT, Errno::RANGE, NOENT, STALE, NODEV]),
    row(
        Call::Start,
        "start",
        &[INVAL, TOOBIG, FAULT, Errno::ALREADY, Errno::EXIST, NODEV, Errno::SHUTDOWN, PERM],
    ),
    row(Call::Resize, "resize", &[INVAL, TOOBIG, FAULT, Errno::RANGE, NODEV, Errno::SHUTDOWN, PERM]),
    row(Call::Claim, "claim", &[INVAL, TOOBIG, FAULT, Errno::ALREADY, NODEV, Errno::SHUTDOWN, PERM]),
    row(Call::Stats, "stats", &[INVAL, TOOBIG, FAULT]),
    row(Call::Enter, "enter", &[INVAL, TOOBIG, FAULT, Errno::INTR, NODEV, Errno::SHUTDOWN, PERM]),
    row(Call::Latency, "latency", &[INVAL, TOOBIG, FAULT]),
    row(Call::Requests, "requests", &[INVAL, TOOBIG, FAULT]),
    row(Call::Blob, "blob", &[INVAL, TOOBIG, FAULT, NODEV, Errno::SHUTDOWN, PERM]),
    row(Call::OwnStatus, "own status", &[INVAL, TOOBIG, FAULT]),
    row(
        Call::OwnSettings,
        "own settings",
        &[INVAL, TOOBIG, FAULT, Errno::RANGE, STALE, NODEV, Errno::SHUTDOWN, PERM],
    ),
    row(
        Call::Succeed,
        "attach from a server",
        &[INVAL, TOOBIG, FAULT, STALE, BUSY, NODEV, Errno::SHUTDOWN, PERM],
    ),
    row(Call::Commit, "commit", &[STALE, FAULT, INVAL, TOOBIG]),
    row(Call::Buffered, "data in a buffer", &[]),
    row(Call::Ping1, "v1 ping", &[]),
    row(Call::Create1, "v1 create", &[INVAL, Errno::RANGE, Errno::EXIST, Errno::NOMEM]),
    row(Call::DestroyByHandle1, "v1 destroy by handle", &[INVAL, NOENT, BUSY]),
    row(Call::DestroyByName1, "v1 destroy by name", &[INVAL, NOENT, BUSY]),
    row(Call::DestroyAll1, "v1 destroy all", &[INVAL, BUSY]),
    row(Call::HandleByName1, "v1 handle by name", &[INVAL, NOENT]),
    row(Call::List1, "v1 list", &[INVAL]),
    row(Call::Status1, "v1 status", &[INVAL, NOENT]),
    row(Call::BlockPing1, "v1 node ping", &[]),
    row(Call::Fetch1, "v1 fetch", &[INVAL, NOENT, Errno::BADF, Errno::NOMEM, Errno::INTR]),
    row(Call::Answer1, "v1 answer", &[INVAL, NOENT, Errno::BADF, Errno::NOMEM, Errno::INTR]),
    row(Call::UnknownControl, "unknown to control", &[Errno::NOTTY, INVAL]),
    row(Call::UnknownServer, "unknown to server", &[Errno::NOTTY]),
    row(Call::UnknownBlock, "unknown to node", &[Errno::NOTTY, INVAL]),
    row(Call::Poll, "poll", &[Errno::INTR]),
    any(Call::Pass, "pass a descriptor"),
    any(Call::Receive, "receive one"),
    any(Call::Open, "open"),
    any(Call::Read, "read"),
    any(Call::Write, "write"),
    any(Call::Sync, "fsync"),
    any(Call::Discard, "discard"),
    any(Call::WriteZeroes, "write zeroes"),
    any(Call::SecureErase, "secure erase"),
    any(Call::Rescan, "reread partitions"),
    any(Call::FlushBuffers, "flush buffers"),
    any(Call::Map, "map"),
];

/// Number of outcomes of a call: 0 for success, or the errno.
pub(super) const OUTCOMES: usize = 134;

impl Call {
    pub(super) fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }

    /// Whether the call may succeed.
    pub(super) const fn may_succeed(self) -> bool {
        !matches!(self, Self::UnknownControl | Self::UnknownServer | Self::UnknownBlock)
    }

    /// Whether the call may have this outcome.
    pub(super) fn may_end(self, result: Result<(), Errno>) -> bool {
        match (result, self.row().errors) {
            (Ok(()), _) => self.may_succeed(),
            (Err(errno), Some(errors)) => errors.contains(&errno),
            (Err(_), None) => true,
        }
    }
}

/// The number under which an outcome is counted.
pub(super) fn outcome(result: Result<(), Errno>) -> usize {
    let number = result.map_or_else(Errno::raw_os_error, |()| 0);
    usize::try_from(number).ok().filter(|number| *number < OUTCOMES).unwrap_or(OUTCOMES - 1)
}

/// Name of an outcome.
pub(super) fn outcome_name(number: usize) -> String {
    const NAMES: [(Errno, &str); 24] = [
        (PERM, "EPERM"),
        (NOENT, "ENOENT"),
        (Errno::INTR, "EINTR"),
        (Errno::IO, "EIO"),
        (Errno::NXIO, "ENXIO"),
        (TOOBIG, "E2BIG"),
        (Errno::BADF, "EBADF"),
        (Errno::AGAIN, "EAGAIN"),
        (Errno::NOMEM, "ENOMEM"),
        (FAULT, "EFAULT"),
        (BUSY, "EBUSY"),
        (Errno::EXIST, "EEXIST"),
        (NODEV, "ENODEV"),
        (INVAL, "EINVAL"),
        (Errno::NOTTY, "ENOTTY"),
        (Errno::NOSPC, "ENOSPC"),
        (Errno::ROFS, "EROFS"),
        (Errno::RANGE, "ERANGE"),
        (Errno::OVERFLOW, "EOVERFLOW"),
        (Errno::OPNOTSUPP, "EOPNOTSUPP"),
        (Errno::SHUTDOWN, "ESHUTDOWN"),
        (Errno::CONNREFUSED, "ECONNREFUSED"),
        (Errno::ALREADY, "EALREADY"),
        (Errno::STALE, "ESTALE"),
    ];
    if number == 0 {
        return "ok".to_owned();
    }
    let named = NAMES.iter().find(|(errno, _)| outcome(Err(*errno)) == number);
    named.map_or_else(|| format!("errno {number}"), |(_, name)| (*name).to_owned())
}

/// Outcomes that every run must see; otherwise the run tested less than it should.
pub(super) const ESSENTIAL: &[(Call, Result<(), Errno>)] = &[
    (Call::Info, Ok(())),
    (Call::Create, Ok(())),
    (Call::Create, Err(INVAL)),
    (Call::Create, Err(Errno::EXIST)),
    (Call::Attach, Ok(())),
    (Call::Attach, Err(BUSY)),
    (Call::Attach, Err(NOENT)),
    (Call::Attach, Err(STALE)),
    (Call::Observe, Ok(())),
    (Call::Destroy, Ok(())),
    (Call::Destroy, Err(NOENT)),
    (Call::Destroy, Err(STALE)),
    (Call::List, Ok(())),
    (Call::Status, Ok(())),
    (Call::Status, Err(NOENT)),
    (Call::Start, Ok(())),
    (Call::Start, Err(Errno::ALREADY)),
    (Call::Resize, Ok(())),
    (Call::Claim, Ok(())),
    (Call::Claim, Err(Errno::ALREADY)),
    (Call::Claim, Err(INVAL)),
    (Call::Stats, Ok(())),
    (Call::Enter, Ok(())),
    (Call::Enter, Err(INVAL)),
    (Call::Enter, Err(FAULT)),
    (Call::Enter, Err(TOOBIG)),
    (Call::Enter, Err(NODEV)),
    (Call::Enter, Err(Errno::SHUTDOWN)),
    (Call::Enter, Err(PERM)),
    (Call::Latency, Ok(())),
    (Call::Requests, Ok(())),
    (Call::Blob, Ok(())),
    (Call::Blob, Err(INVAL)),
    (Call::Blob, Err(PERM)),
    (Call::OwnStatus, Ok(())),
    (Call::Settings, Ok(())),
    (Call::Settings, Err(INVAL)),
    (Call::Settings, Err(NOENT)),
    (Call::Settings, Err(STALE)),
    (Call::OwnSettings, Ok(())),
    (Call::OwnSettings, Err(INVAL)),
    (Call::Succeed, Ok(())),
    (Call::Commit, Ok(())),
    (Call::Commit, Err(Errno::STALE)),
    (Call::Commit, Err(INVAL)),
    (Call::Buffered, Ok(())),
    (Call::Ping1, Ok(())),
    (Call::Create1, Ok(())),
    (Call::Create1, Err(INVAL)),
    (Call::HandleByName1, Ok(())),
    (Call::List1, Ok(())),
    (Call::Fetch1, Ok(())),
    (Call::Answer1, Ok(())),
    (Call::UnknownControl, Err(Errno::NOTTY)),
    (Call::UnknownServer, Err(Errno::NOTTY)),
    (Call::Poll, Ok(())),
    (Call::Pass, Ok(())),
    (Call::Receive, Ok(())),
    (Call::Open, Ok(())),
    (Call::Read, Ok(())),
    (Call::Read, Err(Errno::IO)),
    (Call::Write, Ok(())),
    (Call::Write, Err(Errno::IO)),
];

#[cfg(test)]
mod checks {
    use super::*;

    #[test]
    fn rows_are_in_the_order_of_their_numbers() {
        for (index, row) in ROWS.iter().enumerate() {
            assert_eq!(row.call as usize, index, "{}", row.name);
        }
    }

    #[test]
    fn essential_outcomes_are_possible() {
        for (call, result) in ESSENTIAL {
            assert!(call.may_end(*result), "{call:?}: {result:?}");
        }
    }
}
