// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a server tells the program while it serves.
//!
//! The log (`tracing`) has the same and more, but a program without a subscriber has no log. An [`Event`] is
//! something that an operator must know, and prints as a sentence.

use super::{Process, Users};
use crate::error::Range;
use crate::{Errno, Error};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time between two events of a kind that can occur with every request.
const PERIOD: Duration = Duration::from_secs(5);

/// Something that an operator must know and that this process knows because it serves: see
/// [`Builder::on_event`](super::Builder::on_event). Prints as a sentence.
///
/// What the kernel tells of all devices, such as the death of a server, is an [`events::Event`](super::events::Event).
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// The block node exists, and requests are served.
    Serving {
        /// Path of the block node.
        path: PathBuf,
        /// The device existed before; the unanswered requests of its last server are served again.
        followed: bool,
    },
    /// A stop was requested, and the device is in use. The library destroys it as soon as it is not open.
    InUse {
        /// Name of the device.
        device: String,
        /// What uses the device.
        users: Users,
    },
    /// The device is in use and is now destroyed by force. Serving ends with [`Error::Forced`].
    Forced {
        /// Name of the device.
        device: String,
        /// What uses the device.
        users: Users,
    },
    /// An error that serving survives, or not: [`Server::serve`](super::Server::serve) finally returns the first
    /// one.
    Error(Error),
    /// The backend failed a request. Told for the first one, and then once in 5 s at most.
    BackendFailed {
        /// Name of the device.
        device: String,
        /// The operation.
        operation: &'static str,
        /// First byte and length.
        range: (u64, u64),
        /// The error of the backend.
        error: Errno,
        /// Number of earlier failures that no event told of.
        more: u64,
    },
    /// The kernel refused an answer because it came too late: the request has passed its deadline, or was given to
    /// another server. Told for the first one, and then once in 5 s at most.
    TooLate {
        /// Name of the device.
        device: String,
        /// Number of earlier answers that were late and that no event told of.
        more: u64,
    },
    /// The last events of a kind were not told one by one.
    Repeated {
        /// Name of the device.
        device: String,
        /// What happened.
        what: &'static str,
        /// How often, since the last event of this kind.
        times: u64,
    },
    /// The serving threads are no I/O flushers: serving may hang when memory is short.
    NoIoFlusher {
        /// Name of the device.
        device: String,
        /// The error of `PR_SET_IO_FLUSHER`; `None` if the call had no effect.
        error: Option<Errno>,
    },
    /// The kernel will kill the server at a limit of the process (`RLIMIT_CPU`).
    CpuLimit {
        /// Name of the device.
        device: String,
        /// The limit, in seconds of CPU time.
        seconds: u64,
    },
    /// The size of the backend has changed, and the device was resized.
    Resized {
        /// Name of the device.
        device: String,
        /// The size before, in bytes.
        before: u64,
        /// The size now, in bytes.
        size: u64,
        /// What uses the device, looked for only when it shrank.
        users: Users,
    },
    /// The size of the backend has changed, but the device cannot be resized.
    NotResized {
        /// Name of the device.
        device: String,
        /// The size of the backend, in bytes.
        size: u64,
        /// Why not.
        error: Error,
    },
    /// A queue has no thread left. All threads end, and the device waits for its next server.
    Deserted {
        /// Name of the device.
        device: String,
    },
    /// Another server has taken the device over. This server answers what it holds, and ends.
    TakenOver {
        /// Name of the device.
        device: String,
    },
    /// An older server of the device still exists, and this one waits for its end before it serves.
    WaitsForServer {
        /// Name of the device.
        device: String,
        /// The processes that have the older server's descriptor, as far as this process can see.
        processes: Vec<Process>,
        /// Longest time to wait.
        patience: Duration,
    },
    /// An older server did not end in time and was killed.
    Killed {
        /// Name of the device.
        device: String,
        /// The process.
        process: Process,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serving { path, followed: false } => write!(f, "serving {}", path.display()),
            Self::Serving { path, followed: true } => {
                write!(f, "serving {} in place of its last server", path.display())
            }
            Self::InUse { device, users } => write!(
                f,
                "device {device} is in use ({users}): it will be destroyed when it is closed; a second SIGINT (^C) \
                 destroys it at once, and what was not written yet is lost"
            ),
            Self::Forced { device, users } => write!(
                f,
                "destroying device {device} by force although it is in use ({users}): what cannot be written in time \
                 is lost"
            ),
            Self::Error(error) => error.chain().fmt(f),
            Self::BackendFailed { device, operation, range, error, more } => {
                let range = Range(Some(*range));
                write!(f, "the backend of device {device} failed a {operation}{range}: {error}")?;
                and_more(f, *more)
            }
            Self::TooLate { device, more } => {
                write!(
                    f,
                    "an answer of device {device} came too late, after the deadline of its request or after another \
                     server got the request"
                )?;
                and_more(f, *more)
            }
            Self::Repeated { device, what, times } => {
                write!(f, "device {device}: {what}, {times} more times")
            }
            Self::NoIoFlusher { device, error } => {
                write!(f, "device {device} may hang when memory is short: PR_SET_IO_FLUSHER ")?;
                match error {
                    Some(error) => write!(f, "failed (it needs CAP_SYS_RESOURCE): {error}"),
                    None => f.write_str("had no effect"),
                }
            }
            Self::CpuLimit { device, seconds } => write!(
                f,
                "the kernel will kill the server of device {device} after {seconds} s of CPU time (RLIMIT_CPU)"
            ),
            Self::Resized { device, before, size, users } => {
                let word = if size < before { "shrank" } else { "grew" };
                write!(f, "device {device} {word} from {before} to {size} bytes, as its backend did")?;
                if users.is_empty() { Ok(()) } else { write!(f, ", while it is in use ({users})") }
            }
            Self::NotResized { device, size, error } => write!(
                f,
                "the backend of device {device} has {size} bytes now, but the device keeps its size: {}",
                error.chain()
            ),
            Self::Deserted { device } => write!(
                f,
                "a queue of device {device} has no thread left: all threads end, and the device waits for its next \
                 server"
            ),
            Self::TakenOver { device } => write!(f, "another server has taken over device {device}"),
            Self::WaitsForServer { device, processes, patience } => {
                let who = super::users::list(processes.iter().map(ToString::to_string));
                let who = if who.is_empty() { "a process that cannot be seen".to_owned() } else { who };
                write!(f, "waiting up to {patience:?} for the older server of device {device}: {who}")
            }
            Self::Killed { device, process } => {
                write!(f, "killed {process}, an older server of device {device} that did not end in time")
            }
        }
    }
}

