// SPDX-License-Identifier: MIT OR Apache-2.0
//! A fake kernel for the tests of worker and serve loop.
//!
//! It hands out a script in order, then sleeps until it is destroyed. After that every call ends: sleeping
//! threads get the goodbye, later calls `ENOENT`. It records each answer.

use super::{Channel, DeviceName, Handle, OperationBuffer};
use crate::Errno;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex};
use zosbd2_abi::v1::{self, Segment};

pub(super) const SIZE: u64 = 4 << 20;

/// One step of the script.
pub(super) enum Step {
    /// A request with this number, opcode and range. The data of a write consists of the byte `fill`.
    Request { op_id: u32, opcode: u32, start: u64, length: u64, fill: u8 },
    /// An arbitrary reply, as a broken kernel might give.
    Raw { opcode: u32, total: u64, segments: Vec<Segment> },
    /// `EINTR`, with the buffer changed as the interface defines.
    Interrupt { signal: u32 },
    /// An error that leaves the buffer unchanged.
    Fail(Errno),
    /// The goodbye.
    Gone,
}

/// An answer as the kernel saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) opcode: u32,
    pub(super) op_id: u32,
    pub(super) error: i32,
    /// First byte of the data area.
    pub(super) first: u8,
}

#[derive(Default)]
struct State {
    steps: VecDeque<Step>,
    answers: Vec<Answer>,
    destroyed: bool,
    asleep: usize,
}

pub(super) struct Fake {
    name: DeviceName,
    state: Mutex<State>,
    changed: Condvar,
}

impl Fake {
    pub(super) fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        let state = State { steps: steps.into_iter().collect(), ..State::default() };
        let name = DeviceName::new("fake").expect("a name");
        Self { name, state: Mutex::new(state), changed: Condvar::new() }
    }

    pub(super) fn destroy(&self) {
        self.state.lock().expect("state").destroyed = true;
        self.changed.notify_all();
    }

    /// Waits until this many threads are asleep in a call.
    pub(super) fn wait_asleep(&self, count: usize) {
        let state = self.state.lock().expect("state");
        drop(self.changed.wait_while(state, |state| state.asleep < count).expect("state"));
    }

    pub(super) fn answers(&self) -> Vec<Answer> {
        self.state.lock().expect("state").answers.clone()
    }
}

impl Channel for Fake {
    fn operation(&self, buffer: &mut OperationBuffer) -> Result<(), Errno> {
        assert_eq!(buffer.handle(), self.handle().raw());
        let mut state = self.state.lock().expect("state");
        if state.destroyed && state.steps.is_empty() {
            return Err(Errno::NOENT);
        }
        if buffer.opcode() != v1::OP_FETCH {
            let (opcode, op_id, error) = (buffer.opcode(), buffer.op_id(), buffer.error());
            state.answers.push(Answer { opcode, op_id, error, first: buffer.data()[0] });
        }
        if let Some(step) = state.steps.pop_front() {
            return step.play(buffer);
        }
        state.asleep += 1;
        self.changed.notify_all();
        let mut state = self.changed.wait_while(state, |state| !state.destroyed).expect("state");
        state.asleep -= 1;
        Step::Gone.play(buffer)
    }

    fn handle(&self) -> Handle {
        Handle::from_raw(77)
    }

    fn name(&self) -> &DeviceName {
        &self.name
    }

    fn size_bytes(&self) -> u64 {
        SIZE
    }
}

impl Step {
    fn play(self, buffer: &mut OperationBuffer) -> Result<(), Errno> {
        match self {
            Self::Request { op_id, opcode, start, length, fill } => {
                buffer.set_request(op_id, opcode, length, &[Segment { start, length }]);
                if opcode == v1::OP_WRITE {
                    let used = usize::try_from(length).expect("length");
                    buffer.data_mut()[..used].fill(fill);
                }
                Ok(())
            }
            Self::Raw { opcode, total, segments } => {
                buffer.set_request(5, opcode, total, &segments);
                Ok(())
            }
            Self::Interrupt { signal } => {
                buffer.set_request(999, v1::OP_NOTHING, 0, &[]);
                buffer.set_signal(signal);
                Err(Errno::INTR)
            }
            Self::Fail(errno) => Err(errno),
            Self::Gone => {
                buffer.set_request(1000, v1::OP_GONE, 0, &[]);
                Ok(())
            }
        }
    }
}

pub(super) fn request(op_id: u32, opcode: u32, start: u64, length: u64) -> Step {
    Step::Request { op_id, opcode, start, length, fill: 0 }
}
