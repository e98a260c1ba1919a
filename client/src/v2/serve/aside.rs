// SPDX-License-Identifier: MIT OR Apache-2.0
//! A blocking step of a future, on a thread of the library's own.
//!
//! The future of the step ends when the thread has the result, and its executor runs other tasks meanwhile. A step whose
//! future is dropped goes on until it looks at [`Abandoned`], and drops its result. A panic of the step becomes a panic of the
//! task that waits for it.

use crate::v2::abandoned::Abandoned;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;

/// The result of a step, when it is there.
pub(super) struct Aside<T> {
    shared: Arc<Mutex<Shared<T>>>,
    abandoned: Abandoned,
}

struct Shared<T> {
    result: Option<thread::Result<T>>,
    waker: Option<Waker>,
}

fn lock<T>(shared: &Mutex<Shared<T>>) -> MutexGuard<'_, Shared<T>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a step on a thread of this name.
pub(super) fn aside<T: Send + 'static>(
    name: &str,
    step: impl FnOnce(&Abandoned) -> T + Send + 'static,
) -> io::Result<Aside<T>> {
    let shared = Arc::new(Mutex::new(Shared { result: None, waker: None }));
    let abandoned = Abandoned::never();
    let (theirs, flag) = (shared.clone(), abandoned.clone());
    let run = move || {
        let result = catch_unwind(AssertUnwindSafe(|| step(&flag)));
        let mut shared = lock(&theirs);
        shared.result = Some(result);
        let waker = shared.waker.take();
        drop(shared);
        if let Some(waker) = waker {
            waker.wake();
        }
    };
    thread::Builder::new().name(name.to_owned()).spawn(run)?;
    Ok(Aside { shared, abandoned })
}

impl<T> Future for Aside<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut shared = lock(&self.shared);
        if let Some(result) = shared.result.take() {
            return Poll::Ready(result.unwrap_or_else(|payload| resume_unwind(payload)));
        }
        shared.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl<T> Drop for Aside<T> {
    fn drop(&mut self) {
        self.abandoned.set();
        // It keeps nothing of the executor's.
        lock(&self.shared).waker = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
    }

    #[test]
    fn other_tasks_run_while_a_step_blocks() {
        let (go, gone) = mpsc::channel();
        let step = aside("step", move |_| gone.recv().map(|()| 7)).expect("a thread");
        let result = runtime().block_on(async {
            // The step ends only because this task goes on meanwhile.
            let other = tokio::spawn(async move { go.send(()) });
            let result = step.await;
            other.await.expect("no panic").expect("sent");
            result
        });
        assert_eq!(result, Ok(7));
    }

    #[test]
    fn a_step_that_is_dropped_is_told_so_and_drops_its_result() {
        struct Result(mpsc::Sender<()>);
        impl Drop for Result {
            fn drop(&mut self) {
                self.0.send(()).expect("listened to");
            }
        }
        let (dropped, was_dropped) = mpsc::channel();
        let step = aside("step", move |abandoned| {
            let limit = Instant::now() + Duration::from_secs(60);
            while !abandoned.is_set() {
                assert!(Instant::now() < limit, "nobody says that the step was dropped");
                thread::yield_now();
            }
            Result(dropped)
        });
        drop(step.expect("a thread"));
        was_dropped.recv_timeout(Duration::from_secs(60)).expect("dropped");
    }

    #[test]
    fn a_panic_reaches_the_task() {
        let step = aside("step", |_| panic!("planted")).expect("a thread");
        let payload = catch_unwind(AssertUnwindSafe(|| runtime().block_on(step))).expect_err("a panic");
        assert_eq!(payload.downcast_ref::<&str>(), Some(&"planted"));
    }
}
