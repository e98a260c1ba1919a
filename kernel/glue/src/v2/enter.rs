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
use zosbd2_engine::request::Handle;
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

/// Requests on their way to the server.
struct Parcels {
    handles: [Handle; CHUNK],
    described: [abi::Request; CHUNK],
    count: usize,
    /// Some are COPYING.
    copying: bool,
}

impl Parcels {
    #[inline]
    fn new() -> Self {
        Self {
            handles: [Handle::default(); CHUNK],
            described: [abi::Request::default(); CHUNK],
            count: 0,
            copying: false,
        }
    }

    #[inline]
    fn push(&mut self, handle: Handle, described: abi::Request) {
        if let (Some(name), Some(place)) =
            (self.handles.get_mut(self.count), self.described.get_mut(self.count))
        {
            *name = handle;
            *place = described;
            self.count = self.count.wrapping_add(1);
        }
    }

    /// The request at `index` is not the server's any more.
    #[cold]
    fn drop_at(&mut self, index: usize) {
        close_gap(&mut self.handles, index);
        close_gap(&mut self.described, index);
        self.count = self.count.saturating_sub(1);
    }

    #[inline]
    fn described(&self) -> &[abi::Request] {
        self.described.get(..self.count).unwrap_or_default()
    }
}

/// Moves everything behind `index` one place forward.
fn close_gap<T: Copy>(places: &mut [T], index: usize) {
    let mut rest = places.get_mut(index..).unwrap_or_default();
    while let [place, next, ..] = rest {
        *place = *next;
        rest = rest.get_mut(1..).unwrap_or_default();
    }
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
        let mut parcels = Parcels::new();
        let tag_bits = self.block.device().tag_bits();
        let mut locked = self.block.lock();
        loop {
            let most = (self.enter.capacity.wrapping_sub(progress.fetched) as usize).min(CHUNK);
            parcels.count = 0;
            let stop = loop {
                if parcels.count == most {
                    break Stop::Enough;
                }
                let room = self.enter.arena_bytes.saturating_sub(self.arena);
                match locked.queue().fetch(self.epoch, room) {
                    Work::Request(Fetched { handle, request, copying }) => {
                        let data = copying.then_some(self.arena);
                        if copying {
                            parcels.copying = true;
                            self.arena = self.arena.wrapping_add(request.length.into());
                        }
                        let described = describe(handle, &request, self.block.index(), tag_bits, data);
                        parcels.push(handle, described);
                    }
                    // Not a thing of version 2.
                    Work::Notice => {}
                    Work::Nothing => break Stop::Nothing,
                    Work::Gone => break Stop::Never(Errno::ENODEV),
                    Work::Superseded => break Stop::Never(Errno::ESHUTDOWN),
                }
            };
            if parcels.count > 0 {
                let wake = locked.queue().announce();
                locked.wake(wake);
                drop(locked);
                self.hand_over(&mut parcels, progress)?;
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

    /// Gives the requests to the server: first the data of writes, which are COPYING, then the
    /// descriptors.
    #[inline]
    fn hand_over(&self, parcels: &mut Parcels, progress: &mut Progress) -> Result<(), Errno> {
        if parcels.copying {
            self.copy(parcels)?;
        }
        let offset = u64::from(progress.fetched).wrapping_mul(size_of::<abi::Request>() as u64);
        let described = parcels.described();
        if shim::user_write_all(self.enter.requests.wrapping_add(offset), described).is_err() {
            self.take_back(parcels);
            return Err(Errno::EFAULT);
        }
        progress.fetched = progress.fetched.wrapping_add(u32::try_from(parcels.count).unwrap_or(0));
        Ok(())
    }

    /// Copies the data of writes into the arena. Those that were lost meanwhile are dropped. After an error
    /// every request is back in the queue.
    #[inline(never)]
    fn copy(&self, parcels: &mut Parcels) -> Result<(), Errno> {
        parcels.copying = false;
        let mut result = Ok(());
        // Whose copy this call still has to end.
        let mut pinned = [false; CHUNK];
        for (described, pinned) in parcels.described().iter().zip(&mut pinned) {
            *pinned = described.flags & abi::REQUEST_DATA != 0;
        }
        let mut lost = [false; CHUNK];
        let requests = parcels.handles.iter().zip(parcels.described());
        for ((handle, described), (pinned, lost)) in requests.zip(pinned.iter_mut().zip(&mut lost)) {
            if !*pinned || result.is_err() {
                continue;
            }
            let to = self.enter.arena.wrapping_add(described.data);
            let bytes = u32::try_from(described.length).unwrap_or(0);
            match transfer::copy(self.block, *handle, to, (0, bytes), true) {
                Ok(Copied::All) => {}
                Ok(Copied::Lost) => (*pinned, *lost) = (false, true),
                Err(errno) => {
                    *pinned = false;
                    result = Err(errno);
                }
            }
        }
        let mut ends = [None; CHUNK];
        let mut locked = self.block.lock();
        for ((handle, pinned), (lost, end)) in
            parcels.handles.iter().zip(pinned).zip(lost.iter_mut().zip(&mut ends))
        {
            if pinned {
                *end = locked.queue().copied(*handle);
                *lost |= end.is_some();
            }
        }
        drop(locked);
        for end in ends.into_iter().flatten() {
            self.block.end(end);
        }
        for index in (0..CHUNK).rev() {
            if lost.get(index).is_some_and(|lost| *lost) {
                parcels.drop_at(index);
            }
        }
        if result.is_err() {
            self.take_back(parcels);
        }
        result
    }

    /// Puts requests that are HELD back into the queue, in their order.
    #[cold]
    fn take_back(&self, parcels: &Parcels) {
        let mut locked = self.block.lock();
        for handle in parcels.handles.iter().take(parcels.count).rev() {
            let wake = locked.queue().unfetch(*handle);
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
