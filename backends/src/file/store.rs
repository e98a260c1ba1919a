// SPDX-License-Identifier: MIT OR Apache-2.0
//! Properties of a file or block device as a store. The system reports them; trial I/O never determines them.
//!
//! `BLKSSZGET` and `BLKROGET` report on a block device, `statx(STATX_DIOALIGN)` on a file with direct I/O,
//! and the queue's folder in sysfs on the device below. An unknown property gets the careful value. Only one
//! property has to be tried: whether a file system can punch holes. The trial is beyond the end of the file,
//! where there is no data.

use crate::sys;
use rustix::fs::{
    AtFlags, FallocateFlags, Stat, StatxFlags, fallocate, fstat, fstatfs, ioctl_blkpbszget, ioctl_blksszget,
    major, minor, statx,
};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// The unit of direct I/O if it is unknown, and the unit of the page cache.
pub(super) const PAGE: u32 = 4096;

/// `f_type` of file systems that write a journal, or a tree, before the data: ext3 and ext4 (ext2 has the
/// same number), xfs, btrfs, f2fs, jfs, and reiserfs.
const JOURNALLING: [u64; 6] = [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x3153_464a, 0x5265_4973];

/// Properties of a store.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "the flags are independent of each other")]
pub(super) struct Store {
    /// Whether it is a block device.
    pub(super) device: bool,
    /// Smallest unit of reads and writes, in bytes: a power of two from 512 on.
    pub(super) unit: u32,
    /// Smallest unit that it writes without a read before.
    pub(super) physical: u32,
    /// Optimal I/O size; 0: none.
    pub(super) io_opt: u32,
    /// Whether it is read-only.
    pub(super) read_only: bool,
    /// Whether its device is rotational.
    pub(super) rotational: bool,
    /// Whether it loses unflushed data in a power failure.
    pub(super) volatile_cache: bool,
    /// Whether discards have an effect.
    pub(super) discard: bool,
    /// Preferred unit of discards; 0: unknown.
    pub(super) discard_granularity: u32,
    /// Whether it is a file on a journalling file system.
    pub(super) journalled: bool,
}

/// Why a store cannot be used with direct I/O, or not at all.
#[derive(Debug)]
pub(super) enum Problem {
    /// A call failed.
    Io(io::Error),
    /// There is no direct I/O.
    NotDirect,
}

impl From<Errno> for Problem {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

impl Store {
    /// Gets the properties of an open file, which is a regular file or a block device. With `direct` it is
    /// open with `O_DIRECT`.
    pub(super) fn ask(file: &File, direct: bool) -> Result<Self, Problem> {
        let stat = fstat(file)?;
        let device = file.metadata().map_err(Problem::Io)?.file_type();
        if std::os::unix::fs::FileTypeExt::is_block_device(&device) {
            Self::ask_device(file, direct, &stat)
        } else {
            Self::ask_file(file, direct, &stat)
        }
    }

    fn ask_device(file: &File, direct: bool, stat: &Stat) -> Result<Self, Problem> {
        let queue = Queue::of(stat.st_rdev);
        let block = ioctl_blksszget(file)?.max(512);
        let unit = if direct { block.max(memory_alignment(file)) } else { block };
        // The page cache writes whole pages without a read before.
        let physical = ioctl_blkpbszget(file)?.max(if direct { unit } else { PAGE.max(unit) });
        let discard = queue.number("discard_max_bytes").is_some_and(|bytes| bytes > 0);
        let write_through = queue.text("write_cache").is_some_and(|text| text == "write through");
        Ok(Self {
            device: true,
            unit,
            physical,
            io_opt: queue.size("optimal_io_size"),
            read_only: sys::is_read_only(file)?,
            rotational: queue.number("rotational") == Some(1),
            volatile_cache: !(direct && write_through),
            discard,
            discard_granularity: queue.size("discard_granularity"),
            journalled: false,
        })
    }

    fn ask_file(file: &File, direct: bool, stat: &Stat) -> Result<Self, Problem> {
        let unit = if direct { direct_unit(file)? } else { 512 };
        let system = fstatfs(file)?;
        #[expect(clippy::cast_sign_loss, reason = "magic numbers have 32 bits")]
        let kind = system.f_type as u64 & u64::from(u32::MAX);
        Ok(Self {
            device: false,
            unit,
            // The page cache and most file systems work in pages.
            physical: PAGE.max(unit),
            io_opt: 0,
            read_only: false,
            rotational: Queue::of(stat.st_dev).number("rotational") == Some(1),
            volatile_cache: true,
            discard: punches_holes(file, stat),
            discard_granularity: u32::try_from(system.f_bsize).unwrap_or(0),
            journalled: JOURNALLING.contains(&kind),
        })
    }
}

/// The unit of direct I/O on a regular file.
fn direct_unit(file: &File) -> Result<u32, Problem> {
    let asked = StatxFlags::DIOALIGN;
    let told = match statx(file, "", AtFlags::EMPTY_PATH, asked) {
        Ok(told) if told.stx_mask & asked.bits() != 0 => told,
        // A kernel before 6.1, or a file system that does not report it.
        Ok(_) | Err(Errno::NOSYS | Errno::INVAL) => return Ok(PAGE),
        Err(errno) => return Err(errno.into()),
    };
    match told.stx_dio_offset_align {
        0 => Err(Problem::NotDirect),
        // The buffers of a disk are aligned to its blocks only.
        unit => Ok(unit.max(told.stx_dio_mem_align).max(512).next_power_of_two()),
    }
}

/// The alignment of memory for direct I/O on a block device.
fn memory_alignment(device: &File) -> u32 {
    let asked = StatxFlags::DIOALIGN;
    match statx(device, "", AtFlags::EMPTY_PATH, asked) {
        Ok(told) if told.stx_mask & asked.bits() != 0 => told.stx_dio_mem_align.next_power_of_two(),
        // The logical block suffices then.
        _ => 0,
    }
}

/// Whether the file system of a regular file can free space. There is no data beyond the end of the file.
fn punches_holes(file: &File, stat: &Stat) -> bool {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let end = u64::try_from(stat.st_size).unwrap_or(0).next_multiple_of(PAGE.into());
    loop {
        match fallocate(file, flags, end, PAGE.into()) {
            Err(Errno::INTR) => {}
            result => return result.is_ok(),
        }
    }
}

/// The sysfs folder of a block device's queue. A partition has no queue, so it is that of the whole disk.
#[derive(Debug)]
struct Queue(PathBuf);

impl Queue {
    fn of(device: u64) -> Self {
        let folder = PathBuf::from(format!("/sys/dev/block/{}:{}", major(device), minor(device)));
        let whole =
            if folder.join("partition").exists() { folder.join("../queue") } else { folder.join("queue") };
        Self(whole)
    }

    fn text(&self, name: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.0.join(Path::new(name))).ok()?;
        Some(text.trim().to_owned())
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    /// A number of bytes; 0 if unknown.
    fn size(&self, name: &str) -> u32 {
        self.number(name).and_then(|bytes| u32::try_from(bytes).ok()).unwrap_or(0)
    }
}
