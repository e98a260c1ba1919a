// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks the values of a description against the interface and the module's limits, and makes the kernel's struct of
//! them. An error names the option, its value, and what is wrong with it.

use super::{Builder, UNLIMITED};
use crate::v2::serve::NO_FLUSHES;
use crate::v2::settings::milliseconds;
use crate::v2::{Capabilities, Info, name};
use crate::{Error, Result};
use std::time::Duration;
use zosbd2_abi::v2;

/// Smallest `max_io_bytes`: a page.
const MIN_IO_BYTES: u32 = 4096;

/// What no module exceeds. What is wrong for these limits is wrong for all modules.
pub(super) fn widest() -> Info {
    Info::from(&v2::Info {
        version: 2,
        max_queues: v2::MAX_TAGS,
        max_depth: v2::MAX_DEPTH,
        max_block_size: v2::MAX_BLOCK_SIZE,
        max_io_bytes: v2::MAX_IO_BYTES,
        ..v2::Info::default()
    })
}

impl Builder {
    /// The kernel's struct, or an error that names the invalid option.
    pub(in crate::v2) fn to_raw(&self, info: &Info) -> Result<v2::Create> {
        let name = name::new_field(&self.name)?;
        self.range("bytes of the identity", self.identity.len() as u64, 0, v2::BLOB_BYTES as u64)?;
        let (backend_size, capabilities) = self.backend.unwrap_or_default();
        let logical = self.logical_block_size.unwrap_or(match capabilities.logical_block_size {
            0 => v2::MIN_BLOCK_SIZE,
            set => set,
        });
        self.power_of_two("logical block size", logical, v2::MIN_BLOCK_SIZE, info.max_block_size)?;
        if logical < capabilities.logical_block_size {
            let problem = format!("is smaller than the backend's, {}", capabilities.logical_block_size);
            return Err(self.nonsense("logical block size", logical, problem));
        }
        if capabilities.read_only && self.read_only == Some(false) {
            return Err(self.nonsense("read-only", "no", "is not possible with a read-only backend"));
        }
        if capabilities.volatile_cache && self.volatile_cache == Some(false) {
            return Err(self.nonsense("volatile cache", "no", NO_FLUSHES));
        }
        let physical = match self.physical_block_size.unwrap_or(capabilities.physical_block_size) {
            0 => logical,
            set => set,
        };
        self.power_of_two("physical block size", physical, logical, v2::MAX_PHYSICAL_BLOCK_SIZE)?;
        let size_bytes = self.size_bytes.unwrap_or(backend_size);
        self.range("size in bytes", size_bytes, logical.into(), v2::MAX_SIZE_BYTES)?;
        self.multiple("size in bytes", size_bytes, logical, "logical block")?;
        let io_min = if self.io_min == 0 { physical } else { self.io_min };
        self.range("minimum I/O", io_min.into(), physical.into(), v2::MAX_PHYSICAL_BLOCK_SIZE.into())?;
        self.multiple("minimum I/O", io_min.into(), physical, "physical block")?;
        let io_opt = self.io_opt.unwrap_or(capabilities.io_opt);
        self.range("optimal I/O", io_opt.into(), 0, v2::MAX_PHYSICAL_BLOCK_SIZE.into())?;
        self.multiple("optimal I/O", io_opt.into(), io_min, "minimum I/O")?;
        if self.max_io_bytes != 0 {
            let most = info.max_io_bytes;
            self.range("largest I/O", self.max_io_bytes.into(), MIN_IO_BYTES.into(), most.into())?;
            self.multiple("largest I/O", self.max_io_bytes.into(), logical, "logical block")?;
        }
        self.queues_and_depth(info)?;
        let discard_granularity =
            self.discard_granularity.unwrap_or(match capabilities.discard_granularity {
                set if capabilities.discard && set != 0 => set.max(logical),
                _ => 0,
            });
        if discard_granularity != 0 {
            let most = v2::MAX_PHYSICAL_BLOCK_SIZE;
            self.power_of_two("discard granularity", discard_granularity, logical, most)?;
        }
        let limit = |option, set: Option<u32>, capable: bool| {
            let value = set.unwrap_or(if capable { UNLIMITED } else { 0 });
            if value == UNLIMITED {
                return Ok(UNLIMITED / logical * logical);
            }
            self.multiple(option, value.into(), logical, "logical block").map(|()| value)
        };
        let max_discard_bytes = limit("longest discard", self.max_discard_bytes, capabilities.discard)?;
        if max_discard_bytes > 0 {
            // The block layer cannot have a smaller limit.
            let least = physical.max(discard_granularity);
            self.range("longest discard", max_discard_bytes.into(), least.into(), u32::MAX.into())?;
        }
        Ok(v2::Create {
            flags: self.flags(&capabilities)?,
            name,
            serial: self.serial_field()?,
            size_bytes,
            logical_block_size: logical,
            physical_block_size: physical,
            io_min,
            io_opt,
            max_io_bytes: self.max_io_bytes,
            queues: self.queues,
            depth: self.depth,
            discard_granularity,
            max_discard_bytes,
            max_write_zeroes_bytes: limit(
                "longest write-zeroes",
                self.max_write_zeroes_bytes,
                capabilities.write_zeroes,
            )?,
            max_secure_erase_bytes: limit(
                "longest secure erase",
                self.max_secure_erase_bytes,
                capabilities.secure_erase,
            )?,
            deadline_ms: match self.deadline {
                Some(deadline) => self.milliseconds("deadline in milliseconds", deadline, 1)?,
                None => 0,
            },
            deadline_policy: self.deadline_policy.into(),
            grace_ms: self.milliseconds("grace in milliseconds", self.grace, 0)?,
            ..v2::Create::default()
        })
    }

