// SPDX-License-Identifier: GPL-2.0-only
//! ENTER: answer requests, move their data, fetch more; the one call of a server at work.
//!
//! Called in the server's process context; may sleep, interruptibly. Everything from the server is copied in
//! once. Requests are never lost: one that cannot be given to the server goes back to the queue as the
//! oldest.

use core::mem::{offset_of, size_of};

use zosbd2_abi::v2 as abi;
use zosbd2_engine::Errno;
use zosbd2_engine::queue::{Fetched, Work};
use zosbd2_engine::request::{Handle, Request};
use zosbd2_engine::v2::{check_enter, describe};

use super::argument;
use super::commit::{self, Progress};
use crate::block::{Device, QueueBlock};
use crate::shim;
use crate::transfer::{self, Copied};

/// Requests that are handed over at once; they are on the stack.
const CHUNK: usize = 8;

/// One ENTER.
///
/// # Errors
///
/// As [`abi::Enter`] says.
#[inline]
pub fn run(device: &Device, epoch: u32, user: u64) -> Result<(), Errno> {
    let enter: abi::Enter = argument::read(user)?;
    check_enter(&enter)?;
    let block = device.queue(enter.queue).ok_or(Errno::EINVAL)?;
    let results = user.wrapping_add(offset_of!(abi::Enter, processed) as u64);
    // Requests that the server could not be told of would be stuck.
    shim::user_write_all(results, &[0_u32; 3])?;
    let mut progress = Progress::default();
    let mut result = Ok(());
    if enter.commit_count > 0 {
        result = commit::all(device, epoch, enter.commits, enter.commit_count, &mut progress);
    }
    if result.is_ok() && enter.capacity > 0 {
        result = Fetch::new(block, epoch, &enter).run(&mut progress);
    }
    shim::user_write_all(results, &[progress.processed, progress.refused, progress.fetched])?;
    // What was brought along counts; the reason comes again with the next call.
    if progress.fetched > 0 { Ok(()) } else { result }
}

/// The fetching half of an ENTER.
struct Fetch<'a> {
    block: &'a QueueBlock,
    epoch: u32,
    enter: &'a abi::Enter,
    /// Next free byte of the arena.
    arena: u64,
}

/// A request on its way to the server.
#[derive(Clone, Copy)]
struct Parcel {
    handle: Handle,
    request: Request,
    /// Where in the arena its data goes.
    data: Option<u64>,
}

/// Why no more was taken from the queue.
enum Stop {
    Enough,
    Nothing,
    Never(Errno),
}

impl<'a> Fetch<'a> {
    #[inline]
    const fn new(block: &'a QueueBlock, epoch: u32, enter: &'a abi::Enter) -> Self {
        Self { block, epoch, enter, arena: 0 }
    }

    // Not one frame with what commits need.
    #[inline(never)]
    fn run(&mut self, progress: &mut Progress) -> Result<(), Errno> {
        let mut left = None;
        let mut spun = self.enter.spin_us == 0;
        let mut parcels = [None::<Parcel>; CHUNK];
        let mut locked = self.block.lock();
        loop {
            let mut count = 0;
            let mut copies = false;
            let stop = loop {
                let taken = progress.fetched.wrapping_add(count);
                let place = parcels.get_mut(count as usize);
                let (true, Some(place)) = (taken < self.enter.capacity, place) else { break Stop::Enough };
                let room = self.enter.arena_bytes.saturating_sub(self.arena);
                match locked.queue().fetch(self.epoch, room) {
                    Work::Request(fetched) => {
                        copies |= fetched.copying;
                        *place = Some(self.address(&fetched));
                        count = count.wrapping_add(1);
                    }
                    // Not a thing of version 2.
                    Work::Notice => {}
                    Work::Nothing => break Stop::Nothing,
                    Work::Gone => break Stop::Never(Errno::ENODEV),
                    Work::Superseded => break Stop::Never(Errno::ESHUTDOWN),
                }
            };
            if count > 0 {
                let wake = locked.queue().announce();
                locked.wake(wake);
                drop(locked);
                let parcels = parcels.get_mut(..count as usize).unwrap_or_default();
                self.hand_over(parcels, copies, progress)?;
                let enough = progress.fetched >= self.enter.minimum.max(1);
                match stop {
                    Stop::Never(errno) => return Err(errno),
                    Stop::Nothing if enough => return Ok(()),
                    Stop::Enough if progress.fetched >= self.enter.capacity => return Ok(()),
                    Stop::Nothing | Stop::Enough => {}
                }
                locked = self.block.lock();
                continue;
            }
            match stop {
                Stop::Never(errno) => return Err(errno),
                Stop::Enough => return Ok(()),
                Stop::Nothing => {}
            }
            // Whoever was refused an answer wants to hear of it before more.
            if progress.fetched >= self.enter.minimum || progress.refused > 0 {
                return Ok(());
            }
            if !spun {
                spun = true;
                drop(locked);
                self.spin();
                locked = self.block.lock();
                continue;
            }
            let left = left.get_or_insert_with(|| self.time_limit());
            locked.queue().wait();
            let woken = locked.sleep(left);
            if woken.is_ok() {
                locked.queue().arrive();
            } else {
                locked.queue().leave();
            }
            if woken.is_err() || shim::signal_fatal() {
                // A request that a dying server fetched would wait for the next one.
                let wake = locked.queue().announce();
                locked.wake(wake);
                let late = woken == Err(Errno::ETIME);
                let idle = progress.fetched == 0 && progress.processed == 0;
                return if idle && !late { Err(Errno::EINTR) } else { Ok(()) };
            }
        }
    }

