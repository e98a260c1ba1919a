// SPDX-License-Identifier: GPL-2.0-only
//! Version 1's calls on the control node.
//!
//! Called by any process that could open the node, in its own context; may sleep. Arguments are copied in
//! once, exactly as far as the interface defines, and checked as copies. These calls do not see devices of
//! version 2.

use core::mem::offset_of;

use zosbd2_abi::{v1 as abi, v2};
use zosbd2_engine::Errno;
use zosbd2_engine::name::Name;
use zosbd2_engine::v1::{DEPTH, Params};

use crate::block::Device;
use crate::devices::Devices;
use crate::reference::Reference;
use crate::registry::{Found, LockedRegistry};
use crate::shim;

/// The control node.
#[derive(Clone, Copy, Debug)]
pub struct Control {
    devices: Devices,
}

/// Address of the bytes after a name field of a struct at `user`.
const fn field(user: u64, offset: usize) -> u64 {
    user.wrapping_add(offset as u64)
}

/// Value of an `error` field.
const fn error_field(result: Result<(), Errno>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(errno) => errno.negative(),
    }
}

impl Control {
    /// The control node for these devices.
    #[must_use]
    pub const fn new(devices: Devices) -> Self {
        Self { devices }
    }

    /// One ioctl.
    ///
    /// # Errors
    ///
    /// As in `docs/abi-v1.md`; `EINVAL` for inaccessible memory and for an unknown command.
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
            // The caller does not know the device, so nobody would destroy it.
            self.devices.destroy(true, 0, |registry| by_handle(registry, handle))?;
        }
        told
    }

    fn make(self, params: &Params) -> Result<u32, Errno> {
        let wanted = shim::Params {
            disk_name: params.name.disk_name(1),
            serial: [0; v2::SERIAL_BYTES],
            size_bytes: params.block_count.wrapping_mul(u64::from(abi::BLOCK_SIZE)),
            flags: 0,
            version: 1,
            logical_block_size: abi::BLOCK_SIZE,
            physical_block_size: abi::BLOCK_SIZE,
            io_min: abi::BLOCK_SIZE,
            io_opt: 0,
            max_data_bytes: params.max_data_bytes(),
            discard_granularity: abi::BLOCK_SIZE,
            max_discard_bytes: abi::MAX_DISCARD_BYTES,
            max_write_zeroes_bytes: 0,
            max_secure_erase_bytes: 0,
            deadline_ms: params.timeout_ms,
            deadline_policy: v2::DEADLINE_FAIL,
            grace_ms: 0,
            queues: 1,
            depth: u32::from(DEPTH),
            owner_uid: shim::current_uid(),
            place: 0,
            handle: 0,
            reserved: 0,
        };
        let name_is_free =
            || if shim::node_exists(params.name.bytes()) { Err(Errno::EEXIST) } else { Ok(()) };
        let start = |device: &Reference| {
            device.block().name_is_free()?;
            device.block().lock_always().start()
        };
        match self.devices.make(params.name, wanted, name_is_free, start) {
            // The original returns this error.
            Err(Errno::ENOSPC) => Err(Errno::EINVAL),
            made => made.map(|(handle, ())| handle),
        }
    }

    fn destroy_by_handle(self, user: u64) -> Result<(), Errno> {
        let destroy: abi::DestroyByHandle = shim::user_read(user)?;
        let done =
            self.devices.destroy(destroy.force != 0, 0, |registry| by_handle(registry, destroy.handle));
        shim::user_write(user, &abi::DestroyByHandle { error: error_field(done), ..destroy })?;
        done
    }

    fn destroy_by_name(self, user: u64) -> Result<(), Errno> {
        let destroy: abi::DestroyByName = shim::user_read(user)?;
        let done = Name::from_field(&destroy.name).and_then(|name| {
            self.devices.destroy(destroy.force != 0, 0, |registry| by_name(registry, &name))
        });
        shim::user_write(user, &abi::DestroyByName { error: error_field(done), ..destroy })?;
        done
    }

    /// Starts the destruction of every device that is not busy, then waits for all of them. Busy devices are
    /// left and reported once.
    fn destroy_all(self, user: u64) -> Result<(), Errno> {
        let abi::DestroyAll { force } = shim::user_read(user)?;
        let mut result = Ok(());
        let mut order = 0;
        loop {
            let registry = self.devices.lock()?;
            let Some(found) = after(&registry, order) else { break };
            order = found.order;
            match found.seal(force != 0) {
                Ok(sealed) => drop(sealed.destroy()),
                Err(errno) => result = Err(errno),
            }
        }
        let last = order;
        order = 0;
        loop {
            let registry = self.devices.lock()?;
            let Some(found) = registry.sealed_after(order) else { break };
            if found.order > last {
                break;
            }
            order = found.order;
            if found.version != VERSION {
                continue;
            }
            let device = found.reference();
            drop(registry);
            device.wait_gone()?;
        }
        result
    }

    fn handle_by_name(self, user: u64) -> Result<(), Errno> {
        let query: abi::HandleByName = shim::user_read(user)?;
        let found = Name::from_field(&query.name).and_then(|name| {
            let registry = self.devices.lock()?;
            by_name(&registry, &name).map(|found| found.handle)
        });
        let error = error_field(found.map(|_| ()));
        let handle = found.unwrap_or(query.handle);
        shim::user_write(user, &abi::HandleByName { handle, error, ..query })?;
        found.map(|_| ())
    }

    fn list(self, user: u64) -> Result<(), Errno> {
        let mut words = [0_u32; abi::LIST_ENTRIES + 1];
        let registry = self.devices.lock()?;
        let (mut order, mut count) = (0, 0_u32);
        for handle in words.iter_mut().skip(1) {
            let Some(found) = after(&registry, order) else { break };
            *handle = found.handle;
            order = found.order;
            count = count.wrapping_add(1);
        }
        drop(registry);
        if let Some(first) = words.first_mut() {
            *first = count;
        }
        shim::user_write_all(user, &words)
    }

    fn status(self, user: u64) -> Result<(), Errno> {
        let handle: u32 = shim::user_read(user)?;
        let registry = self.devices.lock()?;
        let device = by_handle(&registry, handle)?.reference();
        drop(registry);
        let deadline_ms = device.block().lock()?.deadline_ms();
        shim::user_write(user, &abi::Status { timeout_ms: deadline_ms, ..status(device.block()) })
    }
}

