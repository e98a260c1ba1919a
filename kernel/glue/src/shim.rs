// SPDX-License-Identifier: GPL-2.0-only
//! Rust declarations and wrappers of the C shim, `kernel/shim/zosbd2.h`.
//!
//! The contracts are at the C definitions. A wrapper is safe if a wrong argument can only cause an error (the
//! shim checks user addresses). Wrappers that need a valid pointer take the types of [`block`](crate::block).

use core::ffi::{CStr, c_char, c_void};
use core::mem::{size_of, size_of_val};

use zosbd2_abi::v1::NAME_BYTES;
use zosbd2_abi::v2;
use zosbd2_engine::Errno;
use zosbd2_engine::event::PROGRAM_BYTES;
use zosbd2_engine::name::DISK_PREFIX;
use zosbd2_engine::queue::Moment;
use zosbd2_engine::v2::Machine;

/// `struct zosbd2_queue`.
#[repr(C)]
#[derive(Debug)]
pub struct Queue {
    opaque: [u8; 0],
}

/// `struct zosbd2_device`.
#[repr(C)]
#[derive(Debug)]
pub struct Device {
    opaque: [u8; 0],
}

/// `struct file`.
#[repr(C)]
#[derive(Debug)]
pub struct File {
    opaque: [u8; 0],
}

/// `struct zosbd2_place`: the progress of a copy of a request's data. All zeros at the beginning.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Place {
    opaque: [u64; 4],
}

/// `struct zosbd2_params`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Params {
    /// Name of the disk, NUL padded; `!` stands for `/`.
    pub disk_name: [u8; NAME_BYTES],
    /// NUL padded.
    pub serial: [u8; v2::SERIAL_BYTES],
    /// Capacity.
    pub size_bytes: u64,
    /// `CREATE_` flags of version 2.
    pub flags: u32,
    /// Interface version.
    pub version: u32,
    /// Logical block size.
    pub logical_block_size: u32,
    /// Physical block size.
    pub physical_block_size: u32,
    /// Smallest I/O without extra cost.
    pub io_min: u32,
    /// Optimal I/O size; 0: none.
    pub io_opt: u32,
    /// Most data of a read or write.
    pub max_data_bytes: u32,
    /// Preferred unit of discards.
    pub discard_granularity: u32,
    /// Longest discard; 0: none.
    pub max_discard_bytes: u32,
    /// Longest write-zeroes; 0: none.
    pub max_write_zeroes_bytes: u32,
    /// Longest secure erase; 0: none.
    pub max_secure_erase_bytes: u32,
    /// Deadline of a request; 0: none.
    pub deadline_ms: u32,
    /// What happens to late requests: a `DEADLINE_` number.
    pub deadline_policy: u32,
    /// Grace; 0: none.
    pub grace_ms: u32,
    /// Number of queues.
    pub queues: u32,
    /// Number of tags per queue.
    pub depth: u32,
    /// User ID of the creator.
    pub owner_uid: u32,
    /// Place in the registry.
    pub place: u32,
    /// Handle of the device.
    pub handle: u32,
    /// 0.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Params>() == 152);

/// `struct zosbd2_late`: a request that passed its deadline.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Late {
    /// First byte on the device.
    pub offset: u64,
    /// Time since the submission.
    pub age_ms: u64,
    /// Time since the fetch; valid if `epoch` is not 0.
    pub held_ms: u64,
    /// Bytes.
    pub length: u32,
    /// Operation.
    pub op: u32,
    /// Epoch of the server that holds it; 0 if no server does.
    pub epoch: u32,
    /// Thread of that server.
    pub thread: u32,
    /// `enum zosbd2_late_action`.
    pub action: u32,
    /// Epoch to be declared dead, if that is the action.
    pub dead: u32,
}

