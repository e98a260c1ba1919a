// SPDX-License-Identifier: MIT OR Apache-2.0
//! SIGINT and SIGTERM as requests to stop.
//!
//! Only a person can want a disk destroyed that is in use, and sends a second SIGINT (^C) for it. SIGTERM comes from
//! supervisors and at shutdown, where systemd repeats it while file systems are still mounted. So SIGTERM never asks
//! for force, however often it comes.

use crate::{Error, Result, StopToken};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use std::thread::JoinHandle;

/// Turns signals into requests until it is dropped.
pub(super) struct SignalWatch {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl SignalWatch {
    pub(super) fn new(stop: &StopToken) -> Result<Self> {
        let failed = |source| Error::Signals { source };
        let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
        let handle = signals.handle();
        let stop = stop.clone();
        let watch = move || {
            let mut meaning = Meaning::default();
            for signal in signals.forever() {
                match meaning.of(signal) {
                    Request::Stop => stop.request(),
                    Request::Force => stop.force(),
                }
            }
        };
        let thread = std::thread::Builder::new().name("zosbd2-signals".to_owned()).spawn(watch);
        Ok(Self { handle, thread: Some(thread.map_err(failed)?) })
    }
}

impl Drop for SignalWatch {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            // The thread cannot panic, so there is no result to check.
            let _ = thread.join();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Stop,
    Force,
}

/// What a signal asks for, after those before it.
#[derive(Debug, Default)]
struct Meaning {
    interrupted: bool,
}

impl Meaning {
    fn of(&mut self, signal: i32) -> Request {
        if signal != SIGINT {
            return Request::Stop;
        }
        if std::mem::replace(&mut self.interrupted, true) { Request::Force } else { Request::Stop }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_second_interrupt_asks_for_force() {
        use Request::{Force, Stop};
        let of = |signals: &[i32]| {
            let mut meaning = Meaning::default();
            signals.iter().map(|signal| meaning.of(*signal)).collect::<Vec<_>>()
        };
        assert_eq!(of(&[SIGTERM, SIGTERM, SIGTERM]), [Stop; 3]);
        assert_eq!(of(&[SIGINT, SIGINT, SIGINT]), [Stop, Force, Force]);
        assert_eq!(of(&[SIGTERM, SIGINT, SIGTERM, SIGINT]), [Stop, Stop, Stop, Force]);
    }
}
