// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes a build root: resolves and downloads packages by a private apt, unpacks them, and makes the links and files
//! that installation scripts would have made.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use zosbd2_vm::arch;
use zosbd2_vm::kernels::{self, KernelName};
use zosbd2_vm::packages::{self, Archive};
use zosbd2_vm::suites::Suite;

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
    let _lock = kernels::lock()?;
    // The previous holder of the lock may have made the root.
    if !renew && recipe.made(folder) {
        return Ok(());
    }
    doing.detail("package lists");
    let fresh = parent.join(format!("{}.new", recipe.name));
    remove(&fresh)?;
    let archive = archive(recipe, &fresh.join("apt"))?;
    // Not those of the cached kernel: the suite that had it may have replaced it, or be inconsistent today.
    let headers = match recipe.headers {
        Some(line) => Some(kernels::newest_headers(&archive, line.parse::<KernelName>()?)?),
        None => None,
    };
    doing.detail("downloading");
    let names: Vec<String> = recipe.packages().chain(headers).collect();
    archive.download_all(&names, &fresh.join("debs"))?;
    let packages = unpack(&fresh.join("debs"), &fresh.join("tree"), doing)?;
    finish(&fresh.join("tree"))?;
    for (name, text) in [("packages", &packages), ("recipe", &recipe.text())] {
        write(&fresh.join(name), text)?;
    }
    for path in [&fresh.join("debs"), &fresh.join("apt")] {
        remove(path)?;
    }
    replace(folder, &fresh)?;
    remove_unused(folder)
}

/// Puts the fresh root into `folder`, and the old one beside it. Programs may be running in the old one, and others be
/// starting, so that there is always a root.
fn replace(folder: &Path, fresh: &Path) -> Result<()> {
    if folder.exists() {
        kernels::exchange(fresh, folder)?;
        let aside = (1..u32::MAX).map(|number| old(folder, &number.to_string())).find(|path| !path.exists());
        let aside = aside.context("too many old roots")?;
        return fs::rename(fresh, &aside).with_context(|| format!("rename {}", fresh.display()));
    }
    fs::rename(fresh, folder).with_context(|| format!("rename {}", fresh.display()))
}

/// Where an old root is kept.
fn old(folder: &Path, number: &str) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().display();
    folder.with_file_name(format!("{name}.old-{number}"))
}

/// Deletes the old roots of this name, but for those in which programs run: they hold a lock on `usr` (`enter.sh`).
fn remove_unused(folder: &Path) -> Result<()> {
    let beginning = old(folder, "");
    let parent = folder.parent().context("a root is in a folder")?;
    for entry in fs::read_dir(parent).with_context(|| format!("read {}", parent.display()))? {
        let path = entry?.path();
        if !path.as_os_str().as_encoded_bytes().starts_with(beginning.as_os_str().as_encoded_bytes()) {
            continue;
        }
        // An interrupted deletion may have left it without `usr`.
        let usr = File::open(path.join("tree/usr")).ok();
        if !matches!(usr.as_ref().map(File::try_lock), Some(Err(TryLockError::WouldBlock))) {
            remove(&path)?;
        }
    }
    Ok(())
}

/// The recipe's suites as one archive. `joined` is the folder for a configuration of several.
fn archive(recipe: &Recipe, joined: &Path) -> Result<Archive> {
    let open = |suite: &Suite| Archive::open(suite, arch::host().debian).map(Some);
    match packages::in_suites(recipe.suites, open)?.as_slice() {
        [] => bail!("the root {} has no suite", recipe.name),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A made-up root with this text in its tree.
    fn root(folder: &Path, text: &str) {
        fs::create_dir_all(folder.join("tree/usr")).unwrap();
        write(&folder.join("tree/usr/text"), text).unwrap();
    }

    #[test]
    fn an_old_root_is_kept_while_programs_run_in_it() {
        let parent = tempfile::tempdir().unwrap();
        let [folder, fresh, other] = ["sid", "sid.new", "side.old-1"].map(|name| parent.path().join(name));
        let text = |folder: &Path| fs::read_to_string(folder.join("tree/usr/text")).unwrap();
        root(&other, "another root's");
        let mut programs = Vec::new();
        for version in ["1", "2", "3"] {
            root(&fresh, version);
            replace(&folder, &fresh).unwrap();
            remove_unused(&folder).unwrap();
            assert_eq!(text(&folder), version);
            assert!(!fresh.exists());
            let program = File::open(folder.join("tree/usr")).unwrap();
            program.lock_shared().unwrap();
            programs.push(program);
        }
        assert_eq!((text(&old(&folder, "1")), text(&old(&folder, "2"))), ("1".to_owned(), "2".to_owned()));
        drop(programs.remove(0));
        remove_unused(&folder).unwrap();
        assert!(!old(&folder, "1").exists() && old(&folder, "2").exists());
        // What an interrupted deletion left.
        fs::create_dir_all(old(&folder, "7").join("tree/lib")).unwrap();
        programs.clear();
        remove_unused(&folder).unwrap();
        assert!(!old(&folder, "2").exists() && !old(&folder, "7").exists());
        assert!(other.exists() && folder.exists());
    }

    #[test]
    fn a_root_that_cannot_replace_another_stays_where_it_is() {
        let parent = tempfile::tempdir().unwrap();
        let [folder, fresh] = ["sid", "sid.new"].map(|name| parent.path().join(name));
        root(&folder, "1");
        let error = replace(&folder, &fresh).unwrap_err();
        assert!(error.to_string().contains("sid.new"), "{error}");
        assert_eq!(fs::read_to_string(folder.join("tree/usr/text")).unwrap(), "1");
    }
}
