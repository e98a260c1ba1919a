// SPDX-License-Identifier: MIT OR Apache-2.0
//! A thousand requests in flight need memory for their data alone, and an idle lane gives it back.

use super::*;
use crate::sys::counting::{counted, mapped, uncounted};
use crate::v2::fake::FakeSleeper;
use crate::v2::serve::{serve_async_with, serve_requests_with};
use crate::{AsyncBackend, Handler, Request};
use std::future::poll_fn;
use std::sync::OnceLock;
use std::task::{Poll, Waker};

const REQUESTS: usize = 1000;
const BYTES: usize = 4096;
/// What an idle lane keeps.
const KEPT: usize = 512 << 10;

/// What the serving thread has.
#[derive(Default)]
struct Seen {
    requests: AtomicUsize,
    allocations: AtomicUsize,
    /// Bytes of buffers, and how many they were at the first request.
    buffers: OnceLock<&'static AtomicUsize>,
    first: AtomicUsize,
}

impl Seen {
    /// Called for each request, on the serving thread. Returns whether it is the last one.
    fn request(&self) -> bool {
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let buffers = self.buffers.get_or_init(mapped).load(Ordering::Relaxed);
        if number == 1 {
            self.allocations.store(counted(), Ordering::Relaxed);
            self.first.store(buffers, Ordering::Relaxed);
        } else if number == REQUESTS {
            let first = self.first.load(Ordering::Relaxed);
            assert_eq!(buffers - first, (REQUESTS - 1) * BYTES, "buffers");
        }
        number == REQUESTS
    }

    /// Allocations of this thread since the first request.
    fn allocations(&self) -> usize {
        counted() - self.allocations.load(Ordering::Relaxed)
    }

    /// Waits until the lane has given back what it does not keep.
    fn wait_idle(&self, fake: &Fake) {
        fake.wait_answers(REQUESTS);
        fake.wait_asleep(1);
        let buffers = self.buffers.get().expect("requests came").load(Ordering::Relaxed);
        let first = self.first.load(Ordering::Relaxed);
        assert!(buffers <= first + KEPT, "{} bytes more than before", buffers - first);
    }
}

fn fake() -> Arc<Fake> {
    let reads = vec![Spec::new(v2::OP_READ, 0, BYTES as u64); REQUESTS];
    Arc::new(Fake::new(SIZE, MAX_IO, [Step::Requests(reads)]).deep(v2::MAX_DEPTH).sleeping(1))
}

/// Keeps the requests until all are there. Then they are answered here, or on another thread.
struct Holds {
    seen: Seen,
    held: Mutex<Vec<Request>>,
    elsewhere: bool,
}

impl Handler for Holds {
    fn size(&self) -> u64 {
        SIZE
    }

    fn handle(&self, request: Request) {
        self.held.lock().expect("held").push(request);
        if !self.seen.request() {
            return;
        }
        assert_eq!(self.seen.allocations(), 0, "allocations");
        let all = std::mem::take(&mut *self.held.lock().expect("held"));
        let answer = move || all.into_iter().for_each(|request| request.complete(Ok(())));
        if self.elsewhere {
            std::thread::spawn(answer);
        } else {
            answer();
        }
    }
}

fn owned(elsewhere: bool) {
    let (fake, stop) = (fake(), StopToken::new());
    let held = Mutex::new(Vec::with_capacity(REQUESTS));
    let holds = Holds { seen: Seen::default(), held, elsewhere };
    let destroy = |_| {
        fake.destroy();
        Ok(())
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            holds.seen.wait_idle(&fake);
            stop.request();
        });
        let options = ServeOptions::default();
        serve_requests_with(&fake, &holds, &options, &stop, || Ok(()), destroy).expect("served");
    });
    assert!(fake.results().iter().all(|(_, result)| *result > 0));
}

#[test]
fn owned_requests_in_flight_need_their_data_alone() {
    owned(false);
}

#[test]
fn memory_of_requests_that_are_answered_elsewhere_comes_back() {
    owned(true);
}

/// Futures that wait until all requests are there.
#[derive(Default)]
struct Waits {
    seen: Seen,
    wakers: Mutex<Vec<Waker>>,
}

impl AsyncBackend for Waits {
    fn size(&self) -> u64 {
        SIZE
    }

    async fn read(&self, _: u64, _: &mut [u8]) -> Result<(), Errno> {
        let all_are_there = self.seen.request();
        poll_fn(|context| {
            if self.seen.requests.load(Ordering::Relaxed) == REQUESTS {
                return Poll::Ready(());
            }
            uncounted(|| self.wakers.lock().expect("wakers").push(context.waker().clone()));
            Poll::Pending
        })
        .await;
        if all_are_there {
            // A slot is allocated when it is first used: the future, and its waker.
            let allocations = self.seen.allocations();
            assert!(allocations <= 2 * REQUESTS, "{allocations} allocations");
            self.wakers.lock().expect("wakers").drain(..).for_each(Waker::wake);
        }
        Ok(())
    }

    async fn write(&self, _: u64, _: &mut [u8], _: bool) -> Result<(), Errno> {
        Ok(())
    }
}

#[test]
fn futures_in_flight_need_their_data_and_their_slots() {
    let (fake, stop, waits) = (fake(), StopToken::new(), Waits::default());
    let destroy = |_| {
        fake.destroy();
        Ok(())
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            waits.seen.wait_idle(&fake);
            stop.request();
        });
        let options = ServeOptions::default().in_flight(REQUESTS);
        let sleepers = || Ok(FakeSleeper::new(&fake));
        serve_async_with(&fake, &waits, &options, &stop, sleepers, || Ok(()), destroy).expect("served");
    });
    assert!(fake.results().iter().all(|(_, result)| *result > 0));
}
