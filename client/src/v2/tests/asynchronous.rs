// SPDX-License-Identifier: MIT OR Apache-2.0
//! Asynchronous backends against the fake kernel, and each way in which a future can end.

use super::model::{check, steps};
use super::*;
use crate::v2::fake::FakeSleeper;
use crate::v2::serve::serve_async_with;
use crate::{AsyncBackend, Channel as _};
use std::future::Future;
use std::task::{Poll, Waker};

/// A backend whose reads and writes wait for a gate, and whose other operations are those of a store.
#[derive(Default)]
struct Gated {
    store: Option<Plain>,
    gate: Mutex<Gate>,
}

#[derive(Default)]
struct Gate {
    open: bool,
    wakers: Vec<Waker>,
}

impl Gated {
    fn new(open: bool) -> Self {
        Self { store: Some(Plain::new()), gate: Mutex::new(Gate { open, wakers: Vec::new() }) }
    }

    fn store(&self) -> &Plain {
        self.store.as_ref().expect("a store")
    }

    fn open(&self) {
        let mut gate = self.gate.lock().expect("gate");
        gate.open = true;
        gate.wakers.drain(..).for_each(Waker::wake);
    }

    fn passed(&self) -> impl Future<Output = ()> + Send {
        std::future::poll_fn(|context| {
            let mut gate = self.gate.lock().expect("gate");
            if gate.open {
                return Poll::Ready(());
            }
            gate.wakers.push(context.waker().clone());
            Poll::Pending
        })
    }

    /// Number of futures that wait.
    fn waiting(&self) -> usize {
        self.gate.lock().expect("gate").wakers.len()
    }
}

impl AsyncBackend for Gated {
    fn size(&self) -> u64 {
        SIZE
    }

    async fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.passed().await;
        assert_ne!(buffer.len(), 1024, "planted");
        self.store().read(offset, buffer)
    }

    async fn write(&self, offset: u64, data: &mut [u8], fua: bool) -> Result<(), Errno> {
        self.passed().await;
        self.store().write(offset, data, fua)
    }

    async fn flush(&self) -> Result<(), Errno> {
        self.store().flush()
    }

    async fn discard(&self, offset: u64, length: u64) -> Result<(), Errno> {
        self.store().discard(offset, length)
    }

    async fn write_zeroes(&self, offset: u64, length: u64, zero: Zero) -> Result<(), Errno> {
        self.store().write_zeroes(offset, length, zero)
    }
}

fn fake(steps: impl IntoIterator<Item = Step>) -> Arc<Fake> {
    Arc::new(Fake::new(SIZE, MAX_IO, steps))
}

fn serve_async(
    fake: &Arc<Fake>,
    backend: &impl AsyncBackend,
    options: &ServeOptions,
    stop: &StopToken,
) -> Result<End> {
    let destroy = |_| {
        fake.destroy();
        Ok(())
    };
    let sleepers = || Ok(FakeSleeper::new(fake));
    serve_async_with(fake, backend, options, stop, sleepers, || Ok(()), destroy)
}

fn serve_alone(fake: &Arc<Fake>, backend: &impl AsyncBackend) -> Result<End> {
    serve_async(fake, backend, &ServeOptions::default(), &StopToken::new())
}

#[test]
fn every_operation_reaches_the_backend() {
    let specs = [
        Spec { flags: v2::REQUEST_FUA, ..Spec::write(0, 512, 1) },
        Spec::new(v2::OP_FLUSH, 0, 0),
        Spec::new(v2::OP_DISCARD, 512, 512),
        Spec { flags: v2::REQUEST_NO_UNMAP, ..Spec::new(v2::OP_WRITE_ZEROES, 1024, 512) },
        Spec::new(v2::OP_SECURE_ERASE, 0, 512),
    ];
    let fake = fake([requests(&specs), requests(&[Spec::new(v2::OP_READ, 0, 512)])]);
    let backend = Gated::new(true);
    assert_eq!(serve_alone(&fake, &backend).expect("served"), End::Gone);
    let unsupported = i64::from(-Errno::OPNOTSUPP.raw_os_error());
    assert_eq!(fake.results(), [(0, 512), (1, 0), (2, 512), (3, 512), (4, unsupported), (5, 512)]);
    assert_eq!(fake.answers()[5].data, [1; 512]);
    assert_eq!(
        backend.store().diary(),
        ["write 0 512 true", "flush", "discard 512 512", "zero 1024 512 false false"]
    );
}

#[test]
fn futures_wait_together_and_are_answered_together() {
    let reads = [Spec::new(v2::OP_READ, 0, 512); 50];
    let fake = Arc::new(Fake::new(SIZE, MAX_IO, [requests(&reads)]).sleeping(1));
    let backend = Gated::new(false);
    let stop = StopToken::new();
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| serve_async(&fake, &backend, &ServeOptions::default(), &stop));
        fake.wait_asleep(1);
        assert_eq!((backend.waiting(), fake.results()), (50, vec![]));
        backend.open();
        fake.wait_answers(50);
        stop.request();
        assert_eq!(serving.join().expect("no panic").expect("served"), End::Gone);
    });
    // The gate wakes the lane while it opens, so the first call may have some of the answers.
    assert!(fake.calls().len() <= 3, "{:?}", fake.calls());
    assert_eq!(fake.answers().len(), 50);
}

