// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names, handles and options, checked before the kernel sees them.

use crate::{Error, Result};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use zosbd2_abi::v1;

/// Number of a device, assigned by the kernel at create. It is never 0, and is reused only after 2^32
/// creates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(u32);

impl Handle {
    /// A handle that was printed or stored earlier.
    #[must_use]
    pub const fn from_raw(handle: u32) -> Self {
        Self(handle)
    }

    /// The number.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A device name: 1 to 31 bytes without NUL. The kernel would silently cut a longer name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeviceName(String);

impl DeviceName {
    /// Checks `name`.
    pub fn new(name: &str) -> Result<Self> {
        let problem = if name.is_empty() {
            "is empty"
        } else if name.len() >= v1::NAME_BYTES {
            "is longer than 31 bytes"
        } else if name.contains('\0') {
            "contains a NUL byte"
        } else {
            return Ok(Self(name.to_owned()));
        };
        Err(Error::Name { name: name.to_owned(), problem })
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Path of the block node.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/dev/{}", self.0))
    }

    /// The name as a NUL-padded field.
    pub(super) fn field(&self) -> [u8; v1::NAME_BYTES] {
        let mut field = [0; v1::NAME_BYTES];
        for (to, from) in field.iter_mut().zip(self.0.bytes()) {
            *to = from;
        }
        field
    }

    /// Reads a field that the kernel filled. Bytes that are not UTF-8 become U+FFFD.
    pub(super) fn from_field(field: &[u8; v1::NAME_BYTES]) -> Self {
        let used = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
        Self(String::from_utf8_lossy(&field[..used]).into_owned())
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Options for a new device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateOptions {
    name: DeviceName,
    block_count: u64,
    timeout: Duration,
    max_segments: u32,
}

impl CreateOptions {
    /// A device of `block_count` blocks of 4096 bytes (1024 to 3221225472 blocks, checked by
    /// [`Control::create`](super::Control::create)), with a request timeout of 30 s.
    pub fn new(name: &str, block_count: u64) -> Result<Self> {
        let name = DeviceName::new(name)?;
        Ok(Self { name, block_count, timeout: Duration::from_secs(30), max_segments: 0 })
    }

    /// Time after which an unanswered request fails with an I/O error: 1 to 1200 s. Parts of a second are
    /// rounded up.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Most segments of one request; 0, the default, and values above 256 mean 256.
    #[must_use]
    pub fn max_segments(mut self, max_segments: u32) -> Self {
        self.max_segments = max_segments;
        self
    }

    /// Name of the device.
    #[must_use]
    pub fn name(&self) -> &DeviceName {
        &self.name
    }

    /// Size of the device in bytes; meaningless if the block count is out of range.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.block_count.saturating_mul(u64::from(v1::BLOCK_SIZE))
    }

    /// The kernel's struct, or an error that names the option out of range.
    pub(super) fn to_raw(&self) -> Result<v1::Create> {
        let range = |option, value, min, max| {
            let name = self.name.to_string();
            Error::Range { operation: "create", name, option, value, min, max }
        };
        if !(v1::MIN_BLOCK_COUNT..=v1::MAX_BLOCK_COUNT).contains(&self.block_count) {
            return Err(range("block count", self.block_count, v1::MIN_BLOCK_COUNT, v1::MAX_BLOCK_COUNT));
        }
        let seconds = self.timeout.as_secs().saturating_add(u64::from(self.timeout.subsec_nanos() > 0));
        let timeout_s = u32::try_from(seconds)
            .ok()
            .filter(|seconds| (v1::MIN_TIMEOUT_S..=v1::MAX_TIMEOUT_S).contains(seconds))
            .ok_or_else(|| {
                range("timeout in seconds", seconds, v1::MIN_TIMEOUT_S.into(), v1::MAX_TIMEOUT_S.into())
            })?;
        Ok(v1::Create {
            name: self.name.field(),
            block_size: v1::BLOCK_SIZE,
            block_count: self.block_count,
            timeout_s,
            max_segments: self.max_segments,
            ..v1::Create::default()
        })
    }
}

/// Status of a device.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceStatus {
    /// Handle.
    pub handle: Handle,
    /// Name.
    pub name: DeviceName,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Size in blocks.
    pub block_count: u64,
    /// Logical block size in bytes.
    pub block_size: u32,
    /// Most segments of one request.
    pub max_segments: u32,
    /// Request timeout.
    pub timeout: Duration,
}

impl From<&v1::Status> for DeviceStatus {
    fn from(status: &v1::Status) -> Self {
        Self {
            handle: Handle(status.handle),
            name: DeviceName::from_field(&status.name),
            size_bytes: status.size_bytes,
            block_count: status.block_count,
            block_size: status.block_size,
            max_segments: status.max_segments,
            timeout: Duration::from_millis(status.timeout_ms.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_limited_to_31_bytes() {
        assert!(DeviceName::new("").is_err());
        assert!(DeviceName::new("a\0b").is_err());
        assert!(DeviceName::new(&"x".repeat(32)).is_err());
        let longest = DeviceName::new(&"x".repeat(31)).expect("31 bytes");
        assert_eq!(longest.field()[31], 0);
        assert_eq!(DeviceName::from_field(&longest.field()), longest);
    }

    #[test]
    fn a_block_count_out_of_range_is_named() {
        let options = CreateOptions::new("zosbd2ramdisk", 12).expect("name");
        let error = options.to_raw().expect_err("too small");
        assert_eq!(
            error.to_string(),
            "create device zosbd2ramdisk: block count 12 is outside 1024..=3221225472"
        );
    }

    #[test]
    fn timeouts_are_rounded_up_and_checked() {
        let options = CreateOptions::new("d", 1024).expect("name");
        let seconds = |t| options.clone().timeout(t).to_raw().map(|raw| raw.timeout_s);
        assert_eq!(seconds(Duration::from_millis(1500)).expect("fits"), 2);
        assert_eq!(seconds(Duration::from_secs(1200)).expect("fits"), 1200);
        assert!(seconds(Duration::ZERO).is_err());
        assert!(seconds(Duration::from_millis(1_200_001)).is_err());
        assert!(seconds(Duration::MAX).is_err());
    }

    #[test]
    fn a_default_create_is_what_the_original_sample_sends() {
        let raw = CreateOptions::new("zosbd2ramdisk", 1_048_576).expect("name").to_raw().expect("in range");
        assert_eq!((raw.block_size, raw.timeout_s, raw.max_segments, raw.batch_queue), (4096, 30, 0, 0));
        assert_eq!(raw.block_count * 4096, 4 << 30);
    }
}