/// `struct zosbd2_event`: an event for the log and for a uevent.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Event {
    /// `enum zosbd2_event_kind`.
    pub kind: u32,
    /// Epoch of the newest server.
    pub epoch: u32,
    /// The serving process, in the first PID namespace.
    pub process: u32,
    /// Number of requests concerned.
    pub requests: u32,
    /// A time.
    pub ms: u32,
    /// Name of the serving process, NUL padded.
    pub program: [u8; PROGRAM_BYTES],
}

/// `ZOSBD2_TELL`: an event is to be told.
pub const TELL: u32 = u32::MAX;

/// `struct zosbd2_process`: the process that serves a device.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Process {
    /// Its number in the first PID namespace.
    pub first: u32,
    /// Its number in the caller's PID namespace; 0 if it has ended, or is not in that namespace.
    pub own: u32,
    /// Its name, NUL padded.
    pub program: [u8; PROGRAM_BYTES],
}

/// `enum zosbd2_shown`.
pub mod shown {
    /// Counters.
    pub const STATS: u32 = 0;
    /// Histograms.
    pub const LATENCY: u32 = 1;
    /// Unanswered requests.
    pub const REQUESTS: u32 = 2;
}

/// `enum zosbd2_late_action`.
pub mod late {
    /// The request had already ended.
    pub const OVER: u32 = 0;
    /// The request fails.
    pub const FAILED: u32 = 1;
    /// The request fails when the copy of its data stops.
    pub const DOOMED: u32 = 2;
    /// The request is requeued.
    pub const REQUEUED: u32 = 3;
    /// The server is declared dead.
    pub const SERVER_DEAD: u32 = 4;
    /// The request continues to wait.
    pub const WAITS: u32 = 5;
}

/// `enum zosbd2_timer`: what becomes of the timer of a request whose timeout has passed.
pub mod timer {
    /// It starts again.
    pub const AGAIN: u32 = 0;
    /// The request has ended, or is about to.
    pub const OVER: u32 = 1;
    /// It starts again, with the timeout of a request without a deadline.
    pub const NEVER: u32 = 2;
}

impl Params {
    /// Name of the device, NUL padded: the disk's name without its folder.
    #[must_use]
    pub fn name(&self) -> [u8; NAME_BYTES] {
        let mut name = [0; NAME_BYTES];
        let prefix = if self.version == 1 { 0 } else { DISK_PREFIX.len() };
        for (to, &from) in name.iter_mut().zip(self.disk_name.iter().skip(prefix)) {
            *to = from;
        }
        name
    }
}

