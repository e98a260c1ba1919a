// SPDX-License-Identifier: GPL-2.0-only
//! The memory that the shim keeps for the engine, and the locks around it.
//!
//! A device's block is one allocation: [`Device`], then for each queue a [`QueueBlock`] and its [`Slot`]s.
//! It is shared between contexts; what changes after initialisation is behind the device's lock and reached
//! through [`LockedDevice`], or behind a queue's lock and reached through [`Locked`].
//!
//! A reference to a header is one to that header alone. What follows it is reached through the pointers that each header
//! keeps, which are those of the whole allocation.
//!
//! Locks are taken in the order registry, device, queue.

use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::mem::{align_of, size_of};
use core::slice;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use zosbd2_abi::v2 as abi;
use zosbd2_engine::Errno;
use zosbd2_engine::cache::Cache;
use zosbd2_engine::device::{Change, Life, Policy, Terms};
use zosbd2_engine::latency::{Histograms, Latencies};
use zosbd2_engine::queue::{Deadline, End, Moment, Queue, QueueState, Surroundings, Wake};
use zosbd2_engine::request::{Handle, Slot, State};
use zosbd2_engine::v2::{deadline_policy, tag_bits};

use crate::list::List;
use crate::{shim, trace};

/// A device's block. The queues follow it in memory.
#[derive(Debug)]
#[repr(align(64))]
pub struct Device {
    params: shim::Params,
    shim: *mut shim::Device,
    /// The block of the first queue.
    queues: *mut QueueBlock,
    /// Bytes from one queue's block to the next.
    stride: usize,
    tag_bits: u32,
    size_bytes: AtomicU64,
    /// The server that gets requests, for those who look without a lock; 0: none, or it was declared dead.
    present: AtomicU32,
    /// The device is gone, for the same.
    gone: AtomicBool,
    /// What happens to late requests, if any are.
    policy: Policy,
    /// Whether a server ever came for requests or to answer one.
    served: AtomicBool,
    /// The last thread that did, of a device of version 1.
    caller: AtomicU32,
    /// If servers may have a volatile one.
    cache: Option<Cache>,
    life: UnsafeCell<Life>,
    blob: UnsafeCell<Blob>,
}

/// What is kept for the servers; behind the device's lock.
#[derive(Clone, Copy, Debug)]
pub struct Blob {
    /// How many of the bytes count.
    pub length: u32,
    /// Those behind are 0.
    pub bytes: [u8; abi::BLOB_BYTES],
}

/// A queue's block. Its slots follow it in memory.
#[derive(Debug)]
#[repr(align(64))]
pub struct QueueBlock {
    device: *const Device,
    queue: *mut shim::Queue,
    index: u32,
    /// The first slot, and how many there are; they never change.
    slots: *mut Slot,
    depth: usize,
    /// Whether requests are queued, for those who look without the lock.
    busy: AtomicU32,
    state: UnsafeCell<QueueState>,
    latencies: UnsafeCell<Latencies>,
}

const _: () = assert!(size_of::<Device>().is_multiple_of(align_of::<QueueBlock>()));
const _: () = assert!(size_of::<QueueBlock>().is_multiple_of(align_of::<Slot>()));

/// Bytes of a queue's block and its slots, so that the next one is aligned.
const fn stride(depth: u32) -> usize {
    let bytes = size_of::<QueueBlock>().saturating_add((depth as usize).saturating_mul(size_of::<Slot>()));
    bytes.saturating_add(align_of::<QueueBlock>().wrapping_sub(1)) & !align_of::<QueueBlock>().wrapping_sub(1)
}

impl Device {
    /// Bytes of a block with so many queues of `depth` slots.
    #[must_use]
    pub const fn bytes(queues: u32, depth: u32) -> usize {
        size_of::<Self>().saturating_add((queues as usize).saturating_mul(stride(depth)))
    }

