// SPDX-License-Identifier: MIT OR Apache-2.0
//! A call of the scripted kernel: checks and records the answers, and carries out the next step of the script.

use super::{Answer, Fake, Held, Spec, State, Step, handle};
use crate::v2::{Answer as Given, Batch, Entered, Fetch, Identity};
use crate::{Errno, Result};
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Duration;
use zosbd2_abi::v2;

impl State {
    /// Wakes the tasks that wait for news.
    pub(super) fn wake(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }

    /// Submits a request for each answer, as long as there are some.
    fn submit_again(&mut self, answers: usize) {
        let Some((spec, left)) = &mut self.again else { return };
        let count = answers.min(*left);
        *left -= count;
        if count > 0 {
            let step = Step::Requests(vec![*spec; count]);
            self.steps.push_back(step);
            self.wake();
        }
    }

    /// Why nothing more will come.
    pub(super) fn over(&self) -> Option<Errno> {
        match self {
            Self { destroyed: true, .. } => Some(Errno::NODEV),
            Self { left: 1.., .. } => Some(Errno::SHUTDOWN),
            _ => None,
        }
    }

    /// Processes up to `most` answers.
    fn process(&mut self, batch: &mut Batch<'_>, most: usize) -> Entered {
        let given: Vec<_> = batch.answers().take(most).map(|answer| self.commit(&answer)).collect();
        for result in &given {
            batch.process(*result);
        }
        let refused = given.iter().filter(|result| result.is_err()).count();
        Entered { processed: given.len(), refused, ..Entered::default() }
    }

    fn commit(&mut self, answer: &Given<'_>) -> Result<(), Errno> {
        let held = self.held.get_mut(&answer.handle()).ok_or(Errno::STALE)?;
        let Spec { op, length, fill, .. } = held.spec;
        if let Some(errno) = held.spec.refuse.take() {
            if errno == Errno::STALE {
                self.held.remove(&answer.handle());
            }
            return Err(errno);
        }
        let bytes = usize::try_from(length).expect("length");
        if answer.copies_only() {
            assert!(op == v2::OP_WRITE && !held.given);
            answer.fill(&vec![fill; bytes])?;
            held.given = true;
            return Ok(());
        }
        let mut data = Vec::new();
        let result = match answer.result() {
            Ok(done) => {
                assert_eq!(done, length, "the answer must not be short");
                match op {
                    v2::OP_READ => {
                        data.resize(bytes, 0);
                        answer.copy_to(&mut data)?;
                    }
                    v2::OP_WRITE => {
                        assert_ne!(held.given, answer.wants_data(), "an answer moves data in one direction");
                        if answer.wants_data() {
                            answer.fill(&vec![fill; bytes])?;
                        }
                    }
                    _ => assert!(!answer.has_memory()),
                }
                i64::try_from(done).expect("length")
            }
            Err(error) => {
                assert!(!answer.has_memory());
                i64::from(-error.raw_os_error())
            }
        };
        self.held.remove(&answer.handle());
        let index = (answer.handle() & !(1 << 63)) >> 20;
        self.answers.push(Answer { index, result, data });
        Ok(())
    }

    fn fetch(&mut self, specs: &mut VecDeque<Spec>, identity: &Identity, mut fetch: Fetch<'_>) -> usize {
        self.arenas.push(fetch.arena.len());
        let (mut used, mut buffer) = (0_usize, 0_usize);
        let mut count = 0;
        while count < fetch.requests.len() {
            let Some(spec) = specs.pop_front() else { break };
            let handle = handle(self.fetched);
            let mut raw = v2::Request {
                handle,
                offset: spec.offset,
                length: spec.length,
                op: spec.op,
                flags: spec.flags,
                ..v2::Request::default()
            };
            let end = usize::try_from(spec.length).ok().and_then(|length| used.checked_add(length));
            let place = end.and_then(|end| fetch.arena.get_mut(used..end));
            let mut given = false;
            if let (v2::OP_WRITE, false, Some(place)) = (spec.op, spec.withheld, place) {
                place.fill(spec.fill);
                raw.flags |= v2::REQUEST_DATA;
                raw.data = used as u64;
                used += place.len();
                given = true;
            }
            if let (v2::OP_WRITE, false, Some(buffers)) = (spec.op, spec.withheld, &mut fetch.buffers) {
                if buffers.room(buffer).is_some_and(|room| room >= spec.length) {
                    let data = vec![spec.fill; usize::try_from(spec.length).expect("fits")];
                    buffers.fill(buffer, &data).expect("writable");
                    raw.flags |= v2::REQUEST_DATA;
                    raw.data = buffer as u64;
                    buffer += 1;
                    given = true;
                }
            }
            fetch.requests[count] = identity.request(raw);
            self.held.insert(handle, Held { spec, given });
            self.fetched += 1;
            count += 1;
        }
        count
    }
}

impl Fake {
    pub(super) fn carry_out(&self, batch: &mut Batch<'_>, fetch: Fetch<'_>) -> Entered {
        let mut state = self.state.lock().expect("state");
        let fetches = !fetch.requests.is_empty();
        let (fetch_minimum, limited) = (fetch.minimum, fetch.timeout_ms.is_some());
        if fetches && self.broken_queue == Some(fetch.queue) {
            return Entered { error: Some(Errno::NOMEM), ..Entered::default() };
        }
        let ready = match state.steps.front() {
            Some(Step::Requests(_)) => fetches,
            other => other.is_some(),
        };
        let step = if ready { state.steps.pop_front() } else { None };
        match step {
            Some(Step::Fail(errno)) => return Entered { error: Some(errno), ..Entered::default() },
            Some(Step::Partial(most)) => return state.process(batch, most),
            _ => {}
        }
        let mut entered = state.process(batch, usize::MAX);
        if entered.processed > 0 {
            state.calls.push((entered.processed, fetches));
            state.submit_again(entered.processed);
            self.changed.notify_all();
        }
        match step {
            Some(Step::Requests(specs)) => {
                let mut specs = VecDeque::from(specs);
                entered.fetched = state.fetch(&mut specs, &self.identity, fetch);
                if !specs.is_empty() {
                    state.steps.push_front(Step::Requests(specs.into()));
                }
            }
            Some(Step::FailAfterAnswers(errno)) => entered.error = Some(errno),
            _ if !fetches => {}
            _ if self.sleeps && fetch_minimum == 0 => {
                entered.error = state.over();
            }
            // The time is over at once.
            _ if self.sleeps && limited && state.over().is_none() => {}
            _ if self.sleeps => {
                state.asleep += 1;
                self.changed.notify_all();
                let asleep = |state: &mut State| !state.destroyed && state.left == 0;
                let limit = Duration::from_secs(60);
                let (mut state, waited) =
                    self.changed.wait_timeout_while(state, limit, asleep).expect("state");
                assert!(!waited.timed_out(), "nothing will end this call");
                state.asleep -= 1;
                entered.error = state.over();
                assert!(
                    state.destroyed || state.kept.load(Ordering::Relaxed),
                    "the next server attached while threads were still running"
                );
            }
            // The last answer was refused, so the call returns as if interrupted by a signal.
            _ if !state.held.is_empty() => {}
            _ => entered.error = Some(Errno::NODEV),
        }
        entered
    }
}
