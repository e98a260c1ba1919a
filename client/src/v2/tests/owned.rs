// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owned requests against the fake kernel: answers from anywhere, and each way in which a request can end.

use super::model::{check, steps};
use super::*;
use crate::v2::serve::serve_requests_with;
use crate::{Blocking, Handler, Operation, Request};
use std::sync::{Arc, Condvar, mpsc};

/// A handler with this function.
struct With<F>(F);

impl<F: Fn(Request) + Sync> Handler for With<F> {
    fn size(&self) -> u64 {
        SIZE
    }

    fn handle(&self, request: Request) {
        (self.0)(request);
    }
}

fn serve_requests(fake: &Arc<Fake>, handler: &impl Handler) -> Result<End> {
    let (options, stop) = (ServeOptions::default(), StopToken::new());
    let start = || Ok(());
    serve_requests_with(fake, handler, &options, &stop, start, |_| panic!("no stop was requested"))
}

fn fake(steps: impl IntoIterator<Item = Step>) -> Arc<Fake> {
    Arc::new(Fake::new(SIZE, MAX_IO, steps))
}

/// Requests that a test answers when it likes.
#[derive(Default)]
struct Held {
    requests: Mutex<Vec<Request>>,
    came: Condvar,
}

impl Held {
    fn handler(&self) -> With<impl Fn(Request) + Sync> {
        With(|request| {
            self.requests.lock().expect("requests").push(request);
            self.came.notify_all();
        })
    }

    /// Waits for this many requests, and takes them.
    fn take(&self, count: usize) -> Vec<Request> {
        let requests = self.requests.lock().expect("requests");
        let limit = Duration::from_secs(60);
        let few = |requests: &mut Vec<Request>| requests.len() < count;
        let (mut requests, waited) = self.came.wait_timeout_while(requests, limit, few).expect("requests");
        assert!(!waited.timed_out(), "fewer than {count} requests came");
        std::mem::take(&mut *requests)
    }
}

#[test]
fn a_request_has_its_range_its_flags_and_its_data() {
    let fua = Spec { flags: v2::REQUEST_FUA | v2::REQUEST_MAYBE_EXECUTED, ..Spec::write(512, 1024, 7) };
    let keep = Spec { flags: v2::REQUEST_NO_UNMAP, ..Spec::new(v2::OP_WRITE_ZEROES, 0, SIZE) };
    let specs = [fua, Spec::new(v2::OP_READ, 0, 512), keep, Spec::new(v2::OP_FLUSH, 0, 0)];
    let seen = Mutex::new(Vec::new());
    let handler = With(|mut request: Request| {
        let data = request.data().to_vec();
        assert_eq!(request.data_mut().len(), data.len());
        request.data_mut().fill(9);
        let first = if request.operation() == Operation::Read { None } else { data.first().copied() };
        seen.lock().expect("seen").push((
            (request.operation(), request.offset(), request.length(), data.len(), first),
            [request.fua(), request.unmap(), request.maybe_executed()],
        ));
        request.complete(Ok(()));
    });
    let fake = fake([requests(&specs)]);
    assert_eq!(serve_requests(&fake, &handler).expect("served"), End::Gone);
    let seen = seen.into_inner().expect("seen");
    assert_eq!(
        seen,
        [
            ((Operation::Write, 512, 1024, 1024, Some(7)), [true, true, true]),
            ((Operation::Read, 0, 512, 512, None), [false, true, false]),
            ((Operation::WriteZeroes, 0, SIZE, 0, None), [false, false, false]),
            ((Operation::Flush, 0, 0, 0, None), [false, true, false]),
        ]
    );
    assert_eq!(fake.answers()[1].data, [9; 512]);
    assert_eq!(fake.left(), 0);
}

#[test]
fn what_is_answered_while_handed_out_needs_no_call_of_its_own() {
    let reads = [Spec::new(v2::OP_READ, 0, 512); 7];
    let fake = fake([requests(&reads), requests(&reads)]);
    serve_requests(&fake, &With(|request: Request| request.complete(Ok(())))).expect("served");
    assert_eq!(fake.calls(), [(7, true), (7, true)]);
}

