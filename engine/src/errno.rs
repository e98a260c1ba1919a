// SPDX-License-Identifier: GPL-2.0-only
//! Error numbers that the engine answers with, as positive Linux errno values.

/// A positive Linux error number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// Out of memory; in version 1 also an unusable operation buffer.
    pub const ENOMEM: Self = Self(12);
    /// Somebody has the device open.
    pub const EBUSY: Self = Self(16);
    /// The name is taken.
    pub const EEXIST: Self = Self(17);
    /// An argument is wrong; in version 1 also an unusable control buffer.
    pub const EINVAL: Self = Self(22);
    /// A number is outside its range.
    pub const ERANGE: Self = Self(34);

    /// The positive error number.
    #[must_use]
    pub const fn get(self) -> i32 {
        self.0
    }

    /// The form in which the kernel returns it: negative.
    #[must_use]
    pub const fn negative(self) -> i32 {
        self.0.wrapping_neg()
    }

    /// Takes a kernel return value: `None` unless it is a negative error number.
    #[must_use]
    pub const fn from_negative(code: i32) -> Option<Self> {
        if code < 0 { Some(Self(code.wrapping_neg())) } else { None }
    }
}
