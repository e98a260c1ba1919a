// SPDX-License-Identifier: GPL-2.0-only
//! The C shim as Rust sees it: `kernel/shim/zosbd2.h`, wrapped.
//!
//! Contracts are at the C definitions. The wrappers are safe where a wrong argument can only cause an
//! error (user addresses are checked in C), and take the types of [`block`](crate::block) where a pointer
//! must be right.

use core::ffi::c_void;
use core::mem::{size_of, size_of_val};

use zosbd2_abi::v1::NAME_BYTES;
use zosbd2_engine::Errno;

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

/// `struct zosbd2_params`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Params {
    /// NUL padded.
    pub name: [u8; NAME_BYTES],
    /// Capacity.
    pub size_bytes: u64,
    /// Logical block size.
    pub block_size: u32,
    /// Most data of a read or write.
    pub max_data_bytes: u32,
    /// Longest discard.
    pub max_discard_bytes: u32,
    /// Request deadline.
    pub timeout_ms: u32,
    /// Number of tags.
    pub depth: u32,
    /// Where the registry keeps the device.
    pub place: u32,
    /// Handle of the device.
    pub handle: u32,
    /// Padding.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Params>() == 72);

unsafe extern "C" {
    pub(crate) fn zosbd2_queue_lock(queue: *mut Queue) -> usize;
    pub(crate) fn zosbd2_queue_unlock(queue: *mut Queue, flags: usize);
    pub(crate) fn zosbd2_queue_sleep(queue: *mut Queue, flags: *mut usize) -> i32;
    pub(crate) fn zosbd2_queue_wake_one(queue: *mut Queue);
    pub(crate) fn zosbd2_queue_wake_all(queue: *mut Queue);
    pub(crate) fn zosbd2_request_end(queue: *mut Queue, tag: u32, error: i32);
    pub(crate) fn zosbd2_request_copy(
        queue: *mut Queue,
        tag: u32,
        user: u64,
        done: *mut u32,
        to_user: bool,
    ) -> i32;
    pub(crate) fn zosbd2_device_create(params: *const Params, device: *mut *mut Device) -> i32;
    pub(crate) fn zosbd2_device_engine(device: *mut Device) -> *mut c_void;
    pub(crate) fn zosbd2_device_get(device: *mut Device);
    pub(crate) fn zosbd2_device_put(device: *mut Device);
    pub(crate) fn zosbd2_device_seal(device: *mut Device, force: bool) -> bool;
    pub(crate) fn zosbd2_device_destroy(device: *mut Device);
    pub(crate) fn zosbd2_device_wait_gone(device: *mut Device) -> i32;
    fn zosbd2_user_read(to: *mut c_void, user: u64, bytes: u32) -> i32;
    fn zosbd2_user_write(user: u64, from: *const c_void, bytes: u32) -> i32;
    safe fn zosbd2_user_clear(user: u64, bytes: u32) -> i32;
    safe fn zosbd2_user_fault_in(user: u64, bytes: u32, write: bool) -> i32;
    safe fn zosbd2_signal_pending() -> u32;
    safe fn zosbd2_signal_fatal() -> bool;
    safe fn zosbd2_registry_lock() -> i32;
    safe fn zosbd2_registry_lock_always();
    safe fn zosbd2_registry_unlock();
    fn zosbd2_node_exists(name: *const u8) -> bool;
    #[cfg(zosbd2_faults)]
    safe fn zosbd2_backtrace();
}

const fn result(code: i32) -> Result<(), Errno> {
    match Errno::from_negative(code) {
        None => Ok(()),
        Some(errno) => Err(errno),
    }
}

/// Types that are plain bytes: every pattern is valid, and none of theirs is padding, so copying them to
/// user memory gives away nothing.
///
/// # Safety
///
/// The type must be exactly that.
pub unsafe trait Plain: Copy + Default {}

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