#[test]
fn a_dropped_request_and_a_panic_are_io_errors() {
    let flush = Spec::new(v2::OP_FLUSH, 0, 0);
    let fake = fake([requests(&[flush, Spec::new(v2::OP_READ, 0, 512), Spec::write(0, 512, 1), flush])]);
    let count = AtomicUsize::new(0);
    let handler = With(|request: Request| match request.operation() {
        Operation::Read => drop(request),
        Operation::Write => panic!("planted"),
        _ => {
            let error = if count.fetch_add(1, Ordering::Relaxed) == 0 { Ok(()) } else { Err(Errno::NOSPC) };
            request.complete(error);
        }
    });
    let error = serve_requests(&fake, &handler).expect_err("panicked");
    assert_eq!(error.to_string(), "backend of device fake panicked in a write of 512 bytes at 0");
    let enospc = i64::from(-Errno::NOSPC.raw_os_error());
    assert_eq!(fake.results(), [(0, 0), (1, EIO), (2, EIO), (3, enospc)]);
}

#[test]
fn any_thread_may_answer() {
    let steps = (0..300_u64).map(|step| {
        let specs = (0..7).map(|n| match (step + n) % 3 {
            0 => Spec::new(v2::OP_READ, n * 16384, 16384),
            1 => Spec::write(n * 16384, 8192, 1),
            _ => Spec::new(v2::OP_DISCARD, 0, 512),
        });
        if step % 5 == 4 { Step::Fail(Errno::INTR) } else { Step::Requests(specs.collect()) }
    });
    let fake = Arc::new(Fake::new(SIZE, MAX_IO, steps).sleeping(1));
    let (sender, receiver) = mpsc::channel::<Request>();
    let receiver = Mutex::new(receiver);
    let stop = StopToken::new();
    let options = ServeOptions::default().threads_per_queue(2);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let Ok(request) = receiver.lock().expect("receiver").recv() else { return };
                    request.complete(Ok(()));
                }
            });
        }
        scope.spawn(|| {
            fake.wait_answers(240 * 7);
            stop.request();
        });
        let destroy = |_| {
            fake.destroy();
            Ok(())
        };
        let sender = Mutex::new(sender);
        let handler = With(|request| sender.lock().expect("sender").send(request).expect("threads listen"));
        serve_requests_with(&fake, &handler, &options, &stop, || Ok(()), destroy).expect("served");
    });
    let answered: Vec<_> = fake.answers().iter().map(|answer| answer.index).collect();
    assert!(answered.into_iter().eq(0..240 * 7), "each request is answered once");
    assert!(fake.answers().iter().all(|answer| answer.result > 0));
}

#[test]
fn who_is_taken_over_waits_for_answers_from_elsewhere() {
    let specs = [Spec::new(v2::OP_READ, 0, 512), Spec::write(0, 512, 1), Spec::new(v2::OP_FLUSH, 0, 0)];
    let taken_over = Step::FailAfterAnswers(Errno::SHUTDOWN);
    // Enough for the calls that give answers elsewhere, and for the lane's own.
    let ends = std::iter::repeat_n(taken_over, 16);
    let fake = fake([requests(&specs), Step::Partial(1)].into_iter().chain(ends));
    let held = Held::default();
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| serve_requests(&fake, &held.handler()));
        for request in held.take(3) {
            assert!(!serving.is_finished());
            request.complete(Ok(()));
        }
        assert_eq!(serving.join().expect("no panic").expect("served"), End::TakenOver);
    });
    assert_eq!(fake.results(), [(0, 512), (1, 512), (2, 0)]);
}

#[test]
fn a_request_that_outlives_its_device_keeps_nothing_open() {
    let fake = Arc::new(Fake::new(SIZE, MAX_IO, [requests(&[Spec::new(v2::OP_READ, 0, 512)])]).sleeping(1));
    let held = Held::default();
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| serve_requests(&fake, &held.handler()));
        let request = held.take(1);
        fake.destroy();
        assert_eq!(serving.join().expect("no panic").expect("served"), End::Gone);
        assert_eq!(Arc::strong_count(&fake), 1, "the request holds no channel");
        for request in request {
            assert_eq!(request.data().len(), 512);
            request.complete(Ok(()));
        }
    });
    assert_eq!((fake.results(), fake.left()), (vec![], 1));
}