fn by_handle(registry: &LockedRegistry, handle: u32) -> Result<Found<'_>, Errno> {
    own(registry.by_handle(handle))
}

fn by_name<'a>(registry: &'a LockedRegistry, name: &Name) -> Result<Found<'a>, Errno> {
    own(registry.by_name(name))
}

fn own(found: Option<Found<'_>>) -> Result<Found<'_>, Errno> {
    found.filter(|found| found.version == VERSION).ok_or(Errno::ENOENT)
}

fn after(registry: &LockedRegistry, mut order: u64) -> Option<Found<'_>> {
    loop {
        let found = registry.after(order)?;
        if found.version == VERSION {
            return Some(found);
        }
        order = found.order;
    }
}

/// The answer of STATUS.
fn status(device: &Device) -> abi::Status {
    let params = device.params();
    abi::Status {
        query: params.handle,
        reserved: 0,
        size_bytes: params.size_bytes,
        block_count: params.size_bytes >> abi::BLOCK_SIZE.trailing_zeros(),
        block_size: params.logical_block_size,
        max_segments: params.max_data_bytes >> abi::BLOCK_SIZE.trailing_zeros(),
        timeout_ms: params.deadline_ms,
        handle: params.handle,
        name: params.disk_name,
    }
}

const VERSION: u32 = 1;
/// The shim's error for inaccessible memory; version 1 has another one.
const EFAULT: i32 = Errno::EFAULT.get();
