// SPDX-License-Identifier: MIT OR Apache-2.0
//! The worker and the serve loop against a fake kernel.

use super::fake::{Answer, Fake, SIZE, Step, request};
use super::{Backend, Event, StopToken, Worker, serve_with};
use crate::{BadRequest, Errno, Error, Result, SparseMemory};
use proptest::prelude::*;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use zosbd2_abi::v1::{self, Segment};

fn threads(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).expect("not 0")
}

/// Serves until the script ends.
fn serve_script(fake: &Fake, backend: &impl Backend) -> Result<()> {
    serve_with(fake, backend, threads(1), &StopToken::new(), || panic!("no stop was requested"))
}

#[test]
fn one_call_answers_and_fetches() {
    let write = Step::Request { op_id: 1, opcode: v1::OP_WRITE, start: 4096, length: 8192, fill: 9 };
    let read = request(2, v1::OP_READ, 8192, 4096);
    let discard = request(3, v1::OP_DISCARD, 0, SIZE);
    let fake = Fake::new([write, read, discard, request(4, v1::OP_READ, 8192, 4096), Step::Gone]);
    let memory = SparseMemory::new(SIZE).expect("memory");
    serve_script(&fake, &memory).expect("served");
    let answer = |opcode, op_id, first| Answer { opcode, op_id, error: 0, first };
    let expected = [
        answer(v1::OP_ANSWER_WRITE, 1, 9),
        answer(v1::OP_ANSWER_READ, 2, 9),
        answer(v1::OP_ANSWER_DISCARD, 3, 9),
        answer(v1::OP_ANSWER_READ, 4, 0),
    ];
    assert_eq!(fake.answers(), expected);
}

#[test]
fn events_carry_the_request() {
    let write = Step::Request { op_id: 1, opcode: v1::OP_WRITE, start: 4096, length: 4096, fill: 5 };
    let fake = Fake::new([write, request(2, v1::OP_READ, 0, 8192), request(9, v1::OP_SHUTDOWN_NOTICE, 0, 0)]);
    let mut worker = Worker::new(&fake);
    let event = worker.fetch().expect("a request");
    assert!(matches!(event, Event::Write { op_id: 1, offset: 4096, data: [5, ..], .. }), "{event:?}");
    match worker.answer_and_fetch(Ok(())).expect("a request") {
        Event::Read { op_id: 2, offset: 0, segments, buffer } => {
            assert_eq!((segments.len(), buffer.len()), (1, 8192));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(worker.answer_and_fetch(Err(Errno::NOSPC)), Ok(Event::ShutdownNotice)));
    assert_eq!(fake.answers()[1].error, -Errno::NOSPC.raw_os_error());
}

#[test]
fn an_interrupted_answer_is_not_given_twice_when_it_was_taken() {
    let fake = Fake::new([
        request(1, v1::OP_READ, 0, 4096),
        Step::Interrupt { signal: 15 },
        request(2, v1::OP_READ, 0, 4096),
        Step::Gone,
    ]);
    let mut worker = Worker::new(&fake);
    worker.fetch().expect("a request");
    let event = worker.answer_and_fetch(Ok(())).expect("a signal");
    assert!(matches!(event, Event::Interrupted { signal: 15 }), "{event:?}");
    assert!(matches!(worker.fetch(), Ok(Event::Read { op_id: 2, .. })));
    assert!(matches!(worker.answer_and_fetch(Ok(())), Ok(Event::Gone)));
    assert_eq!(fake.answers().iter().map(|answer| answer.op_id).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn an_interrupted_answer_is_given_again_when_the_buffer_is_untouched() {
    let fake = Fake::new([request(1, v1::OP_WRITE, 0, 4096), Step::Fail(Errno::INTR), Step::Gone]);
    let mut worker = Worker::new(&fake);
    worker.fetch().expect("a request");
    assert!(matches!(worker.answer_and_fetch(Ok(())), Ok(Event::Interrupted { signal: 0 })));
    assert!(matches!(worker.fetch(), Ok(Event::Gone)));
    let answers = fake.answers();
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[0], answers[1]);
}

#[test]
fn a_device_that_is_gone_is_not_asked_again() {
    for step in [Step::Gone, Step::Fail(Errno::NOENT)] {
        let fake = Fake::new([step, request(1, v1::OP_READ, 0, 4096)]);
        let mut worker = Worker::new(&fake);
        for _ in 0..3 {
            assert!(matches!(worker.fetch(), Ok(Event::Gone)));
        }
    }
}

#[test]
fn a_bad_request_fails_alone_and_is_reported() {
    let bad = request(1, v1::OP_READ, SIZE, 4096);
    let unknown = request(2, 44, 0, 4096);
    let fake = Fake::new([bad, unknown, request(3, v1::OP_READ, 0, 4096), Step::Gone]);
    let memory = SparseMemory::new(SIZE).expect("memory");
    let error = serve_script(&fake, &memory).expect_err("bad request");
    assert!(
        matches!(error, Error::Request { op_id: 1, source: BadRequest::OutOfDevice { .. }, .. }),
        "{error}"
    );
    let results: Vec<_> = fake.answers().iter().map(|answer| (answer.op_id, answer.error)).collect();
    assert_eq!(results, [(1, -Errno::IO.raw_os_error()), (3, 0)]);
}

#[test]
fn a_failed_fetch_is_tried_again() {
    let fake = Fake::new([Step::Fail(Errno::NOMEM), request(1, v1::OP_DISCARD, 0, 4096), Step::Gone]);
    let memory = SparseMemory::new(SIZE).expect("memory");
    serve_script(&fake, &memory).expect("served");
    assert_eq!(fake.answers().len(), 1);
}

/// Panics on reads and does not support discard.
struct Broken(AtomicUsize);

impl Backend for Broken {
    fn read(&self, _: u64, _: &mut [u8]) -> Result<(), Errno> {
        panic!("planted");
    }

    fn write(&self, _: u64, _: &[u8]) -> Result<(), Errno> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[test]
fn a_panic_of_the_backend_fails_one_request() {
    let write = Step::Request { op_id: 2, opcode: v1::OP_WRITE, start: 0, length: 4096, fill: 1 };
    let fake =
        Fake::new([request(1, v1::OP_READ, 0, 4096), write, request(3, v1::OP_DISCARD, 0, 4096), Step::Gone]);
    let backend = Broken(AtomicUsize::new(0));
    let error = serve_script(&fake, &backend).expect_err("panicked");
    assert_eq!(error.to_string(), "backend of device fake panicked in a read");
    let errors: Vec<_> = fake.answers().iter().map(|answer| answer.error).collect();
    assert_eq!(errors, [-Errno::IO.raw_os_error(), 0, -Errno::OPNOTSUPP.raw_os_error()]);
    assert_eq!(backend.0.load(Ordering::Relaxed), 1);
}

#[test]
fn a_stop_request_destroys_the_device_and_ends_all_workers() {
    let fake = Fake::new([]);
    let memory = SparseMemory::new(SIZE).expect("memory");
    let stop = StopToken::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            fake.wait_asleep(16);
            stop.request();
        });
        let destroy = || {
            fake.destroy();
            Ok(())
        };
        serve_with(&fake, &memory, threads(16), &stop, destroy).expect("served");
    });
    assert!(stop.is_requested());
}

