// SPDX-License-Identifier: MIT OR Apache-2.0
//! A disk kept in a file or on another block device: options, and opening.

mod disk;
mod error;
mod lock;
mod store;

pub use disk::FileDisk;
pub use error::FileError;
pub use lock::Holder;

use self::lock::Locked;
use self::store::{Problem, Store};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::process::{Resource, getrlimit};
use zosbd2::{Backend as _, Errno};

/// Default of [`FileOptions::patience`]: how long to wait for a lock of another process.
const PATIENCE: Duration = Duration::from_secs(5);

/// Largest logical block of a disk.
const MAX_BLOCK: u32 = 4096;

/// How a [`FileDisk`] uses its file.
#[derive(Clone, Copy, Debug)]
pub struct FileOptions {
    direct: bool,
    read_only: bool,
    logical_block_size: Option<u32>,
    successor: bool,
    patience: Duration,
}

impl Default for FileOptions {
    /// Through the page cache, for reading and writing, with the smallest blocks that the file allows.
    fn default() -> Self {
        Self {
            direct: false,
            read_only: false,
            logical_block_size: None,
            successor: false,
            patience: PATIENCE,
        }
    }
}

impl FileOptions {
    /// Bypasses the page cache (`O_DIRECT`). The disk's blocks are then at least as large as the alignment of direct I/O on the file.
    #[must_use]
    pub fn direct(mut self, direct: bool) -> Self {
        self.direct = direct;
        self
    }

    /// Opens the file read-only. A read-only block device is always opened read-only, and makes a read-only
    /// disk.
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Logical block size in bytes, a power of two from 512 to 4096. The default is the smallest that the
    /// store allows: 512 for a file, the alignment of direct I/O on the file, or the logical block of a block
    /// device.
    #[must_use]
    pub fn logical_block_size(mut self, bytes: u32) -> Self {
        self.logical_block_size = Some(bytes);
        self
    }

    /// Opens the file although another server has it locked, to take over from that server and from no other. Takes
    /// the lock as soon as it is free; [`FileDisk::wait_for_lock`] waits for that.
    #[must_use]
    pub fn successor(mut self, successor: bool) -> Self {
        self.successor = successor;
        self
    }

    /// How long to wait while other processes have the file locked; 5 s by default. udev locks a block device
    /// for some 100 ms while it probes the device.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Opens the disk.
    ///
    /// The file gets an advisory lock of this process, because two servers would destroy the file, unless one
    /// takes over from the other: the kernel gives each request to one of them.
    ///
    /// The disk has the store's properties, as far as the system reports them: block size, read-only,
    /// rotational, discard, volatile cache.
    ///
    /// # Errors
    ///
    /// See [`FileError`].
    pub fn open(self, path: &Path) -> Result<FileDisk, FileError> {
        let failed = |operation| move |source| FileError::Io { operation, path: path.to_owned(), source };
        let (file, opened_read_only) = self.open_file(path)?;
        let kind = file.metadata().map_err(failed("look at"))?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(FileError::Kind { path: path.to_owned() });
        }
        let patience = if self.successor { Duration::ZERO } else { self.patience };
        let locked = match lock::lock(&file, patience).map_err(failed("lock"))? {
            Locked::Yes => true,
            Locked::No(_) if self.successor => false,
            Locked::No(holders) => {
                return Err(FileError::Locked { path: path.to_owned(), holders, waited: patience });
            }
        };
        let mut store = Store::ask(&file, self.direct).map_err(|problem| match problem {
            Problem::Io(source) => failed("look at")(source),
            Problem::NotDirect => FileError::NotDirect {
                path: path.to_owned(),
                why: "its file system reports so for this file",
            },
        })?;
        if store.unit > MAX_BLOCK {
            return Err(FileError::Unit { path: path.to_owned(), needed: store.unit });
        }
        let needed = store.unit;
        let block = self.logical_block_size.unwrap_or(needed);
        if !block.is_power_of_two() || block < needed || block > MAX_BLOCK {
            return Err(FileError::BlockSize { path: path.to_owned(), block, needed });
        }
        if (store.read_only || opened_read_only) && !self.read_only {
            tracing::warn!(path = %path.display(), "the device is read-only, and so is the disk");
        }
        store.read_only |= opened_read_only;
        let disk = FileDisk::new(file, path, store, block, locked);
        let size = disk.size();
        if size == 0 {
            return Err(FileError::Empty { path: path.to_owned(), block });
        }
        warn(path, &store, size);
        Ok(disk)
    }

    /// The file, and whether it is open read-only.
    fn open_file(self, path: &Path) -> Result<(File, bool), FileError> {
        let flags = if self.direct { OFlags::DIRECT } else { OFlags::empty() };
        let open = |write| {
            OpenOptions::new()
                .read(true)
                .write(write)
                .custom_flags(i32::try_from(flags.bits()).unwrap_or_default())
                .open(path)
        };
        let is = |error: &io::Error, errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
        let device = || std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device());
        match open(!self.read_only) {
            Ok(file) => Ok((file, self.read_only)),
            // Some drivers refuse the open, others the first write.
            Err(error) if !self.read_only && is(&error, Errno::ROFS) && device() => open(false)
                .map(|file| (file, true))
                .map_err(|source| FileError::Io { operation: "open", path: path.to_owned(), source }),
            Err(error) if self.direct && is(&error, Errno::INVAL) => Err(FileError::NotDirect {
                path: path.to_owned(),
                why: "its file system does not support it",
            }),
            Err(source) => Err(FileError::Io { operation: "open", path: path.to_owned(), source }),
        }
    }
}

/// Logs warnings for users of such a store.
fn warn(path: &Path, store: &Store, size: u64) {
    let path = path.display();
    if store.read_only {
        return;
    }
    if store.journalled {
        tracing::warn!(
            %path,
            "a file on a journalling file system: swapping on this disk can freeze the machine; \
             for swap use a device or partition (docs/recovery.md, Swap)"
        );
    }
    let limit = if store.device { None } else { getrlimit(Resource::Fsize).current };
    if let Some(limit) = limit.filter(|limit| *limit < size) {
        tracing::warn!(%path, limit, size, "RLIMIT_FSIZE: writes beyond this limit will fail (EFBIG)");
    }
}
