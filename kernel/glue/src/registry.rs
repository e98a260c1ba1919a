// SPDX-License-Identifier: GPL-2.0-only
//! The registry's memory, and its lock.
//!
//! The memory is one allocation: [`Registry`], then its places. All of it is behind the registry's lock, and
//! reached through [`LockedRegistry`]. A look-up returns [`Found`], which ends before the lock is dropped.

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

const _: () = assert!(size_of::<Registry>() % align_of::<Place>() == 0);

impl Registry {
    /// Bytes of a block with this many places.
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
        // SAFETY: one header on is still within the block, or at its end without places.
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
    /// A pointer to the whole block rather than a reference to its header, because the places follow the
    /// header.
    memory: *mut Registry,
    _lock: shim::RegistryLock,
}

impl LockedRegistry {
    /// Combines the registry's block with its lock.
    ///
    /// # Safety
    ///
    /// `memory` was initialised, and lives as long as the result.
    #[must_use]
    pub unsafe fn new(memory: *mut c_void, lock: shim::RegistryLock) -> Self {
        Self { memory: memory.cast(), _lock: lock }
    }

    /// Most devices that can exist.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        // SAFETY: the lock makes this the only access to the header.
        let places = unsafe { (*self.memory).places };
        u32::try_from(places).unwrap_or(u32::MAX)
    }

    /// Runs `action` on the engine's registry. `action` does not call this again.
    fn with<T>(&self, action: impl FnOnce(registry::Registry<'_>) -> T) -> T {
        // SAFETY: one header on is where the places start (`initialise`).
        let places = unsafe { self.memory.add(1) }.cast::<Place>();
        // SAFETY: the lock is held, by this thread, and no other `action` runs, so this is the only reference.
        let header = unsafe { &mut *self.memory };
        // SAFETY: that many places were initialised there; the only reference to them, as above.
        let places = unsafe { slice::from_raw_parts_mut(places, header.places) };
        action(registry::Registry::new(&mut header.state, places))
    }

    /// Like [`registry::Registry::reserve`].
    ///
    /// # Errors
    ///
    /// Likewise.
    pub fn reserve(&self, name: Name, version: u32) -> Result<PlaceId, Errno> {
        self.with(|mut registry| registry.reserve(name, version))
    }

    /// Like [`registry::Registry::number`].
    #[must_use]
    pub fn number(&self, place: PlaceId) -> u32 {
        self.with(|mut registry| registry.number(place))
    }

    /// Makes a device visible, in the place for which it was created.
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

    /// Number of published devices.
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

    /// Like [`registry::Registry::meant`].
    ///
    /// # Errors
    ///
    /// Those of [`registry::Registry::meant`].
    pub fn meant(&self, name: &Name, handle: u32) -> Result<Found<'_>, Errno> {
        let found = self.with(|registry| registry.meant(name, handle))?;
        Ok(Found { registry: self, found })
    }

    /// The published device that follows `order` in the order of creation; 0 for the first one.
    #[must_use]
    pub fn after(&self, order: u64) -> Option<Found<'_>> {
        self.find(|registry| registry.after(order))
    }

    /// Like [`after`](Self::after), for devices that are being destroyed.
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

/// A device that the registry knows. It exists while the registry is locked.
#[derive(Debug)]
pub struct Found<'a> {
    registry: &'a LockedRegistry,
    found: registry::Found,
}

impl Found<'_> {
    /// Takes a reference, which keeps the device's memory after the lock is dropped.
    #[must_use]
    pub fn reference(&self) -> Reference {
        let device = ptr::with_exposed_provenance_mut(usize::try_from(self.found.device).unwrap_or(0));
        // SAFETY: the place is only freed under the lock, which is held, and the memory after that.
        unsafe { Reference::take(device) }
    }

    /// Hides the device for its destruction, which the caller then starts.
    ///
    /// # Errors
    ///
    /// `EBUSY` if the device is open and `force` is not set, `ENOENT` if it is already sealed.
    pub fn seal(self, force: bool) -> Result<Sealed, Errno> {
        let reference = self.reference();
        // SAFETY: a reference is held, and the registry is locked.
        if !unsafe { shim::zosbd2_device_seal(reference.device(), force) } {
            return Err(Errno::EBUSY);
        }
        if !self.registry.with(|mut registry| registry.seal(self.found.place)) {
            return Err(Errno::ENOENT);
        }
        // SAFETY: sealed just now.
        Ok(unsafe { Sealed::new(reference) })
    }
}

impl Deref for Found<'_> {
    type Target = registry::Found;

    fn deref(&self) -> &registry::Found {
        &self.found
    }
}
