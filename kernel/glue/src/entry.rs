// SPDX-License-Identifier: GPL-2.0-only
//! The functions that the shim calls, as declared in `kernel/shim/zosbd2.h`.
//!
//! Pointers come only from the shim, which keeps its side of the contracts below. Numbers may come from user
//! space, and their users check them.

use core::ffi::c_void;

use zosbd2_abi::v2 as abi;
use zosbd2_engine::Errno;
use zosbd2_engine::device::{Change, DRAIN_TICK_MS, Phase, Terms};
use zosbd2_engine::event::{Event, Next};
use zosbd2_engine::queue::{MOST_WAKES, Overdue, Wake};
use zosbd2_engine::registry::PlaceId;
use zosbd2_engine::request::{Op, Request};
use zosbd2_engine::v2::report as report_of;

use crate::block::{Device, QueueBlock};
use crate::devices::Devices;
use crate::registry::{LockedRegistry, Registry};
use crate::shim::{late, timer};
use crate::{shim, show, trace, v1, v2};

/// `ZOSBD2_LOOK` of `zosbd2_rs_queue_submit`, above the number of servers to wake.
const LOOK_SHIFT: u32 = 8;
const _: () = assert!(MOST_WAKES < 1 << LOOK_SHIFT);

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
/// `registry` has the length that [`zosbd2_rs_registry_bytes`] returns, is aligned to 8, and is not in use.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zosbd2_rs_registry_init(registry: *mut c_void, max_devices: u32) {
    // SAFETY: the caller's promise.
    unsafe { Registry::initialise(registry, max_devices) };
}

/// Frees the name of a device whose disk is deleted. May sleep.
///
/// # Safety
///
/// `registry` is initialised; `place` is from the device's parameters.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zosbd2_rs_registry_vacate(registry: *mut c_void, place: u32) {
    // SAFETY: the caller's promise.
    let registry = unsafe { LockedRegistry::new(registry, shim::RegistryLock::take_always()) };
    registry.vacate(PlaceId::from_raw(place as usize));
}

/// Frees the place of a device whose memory is being freed. May sleep.
///
/// # Safety
///
/// `registry` is initialised; `place` is from the device's parameters.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zosbd2_rs_registry_remove(registry: *mut c_void, place: u32) {
    // SAFETY: the caller's promise.
    let registry = unsafe { LockedRegistry::new(registry, shim::RegistryLock::take_always()) };
    registry.remove(PlaceId::from_raw(place as usize));
}

/// An ioctl on the control node. Process context, may sleep.
///
/// # Safety
///
/// `registry` is initialised.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zosbd2_rs_control(
    registry: *mut c_void,
    command: u32,
    argument: u64,
    compat: bool,
) -> isize {
    // SAFETY: the caller's promise.
    let devices = unsafe { Devices::new(registry) };
    if command >> 8 & 0xff == abi::IOCTL_TYPE {
        return match v2::control::run(devices, command, argument) {
            Ok(fd) => fd as isize,
            Err(errno) => errno.negative() as isize,
        };
    }
    if compat {
        // The layouts of version 1 are those of 64-bit programs.
        return Errno::ENOTTY.negative() as isize;
    }
    code(v1::control::Control::new(devices).run(command, argument)) as isize
}

/// Bytes of a device's block.
#[unsafe(no_mangle)]
pub extern "C" fn zosbd2_rs_device_bytes(queues: u32) -> usize {
    Device::bytes(queues)
}

/// Bytes of a queue's block; a multiple of 64.
#[unsafe(no_mangle)]
pub extern "C" fn zosbd2_rs_queue_bytes(depth: u32) -> usize {
    QueueBlock::bytes(depth)
}

/// Initialises a device's block.
///
/// # Safety
///
/// `engine` has the length that [`zosbd2_rs_device_bytes`] returns, is aligned to 64, and is not in use;
/// `params` is readable; `device` lives as long as the block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zosbd2_rs_device_init(
    engine: *mut c_void,
    params: *const shim::Params,
    device: *mut shim::Device,
) {
    // SAFETY: the caller's promise.
    let params = unsafe { params.read() };
    let terms = Terms {
        attached: params.version != 1,
        grace_ms: params.grace_ms,
        auto_destroy: params.flags & abi::CREATE_AUTO_DESTROY != 0,
    };
    // SAFETY: the caller's promise.
    unsafe { Device::initialise(engine, params, terms, device) };
}

