// SPDX-License-Identifier: GPL-2.0-only
//! The registry's memory, and the lock around it.
//!
//! The memory is one allocation: [`Registry`], then its places. All of it is behind the registry's lock, and reached
//! through [`LockedRegistry`]. What is found there is [`Found`], which ends before the lock is dropped.

use core::ffi::c_void;
use core::mem::{align_of, size_of};
use core::ops::Deref;
use core::{ptr, slice};

use zosbd2_engine::Errno;
use zosbd2_engine::name::Name;
use zosbd2_engine::registry::{self, Place, PlaceId, RegistryState};

use crate::reference::{New, Reference, Sealed};
use crate::shim;

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
    /// Of the whole block, and no reference to its header: the places are behind that.
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

    /// How many devices can exist.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        // SAFETY: the lock makes this the only access to the header.
        let places = unsafe { (*self.memory).places };
        u32::try_from(places).unwrap_or(u32::MAX)
    }

    /// Runs `action`, which does not call this again, on the engine's registry.
    fn with<T>(&self, action: impl FnOnce(registry::Registry<'_>) -> T) -> T {
        // SAFETY: one header on is where the places start (`initialise`).
        let places = unsafe { self.memory.add(1) }.cast::<Place>();
        // SAFETY: the lock is held, by this thread, and no other `action` runs, so this is the only reference.
        let header = unsafe { &mut *self.memory };
        // SAFETY: so many places were initialised there; the only reference to them, as above.
        let places = unsafe { slice::from_raw_parts_mut(places, header.places) };
        action(registry::Registry::new(&mut header.state, places))
    }

    /// As [`registry::Registry::reserve`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn reserve(&self, name: Name, version: u32) -> Result<PlaceId, Errno> {
        self.with(|mut registry| registry.reserve(name, version))
    }

    /// As [`registry::Registry::number`].
    #[must_use]
    pub fn number(&self, place: PlaceId) -> u32 {
        self.with(|mut registry| registry.number(place))
    }

    /// Makes a device visible, in the place that it was made for.
    #[must_use]
    pub fn publish(&self, device: New) -> Reference {
        let device = device.known();
        let place = PlaceId::from_raw(device.block().params().place as usize);
        self.with(|mut registry| registry.publish(place, device.device().expose_provenance() as u64));
        device
    }

    /// Frees a device's name, and keeps its place.
    pub fn vacate(&self, place: PlaceId) {
        self.with(|mut registry| registry.vacate(place));
    }

    /// Frees a place, and its name if that is not free yet.
    pub fn remove(&self, place: PlaceId) {
        self.with(|mut registry| registry.remove(place));
    }

    /// How many devices are published.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.with(|registry| registry.count())
    }

    /// The published device with this handle.
    #[must_use]
    pub fn by_handle(&self, handle: u32) -> Option<Found<'_>> {
        self.find(|registry| registry.by_handle(handle))
    }

    /// The published device with this name.
    #[must_use]
    pub fn by_name(&self, name: &Name) -> Option<Found<'_>> {
        self.find(|registry| registry.by_name(name))
    }

    /// The published device that comes next in the order of creation after `order`; 0 for the first.
    #[must_use]
    pub fn after(&self, order: u64) -> Option<Found<'_>> {
        self.find(|registry| registry.after(order))
    }

    /// As [`after`](Self::after), among the devices being destroyed.
    #[must_use]
    pub fn sealed_after(&self, order: u64) -> Option<Found<'_>> {
        self.find(|registry| registry.sealed_after(order))
    }

    fn find(
        &self,
        look: impl FnOnce(registry::Registry<'_>) -> Option<registry::Found>,
    ) -> Option<Found<'_>> {
        self.with(look).map(|found| Found { registry: self, found })
    }
}

/// A device that the registry knows, and so one that is there for as long as the registry is locked.
#[derive(Debug)]
pub struct Found<'a> {
    registry: &'a LockedRegistry,
    found: registry::Found,
}

impl Found<'_> {
    /// Takes a reference, which keeps the device's memory when the lock is dropped.
    #[must_use]
    pub fn reference(&self) -> Reference {
        let device = ptr::with_exposed_provenance_mut(usize::try_from(self.found.device).unwrap_or(0));
        // SAFETY: its place is only freed under the lock, which is held, and its memory after that.
        unsafe { Reference::take(device) }
    }

    /// Hides the device for its destruction, which the caller then starts.
    ///
    /// # Errors
    ///
    /// `EBUSY` when somebody has it open and it is not by `force`, `ENOENT` when it is sealed.
    pub fn seal(self, force: bool) -> Result<Sealed, Errno> {
        let reference = self.reference();
        // SAFETY: a reference is held, and the registry is locked.
        if !unsafe { shim::zosbd2_device_seal(reference.device(), force) } {
            return Err(Errno::EBUSY);
        }
        if !self.registry.with(|mut registry| registry.seal(self.found.place)) {
            return Err(Errno::ENOENT);
        }
        // SAFETY: it was, just now.
        Ok(unsafe { Sealed::new(reference) })
    }
}

impl Deref for Found<'_> {
    type Target = registry::Found;

    fn deref(&self) -> &registry::Found {
        &self.found
    }
}
