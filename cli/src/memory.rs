// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bytes of a RAM disk, which outlive its server.
//!
//! With systemd, they are a memfd in the store of the unit. Without, they are a file in `/dev/shm`. The identity of the
//! device names the inode, so a server with other bytes cannot follow.

use crate::failure::{Code, Context as _, Failure, Result};
use crate::notice;
use crate::places;
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};

/// Name of the bytes in systemd's store.
const KEPT: &str = "ram";

/// The bytes, and what identifies them.
pub(crate) struct Memory {
    pub(crate) file: File,
    pub(crate) identity: String,
}

impl Memory {
    fn new(file: File) -> Result<Self> {
        let metadata = file.metadata().context("look at the bytes of the disk")?;
        Ok(Self { file, identity: format!("ram {:x}:{}", metadata.dev(), metadata.ino()) })
    }
}

/// The bytes of the disk, as the last server left them, or new ones. `existing`: the identity of the device, if there
/// is one; `server`: the process that serves it now.
pub(crate) fn find(name: &str, existing: Option<&[u8]>, server: Option<u32>) -> Result<Memory> {
    if existing.is_none() {
        // What an earlier disk of the name has left is nobody's, and must not be read again.
        forget(name);
    }
    let found = if notice::heard() {
        existing.and_then(|_| notice::kept(KEPT).or_else(|| server.and_then(|pid| of_process(name, pid))))
    } else {
        let path = places::memory(name);
        let (there, mut options) = (path.exists(), File::options());
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let open = || options.open(&path).context(format_args!("open {}", path.display()));
        if there || existing.is_none() { Some(open()?) } else { None }
    };
    if let Some(file) = found {
        let memory = Memory::new(file)?;
        if existing.is_none_or(|identity| identity == memory.identity.as_bytes()) {
            return Ok(memory);
        }
    }
    if existing.is_some() {
        return Err(Failure::new(
            Code::Lost,
            format!(
                "the bytes of RAM disk {name} are lost: they went with its last server. Its I/O fails from now on. \
                 `zosbd2 remove --force {name}` and `zosbd2 add ram` make a new disk"
            ),
        ));
    }
    let doing = format!("make the memory of disk {name}");
    let memory: File = memfd_create(file_name(name), MemfdFlags::CLOEXEC).context(&doing)?.into();
    notice::keep(&memory, KEPT)?;
    Memory::new(memory)
}

/// The disk is gone, and so are its bytes.
pub(crate) fn forget(name: &str) {
    if notice::heard() {
        notice::forget(KEPT);
    } else {
        let _ = fs::remove_file(places::memory(name));
    }
}

fn file_name(name: &str) -> String {
    format!("zosbd2-{name}")
}

/// The memory that another process has open.
fn of_process(name: &str, pid: u32) -> Option<File> {
    let wanted = format!("/memfd:{} (deleted)", file_name(name));
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten().map(|entry| entry.path());
    let path = entries
        .into_iter()
        .find(|path| fs::read_link(path).is_ok_and(|link| link.as_os_str() == wanted.as_str()))?;
    File::options().read(true).write(true).open(path).ok()
}
