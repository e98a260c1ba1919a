// SPDX-License-Identifier: GPL-2.0-only
//! A server's calls on its descriptor, besides ENTER; attaching and detaching.
//!
//! Called in process context; may sleep. The descriptor keeps the device's memory, but not the device: a call
//! may find the device gone.

use core::cell::Cell;

use zosbd2_abi::v2 as abi;
use zosbd2_engine::Errno;
use zosbd2_engine::device::{Life, Phase};
use zosbd2_engine::v2::{check_settings, check_size};

use super::argument::{self, holds};
use super::opened::Opened;
use super::{enter, report};
use crate::block::{Blob, Device, LockedDevice, QueueBlock};
use crate::devices::Devices;
use crate::shim;
use crate::survey::Survey;

/// One ioctl. `epoch` is 0 for an observer. Returns the result of the call.
///
/// # Errors
///
/// As in `docs/abi-v2.md`; `ENOTTY` for an unknown command.
#[inline]
pub fn run(device: &Device, epoch: u32, command: u32, user: u64) -> Result<i32, Errno> {
    if command == abi::IOCTL_ENTER && epoch != 0 {
        return enter::run(device, epoch, user).map(|()| 0);
    }
    others(device, epoch, command, user)
}

#[inline(never)]
fn others(device: &Device, epoch: u32, command: u32, user: u64) -> Result<i32, Errno> {
    let done = match command {
        abi::IOCTL_STATS => report::stats(device, user),
        abi::IOCTL_LATENCY => report::latency(device, user),
        abi::IOCTL_REQUESTS => report::requests(device, user),
        abi::IOCTL_STATUS => own_status(device, epoch, user),
        abi::IOCTL_BLOB => blob(device, epoch, user),
        abi::IOCTL_ENTER
        | abi::IOCTL_START
        | abi::IOCTL_RESIZE
        | abi::IOCTL_ATTACH
        | abi::IOCTL_SETTINGS
        | abi::IOCTL_CLAIM
            if epoch == 0 =>
        {
            Err(Errno::EPERM)
        }
        abi::IOCTL_ATTACH => return succeed(device, epoch, user),
        abi::IOCTL_START => start(device, epoch, user),
        abi::IOCTL_RESIZE => resize(device, epoch, user),
        abi::IOCTL_SETTINGS => settings(device, epoch, user),
        abi::IOCTL_CLAIM => claim(device, epoch, user),
        _ => Err(Errno::ENOTTY),
    };
    done.map(|()| 0)
}

/// Opens a descriptor that is attached to a device as the `ATTACH_` flags say. With `from`, attaches only
/// while that epoch is the device's present server; with `newest`, only if that epoch is its newest server.
/// Calls `announce` with the new epoch. Everything that can fail comes first: a failed take-over does not
/// affect the other server.
///
/// # Errors
///
/// Errors of the engine, [`Opened::new`] and `announce`; `EINTR`.
pub fn open(
    device: &Device,
    from: Option<u32>,
    newest: u32,
    flags: u32,
    announce: impl Fn(u32) -> Result<(), Errno>,
) -> Result<Opened, Errno> {
    let opened = Opened::new(device)?;
    if flags & abi::ATTACH_OBSERVE != 0 {
        device.lock()?.life().meant(newest)?;
        announce(0)?;
        return Ok(opened);
    }
    let take_over = flags & abi::ATTACH_TAKE_OVER != 0;
    let may_attach = |life: &Life| {
        from.map_or(Ok(()), |from| life.may_change(from))?;
        life.meant(newest)?;
        life.may_attach(take_over)
    };
    attach(device, &opened, may_attach, take_over, announce)?;
    Ok(opened)
}

/// Like [`open`], for an ATTACH whose argument is at `user`. Returns the number of the descriptor. A failure
/// leaves the argument unchanged.
///
/// # Errors
///
/// Like [`open`]; `EFAULT`.
pub fn announced(device: &Device, from: Option<u32>, asked: &abi::Attach, user: u64) -> Result<i32, Errno> {
    let answer = abi::Attach { handle: device.params().handle, ..*asked };
    let told = Cell::new(false);
    let announce = |epoch| {
        told.set(true);
        let mut answer = answer;
        answer.epoch = epoch;
        shim::user_write(user, &answer)
    };
    match open(device, from, asked.epoch, asked.flags, announce) {
        Ok(opened) => Ok(opened.install()),
        Err(error) => {
            // Another server, or a destruction, came between. If the memory has become read-only, it stays as
            // it is.
            if told.get() {
                let _ignored = shim::user_write(user, asked);
            }
            Err(error)
        }
    }
}

