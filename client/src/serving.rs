// SPDX-License-Identifier: MIT OR Apache-2.0
//! What serving threads have in common, whichever interface they serve: what each does first, and how they are
//! counted, so that whoever started them can wait for their end.

use crate::StopToken;
use rustix::process::{configure_io_flusher_behavior, is_io_flusher};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The threads that serve. Who waits until there are none does so with the [`StopToken`] that each wakes in the end.
#[derive(Debug, Default)]
pub(crate) struct Running(AtomicUsize);

impl Running {
    /// A thread is about to be started: nobody may take it for ended before it has begun.
    pub(crate) fn begin(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The thread that was about to be started was not.
    pub(crate) fn cancel(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// What the thread keeps until it ends in any way.
    pub(crate) const fn count_out<'a>(&'a self, stop: &'a StopToken) -> CountOut<'a> {
        CountOut { running: self, stop }
    }

    /// Whether all have ended. What they did before is then seen.
    pub(crate) fn none(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }
}

/// Counts a thread out when it is dropped, and wakes who waits for that.
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

/// Makes the calling thread fit to serve a disk. Failures are told to the log: serving works without.
pub(crate) fn prepare_thread(device: &str) {
    become_io_flusher(device);
    if let Err(error) = crate::sys::schedule::wake_without_preempting() {
        tracing::debug!(device, %error, "serving with the default scheduling policy");
    }
}

/// Tells the kernel that this thread serves a disk: memory that it needs must not wait for write-back,
/// which may be waiting for this thread. Serving works without, except when memory is short.
fn become_io_flusher(device: &str) {
    match configure_io_flusher_behavior(true).and_then(|()| is_io_flusher()) {
        Ok(true) => {}
        Ok(false) => {
            tracing::warn!(device, "PR_SET_IO_FLUSHER had no effect: may hang when memory is short");
        }
        Err(error) => tracing::warn!(
            device,
            %error,
            "PR_SET_IO_FLUSHER failed (needs CAP_SYS_RESOURCE): may hang when memory is short"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    use std::fmt::{Debug, Write as _};
    use std::sync::{Arc, Mutex};
    use tracing::field::{Field, Visit};
    use tracing::{Event, Level, Metadata, Subscriber, span};

    /// Keeps what is told at least as a warning: fields one after the other.
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
        // Capabilities and the log are the thread's own.
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
            assert!(told.contains(part), "{part} is not in: {told}");
        }
    }
}
