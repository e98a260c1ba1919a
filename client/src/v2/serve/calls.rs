// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes the calls of a lane: repeats interrupted calls, gives refused answers again as errors, and gives up
//! after too many failures.
//!
//! One thread uses a `Calls` at a time. It blocks as long as the channel's call does, and up to [`PAUSE`] after
//! a failed call. When the device is gone, no answer of the batch is needed any more.

use super::notes::Notes;
use crate::v2::{Batch, Channel, Entered, Fetch, Fetched};
use crate::{Errno, Error, Result, StopToken};
use std::time::Duration;

/// Number of consecutive failed calls after which a thread gives up.
pub(in crate::v2) const MAX_FAILURES: u32 = 20;
/// Time between a failed call and the next one.
pub(in crate::v2) const PAUSE: Duration = Duration::from_millis(100);

/// Result of giving a batch of answers.
#[derive(Clone, Copy, Debug)]
pub(in crate::v2) struct Given {
    pub(in crate::v2) fetched: usize,
    /// Requests that were fetched, too, and that a layer has kept.
    pub(in crate::v2) kept: usize,
    pub(in crate::v2) refused: usize,
    /// The device is gone.
    pub(in crate::v2) gone: bool,
}

/// The calls of one lane.
pub(in crate::v2) struct Calls<'s, C> {
    pub(in crate::v2) channel: &'s C,
    pub(in crate::v2) stop: &'s StopToken,
    pub(in crate::v2) notes: &'s Notes,
    pub(in crate::v2) failures: u32,
    /// Another server gets the requests now.
    pub(in crate::v2) taken_over: bool,
}

impl<'s, C: Channel> Calls<'s, C> {
    pub(in crate::v2) const fn new(channel: &'s C, stop: &'s StopToken, notes: &'s Notes) -> Self {
        Self { channel, stop, notes, failures: 0, taken_over: false }
    }

    /// Gives all answers and fetches, and repeats interrupted calls.
    #[inline]
    pub(in crate::v2) fn give(&mut self, batch: &mut Batch<'_>, mut fetch: Fetch<'_>) -> Result<Given> {
        let entered = self.channel.enter(batch, fetch.again());
        if entered.error.is_none() && batch.is_processed() {
            self.failures = 0;
            let Entered { fetched, kept, refused, .. } = entered;
            return Ok(Given { fetched, kept, refused, gone: false });
        }
        self.give_rest(batch, fetch, entered)
    }

    /// Gives all answers, the refused ones as errors, and fetches nothing. If the device is gone, nothing is left to do.
    pub(in crate::v2) fn give_all(&mut self, batch: &mut Batch<'_>) -> Result<()> {
        let given = self.give(batch, Fetch::nothing())?;
        if given.refused != 0 && !given.gone { self.fail_refused(batch) } else { Ok(()) }
    }

    /// Continues after a call that failed or was incomplete.
    #[cold]
    fn give_rest(
        &mut self,
        batch: &mut Batch<'_>,
        mut fetch: Fetch<'_>,
        mut entered: Entered,
    ) -> Result<Given> {
        let mut given = Given { fetched: 0, kept: 0, refused: 0, gone: false };
        loop {
            given.refused += entered.refused;
            given.kept += entered.kept;
            if entered.fetched > 0 {
                // The fetched requests stay in place while the remaining answers are given.
                given.fetched = entered.fetched;
                fetch = Fetch::nothing();
            }
            let progress = entered.processed > 0 || entered.fetched > 0;
            match entered.error {
                None if batch.is_processed() => {
                    self.failures = 0;
                    return Ok(given);
                }
                None if progress => {}
                Some(Errno::INTR) => {}
                Some(Errno::NODEV) => return Ok(Given { gone: true, ..given }),
                Some(Errno::SHUTDOWN) => {
                    self.taken_over = true;
                    if batch.is_processed() || !progress {
                        return Ok(given);
                    }
                    fetch = Fetch::nothing();
                }
                failed => self.failed(failed.unwrap_or(Errno::IO))?,
            }
            entered = self.channel.enter(batch, fetch.again());
        }
    }

    /// After a failed call: waits before the next attempt, or gives up after too many.
    fn failed(&mut self, source: Errno) -> Result<()> {
        let error = Error::Fetch { device: self.notes.device(), source };
        self.failures += 1;
        if self.failures >= MAX_FAILURES {
            return Err(error);
        }
        let failures = self.failures;
        tracing::warn!(error = &error as &dyn std::error::Error, failures, "fetch will be retried");
        self.stop.pause(PAUSE);
        Ok(())
    }

    /// Fails the requests whose answers were refused, unless they are stale.
    #[cold]
    pub(in crate::v2) fn fail_refused(&mut self, batch: &mut Batch<'_>) -> Result<()> {
        self.note_refused(batch);
        batch.fail_refused(Errno::IO);
        if !batch.is_empty() {
            self.give(batch, Fetch::nothing())?;
            self.note_refused(batch);
        }
        Ok(())
    }

    fn note_refused(&self, batch: &Batch<'_>) {
        for (handle, source) in batch.refused() {
            let device = self.notes.device();
            if source == Errno::STALE {
                // The request has passed its deadline, or the device is being destroyed.
                tracing::debug!(device, handle, "answer came too late");
                self.notes.too_late();
            } else {
                self.notes.note(Error::Refused { device, handle, source });
            }
        }
    }
}

/// Moves the requests whose entries in `batch` were not refused to the front. Returns their number.
pub(in crate::v2) fn retain_accepted(batch: &Batch<'_>, requests: &mut [Fetched]) -> usize {
    let mut left = 0;
    for at in 0..requests.len() {
        if batch.refused().all(|(handle, _)| handle != requests[at].handle()) {
            requests[left] = requests[at];
            left += 1;
        }
    }
    left
}