/// Initialises the block of one queue.
///
/// # Safety
///
/// `device` is initialised and not shared yet; `index` is below its number of queues. `engine` has the length that
/// [`zosbd2_rs_queue_bytes`] returns, is aligned to 64, and is not in use. `engine` and `queue` live as long as
/// the device's block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zosbd2_rs_queue_init(
    engine: *mut c_void,
    device: *mut c_void,
    index: u32,
    queue: *mut shim::Queue,
) {
    // SAFETY: the caller's promise.
    unsafe { Device::initialise_queue(engine, device, index, queue) };
}

/// Begins a destruction and checks its progress: the server is asked to write out dirty data. When the server
/// has had its time, ends every request with `EIO`, later ones too. Returns in how many milliseconds to call
/// it again, 0 for never. May sleep.
///
/// # Safety
///
/// `engine` is initialised.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zosbd2_rs_device_drain(engine: *mut c_void, now_ms: u64) -> u32 {
    // SAFETY: the caller's promise.
    let device = unsafe { Device::from_memory(&engine) };
    let mut locked = device.lock_always();
    locked.drain(now_ms);
    if locked.life().phase() == Phase::Draining { DRAIN_TICK_MS } else { 0 }
}

/// The disk is deleted and has no requests: sends the servers away. May sleep.
///
/// # Safety
///
/// `engine` is initialised.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zosbd2_rs_device_gone(engine: *mut c_void) {
    // SAFETY: the caller's promise.
    let device = unsafe { Device::from_memory(&engine) };
    let mut locked = device.lock_always();
    locked.set_gone();
    locked.carry_out(Change::None);
    for queue in device.queues() {
        queue.lock().wake_all();
    }
}

/// A grace has ended. May sleep.
///
/// # Safety
///
/// `engine` and `registry` are initialised; the device is not freed before this returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zosbd2_rs_device_grace_over(engine: *mut c_void, registry: *mut c_void) {
    // SAFETY: the caller's promise.
    let device = unsafe { Device::from_memory(&engine) };
    // SAFETY: the caller's promise.
    let devices = unsafe { Devices::new(registry) };
    let mut locked = device.lock_always();
    let change = locked.life().grace_over(shim::now_ms());
    let destroy = change != Change::None && locked.carry_out(change);
    drop(locked);
    if destroy {
        devices.destroy_unwanted(device.params().handle);
    }
}

/// The next event of a device, after `late` more requests were late. Returns `ZOSBD2_TELL` if it is in `event`, otherwise
/// in how many milliseconds to call again, 0 for when there is news. May sleep.
///
/// # Safety
///
/// `engine` is initialised; `event` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zosbd2_rs_device_next_event(
    engine: *mut c_void,
    now_ms: u64,
    late: u32,
    event: *mut shim::Event,
) -> u32 {
    // SAFETY: the caller's promise.
    let device = unsafe { Device::from_memory(&engine) };
    let Event { kind, epoch, process, program, requests, ms } =
        match device.lock_always().next_event(now_ms, late) {
            Next::Tell(event) => event,
            Next::Wait(ms) => return ms,
            Next::Nothing => return 0,
        };
    let told = shim::Event { kind: kind.number(), epoch, process, requests, ms, program };
    // SAFETY: the caller's promise.
    unsafe { event.write(told) };
    shim::TELL
}

/// Looks for what no call reports. Returns in how many milliseconds to call it again, 0 for never. May sleep.
///
/// # Safety
///
/// `engine` is initialised.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zosbd2_rs_device_watch(engine: *mut c_void, now_ms: u64) -> u32 {
    // SAFETY: the caller's promise.
    let device = unsafe { Device::from_memory(&engine) };
    device.lock_always().watch(now_ms)
}

