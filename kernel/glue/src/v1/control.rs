// SPDX-License-Identifier: GPL-2.0-only
//! Version 1's calls on the control node.
//!
//! Called by any process that could open the node, in its own context; may sleep. Arguments are copied in
//! once, whole and no further than the interface defines, and checked as copies.
//!
//! Who destroys a device is whoever sealed it in the registry; the work itself is done by a worker of the
//! shim, so a caller killed while waiting leaves nothing behind.

use core::ffi::c_void;
use core::mem::offset_of;
use core::ptr;

use zosbd2_abi::v1 as abi;
use zosbd2_engine::Errno;
use zosbd2_engine::name::Name;
use zosbd2_engine::registry::{Found, PlaceId};
use zosbd2_engine::v1::{DEPTH, Params};

use crate::block::{Device, LockedRegistry};
use crate::shim;

/// The registry, from which each call takes the lock as it needs.
#[derive(Clone, Copy, Debug)]
pub struct Control {
    registry: *mut c_void,
}

/// A reference to a device; put when dropped.
#[derive(Debug)]
struct Reference(*mut shim::Device);

impl Reference {
    /// Takes a reference. The registry's lock is held, so the device is there.
    fn take(_registry: &LockedRegistry, found: Found) -> Self {
        let device = ptr::with_exposed_provenance_mut(usize::try_from(found.device).unwrap_or(0));
        // SAFETY: a device that the registry knows exists, and the registry is locked.
        unsafe { shim::zosbd2_device_get(device) };
        Self(device)
    }

    fn destroy(&self) {
        // SAFETY: a reference is held; the caller sealed the device, so this happens once.
        unsafe { shim::zosbd2_device_destroy(self.0) };
    }

    fn wait_gone(&self) -> Result<(), Errno> {
        // SAFETY: a reference is held.
        let code = unsafe { shim::zosbd2_device_wait_gone(self.0) };
        // Only a fatal signal ends the wait early, so nobody sees which error it was.
        Errno::from_negative(code).map_or(Ok(()), |_| Err(Errno::EINTR))
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        // SAFETY: taken once, put once.
        unsafe { shim::zosbd2_device_put(self.0) };
    }
}

/// Bytes behind a name field of a struct at `user`.
const fn field(user: u64, offset: usize) -> u64 {
    user.wrapping_add(offset as u64)
}

/// The form of an `error` field.
const fn error_field(result: Result<(), Errno>) -> u32 {
    match result {
        Ok(()) => 0,
        Err(errno) => errno.negative().cast_unsigned(),
    }
}

impl Control {
    /// The control node over this registry.
    ///
    /// # Safety
    ///
    /// `registry` was initialised, and lives as long as the module.
    #[must_use]
    pub const unsafe fn new(registry: *mut c_void) -> Self {
        Self { registry }
    }

    fn lock(self) -> Result<LockedRegistry, Errno> {
        let lock = shim::RegistryLock::take()?;
        // SAFETY: as `new` demands.
        Ok(unsafe { LockedRegistry::new(self.registry, lock) })
    }

    fn lock_always(self) -> LockedRegistry {
        // SAFETY: as `new` demands.
        unsafe { LockedRegistry::new(self.registry, shim::RegistryLock::take_always()) }
    }

    /// One ioctl.
    ///
    /// # Errors
    ///
    /// As `docs/abi-v1.md`; unusable memory is `EINVAL`, an unknown command too.
    pub fn run(self, command: u32, user: u64) -> Result<(), Errno> {
        let result = match command {
            abi::IOCTL_PING => Ok(()),
            abi::IOCTL_CREATE => self.create(user),
            abi::IOCTL_DESTROY_BY_HANDLE => self.destroy_by_handle(user),
            abi::IOCTL_DESTROY_BY_NAME => self.destroy_by_name(user),
            abi::IOCTL_DESTROY_ALL => self.destroy_all(user),
            abi::IOCTL_HANDLE_BY_NAME => self.handle_by_name(user),
            abi::IOCTL_LIST => self.list(user),
            abi::IOCTL_STATUS => self.status(user),
            _ => Err(Errno::EINVAL),
        };
        result.map_err(|errno| if errno.get() == EFAULT { Errno::EINVAL } else { errno })
    }

    fn create(self, user: u64) -> Result<(), Errno> {
        let create: abi::Create = shim::user_read_front(user, abi::CREATE_USED_BYTES)?;
        let created = Params::check(&create).and_then(|params| self.make(&params));
        let error = error_field(created.map(|_| ()));
        let error_at = field(user, offset_of!(abi::Create, error));
        let Ok(handle) = created else {
            shim::user_write(error_at, &error)?;
            return created.map(|_| ());
        };
        let told = shim::user_write(field(user, offset_of!(abi::Create, handle)), &handle)
            .and_then(|()| shim::user_write(error_at, &error));
        if told.is_err() {
            // Nobody knows of the device, so nobody would destroy it.
            self.destroy(true, |registry| registry.get().by_handle(handle))?;
        }
        told
    }

    fn make(self, params: &Params) -> Result<u32, Errno> {
        let place = self.lock()?.get().reserve(params.name)?;
        let made = self.make_at(params, place);
        let mut registry = self.lock_always();
        match made {
            Ok((handle, device)) => {
                registry.get().publish(place, device.expose_provenance() as u64);
                Ok(handle)
            }
            Err(errno) => {
                registry.get().remove(place);
                Err(errno)
            }
        }
    }

