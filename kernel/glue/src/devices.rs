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
use zosbd2_engine::registry::PlaceId;

use crate::reference::{New, Reference};
use crate::registry::{Found, LockedRegistry};
use crate::shim;

/// The registry, from which each call takes the lock as it needs.
#[derive(Clone, Copy, Debug)]
pub struct Devices {
    registry: *mut c_void,
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
        let place = self.lock()?.reserve(name, params.version)?;
        let made = check().and_then(|()| self.make_at(params, place));
        let device = match made {
            Ok(device) => device,
            Err(errno) => {
                self.lock_always().remove(place);
                return Err(errno);
            }
        };
        match begin(&device) {
            Ok(outcome) => {
                // It may be destroyed as soon as it is published.
                let handle = device.block().params().handle;
                drop(self.lock_always().publish(device));
                Ok((handle, outcome))
            }
            Err(errno) => {
                // Its worker removes the place, which nobody saw. It is new, so there is next to nothing to wait for.
                device.destroy().wait_gone()?;
                Err(errno)
            }
        }
    }

    fn make_at(self, params: shim::Params, place: PlaceId) -> Result<New, Errno> {
        let handle = self.lock_always().number(place);
        let place = u32::try_from(place.to_raw()).map_err(|_| Errno::EOVERFLOW)?;
        let params = shim::Params { place, handle, ..params };
        let mut device = ptr::null_mut();
        // SAFETY: `params` is complete; `device` is written on success.
        let code = unsafe { shim::zosbd2_device_create(&raw const params, &raw mut device) };
        shim::result(code)?;
        // SAFETY: it was made just now, for us.
        Ok(unsafe { New::take(device) })
    }

    /// Finds, seals and destroys one device, and waits until it is gone. Only if its newest server is that of `epoch`;
    /// 0: any.
    ///
    /// # Errors
    ///
    /// As `find` says; `ESTALE` when it has another server, `EBUSY` when somebody has it open and it is not by
    /// `force`, `EINTR`.
    pub fn destroy(
        self,
        force: bool,
        epoch: u32,
        find: impl FnOnce(&LockedRegistry) -> Result<Found<'_>, Errno>,
    ) -> Result<(), Errno> {
        let registry = self.lock()?;
        let found = find(&registry)?;
        let sealed = if epoch == 0 {
            found.seal(force)?
        } else {
            let device = found.reference();
            let mut locked = device.block().lock()?;
            locked.life().meant(epoch)?;
            let sealed = found.seal(force)?;
            // Before another server can attach.
            locked.drain(shim::now_ms());
            sealed
        };
        drop(registry);
        sealed.destroy().wait_gone()
    }

    /// Destroys a device that nobody serves and that is to go in this case, unless a server came meanwhile.
    /// Does not wait. No lock is held.
    pub fn destroy_unwanted(self, handle: u32) {
        let registry = self.lock_always();
        // Not there: somebody destroys it already.
        let Some(found) = registry.by_handle(handle) else { return };
        let device = found.reference();
        let block = device.block();
        let mut locked = block.lock_always();
        if !locked.life().unwanted() {
            return;
        }
        // A server that was on its way finds it gone, and does not get a device that goes at once.
        locked.drain(shim::now_ms());
        drop(locked);
        if let Ok(sealed) = found.seal(true) {
            drop(sealed.destroy());
        }
    }
}
