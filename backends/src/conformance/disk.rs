// SPDX-License-Identifier: MIT OR Apache-2.0
//! A block device as the suite's target.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, OFlags, fallocate, fdatasync, major, minor};
use rustix::io::{IoSlice, ReadWriteFlags, pwritev2};
use zosbd2::{Control, Errno};

use super::{MIN_BLOCKS, Target};

/// Why a block device cannot be tested.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The node is something else.
    #[error("{} is not a block device", .0.display())]
    NotBlock(PathBuf),
    /// The process may not open the node.
    #[error("only root may write to {}", .0.display())]
    NotAllowed(PathBuf),
    /// Something else writes to the device.
    #[error("{} is in use: {by}", node.display())]
    InUse {
        /// The node.
        node: PathBuf,
        /// What uses it.
        by: String,
    },
    /// The suite has no room.
    #[error("{} has {size} bytes, and the suite needs {least} (64 blocks of {block})", node.display())]
    TooSmall {
        /// The node.
        node: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The smallest size.
        least: u64,
        /// The logical block size.
        block: u32,
    },
    /// A file cannot be opened, read or parsed.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

/// A block device, used with direct I/O.
#[derive(Debug)]
pub struct Disk {
    file: File,
    size: u64,
    block: u32,
    discards: bool,
    zeroes: bool,
    read_only: bool,
}

/// Alignment of memory for direct I/O.
const ALIGNMENT: usize = 4096;

impl Disk {
    /// Opens the node of a disk or a partition. A writable one is opened exclusively, so the error says so if it is mounted.
    /// The limits are read from sysfs, which is found by the number of the device, whatever its name.
    ///
    /// # Errors
    ///
    /// If the node is not a block device that can be opened and has 64 blocks.
    pub fn open(node: &Path) -> Result<Self, DiskError> {
        let number = device_number(node)?;
        let folder = sysfs(number)?;
        // A partition has a size and a write protection of its own, and the queue of its disk.
        let queue = whole_disk(&folder).join("queue");
        let read_only = read_number(&folder.join("ro"))? != 0;
        let block = queue.join("logical_block_size");
        let block = u32::try_from(read_number(&block)?).map_err(|error| DiskError::Io {
            action: "parse",
            path: block,
            source: io::Error::other(error),
        })?;
        let size = read_number(&folder.join("size"))? * 512;
        let least = MIN_BLOCKS * u64::from(block);
        if size < least {
            return Err(DiskError::TooSmall { node: node.to_owned(), size, least, block });
        }
        let flags = if read_only { OFlags::DIRECT } else { OFlags::DIRECT | OFlags::EXCL };
        let flags = i32::try_from(flags.bits()).unwrap_or_default();
        let opened = OpenOptions::new().read(true).write(!read_only).custom_flags(flags).open(node);
        let file = opened.map_err(|source| match Errno::from_io_error(&source) {
            Some(Errno::BUSY) => DiskError::InUse { node: node.to_owned(), by: user(number, &folder) },
            Some(Errno::ACCESS | Errno::PERM) => DiskError::NotAllowed(node.to_owned()),
            _ => DiskError::Io { action: "open", path: node.to_owned(), source },
        })?;
        Ok(Self {
            file,
            size,
            block,
            discards: read_number(&queue.join("discard_max_bytes"))? != 0,
            zeroes: read_number(&queue.join("write_zeroes_max_bytes"))? != 0,
            read_only,
        })
    }

    /// Whether the node is a disk of zosbd2, or a partition of one. Asks the kernel module, so only root can know.
    ///
    /// # Errors
    ///
    /// If the node is not a block device. A module that cannot be asked has no disks.
    pub fn is_zosbd2(node: &Path) -> Result<bool, DiskError> {
        let disk = whole_disk(&sysfs(device_number(node)?)?);
        let of_disk = fs::read_to_string(disk.join("dev")).unwrap_or_default();
        let Ok(control) = Control::open() else { return Ok(false) };
        let listed = control.list().unwrap_or_default();
        // A device may be destroyed between the two calls.
        let statuses = listed.iter().filter_map(|device| control.status(&device.name).ok());
        let mut numbers = statuses.filter_map(|status| status.device_number);
        Ok(numbers.any(|(major, minor)| of_disk.trim() == format!("{major}:{minor}")))
    }
}

