// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the serving threads of both interface versions share: how a thread prepares itself, and the count of
//! running threads, by which the caller waits for their end.

use crate::{Errno, StopToken};
use rustix::process::{Resource, configure_io_flusher_behavior, getrlimit, is_io_flusher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

/// Counts the serving threads. The last thread to end wakes the [`StopToken`] on which the caller waits.
#[derive(Debug, Default)]
pub(crate) struct Running(AtomicUsize);

impl Running {
    /// Counts a thread before it is started, so that [`none`](Self::none) cannot be true before the thread
    /// runs.
    pub(crate) fn begin(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Undoes [`begin`](Self::begin) because the thread could not be started.
    pub(crate) fn cancel(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts the calling thread out when the result is dropped.
    pub(crate) const fn count_out<'a>(&'a self, stop: &'a StopToken) -> CountOut<'a> {
        CountOut { running: self, stop }
    }

    /// Whether all threads have ended. Everything that they wrote is visible afterwards.
    pub(crate) fn none(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }
}

/// Counts a thread out when it is dropped, and wakes the waiting caller.
#[derive(Debug)]
pub(crate) struct CountOut<'a> {
    running: &'a Running,
    stop: &'a StopToken,
}

impl Drop for CountOut<'_> {
    fn drop(&mut self) {
        self.running.0.fetch_sub(1, Ordering::Release);
        self.stop.wake();
    }
}

/// A flag that is set once, to yes or no. Threads wait until it is set.
#[derive(Debug, Default)]
pub(crate) struct OnceFlag {
    value: Mutex<Option<bool>>,
    changed: Condvar,
}

impl OnceFlag {
    /// Sets the flag, and wakes the threads that wait for it.
    pub(crate) fn set(&self, yes: bool) {
        *self.value.lock().unwrap_or_else(PoisonError::into_inner) = Some(yes);
        self.changed.notify_all();
    }

    /// Waits until the flag is set, and returns it.
    pub(crate) fn wait(&self) -> bool {
        let value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        let value = self.changed.wait_while(value, |value| value.is_none());
        *value.unwrap_or_else(PoisonError::into_inner) == Some(true)
    }
}

/// Why a thread is no I/O flusher: the error, or `None` if the call had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoFlusher(pub(crate) Option<Errno>);

/// Prepares the calling thread to serve a disk. Failures only cause a log entry, because serving works
/// without. Returns the failure that the operator must know.
pub(crate) fn prepare_thread(device: &str) -> Option<NoFlusher> {
    let flusher = prepare_for_writes(device);
    if let Err(error) = crate::sys::schedule::wake_without_preempting() {
        tracing::debug!(device, %error, "serving with the default scheduling policy");
    }
    flusher
}

/// The part of [`prepare_thread`] that is for the backend's own I/O.
pub(crate) fn prepare_for_writes(device: &str) -> Option<NoFlusher> {
    let flusher = become_io_flusher(device);
    if let Err(error) = crate::sys::signal::block_signals_of_writes() {
        tracing::warn!(device, %error, "SIGXFSZ and SIGPIPE are not blocked: a write that fails may kill the server");
    }
    flusher
}

/// Logs and returns the limit of the process that will end it while it serves: seconds of CPU time.
pub(crate) fn warn_of_limits(device: &str) -> Option<u64> {
    let seconds = getrlimit(Resource::Cpu).current?;
    tracing::warn!(device, seconds, "RLIMIT_CPU: the kernel will kill the server at this limit");
    Some(seconds)
}

/// Marks this thread as an I/O flusher: allocations on its behalf do not wait for write-back, which may
/// itself be waiting for this thread. Serving works without, except when memory is short.
fn become_io_flusher(device: &str) -> Option<NoFlusher> {
    match configure_io_flusher_behavior(true).and_then(|()| is_io_flusher()) {
        Ok(true) => None,
        Ok(false) => {
            tracing::warn!(device, "PR_SET_IO_FLUSHER had no effect: may hang when memory is short");
            Some(NoFlusher(None))
        }
        Err(error) => {
            tracing::warn!(
                device,
                %error,
                "PR_SET_IO_FLUSHER failed (needs CAP_SYS_RESOURCE): may hang when memory is short"
            );
            Some(NoFlusher(Some(error)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Rlimit, setrlimit};
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    use std::fmt::{Debug, Write as _};
    use std::sync::{Arc, Mutex};
    use tracing::field::{Field, Visit};
    use tracing::{Event, Level, Metadata, Subscriber, span};

    /// A log that keeps warnings and errors as text.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<String>>);

    impl Visit for Log {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            write!(self.0.lock().unwrap(), "{}={value:?} ", field.name()).unwrap();
        }
    }

    impl Subscriber for Log {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            *metadata.level() <= Level::WARN
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, event: &Event<'_>) {
            event.record(&mut self.clone());
        }

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn who_cannot_become_an_io_flusher_says_so_and_goes_on() {
        // Capabilities and the log are per thread.
        let log = Log::default();
        let told = log.0.clone();
        let thread = std::thread::spawn(move || {
            let mut sets = capabilities(None).unwrap();
            for set in [&mut sets.effective, &mut sets.permitted, &mut sets.inheritable] {
                set.remove(CapabilitySet::SYS_RESOURCE);
            }
            set_capabilities(None, sets).unwrap();
            tracing::subscriber::with_default(log, || prepare_thread("humble"));
        });
        thread.join().unwrap();
        let told = told.lock().unwrap();
        for part in ["device=\"humble\"", "error=", "PR_SET_IO_FLUSHER failed", "CAP_SYS_RESOURCE"] {
            assert!(told.contains(part), "missing in the log: {part}; the log has: {told}");
        }
    }

    /// The signals of a set in `/proc/thread-self/status`, as a bit mask.
    fn signals(set: &str) -> u64 {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(set)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    }

    #[test]
    fn signals_of_writes_are_blocked_in_serving_threads_alone() {
        let (blocked, ignored) = (signals("SigBlk:"), signals("SigIgn:"));
        let inside = std::thread::spawn(|| {
            prepare_thread("quiet");
            (signals("SigBlk:"), signals("SigIgn:"))
        });
        let wanted = 1 << (libc::SIGXFSZ - 1) | 1 << (libc::SIGPIPE - 1);
        assert_eq!(inside.join().unwrap(), (blocked | wanted, ignored));
        assert_eq!((signals("SigBlk:"), signals("SigIgn:")), (blocked, ignored));
    }

    #[test]
    fn a_limit_that_will_end_the_server_is_told() {
        let log = Log::default();
        let told = log.0.clone();
        let before = getrlimit(Resource::Cpu);
        // Far more than these tests use.
        setrlimit(Resource::Cpu, Rlimit { current: Some(1_000_000), ..before }).unwrap();
        tracing::subscriber::with_default(log, || warn_of_limits("short"));
        setrlimit(Resource::Cpu, before).unwrap();
        let told = told.lock().unwrap();
        for part in ["device=\"short\"", "seconds=1000000", "RLIMIT_CPU"] {
            assert!(told.contains(part), "{part} is not in: {told}");
        }
    }
}