unsafe extern "C" {
    pub(crate) fn zosbd2_queue_lock(queue: *mut Queue);
    pub(crate) fn zosbd2_queue_unlock(queue: *mut Queue, servers: u32, look: bool);
    pub(crate) fn zosbd2_queue_sleep(queue: *mut Queue, left: *mut isize) -> i32;
    pub(crate) fn zosbd2_queue_wake_all(queue: *mut Queue);
    pub(crate) fn zosbd2_queue_wake_pollers(queue: *mut Queue);
    pub(crate) fn zosbd2_request_end(queue: *mut Queue, tag: u32, error: i32);
    pub(crate) fn zosbd2_requests_end(queue: *mut Queue, tags: *const u16, count: u32);
    pub(crate) fn zosbd2_request_copy(
        queue: *mut Queue,
        tag: u32,
        place: *mut Place,
        user: u64,
        bytes: u32,
        done: *mut u32,
        to_user: bool,
    ) -> i32;
    pub(crate) fn zosbd2_request_copy_all(
        queue: *mut Queue,
        tag: u32,
        user: u64,
        bytes: u32,
        to_user: bool,
    ) -> i32;
    pub(crate) fn zosbd2_request_zero(queue: *mut Queue, tag: u32, start: u32);
    pub(crate) fn zosbd2_trace_fetch(queue: *mut Queue, tag: u32, generation: u32, epoch: u32);
    pub(crate) fn zosbd2_trace_commit(queue: *mut Queue, tag: u32, generation: u32, epoch: u32, status: i32);
    pub(crate) fn zosbd2_trace_requeue(queue: *mut Queue, tag: u32);
    pub(crate) fn zosbd2_trace_timeout(queue: *mut Queue, tag: u32, action: u32);
    pub(crate) fn zosbd2_device_create(params: *const Params, device: *mut *mut Device) -> i32;
    pub(crate) fn zosbd2_device_engine(device: *mut Device) -> *mut c_void;
    pub(crate) fn zosbd2_device_lock(device: *mut Device) -> i32;
    pub(crate) fn zosbd2_device_lock_always(device: *mut Device);
    pub(crate) fn zosbd2_device_unlock(device: *mut Device);
    pub(crate) fn zosbd2_device_get(device: *mut Device);
    pub(crate) fn zosbd2_device_put(device: *mut Device);
    pub(crate) fn zosbd2_device_name_taken(device: *mut Device) -> bool;
    pub(crate) fn zosbd2_device_start(device: *mut Device) -> i32;
    pub(crate) fn zosbd2_device_resize(device: *mut Device, size_bytes: u64);
    pub(crate) fn zosbd2_device_hang_up(device: *mut Device);
    pub(crate) fn zosbd2_device_number(device: *mut Device) -> u64;
    pub(crate) fn zosbd2_device_deadline(device: *mut Device, ms: u32) -> u32;
    pub(crate) fn zosbd2_device_begin_grace(device: *mut Device, ms: u32);
    pub(crate) fn zosbd2_device_set_deadline(device: *mut Device, ms: u32);
    pub(crate) fn zosbd2_device_opens(device: *mut Device) -> u32;
    pub(crate) fn zosbd2_device_note_process(device: *mut Device, epoch: u32);
    pub(crate) fn zosbd2_device_process(device: *mut Device, process: *mut Process);
    pub(crate) fn zosbd2_device_process_lives(device: *mut Device) -> bool;
    pub(crate) fn zosbd2_device_tell(device: *mut Device);
    pub(crate) fn zosbd2_device_seal(device: *mut Device, force: bool) -> bool;
    pub(crate) fn zosbd2_device_destroy(device: *mut Device);
    pub(crate) fn zosbd2_device_wait_gone(device: *mut Device) -> i32;
    pub(crate) fn zosbd2_server_open(device: *mut Device, file: *mut *mut File) -> i32;
    pub(crate) fn zosbd2_server_appoint(file: *mut File, epoch: u32);
    pub(crate) fn zosbd2_server_install(fd: i32, file: *mut File);
    pub(crate) fn zosbd2_server_abandon(fd: i32, file: *mut File);
    fn zosbd2_show_begin(file: *mut c_void, queue: u32) -> bool;
    fn zosbd2_show_number(file: *mut c_void, key: *const c_char, number: u64);
    fn zosbd2_show_word(file: *mut c_void, key: *const c_char, word: *const c_char);
    fn zosbd2_show_end(file: *mut c_void);
    fn zosbd2_user_read(to: *mut c_void, user: u64, bytes: u32) -> i32;
    fn zosbd2_user_write(user: u64, from: *const c_void, bytes: u32) -> i32;
    safe fn zosbd2_user_clear(user: u64, bytes: u32) -> i32;
    safe fn zosbd2_user_check(user: u64, bytes: u32) -> i32;
    safe fn zosbd2_user_fault_in(user: u64, bytes: u32, write: bool) -> i32;
    safe fn zosbd2_user_tail_is_zero(user: u64, bytes: u32) -> i32;
    safe fn zosbd2_signal_pending() -> u32;
    safe fn zosbd2_signal_fatal() -> bool;
    safe fn zosbd2_pause() -> bool;
    safe fn zosbd2_current_uid() -> u32;
    safe fn zosbd2_may_serve(owner_uid: u32) -> bool;
    safe fn zosbd2_timeout(ms: u32) -> isize;
    safe fn zosbd2_now_ns() -> u64;
    safe fn zosbd2_thread() -> u32;
    safe fn zosbd2_thread_lives(thread: u32) -> bool;
    safe fn zosbd2_process() -> u32;
    safe fn zosbd2_process_lives(process: u32) -> bool;
    safe fn zosbd2_tracing() -> bool;
    safe fn zosbd2_spin(until_ns: u64) -> bool;
    safe fn zosbd2_cpus() -> u32;
    safe fn zosbd2_page_size() -> u32;
    fn zosbd2_version(version: *mut u8);
    safe fn zosbd2_registry_lock() -> i32;
    safe fn zosbd2_registry_lock_always();
    fn zosbd2_registry_unlock();
    fn zosbd2_node_exists(name: *const u8) -> bool;
    #[cfg(zosbd2_faults)]
    safe fn zosbd2_backtrace();
    #[cfg(zosbd2_faults)]
    safe fn zosbd2_overrun() -> u32;
}

