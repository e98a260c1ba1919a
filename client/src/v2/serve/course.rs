// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the caller of a serve loop does next: a pure state machine.
//!
//! The thread that waits for the serving threads feeds it events and carries out the steps. Two things go on
//! independently of each other, so the state has two parts.
//!
//! ```text
//! stop:   Running --stop--> Stopping --force--> Forced    (or --force--> from anywhere)
//! leave:  Serving --unserved--> Leaving(n) --left--> Left
//!                               Leaving(n) --failed--> Leaving(n + 1)   at most MAX_FAILURES
//! ```
//!
//! When the number of failed attempts to leave reaches its limit, each further failure also destroys the
//! device by force, because otherwise nobody answers its requests. The size is followed only in the state
//! `Running`, because a device that is being destroyed needs no other size.

use super::calls::{MAX_FAILURES, PAUSE};
use std::time::Duration;

/// Time between two looks at the backend's size.
const SIZE_PAUSE: Duration = Duration::from_secs(1);

/// How far stopping has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Nobody asked for a stop.
    Running,
    /// The device is destroyed as soon as it is unused.
    Stopping,
    /// The device is destroyed by force.
    Forced,
}

/// How far leaving the device to another server has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// Every queue has a thread.
    Serving,
    /// A queue has no thread. This many attempts to leave have failed.
    Leaving(u32),
    /// The device is left, and the threads are about to end.
    Left,
}

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Another request to stop.
    StopRequest,
    /// A request to stop by force.
    ForceRequest,
    /// A queue has no thread left, or the time for the next attempt to leave has come.
    Unserved,
    /// The attempt to leave succeeded.
    Left,
    /// The attempt to leave failed.
    LeaveFailed,
    /// Nothing else happened for a while.
    Idle,
}

/// What to do about an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    Wait,
    /// Resize the device if the backend's size has changed.
    FollowSize,
    /// Try to leave the device, and report the outcome as an event.
    Leave,
    /// Destroy the device as soon as it is unused.
    DestroyWhenUnused,
    /// Tell what still uses the device, which is to be destroyed as soon as it is unused.
    TellUse,
    /// Destroy the device by force.
    DestroyByForce,
}

/// The state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Course {
    pub(super) stop: Stop,
    pub(super) leave: Leave,
}

impl Course {
    pub(super) const fn new() -> Self {
        Self { stop: Stop::Running, leave: Leave::Serving }
    }

    /// Takes an event in and returns what to do.
    pub(super) const fn step(&mut self, event: Event) -> Step {
        match (event, self.stop, self.leave) {
            (Event::StopRequest, Stop::Running, _) => {
                self.stop = Stop::Stopping;
                Step::DestroyWhenUnused
            }
            (Event::StopRequest, Stop::Stopping, _) => Step::TellUse,
            (Event::ForceRequest, _, _) => {
                self.stop = Stop::Forced;
                Step::DestroyByForce
            }
            (Event::Unserved, _, Leave::Serving) => {
                self.leave = Leave::Leaving(0);
                Step::Leave
            }
            (Event::Unserved, _, Leave::Leaving(_)) => Step::Leave,
            (Event::Left, _, _) => {
                self.leave = Leave::Left;
                Step::Wait
            }
            (Event::LeaveFailed, _, Leave::Leaving(failures)) => {
                if failures + 1 >= MAX_FAILURES {
                    self.leave = Leave::Leaving(MAX_FAILURES);
                    return Step::DestroyByForce;
                }
                self.leave = Leave::Leaving(failures + 1);
                Step::Wait
            }
            (Event::Idle, Stop::Running, _) => Step::FollowSize,
            (Event::StopRequest | Event::Unserved | Event::LeaveFailed | Event::Idle, _, _) => Step::Wait,
        }
    }

    /// Whether a queue without threads is news.
    pub(super) const fn heeds_unserved(self) -> bool {
        matches!(self.leave, Leave::Serving)
    }

