// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lane of a blocking [`Backend`]: one call of the backend for each request, on the lane's own thread.
//!
//! The lane answers a batch of requests and fetches the next batch in one call. It has a buffer for the results of
//! reads and one for the data of writes, so serving a request allocates nothing, and no request leaves the
//! thread. A panic of the backend fails its request, and the lane goes on.

use super::calls::{Calls, Given, retain_accepted};
use super::limits::Limits;
use super::memory::{FreeSpace, Memory, ask_for_data};
use super::pace::Pace;
use super::session::{Lanes, Session};
use super::{End, ServeOptions};
use crate::v2::geometry::{Wanted, operation_name};
use crate::v2::{Backend, Batch, Channel, Fetch, Fetched, Region, Zero};
use crate::{Errno, Error, Result};
use std::panic::{AssertUnwindSafe, catch_unwind};
use zosbd2_abi::v2;

/// The lanes of a backend.
pub(super) struct Blocking<'s, C, B: ?Sized> {
    pub(super) session: &'s Session<&'s C>,
    pub(super) backend: &'s B,
    options: &'s ServeOptions,
    /// The kernel copies directly from and to the backend's memory, so writes need no arena.
    regions: bool,
}

impl<'s, C: Channel, B: Backend + ?Sized> Blocking<'s, C, B> {
    pub(super) fn new(session: &'s Session<&'s C>, backend: &'s B, options: &'s ServeOptions) -> Self {
        // A region for the first block stands for regions of all blocks.
        let block = session.channel.status().logical_block_size as usize;
        let regions = session.guard("region", || backend.region(0, block).is_some()).unwrap_or(false);
        Self { session, backend, options, regions }
    }
}

