// SPDX-License-Identifier: MIT OR Apache-2.0
//! Serving allocates nothing per request, with owned requests and with futures.

use super::*;
use crate::sys::counting::{counted, uncounted};
use crate::v2::fake::FakeSleeper;
use crate::v2::serve::{serve_async_with, serve_requests_with};
use crate::{AsyncBackend, Handler, Request};
use std::task::Poll;

/// Requests of one round, and rounds.
const ROUND: usize = 20;
const ROUNDS: usize = 200;
/// Requests after which everything that is allocated once is there.
const WARM: usize = ROUND * 20;

fn fake() -> Arc<Fake> {
    let specs: Vec<_> = (0..ROUND as u64)
        .map(|at| match at % 3 {
            0 => Spec::new(v2::OP_READ, at * 4096, 4096),
            1 => Spec::write(at * 8192, 8192, 1),
            _ => Spec::new(v2::OP_FLUSH, 0, 0),
        })
        .collect();
    Arc::new(Fake::new(SIZE, MAX_IO, (0..ROUNDS).map(|_| Step::Requests(specs.clone()))))
}

/// Counts requests, and the allocations after the first ones.
#[derive(Default)]
struct Seen {
    requests: AtomicUsize,
    warm: AtomicUsize,
}

impl Seen {
    fn request(&self) {
        if self.requests.fetch_add(1, Ordering::Relaxed) == WARM {
            self.warm.store(counted(), Ordering::Relaxed);
        }
    }

    /// Allocations of this thread, which serves, since it was warm.
    fn check(&self) {
        if self.requests.load(Ordering::Relaxed) == ROUND * ROUNDS {
            assert_eq!(counted() - self.warm.load(Ordering::Relaxed), 0, "allocations");
        }
    }
}

#[test]
fn owned_requests_allocate_nothing() {
    struct Direct(Seen);
    impl Handler for Direct {
        fn size(&self) -> u64 {
            SIZE
        }

        fn handle(&self, request: Request) {
            self.0.request();
            request.complete(Ok(()));
            self.0.check();
        }
    }
    let (fake, stop) = (fake(), StopToken::new());
    let (start, destroy) = (|| Ok(()), |_| panic!("no stop"));
    let direct = Direct(Seen::default());
    serve_requests_with(&fake, &direct, &ServeOptions::default(), &stop, start, destroy).expect("served");
    assert_eq!(direct.0.requests.into_inner(), ROUND * ROUNDS);
}

#[test]
fn futures_allocate_nothing() {
    /// Is woken once in each read and write.
    struct Waits(Seen);

    async fn wait() {
        let mut waited = false;
        std::future::poll_fn(|context| {
            if std::mem::replace(&mut waited, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    impl AsyncBackend for Waits {
        fn size(&self) -> u64 {
            SIZE
        }

        async fn read(&self, _: u64, _: &mut [u8]) -> Result<(), Errno> {
            self.0.request();
            wait().await;
            self.0.check();
            Ok(())
        }

        async fn write(&self, _: u64, _: &mut [u8], _: bool) -> Result<(), Errno> {
            self.0.request();
            wait().await;
            self.0.check();
            Ok(())
        }

        async fn flush(&self) -> Result<(), Errno> {
            self.0.request();
            self.0.check();
            Ok(())
        }
    }
    let (fake, stop) = (fake(), StopToken::new());
    let (start, destroy) = (|| Ok(()), |_| panic!("no stop"));
    let sleepers = || Ok(uncounted(|| FakeSleeper::new(&fake)));
    let waits = Waits(Seen::default());
    serve_async_with(&fake, &waits, &ServeOptions::default(), &stop, sleepers, start, destroy)
        .expect("served");
    assert_eq!(waits.0.requests.into_inner(), ROUND * ROUNDS);
}
