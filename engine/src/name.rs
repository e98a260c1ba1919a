// SPDX-License-Identifier: GPL-2.0-only
//! Valid device names.
//!
//! The name becomes a file in `/dev`, a folder in `/sys/block` and a word in the kernel log, so it must not
//! leave its folder or break a line. A name has 1 to 31 bytes, none of them a control character, `/`, or `!`
//! (which stands for `/` in device names), and is neither `.` nor `..`. Version 2 is stricter, so that a name
//! is also a single word in shells, rules and unit files.

use zosbd2_abi::v1::NAME_BYTES;
use zosbd2_abi::v2;

use crate::errno::Errno;

/// What precedes the name of a version 2 device in the name of its disk.
pub const DISK_PREFIX: &[u8] = b"zosbd2-";

/// A valid name, NUL padded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name([u8; NAME_BYTES]);

impl Name {
    /// Decodes a name field of version 1: up to the first NUL, at most 31 bytes; the rest is cut off.
    ///
    /// # Errors
    ///
    /// `EINVAL` for an empty name or one that breaks the rules above.
    pub fn from_field(field: &[u8; NAME_BYTES]) -> Result<Self, Errno> {
        let mut name = [0; NAME_BYTES];
        let mut length: usize = 0;
        for (to, &byte) in name.iter_mut().take(NAME_BYTES.saturating_sub(1)).zip(field) {
            if byte == 0 {
                break;
            }
            if byte < 0x20 || byte == 0x7f || byte == b'/' || byte == b'!' {
                return Err(Errno::EINVAL);
            }
            *to = byte;
            length = length.wrapping_add(1);
        }
        let dots =
            matches!((length, name.first(), name.get(1)), (1, Some(b'.'), _) | (2, Some(b'.'), Some(b'.')));
        if length == 0 || dots {
            return Err(Errno::EINVAL);
        }
        Ok(Self(name))
    }

    /// Decodes a name field of version 2: letters, digits, `.`, `_`, `-`, `+` and `:`, the first one a letter
    /// or digit, at most [`v2::MAX_NAME_BYTES`], the rest NUL.
    ///
    /// # Errors
    ///
    /// `EINVAL` for anything else.
    pub fn from_v2_field(field: &[u8; v2::NAME_BYTES]) -> Result<Self, Errno> {
        let (mut length, mut ended): (usize, bool) = (0, false);
        for &byte in field {
            let good = match byte {
                0 => {
                    ended = true;
                    continue;
                }
                b'.' | b'_' | b'-' | b'+' | b':' => length > 0,
                _ => byte.is_ascii_alphanumeric(),
            };
            if ended || !good {
                return Err(Errno::EINVAL);
            }
            length = length.wrapping_add(1);
        }
        if length == 0 || length > v2::MAX_NAME_BYTES {
            return Err(Errno::EINVAL);
        }
        Ok(Self(*field))
    }

    /// The name of the disk of a device with this name and interface version, in `/dev` and in sysfs:
    /// `zosbd2-NAME` for version 2, `NAME` for version 1.
    #[must_use]
    pub fn disk_name(&self, version: u32) -> [u8; NAME_BYTES] {
        if version == 1 {
            return self.0;
        }
        let mut disk = [0; NAME_BYTES];
        for (to, &from) in disk.iter_mut().zip(DISK_PREFIX.iter().chain(&self.0)) {
            *to = from;
        }
        disk
    }

    /// The name, NUL padded; the last byte is always NUL.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; NAME_BYTES] {
        &self.0
    }
}