/// `ZOSBD2_WOKEN` of `zosbd2_queue_sleep`: the server was woken for work, and the wake-up is counted.
pub const WOKEN: i32 = 0;
/// `ZOSBD2_SENT_AWAY` of `zosbd2_queue_sleep`: the server was woken together with all others, to be sent
/// away.
pub const SENT_AWAY: i32 = 1;

/// Decodes a result of the shim.
///
/// # Errors
///
/// The errno of a negative result.
pub const fn result(code: i32) -> Result<(), Errno> {
    match Errno::from_negative(code) {
        None => Ok(()),
        Some(errno) => Err(errno),
    }
}

/// Types that consist of bytes without padding, for which every bit pattern is valid. Copying such a value to
/// user memory leaks nothing.
///
/// # Safety
///
/// The type must be such a type.
pub unsafe trait Plain: Copy + Default {}

// SAFETY: an integer.
unsafe impl Plain for i32 {}
// SAFETY: an integer.
unsafe impl Plain for u32 {}
// SAFETY: an integer.
unsafe impl Plain for u64 {}
// SAFETY: integers only; padding is spelled out as fields (size asserted in abi).
unsafe impl Plain for zosbd2_abi::v1::DestroyByHandle {}
// SAFETY: integers only, no padding (size asserted in abi).
unsafe impl Plain for zosbd2_abi::v1::DestroyByName {}
// SAFETY: integers only, no padding (size asserted in abi).
unsafe impl Plain for zosbd2_abi::v1::DestroyAll {}
// SAFETY: integers only, no padding (size asserted in abi).
unsafe impl Plain for zosbd2_abi::v1::HandleByName {}
// SAFETY: integers only; padding is spelled out as fields (size asserted in abi).
unsafe impl Plain for zosbd2_abi::v1::Status {}
// SAFETY: integers only, no padding (size asserted in abi).
unsafe impl Plain for zosbd2_abi::v1::OperationTail {}
// SAFETY: integers only; padding is spelled out as fields (size asserted in abi).
unsafe impl Plain for zosbd2_abi::v1::Create {}
// SAFETY: integers only, no padding (size asserted in abi).
unsafe impl Plain for v2::Info {}
// SAFETY: integers only, no padding (size asserted in abi).
unsafe impl Plain for v2::Create {}
// SAFETY: integers only, no padding (size asserted in abi).
unsafe impl Plain for v2::Attach {}
// SAFETY: integers only, no padding (size asserted in abi).
unsafe impl Plain for v2::Destroy {}
// SAFETY: integers only, no padding (size asserted in abi).
unsafe impl Plain for v2::List {}
// SAFETY: integers only, no padding (size asserted in abi).
unsafe impl Plain for v2::ListEntry {}
// SAFETY: integers only, no padding (size asserted in abi).
unsafe impl Plain for v2::Status {}
// SAFETY: integers only, no padding (size asserted in abi).
unsafe impl Plain for v2::Settings {}
// SAFETY: integers only, no padding (size asserted in abi).
unsafe impl Plain for v2::Start {}
// SAFETY: integers only, no padding (size asserted in abi).
unsafe impl Plain for v2::Resize {}
// SAFETY: integers only, no padding (size asserted in abi).
unsafe impl Plain for v2::Stats {}
// SAFETY: integers only, no padding (size asserted in abi).
unsafe impl Plain for v2::Latency {}
// SAFETY: integers only, no padding (size asserted in abi).
unsafe impl Plain for v2::Requests {}
// SAFETY: integers only, no padding (size asserted in abi).
unsafe impl Plain for v2::Outstanding {}
// SAFETY: integers only, no padding (size asserted in abi).
unsafe impl Plain for v2::Blob {}
// SAFETY: integers only, no padding (size asserted in abi).
unsafe impl Plain for v2::Enter {}
// SAFETY: as above.
unsafe impl Plain for v2::Claim {}
// SAFETY: integers only, no padding (size asserted in abi).
unsafe impl Plain for v2::Commit {}
// SAFETY: integers only, no padding (size asserted in abi).
unsafe impl Plain for v2::Iovec {}
// SAFETY: integers only, no padding (size asserted in abi).
unsafe impl Plain for v2::Request {}