#[test]
fn a_stop_request_before_the_start_is_not_lost() {
    let fake = Fake::new([]);
    let memory = SparseMemory::new(SIZE).expect("memory");
    let stop = StopToken::new();
    stop.request();
    let destroy = || {
        fake.destroy();
        Ok(())
    };
    serve_with(&fake, &memory, threads(2), &stop, destroy).expect("served");
}

#[test]
fn a_failed_destroy_is_reported_and_asked_for_again() {
    let fake = Fake::new([]);
    let memory = SparseMemory::new(SIZE).expect("memory");
    let stop = StopToken::new();
    let calls = AtomicUsize::new(0);
    stop.request();
    let destroy = || {
        if calls.fetch_add(1, Ordering::Relaxed) == 0 {
            stop.request();
            let object = "device".to_owned();
            return Err(Error::Control {
                operation: "destroy",
                object,
                hint: "".into(),
                source: Errno::BUSY,
            });
        }
        fake.destroy();
        Ok(())
    };
    let error = serve_with(&fake, &memory, threads(1), &stop, destroy).expect_err("first destroy failed");
    assert!(matches!(error, Error::Control { source: Errno::BUSY, .. }), "{error}");
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[test]
fn workers_share_the_requests_and_survive_signals() {
    let steps = (0..2000_u32).flat_map(|op_id| {
        let opcode = [v1::OP_READ, v1::OP_WRITE, v1::OP_DISCARD][op_id as usize % 3];
        let request = request(op_id, opcode, u64::from(op_id % 1000) * 4096, 4096);
        let signal = (op_id % 7 == 0).then_some(Step::Interrupt { signal: 2 });
        [Some(request), signal].into_iter().flatten()
    });
    let fake = Fake::new(steps);
    let memory = SparseMemory::new(SIZE).expect("memory");
    let stop = StopToken::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            fake.wait_asleep(4);
            stop.request();
        });
        let destroy = || {
            fake.destroy();
            Ok(())
        };
        serve_with(&fake, &memory, threads(4), &stop, destroy).expect("served");
    });
    let mut answered: Vec<_> = fake.answers().iter().map(|answer| answer.op_id).collect();
    answered.sort_unstable();
    assert!(answered.into_iter().eq(0..2000), "each request is answered once");
}

/// Numbers around the limits of the valid ranges.
fn number() -> impl Strategy<Value = u64> {
    let edges =
        vec![0, 1, 512, 4096, 1 << 20, SIZE - 4096, SIZE, u64::from(u32::MAX), u64::MAX - 4095, u64::MAX];
    prop_oneof![proptest::sample::select(edges), any::<u64>(), 0..2 * SIZE]
}

fn segments() -> impl Strategy<Value = Vec<Segment>> {
    let wild = (number(), number()).prop_map(|(start, length)| Segment { start, length });
    let tame = (0..SIZE, 1..300_u64, 1..9000_u64).prop_map(|(start, count, length)| {
        (0..count).map(|index| Segment { start: start + index * length, length }).collect()
    });
    prop_oneof![proptest::collection::vec(wild, 0..300), tame]
}

proptest! {
    #[test]
    fn no_request_of_a_broken_kernel_gets_past_the_worker(
        opcode in prop_oneof![Just(v1::OP_READ), Just(v1::OP_WRITE), Just(v1::OP_DISCARD), any::<u32>()],
        segments in segments(),
        stated in proptest::option::of(number()),
    ) {
        let sum = segments.iter().fold(0_u64, |sum, segment| sum.wrapping_add(segment.length));
        let fake = Fake::new([Step::Raw { opcode, total: stated.unwrap_or(sum), segments }]);
        let mut worker = Worker::new(&fake);
        let (offset, length) = match worker.fetch() {
            Ok(Event::Read { offset, buffer, .. }) => (offset, buffer.len() as u64),
            Ok(Event::Write { offset, data, .. }) => (offset, data.len() as u64),
            Ok(Event::Discard { offset, length, .. }) => (offset, length),
            _ => return Ok(()),
        };
        prop_assert!(length > 0 && length == sum);
        prop_assert!(offset.checked_add(length).is_some_and(|end| end <= SIZE));
    }
}
