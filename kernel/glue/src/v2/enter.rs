// SPDX-License-Identifier: GPL-2.0-only
//! ENTER, the one call of a working server: answer requests, move their data, fetch more.
//!
//! Called in the server's process context; may sleep, interruptibly. Everything from the server is copied in
//! once. No request is lost: a request that cannot be given to the server returns to the queue as the oldest.

use core::mem::offset_of;

use zosbd2_abi::v2 as abi;
use zosbd2_engine::Errno;
use zosbd2_engine::queue::{Fetched, Moment, Work};
use zosbd2_engine::request::Handle;
use zosbd2_engine::v2::{Handles, check_enter, describe};

use super::argument;
use super::buffers::Buffers;
use super::commit::{self, RUN_BYTES};
use super::ended::Ended;
use super::progress::Progress;
use crate::block::{Device, Locked, QueueBlock};
use crate::list::List;
use crate::shim::Place;
use crate::transfer::Transfer;
use crate::{shim, trace};

/// Requests that are handed over at once; they are on the stack.
pub(super) const CHUNK: usize = 16;

/// One ENTER.
///
/// # Errors
///
/// As in [`abi::Enter`].
#[inline]
pub fn run(device: &Device, epoch: u32, user: u64) -> Result<(), Errno> {
    let enter: abi::Enter = argument::read(user)?;
    check_enter(&enter)?;
    let block = device.queue(enter.queue).ok_or(Errno::EINVAL)?;
    device.note_served(epoch);
    let results = user.wrapping_add(offset_of!(abi::Enter, processed) as u64);
    let mut progress = Progress::default();
    // Nothing is begun if its result cannot be written, or if the buffers are unknown.
    progress.tell(results)?;
    let mut buffers = Buffers::new();
    if enter.buffer_count > 0 {
        buffers.read_ahead(&enter)?;
    }
    let mut result = Ok(());
    let mut ended = Ended::none();
    if enter.commit_count > 0 {
        result = commit::all(device, epoch, &enter, &mut progress, &mut ended);
    }
    if result.is_ok() && enter.capacity > 0 && !device.has_fetched(epoch) {
        ended.tell_now();
        result = first_fetch(device, epoch);
    }
    if result.is_ok() && enter.capacity > 0 {
        ended.tell_unless(block);
        result = Fetch::new(block, epoch, &enter, results, &mut buffers).run(&mut progress, &mut ended);
    }
    ended.tell_now();
    if progress.fetched == 0 {
        progress.tell(results)?;
    }
    // Fetched requests count; the error comes again with the next call.
    if progress.fetched > 0 { Ok(()) } else { result }
}

/// The fetching half of an ENTER.
struct Fetch<'a> {
    block: &'a QueueBlock,
    epoch: u32,
    handles: Handles,
    enter: &'a abi::Enter,
    /// Address of the progress fields in the argument.
    results: u64,
    /// Next free byte of the arena.
    arena: u64,
    buffers: &'a mut Buffers,
    /// The calling thread.
    thread: u32,
}

/// Decides what is lost with the caches of earlier servers.
#[cold]
#[inline(never)]
fn first_fetch(device: &Device, epoch: u32) -> Result<(), Errno> {
    device.lock()?.first_fetch(epoch);
    Ok(())
}

/// Writes requests one by one into places of `bytes`, and zeroes the rest of each place.
#[cold]
#[inline(never)]
fn write_each(user: u64, bytes: u32, requests: &[abi::Request]) -> Result<(), Errno> {
    let mut at = user;
    for request in requests {
        shim::user_write(at, request)?;
        let rest = at.wrapping_add(abi::REQUEST_BYTES.into());
        shim::user_clear(rest, bytes.saturating_sub(abi::REQUEST_BYTES))?;
        at = at.wrapping_add(bytes.into());
    }
    Ok(())
}

/// Requests on their way to the server.
type Parcels = List<abi::Request, CHUNK>;

/// Why the loop stopped taking requests from the queue.
enum Stop {
    Enough,
    Nothing,
    Never(Errno),
}

impl<'a> Fetch<'a> {
    #[inline]
    fn new(
        block: &'a QueueBlock,
        epoch: u32,
        enter: &'a abi::Enter,
        results: u64,
        buffers: &'a mut Buffers,
    ) -> Self {
        let handles = Handles::new(epoch, block.index(), block.device().tag_bits());
        Self { block, epoch, handles, enter, results, arena: 0, buffers, thread: shim::thread() }
    }