/// Reads a value from user memory.
///
/// # Errors
///
/// `EFAULT` if it is not completely readable.
#[inline]
pub fn user_read<T: Plain>(user: u64) -> Result<T, Errno> {
    user_read_front(user, size_of::<T>())
}

/// Reads the first `bytes` of a value from user memory; the rest is zero.
///
/// # Errors
///
/// `EFAULT` if they are not completely readable.
#[inline]
pub fn user_read_front<T: Plain>(user: u64, bytes: usize) -> Result<T, Errno> {
    let mut value = T::default();
    let bytes = u32::try_from(bytes.min(size_of::<T>())).unwrap_or(0);
    // SAFETY: `value` has room for `bytes`, and any bytes make a valid `T` (`Plain`).
    result(unsafe { zosbd2_user_read((&raw mut value).cast(), user, bytes) })?;
    Ok(value)
}

/// Writes a value to user memory.
///
/// # Errors
///
/// `EFAULT` if the target is not completely writable; a part may have been written.
#[inline]
pub fn user_write<T: Plain>(user: u64, value: &T) -> Result<(), Errno> {
    user_write_front(user, value, size_of::<T>())
}

/// Writes the first `bytes` of a value to user memory.
///
/// # Errors
///
/// Like [`user_write`].
#[inline]
pub fn user_write_front<T: Plain>(user: u64, value: &T, bytes: usize) -> Result<(), Errno> {
    let bytes = u32::try_from(bytes.min(size_of::<T>())).unwrap_or(0);
    // SAFETY: `value` is at least `bytes` long and has no padding (`Plain`).
    result(unsafe { zosbd2_user_write(user, (&raw const *value).cast(), bytes) })
}

/// Reads consecutive values from user memory.
///
/// # Errors
///
/// `EFAULT` if they are not completely readable.
#[inline]
pub fn user_read_all<T: Plain>(user: u64, values: &mut [T]) -> Result<(), Errno> {
    let bytes = u32::try_from(size_of_val(values)).unwrap_or(0);
    // SAFETY: `values` has room for `bytes`, and any bytes make valid values (`Plain`).
    result(unsafe { zosbd2_user_read(values.as_mut_ptr().cast(), user, bytes) })
}

/// Writes consecutive values to user memory.
///
/// # Errors
///
/// `EFAULT` if the target is not completely writable; a part may have been written.
#[inline]
pub fn user_write_all<T: Plain>(user: u64, values: &[T]) -> Result<(), Errno> {
    let bytes = u32::try_from(size_of_val(values)).unwrap_or(0);
    // SAFETY: `values` is `bytes` long and has no padding (`Plain`).
    result(unsafe { zosbd2_user_write(user, values.as_ptr().cast(), bytes) })
}

