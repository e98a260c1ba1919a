// SPDX-License-Identifier: GPL-2.0-only
//! Each edge of the drawings, one by one: the shortest call that takes it, and the effect that comes of it.
//! That there are no others is shown by the exhaustive search.

use zosbd2_engine::Errno;
use zosbd2_engine::device::{self, Phase};
use zosbd2_engine::queue::{Answer, End, Queue, QueueState, Wake, Work};
use zosbd2_engine::request::{self, Handle, Op, Request, Slot, State};

/// A queue with one tag.
struct One {
    state: QueueState,
    slots: [Slot; 1],
    handle: Option<Handle>,
}

impl One {
    fn new() -> Self {
        Self { state: QueueState::default(), slots: [Slot::default()], handle: None }
    }

    fn queue(&mut self) -> Queue<'_> {
        Queue::new(&mut self.state, &mut self.slots)
    }

    fn handle(&self) -> Handle {
        self.handle.expect("fetched")
    }

    fn submit(&mut self, op: Op) {
        let wake = self.queue().submit(0, Request { op, offset: 0, length: 4096 }, true);
        assert_eq!(wake, Ok(Wake::None));
    }

    fn fetch(&mut self) {
        let Work::Request(fetched) = self.queue().fetch() else { panic!("nothing to fetch") };
        self.handle = Some(fetched.handle);
    }

    /// Brings the tag into a state by the shortest way.
    fn in_state(state: State) -> Self {
        let mut one = Self::new();
        match state {
            State::Free => {}
            State::Queued => one.submit(Op::Read),
            State::Held => {
                one.submit(Op::Read);
                one.fetch();
            }
            State::Copying | State::Doomed => {
                one.submit(Op::Write);
                one.fetch();
                if state == State::Doomed {
                    assert_eq!(one.queue().expire(0), None);
                }
            }
        }
        assert_eq!(one.slots[0].state(), state);
        one
    }
}

const FAILED: Option<End> = Some(End { tag: 0, result: Err(Errno::EIO) });

/// Takes one edge and looks at its effect.
fn take(from: State, to: State) {
    let mut one = One::in_state(from);
    match (from, to) {
        (State::Free, State::Queued) => one.submit(Op::Discard),
        (State::Queued, State::Held) => one.fetch(),
        (State::Queued, State::Copying) => {
            one = One::new();
            one.submit(Op::Write);
            one.fetch();
        }
        (State::Queued | State::Held, State::Free) => assert_eq!(one.queue().expire(0), FAILED),
        (State::Held, State::Copying) => {
            let handle = one.handle();
            let answer = one.queue().answer(handle, Op::Read, true);
            assert!(matches!(answer, Ok(Answer::CopyIn(copied, _)) if copied == handle));
        }
        (State::Held, State::Queued) => {
            let handle = one.handle();
            assert_eq!(one.queue().unfetch(handle), (None, Wake::None));
        }
        (State::Copying, State::Held) => {
            let handle = one.handle();
            assert_eq!(one.queue().copied(handle), None);
        }
        (State::Copying, State::Free) => {
            let handle = one.handle();
            assert_eq!(one.queue().answered(handle), Some(End { tag: 0, result: Ok(()) }));
        }
        (State::Copying, State::Doomed) => assert_eq!(one.queue().expire(0), None),
        (State::Doomed, State::Free) => {
            let mut copied = One::in_state(State::Doomed);
            let handle = copied.handle();
            assert_eq!(copied.queue().copied(handle), FAILED);
            let mut answered = One::in_state(State::Doomed);
            let handle = answered.handle();
            assert_eq!(answered.queue().answered(handle), FAILED);
            one = answered;
        }
        other => panic!("{other:?} is no edge"),
    }
    assert_eq!(one.slots[0].state(), to, "{from:?} to {to:?}");
}

#[test]
fn every_edge_of_a_request_can_be_taken() {
    for &(from, to) in request::EDGES {
        take(from, to);
    }
}

/// A server that cannot be given its request meets another, who answers it already: who copies is left alone.
#[test]
fn what_is_copied_is_not_given_back() {
    for state in [State::Copying, State::Doomed] {
        let mut one = One::in_state(state);
        let handle = one.handle();
        assert_eq!(one.queue().unfetch(handle), (None, Wake::None));
        assert_eq!(one.slots[0].state(), state);
    }
}

/// One tenure's copy does not end another's.
#[test]
fn a_copy_ends_only_its_own_tenure() {
    let mut one = One::in_state(State::Held);
    let stale = one.handle();
    assert_eq!(one.queue().expire(0), FAILED);
    one.submit(Op::Write);
    one.fetch();
    for state in [State::Copying, State::Doomed] {
        assert_eq!(one.slots[0].state(), state);
        assert_eq!(one.queue().copied(stale), None);
        assert_eq!(one.queue().answered(stale), None);
        assert_eq!(one.slots[0].state(), state);
        assert_eq!(one.queue().expire(0), None);
    }
}

#[test]
fn a_device_takes_requests_until_it_fails() {
    assert!(Phase::Live.takes_requests() && Phase::Draining.takes_requests());
    for phase in [Phase::Failing, Phase::Gone] {
        let mut one = One::new();
        one.queue().set_phase(phase);
        assert_eq!(one.queue().submit(0, Request::default(), true), Err(Errno::EIO));
        assert_eq!(one.slots[0].state(), State::Free);
    }
    assert_eq!(device::EDGES.len(), 4);
}

#[test]
fn the_drawings_name_every_state() {
    let drawing = |source: &'static str| {
        let start = source.find("```text").expect("a drawing");
        let end = source[start + 7..].find("```").expect("its end");
        &source[start..start + 7 + end]
    };
    let request = drawing(include_str!("../src/request.rs"));
    for name in ["FREE", "QUEUED", "HELD", "COPYING", "DOOMED"] {
        assert!(request.contains(name), "{name} is not drawn");
    }
    let device = drawing(include_str!("../src/device.rs"));
    for name in ["LIVE", "DRAINING", "FAILING", "GONE"] {
        assert!(device.contains(name), "{name} is not drawn");
    }
}