impl<'s, C: Channel, B: Backend + ?Sized> Lanes for Blocking<'s, C, B> {
    type Lane = (Worker<'s, C, B>, Memory);

    fn prepare(&self, queue: u32) -> Result<Self::Lane> {
        let memory = Memory::new(self.session.channel.status(), self.options, self.regions)?;
        Ok((Worker::new(self, queue), memory))
    }

    fn work(&self, (worker, memory): Self::Lane) -> Result<End> {
        worker.work(memory)
    }

    fn size(&self) -> u64 {
        self.backend.size()
    }
}

/// What became of a request.
enum Outcome<'b> {
    Done,
    Failed(Errno),
    Panicked(Errno),
    Data(&'b [u8]),
    Source(Region<'b>),
    Target(Region<'b>),
    /// The request waits for space in the buffer for reads, or for its data.
    Kept,
}

/// One lane.
pub(super) struct Worker<'s, C, B: ?Sized> {
    session: &'s Session<&'s C>,
    backend: &'s B,
    regions: bool,
    calls: Calls<'s, &'s C>,
    queue: u32,
    spin_us: u32,
    pace: Pace,
    limits: Limits<'s, &'s C>,
}

impl<'s, C: Channel, B: Backend + ?Sized> Worker<'s, C, B> {
    fn new(lanes: &Blocking<'s, C, B>, queue: u32) -> Self {
        let Blocking { session, backend, options, regions } = *lanes;
        let limits = Limits::new(&session.channel, &session.notes, false, || backend.size());
        let calls = Calls::new(&session.channel, &session.stop, &session.notes);
        let spin_us = options.spin_us();
        let pace = Pace::new(options.most_requests(), options.adapts());
        Self { session, backend, regions, calls, queue, spin_us, pace, limits }
    }

    /// Serves until the device is gone or taken over.
    ///
    /// In each round the thread answers or keeps every request that it holds. If it keeps none, the call that
    /// gives the answers also fetches. Otherwise the call makes room in the buffer for reads and gets missing
    /// data of writes, so the next round answers at least one more request.
    fn work(mut self, memory: Memory) -> Result<End> {
        let Memory { mut requests, mut answers, mut reads, mut arena } = memory;
        let mut pending = 0;
        loop {
            let began = self.pace.begin(pending);
            let mut batch = answers.begin(self.session.channel.id());
            let mut space = FreeSpace { free: &mut reads };
            let kept = self.round(&mut requests[..pending], &mut arena, &mut space, &mut batch);
            self.pace.end(began, pending);
            let given = if kept == 0 && !self.calls.taken_over {
                let fetch = Fetch {
                    requests: &mut requests[..self.pace.limit()],
                    arena: if self.regions { &mut [] } else { &mut arena },
                    buffers: None,
                    queue: self.queue,
                    minimum: 1,
                    spin_us: self.spin_us,
                    timeout_ms: None,
                };
                let given = self.give(&mut batch, fetch)?;
                pending = given.fetched;
                given
            } else {
                ask_for_data(&mut requests[..kept], &mut arena, &mut batch);
                pending = kept;
                self.give(&mut batch, Fetch::nothing())?
            };
            if given.gone {
                return Ok(End::Gone);
            }
            if given.refused != 0 {
                let keeps = kept != 0;
                pending = self.refused(&mut batch, &mut requests[..pending], keeps)?;
            }
            if self.calls.taken_over && pending == 0 {
                return Ok(End::TakenOver);
            }
            self.limits.renew(|| self.backend.size());
        }
    }

    /// Answers the requests that can be answered now. Moves the others to the front and returns their number.
    #[inline]
    fn round<'b>(
        &mut self,
        requests: &mut [Fetched],
        arena: &mut [u8],
        space: &mut FreeSpace<'b>,
        batch: &mut Batch<'b>,
    ) -> usize
    where
        's: 'b,
    {
        let mut kept = 0;
        for at in 0..requests.len() {
            let request = requests[at];
            let wanted = match self.limits.check(&request, || self.backend.size()) {
                Ok(wanted) => wanted,
                Err(error) => {
                    batch.fail(&request, error);
                    continue;
                }
            };
            match self.take(&request, wanted, arena, space) {
                Outcome::Done => batch.done(&request),
                Outcome::Failed(error) => {
                    self.session.notes.failed(&request, error);
                    batch.fail(&request, error);
                }
                Outcome::Panicked(error) => batch.fail(&request, error),
                Outcome::Data(data) => batch.read(&request, data),
                Outcome::Source(region) => batch.read_region(&request, region),
                Outcome::Target(region) => batch.write_region(&request, region),
                Outcome::Kept => {
                    requests[kept] = request;
                    kept += 1;
                }
            }
        }
        kept
    }

    /// Lets the backend carry out one request.
    #[inline]
    fn take<'b>(
        &self,
        request: &Fetched,
        wanted: Wanted,
        arena: &mut [u8],
        space: &mut FreeSpace<'b>,
    ) -> Outcome<'b>
    where
        's: 'b,
    {
        let backend: &'s B = self.backend;
        let (offset, long) = (request.offset(), request.length());
        // The lengths of reads and writes were compared with the length of a buffer.
        #[expect(clippy::cast_possible_truncation, reason = "see above; others use `long`")]
        let length = long as usize;
        let flag = |flag| request.flags() & flag != 0;
        let done = |result: Result<(), Errno>| result.map_or_else(Outcome::Failed, |()| Outcome::Done);
        let run = || match wanted {
            Wanted::Read => match backend.read_region(offset, length) {
                Some(region) => {
                    self.fits(region, offset, length).map_or_else(Outcome::Failed, Outcome::Source)
                }
                None => match space.take(length) {
                    Some(place) => match backend.read(offset, place) {
                        Ok(()) => Outcome::Data(place),
                        Err(error) => Outcome::Failed(error),
                    },
                    None => Outcome::Kept,
                },
            },
            Wanted::Write(at) => {
                done(backend.write(offset, &mut arena[at..at + length], flag(v2::REQUEST_FUA)))
            }
            Wanted::WriteWithoutData if flag(v2::REQUEST_FUA) => Outcome::Kept,
            Wanted::WriteWithoutData => match backend.region(offset, length) {
                Some(region) => {
                    self.takes(region, offset, length).map_or_else(Outcome::Failed, Outcome::Target)
                }
                None => Outcome::Kept,
            },
            Wanted::Discard => done(backend.discard(offset, long)),
            Wanted::Flush => done(backend.flush()),
            Wanted::WriteZeroes => {
                let zero = Zero { unmap: !flag(v2::REQUEST_NO_UNMAP), fua: flag(v2::REQUEST_FUA) };
                done(backend.write_zeroes(offset, long, zero))
            }
            Wanted::SecureErase => done(backend.secure_erase(offset, long)),
        };
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
            let operation = operation_name(request.op());
            Outcome::Panicked(self.session.notes.panicked(operation, Some((offset, long))))
        })
    }

    #[inline]
    fn give(&mut self, batch: &mut Batch<'_>, fetch: Fetch<'_>) -> Result<Given> {
        self.calls.give(batch, fetch)
    }

    /// Fails the requests whose answers were refused, unless they are stale. With `kept` set, those requests
    /// may be among `pending`, and are removed from it. Returns the number of remaining requests.
    #[cold]
    fn refused(&mut self, batch: &mut Batch<'_>, pending: &mut [Fetched], kept: bool) -> Result<usize> {
        let left = if kept { retain_accepted(batch, pending) } else { pending.len() };
        self.calls.fail_refused(batch)?;
        Ok(left)
    }

    #[inline]
    fn fits<'r>(&self, region: Region<'r>, offset: u64, length: usize) -> Result<Region<'r>, Errno> {
        if region.length() == length {
            return Ok(region);
        }
        let device = self.session.notes.device();
        self.session.notes.note(Error::Region { device, offset, length, given: region.length() });
        Err(Errno::IO)
    }

    /// Whether the data of a write may go to the region.
    #[inline]
    fn takes<'r>(&self, region: Region<'r>, offset: u64, length: usize) -> Result<Region<'r>, Errno> {
        let region = self.fits(region, offset, length)?;
        if region.is_writable() {
            return Ok(region);
        }
        let device = self.session.notes.device();
        self.session.notes.note(Error::ReadOnlyRegion { device, offset, length });
        Err(Errno::IO)
    }
}