fn and_more(f: &mut fmt::Formatter<'_>, more: u64) -> fmt::Result {
    if more == 0 { Ok(()) } else { write!(f, " (and {more} times before)") }
}

/// The kinds of events that can occur with every request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Frequent {
    /// [`Event::BackendFailed`].
    Failed,
    /// [`Event::TooLate`].
    Late,
    /// [`Event::Error`].
    Error,
    /// [`Event::NoIoFlusher`].
    Flusher,
}

const FREQUENT: [(Frequent, &str); 4] = [
    (Frequent::Failed, "the backend failed a request"),
    (Frequent::Late, "an answer came too late"),
    (Frequent::Error, "an error occurred while serving"),
    (Frequent::Flusher, "a serving thread is no I/O flusher"),
];

/// When an event of a kind was told last, and how many were not told since.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    last: Option<Instant>,
    since: u64,
}

/// Where events go: the callback of the program, or nowhere.
#[derive(Clone, Default)]
pub(super) struct Listener(Option<Arc<Callback>>);

struct Callback {
    tell: Box<dyn Fn(&Event) + Send + Sync>,
    told: Mutex<[Told; FREQUENT.len()]>,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Listener(a callback)" } else { "Listener(none)" })
    }
}

impl Listener {
    pub(super) fn new(tell: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(Callback { tell: Box::new(tell), told: Mutex::default() })))
    }

    /// This listener, or the other one if this one does not listen.
    pub(super) fn or(&self, other: &Self) -> Self {
        if self.0.is_some() { self.clone() } else { other.clone() }
    }

    pub(super) fn listens(&self) -> bool {
        self.0.is_some()
    }

    pub(super) fn tell(&self, event: &Event) {
        if let Some(callback) = &self.0 {
            callback.call(event);
        }
    }

    /// Tells an event of a frequent kind: the first one, and then one in 5 s at most. `event` gets the number of
    /// events that were not told since the last one.
    #[cold]
    pub(super) fn tell_sparingly(&self, kind: Frequent, event: impl FnOnce(u64) -> Event) {
        let Some(callback) = &self.0 else { return };
        if let Some(more) = callback.may_tell(kind, Instant::now()) {
            callback.call(&event(more));
        }
    }

    /// Tells an error, and gives it back.
    #[cold]
    pub(super) fn tell_error(&self, error: Error) -> Error {
        match &self.0 {
            Some(callback) if callback.may_tell(Frequent::Error, Instant::now()).is_some() => {
                let event = Event::Error(error);
                callback.call(&event);
                match event {
                    Event::Error(error) => error,
                    _ => unreachable!("it was made here"),
                }
            }
            _ => error,
        }
    }

    /// Tells of the events that were not told.
    pub(super) fn tell_rest(&self, device: &str) {
        let Some(callback) = &self.0 else { return };
        let told = std::mem::take(&mut *callback.lock());
        for (kind, what) in FREQUENT {
            let times = told[kind as usize].since;
            if times > 0 {
                callback.call(&Event::Repeated { device: device.to_owned(), what, times });
            }
        }
    }
}