    /// Initialises a block, all but its queues.
    ///
    /// # Safety
    ///
    /// `memory` is [`bytes`](Self::bytes) long, aligned to 64, and not in use. `device` stays valid as long
    /// as the block is used.
    pub unsafe fn initialise(
        memory: *mut c_void,
        params: shim::Params,
        terms: Terms,
        device: *mut shim::Device,
    ) {
        // SAFETY: one header on is still within the block, or its end if it has no queues.
        let queues = unsafe { memory.byte_add(size_of::<Self>()) }.cast();
        let block = Self {
            params,
            shim: device,
            queues,
            stride: stride(params.depth),
            tag_bits: tag_bits(params.depth),
            size_bytes: AtomicU64::new(params.size_bytes),
            present: AtomicU32::new(0),
            gone: AtomicBool::new(false),
            policy: deadline_policy(params.deadline_policy).unwrap_or_default(),
            served: AtomicBool::new(false),
            caller: AtomicU32::new(0),
            cache: (params.flags & abi::CREATE_VOLATILE_CACHE != 0).then(Cache::new),
            life: UnsafeCell::new(Life::new(terms)),
            blob: UnsafeCell::new(Blob { length: 0, bytes: [0; abi::BLOB_BYTES] }),
        };
        // SAFETY: the caller's promise; the header is at the start of the block.
        unsafe { memory.cast::<Self>().write(block) };
    }

    /// Initialises the block of one queue and returns it.
    ///
    /// # Safety
    ///
    /// `memory` is an initialised block and is not shared yet; `index` is below its number of queues. `queue`
    /// stays valid as long as the block is used.
    pub unsafe fn initialise_queue(
        memory: *mut c_void,
        index: u32,
        queue: *mut shim::Queue,
    ) -> *mut QueueBlock {
        // SAFETY: the caller's promise.
        let device = unsafe { Self::from_memory(&memory) };
        let depth = device.params.depth as usize;
        let offset = (index as usize).wrapping_mul(device.stride);
        // SAFETY: within the block, which has room for `index` + 1 queues.
        let block = unsafe { device.queues.byte_add(offset) };
        // SAFETY: one header on is still within the block.
        let slots = unsafe { block.add(1) }.cast::<Slot>();
        let header = QueueBlock {
            device: memory.cast(),
            queue,
            index,
            slots,
            depth,
            busy: AtomicU32::new(0),
            state: UnsafeCell::new(QueueState::default()),
            latencies: UnsafeCell::new(Latencies::new()),
        };
        // SAFETY: within the block, and aligned because the stride is a multiple of the alignment.
        unsafe { block.write(header) };
        for number in 0..depth {
            // SAFETY: `number` is below the number of slots the block has room for.
            let slot = unsafe { slots.add(number) };
            // SAFETY: within the block, aligned because the header's size is a multiple of the alignment.
            unsafe { slot.write(Slot::default()) };
        }
        block
    }

    /// The block that `memory` is, for as long as the caller has that pointer where it is.
    ///
    /// # Safety
    ///
    /// `memory` was initialised and lives as long as the result.
    #[must_use]
    pub const unsafe fn from_memory(memory: &*mut c_void) -> &Self {
        // SAFETY: the caller's promise; only shared references to the header are ever made, and what
        // changes is in an `UnsafeCell` or atomic.
        unsafe { &*memory.cast::<Self>() }
    }

    /// What the device was made with. The size may have changed since.
    #[must_use]
    pub const fn params(&self) -> &shim::Params {
        &self.params
    }

    /// The device as the shim knows it.
    #[must_use]
    pub const fn device(&self) -> *mut shim::Device {
        self.shim
    }

    /// Whether its servers may have a volatile cache.
    #[inline]
    #[must_use]
    pub const fn has_cache(&self) -> bool {
        self.cache.is_some()
    }

    /// Bits of a tag in the handles of this device.
    #[inline]
    #[must_use]
    pub const fn tag_bits(&self) -> u32 {
        self.tag_bits
    }

    /// That a request is late after `ms`, and what happens to it then; nothing on devices without a deadline.
    #[must_use]
    pub const fn deadline(&self, ms: u32) -> Option<Deadline> {
        if self.params.deadline_ms == 0 {
            return None;
        }
        Some(Deadline { policy: self.policy, ns: deadline_ns(ms) })
    }

    /// Whether the next flush will fail for writes that were lost.
    #[must_use]
    pub fn lost(&self) -> bool {
        self.cache.as_ref().is_some_and(Cache::lost)
    }

    /// Whether it was made to be read only. What `blockdev --setro` says is between the administrator and the block layer.
    #[inline]
    #[must_use]
    pub const fn is_read_only(&self) -> bool {
        self.params.flags & abi::CREATE_READ_ONLY != 0
    }

