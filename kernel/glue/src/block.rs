// SPDX-License-Identifier: GPL-2.0-only
//! The memory that the shim keeps for the engine, and the locks around it.
//!
//! A device's block is one allocation: [`Device`], then its [`Slot`]s. It is shared between contexts; what
//! changes after initialisation is behind the queue's lock and reached through [`Locked`] alone. The
//! registry's block is [`Registry`], then its places, behind the registry's lock.

use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::mem::{align_of, size_of};
use core::{ptr, slice};

use zosbd2_abi::v1 as abi;
use zosbd2_engine::Errno;
use zosbd2_engine::device::Drain;
use zosbd2_engine::queue::{End, Queue, QueueState, Wake};
use zosbd2_engine::registry::{self, Place, RegistryState};
use zosbd2_engine::request::Slot;

use crate::shim;

/// A device's block. The slots follow it in memory.
#[derive(Debug)]
pub struct Device {
    params: shim::Params,
    queue: *mut shim::Queue,
    /// Number of slots; never changes.
    depth: usize,
    locked: UnsafeCell<Changing>,
}

#[derive(Debug)]
struct Changing {
    state: QueueState,
    drain: Option<Drain>,
}

// The slots start right behind the header.
const _: () = assert!(size_of::<Device>().is_multiple_of(align_of::<Slot>()));

impl Device {
    /// Bytes of a block with `depth` slots.
    #[must_use]
    pub const fn bytes(depth: u32) -> usize {
        size_of::<Self>().saturating_add((depth as usize).saturating_mul(size_of::<Slot>()))
    }

    /// Initialises a block.
    ///
    /// # Safety
    ///
    /// `memory` is [`bytes`](Self::bytes) long, aligned to 8, and not in use. `queue` stays valid as long
    /// as the block is used.
    pub unsafe fn initialise(memory: *mut c_void, params: shim::Params, queue: *mut shim::Queue) {
        let depth = params.depth as usize;
        let changing = Changing { state: QueueState::default(), drain: None };
        let device = Self { params, queue, depth, locked: UnsafeCell::new(changing) };
        let block = memory.cast::<Self>();
        // SAFETY: the caller's promise; the header is at the start of the block.
        unsafe { block.write(device) };
        // SAFETY: one header on is still within the block, or its end when there are no slots.
        let slots = unsafe { block.add(1) }.cast::<Slot>();
        for index in 0..depth {
            // SAFETY: `index` is below the number of slots the block has room for.
            let slot = unsafe { slots.add(index) };
            // SAFETY: within the block, aligned because the header's size is a multiple of the alignment.
            unsafe { slot.write(Slot::default()) };
        }
    }

    /// The block that `memory` is.
    ///
    /// # Safety
    ///
    /// `memory` was initialised and lives for `'a`.
    #[must_use]
    pub unsafe fn from_memory<'a>(memory: *mut c_void) -> &'a Self {
        // SAFETY: the caller's promise; only shared references to the header are ever made, and what
        // changes is in an `UnsafeCell`.
        unsafe { &*memory.cast::<Self>() }
    }

    /// The handle in the registry.
    #[must_use]
    pub const fn handle(&self) -> u32 {
        self.params.handle
    }

    /// What STATUS answers.
    #[must_use]
    pub const fn status(&self) -> abi::Status {
        let params = &self.params;
        abi::Status {
            query: params.handle,
            reserved: 0,
            size_bytes: params.size_bytes,
            block_count: params.size_bytes >> abi::BLOCK_SIZE.trailing_zeros(),
            block_size: params.block_size,
            max_segments: params.max_data_bytes >> abi::BLOCK_SIZE.trailing_zeros(),
            timeout_ms: params.timeout_ms,
            handle: params.handle,
            name: params.name,
        }
    }

    /// Takes the queue's lock.
    #[inline]
    #[must_use]
    pub fn lock(&self) -> Locked<'_> {
        // SAFETY: the queue lives as long as the block (`initialise`).
        let flags = unsafe { shim::zosbd2_queue_lock(self.queue) };
        Locked { device: self, flags }
    }

    /// Ends the block request of an effect. The lock is not held.
    #[inline]
    pub fn end(&self, end: End) {
        let error = end.result.map_or_else(Errno::negative, |()| 0);
        // SAFETY: the engine freed the tag just now and named us to end its request, once.
        unsafe { shim::zosbd2_request_end(self.queue, u32::from(end.tag), error) };
    }

    /// Ends the block request of an effect, if there is one.
    #[inline]
    pub fn end_if(&self, end: Option<End>) {
        if let Some(end) = end {
            self.end(end);
        }
    }

    /// Copies between a request's pages and user memory from byte `done` on, without waiting for pages.
    ///
    /// # Errors
    ///
    /// `EFAULT` at the first page that is not there; `done` tells how far it came.
    ///
    /// # Safety
    ///
    /// The caller made the request of `tag` COPYING and has not unpinned it.
    #[inline]
    pub unsafe fn copy(&self, tag: u16, user: u64, done: &mut u32, to_user: bool) -> Result<(), Errno> {
        // SAFETY: the request cannot be ended while it is COPYING, so its pages stay.
        let code = unsafe { shim::zosbd2_request_copy(self.queue, u32::from(tag), user, done, to_user) };
        Errno::from_negative(code).map_or(Ok(()), Err)
    }
}

