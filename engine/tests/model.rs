// SPDX-License-Identifier: GPL-2.0-only
//! Random sequences of every call, against a naive model that keeps whole lists where the engine keeps links
//! and counts. A failure prints the shortest sequence found; `PROPTEST_RNG_SEED` repeats a run.

use proptest::prelude::*;
use zosbd2_engine::Errno;
use zosbd2_engine::device::Phase;
use zosbd2_engine::queue::{Answer, End, Queue, QueueState, Refused, Wake, Work};
use zosbd2_engine::request::{self, Handle, Op, Request, Slot, State};

#[derive(Clone, Copy, Debug)]
enum Call {
    Submit {
        tag: u16,
        op: Op,
        last: bool,
    },
    Announce,
    Fetch,
    Arrive,
    Leave,
    Notify,
    /// Calls that name a request take the handle of the nth fetch of the run, current or stale.
    Answer {
        nth: usize,
        op: Op,
        ok: bool,
    },
    /// An `op_id` made up by a server: this tag, and this number of a tenure.
    Invent {
        tag: u32,
        number: u32,
        op: Op,
    },
    Pin(usize),
    Copied(usize),
    Answered(usize),
    Unfetch(usize),
    Expire(u16),
    FailNext(u16),
    Phase(Phase),
    WakeAll,
}

fn call() -> impl Strategy<Value = Call> {
    let op = prop_oneof![Just(Op::Read), Just(Op::Write), Just(Op::Discard)];
    let tag = 0..9_u16;
    let nth = 0..64_usize;
    let phase = prop_oneof![
        8 => Just(Phase::Live),
        4 => Just(Phase::Draining),
        1 => Just(Phase::Failing),
        1 => Just(Phase::Gone)
    ];
    prop_oneof![
        6 => (tag.clone(), op.clone(), any::<bool>()).prop_map(|(tag, op, last)| Call::Submit { tag, op, last }),
        1 => Just(Call::Announce),
        8 => Just(Call::Fetch),
        3 => Just(Call::Arrive),
        1 => Just(Call::Leave),
        1 => Just(Call::Notify),
        8 => (nth.clone(), op.clone(), any::<bool>()).prop_map(|(nth, op, ok)| Call::Answer { nth, op, ok }),
        2 => (prop_oneof![0..10_u32, 0..1024_u32], prop_oneof![0..8_u32, any::<u32>()], op.clone())
            .prop_map(|(tag, number, op)| Call::Invent { tag, number, op }),
        2 => nth.clone().prop_map(Call::Pin),
        3 => nth.clone().prop_map(Call::Copied),
        3 => nth.clone().prop_map(Call::Answered),
        2 => nth.prop_map(Call::Unfetch),
        1 => tag.clone().prop_map(Call::Expire),
        1 => tag.prop_map(Call::FailNext),
        1 => phase.prop_map(Call::Phase),
        1 => Just(Call::WakeAll),
    ]
}

/// A tenure of a request: which tag, and which of the tag's tenures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tenure {
    tag: usize,
    number: usize,
}

#[derive(Debug)]
struct Model {
    states: Vec<State>,
    ops: Vec<Op>,
    tenures: Vec<usize>,
    fifo: Vec<usize>,
    asleep: u32,
    waking: u32,
    notices: u32,
    phase: Phase,
}

impl Model {
    fn new(depth: usize) -> Self {
        Self {
            states: vec![State::Free; depth],
            ops: vec![Op::Read; depth],
            tenures: vec![0; depth],
            fifo: Vec::new(),
            asleep: 0,
            waking: 0,
            notices: 0,
            phase: Phase::Live,
        }
    }

    fn announce(&mut self) -> Wake {
        if self.fifo.is_empty() && self.notices == 0 || self.asleep == 0 || self.waking > 0 {
            return Wake::None;
        }
        self.asleep -= 1;
        self.waking += 1;
        Wake::One
    }

    fn is(&self, tenure: Tenure, states: &[State]) -> bool {
        self.tenures[tenure.tag] == tenure.number && states.contains(&self.states[tenure.tag])
    }

