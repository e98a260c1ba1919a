// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files out of Debian packages, fetched through the private apt of `vm` into the cache, never installed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use zosbd2_vm::packages;
use zosbd2_vm::suites::{Suite, TRIXIE, TRIXIE_BACKPORTS};
use zosbd2_vm::{arch, kernels};

use crate::paths;

/// Suites to search: the Debian release with its backports has all packages that are needed.
const SUITES: [&Suite; 2] = [&TRIXIE, &TRIXIE_BACKPORTS];

/// Creates `folder` in the cache from the newest version of a package that `fits`. `unpack` gets the package file
/// and an empty folder to fill. The folder appears complete or not at all. `None` if no version fits.
pub(crate) fn fetch(
    name: &str,
    fits: impl Fn(&str) -> bool,
    folder: &Path,
    unpack: impl Fn(&Path, &Path) -> Result<()>,
) -> Result<Option<()>> {
    let work = paths::cache().join(format!("fetch-{name}-{}", std::process::id()));
    let _cleaner = Cleaner(work.clone());
    let lock = kernels::lock()?;
    let Some((archive, package)) = packages::find(name, &SUITES, arch::host().debian, fits)? else {
        return Ok(None);
    };
    let (download, unpacked) = (work.join("download"), work.join("unpacked"));
    for path in [&download, &unpacked] {
        fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))?;
    }
    archive.download(&[package], &download)?;
    drop(lock);
    let file = fs::read_dir(&download)?.next().with_context(|| format!("apt-get downloaded no {name}"))??;
    unpack(&file.path(), &unpacked)?;
    // Another process may have been faster. Then its folder serves as well.
    if let Err(error) = fs::rename(&unpacked, folder)
        && !folder.exists()
    {
        return Err(error).with_context(|| format!("rename {} to {}", unpacked.display(), folder.display()));
    }
    Ok(Some(()))
}

/// Removes a folder when dropped. A folder that cannot be removed only wastes space in the cache.
struct Cleaner(PathBuf);

impl Drop for Cleaner {
    fn drop(&mut self) {
        let _left = fs::remove_dir_all(&self.0);
    }
}
