// SPDX-License-Identifier: MIT OR Apache-2.0
//! File systems, the page cache, and small files of the kernel.

use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

/// A mounted file system. Dropping it unmounts lazily and ignores errors; tests that need the result call
/// [`unmount`](Self::unmount).
#[derive(Debug)]
pub(crate) struct Mounted {
    path: PathBuf,
}

impl Mounted {
    /// Mounts a device at a folder, which is created.
    #[track_caller]
    pub(crate) fn new(device: &str, folder: &str, kind: &str, options: &str) -> Self {
        Self::attempt(device, folder, kind, options)
            .unwrap_or_else(|error| panic!("mount {device} at {folder} as {kind}: {error}"))
    }

    /// Like [`new`](Self::new), but returns the kernel's error.
    pub(crate) fn attempt(device: &str, folder: &str, kind: &str, options: &str) -> std::io::Result<Self> {
        fs::create_dir_all(folder)?;
        let options = CString::new(options)?;
        rustix::mount::mount(device, folder, kind, MountFlags::empty(), options.as_c_str())?;
        Ok(Self { path: folder.into() })
    }

    /// Its folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Unmounts. The kernel must agree at once.
    #[track_caller]
    pub(crate) fn unmount(self) {
        rustix::mount::unmount(&self.path, UnmountFlags::empty())
            .unwrap_or_else(|error| panic!("unmount {}: {error}", self.path.display()));
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.path, UnmountFlags::DETACH);
    }
}

/// Writes dirty pages and drops clean ones, so that the next read comes from the device.
pub(crate) fn drop_caches() {
    rustix::fs::sync();
    write_text("/proc/sys/vm/drop_caches", "3");
}

/// Reads a small file, such as those under /sys and /proc.
#[track_caller]
pub(crate) fn read_trimmed(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("read {path}: {error}"));
    text.trim().to_owned()
}

/// Writes a small file, such as those under /sys and /proc.
#[track_caller]
pub(crate) fn write_text(path: &str, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("write \"{text}\" to {path}: {error}"));
}