/// The queue's lock, held until dropped.
#[derive(Debug)]
pub struct Locked<'a> {
    device: &'a Device,
    flags: usize,
}

impl Locked<'_> {
    /// The engine's queue.
    #[inline]
    pub fn queue(&mut self) -> Queue<'_> {
        // SAFETY: one header on is where the slots start (`initialise`).
        let slots = unsafe { ptr::from_ref(self.device).cast_mut().add(1) }.cast::<Slot>();
        // SAFETY: `depth` slots were initialised there; the lock makes this the only reference to them.
        let slots = unsafe { slice::from_raw_parts_mut(slots, self.device.depth) };
        Queue::new(&mut self.changing().state, slots)
    }

    /// The teardown's clock, from its start on.
    pub fn drain(&mut self) -> &mut Option<Drain> {
        &mut self.changing().drain
    }

    #[inline]
    fn changing(&mut self) -> &mut Changing {
        // SAFETY: the lock is held, and `&mut self` makes this the only reference under it.
        unsafe { &mut *self.device.locked.get() }
    }

    /// Carries out a wake-up.
    #[inline]
    pub fn wake(&mut self, wake: Wake) {
        if wake == Wake::One {
            // SAFETY: the lock is held.
            unsafe { shim::zosbd2_queue_wake_one(self.device.queue) };
        }
    }

    /// Wakes every sleeping server.
    pub fn wake_all(&mut self) {
        self.queue().wake_all();
        // SAFETY: the lock is held.
        unsafe { shim::zosbd2_queue_wake_all(self.device.queue) };
    }

    /// Sleeps as a server until woken or signalled; the lock is dropped meanwhile. The engine was told by
    /// `wait`.
    ///
    /// # Errors
    ///
    /// `EINTR` when a signal came and no wake-up.
    #[inline]
    pub fn sleep(&mut self) -> Result<(), Errno> {
        // SAFETY: the lock is held, taken with these flags; C gives it back held.
        let code = unsafe { shim::zosbd2_queue_sleep(self.device.queue, &raw mut self.flags) };
        Errno::from_negative(code).map_or(Ok(()), Err)
    }
}

impl Drop for Locked<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the lock is held, taken with these flags.
        unsafe { shim::zosbd2_queue_unlock(self.device.queue, self.flags) };
    }
}

/// The registry's block. The places follow it in memory.
#[derive(Debug)]
pub struct Registry {
    state: RegistryState,
    places: usize,
}

const _: () = assert!(size_of::<Registry>().is_multiple_of(align_of::<Place>()));

impl Registry {
    /// Bytes of a block with so many places.
    #[must_use]
    pub const fn bytes(places: u32) -> usize {
        size_of::<Self>().saturating_add((places as usize).saturating_mul(size_of::<Place>()))
    }

    /// Initialises a block.
    ///
    /// # Safety
    ///
    /// `memory` is [`bytes`](Self::bytes) long, aligned to 8, and not in use.
    pub unsafe fn initialise(memory: *mut c_void, places: u32) {
        let places = places as usize;
        let block = memory.cast::<Self>();
        // SAFETY: the caller's promise; the header is at the start of the block.
        unsafe { block.write(Self { state: RegistryState::default(), places }) };
        // SAFETY: one header on is still within the block, or its end when there are no places.
        let first = unsafe { block.add(1) }.cast::<Place>();
        for index in 0..places {
            // SAFETY: `index` is below the number of places the block has room for.
            let place = unsafe { first.add(index) };
            // SAFETY: within the block, aligned because the header's size is a multiple of the alignment.
            unsafe { place.write(Place::default()) };
        }
    }
}

/// The registry and its lock, held until dropped.
#[derive(Debug)]
pub struct LockedRegistry {
    memory: *mut Registry,
    _lock: shim::RegistryLock,
}

impl LockedRegistry {
    /// Joins the registry's block with its lock.
    ///
    /// # Safety
    ///
    /// `memory` was initialised, and lives as long as the result.
    #[must_use]
    pub unsafe fn new(memory: *mut c_void, lock: shim::RegistryLock) -> Self {
        Self { memory: memory.cast(), _lock: lock }
    }

    /// The engine's registry.
    pub fn get(&mut self) -> registry::Registry<'_> {
        // SAFETY: one header on is where the places start (`initialise`).
        let places = unsafe { self.memory.add(1) }.cast::<Place>();
        // SAFETY: the lock makes this the only reference to the header.
        let header = unsafe { &mut *self.memory };
        // SAFETY: so many places were initialised there; the lock makes this the only reference to them.
        let places = unsafe { slice::from_raw_parts_mut(places, header.places) };
        registry::Registry::new(&mut header.state, places)
    }
}