/// Whether all bytes of a range of user memory are zero.
///
/// # Errors
///
/// `EFAULT` if they are not completely readable.
pub fn user_is_zero(user: u64, bytes: u32) -> Result<bool, Errno> {
    let code = zosbd2_user_tail_is_zero(user, bytes);
    Errno::from_negative(code).map_or(Ok(code != 0), Err)
}

/// Zeroes user memory.
///
/// # Errors
///
/// `EFAULT` if it is not completely writable.
#[inline]
pub fn user_clear(user: u64, bytes: u32) -> Result<(), Errno> {
    result(zosbd2_user_clear(user, bytes))
}

/// Brings user memory in for reading or writing. May sleep; the caller holds no lock and has no request
/// pinned.
///
/// # Errors
///
/// `EFAULT` if the memory cannot be accessed in that way.
pub fn user_fault_in(user: u64, bytes: u32, write: bool) -> Result<(), Errno> {
    result(zosbd2_user_fault_in(user, bytes, write))
}

/// Whether a range is inside the address space of a process.
///
/// # Errors
///
/// `EFAULT` if it is not.
pub fn user_check(user: u64, bytes: u32) -> Result<(), Errno> {
    result(zosbd2_user_check(user, bytes))
}

/// The lowest pending signal, 0 if it is unknown. The signal stays pending.
#[must_use]
pub fn signal_pending() -> u32 {
    zosbd2_signal_pending()
}

/// Whether the caller is being killed.
#[must_use]
pub fn signal_fatal() -> bool {
    zosbd2_signal_fatal()
}

/// Yields the processor between two steps of a long call.
///
/// # Errors
///
/// `EINTR` if the caller is being killed.
#[inline]
pub fn pause() -> Result<(), Errno> {
    if zosbd2_pause() { Ok(()) } else { Err(Errno::EINTR) }
}

/// The caller's user ID, which becomes the owner of a created device.
#[must_use]
pub fn current_uid() -> u32 {
    zosbd2_current_uid()
}

/// Whether the caller may serve the devices of this user.
#[must_use]
pub fn may_serve(owner_uid: u32) -> bool {
    zosbd2_may_serve(owner_uid)
}

/// A time limit in milliseconds, `None` for none, in the form for
/// [`Locked::sleep`](crate::block::Locked::sleep).
#[must_use]
pub fn timeout(ms: Option<u32>) -> isize {
    zosbd2_timeout(ms.map_or(u32::MAX, |ms| ms.min(v2::MAX_MILLISECONDS)))
}

/// A monotonic clock.
#[must_use]
pub fn now_ns() -> u64 {
    zosbd2_now_ns()
}

/// The same clock, coarser.
#[must_use]
pub fn now_ms() -> u64 {
    ns_to_ms(now_ns())
}

/// Converts to whole milliseconds.
#[must_use]
#[expect(clippy::integer_division, reason = "the rest does not matter")]
pub const fn ns_to_ms(ns: u64) -> u64 {
    ns / 1_000_000
}

/// The current time and thread, for an answer.
#[inline]
#[must_use]
pub fn now() -> Moment {
    Moment { now_ns: now_ns(), thread: 0 }
}

/// The calling thread's number.
#[inline]
#[must_use]
pub fn thread() -> u32 {
    zosbd2_thread()
}

/// Whether a thread from [`thread`] is alive.
#[must_use]
pub fn thread_lives(thread: u32) -> bool {
    zosbd2_thread_lives(thread)
}

/// Number of the calling process, in the first namespace.
#[must_use]
pub fn process() -> u32 {
    zosbd2_process()
}

/// Whether a thread of this process is alive. A later process may have got the same number.
#[must_use]
pub fn process_lives(process: u32) -> bool {
    zosbd2_process_lives(process)
}

