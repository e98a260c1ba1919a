// SPDX-License-Identifier: GPL-2.0-only
//! Which requests a deadline concerns, on a device whose deadline changes while it is in use.
//!
//! The block layer stores a timeout in each request when the request starts. A request of a device without a deadline
//! starts with the timeout [`NONE_MS`], so that it can be told apart however long it waits. A request's time of
//! submission cannot tell that: it is the time when the request was made, which may be long before it reaches the
//! driver.

/// Timeout of requests that start while the device has no deadline, in milliseconds. Longer than any deadline, and a
/// whole number of ticks for every tick rate.
pub const NONE_MS: u32 = 1_000_000_000;

/// Whether a request whose timeout has passed is late. `deadline_ms` is the device's present deadline, 0 for none;
/// `timeout_ms` is the timeout with which the request started. A request that is not late now never will be.
#[must_use]
pub const fn is_late(deadline_ms: u32, timeout_ms: u32) -> bool {
    deadline_ms != 0 && timeout_ms < NONE_MS
}

#[cfg(test)]
mod tests {
    use super::*;
    use zosbd2_abi::v2::MAX_MILLISECONDS;

    #[test]
    fn a_request_is_late_by_the_deadline_that_it_was_sent_with() {
        const { assert!(MAX_MILLISECONDS < NONE_MS && NONE_MS.is_multiple_of(1000)) };
        // The timeout that the request was sent with, the device's deadline when that passes, and whether it is late.
        let cases = [
            (1000, 1000, true),
            (1000, 60_000, true),
            (60_000, 1000, true),
            (MAX_MILLISECONDS, 1, true),
            (NONE_MS, 1, false),
            (NONE_MS, MAX_MILLISECONDS, false),
            (1000, 0, false),
            (NONE_MS, 0, false),
        ];
        for (timeout_ms, deadline_ms, late) in cases {
            assert_eq!(is_late(deadline_ms, timeout_ms), late, "{timeout_ms} of {deadline_ms}");
        }
    }
}