    /// Present size in bytes.
    #[inline]
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Relaxed)
    }

    /// Changes the size.
    pub fn set_size_bytes(&self, size_bytes: u64) {
        self.size_bytes.store(size_bytes, Ordering::Relaxed);
    }

    /// One of the queues.
    #[inline]
    #[must_use]
    pub fn queue(&self, index: u32) -> Option<&QueueBlock> {
        if index >= self.params.queues {
            return None;
        }
        let offset = (index as usize).wrapping_mul(self.stride);
        // SAFETY: the block has more than `index` queues from there on.
        let block = unsafe { self.queues.byte_add(offset) };
        // SAFETY: initialised before the device was shared; what changes is in an `UnsafeCell` or atomic.
        Some(unsafe { &*block })
    }

    /// All queues.
    pub fn queues(&self) -> impl Iterator<Item = &QueueBlock> {
        (0..self.params.queues).filter_map(|index| self.queue(index))
    }

    /// Takes the device's lock. Process context.
    ///
    /// # Errors
    ///
    /// `EINTR` when the caller is being killed.
    pub fn lock(&self) -> Result<LockedDevice<'_>, Errno> {
        // SAFETY: the device lives as long as its block.
        let code = unsafe { shim::zosbd2_device_lock(self.shim) };
        shim::result(code).map_err(|_| Errno::EINTR)?;
        Ok(LockedDevice { device: self })
    }

    /// As [`lock`](Self::lock), whatever happens to the caller.
    #[must_use]
    pub fn lock_always(&self) -> LockedDevice<'_> {
        // SAFETY: the device lives as long as its block.
        unsafe { shim::zosbd2_device_lock_always(self.shim) };
        LockedDevice { device: self }
    }

    /// Whether a poller of a server's descriptor is to hear that the device is gone, or that it is not this server's
    /// any more. Only a hint while the device's lock is not held. Who looks on has the epoch 0.
    #[must_use]
    pub fn lost_by(&self, epoch: u32) -> bool {
        self.gone.load(Ordering::Relaxed) || (epoch != 0 && self.present.load(Ordering::Relaxed) != epoch)
    }

    /// Tells those who poll a server descriptor that they have lost the device.
    pub fn hang_up(&self) {
        // SAFETY: the device lives as long as its block.
        unsafe { shim::zosbd2_device_hang_up(self.shim) };
    }

    /// How many answers were accepted, and how many requests are outstanding. No lock of a queue is held.
    fn progress(&self) -> (u64, u32) {
        self.queues().fold((0, 0), |(answers, outstanding), block| {
            let mut locked = block.lock();
            let queue = locked.queue();
            (answers.wrapping_add(queue.answers()), outstanding.saturating_add(queue.outstanding()))
        })
    }

    /// A server comes for requests, or to answer one.
    #[inline]
    pub fn note_served(&self) {
        // The line is read by all and written once.
        if !self.served.load(Ordering::Relaxed) {
            self.served.store(true, Ordering::Relaxed);
        }
    }

    /// As [`note_served`](Self::note_served), of a device whose servers are not known: this thread comes.
    pub fn note_caller(&self, thread: u32) {
        self.caller.store(thread, Ordering::Relaxed);
        self.note_served();
    }

    /// Whether a server ever came, and, where servers are not known, whether a thread of theirs is alive: one that
    /// waits for requests, one that has a request, or the last one that came.
    fn server_lives(&self) -> bool {
        if !self.served.load(Ordering::Relaxed) {
            return false;
        }
        self.params.version != 1
            || shim::thread_lives(self.caller.load(Ordering::Relaxed))
            || self.queues().any(QueueBlock::is_attended)
    }

    /// Ends every request that is queued or held: the phase takes none any more. No lock of a queue is held.
    pub fn fail_requests(&self) {
        for queue in self.queues() {
            let mut from = Some(0);
            while let Some(tag) = from {
                let end = queue.lock().queue().fail_next(tag);
                from = end.as_ref().and_then(|end| end.tag().checked_add(1));
                // SAFETY: an effect of this queue.
                unsafe { queue.end_if(end) };
            }
        }
    }
}

/// A device's lock, held until dropped.
#[derive(Debug)]
pub struct LockedDevice<'a> {
    device: &'a Device,
}

