// SPDX-License-Identifier: GPL-2.0-only
//! Error numbers that the engine answers with, as positive Linux errno values.

/// A positive Linux error number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Errno(i32);

impl Errno {
    /// No such device: the handle or name is unknown, or the device is gone for good.
    pub const ENOENT: Self = Self(2);
    /// Interrupted by a signal.
    pub const EINTR: Self = Self(4);
    /// The request failed.
    pub const EIO: Self = Self(5);
    /// The descriptor does not allow the call.
    pub const EBADF: Self = Self(9);
    /// The argument is longer than the kernel knows, and the unknown part is not zero.
    pub const E2BIG: Self = Self(7);
    /// The caller lacks the permission.
    pub const EPERM: Self = Self(1);
    /// Out of memory; in version 1 also an unusable operation buffer.
    pub const ENOMEM: Self = Self(12);
    /// The caller's memory cannot be accessed.
    pub const EFAULT: Self = Self(14);
    /// The device is open, or has a server.
    pub const EBUSY: Self = Self(16);
    /// The name is in use.
    pub const EEXIST: Self = Self(17);
    /// The device is being destroyed, or is gone.
    pub const ENODEV: Self = Self(19);
    /// An argument is invalid; in version 1 also an unusable control buffer.
    pub const EINVAL: Self = Self(22);
    /// The descriptor does not support this call.
    pub const ENOTTY: Self = Self(25);
    /// All places for devices are in use.
    pub const ENOSPC: Self = Self(28);
    /// A number is outside its range.
    pub const ERANGE: Self = Self(34);
    /// Another host has reserved the store.
    pub const EBADE: Self = Self(52);
    /// The time limit has passed.
    pub const ETIME: Self = Self(62);
    /// The connection to the store is broken.
    pub const ENOLINK: Self = Self(67);
    /// A product or sum is too large.
    pub const EOVERFLOW: Self = Self(75);
    /// The data does not match its checksum.
    pub const EILSEQ: Self = Self(84);
    /// The operation is not supported.
    pub const EOPNOTSUPP: Self = Self(95);
    /// Another server has taken over.
    pub const ESHUTDOWN: Self = Self(108);
    /// The store did not answer in time.
    pub const ETIMEDOUT: Self = Self(110);
    /// The call was successful before.
    pub const EALREADY: Self = Self(114);
    /// The caller holds no request of this handle, or the device of this name has another handle or server.
    pub const ESTALE: Self = Self(116);
    /// The store failed, for any other reason.
    pub const EREMOTEIO: Self = Self(121);

    /// The error in a server's result: -4095 to -1.
    #[must_use]
    pub const fn from_result(result: i64) -> Option<Self> {
        if -4095 <= result && result < 0 {
            #[expect(clippy::cast_possible_truncation, reason = "at most 4095")]
            Some(Self(result.wrapping_neg() as i32))
        } else {
            None
        }
    }

    /// The positive error number.
    #[must_use]
    pub const fn get(self) -> i32 {
        self.0
    }

    /// The negative number, as the kernel returns it.
    #[must_use]
    pub const fn negative(self) -> i32 {
        self.0.wrapping_neg()
    }

    /// Decodes a return value of the kernel: `None` unless it is a negative error number.
    #[must_use]
    pub const fn from_negative(code: i32) -> Option<Self> {
        if code < 0 { Some(Self(code.wrapping_neg())) } else { None }
    }
}
