// SPDX-License-Identifier: GPL-2.0-only
//! All devices: creation, look-up and destruction, for the control calls of both versions.
//!
//! Called in process context by control calls, the release of server descriptors, and workers; may sleep. The
//! caller that sealed a device in the registry destroys it. A worker of the shim carries out the destruction,
//! so a caller that is killed while waiting leaves nothing behind.

use core::ffi::c_void;
use core::ptr;

use zosbd2_engine::Errno;
use zosbd2_engine::name::Name;
use zosbd2_engine::registry::PlaceId;

use crate::reference::{New, Reference};
use crate::registry::{Found, LockedRegistry};
use crate::shim;

/// The registry. Each call takes its lock when needed.
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
    /// `EINTR` if the caller is being killed.
    pub fn lock(self) -> Result<LockedRegistry, Errno> {
        let lock = shim::RegistryLock::take()?;
        // SAFETY: the promise of `new`.
        Ok(unsafe { LockedRegistry::new(self.registry, lock) })
    }

    /// Like [`lock`](Self::lock), but not killable.
    #[must_use]
    pub fn lock_always(self) -> LockedRegistry {
        // SAFETY: the promise of `new`.
        unsafe { LockedRegistry::new(self.registry, shim::RegistryLock::take_always()) }
    }

    /// Creates a device, lets `begin` prepare it, and publishes it. `params` lacks place and handle. Returns
    /// the result of `begin`.
    ///
    /// # Errors
    ///
    /// Errors of the registry, the shim and `begin`; nothing is left then.
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
                // The device may be destroyed as soon as it is published.
                let handle = device.block().params().handle;
                drop(self.lock_always().publish(device));
                Ok((handle, outcome))
            }
            Err(errno) => {
                // The teardown's worker frees the place, which nobody saw. The device is new, so this takes
                // almost no time.
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
        // SAFETY: the device was just created, for this caller.
        Ok(unsafe { New::take(device) })
    }

    /// Finds, seals and destroys one device, and waits until it is gone. Only if its newest server has this
    /// `epoch`; 0: any.
    ///
    /// # Errors
    ///
    /// Errors of `find`; `ESTALE` if the device has another server, `EBUSY` if it is open and `force` is not
    /// set, `EINTR`.
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

    /// Destroys a device that has no server and was created with auto-destroy, unless a server has attached
    /// meanwhile. Does not wait. No lock is held.
    pub fn destroy_unwanted(self, handle: u32) {
        let registry = self.lock_always();
        // Not found: another caller has begun to destroy it.
        let Some(found) = registry.by_handle(handle) else { return };
        let device = found.reference();
        let block = device.block();
        let mut locked = block.lock_always();
        if !locked.life().unwanted() {
            return;
        }
        // A server that attaches later finds the device gone, instead of a device that is destroyed at once.
        locked.drain(shim::now_ms());
        drop(locked);
        if let Ok(sealed) = found.seal(true) {
            drop(sealed.destroy());
        }
    }
}