impl LockedDevice<'_> {
    /// The engine's life of the device.
    pub fn life(&mut self) -> &mut Life {
        // SAFETY: the lock is held, and `&mut self` makes this the only reference under it.
        unsafe { &mut *self.device.life.get() }
    }

    /// What is kept for the servers.
    pub fn blob(&mut self) -> &mut Blob {
        // SAFETY: the lock is held, and `&mut self` makes this the only reference under it.
        unsafe { &mut *self.device.blob.get() }
    }

    /// The server of this epoch gets the requests from now on; 0: none does. Called before the queues are told.
    pub fn set_present(&mut self, epoch: u32) {
        self.device.present.store(epoch, Ordering::Relaxed);
    }

    /// The server of `epoch` is declared dead, and all before it.
    pub fn declare_dead(&mut self, epoch: u32) {
        if self.device.present.load(Ordering::Relaxed) <= epoch {
            self.set_present(0);
        }
    }

    /// The device is gone.
    pub fn set_gone(&mut self) {
        self.life().gone();
        self.device.gone.store(true, Ordering::Relaxed);
    }

    /// Passes the phase on to the queues, then carries out what the engine asks for. Returns whether the
    /// device is to be destroyed, which the caller does after he dropped the lock.
    pub fn carry_out(&mut self, change: Change) -> bool {
        let phase = self.life().phase();
        for queue in self.device.queues() {
            queue.lock().queue().set_phase(phase);
        }
        match change {
            Change::None => {}
            Change::Grace(ms) => {
                // SAFETY: the device lives as long as its block; its lock is held.
                unsafe { shim::zosbd2_device_begin_grace(self.device.shim, ms) };
            }
            Change::Fail | Change::Destroy => self.device.fail_requests(),
        }
        change == Change::Destroy
    }

    /// Begins the destruction, or goes on with it: the server is asked to take what is dirty. When it had its time, ends
    /// every request with `EIO`, those that come too.
    pub fn drain(&mut self, now_ms: u64) {
        let (answers, outstanding) = self.device.progress();
        let lives = self.device.server_lives();
        if self.life().phase().is_there() {
            let change = self.life().drain(now_ms, answers, lives);
            self.carry_out(change);
        } else {
            let life = self.life();
            let change = if lives {
                life.tick(now_ms, answers, outstanding)
            } else {
                life.declare_dead(life.epoch(), now_ms)
            };
            if change != Change::None {
                self.carry_out(change);
            }
        }
    }

    /// Makes the node.
    ///
    /// # Errors
    ///
    /// As the engine and the block layer say; `EEXIST` when there is a node or a disk of that name, which may be another
    /// disk's partition.
    pub fn start(&mut self) -> Result<(), Errno> {
        self.life().may_start()?;
        // SAFETY: the device's lock is held, and it is not being destroyed, so its disk is there.
        let code = unsafe { shim::zosbd2_device_start(self.device.shim) };
        shim::result(code)?;
        self.life().set_started();
        Ok(())
    }

    /// Changes the size.
    ///
    /// # Errors
    ///
    /// `ENODEV` when the device is being destroyed.
    pub fn resize(&mut self, size_bytes: u64) -> Result<(), Errno> {
        if !self.life().phase().is_there() {
            return Err(Errno::ENODEV);
        }
        self.device.set_size_bytes(size_bytes);
        // SAFETY: the device's lock is held, and it is not being destroyed, so its disk is there.
        unsafe { shim::zosbd2_device_resize(self.device.shim, size_bytes) };
        Ok(())
    }

    /// The deadline of requests in milliseconds, as an operator may have changed it; 0 if there is none.
    pub fn deadline_ms(&mut self) -> u32 {
        let ms = self.device.params.deadline_ms;
        if ms == 0 || !self.life().phase().is_there() {
            return ms;
        }
        // SAFETY: the device's lock is held, and it is not being destroyed, so its disk is there.
        unsafe { shim::zosbd2_device_deadline(self.device.shim, ms) }
    }

    /// Major and minor number of the node, 0 and 0 if there is none.
    pub fn number(&mut self) -> (u32, u32) {
        if !self.life().phase().is_there() {
            return (0, 0);
        }
        // SAFETY: the device's lock is held, and it is not being destroyed, so its disk is there.
        let number = unsafe { shim::zosbd2_device_number(self.device.shim) };
        #[expect(clippy::cast_possible_truncation, reason = "splits a word into its halves")]
        ((number >> 32) as u32, number as u32)
    }
}

