// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes a build root: resolves and downloads packages by a private apt, unpacks them, and does by hand the little
//! of their installation scripts that compilers need.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use zosbd2_vm::arch;
use zosbd2_vm::kernels::{self, KernelName};
use zosbd2_vm::packages::{Archive, Index as _};

use super::recipes::Recipe;
use crate::command;
use crate::narrate::Doing;

/// MiB that a root and its packages need at most.
const NEED: u64 = 2048;

/// Unpacks a package. `dpkg-deb -x` would replace the link `bin` by a folder.
const UNPACK: &str =
    "set -o pipefail; dpkg-deb --fsys-tarfile \"$0\" | tar -xp --keep-directory-symlink -C \"$1\"";

/// Makes the root in `folder`, or replaces it if `renew` is set or the recipe has changed.
pub(super) fn make(recipe: &Recipe, folder: &Path, renew: bool, doing: &Doing) -> Result<()> {
    let parent = folder.parent().context("a root is in a folder")?;
    for path in [parent, &parent.join("mount")] {
        fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))?;
    }
    kernels::require_free(parent, NEED)?;
    let line: Option<KernelName> = recipe.headers.map(str::parse).transpose()?;
    // The archive may have replaced the cached kernel, whose headers are then gone.
    for update in [false, true] {
        // Fetching takes the cache's lock, too.
        let kernel = line.map(|line| kernels::fetch(line, update)).transpose()?;
        let headers = kernel.map(|kernel| format!("linux-headers-{}", kernel.release));
        let _lock = kernels::lock()?;
        // The previous holder of the lock may have made the root.
        if !renew && recipe.made(folder) {
            return Ok(());
        }
        doing.detail("package lists");
        let fresh = parent.join(format!("{}.new", recipe.name));
        remove(&fresh)?;
        let archive = archive(recipe, &fresh.join("apt"))?;
        if let Some(headers) = &headers
            && archive.versions(std::slice::from_ref(headers))?.is_empty()
        {
            continue;
        }
        doing.detail("downloading");
        let names: Vec<String> = recipe.packages().chain(headers).collect();
        archive.download_all(&names, &fresh.join("debs"))?;
        let packages = unpack(&fresh.join("debs"), &fresh.join("tree"), doing)?;
        finish(&fresh.join("tree"))?;
        for (name, text) in [("packages", &packages), ("recipe", &recipe.text())] {
            write(&fresh.join(name), text)?;
        }
        for path in [&fresh.join("debs"), &fresh.join("apt"), folder] {
            remove(path)?;
        }
        return fs::rename(&fresh, folder).with_context(|| format!("rename {}", fresh.display()));
    }
    bail!("no suite has the headers of its own kernel: the archive may be changing, so try again later")
}

/// The recipe's suites as one archive. `joined` is the folder for a configuration of several.
fn archive(recipe: &Recipe, joined: &Path) -> Result<Archive> {
    let (mut archives, mut errors) = (Vec::new(), Vec::new());
    for suite in recipe.suites {
        match Archive::open(suite, arch::host().debian) {
            Ok(archive) => archives.push(archive),
            Err(error) => errors.push(error),
        }
    }
    match archives.as_slice() {
        [] => match errors.into_iter().next() {
            Some(error) => Err(error.into()),
            None => bail!("the root {} has no suite", recipe.name),
        },
        [only] => Ok(only.clone()),
        several => Ok(Archive::together(joined, several)?),
    }
}

/// Unpacks all packages, and returns a line with name and version for each.
fn unpack(debs: &Path, tree: &Path, doing: &Doing) -> Result<String> {
    // As on every Debian machine since 12. Packages of 12 still have files in /bin.
    for name in ["bin", "sbin", "lib", "lib64"] {
        let real = tree.join("usr").join(name);
        fs::create_dir_all(&real).with_context(|| format!("create {}", real.display()))?;
        link(&format!("usr/{name}"), &tree.join(name))?;
    }
    let entries = fs::read_dir(debs).with_context(|| format!("read {}", debs.display()))?;
    let files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
    let mut files: Vec<_> = files
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect();
    files.sort();
    let mut packages = String::new();
    for (number, deb) in files.iter().enumerate() {
        doing.detail(format!("{number} of {} packages unpacked", files.len()));
        command::finish(Command::new("bash").args(["-c", UNPACK]).arg(deb).arg(tree))?;
        let mut query = Command::new("dpkg-deb");
        query.args(["-W", "--showformat=${Package} ${Version}\n"]).arg(deb);
        packages += &String::from_utf8_lossy(&command::finish(&mut query)?.stdout);
    }
    Ok(packages)
}

/// Does what installation scripts would have done.
fn finish(tree: &Path) -> Result<()> {
    for (to, name) in [("dash", "sh"), ("mawk", "awk"), ("gcc", "cc")] {
        let path = tree.join("usr/bin").join(name);
        if fs::symlink_metadata(&path).is_err() && tree.join("usr/bin").join(to).exists() {
            link(to, &path)?;
        }
    }
    let etc = tree.join("etc");
    fs::create_dir_all(&etc).with_context(|| format!("create {}", etc.display()))?;
    write(&etc.join("passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    write(&etc.join("group"), "root:x:0:\n")?;
    Ok(())
}

fn link(to: &str, path: &Path) -> Result<()> {
    symlink(to, path).with_context(|| format!("link {} to {to}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    Ok(())
}
