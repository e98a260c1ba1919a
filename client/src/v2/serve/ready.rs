// SPDX-License-Identifier: MIT OR Apache-2.0
//! How an asynchronous lane waits for requests.

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::{Errno, read, write};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Tells when a server descriptor has become readable or has been hung up.
pub trait Readiness {
    /// Returns `Ready` once for each time that the descriptor has become readable or was hung up, at least. If it
    /// is not ready, the waker of `context` is woken when it is. The lane looks for requests after each `Ready`
    /// until it finds none, and asks only then again.
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// A [`Readiness`] whose thread has nothing else to do.
pub(in crate::v2) trait Sleeper: Readiness {
    /// Ends the sleep of this thread, now or the next time.
    fn waker(&self) -> Waker;

    /// Sleeps until the waker was called, or the descriptor is ready and somebody asked for that.
    fn sleep(&mut self);
}

/// Sleeps in `poll`, on the server's descriptor and an eventfd.
pub(super) struct PollSleeper<D> {
    descriptor: D,
    event: Arc<Event>,
    /// Somebody waits for the descriptor.
    wanted: bool,
    ready: bool,
}

/// The eventfd, and whether it has to be written.
struct Event {
    fd: OwnedFd,
    state: AtomicU8,
}

const AWAKE: u8 = 0;
const ASLEEP: u8 = 1;
const WOKEN: u8 = 2;

impl Wake for Event {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(WOKEN, Ordering::AcqRel) == ASLEEP {
            // Cannot fail: the counter is far from its end.
            let _ = write(&self.fd, &1_u64.to_ne_bytes());
        }
    }
}

impl<D: AsFd> PollSleeper<D> {
    pub(super) fn new(descriptor: D) -> Result<Self, Errno> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let event = Arc::new(Event { fd, state: AtomicU8::new(AWAKE) });
        Ok(Self { descriptor, event, wanted: false, ready: true })
    }
}

impl<D: AsFd> Readiness for PollSleeper<D> {
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wanted = !std::mem::take(&mut self.ready);
        if self.wanted { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

impl<D: AsFd> Sleeper for PollSleeper<D> {
    fn waker(&self) -> Waker {
        self.event.clone().into()
    }

    fn sleep(&mut self) {
        let Event { fd, state } = &*self.event;
        let asleep = state.compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire);
        if asleep.is_ok() {
            let mut fds = [PollFd::new(fd, PollFlags::IN), PollFd::new(&self.descriptor, PollFlags::IN)];
            let count = if self.wanted { 2 } else { 1 };
            // An interrupted call is a spurious wake, which is harmless.
            let polled = poll(&mut fds[..count], None);
            self.ready = self.wanted && polled.is_ok() && !fds[1].revents().is_empty();
            if !fds[0].revents().is_empty() {
                let _ = read(fd, &mut [0_u8; 8]);
            }
        }
        self.wanted = false;
        // A wake from here on is for the polls that follow, and ends the next sleep at once.
        state.swap(AWAKE, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn a_wake_or_the_descriptor_ends_the_sleep() {
        let context = &mut Context::from_waker(Waker::noop());
        let other = Arc::new(eventfd(0, EventfdFlags::NONBLOCK).expect("eventfd"));
        let mut sleeper = PollSleeper::new(other.clone()).expect("eventfd");
        assert!(sleeper.poll_ready(context).is_ready(), "may have requests from before");
        assert!(sleeper.poll_ready(context).is_pending());
        // A wake before the sleep, and one during it.
        sleeper.waker().wake();
        sleeper.sleep();
        let waker = sleeper.waker();
        let thread = std::thread::spawn(move || waker.wake());
        sleeper.sleep();
        thread.join().expect("no panic");
        assert!(sleeper.poll_ready(context).is_pending());
        write(&*other, &1_u64.to_ne_bytes()).expect("write");
        sleeper.sleep();
        assert!(sleeper.poll_ready(context).is_ready());
        // Nobody asks for the descriptor, so only a wake counts, although it is ready.
        let begin = Instant::now();
        let waker = sleeper.waker();
        let thread = std::thread::spawn(move || {
            while begin.elapsed() < Duration::from_millis(20) {
                std::thread::yield_now();
            }
            waker.wake();
        });
        sleeper.sleep();
        assert!(begin.elapsed() >= Duration::from_millis(20));
        thread.join().expect("no panic");
    }
}
