// SPDX-License-Identifier: GPL-2.0-only
//! Version 2's calls on the control node.
//!
//! Called by any process that could open the node, in its own context; may sleep. A fatal signal ends a wait;
//! workers then finish what the call began.

use zosbd2_abi::v2 as abi;
use zosbd2_engine::Errno;
use zosbd2_engine::name::Name;
use zosbd2_engine::v2::{check_create, check_settings};

use super::argument::{self, holds};
use super::server;
use crate::devices::Devices;
use crate::reference::Reference;
use crate::shim;

/// Known operations: the lowest bits.
const OPERATIONS: u64 = (1 << abi::OPERATIONS) - 1;

/// One ioctl. Returns the result of the call.
///
/// # Errors
///
/// As in `docs/abi-v2.md`; `ENOTTY` for an unknown command.
pub fn run(devices: Devices, command: u32, user: u64) -> Result<i32, Errno> {
    match command {
        abi::IOCTL_INFO => info(devices, user).map(|()| 0),
        abi::IOCTL_CREATE => create(devices, user),
        abi::IOCTL_ATTACH => attach(devices, user),
        abi::IOCTL_DESTROY => destroy(devices, user).map(|()| 0),
        abi::IOCTL_LIST => list(devices, user).map(|()| 0),
        abi::IOCTL_STATUS => status(devices, user).map(|()| 0),
        abi::IOCTL_SETTINGS => settings(devices, user).map(|()| 0),
        _ => Err(Errno::ENOTTY),
    }
}

fn info(devices: Devices, user: u64) -> Result<(), Errno> {
    let asked: abi::Info = argument::read(user)?;
    holds(asked.flags == 0 && asked.reserved == 0)?;
    let machine = shim::machine();
    let info = abi::Info {
        version: 2,
        max_devices: devices.lock()?.capacity(),
        operations: OPERATIONS,
        max_queues: machine.cpus,
        max_depth: abi::MAX_DEPTH,
        max_block_size: machine.page_bytes,
        max_io_bytes: abi::MAX_IO_BYTES,
        max_batch: abi::MAX_BATCH,
        features: 0,
        module_version: shim::version(),
        ..asked
    };
    shim::user_write(user, &info)
}

fn create(devices: Devices, user: u64) -> Result<i32, Errno> {
    let asked: abi::Create = argument::read(user)?;
    let (name, create) = check_create(&asked, shim::machine())?;
    let params = shim::Params {
        disk_name: name.disk_name(2),
        serial: create.serial,
        size_bytes: create.size_bytes,
        flags: create.flags,
        version: 2,
        logical_block_size: create.logical_block_size,
        physical_block_size: create.physical_block_size,
        io_min: create.io_min,
        io_opt: create.io_opt,
        max_data_bytes: create.max_io_bytes,
        discard_granularity: create.discard_granularity,
        max_discard_bytes: create.max_discard_bytes,
        max_write_zeroes_bytes: create.max_write_zeroes_bytes,
        max_secure_erase_bytes: create.max_secure_erase_bytes,
        deadline_ms: create.deadline_ms,
        deadline_policy: create.deadline_policy,
        grace_ms: create.grace_ms,
        queues: create.queues,
        depth: create.depth,
        owner_uid: shim::current_uid(),
        place: 0,
        handle: 0,
        reserved: 0,
    };
    let begin = |device: &Reference| server::open(device.block(), None, 0, 0, |_| Ok(()));
    // The shim looks for a disk or partition with that name.
    let (handle, opened) = devices.make(name, params, || Ok(()), begin)?;
    // A process that does not learn of its device must not keep it. Closing the descriptor destroys the
    // device.
    shim::user_write(user, &abi::Create { handle, ..asked })?;
    Ok(opened.install())
}

fn attach(devices: Devices, user: u64) -> Result<i32, Errno> {
    let asked: abi::Attach = argument::read(user)?;
    let observes = asked.flags & abi::ATTACH_OBSERVE != 0;
    holds(asked.flags & !abi::ATTACH_FLAGS == 0 && (!observes || asked.flags == abi::ATTACH_OBSERVE))?;
    let device = find(devices, &asked.name, asked.handle)?;
    let params = device.block().params();
    if params.version != 2 && !observes {
        return Err(Errno::EINVAL);
    }
    if !shim::may_serve(params.owner_uid) {
        return Err(Errno::EPERM);
    }
    server::announced(device.block(), None, &asked, user)
}

fn find(devices: Devices, name: &[u8; abi::NAME_BYTES], handle: u32) -> Result<Reference, Errno> {
    // Names of version 1 devices follow other rules.
    let name = Name::from_field(name)?;
    let registry = devices.lock()?;
    Ok(registry.meant(&name, handle)?.reference())
}

fn destroy(devices: Devices, user: u64) -> Result<(), Errno> {
    let asked: abi::Destroy = argument::read(user)?;
    holds(asked.flags & !abi::DESTROY_FLAGS == 0)?;
    let name = Name::from_field(&asked.name)?;
    let force = asked.flags & abi::DESTROY_FORCE != 0;
    devices.destroy(force, asked.epoch, |registry| registry.meant(&name, asked.handle))
}

fn list(devices: Devices, user: u64) -> Result<(), Errno> {
    let asked: abi::List = argument::read(user)?;
    holds(asked.flags == 0 && asked.reserved == 0)?;
    let (mut order, mut count) = (0, 0_u32);
    while count < asked.capacity {
        let registry = devices.lock()?;
        let Some(found) = registry.after(order) else { break };
        order = found.order;
        let entry =
            abi::ListEntry { handle: found.handle, version: found.version, name: *found.name.bytes() };
        drop(registry);
        let offset = u64::from(count).wrapping_mul(size_of::<abi::ListEntry>() as u64);
        shim::user_write(asked.entries.wrapping_add(offset), &entry)?;
        count = count.wrapping_add(1);
    }
    let total = devices.lock()?.count();
    shim::user_write(user, &abi::List { count, total, ..asked })
}

#[inline(never)]
fn status(devices: Devices, user: u64) -> Result<(), Errno> {
    let asked: abi::Status = argument::read(user)?;
    holds(asked.flags == 0)?;
    let device = find(devices, &asked.name, 0)?;
    let status = server::status(device.block(), asked.size)?;
    argument::write(user, &status)
}

#[inline(never)]
fn settings(devices: Devices, user: u64) -> Result<(), Errno> {
    let asked: abi::Settings = argument::read(user)?;
    check_settings(&asked)?;
    let device = find(devices, &asked.name, asked.handle)?;
    let block = device.block();
    // The deadline of version 1 is a part of its interface, and it has no grace.
    holds(block.params().version != 1)?;
    if !shim::may_serve(block.params().owner_uid) {
        return Err(Errno::EPERM);
    }
    let mut locked = block.lock()?;
    locked.life().meant(asked.epoch)?;
    let destroy = locked.set(&asked)?;
    drop(locked);
    if destroy {
        devices.destroy_unwanted(block.params().handle);
    }
    Ok(())
}