    fn fail(&mut self, tag: usize) -> Option<End> {
        match self.states.get(tag)? {
            State::Queued | State::Held => {
                self.fifo.retain(|queued| *queued != tag);
                self.states[tag] = State::Free;
                Some(End { tag: u16::try_from(tag).unwrap(), result: Err(Errno::EIO) })
            }
            State::Copying => {
                self.states[tag] = State::Doomed;
                None
            }
            State::Free | State::Doomed => None,
        }
    }

    fn free(&mut self, tag: usize, result: Result<(), Errno>) -> End {
        self.states[tag] = State::Free;
        End { tag: u16::try_from(tag).unwrap(), result }
    }
}

#[expect(clippy::too_many_lines, reason = "one arm per call, each a few lines")]
fn run(depth: usize, calls: &[Call]) -> Result<(), TestCaseError> {
    let (mut state, mut slots) = (QueueState::default(), vec![Slot::default(); depth]);
    let mut model = Model::new(depth);
    let mut fetched: Vec<(Handle, Tenure)> = Vec::new();
    for call in calls {
        let mut queue = Queue::new(&mut state, &mut slots);
        let named = |nth: usize| (!fetched.is_empty()).then(|| fetched[nth % fetched.len()]);
        match *call {
            Call::Submit { tag, op, last } => {
                let request = Request { op, offset: u64::from(tag), length: 4096 };
                let at = usize::from(tag);
                let free = model.states.get(at) == Some(&State::Free);
                let wanted = if free && matches!(model.phase, Phase::Live | Phase::Draining) {
                    model.states[at] = State::Queued;
                    model.ops[at] = op;
                    model.fifo.push(at);
                    Ok(if last { model.announce() } else { Wake::None })
                } else {
                    Err(Errno::EIO)
                };
                prop_assert_eq!(queue.submit(tag, request, last), wanted);
            }
            Call::Announce => prop_assert_eq!(queue.announce(), model.announce()),
            Call::Fetch => match queue.fetch() {
                Work::Gone => prop_assert_eq!(model.phase, Phase::Gone),
                Work::Notice(wake) => {
                    prop_assert!(model.phase != Phase::Gone && model.notices > 0);
                    model.notices -= 1;
                    prop_assert_eq!(wake, model.announce());
                }
                Work::Nothing => {
                    prop_assert!(model.phase != Phase::Gone && model.fifo.is_empty() && model.notices == 0);
                    queue.wait();
                    model.asleep += 1;
                }
                Work::Request(found) => {
                    prop_assert!(model.phase != Phase::Gone && model.notices == 0);
                    let tag = model.fifo.remove(0);
                    prop_assert_eq!(usize::from(found.handle.tag()), tag);
                    prop_assert_eq!(found.request.op, model.ops[tag]);
                    prop_assert!(fetched.iter().all(|(handle, _)| *handle != found.handle), "used again");
                    let copying = model.ops[tag] == Op::Write;
                    model.states[tag] = if copying { State::Copying } else { State::Held };
                    model.tenures[tag] += 1;
                    fetched.push((found.handle, Tenure { tag, number: model.tenures[tag] }));
                    prop_assert_eq!(found.wake, model.announce());
                }
            },
            Call::Arrive => {
                queue.arrive();
                model.waking = model.waking.saturating_sub(1);
            }
            Call::Leave => {
                queue.leave();
                model.asleep = model.asleep.saturating_sub(1);
            }
            Call::Notify => {
                model.notices += 1;
                prop_assert_eq!(queue.notify(), model.announce());
            }
            Call::Answer { nth, op, ok } => {
                let Some((handle, tenure)) = named(nth) else { continue };
                let by_id = queue.handle_of(handle.op_id());
                prop_assert_eq!(by_id, model.is(tenure, &[State::Held]).then_some(handle));
                match queue.answer(handle, op, ok) {
                    Err(Refused::Stale) => prop_assert!(!model.is(tenure, &[State::Held])),
                    Err(Refused::WrongKind) => {
                        prop_assert!(model.is(tenure, &[State::Held]) && model.ops[tenure.tag] != op);
                    }
                    Ok(answer) => {
                        prop_assert!(model.is(tenure, &[State::Held]) && model.ops[tenure.tag] == op);
                        if let Answer::End(end) = answer {
                            let result = if ok { Ok(()) } else { Err(Errno::EIO) };
                            prop_assert_eq!(end, model.free(tenure.tag, result));
                        } else {
                            prop_assert!(ok && op == Op::Read);
                            model.states[tenure.tag] = State::Copying;
                        }
                    }
                }
            }
            Call::Invent { tag, number, op } => {
                let op_id = number << request::OP_ID_TAG_BITS | tag;
                let tag = tag as usize;
                // The top bits of the tenure's number have no room in an `op_id`.
                let named = model.tenures.get(tag).is_some_and(|last| *last == number as usize & 0x3f_ffff);
                let held = named && model.states[tag] == State::Held;
                let found = queue.handle_of(op_id);
                prop_assert_eq!(found.map(Handle::op_id), held.then_some(op_id));
                if let Some(handle) = found {
                    let answer = queue.answer(handle, op, false);
                    if model.ops[tag] == op {
                        prop_assert_eq!(answer, Ok(Answer::End(model.free(tag, Err(Errno::EIO)))));
                    } else {
                        prop_assert_eq!(answer, Err(Refused::WrongKind));
                    }
                }
            }
            Call::Pin(nth) => {
                let Some((handle, tenure)) = named(nth) else { continue };
                let held = model.is(tenure, &[State::Held]);
                prop_assert_eq!(queue.pin(handle).is_ok(), held);
                if held {
                    model.states[tenure.tag] = State::Copying;
                }
            }
            Call::Copied(nth) | Call::Answered(nth) => {
                let Some((handle, tenure)) = named(nth) else { continue };
                let copies = model.is(tenure, &[State::Copying, State::Doomed]);
                let answered = matches!(call, Call::Answered(_));
                let doomed = model.states[tenure.tag] == State::Doomed;
                let end = if answered { queue.answered(handle) } else { queue.copied(handle) };
                let wanted = match (copies, doomed, answered) {
                    (false, ..) => None,
                    (true, true, _) => Some(model.free(tenure.tag, Err(Errno::EIO))),
                    (true, false, true) => Some(model.free(tenure.tag, Ok(()))),
                    (true, false, false) => {
                        model.states[tenure.tag] = State::Held;
                        None
                    }
                };
                prop_assert_eq!(end, wanted);
            }
            Call::Unfetch(nth) => {
                let Some((handle, tenure)) = named(nth) else { continue };
                let wanted = if model.is(tenure, &[State::Held]) {
                    model.states[tenure.tag] = State::Queued;
                    model.fifo.insert(0, tenure.tag);
                    (None, model.announce())
                } else {
                    (None, Wake::None)
                };
                prop_assert_eq!(queue.unfetch(handle), wanted);
            }
            Call::Expire(tag) => prop_assert_eq!(queue.expire(tag), model.fail(usize::from(tag))),
            Call::FailNext(from) => {
                let wanted = (usize::from(from)..depth).find_map(|tag| model.fail(tag));
                prop_assert_eq!(queue.fail_next(from), wanted);
            }
            Call::Phase(phase) => {
                queue.set_phase(phase);
                model.phase = phase;
            }
            Call::WakeAll => {
                queue.wake_all();
                model.waking += model.asleep;
                model.asleep = 0;
            }
        }
        let queue = Queue::new(&mut state, &mut slots);
        let busy = model.states.iter().filter(|state| **state != State::Free).count();
        prop_assert_eq!(queue.outstanding() as usize, busy);
        prop_assert_eq!(queue.queued() as usize, model.fifo.len());
        prop_assert_eq!((queue.waiting(), queue.waking()), (model.asleep, model.waking));
        let states: Vec<State> = slots.iter().map(Slot::state).collect();
        prop_assert_eq!(&states, &model.states);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_does_what_the_model_does(
        depth in 1..9_usize,
        calls in prop::collection::vec(call(), 1..200),
    ) {
        run(depth, &calls)?;
    }
}