#[test]
fn a_lane_fetches_no_more_than_it_may_have_in_flight() {
    let reads = [Spec::new(v2::OP_READ, 0, 512); 50];
    let fake = Arc::new(Fake::new(SIZE, MAX_IO, [requests(&reads)]).sleeping(1));
    let backend = Gated::new(false);
    let (stop, options) = (StopToken::new(), ServeOptions::default().in_flight(7));
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| serve_async(&fake, &backend, &options, &stop));
        fake.wait_asleep(1);
        assert_eq!((backend.waiting(), fake.left()), (7, 7));
        backend.open();
        fake.wait_answers(50);
        stop.request();
        serving.join().expect("no panic").expect("served");
    });
}

#[test]
fn a_panic_of_a_future_fails_one_request() {
    let read = |length| Spec::new(v2::OP_READ, 0, length);
    let fake = fake([requests(&[read(512), read(1024), read(512)])]);
    let error = serve_alone(&fake, &Gated::new(true)).expect_err("panicked");
    assert_eq!(error.to_string(), "backend of device fake panicked in a future");
    assert_eq!(fake.results(), [(0, 512), (1, EIO), (2, 512)]);
}

#[test]
fn who_is_taken_over_answers_what_he_has() {
    let specs = [Spec::new(v2::OP_READ, 0, 512), Spec::write(0, 512, 1), Spec::new(v2::OP_FLUSH, 0, 0)];
    let fake = Arc::new(Fake::new(SIZE, MAX_IO, [requests(&specs)]).sleeping(1));
    let backend = Gated::new(false);
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| serve_alone(&fake, &backend));
        fake.wait_asleep(1);
        let keeper = fake.leave().expect("left");
        assert!(!serving.is_finished());
        backend.open();
        assert_eq!(serving.join().expect("no panic").expect("served"), End::TakenOver);
        drop(keeper);
    });
    assert_eq!(fake.results(), [(0, 512), (1, 512), (2, 0)]);
}

#[test]
fn when_the_device_is_gone_the_futures_are_dropped_unanswered() {
    let reads = [Spec::new(v2::OP_READ, 0, 512); 3];
    let fake = Arc::new(Fake::new(SIZE, MAX_IO, [requests(&reads)]).sleeping(1));
    let backend = Gated::new(false);
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| serve_alone(&fake, &backend));
        fake.wait_asleep(1);
        fake.destroy();
        assert_eq!(serving.join().expect("no panic").expect("served"), End::Gone);
    });
    assert_eq!((fake.results(), fake.left()), (vec![], 3));
    assert_eq!(Arc::strong_count(&fake), 1);
}

#[test]
fn a_flush_that_is_not_declared_is_refused() {
    let fake = Arc::new(Fake::new(SIZE, MAX_IO, []).without_cache());
    let error = serve_alone(&fake, &Gated::new(true)).expect_err("not declared").to_string();
    assert!(error.contains("the backend has a flush of its own"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn scripts_are_served_as_the_model_says(steps in steps(), batch in 1..40_usize, most in 1..40_usize) {
        // Reads of 1 KiB panic.
        let steps: Vec<_> = steps.into_iter().map(without_kib).collect();
        let backend = Gated::new(true);
        check(steps, backend.store(), |fake| {
            let options = ServeOptions::default().batch(batch).in_flight(most);
            serve_async(fake, &backend, &options, &StopToken::new())
        })?;
    }
}

fn without_kib(step: Step) -> Step {
    match step {
        Step::Requests(specs) => {
            let shorter =
                |spec: Spec| Spec { length: if spec.length == 1024 { 512 } else { spec.length }, ..spec };
            Step::Requests(specs.into_iter().map(shorter).collect())
        }
        other => other,
    }
}

/// The kernel refuses to destroy a device whose submitters wait, so futures end before the device.
#[test]
fn a_stop_waits_for_the_futures() {
    let reads = [Spec::new(v2::OP_READ, 0, 512); 5];
    let fake = Arc::new(Fake::new(SIZE, MAX_IO, [requests(&reads)]).sleeping(1));
    let (gated, stop) = (Gated::new(false), StopToken::new());
    let destroy = |force: bool| {
        assert!(!force);
        if fake.left() > 0 {
            gated.open();
            return Err(busy("fake"));
        }
        fake.destroy();
        Ok(())
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while gated.waiting() < 5 {
                std::thread::yield_now();
            }
            stop.request();
        });
        let sleepers = || Ok(FakeSleeper::new(&fake));
        let options = ServeOptions::default();
        let end = serve_async_with(&fake, &gated, &options, &stop, sleepers, || Ok(()), destroy);
        assert_eq!(end.expect("served"), End::Gone);
    });
    assert_eq!(fake.results(), [0, 1, 2, 3, 4].map(|index| (index, 512)));
}