    /// Whether the next attempt to leave is due when the wait is over.
    pub(super) const fn retries(self) -> bool {
        matches!(self.leave, Leave::Leaving(_))
    }

    /// Longest time to wait for an event; `None`: for ever.
    pub(super) const fn patience(self) -> Option<Duration> {
        match (self.leave, self.stop) {
            (Leave::Leaving(failures), _) if failures < MAX_FAILURES => Some(PAUSE),
            (Leave::Leaving(_), _) | (Leave::Serving | Leave::Left, Stop::Running) => Some(SIZE_PAUSE),
            (Leave::Serving | Leave::Left, Stop::Stopping | Stop::Forced) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAST: u32 = MAX_FAILURES - 1;

    /// Every edge of the drawing: state, event, state afterwards, step.
    #[test]
    fn each_event_in_each_state() {
        use Event::{ForceRequest, Idle, LeaveFailed, StopRequest, Unserved};
        use Leave::{Leaving, Serving};
        use Stop::{Forced, Running, Stopping};
        let stops = [
            (Running, StopRequest, Stopping, Step::DestroyWhenUnused),
            (Stopping, StopRequest, Stopping, Step::TellUse),
            (Forced, StopRequest, Forced, Step::Wait),
            (Running, ForceRequest, Forced, Step::DestroyByForce),
            (Stopping, ForceRequest, Forced, Step::DestroyByForce),
            (Forced, ForceRequest, Forced, Step::DestroyByForce),
            (Running, Idle, Running, Step::FollowSize),
            (Stopping, Idle, Stopping, Step::Wait),
            (Forced, Idle, Forced, Step::Wait),
        ];
        for leave in [Serving, Leaving(0), Leaving(MAX_FAILURES), Leave::Left] {
            for (before, event, after, step) in stops {
                let mut course = Course { stop: before, leave };
                assert_eq!(course.step(event), step, "{event:?} while {before:?}, {leave:?}");
                assert_eq!(course, Course { stop: after, leave }, "{event:?} while {before:?}");
            }
        }
        let leaves = [
            (Serving, Unserved, Leaving(0), Step::Leave),
            (Serving, LeaveFailed, Serving, Step::Wait),
            (Leaving(0), Unserved, Leaving(0), Step::Leave),
            (Leaving(0), Event::Left, Leave::Left, Step::Wait),
            (Leaving(0), LeaveFailed, Leaving(1), Step::Wait),
            (Leaving(LAST), LeaveFailed, Leaving(MAX_FAILURES), Step::DestroyByForce),
            (Leaving(MAX_FAILURES), Unserved, Leaving(MAX_FAILURES), Step::Leave),
            (Leaving(MAX_FAILURES), Event::Left, Leave::Left, Step::Wait),
            (Leaving(MAX_FAILURES), LeaveFailed, Leaving(MAX_FAILURES), Step::DestroyByForce),
            (Leave::Left, Unserved, Leave::Left, Step::Wait),
            (Leave::Left, LeaveFailed, Leave::Left, Step::Wait),
        ];
        for stop in [Running, Stopping, Forced] {
            for (before, event, after, step) in leaves {
                let mut course = Course { stop, leave: before };
                assert_eq!(course.step(event), step, "{event:?} while {before:?}, {stop:?}");
                assert_eq!(course, Course { stop, leave: after }, "{event:?} while {before:?}");
            }
        }
    }

    #[test]
    fn an_attempt_to_leave_is_repeated_soon_and_later_each_second() {
        let of = |stop, leave| Course { stop, leave }.patience();
        assert_eq!(of(Stop::Running, Leave::Serving), Some(SIZE_PAUSE));
        assert_eq!(of(Stop::Stopping, Leave::Serving), None);
        assert_eq!(of(Stop::Stopping, Leave::Leaving(1)), Some(PAUSE));
        assert_eq!(of(Stop::Forced, Leave::Leaving(MAX_FAILURES)), Some(SIZE_PAUSE));
        assert_eq!(of(Stop::Forced, Leave::Left), None);
    }
}