impl Drop for LockedDevice<'_> {
    fn drop(&mut self) {
        // SAFETY: the lock is held.
        unsafe { shim::zosbd2_device_unlock(self.device.shim) };
    }
}

/// What a server had at least when the block layer's timer says that this deadline is over: that counts in ticks, of
/// which the first may be all but over when it starts (the longest is 10 ms, `CONFIG_HZ=100`).
const fn deadline_ns(ms: u32) -> u64 {
    const TICK_NS: u64 = 10_000_000;
    let ns = (ms as u64).saturating_mul(1_000_000);
    if ns > TICK_NS { ns.saturating_sub(TICK_NS) } else { ns }
}

impl QueueBlock {
    /// The block that `memory` is, for as long as the caller has that pointer where it is.
    ///
    /// # Safety
    ///
    /// `memory` was initialised and lives as long as the result.
    #[inline]
    #[must_use]
    pub const unsafe fn from_memory(memory: &*mut c_void) -> &Self {
        // SAFETY: the caller's promise; only shared references to the header are ever made, and what
        // changes is in an `UnsafeCell` or atomic.
        unsafe { &*memory.cast::<Self>() }
    }

    /// The device.
    #[inline]
    #[must_use]
    pub const fn device(&self) -> &Device {
        // SAFETY: a queue's block is part of its device's.
        unsafe { &*self.device }
    }

    /// Which of the device's queues this is.
    #[inline]
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// Whether a living thread waits for requests or has one.
    fn is_attended(&self) -> bool {
        let mut locked = self.lock();
        if locked.queue().waiting() > 0 {
            return true;
        }
        let mut from = 0;
        while let Some(request) = locked.queue().outstanding_from(from) {
            if request.state != State::Queued && shim::thread_lives(request.thread) {
                return true;
            }
            from = request.tag.wrapping_add(1);
        }
        false
    }