/// Makes `opened` the descriptor of the newest server. Threads of the older server are sent away. `may_attach` returns the new server's epoch. `announce` is called with this epoch
/// first, with no lock held, and again if another server attached meanwhile; if it fails, nothing has changed.
fn attach(
    device: &Device,
    opened: &Opened,
    may_attach: impl Fn(&Life) -> Result<u32, Errno>,
    take_over: bool,
    announce: impl Fn(u32) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let mut locked = device.lock()?;
    let mut epoch = may_attach(locked.life())?;
    loop {
        drop(locked);
        announce(epoch)?;
        locked = device.lock()?;
        let now = may_attach(locked.life())?;
        if now == epoch {
            break;
        }
        epoch = now;
    }
    let epoch = locked.life().attach(take_over)?;
    let phase = locked.life().phase();
    // First, because a submitter wakes the server's pollers once a queue knows the server.
    opened.appoint(epoch);
    locked.set_present(epoch);
    device.note_process(shim::process(), epoch);
    for block in device.queues() {
        let mut queue = block.lock_at(shim::now());
        queue.queue().set_phase(phase);
        queue.queue().attach(epoch);
        queue.wake_all();
    }
    locked.tell_news();
    device.hang_up();
    Ok(())
}

/// Attaches the successor of the server of `epoch`, which must be the device's newest server.
#[cold]
fn succeed(device: &Device, epoch: u32, user: u64) -> Result<i32, Errno> {
    let asked: abi::Attach = argument::read(user)?;
    names_own(device, &asked.name)?;
    if asked.handle != 0 && asked.handle != device.params().handle {
        return Err(Errno::ESTALE);
    }
    holds(asked.flags & !abi::ATTACH_TAKE_OVER == 0)?;
    announced(device, Some(epoch), &asked, user)
}

/// The name in a call on a descriptor is the device's, or empty.
fn names_own(device: &Device, name: &[u8; abi::NAME_BYTES]) -> Result<(), Errno> {
    holds(name.iter().all(|byte| *byte == 0) || *name == device.params().name())
}

/// The server of `epoch` is dead, and none of its calls is running. Returns whether the caller must destroy
/// the device.
fn detach(device: &Device, epoch: u32) -> bool {
    let mut locked = device.lock_always();
    let mut held = 0_u32;
    for block in device.queues() {
        let mut queue = block.lock();
        held = held.saturating_add(queue.take_back(epoch, false));
        drop(queue);
        block.wake_pollers();
    }
    locked.note_held(held);
    let change = locked.life().detach(epoch, shim::now_ms());
    locked.carry_out(change)
}

/// Declares the server of `epoch`, and all earlier ones, dead, whatever they do.
pub fn declare_dead(device: &Device, devices: Devices, epoch: u32) {
    let mut locked = device.lock_always();
    locked.declare_dead(epoch);
    let mut held = 0_u32;
    for block in device.queues() {
        let mut queue = block.lock();
        held = held.saturating_add(queue.take_back(epoch, true));
        queue.wake_all();
    }
    locked.note_held(held);
    device.hang_up();
    let change = locked.life().declare_dead(epoch, shim::now_ms());
    let destroy = locked.carry_out(change);
    drop(locked);
    if destroy {
        devices.destroy_unwanted(device.params().handle);
    }
}

/// The last close of a server descriptor.
pub fn closed(device: &Device, devices: Devices, epoch: u32) {
    if detach(device, epoch) {
        devices.destroy_unwanted(device.params().handle);
    }
}

const POLLIN: u32 = 0x1;
const POLLHUP: u32 = 0x10;
const POLLRDNORM: u32 = 0x40;

/// The poll events of the descriptor: input if a fetch from some queue would return a request; hang-up if a
/// fetch would report that the device is gone or that another server has taken over. An observer (`epoch` 0)
/// gets no input, and a hang-up when the device is gone.
pub fn poll(device: &Device, epoch: u32) -> u32 {
    if device.lost_by(epoch) {
        POLLHUP
    } else if epoch != 0 && device.queues().any(QueueBlock::seems_busy) {
        POLLIN | POLLRDNORM
    } else {
        0
    }
}

/// The device's lock, for a server that changes the device, which only the newest server may do.
fn lock_to_change(device: &Device, epoch: u32) -> Result<LockedDevice<'_>, Errno> {
    let mut locked = device.lock()?;
    locked.life().may_change(epoch)?;
    Ok(locked)
}

fn start(device: &Device, epoch: u32, user: u64) -> Result<(), Errno> {
    let asked: abi::Start = argument::read(user)?;
    holds(asked.flags == 0)?;
    lock_to_change(device, epoch)?.life().may_start()?;
    device.name_is_free()?;
    lock_to_change(device, epoch)?.start()
}

