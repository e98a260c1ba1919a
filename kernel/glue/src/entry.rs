// SPDX-License-Identifier: GPL-2.0-only
//! The functions that the shim calls, as declared in `kernel/shim/zosbd2.h`.
//!
//! Pointers come from the shim alone, which keeps its side of the contracts stated here; numbers may come
//! from anywhere and are checked by whoever uses them.

use core::ffi::c_void;

use zosbd2_engine::Errno;
use zosbd2_engine::device::{DRAIN_TICK_MS, Drain, Phase};
use zosbd2_engine::registry::PlaceId;
use zosbd2_engine::request::{Op, Request};

use crate::block::{Device, LockedRegistry, Registry};
use crate::control::Control;
use crate::{operation, shim};

const fn code(result: Result<(), Errno>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(errno) => errno.negative(),
    }
}

/// Bytes of a registry's block.
#[unsafe(no_mangle)]
pub extern "C" fn zosbd2_rs_registry_bytes(max_devices: u32) -> usize {
    Registry::bytes(max_devices)
}

/// Initialises a registry's block.
///
/// # Safety
///
/// `registry` is as long as [`zosbd2_rs_registry_bytes`] says, aligned to 8, and not in use.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zosbd2_rs_registry_init(registry: *mut c_void, max_devices: u32) {
    // SAFETY: the caller's promise.
    unsafe { Registry::initialise(registry, max_devices) };
}

/// Frees the place and name of a device whose disk is deleted. May sleep.
///
/// # Safety
///
/// `registry` is initialised; `place` is from the device's parameters.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zosbd2_rs_registry_remove(registry: *mut c_void, place: u32) {
    // SAFETY: the caller's promise.
    let mut registry = unsafe { LockedRegistry::new(registry, shim::RegistryLock::take_always()) };
    registry.get().remove(PlaceId::from_raw(place as usize));
}

/// An ioctl on the control node. Process context, may sleep.
///
/// # Safety
///
/// `registry` is initialised.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zosbd2_rs_control(registry: *mut c_void, command: u32, argument: u64) -> isize {
    // SAFETY: the caller's promise.
    let control = unsafe { Control::new(registry) };
    code(control.run(command, argument)) as isize
}

/// Bytes of a device's block.
#[unsafe(no_mangle)]
pub extern "C" fn zosbd2_rs_device_bytes(depth: u32) -> usize {
    Device::bytes(depth)
}

/// Initialises a device's block.
///
/// # Safety
///
/// `engine` is as long as [`zosbd2_rs_device_bytes`] says, aligned to 8, and not in use; `params` is
/// readable; `queue` lives as long as the block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zosbd2_rs_device_init(
    engine: *mut c_void,
    params: *const shim::Params,
    queue: *mut shim::Queue,
) {
    // SAFETY: the caller's promise.
    let params = unsafe { params.read() };
    // SAFETY: the caller's promise.
    unsafe { Device::initialise(engine, params, queue) };
}

/// A teardown begins: the server is asked to take what is dirty.
///
/// # Safety
///
/// `engine` is initialised.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zosbd2_rs_device_drain(engine: *mut c_void, now_ms: u64) {
    // SAFETY: the caller's promise.
    let device = unsafe { Device::from_memory(engine) };
    let mut locked = device.lock();
    let mut queue = locked.queue();
    queue.set_phase(Phase::Draining);
    let answers = queue.answers();
    *locked.drain() = Some(Drain::begin(now_ms, answers));
}

/// Looks after a teardown. Returns in how many milliseconds to look again, 0 for never. When the server had
/// its time, ends every request with `EIO`, those that come too.
///
/// # Safety
///
/// `engine` is initialised.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zosbd2_rs_device_tick(engine: *mut c_void, now_ms: u64) -> u32 {
    // SAFETY: the caller's promise.
    let device = unsafe { Device::from_memory(engine) };
    let mut locked = device.lock();
    let queue = locked.queue();
    let (phase, answers, outstanding) = (queue.phase(), queue.answers(), queue.outstanding());
    let gives_up = locked.drain().as_mut().is_some_and(|drain| drain.gives_up(now_ms, answers, outstanding));
    if phase != Phase::Draining {
        return 0;
    }
    if !gives_up {
        return DRAIN_TICK_MS;
    }
    locked.queue().set_phase(Phase::Failing);
    drop(locked);
    let mut from = 0;
    while let Some(end) = fail_next(device, from) {
        from = end;
    }
    0
}

/// Fails one request; returns where to go on, `None` when there is no more.
fn fail_next(device: &Device, from: u16) -> Option<u16> {
    let end = device.lock().queue().fail_next(from)?;
    device.end(end);
    end.tag.checked_add(1)
}

/// The disk is deleted and has no request: servers are sent away.
///
/// # Safety
///
/// `engine` is initialised.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zosbd2_rs_device_gone(engine: *mut c_void) {
    // SAFETY: the caller's promise.
    let device = unsafe { Device::from_memory(engine) };
    let mut locked = device.lock();
    locked.queue().set_phase(Phase::Gone);
    locked.wake_all();
}

/// A block request comes. Any context that may take a spinlock. On error the shim fails it.
///
/// # Safety
///
/// `engine` is initialised; the block request of `tag` is started.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zosbd2_rs_queue_submit(
    engine: *mut c_void,
    tag: u32,
    op: u32,
    offset: u64,
    length: u32,
    last: bool,
) -> i32 {
    // SAFETY: the caller's promise.
    let device = unsafe { Device::from_memory(engine) };
    let (Ok(tag), Some(op)) = (u16::try_from(tag), Op::from_number(op)) else {
        return Errno::EIO.negative();
    };
    let mut locked = device.lock();
    match locked.queue().submit(tag, Request { op, offset, length }, last) {
        Ok(wake) => {
            locked.wake(wake);
            0
        }
        Err(errno) => errno.negative(),
    }
}

/// The last of several block requests has come.
///
/// # Safety
///
/// `engine` is initialised.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zosbd2_rs_queue_announce(engine: *mut c_void) {
    // SAFETY: the caller's promise.
    let device = unsafe { Device::from_memory(engine) };
    let mut locked = device.lock();
    let wake = locked.queue().announce();
    locked.wake(wake);
}

/// The deadline of a block request has passed.
///
/// # Safety
///
/// `engine` is initialised; blk-mq keeps the block request of `tag` until this returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zosbd2_rs_queue_expire(engine: *mut c_void, tag: u32) {
    // SAFETY: the caller's promise.
    let device = unsafe { Device::from_memory(engine) };
    let Ok(tag) = u16::try_from(tag) else { return };
    let end = device.lock().queue().expire(tag);
    device.end_if(end);
}

/// The operation call of version 1 on the block node. Process context, may sleep.
///
/// # Safety
///
/// `engine` is initialised and stays so, because the caller has the node open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zosbd2_rs_operation(engine: *mut c_void, may_write: bool, argument: u64) -> isize {
    // SAFETY: the caller's promise.
    let device = unsafe { Device::from_memory(engine) };
    code(operation::run(device, may_write, argument)) as isize
}