impl Callback {
    /// Tells an event. A callback that panics, for example because its standard error is a broken pipe, loses the event:
    /// the caller is about to answer requests. The panic's own message is all that is left of it.
    fn call(&self, event: &Event) {
        let _ = catch_unwind(AssertUnwindSafe(|| (self.tell)(event)));
    }

    /// Whether to tell an event of this kind now: then the number of those that were not told.
    fn may_tell(&self, kind: Frequent, now: Instant) -> Option<u64> {
        let mut told = self.lock();
        let told = &mut told[kind as usize];
        if told.last.is_some_and(|last| now.saturating_duration_since(last) < PERIOD) {
            told.since += 1;
            return None;
        }
        told.last = Some(now);
        Some(std::mem::take(&mut told.since))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, [Told; FREQUENT.len()]> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorder() -> (Listener, Arc<Mutex<Vec<String>>>) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&told);
        (Listener::new(move |event| list.lock().expect("list").push(event.to_string())), told)
    }

    #[test]
    fn frequent_events_are_told_once_and_counted() {
        let (listener, told) = recorder();
        for number in 0..5 {
            listener.tell_sparingly(Frequent::Failed, |more| Event::BackendFailed {
                device: "a".to_owned(),
                operation: "write",
                range: (number * 512, 512),
                error: Errno::NOSPC,
                more,
            });
        }
        listener.tell_sparingly(Frequent::Late, |more| Event::TooLate { device: "a".to_owned(), more });
        listener.tell_rest("a");
        listener.tell_rest("a");
        let told = told.lock().expect("list").clone();
        let first =
            "the backend of device a failed a write of 512 bytes at 0: No space left on device (os error 28)";
        assert_eq!(told[0], first);
        assert!(told[1].starts_with("an answer of device a came too late"), "{told:?}");
        assert_eq!(told[2..], ["device a: the backend failed a request, 4 more times"]);
    }

    #[test]
    fn the_count_comes_with_the_next_event() {
        let (listener, _) = recorder();
        let callback = listener.0.expect("a callback");
        let begin = Instant::now();
        assert_eq!(callback.may_tell(Frequent::Failed, begin), Some(0));
        assert_eq!(callback.may_tell(Frequent::Failed, begin + PERIOD / 2), None);
        assert_eq!(callback.may_tell(Frequent::Late, begin + PERIOD / 2), Some(0));
        assert_eq!(callback.may_tell(Frequent::Failed, begin + PERIOD), Some(1));
    }

    #[test]
    fn an_error_is_told_and_kept() {
        let (listener, told) = recorder();
        let error = Error::Fetch { device: "a".to_owned(), source: Errno::NOMEM };
        let error = listener.tell_error(error);
        assert_eq!(*told.lock().expect("list"), [error.chain().to_string()]);
        assert!(Listener::default().or(&listener).listens());
    }
}