    /// Whether requests seem to be queued. Only a hint: the lock is not held.
    #[inline]
    #[must_use]
    pub fn seems_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) != 0
    }

    /// Takes the queue's lock, for what does not depend on the time ([`Moment`]).
    #[inline]
    #[must_use]
    pub fn lock(&self) -> Locked<'_> {
        self.lock_at(Moment::default())
    }

    /// Takes the queue's lock, at this time.
    #[inline]
    #[must_use]
    pub fn lock_at(&self, moment: Moment) -> Locked<'_> {
        // SAFETY: the queue lives as long as the block (`initialise_queue`).
        unsafe { shim::zosbd2_queue_lock(self.queue) };
        Locked { block: self, moment, wake: Wake::NONE }
    }

    /// The queue as the shim knows it.
    #[must_use]
    pub const fn queue(&self) -> *mut shim::Queue {
        self.queue
    }

    /// The engine's queue, to submit.
    ///
    /// # Safety
    ///
    /// The queue's lock is held, and the result is the only one, as long as it lives. Before the lock is dropped,
    /// [`note_queued`](Self::note_queued) is called.
    #[inline]
    pub unsafe fn locked_by_caller(&self) -> Queue<'_> {
        // SAFETY: `depth` slots were initialised there; the lock makes this the only reference to them.
        let slots = unsafe { slice::from_raw_parts_mut(self.slots, self.depth) };
        // SAFETY: the caller's promise makes this the only reference under the lock.
        let state = unsafe { &mut *self.state.get() };
        Queue::new(state, slots)
    }

    /// Tells those who look without the lock how many requests are queued.
    #[inline]
    pub fn note_queued(&self, queued: u32) {
        self.busy.store(queued, Ordering::Relaxed);
    }

    /// Ends the block request of an effect. The lock is not held.
    ///
    /// # Safety
    ///
    /// It is an effect of this queue.
    #[inline]
    pub unsafe fn end(&self, end: End) {
        let (tag, result) = end.use_up();
        let error = result.map_or_else(Errno::negative, |()| 0);
        // SAFETY: the engine freed the tag and named us to end its request, which we do once.
        unsafe { shim::zosbd2_request_end(self.queue, u32::from(tag), error) };
    }

    /// Ends the block request of an effect, if there is one.
    ///
    /// # Safety
    ///
    /// As [`end`](Self::end).
    #[inline]
    pub unsafe fn end_if(&self, end: Option<End>) {
        if let Some(end) = end {
            // SAFETY: the caller's promise.
            unsafe { self.end(end) };
        }
    }

    /// Ends block requests together. The lock is not held.
    ///
    /// # Safety
    ///
    /// They are of effects of this queue.
    #[inline]
    #[expect(clippy::needless_pass_by_value, reason = "they are used up")]
    pub unsafe fn end_well<const N: usize>(&self, ends: Successes<N>) {
        let tags = ends.tags.items();
        let count = u32::try_from(tags.len()).unwrap_or(0);
        // SAFETY: as in `end`, for each.
        unsafe { shim::zosbd2_requests_end(self.queue, tags.as_ptr(), count) };
    }

    /// Tells those who poll that the queue changed. The lock is not held.
    pub fn wake_pollers(&self) {
        // SAFETY: the queue lives as long as the block.
        unsafe { shim::zosbd2_queue_wake_pollers(self.queue) };
    }

    /// Copies `bytes` of a request's data, from `place` on, between its pages and user memory, without waiting for
    /// pages. `done` of them were copied before. The place moves with what is copied.
    ///
    /// # Errors
    ///
    /// `EFAULT` at the first page that is not there; `done` tells how far it came.
    ///
    /// # Safety
    ///
    /// The caller made the request of `handle` COPYING and has not unpinned it. `place` is all zeroes, or was moved by
    /// copies of the same tenure.
    #[inline]
    pub unsafe fn copy(
        &self,
        handle: Handle,
        place: &mut shim::Place,
        user: u64,
        bytes: u32,
        done: &mut u32,
        to_user: bool,
    ) -> Result<(), Errno> {
        let tag = u32::from(handle.tag());
        // SAFETY: the request cannot be ended while it is COPYING, so its pages and bios stay.
        let code = unsafe { shim::zosbd2_request_copy(self.queue, tag, place, user, bytes, done, to_user) };
        shim::result(code)
    }

    /// Copies the first `bytes` bytes of a request's data, as [`copy`](Self::copy).
    ///
    /// # Errors
    ///
    /// `EFAULT` when a page is not there.
    ///
    /// # Safety
    ///
    /// As [`copy`](Self::copy).
    #[inline]
    pub unsafe fn copy_all(&self, handle: Handle, user: u64, bytes: u32, to_user: bool) -> Result<(), Errno> {
        let tag = u32::from(handle.tag());
        // SAFETY: the request cannot be ended while it is COPYING, so its pages stay.
        let code = unsafe { shim::zosbd2_request_copy_all(self.queue, tag, user, bytes, to_user) };
        shim::result(code)
    }

    /// Zeroes a request's data from its byte `start` on.
    ///
    /// # Safety
    ///
    /// The caller made the request of `handle` COPYING and has not unpinned it.
    pub unsafe fn zero(&self, handle: Handle, start: u32) {
        // SAFETY: the request cannot be ended while it is COPYING, so its pages stay.
        unsafe { shim::zosbd2_request_zero(self.queue, u32::from(handle.tag()), start) };
    }
}

/// Effects that are successes, to be carried out together ([`QueueBlock::end_well`]).
#[derive(Debug)]
pub struct Successes<const N: usize> {
    tags: List<u16, N>,
}

impl<const N: usize> Successes<N> {
    /// None.
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        Self { tags: List::new() }
    }

    /// Whether there is none.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.tags.is_empty()
    }

    /// Adds a success, if there is room; the callers see to that. A failure is given back.
    #[inline]
    pub fn push(&mut self, end: End) -> Option<End> {
        if end.result().is_err() {
            return Some(end);
        }
        let (tag, _) = end.use_up();
        self.tags.push(tag);
        None
    }
}

impl<const N: usize> Default for Successes<N> {
    fn default() -> Self {
        Self::new()
    }
}

/// A queue's lock, held until dropped.
#[derive(Debug)]
pub struct Locked<'a> {
    block: &'a QueueBlock,
    moment: Moment,
    /// Who is woken when the lock is dropped.
    wake: Wake,
}