/// The kernel refuses to destroy a device whose submitters wait, so requests are answered before the end.
#[test]
fn a_stop_waits_for_the_requests_that_a_handler_holds() {
    let reads = [Spec::new(v2::OP_READ, 0, 512); 5];
    let fake = Arc::new(Fake::new(SIZE, MAX_IO, [requests(&reads)]).sleeping(1));
    let (held, stop, refused) = (Held::default(), StopToken::new(), AtomicUsize::new(0));
    let destroy = |force: bool| {
        assert!(!force);
        if fake.left() > 0 {
            refused.fetch_add(1, Ordering::Relaxed);
            return Err(busy("fake"));
        }
        fake.destroy();
        Ok(())
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let requests = held.take(5);
            stop.request();
            while refused.load(Ordering::Relaxed) == 0 {
                std::thread::yield_now();
            }
            for request in requests {
                request.complete(Ok(()));
            }
        });
        let options = ServeOptions::default();
        let end = serve_requests_with(&fake, &held.handler(), &options, &stop, || Ok(()), destroy);
        assert_eq!(end.expect("served"), End::Gone);
    });
    assert_eq!(fake.results(), [0, 1, 2, 3, 4].map(|index| (index, 512)));
}

#[test]
fn a_refused_answer_from_elsewhere_becomes_an_error() {
    let read = |refuse| Spec { refuse, ..Spec::new(v2::OP_READ, 0, 512) };
    let copied = |refuse| Spec { refuse, withheld: true, ..Spec::write(0, 512, 1) };
    let specs = [
        read(Some(Errno::FAULT)),
        read(Some(Errno::STALE)),
        read(None),
        copied(Some(Errno::FAULT)),
        copied(Some(Errno::STALE)),
        copied(None),
    ];
    let fake = Arc::new(Fake::new(SIZE, MAX_IO, [requests(&specs)]).sleeping(1));
    let held = Held::default();
    let error = std::thread::scope(|scope| {
        let serving = scope.spawn(|| serve_requests(&fake, &held.handler()));
        // The copies of two writes are refused, so these writes never arrive.
        for request in held.take(4) {
            request.complete(Ok(()));
        }
        fake.wait_answers(4);
        fake.destroy();
        serving.join().expect("no panic").expect_err("refused")
    });
    assert!(matches!(error, Error::Refused { source: Errno::FAULT, .. }), "{error}");
    assert_eq!(fake.results(), [(0, EIO), (2, 512), (3, EIO), (5, 512)]);
    assert_eq!(fake.left(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn scripts_are_served_as_the_model_says(steps in steps(), batch in 1..40_usize) {
        let backend = Blocking(Plain::new());
        check(steps, &backend.0, |fake| {
            let (options, stop) = (ServeOptions::default().batch(batch), StopToken::new());
            serve_requests_with(fake, &backend, &options, &stop, || Ok(()), |_| panic!("no stop"))
        })?;
    }
}

/// The callback runs where answers are given. A broken pipe behind `eprintln!` must not cost one.
#[test]
fn a_callback_that_panics_costs_no_answer() {
    let fake = fake([requests(&[Spec::new(v2::OP_READ, 0, 512); 3])]);
    let fake = Arc::new(Arc::into_inner(fake).expect("one owner").sleeping(1));
    let held = Held::default();
    let (options, stop) = (ServeOptions::default().on_event(|_| panic!("a broken pipe")), StopToken::new());
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| {
            serve_requests_with(&fake, &held.handler(), &options, &stop, || Ok(()), |_| panic!("no stop"))
        });
        for request in held.take(3) {
            request.complete(Err(Errno::NOSPC));
        }
        fake.wait_answers(3);
        fake.destroy();
        serving.join().expect("no panic").expect("served");
    });
}