/// Declares the server of `epoch`, and all earlier ones, dead. May sleep.
///
/// # Safety
///
/// `engine` and `registry` are initialised; the device is not freed before this returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zosbd2_rs_device_declare_dead(
    engine: *mut c_void,
    registry: *mut c_void,
    epoch: u32,
) {
    // SAFETY: the caller's promise.
    let device = unsafe { Device::from_memory(&engine) };
    // SAFETY: the caller's promise.
    v2::server::declare_dead(device, unsafe { Devices::new(registry) }, epoch);
}

/// Submits a block request at time `now_ns`. Process context; the shim holds the queue's lock. Returns how
/// many sleeping servers the shim must wake when it drops the lock, with `ZOSBD2_LOOK` if it must check on
/// them later. On an error the shim fails the request.
///
/// # Safety
///
/// `engine` is a queue's block, initialised, and its lock is held; the block request of `tag` is started.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zosbd2_rs_queue_submit(
    engine: *mut c_void,
    tag: u32,
    what: u32,
    offset: u64,
    length: u32,
    now_ns: u64,
) -> i32 {
    // SAFETY: the caller's promise.
    let block = unsafe { QueueBlock::from_memory(&engine) };
    let [op, flags, last, _] = what.to_le_bytes();
    let (Some(op), Ok(tag)) = (Op::from_number(op.into()), u16::try_from(tag)) else {
        return Errno::EIO.negative();
    };
    // The device may have shrunk since the block layer checked the range.
    if offset.saturating_add(length.into()) > block.device().size_bytes() {
        return Errno::EIO.negative();
    }
    // The block layer warns about these, but passes them on.
    if op.changes() && block.device().is_read_only() {
        return Errno::EIO.negative();
    }
    // SAFETY: the lock is held, by the caller's promise, until this function returns.
    let mut queue = unsafe { block.locked_by_caller() };
    match queue.submit(tag, Request { op, flags, offset, length }, now_ns, last != 0) {
        Ok(Wake { servers, look }) => {
            block.note_queued(queue.queued());
            let wake = servers | u32::from(look).wrapping_shl(LOOK_SHIFT);
            #[expect(clippy::cast_possible_wrap, reason = "no bit above LOOK_SHIFT is set")]
            let wake = wake as i32;
            wake
        }
        // Nothing was queued.
        Err(errno) => errno.negative(),
    }
}

/// Checks the wake-ups under way, when the shim was asked to. Process context.
///
/// # Safety
///
/// `engine` is a queue's block, initialised.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zosbd2_rs_queue_look(engine: *mut c_void) {
    // SAFETY: the caller's promise.
    let block = unsafe { QueueBlock::from_memory(&engine) };
    block.lock().look_after();
}

/// Announces several submitted block requests.
///
/// # Safety
///
/// `engine` is a queue's block, initialised.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zosbd2_rs_queue_announce(engine: *mut c_void) {
    // SAFETY: the caller's promise.
    let block = unsafe { QueueBlock::from_memory(&engine) };
    let mut locked = block.lock();
    let wake = locked.queue().announce();
    locked.wake(wake);
}

/// The timeout of `timeout_ms` of a block request has passed. Returns what becomes of its timer, a number of
/// [`shim::timer`]. `late` receives the report: empty if the request had already ended, or has no deadline.
///
/// # Safety
///
/// `engine` is a queue's block, initialised; blk-mq keeps the block request of `tag` until this returns;
/// `late` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zosbd2_rs_queue_expire(
    engine: *mut c_void,
    tag: u32,
    timeout_ms: u32,
    late: *mut shim::Late,
) -> u32 {
    // SAFETY: the caller's promise.
    let block = unsafe { QueueBlock::from_memory(&engine) };
    let mut report = shim::Late::default();
    let timer = expire(block, tag, timeout_ms, &mut report);
    // SAFETY: the caller's promise.
    unsafe { late.write(report) };
    timer
}

/// One queue as text, for debugfs. Process context, may sleep.
///
/// # Safety
///
/// `engine` is a queue's block, initialised; `file` is a `struct seq_file` in its show function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zosbd2_rs_queue_show(engine: *mut c_void, file: *mut c_void, what: u32) {
    // SAFETY: the caller's promise.
    let block = unsafe { QueueBlock::from_memory(&engine) };
    // SAFETY: the caller's promise.
    let line = unsafe { shim::Line::new(file) };
    show::show(block, &line, what);
}

