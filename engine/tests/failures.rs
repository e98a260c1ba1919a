// SPDX-License-Identifier: GPL-2.0-only
//! The error with which a request fails, for every error number that a server can answer and for every
//! operation.

use std::collections::BTreeSet;

use zosbd2_abi::v2 as abi;
use zosbd2_engine::Errno;
use zosbd2_engine::request::{FUA, MAYBE_EXECUTED, NO_UNMAP, Op, Request};
use zosbd2_engine::v2::{Plan, plan};

const EIO: i32 = 5;

/// The numbers that reach the submitter unchanged. It gets `EIO` for all others.
fn passed(op: Op) -> BTreeSet<i32> {
    // ENODEV, EBADE, ENOLINK, EILSEQ, ETIMEDOUT, EREMOTEIO.
    let failures = [EIO, 19, 52, 67, 84, 110, 121];
    let (no_space, not_supported) = (28, 95);
    match op {
        Op::Flush => [EIO].into(),
        Op::Read => failures.into(),
        Op::Write => failures.into_iter().chain([no_space]).collect(),
        Op::Discard | Op::WriteZeroes | Op::SecureErase => {
            failures.into_iter().chain([no_space, not_supported]).collect()
        }
    }
}

#[test]
fn no_error_is_taken_for_something_else() {
    let ops = [Op::Read, Op::Write, Op::Discard, Op::Flush, Op::WriteZeroes, Op::SecureErase];
    for op in ops {
        for flags in (0..8).filter(|flags| flags & !(FUA | NO_UNMAP | MAYBE_EXECUTED) == 0) {
            let length = if op == Op::Flush { 0 } else { 4096 };
            let request = Request { op, flags, offset: 0, length };
            let passed = passed(op);
            for errno in 1..=4095 {
                let commit = abi::Commit { result: -i64::from(errno), ..abi::Commit::default() };
                let Ok(Plan::Finish(Err(told))) = plan(&request, &commit) else {
                    panic!("{op:?} answered with -{errno} does not fail")
                };
                let wanted = if passed.contains(&errno) { errno } else { EIO };
                assert_eq!(told.get(), wanted, "{op:?}, flags {flags}, answered with -{errno}");
            }
        }
    }
    assert_eq!(Errno::EIO.get(), EIO);
}
