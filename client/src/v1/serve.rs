// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs a backend on a device of version 1 until the device is gone.
//!
//! The calling thread waits; the workers have all ended when it returns. On a stop request the calling thread
//! destroys the device while the workers still serve, so that the kernel can write out dirty data. The kernel
//! then says goodbye to every worker. If the process dies, the device stays, and another process may open it
//! by name and serve it.

use super::{Backend, Channel, Control, Device, Event, StopToken, Worker};
use crate::serving::{Running, prepare_thread};
use crate::{Errno, Error, Result};
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Number of consecutive failed fetches after which a worker gives up.
const MAX_FAILURES: u32 = 20;
/// Time between a failed fetch and the next one.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves `device` with `threads` workers until it is destroyed, by this process or another one.
///
/// A request on `stop` destroys it by force through `control`. Returns the first error, if any, after all
/// workers have ended. The device is gone then, unless every worker gave up because the kernel refused its
/// calls ([`Error::Fetch`]).
pub fn serve<B>(
    control: &Control,
    device: &Device,
    backend: &B,
    threads: NonZeroUsize,
    stop: &StopToken,
) -> Result<()>
where
    B: Backend + ?Sized,
{
    serve_with(device, backend, threads, stop, || control.destroy(device.handle(), true))
}

/// Like [`serve`], on any channel. The calling thread calls `destroy` for each stop request until the workers
/// have ended.
pub fn serve_with<C, B>(
    channel: &C,
    backend: &B,
    threads: NonZeroUsize,
    stop: &StopToken,
    destroy: impl Fn() -> Result<()>,
) -> Result<()>
where
    C: Channel + ?Sized,
    B: Backend + ?Sized,
{
    let session = Session { channel, backend, stop, running: Running::default(), first: Mutex::new(None) };
    std::thread::scope(|scope| {
        for index in 0..threads.get() {
            session.running.begin();
            let name = format!("zosbd2-{index}");
            if let Err(source) =
                std::thread::Builder::new().name(name).spawn_scoped(scope, || session.thread())
            {
                session.running.cancel();
                // The running threads suffice to serve. The caller gets the error in the end.
                session.note(Error::Spawn { device: channel.name().to_string(), source });
                break;
            }
        }
        session.wait(destroy);
    });
    let first = session.first.into_inner().unwrap_or_else(PoisonError::into_inner);
    first.map_or(Ok(()), Err)
}

/// What the threads of one `serve` share.
struct Session<'a, C: ?Sized, B: ?Sized> {
    channel: &'a C,
    backend: &'a B,
    stop: &'a StopToken,
    running: Running,
    first: Mutex<Option<Error>>,
}

impl<C: Channel + ?Sized, B: Backend + ?Sized> Session<'_, C, B> {
    /// Waits until the workers have ended, and destroys the device on stop requests.
    fn wait(&self, destroy: impl Fn() -> Result<()>) {
        let ended = || self.running.none();
        let mut seen = 0;
        loop {
            seen = self.stop.wait(seen, ended);
            if ended() {
                return;
            }
            match destroy() {
                // Another process destroyed the device first.
                Ok(()) | Err(Error::Control { source: Errno::NOENT, .. }) => {}
                Err(error) => self.note(error),
            }
        }
    }

    fn thread(&self) {
        let _count_out = self.running.count_out(self.stop);
        prepare_thread(&self.channel.name().to_string());
        if let Err(error) = self.work() {
            self.note(error);
        }
    }

    fn work(&self) -> Result<()> {
        let mut worker = Worker::new(self.channel);
        let mut answer = None;
        let mut failures = 0;
        loop {
            let event = match answer.take() {
                Some(result) => worker.answer_and_fetch(result),
                None => worker.fetch(),
            };
            if event.is_ok() {
                failures = 0;
            }
            match event {
                Ok(Event::Read { offset, buffer, .. }) => {
                    answer = Some(self.guard("read", || self.backend.read(offset, buffer)));
                }
                Ok(Event::Write { offset, data, .. }) => {
                    answer = Some(self.guard("write", || self.backend.write(offset, data)));
                }
                Ok(Event::Discard { offset, length, .. }) => {
                    answer = Some(self.guard("discard", || self.backend.discard(offset, length)));
                }
                Ok(Event::ShutdownNotice | Event::Interrupted { .. }) => {}
                Ok(Event::Gone) => return Ok(()),
                Err(error @ Error::Request { .. }) => {
                    self.note(error);
                    answer = Some(Err(Errno::IO));
                }
                Err(error) => {
                    failures += 1;
                    if failures >= MAX_FAILURES {
                        return Err(error);
                    }
                    tracing::warn!(%error, failures, "fetch will be retried");
                    self.stop.pause(PAUSE);
                }
            }
        }
    }

    /// Runs one request. A panic of the backend fails only that request.
    fn guard(&self, operation: &'static str, run: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
            self.note(Error::BackendPanicked {
                device: self.channel.name().to_string(),
                operation,
                range: None,
            });
            Err(Errno::IO)
        })
    }

    /// Keeps the first error for the caller.
    fn note(&self, error: Error) {
        tracing::error!(error = &error as &dyn std::error::Error, "while serving");
        self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}