    /// Finds the place for a request's data.
    #[inline]
    fn address(&mut self, fetched: &Fetched) -> Parcel {
        let Fetched { handle, request, copying } = *fetched;
        let data = copying.then_some(self.arena);
        if copying {
            self.arena = self.arena.wrapping_add(request.length.into());
        }
        Parcel { handle, request, data }
    }

    /// Gives the requests to the server: first the data of writes, which are COPYING, then the
    /// descriptors.
    #[inline]
    fn hand_over(
        &self,
        parcels: &mut [Option<Parcel>],
        copies: bool,
        progress: &mut Progress,
    ) -> Result<(), Errno> {
        if copies {
            self.copy(parcels)?;
        }
        let mut described = [abi::Request::default(); CHUNK];
        let mut count = 0_u32;
        let tag_bits = self.block.device().tag_bits();
        for (place, parcel) in described.iter_mut().zip(parcels.iter().flatten()) {
            *place = describe(parcel.handle, &parcel.request, self.block.index(), tag_bits, parcel.data);
            count = count.wrapping_add(1);
        }
        let offset = u64::from(progress.fetched).wrapping_mul(size_of::<abi::Request>() as u64);
        let described = described.get(..count as usize).unwrap_or_default();
        if shim::user_write_all(self.enter.requests.wrapping_add(offset), described).is_err() {
            self.take_back(parcels);
            return Err(Errno::EFAULT);
        }
        progress.fetched = progress.fetched.wrapping_add(count);
        Ok(())
    }

    /// Copies the data of writes into the arena. Those that were lost meanwhile are dropped. After an error
    /// every request is back in the queue.
    fn copy(&self, parcels: &mut [Option<Parcel>]) -> Result<(), Errno> {
        let mut result = Ok(());
        for place in parcels.iter_mut() {
            let Some(Parcel { handle, request, data: Some(at) }) = *place else { continue };
            if result.is_err() {
                break;
            }
            let to = self.enter.arena.wrapping_add(at);
            match transfer::copy(self.block, handle, to, (0, request.length), true) {
                Ok(Copied::All) => {}
                Ok(Copied::Lost) => *place = None,
                Err(errno) => {
                    // No copy of it is under way any more.
                    *place = Some(Parcel { handle, request, data: None });
                    result = Err(errno);
                }
            }
        }
        // Ends the copies that were made, and those that were not begun.
        let mut ends = [None; CHUNK];
        let mut locked = self.block.lock();
        for (parcel, end) in parcels.iter_mut().zip(&mut ends) {
            if let Some(Parcel { handle, data: Some(_), .. }) = *parcel {
                *end = locked.queue().copied(handle);
                if end.is_some() {
                    *parcel = None;
                }
            }
        }
        drop(locked);
        for end in ends.into_iter().flatten() {
            self.block.end(end);
        }
        if result.is_err() {
            self.take_back(parcels);
        }
        result
    }

    /// Puts requests that are HELD back into the queue, in their order.
    #[cold]
    fn take_back(&self, parcels: &[Option<Parcel>]) {
        let mut locked = self.block.lock();
        for parcel in parcels.iter().rev().flatten() {
            let wake = locked.queue().unfetch(parcel.handle);
            locked.wake(wake);
        }
        drop(locked);
        self.block.wake_pollers();
    }

    fn time_limit(&self) -> isize {
        let limited = self.enter.flags & abi::ENTER_TIMEOUT != 0;
        shim::timeout(limited.then_some(self.enter.timeout_ms))
    }

    /// Looks for requests for a while, without sleeping.
    fn spin(&self) {
        let until = shim::now_ns().wrapping_add(u64::from(self.enter.spin_us).wrapping_mul(1000));
        while !self.block.seems_busy() && shim::spin(until) {}
    }
}