impl Locked<'_> {
    /// The engine's queue.
    #[inline]
    pub fn queue(&mut self) -> Queue<'_> {
        // SAFETY: the lock is held, `&mut self` makes this the only one under it, and `drop` takes note.
        let queue = unsafe { self.block.locked_by_caller() };
        // SAFETY: as above.
        let latencies = unsafe { &mut *self.block.latencies.get() };
        let cache = self.block.device().cache.as_ref();
        queue.within(Surroundings { cache, latencies: Some(latencies), moment: self.moment, written: 0 })
    }

    /// Time has passed since the lock was taken.
    #[inline]
    pub const fn set_moment(&mut self, moment: Moment) {
        self.moment = moment;
    }

    /// The latencies so far.
    #[must_use]
    pub fn latencies(&mut self) -> Histograms {
        // SAFETY: the lock is held, and `&mut self` makes this the only reference under it.
        let latencies = unsafe { &*self.block.latencies.get() };
        latencies.histograms()
    }

    /// Carries out a wake-up: when the lock is dropped.
    #[inline]
    pub const fn wake(&mut self, wake: Wake) {
        self.wake.servers = self.wake.servers.wrapping_add(wake.servers);
        self.wake.look |= wake.look;
    }

    /// The server could not be given the request: it goes back into the queue.
    #[cold]
    pub fn unfetch(&mut self, handle: Handle) {
        let before = self.queue().queued();
        let wake = self.queue().unfetch(handle);
        if trace::on() && self.queue().queued() != before {
            trace::requeue(self.block, handle.tag());
        }
        self.wake(wake);
    }

    /// Takes back what a server holds, as [`Queue::requeue`], or, if it is `declared` dead while it lives, as
    /// [`Queue::declare_dead`].
    pub fn take_back(&mut self, epoch: u32, declared: bool) {
        let (block, tracing) = (self.block, trace::on());
        let each = |tag| {
            if tracing {
                trace::requeue(block, tag);
            }
        };
        if declared {
            self.queue().declare_dead(epoch, each);
        } else {
            let wake = self.queue().requeue(epoch, each);
            self.wake(wake);
        }
    }

    /// Looks after the wake-ups under way, as [`Queue::look_after`].
    pub fn look_after(&mut self) {
        let wake = self.queue().look_after();
        self.wake(wake);
    }

    /// Wakes every sleeping server, to be sent away.
    pub fn wake_all(&mut self) {
        self.queue().wake_all();
        // The list has them all: who is woken later is among them.
        self.wake.servers = 0;
        // SAFETY: the lock is held.
        unsafe { shim::zosbd2_queue_wake_all(self.block.queue) };
    }

    /// Sleeps as a server of `epoch`, which takes `room` requests at a time, until there may be work, at most for the
    /// time `left`, from which the time slept is taken; the lock is dropped meanwhile. Called in the same critical
    /// section in which a fetch gave nothing.
    ///
    /// # Errors
    ///
    /// `ETIME`, or `EINTR` for a signal: one that is being killed gets it even when woken, because what a dying server
    /// fetched would wait for another one, or for its deadline. A wake-up that came with an error was passed on.
    #[inline]
    pub fn sleep(&mut self, epoch: u32, room: u32, left: &mut isize) -> Result<(), Errno> {
        self.queue().wait(room);
        // SAFETY: the lock is held, nobody is to be woken for what is done under it, and C gives it back held.
        let code = unsafe { shim::zosbd2_queue_sleep(self.block.queue, left) };
        let mut slept = Ok(());
        match code {
            shim::SENT_AWAY => {}
            shim::WOKEN => self.queue().arrive(epoch),
            _ => {
                self.queue().leave();
                slept = shim::result(code);
            }
        }
        if slept.is_ok() && shim::signal_fatal() {
            slept = Err(Errno::EINTR);
        }
        if slept.is_err() {
            let wake = self.queue().announce();
            self.wake(wake);
        }
        slept
    }
}

impl Drop for Locked<'_> {
    #[inline]
    fn drop(&mut self) {
        let queued = self.queue().queued();
        self.block.note_queued(queued);
        // SAFETY: the lock is held, and so many servers sleep that the engine has chosen to be woken.
        unsafe { shim::zosbd2_queue_unlock(self.block.queue, self.wake.servers, self.wake.look) };
    }
}
