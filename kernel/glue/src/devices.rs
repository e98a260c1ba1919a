// SPDX-License-Identifier: GPL-2.0-only
//! The devices there are: made, found, destroyed; for the control calls of both versions.
//!
//! Called in process context by control calls, the release of server descriptors, and workers; may sleep.
//! Who destroys a device is whoever sealed it in the registry; the work itself is done by a worker of the
//! shim, so a caller killed while waiting leaves nothing behind.

use core::ffi::c_void;
use core::ptr;

use zosbd2_engine::Errno;
use zosbd2_engine::name::Name;
use zosbd2_engine::registry::{Found, PlaceId};

use crate::block::{Device, LockedRegistry};
use crate::shim;

/// The registry, from which each call takes the lock as it needs.
#[derive(Clone, Copy, Debug)]
pub struct Devices {
    registry: *mut c_void,
}

/// A reference to a device's memory; put when dropped.
#[derive(Debug)]
pub struct Reference(*mut shim::Device);

impl Reference {
    /// Takes a reference. The registry's lock is held, so the device is there.
    #[must_use]
    pub fn take(_registry: &LockedRegistry, found: Found) -> Self {
        let device = ptr::with_exposed_provenance_mut(usize::try_from(found.device).unwrap_or(0));
        // SAFETY: a device that the registry knows exists, and the registry is locked.
        unsafe { shim::zosbd2_device_get(device) };
        Self(device)
    }

    /// The device's block.
    #[must_use]
    pub fn block(&self) -> &Device {
        // SAFETY: a reference is held.
        let engine = unsafe { shim::zosbd2_device_engine(self.0) };
        // SAFETY: the block is initialised and lives as long as the device, which the reference keeps.
        unsafe { Device::from_memory(engine) }
    }

    /// Starts the destruction. The caller sealed the device.
    pub fn destroy(&self) {
        // SAFETY: a reference is held; the caller sealed the device, so this happens once.
        unsafe { shim::zosbd2_device_destroy(self.0) };
    }

    /// Waits until the device is gone.
    ///
    /// # Errors
    ///
    /// `EINTR` when the caller is being killed; the destruction goes on.
    pub fn wait_gone(&self) -> Result<(), Errno> {
        // SAFETY: a reference is held.
        let code = unsafe { shim::zosbd2_device_wait_gone(self.0) };
        // Only a fatal signal ends the wait early, so nobody sees which error it was.
        shim::result(code).map_err(|_| Errno::EINTR)
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        // SAFETY: taken once, put once.
        unsafe { shim::zosbd2_device_put(self.0) };
    }
}

impl Devices {
    /// The devices of this registry.
    ///
    /// # Safety
    ///
    /// `registry` was initialised, and lives as long as the module.
    #[must_use]
    pub const unsafe fn new(registry: *mut c_void) -> Self {
        Self { registry }
    }

    /// Takes the registry's lock.
    ///
    /// # Errors
    ///
    /// `EINTR` when the caller is being killed.
    pub fn lock(self) -> Result<LockedRegistry, Errno> {
        let lock = shim::RegistryLock::take()?;
        // SAFETY: as `new` demands.
        Ok(unsafe { LockedRegistry::new(self.registry, lock) })
    }

    /// As [`lock`](Self::lock), whatever happens to the caller.
    #[must_use]
    pub fn lock_always(self) -> LockedRegistry {
        // SAFETY: as `new` demands.
        unsafe { LockedRegistry::new(self.registry, shim::RegistryLock::take_always()) }
    }

    /// Makes a device that `begin` then puts to work, and publishes it. `params` lacks place and handle.
    /// Returns what `begin` returned.
    ///
    /// # Errors
    ///
    /// As the registry, the shim and `begin` say; nothing is left then.
    pub fn make<T>(
        self,
        name: Name,
        params: shim::Params,
        check: impl FnOnce() -> Result<(), Errno>,
        begin: impl FnOnce(&Reference) -> Result<T, Errno>,
    ) -> Result<(u32, T), Errno> {
        let place = self.lock()?.get().reserve(name, params.version)?;
        let made = check().and_then(|()| self.make_at(params, place));
        let (handle, device) = match made {
            Ok(made) => made,
            Err(errno) => {
                self.lock_always().get().remove(place);
                return Err(errno);
            }
        };
        // Keeps the memory through a destruction that may begin as soon as it is published.
        // SAFETY: just made, and nobody else knows it.
        unsafe { shim::zosbd2_device_get(device) };
        let reference = Reference(device);
        match begin(&reference) {
            Ok(outcome) => {
                self.lock_always().get().publish(place, device.expose_provenance() as u64);
                Ok((handle, outcome))
            }
            Err(errno) => {
                // Its worker removes the place, which nobody saw.
                reference.destroy();
                // It is new, so there is next to nothing to wait for.
                reference.wait_gone()?;
                Err(errno)
            }
        }
    }

    fn make_at(self, params: shim::Params, place: PlaceId) -> Result<(u32, *mut shim::Device), Errno> {
        let handle = self.lock_always().get().number(place);
        let place = u32::try_from(place.to_raw()).map_err(|_| Errno::EOVERFLOW)?;
        let params = shim::Params { place, handle, ..params };
        let mut device = ptr::null_mut();
        // SAFETY: `params` is complete; `device` is written on success.
        let code = unsafe { shim::zosbd2_device_create(&raw const params, &raw mut device) };
        shim::result(code).map(|()| (handle, device))
    }

    /// Finds, seals and destroys one device, and waits until it is gone.
    ///
    /// # Errors
    ///
    /// `ENOENT`, `EBUSY` when somebody has it open and it is not by `force`, `EINTR`.
    pub fn destroy(
        self,
        force: bool,
        find: impl FnOnce(&mut LockedRegistry) -> Option<Found>,
    ) -> Result<(), Errno> {
        let mut registry = self.lock()?;
        let found = find(&mut registry).ok_or(Errno::ENOENT)?;
        let device = Self::seal(&mut registry, found, force)?;
        drop(registry);
        device.destroy();
        device.wait_gone()
    }

    /// Hides a device for its destruction, which the caller then starts.
    ///
    /// # Errors
    ///
    /// `EBUSY` when somebody has it open and it is not by `force`.
    pub fn seal(registry: &mut LockedRegistry, found: Found, force: bool) -> Result<Reference, Errno> {
        let device = Reference::take(registry, found);
        // SAFETY: a reference is held, and the registry is locked.
        if !unsafe { shim::zosbd2_device_seal(device.0, force) } {
            return Err(Errno::EBUSY);
        }
        registry.get().seal(found.place);
        Ok(device)
    }

    /// Destroys a device that nobody serves and that is to go in this case, unless a server came meanwhile.
    /// Does not wait. No lock is held.
    pub fn destroy_unwanted(self, handle: u32) {
        let mut registry = self.lock_always();
        // Not there: somebody destroys it already.
        let Some(found) = registry.get().by_handle(handle) else { return };
        let device = Reference::take(&registry, found);
        let block = device.block();
        let mut locked = block.lock_always();
        if !locked.life().unwanted() {
            return;
        }
        // A server that was on its way finds it gone, and does not get a device that goes at once.
        let change = locked.life().drain(shim::now_ms(), 0);
        locked.carry_out(change);
        drop(locked);
        if let Ok(sealed) = Self::seal(&mut registry, found, true) {
            sealed.destroy();
        }
    }
}
