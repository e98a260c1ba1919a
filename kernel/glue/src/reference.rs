// SPDX-License-Identifier: GPL-2.0-only
//! References to a device's memory, and the right to destroy the device.
//!
//! A device is destroyed exactly once. The right to do so is a value that cannot be copied: [`New`] for a new
//! device, until it is published; then [`Sealed`], for the caller that sealed it in the registry.

use core::ffi::c_void;
use core::ops::Deref;

use zosbd2_engine::Errno;

use crate::block::Device;
use crate::shim;

/// A reference to a device's memory. Dropped by the destructor.
#[derive(Debug)]
pub struct Reference {
    device: *mut shim::Device,
    engine: *mut c_void,
}

impl Reference {
    /// Takes a reference.
    ///
    /// # Safety
    ///
    /// The device exists.
    #[must_use]
    pub unsafe fn take(device: *mut shim::Device) -> Self {
        // SAFETY: the caller's promise.
        unsafe { shim::zosbd2_device_get(device) };
        // SAFETY: a reference is held.
        let engine = unsafe { shim::zosbd2_device_engine(device) };
        Self { device, engine }
    }

    /// The shim's device.
    #[must_use]
    pub const fn device(&self) -> *mut shim::Device {
        self.device
    }

    /// The device's block.
    #[must_use]
    pub const fn block(&self) -> &Device {
        // SAFETY: the block is initialised and lives as long as the device, which the reference keeps.
        unsafe { Device::from_memory(&self.engine) }
    }

    /// Waits until the device is gone.
    ///
    /// # Errors
    ///
    /// `EINTR` if the caller is being killed; the destruction goes on.
    pub fn wait_gone(&self) -> Result<(), Errno> {
        // SAFETY: a reference is held.
        let code = unsafe { shim::zosbd2_device_wait_gone(self.device) };
        // Only a fatal signal ends the wait early, so no program sees which error it was.
        shim::result(code).map_err(|_| Errno::EINTR)
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        // SAFETY: the reference was taken once and is dropped once.
        unsafe { shim::zosbd2_device_put(self.device) };
    }
}

/// A new device. Its creator destroys it or publishes it.
#[derive(Debug)]
#[must_use]
pub struct New(Reference);

impl New {
    /// Takes a reference to a new device.
    ///
    /// # Safety
    ///
    /// Nobody else knows the device, and it has no other `New`.
    pub unsafe fn take(device: *mut shim::Device) -> Self {
        // SAFETY: the caller's promise; the shim gave the device to its creator.
        Self(unsafe { Reference::take(device) })
    }

    /// From now on the caller that seals the device destroys it. Called by the registry.
    #[must_use]
    pub fn known(self) -> Reference {
        self.0
    }

    /// Starts the destruction.
    #[must_use]
    pub fn destroy(self) -> Reference {
        Sealed(self.0).destroy()
    }
}

impl Deref for New {
    type Target = Reference;

    fn deref(&self) -> &Reference {
        &self.0
    }
}

/// A device that can no longer be found. The owner of this value starts its destruction.
#[derive(Debug)]
#[must_use]
pub struct Sealed(Reference);

impl Sealed {
    /// The right to destroy the device.
    ///
    /// # Safety
    ///
    /// The caller has just sealed the device in the registry.
    pub unsafe fn new(reference: Reference) -> Self {
        Self(reference)
    }

    /// Starts the destruction.
    #[must_use]
    pub fn destroy(self) -> Reference {
        // SAFETY: a reference is held. A device has one `New` or `Sealed`, which is used up here.
        unsafe { shim::zosbd2_device_destroy(self.0.device) };
        self.0
    }
}