    fn make_at(self, params: &Params, place: PlaceId) -> Result<(u32, *mut shim::Device), Errno> {
        if shim::node_exists(params.name.bytes()) {
            return Err(Errno::EEXIST);
        }
        let handle = self.lock_always().get().number(place);
        let params = shim::Params {
            name: *params.name.bytes(),
            size_bytes: params.block_count.wrapping_mul(u64::from(abi::BLOCK_SIZE)),
            block_size: abi::BLOCK_SIZE,
            max_data_bytes: params.max_data_bytes(),
            max_discard_bytes: abi::MAX_DISCARD_BYTES,
            timeout_ms: params.timeout_ms,
            depth: u32::from(DEPTH),
            place: u32::try_from(place.to_raw()).map_err(|_| Errno::EINVAL)?,
            handle,
            reserved: 0,
        };
        let mut device = ptr::null_mut();
        // SAFETY: `params` is complete; `device` is written on success.
        let code = unsafe { shim::zosbd2_device_create(&raw const params, &raw mut device) };
        Errno::from_negative(code).map_or(Ok((handle, device)), Err)
    }

    fn destroy_by_handle(self, user: u64) -> Result<(), Errno> {
        let destroy: abi::DestroyByHandle = shim::user_read(user)?;
        let done = self.destroy(destroy.force != 0, |registry| registry.get().by_handle(destroy.handle));
        shim::user_write(user, &abi::DestroyByHandle { error: error_field(done).cast_signed(), ..destroy })?;
        done
    }

    fn destroy_by_name(self, user: u64) -> Result<(), Errno> {
        let destroy: abi::DestroyByName = shim::user_read(user)?;
        let done = Name::from_field(&destroy.name)
            .and_then(|name| self.destroy(destroy.force != 0, |registry| registry.get().by_name(&name)));
        shim::user_write(user, &abi::DestroyByName { error: error_field(done).cast_signed(), ..destroy })?;
        done
    }

    /// Finds, seals and destroys one device, and waits until it is gone.
    fn destroy(
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

    fn seal(registry: &mut LockedRegistry, found: Found, force: bool) -> Result<Reference, Errno> {
        let device = Reference::take(registry, found);
        // SAFETY: a reference is held, and the registry is locked.
        if !unsafe { shim::zosbd2_device_seal(device.0, force) } {
            return Err(Errno::EBUSY);
        }
        registry.get().seal(found.place);
        Ok(device)
    }

    /// Starts the destruction of every device that can go, then waits for all of them. Busy ones are left
    /// and reported once.
    fn destroy_all(self, user: u64) -> Result<(), Errno> {
        let abi::DestroyAll { force } = shim::user_read(user)?;
        let mut result = Ok(());
        let mut order = 0;
        loop {
            let mut registry = self.lock()?;
            let Some(found) = registry.get().after(order) else { break };
            order = found.order;
            match Self::seal(&mut registry, found, force != 0) {
                Ok(device) => device.destroy(),
                Err(errno) => result = Err(errno),
            }
        }
        let last = order;
        order = 0;
        loop {
            let mut registry = self.lock()?;
            let Some(found) = registry.get().sealed_after(order) else { break };
            if found.order > last {
                break;
            }
            order = found.order;
            let device = Reference::take(&registry, found);
            drop(registry);
            device.wait_gone()?;
        }
        result
    }

    fn handle_by_name(self, user: u64) -> Result<(), Errno> {
        let query: abi::HandleByName = shim::user_read(user)?;
        let found = Name::from_field(&query.name).and_then(|name| {
            let found = self.lock()?.get().by_name(&name);
            found.map(|found| found.handle).ok_or(Errno::ENOENT)
        });
        let error = error_field(found.map(|_| ())).cast_signed();
        let handle = found.unwrap_or(query.handle);
        shim::user_write(user, &abi::HandleByName { handle, error, ..query })?;
        found.map(|_| ())
    }

    fn list(self, user: u64) -> Result<(), Errno> {
        let mut words = [0_u32; abi::LIST_ENTRIES + 1];
        let mut registry = self.lock()?;
        let (mut order, mut count) = (0, 0_u32);
        for handle in words.iter_mut().skip(1) {
            let Some(found) = registry.get().after(order) else { break };
            *handle = found.handle;
            order = found.order;
            count = count.wrapping_add(1);
        }
        drop(registry);
        if let Some(first) = words.first_mut() {
            *first = count;
        }
        shim::user_write_list(user, &words)
    }

    fn status(self, user: u64) -> Result<(), Errno> {
        let handle: u32 = shim::user_read(user)?;
        let mut registry = self.lock()?;
        let found = registry.get().by_handle(handle).ok_or(Errno::ENOENT)?;
        let device = ptr::with_exposed_provenance_mut(usize::try_from(found.device).unwrap_or(0));
        // SAFETY: a device that the registry knows exists, and the registry is locked.
        let engine = unsafe { shim::zosbd2_device_engine(device) };
        // SAFETY: the block lives as long as the device.
        let status = unsafe { Device::from_memory(engine) }.status();
        drop(registry);
        shim::user_write(user, &status)
    }
}

/// What the shim says of memory that cannot be used; version 1 has another word for it.
const EFAULT: i32 = 14;