/// Whether the tracepoints of fetches, commits or requeues are enabled.
#[inline]
#[must_use]
pub fn tracing() -> bool {
    zosbd2_tracing()
}

/// A `struct seq_file` during its show function.
#[derive(Debug)]
pub struct Line(*mut c_void);

impl Line {
    /// Wraps the file.
    ///
    /// # Safety
    ///
    /// `file` is a `struct seq_file` in its show function for as long as the result lives.
    #[must_use]
    pub const unsafe fn new(file: *mut c_void) -> Self {
        Self(file)
    }

    /// Begins a line. Returns false if the file has no room.
    #[must_use]
    pub fn begin(&self, queue: u32) -> bool {
        // SAFETY: the promise of `new`, here and below; the strings are terminated.
        unsafe { zosbd2_show_begin(self.0, queue) }
    }

    /// Adds a number.
    pub fn number(&self, key: &'static CStr, number: u64) {
        // SAFETY: see `begin`.
        unsafe { zosbd2_show_number(self.0, key.as_ptr(), number) };
    }

    /// Adds a word.
    pub fn word(&self, key: &'static CStr, word: &'static CStr) {
        // SAFETY: see `begin`.
        unsafe { zosbd2_show_word(self.0, key.as_ptr(), word.as_ptr()) };
    }

    /// Ends the line.
    pub fn end(&self) {
        // SAFETY: see `begin`.
        unsafe { zosbd2_show_end(self.0) };
    }
}

/// One turn of a polling loop. Returns `false` when it is time to stop.
#[must_use]
pub fn spin(until_ns: u64) -> bool {
    zosbd2_spin(until_ns)
}

/// The limits of the machine.
#[must_use]
pub fn machine() -> Machine {
    Machine { cpus: zosbd2_cpus(), page_bytes: zosbd2_page_size() }
}

/// The module's version, NUL padded.
#[must_use]
pub fn version() -> [u8; 32] {
    let mut version = [0; 32];
    // SAFETY: C writes at most 32 bytes.
    unsafe { zosbd2_version(version.as_mut_ptr()) };
    version
}

/// Whether `/dev` or `/sys/class/block` has this name.
#[must_use]
pub fn node_exists(name: &[u8; NAME_BYTES]) -> bool {
    // SAFETY: C reads at most `NAME_BYTES - 1` bytes.
    unsafe { zosbd2_node_exists(name.as_ptr()) }
}

/// The registry's lock, held until dropped.
#[derive(Debug)]
pub struct RegistryLock(());

impl RegistryLock {
    /// Waits for the lock.
    ///
    /// # Errors
    ///
    /// `EINTR` if the caller is being killed.
    pub fn take() -> Result<Self, Errno> {
        result(zosbd2_registry_lock()).map(|()| Self(()))
    }

    /// Waits for the lock; not killable.
    #[must_use]
    pub fn take_always() -> Self {
        zosbd2_registry_lock_always();
        Self(())
    }
}

impl Drop for RegistryLock {
    fn drop(&mut self) {
        // SAFETY: the lock is held.
        unsafe { zosbd2_registry_unlock() };
    }
}

/// Prints the stack if the faults variant is told to. It shows that the kernel can unwind through Rust
/// frames.
#[cfg(zosbd2_faults)]
pub fn backtrace() {
    zosbd2_backtrace();
}

/// Reads beyond the end of an array if the faults variant is told to. It shows that KASAN checks accesses of
/// Rust code.
#[cfg(zosbd2_faults)]
pub fn overrun() {
    let array = core::hint::black_box([0_u64; 4]);
    let last = array.as_ptr_range().end.wrapping_sub(1).wrapping_add(zosbd2_overrun() as usize);
    // SAFETY: the array's last element, unless a test wants an invalid read. Even then it reads 8 bytes of
    // this thread's stack, which continues above the array, and the value is not used.
    core::hint::black_box(unsafe { last.read_volatile() });
}