    // A separate frame from that of the commits.
    #[inline(never)]
    fn run(&mut self, progress: &mut Progress, ended: &mut Ended<'_>) -> Result<(), Errno> {
        let mut left = None;
        let mut spun = self.enter.spin_us == 0;
        let mut parcels = Parcels::new();
        let mut locked = self.block.lock();
        ended.tell(&mut locked);
        loop {
            let most = (self.enter.capacity.wrapping_sub(progress.fetched) as usize).min(CHUNK);
            parcels.clear();
            let (stop, copied) = self.take(&mut locked, most, &mut parcels);
            if !parcels.is_empty() {
                let wake = locked.queue().announce();
                locked.wake(wake);
                drop(locked);
                if copied > 0 {
                    self.copy(&mut parcels)?;
                }
                self.hand_over(&parcels, progress)?;
                if copied > 0 {
                    shim::pause()?;
                }
                let enough = progress.fetched >= self.enter.minimum.max(1);
                match stop {
                    Stop::Never(errno) => return Err(errno),
                    Stop::Nothing if enough => return Ok(()),
                    Stop::Enough if progress.fetched >= self.enter.capacity => return Ok(()),
                    Stop::Nothing | Stop::Enough => {}
                }
                if self.buffers.used > 0 {
                    self.buffers.read_ahead(self.enter)?;
                }
                locked = self.block.lock();
                continue;
            }
            match stop {
                Stop::Never(errno) => {
                    // The wake-up of this thread was meant for the newest server.
                    let wake = locked.queue().announce();
                    locked.wake(wake);
                    return Err(errno);
                }
                Stop::Enough => return Ok(()),
                Stop::Nothing => {}
            }
            // A server with a refused answer is told before it waits for more.
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
            if let Err(errno) = locked.sleep(self.epoch, self.enter.capacity, left) {
                let late = errno == Errno::ETIME;
                let idle = progress.fetched == 0 && progress.processed == 0;
                return if idle && !late { Err(errno) } else { Ok(()) };
            }
        }
    }

    /// Takes at most `most` requests from the queue. Returns why it stopped, and the number of bytes to copy.
    // A separate frame from that of `run`, which contains the requests and would grow beyond the limit with rustc 1.85.
    #[inline(never)]
    fn take(&mut self, locked: &mut Locked<'_>, most: usize, parcels: &mut Parcels) -> (Stop, u32) {
        let mut copied = 0_u32;
        let mut tracing = false;
        if most > 0 && locked.queue().queued() > 0 {
            locked.set_moment(Moment { thread: self.thread, ..shim::now() });
            tracing = trace::on();
        }
        let mut queue = locked.queue();
        let stop = loop {
            if parcels.len() == most || copied >= RUN_BYTES {
                break Stop::Enough;
            }
            let room = self.room();
            let work = if parcels.is_empty() {
                queue.fetch(self.epoch, room)
            } else {
                queue.fetch_more(self.epoch, room)
            };
            match work {
                Work::Request(Fetched { handle, request, copying: pinned }) => {
                    if tracing {
                        trace::fetch(self.block, handle);
                    }
                    let data = pinned.then(|| self.take_room(request.length));
                    if pinned {
                        copied = copied.saturating_add(request.length.max(1));
                    }
                    parcels.push(describe(&self.handles, handle, &request, data));
                }
                // Version 2 has no notices.
                Work::Notice => {}
                Work::Nothing => break Stop::Nothing,
                Work::Gone => break Stop::Never(Errno::ENODEV),
                Work::Superseded => break Stop::Never(Errno::ESHUTDOWN),
            }
        };
        (stop, copied)
    }

    /// Bytes of room for the data of the next write.
    #[inline]
    fn room(&self) -> u64 {
        if self.enter.buffer_count == 0 {
            self.enter.arena_bytes.saturating_sub(self.arena)
        } else {
            self.buffers.room()
        }
    }

    /// Takes room for the data of a write, which fits. Returns the place for [`abi::Request::data`].
    #[inline]
    fn take_room(&mut self, length: u32) -> u64 {
        if self.enter.buffer_count == 0 {
            let place = self.arena;
            self.arena = place.wrapping_add(length.into());
            place
        } else {
            self.buffers.take()
        }
    }

    /// Writes the requests, which are HELD, and their number to the server. Requests that the server does not
    /// know of would be stuck.
    #[inline]
    fn hand_over(&self, parcels: &Parcels, progress: &mut Progress) -> Result<(), Errno> {
        let bytes = self.enter.request_bytes;
        let to = self.enter.requests.wrapping_add(u64::from(progress.fetched).wrapping_mul(bytes.into()));
        let described = parcels.items();
        let more = u32::try_from(described.len()).unwrap_or(0);
        let after = Progress { fetched: progress.fetched.wrapping_add(more), ..*progress };
        let written = if bytes == abi::REQUEST_BYTES {
            shim::user_write_all(to, described)
        } else {
            write_each(to, bytes, described)
        };
        if written.and_then(|()| after.tell(self.results)).is_err() {
            self.take_back(parcels);
            return Err(Errno::EFAULT);
        }
        *progress = after;
        Ok(())
    }