fn resize(device: &Device, epoch: u32, user: u64) -> Result<(), Errno> {
    let asked: abi::Resize = argument::read(user)?;
    holds(asked.flags == 0)?;
    check_size(asked.size_bytes, device.params().logical_block_size)?;
    lock_to_change(device, epoch)?.resize(asked.size_bytes)
}

#[inline(never)]
fn settings(device: &Device, epoch: u32, user: u64) -> Result<(), Errno> {
    let asked: abi::Settings = argument::read(user)?;
    check_settings(&asked)?;
    names_own(device, &asked.name)?;
    if asked.handle != 0 && asked.handle != device.params().handle {
        return Err(Errno::ESTALE);
    }
    let mut locked = lock_to_change(device, epoch)?;
    locked.life().meant(asked.epoch)?;
    // A device with a server has no grace that could end now.
    locked.set(&asked).map(|_| ())
}

/// What a server has of the servers before it.
fn claim(device: &Device, epoch: u32, user: u64) -> Result<(), Errno> {
    let asked: abi::Claim = argument::read(user)?;
    holds(asked.flags == abi::CLAIM_CACHE)?;
    device.lock()?.life().claim_cache(epoch)
}

/// Reads or replaces the blob.
fn blob(device: &Device, epoch: u32, user: u64) -> Result<(), Errno> {
    let mut asked: abi::Blob = argument::read(user)?;
    holds(asked.flags & !abi::BLOB_FLAGS == 0 && asked.reserved == 0)?;
    if asked.flags & abi::BLOB_WRITE == 0 {
        // Straight into the answer, because another copy would make the frame too large.
        let mut locked = device.lock()?;
        Blob { length: asked.length, bytes: asked.bytes } = *locked.blob();
        drop(locked);
        return shim::user_write(user, &asked);
    }
    if epoch == 0 {
        return Err(Errno::EPERM);
    }
    let rest = asked.bytes.get(asked.length as usize..).ok_or(Errno::EINVAL)?;
    holds(rest.iter().all(|byte| *byte == 0))?;
    *lock_to_change(device, epoch)?.blob() = Blob { length: asked.length, bytes: asked.bytes };
    Ok(())
}

/// The status, with the epoch of the descriptor's own server, or of the newest one for an observer.
#[inline(never)]
fn own_status(device: &Device, own_epoch: u32, user: u64) -> Result<(), Errno> {
    let asked: abi::Status = argument::read(user)?;
    let status = status(device, asked.size)?;
    let epoch = if own_epoch == 0 { status.epoch } else { own_epoch };
    let status = abi::Status { epoch, ..status };
    names_own(device, &asked.name)?;
    holds(asked.flags == 0)?;
    argument::write(user, &status)
}

/// The answer of STATUS to an argument of `size`.
///
/// # Errors
///
/// `EINTR`.
pub fn status(device: &Device, size: u32) -> Result<abi::Status, Errno> {
    let params = device.params();
    let mut locked = device.lock()?;
    let (major, minor) = locked.number();
    let deadline_ms = locked.deadline_ms();
    let life = *locked.life();
    let opens = locked.opens();
    let survey = Survey::of(device, shim::now_ms());
    drop(locked);
    let unserved_ms = if life.serving() { survey.unserved_ms } else { 0 };
    let process = if life.serving() { device.process() } else { shim::Process::default() };
    let state = match life.phase() {
        Phase::Live if !life.started() => abi::STATE_CREATED,
        Phase::Live => abi::STATE_LIVE,
        Phase::Orphaned => abi::STATE_ORPHANED,
        Phase::Failed => abi::STATE_FAILED,
        Phase::Draining | Phase::Failing | Phase::Gone => abi::STATE_DESTROYED,
    };
    Ok(abi::Status {
        size,
        flags: 0,
        name: params.name(),
        serial: params.serial,
        size_bytes: device.size_bytes(),
        logical_block_size: params.logical_block_size,
        physical_block_size: params.physical_block_size,
        io_min: params.io_min,
        io_opt: params.io_opt,
        max_io_bytes: params.max_data_bytes,
        queues: params.queues,
        depth: params.depth,
        discard_granularity: params.discard_granularity,
        max_discard_bytes: params.max_discard_bytes,
        max_write_zeroes_bytes: params.max_write_zeroes_bytes,
        max_secure_erase_bytes: params.max_secure_erase_bytes,
        deadline_ms,
        grace_ms: life.grace_ms(),
        deadline_policy: device.policy(),
        lost: device.lost().into(),
        handle: params.handle,
        create_flags: params.flags,
        state,
        epoch: life.epoch(),
        servers: life.servers(),
        owner_uid: params.owner_uid,
        version: params.version,
        major,
        minor,
        pid: process.own,
        opens,
        threads: survey.threads,
        unserved_ms: u32::try_from(unserved_ms).unwrap_or(u32::MAX),
        program: process.program,
    })
}