/// The number of a block device.
fn device_number(node: &Path) -> Result<u64, DiskError> {
    let metadata = fs::metadata(node).map_err(|source| DiskError::Io {
        action: "examine",
        path: node.to_owned(),
        source,
    })?;
    if !metadata.file_type().is_block_device() {
        return Err(DiskError::NotBlock(node.to_owned()));
    }
    Ok(metadata.rdev())
}

/// The folder in sysfs of a block device.
fn sysfs(number: u64) -> Result<PathBuf, DiskError> {
    let link = PathBuf::from(format!("/sys/dev/block/{}:{}", major(number), minor(number)));
    fs::canonicalize(&link).map_err(|source| DiskError::Io { action: "find", path: link, source })
}

/// The folder of the disk that a folder of a block device belongs to.
fn whole_disk(folder: &Path) -> PathBuf {
    let disk = if folder.join("partition").exists() { folder.parent() } else { None };
    disk.unwrap_or(folder).to_owned()
}

fn read_number(path: &Path) -> Result<u64, DiskError> {
    let failed = |action| move |source| DiskError::Io { action, path: path.to_owned(), source };
    let text = fs::read_to_string(path).map_err(failed("read"))?;
    text.trim().parse().map_err(io::Error::other).map_err(failed("parse"))
}

/// What uses a device that cannot be opened exclusively.
fn user(number: u64, folder: &Path) -> String {
    // "36 35 98:0 ROOT PLACE OPTIONS ..."
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let own = format!("{}:{}", major(number), minor(number));
    let mounted = mounts.lines().find_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        (words.get(2) == Some(&own.as_str())).then(|| words.get(4).copied().unwrap_or_default().to_owned())
    });
    let entries = fs::read_dir(folder.join("holders")).into_iter().flatten().flatten();
    let holders: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    match mounted {
        Some(place) => format!("it is mounted at {place}"),
        None if !holders.is_empty() => format!("it is part of {}", holders.join(", ")),
        None => {
            "one of its partitions is mounted, it is swap, or a program has it open exclusively".to_owned()
        }
    }
}

/// Calls `with` with an aligned buffer of `length` bytes.
fn aligned<R>(length: usize, with: impl FnOnce(&mut [u8]) -> R) -> R {
    let mut storage = vec![0_u8; length + ALIGNMENT];
    let start = storage.as_ptr().align_offset(ALIGNMENT);
    with(&mut storage[start..start + length])
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

impl Target for Disk {
    fn size(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> u32 {
        self.block
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn can_discard(&self) -> bool {
        self.discards
    }

    fn can_write_zeroes(&self) -> bool {
        self.zeroes
    }

    fn sees_the_outside(&self) -> bool {
        false
    }

    fn any_thread(&self) -> bool {
        true
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        aligned(buffer.len(), |own| {
            self.file.read_exact_at(own, offset).map_err(|error| errno(&error))?;
            buffer.copy_from_slice(own);
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8], fua: bool) -> Result<(), Errno> {
        aligned(data.len(), |own| {
            own.copy_from_slice(data);
            let flags = if fua { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
            match pwritev2(&self.file, &[IoSlice::new(own)], offset, flags) {
                Ok(written) if written == own.len() => Ok(()),
                Ok(_) => Err(Errno::IO),
                Err(errno) => Err(errno),
            }
        })
    }

    fn flush(&self) -> Result<(), Errno> {
        fdatasync(&self.file)
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), Errno> {
        // fallocate has lost its mode for that in newer kernels.
        crate::sys::discard(&self.file, offset, length)
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> Result<(), Errno> {
        let mode = if unmap { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
        fallocate(&self.file, mode | FallocateFlags::KEEP_SIZE, offset, length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_block_device_is_refused_by_its_name() {
        for path in ["/dev/null", "/proc/self/status", "/"] {
            let error = Disk::open(Path::new(path)).unwrap_err();
            assert_eq!(error.to_string(), format!("{path} is not a block device"));
        }
        let error = Disk::open(Path::new("/nonexistent")).unwrap_err();
        assert_eq!(error.to_string(), "examine /nonexistent");
    }

    #[test]
    fn a_partition_has_the_queue_of_its_disk() {
        let folder = tempfile::tempdir().unwrap();
        let partition = folder.path().join("sda/sda1");
        fs::create_dir_all(&partition).unwrap();
        let disk = folder.path().join("sda");
        assert_eq!(whole_disk(&disk), disk);
        fs::write(partition.join("partition"), "1\n").unwrap();
        assert_eq!(whole_disk(&partition), disk);
    }
}