fn expire(block: &QueueBlock, tag: u32, timeout_ms: u32, report: &mut shim::Late) -> u32 {
    let Some(deadline) = block.device().deadline(timeout_ms) else { return timer::NEVER };
    let Ok(tag) = u16::try_from(tag) else { return timer::OVER };
    let moment = shim::now();
    let mut locked = block.lock_at(moment);
    let request = locked.queue().outstanding_from(tag).filter(|request| request.tag == tag);
    let overdue = locked.queue().expire(tag, deadline);
    let (action, timer) = match &overdue {
        Overdue::NotHere => (late::OVER, timer::AGAIN),
        Overdue::Over => (late::OVER, timer::OVER),
        Overdue::End(_) => (late::FAILED, timer::OVER),
        Overdue::Doomed => (late::DOOMED, timer::OVER),
        Overdue::Requeued(_) => (late::REQUEUED, timer::AGAIN),
        Overdue::ServerDead(_) => (late::SERVER_DEAD, timer::AGAIN),
        Overdue::Waits => (late::WAITS, timer::AGAIN),
    };
    trace::timeout(block, tag.into(), action);
    let mut dead = 0;
    match overdue {
        Overdue::End(end) => {
            drop(locked);
            // SAFETY: an effect of this queue.
            unsafe { block.end(end) };
        }
        Overdue::Requeued(wake) => {
            if trace::on() {
                trace::requeue(block, tag);
            }
            locked.wake(wake);
            drop(locked);
            block.wake_pollers();
        }
        Overdue::ServerDead(epoch) => {
            drop(locked);
            dead = epoch;
        }
        Overdue::NotHere | Overdue::Over | Overdue::Doomed | Overdue::Waits => drop(locked),
    }
    if let Some(request) = request {
        let told = report_of(&request, moment.now_ns);
        *report = shim::Late {
            offset: told.offset,
            age_ms: shim::ns_to_ms(told.age_ns),
            held_ms: shim::ns_to_ms(told.held_ns),
            length: request.request.length,
            op: told.op,
            epoch: told.epoch,
            thread: told.thread,
            action,
            dead,
        };
    }
    timer
}

/// An ioctl of version 1 on the block node. Process context, may sleep.
///
/// # Safety
///
/// `engine` is a device's block, initialised, and stays so, because the caller has the node open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zosbd2_rs_node(
    engine: *mut c_void,
    may_write: bool,
    command: u32,
    argument: u64,
) -> isize {
    // SAFETY: the caller's promise.
    let device = unsafe { Device::from_memory(&engine) };
    code(v1::operation::node(device, may_write, command, argument)) as isize
}

/// An ioctl on a server descriptor. Process context, may sleep.
///
/// # Safety
///
/// `engine` is a device's block, initialised, and stays so, because the descriptor keeps it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zosbd2_rs_server(
    engine: *mut c_void,
    epoch: u32,
    command: u32,
    argument: u64,
) -> isize {
    // SAFETY: the caller's promise.
    let device = unsafe { Device::from_memory(&engine) };
    v2::server::run(device, epoch, command, argument).unwrap_or_else(Errno::negative) as isize
}

/// The poll events of a server descriptor.
///
/// # Safety
///
/// `engine` is a device's block, initialised, and stays so, because the descriptor keeps it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zosbd2_rs_server_poll(engine: *mut c_void, epoch: u32) -> u32 {
    // SAFETY: the caller's promise.
    let device = unsafe { Device::from_memory(&engine) };
    v2::server::poll(device, epoch)
}

/// The last close of a server descriptor. May sleep.
///
/// # Safety
///
/// `engine` is a device's block; it and `registry` are initialised and stay so until this returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn zosbd2_rs_server_closed(engine: *mut c_void, registry: *mut c_void, epoch: u32) {
    // SAFETY: the caller's promise.
    let device = unsafe { Device::from_memory(&engine) };
    // SAFETY: the caller's promise.
    v2::server::closed(device, unsafe { Devices::new(registry) }, epoch);
}
