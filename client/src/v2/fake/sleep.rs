// SPDX-License-Identifier: MIT OR Apache-2.0
//! How asynchronous lanes wait for the scripted kernel.

use super::{Fake, State};
use crate::v2::serve::ready::{Readiness, Sleeper};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// Wakes a task when the fake has something to say.
#[cfg(feature = "tokio")]
pub(in crate::v2) struct FakeReady(Arc<Fake>);

#[cfg(feature = "tokio")]
impl FakeReady {
    pub(in crate::v2) fn new(fake: &Arc<Fake>) -> Self {
        Self(fake.clone())
    }
}

#[cfg(feature = "tokio")]
impl Readiness for FakeReady {
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.state.lock().expect("state");
        if !state.steps.is_empty() || state.over().is_some() || !self.0.sleeps {
            return Poll::Ready(Ok(()));
        }
        state.wakers.push(context.waker().clone());
        Poll::Pending
    }
}

/// Sleeps until the fake has something to say, or the waker was called.
pub(in crate::v2) struct FakeSleeper {
    fake: Arc<Fake>,
    woken: Arc<FakeWaker>,
    wanted: bool,
}

struct FakeWaker {
    fake: Arc<Fake>,
    woken: AtomicBool,
}

impl Wake for FakeWaker {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Relaxed);
        let _state = self.fake.state.lock().expect("state");
        self.fake.changed.notify_all();
    }
}

impl FakeSleeper {
    pub(in crate::v2) fn new(fake: &Arc<Fake>) -> Self {
        let woken = FakeWaker { fake: fake.clone(), woken: AtomicBool::new(false) };
        Self { fake: fake.clone(), woken: Arc::new(woken), wanted: false }
    }
}

impl Readiness for FakeSleeper {
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = self.fake.state.lock().expect("state");
        let ready = !state.steps.is_empty() || state.over().is_some() || !self.fake.sleeps;
        self.wanted = !ready;
        if ready { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

impl Sleeper for FakeSleeper {
    fn waker(&self) -> Waker {
        self.woken.clone().into()
    }

    fn sleep(&mut self) {
        let Self { fake, woken, wanted } = self;
        let mut state = fake.state.lock().expect("state");
        state.asleep += 1;
        fake.changed.notify_all();
        let asleep = |state: &mut State| {
            let news = !state.steps.is_empty() || state.over().is_some();
            !(woken.woken.load(Ordering::Relaxed) || (*wanted && news))
        };
        let limit = Duration::from_secs(60);
        let (mut state, waited) = fake.changed.wait_timeout_while(state, limit, asleep).expect("state");
        assert!(!waited.timed_out(), "nothing will end this sleep");
        state.asleep -= 1;
        woken.woken.store(false, Ordering::Relaxed);
    }
}