/// Reads a whole value from user memory.
///
/// # Errors
///
/// `EFAULT` when not all of it is readable.
#[inline]
pub fn user_read<T: Plain>(user: u64) -> Result<T, Errno> {
    user_read_front(user, size_of::<T>())
}

/// Reads the first `bytes` of a value from user memory; the rest is zero.
///
/// # Errors
///
/// `EFAULT` when not all of them are readable.
#[inline]
pub fn user_read_front<T: Plain>(user: u64, bytes: usize) -> Result<T, Errno> {
    let mut value = T::default();
    let bytes = u32::try_from(bytes.min(size_of::<T>())).unwrap_or(0);
    // SAFETY: `value` has room for `bytes`, and any bytes make a valid `T` (`Plain`).
    result(unsafe { zosbd2_user_read((&raw mut value).cast(), user, bytes) })?;
    Ok(value)
}

/// Writes a whole value to user memory.
///
/// # Errors
///
/// `EFAULT` when not all of the target is writable; a part may have been written.
#[inline]
pub fn user_write<T: Plain>(user: u64, value: &T) -> Result<(), Errno> {
    let bytes = u32::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: `value` is `bytes` long and has no padding (`Plain`).
    result(unsafe { zosbd2_user_write(user, (&raw const *value).cast(), bytes) })
}

/// Writes words to user memory.
///
/// # Errors
///
/// `EFAULT` when not all of the target is writable; a part may have been written.
#[inline]
pub fn user_write_words(user: u64, words: &[u64]) -> Result<(), Errno> {
    let bytes = u32::try_from(size_of_val(words)).unwrap_or(0);
    // SAFETY: `words` is `bytes` long; integers have no padding.
    result(unsafe { zosbd2_user_write(user, words.as_ptr().cast(), bytes) })
}

/// Writes the words of a LIST answer to user memory.
///
/// # Errors
///
/// `EFAULT` when not all of the target is writable; a part may have been written.
pub fn user_write_list(user: u64, words: &[u32]) -> Result<(), Errno> {
    let bytes = u32::try_from(size_of_val(words)).unwrap_or(0);
    // SAFETY: `words` is `bytes` long; integers have no padding.
    result(unsafe { zosbd2_user_write(user, words.as_ptr().cast(), bytes) })
}

/// Zeroes user memory.
///
/// # Errors
///
/// `EFAULT` when not all of it is writable.
#[inline]
pub fn user_clear(user: u64, bytes: u32) -> Result<(), Errno> {
    result(zosbd2_user_clear(user, bytes))
}

/// Brings user memory in for reading or writing. May sleep; no lock and no request may be held.
///
/// # Errors
///
/// `EFAULT` when it cannot be used so.
pub fn user_fault_in(user: u64, bytes: u32, write: bool) -> Result<(), Errno> {
    result(zosbd2_user_fault_in(user, bytes, write))
}

/// The lowest pending signal, 0 if none can be named; it stays pending.
#[must_use]
pub fn signal_pending() -> u32 {
    zosbd2_signal_pending()
}

/// Whether the caller is being killed.
#[must_use]
pub fn signal_fatal() -> bool {
    zosbd2_signal_fatal()
}

/// Whether `/dev` or `/sys/class/block` has this name already.
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
    /// `EINTR` when the caller is being killed.
    pub fn take() -> Result<Self, Errno> {
        result(zosbd2_registry_lock()).map(|()| Self(()))
    }

    /// Waits for the lock, whatever happens to the caller.
    #[must_use]
    pub fn take_always() -> Self {
        zosbd2_registry_lock_always();
        Self(())
    }
}

impl Drop for RegistryLock {
    fn drop(&mut self) {
        zosbd2_registry_unlock();
    }
}

/// Prints the stack when the faults variant is told to; shows that Rust frames unwind.
#[cfg(zosbd2_faults)]
pub fn backtrace() {
    zosbd2_backtrace();
}
