// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cache of kernels: one folder per release, and per name a file with the release that is used.

use super::lines::KernelName;
use super::unpack::{image_file, modules_folder};
use crate::error::file;
use crate::{Error, Result};
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// A kernel in the cache.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its short name.
    pub name: KernelName,
    /// Its `uname -r`.
    pub release: String,
    /// The image that QEMU boots.
    pub vmlinuz: PathBuf,
    /// The folder with `kernel/`, `modules.dep` and `modules.builtin`.
    pub modules: PathBuf,
    /// Value of `KDIR=` for building modules.
    pub headers: PathBuf,
}

/// The cache folder: `ZOSBD2_CACHE`, or `kernels` in cargo's target folder of this project. An absolute path.
#[must_use]
pub fn cache() -> PathBuf {
    named_cache().unwrap_or_else(|| target().join("kernels"))
}

/// The folder that `ZOSBD2_CACHE` names, as an absolute path.
#[must_use]
pub fn named_cache() -> Option<PathBuf> {
    std::env::var_os("ZOSBD2_CACHE").map(absolute)
}

/// A path that the environment names, relative to the working folder. Programs that run in another folder get the
/// absolute path.
fn absolute(path: OsString) -> PathBuf {
    let path = PathBuf::from(path);
    // This fails only if the path is empty, or the working folder was removed.
    std::path::absolute(&path).unwrap_or(path)
}

/// Cargo's target folder of this project. An absolute path.
#[must_use]
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target"), absolute)
}

/// MiB free where `path` is or will be.
pub fn free_mib(path: &Path) -> Result<u64> {
    let there = path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(there).map_err(|error| file("examine", there)(error.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize) >> 20)
}

/// Fails unless `need` MiB are free where `path` is or will be.
pub fn require_free(path: &Path, need: u64) -> Result<()> {
    let free = free_mib(path)?;
    if free < need {
        return Err(Error::DiskSpace { path: path.to_owned(), free, need });
    }
    Ok(())
}

/// Waits for the cache's lock, which is held until the file is dropped. A thread that holds it must not call this
/// or [`fetch`](super::fetch).
pub fn lock() -> Result<File> {
    let cache = cache();
    fs::create_dir_all(&cache).map_err(file("create", &cache))?;
    let path = cache.join("lock");
    let lock = File::create(&path).map_err(file("create", &path))?;
    lock.lock().map_err(file("lock", &path))?;
    Ok(lock)
}

/// Finds the kernel that is used for a name.
pub fn find(name: KernelName) -> Result<Kernel> {
    let chosen = cache().join(format!("{name}.release"));
    let release = fs::read_to_string(&chosen).map_err(|_| missing(name))?;
    find_release(name, release.trim())
}

/// Finds one release of a name. Superseded releases stay in the cache.
pub fn find_release(name: KernelName, release: &str) -> Result<Kernel> {
    // The debug kernel's configuration may have changed since the build.
    if name.version_of(release).is_none() {
        return Err(missing(name));
    }
    in_tree(name, release, &cache().join(release)).ok_or_else(|| missing(name))
}

/// The kernel of the cache with these headers, if they are in the cache.
#[must_use]
pub fn cached(headers: &Path) -> Option<Kernel> {
    let release = headers.file_name()?.to_str()?.strip_prefix("linux-headers-")?;
    let mut kernels = KernelName::all_stock().filter_map(|name| find_release(name, release).ok());
    kernels.find(|kernel| kernel.headers.canonicalize().is_ok_and(|path| path == headers))
}

fn missing(name: KernelName) -> Error {
    if name.is_debug() { Error::NotBuilt } else { Error::NotFetched(name.to_string()) }
}

/// The kernel that is unpacked in `tree`, if it is complete.
fn in_tree(name: KernelName, release: &str, tree: &Path) -> Option<Kernel> {
    let headers = tree.join("usr/src").join(format!("linux-headers-{release}"));
    let modules = modules_folder(tree, release);
    let complete = headers.exists() && modules.exists();
    let vmlinuz = image_file(tree, release).filter(|_| complete)?;
    Some(Kernel { name, release: release.to_owned(), vmlinuz, modules, headers })
}

/// Makes [`find`] return this cached release for the name.
pub fn choose(name: KernelName, release: &str) -> Result<()> {
    let cache = cache();
    let chosen = cache.join(format!("{name}.release"));
    let fresh = cache.join(format!("{name}.release.new"));
    fs::write(&fresh, format!("{release}\n")).map_err(file("write", &fresh))?;
    fs::rename(&fresh, &chosen).map_err(file("rename", &fresh))
}

/// Exchanges two folders in one step, so that there is always something at both paths.
pub fn exchange(one: &Path, other: &Path) -> Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)
        .map_err(|error| file("exchange", one)(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::unpack::tests::{Scratch, WHOLE, split};

    #[test]
    fn folders_of_the_environment_are_absolute() {
        let here = std::env::current_dir().unwrap();
        for (named, path) in [
            ("cache", here.join("cache")),
            ("./cache/kernels/", here.join("cache/kernels")),
            ("/var/cache", PathBuf::from("/var/cache")),
        ] {
            assert_eq!(absolute(named.into()), path);
        }
        assert!(cache().is_absolute() && target().is_absolute());
    }

    #[test]
    fn kernels_of_both_layouts_are_found() {
        for (name, release, files) in [
            ("6.1", "6.1.0-57-cloud-amd64", WHOLE.map(str::to_owned).to_vec()),
            ("backports", "7.3.4+deb13-cloud-amd64", split("7.3.4+deb13-cloud-amd64")),
        ] {
            let name: KernelName = name.parse().unwrap();
            let scratch = Scratch::new();
            let headers = format!("usr/src/linux-headers-{release}/Makefile");
            for path in files.iter().chain([&headers]) {
                assert!(in_tree(name, release, &scratch.0).is_none(), "complete without {path}");
                scratch.write(path, "");
            }
            let kernel = in_tree(name, release, &scratch.0).expect("complete");
            assert!(kernel.vmlinuz.is_file());
            assert!(kernel.modules.join("kernel").is_dir());
        }
    }
}