    fn flags(&self, capabilities: &Capabilities) -> Result<u32> {
        let volatile_cache = self.volatile_cache.unwrap_or(capabilities.volatile_cache);
        let fua = self.fua.unwrap_or(capabilities.fua);
        if fua && !volatile_cache {
            return Err(self.nonsense("FUA", "yes", "needs a volatile cache"));
        }
        let flags = [
            (self.read_only.unwrap_or(capabilities.read_only), v2::CREATE_READ_ONLY),
            (self.rotational.unwrap_or(capabilities.rotational), v2::CREATE_ROTATIONAL),
            (volatile_cache, v2::CREATE_VOLATILE_CACHE),
            (fua, v2::CREATE_FUA),
            (!self.partition_scan, v2::CREATE_NO_PARTITION_SCAN),
            (self.auto_destroy, v2::CREATE_AUTO_DESTROY),
        ];
        Ok(flags.iter().filter(|(set, _)| *set).fold(0, |all, (_, flag)| all | flag))
    }

    fn queues_and_depth(&self, info: &Info) -> Result<()> {
        self.range("number of queues", self.queues.into(), 1, info.max_queues.into())?;
        let depth = if self.depth == 0 { v2::DEFAULT_DEPTH } else { self.depth };
        self.range("depth of the queues", depth.into(), 1, info.max_depth.into())?;
        let tags = depth.checked_next_power_of_two().and_then(|tags| tags.checked_mul(self.queues));
        if tags.is_none_or(|tags| tags > v2::MAX_TAGS) {
            let problem = format!("makes more than {} requests in {} queues", v2::MAX_TAGS, self.queues);
            return Err(self.nonsense("depth of the queues", depth, problem));
        }
        Ok(())
    }

    fn serial_field(&self) -> Result<[u8; v2::SERIAL_BYTES]> {
        let problem = match name::padded(&self.serial) {
            Some(field) if self.serial.bytes().all(|byte| (b' '..=b'~').contains(&byte)) => return Ok(field),
            Some(_) => "has a character that is not printable ASCII",
            None => "is longer than 31 characters",
        };
        Err(self.nonsense("serial number", format!("{:?}", self.serial), problem))
    }

    fn milliseconds(&self, option: &'static str, time: Duration, min: u64) -> Result<u32> {
        milliseconds("create", &self.name, option, time, min)
    }

    fn range(&self, option: &'static str, value: u64, min: u64, max: u64) -> Result<()> {
        if (min..=max).contains(&value) {
            return Ok(());
        }
        Err(Error::Range { operation: "create", name: self.name.clone(), option, value, min, max })
    }

    fn power_of_two(&self, option: &'static str, value: u32, min: u32, max: u32) -> Result<()> {
        self.range(option, value.into(), min.into(), max.into())?;
        if value.is_power_of_two() {
            return Ok(());
        }
        Err(self.nonsense(option, value, "is not a power of two"))
    }

    fn multiple(&self, option: &'static str, value: u64, unit: u32, what: &str) -> Result<()> {
        if value % u64::from(unit) == 0 {
            return Ok(());
        }
        Err(self.nonsense(option, value, format!("is not a multiple of the {what} of {unit}")))
    }

    fn nonsense(
        &self,
        option: &'static str,
        value: impl std::fmt::Display,
        problem: impl Into<String>,
    ) -> Error {
        Error::Option {
            operation: "create",
            name: self.name.clone(),
            option,
            value: value.to_string(),
            problem: problem.into(),
        }
    }
}