    /// Copies the data of writes into the arena or the buffers: first all copies whose memory is present, then the others,
    /// each alone, because no request is pinned while the kernel waits for the server's memory. Requests that
    /// were lost meanwhile are dropped. After an error every request has returned to the queue.
    #[inline(never)]
    fn copy(&self, parcels: &mut Parcels) -> Result<(), Errno> {
        let mut slow = [false; CHUNK];
        for (described, slow) in parcels.items().iter().zip(&mut slow) {
            if let Some(transfer) = self.transfer(described) {
                // SAFETY: a write that was fetched with its data is COPYING.
                *slow = unsafe { transfer.attempt(self.block) }.is_err();
            }
        }
        let mut ends = [const { None }; CHUNK];
        let mut locked = self.block.lock();
        let mut queue = locked.queue();
        for (described, end) in parcels.items().iter().zip(&mut ends) {
            if let Some(transfer) = self.transfer(described) {
                *end = trace::copied(self.block, transfer.handle, queue.copied(transfer.handle));
            }
        }
        // If this server was declared dead, the requests have returned to the queue, for another server.
        let superseded = queue.superseded(self.epoch);
        if superseded {
            let wake = queue.announce();
            locked.wake(wake);
        }
        drop(locked);
        if superseded {
            self.block.wake_pollers();
        }
        // Before waiting for memory: the engine has forgotten these requests, so nobody else can end them.
        let mut failed = [false; CHUNK];
        for (end, failed) in ends.into_iter().zip(&mut failed).take(parcels.len()) {
            *failed = end.is_some();
            // SAFETY: an effect of this queue.
            unsafe { self.block.end_if(end) };
        }
        let mut result = Ok(());
        // From the last on, so that removing an item moves none that still has to be visited.
        for index in (0..parcels.len()).rev() {
            let failed = failed.get(index).is_some_and(|failed| *failed);
            let slow = slow.get(index).is_some_and(|slow| *slow);
            if failed || (slow && self.copy_slowly(parcels, index, &mut result)) {
                parcels.remove(index);
            }
        }
        if result.is_err() {
            self.take_back(parcels);
        }
        result
    }

    /// The copy that a parcel needs, if any.
    #[inline]
    fn transfer(&self, described: &abi::Request) -> Option<Transfer> {
        if described.flags & abi::REQUEST_DATA == 0 {
            return None;
        }
        let user = if self.enter.buffer_count == 0 {
            self.enter.arena.wrapping_add(described.data)
        } else {
            self.buffers.address(described.data)?
        };
        Some(Transfer {
            handle: self.handle(described)?,
            user,
            bytes: u32::try_from(described.length).ok()?,
            to_user: true,
        })
    }

    /// Copies the data of one parcel, which is HELD, unless an earlier parcel failed. Returns whether the
    /// parcel was lost meanwhile.
    #[cold]
    fn copy_slowly(&self, parcels: &Parcels, index: usize, result: &mut Result<(), Errno>) -> bool {
        let transfer = parcels.items().get(index).and_then(|described| self.transfer(described));
        match transfer {
            Some(transfer) if result.is_ok() => match transfer.run(self.block, &mut Place::default()) {
                Err(Errno::ESTALE) => return true,
                other => *result = other,
            },
            _ => {}
        }
        false
    }

    /// The engine's handle of a request that was fetched here.
    #[inline]
    const fn handle(&self, described: &abi::Request) -> Option<Handle> {
        self.handles.decode(described.handle)
    }

    /// Returns requests that are HELD to the queue, in their order.
    #[cold]
    fn take_back(&self, parcels: &Parcels) {
        let mut locked = self.block.lock();
        for described in parcels.items().iter().rev() {
            let Some(handle) = self.handle(described) else { continue };
            locked.unfetch(handle);
        }
        drop(locked);
        self.block.wake_pollers();
    }

    fn time_limit(&self) -> isize {
        let limited = self.enter.flags & abi::ENTER_TIMEOUT != 0;
        shim::timeout(limited.then_some(self.enter.timeout_ms))
    }

    /// Polls for requests for a while, without sleeping.
    fn spin(&self) {
        let until = shim::now_ns().wrapping_add(u64::from(self.enter.spin_us).wrapping_mul(1000));
        while !self.block.seems_busy() && shim::spin(until) {}
    }
}
