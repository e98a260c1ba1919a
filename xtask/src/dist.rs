// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask dist`: the source archive of a release, which builds the module without Rust.
//!
//! The archive holds the project's files and, in `kernel/rust`, the Rust object for each set of kernels in the table of
//! `zosbd2_vm::arch`: NAME.o, NAME.conf with the options that such a kernel has, SHA256SUMS, and TOOLS with the packages
//! whose programs and libraries made them. All of the object's gates are checked. `kernel/build.sh` chooses among the
//! objects.
//!
//! The same commit is to give the same bytes everywhere: the programs are those of a build root, and the archive's times
//! are the commit's. rustc loads its code generator from another package (libllvm), so every package of the root
//! must have the version in [`PACKAGES`]. Other versions are refused, unless `--other-tools` is given; Debian's updates
//! change them. `--check` makes the archive a second time on this host, in the same root, from a copy of the sources in
//! another folder and with a `core` of its own, and compares. A tree with uncommitted changes makes an archive whose
//! name says so.

#[cfg(test)]
mod build_sh;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use zosbd2_vm::arch::{self, Arch, Prebuilt};

use crate::lock::lock;
use crate::root::{Root, RootKind};
use crate::rust_flags::Config;
use crate::rust_object::{self, Inputs};
use crate::toolchain::Toolchain;
use crate::{command, narrate, paths, rust_flags};

/// Arguments of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Make the archive a second time in another folder, and fail if the two differ
    #[arg(long)]
    check: bool,
    /// Accept other packages in the build root than those that made the last release
    #[arg(long)]
    other_tools: bool,
}

/// Every package of the root that makes archives, with its version, a line each.
const PACKAGES: &str = include_str!("dist/packages");

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let packages = Root::open(RootKind::Rust)?.packages()?;
    let differences = differences(&packages, PACKAGES);
    ensure!(
        differences.is_empty() || arguments.other_tools,
        "the build root has other packages than those that make archives: {}. Say --other-tools, or put the sorted \
         lines of the root's file `packages` into xtask/src/dist/packages",
        differences.join("; ")
    );
    let archive = archive()?;
    println!("{}", archive.display());
    if arguments.check {
        println!("{}", same_elsewhere(&toolchain()?, &archive)?);
    }
    Ok(())
}

/// How a list of packages differs from the wanted one.
fn differences(packages: &str, wanted: &str) -> Vec<String> {
    let versions =
        |text| -> BTreeMap<&str, &str> { str::lines(text).filter_map(|line| line.split_once(' ')).collect() };
    let (packages, wanted) = (versions(packages), versions(wanted));
    let names: BTreeSet<&str> = packages.keys().chain(wanted.keys()).copied().collect();
    let version = |of: &BTreeMap<_, _>, name| of.get(name).copied().unwrap_or("none");
    let pairs = names.into_iter().map(|name| (name, version(&packages, name), version(&wanted, name)));
    let different = pairs.filter(|(_, is, wanted)| is != wanted);
    different.map(|(name, is, wanted)| format!("{name} {is} instead of {wanted}")).collect()
}

/// Debian 13's Rust.
fn toolchain() -> Result<Toolchain> {
    Root::open(RootKind::Rust).map(Toolchain::Root)
}

/// Waits while another command makes archives.
pub(crate) fn lock_archives() -> Result<File> {
    lock(&paths::root().join("target/dist/lock"), "another command that makes the archive")
}

/// The archive. The first call makes it.
pub(crate) fn archive() -> Result<PathBuf> {
    static MADE: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(archive) = made.as_ref() {
        return Ok(archive.clone());
    }
    let toolchain = toolchain()?;
    let lock = lock_archives()?;
    let archive = make(&toolchain, &paths::root(), &paths::root().join("target/dist"), None)?;
    drop(lock);
    *made = Some(archive.clone());
    Ok(archive)
}

/// Makes the release archive, and makes it again in another folder.
pub(crate) fn reproducible() -> Result<String> {
    same_elsewhere(&toolchain()?, &archive()?)
}

/// Makes the release archive again in the same root, from a copy of its own sources in another folder and with a `core`
/// that is compiled for it. An error if the two differ.
fn same_elsewhere(toolchain: &Toolchain, archive: &Path) -> Result<String> {
    let folder = paths::root().join("target/dist-elsewhere/in-another-folder");
    let sources = folder.join("sources");
    let _lock = lock_archives()?;
    clear(&sources)?;
    copy_files(&paths::root(), &sources)?;
    let again = make(toolchain, &sources, &folder, Some(&folder.join("cores")))?;
    let (first, second) = (read(archive)?, read(&again)?);
    ensure!(
        first == second,
        "{} and {} differ: something in the archive depends on the folder in which it is made, or on the compiled core",
        archive.display(),
        again.display()
    );
    Ok(format!("{} bytes, the same from two folders with a core each", first.len()))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// Makes the release archive of these sources below `folder`. The caller holds the lock of [`lock_archives`].
fn make(toolchain: &Toolchain, sources: &Path, folder: &Path, cores: Option<&Path>) -> Result<PathBuf> {
    let changed = command::has_changes()?;
    let name = format!("zosbd2-{}{}", env!("CARGO_PKG_VERSION"), if changed { "-changed" } else { "" });
    let tree = folder.join(&name);
    clear(&tree)?;
    copy_files(sources, &tree)?;
    objects(toolchain, sources, cores, &folder.join("objects"), &tree.join("kernel/rust"))?;
    let archive = folder.join(format!("{name}.tar.xz"));
    let tar = folder.join(format!("{name}.tar"));
    let time = command::git(&["log", "-1", "--format=%ct"])?;
    let mut packed = toolchain.program("tar");
    packed.args([
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--mode=u+rw,go=rX",
        "--format=gnu",
    ]);
    packed.arg(format!("--mtime=@{}", time.trim())).arg("-C").arg(folder).arg("-cf").arg(&tar).arg(&name);
    command::finish(&mut packed)?;
    let mut compressed = toolchain.program("xz");
    command::finish(compressed.args(["--threads=1", "-6", "--force"]).arg(&tar))?;
    Ok(archive)
}

fn clear(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))
}

/// Copies the project's files, with their modes. Plans and what runs the tests are not for users.
pub(crate) fn copy_files(from: &Path, to: &Path) -> Result<()> {
    for name in command::git(&["ls-files", "-z"])?.split_terminator('\0') {
        if name.starts_with("docs/plans/") || name.starts_with(".ci/") {
            continue;
        }
        let (source, target) = (from.join(name), to.join(name));
        let parent = target.parent().context("a file without a folder")?;
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        fs::copy(&source, &target).with_context(|| format!("copy {}", source.display()))?;
    }
    Ok(())
}

/// Makes every object into `out`.
fn objects(
    toolchain: &Toolchain,
    sources: &Path,
    cores: Option<&Path>,
    work: &Path,
    out: &Path,
) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    let write = |name: &str, text: &str| {
        let path = out.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    };
    let mut names = Vec::new();
    for arch in arch::ALL {
        for prebuilt in arch.prebuilt {
            let _doing = narrate::doing(format!("making the Rust object {}", prebuilt.name));
            let config = config(arch, prebuilt);
            let inputs = Inputs { toolchain, config: &config, faults: false, sources, cores, more: &[] };
            let object = rust_object::build(&inputs, &work.join(prebuilt.name))?;
            let name = format!("{}.o", prebuilt.name);
            fs::copy(&object, out.join(&name)).with_context(|| format!("copy {}", object.display()))?;
            write(&format!("{}.conf", prebuilt.name), &conditions(prebuilt))?;
            names.extend([name, format!("{}.conf", prebuilt.name)]);
        }
    }
    let mut sums = Command::new("sha256sum");
    let sums = command::finish(sums.args(&names).current_dir(out))?;
    write("SHA256SUMS", &String::from_utf8_lossy(&sums.stdout))?;
    write("TOOLS", &Root::open(RootKind::Rust)?.packages()?)
}

/// The configuration for which an object is made: what it asks for, and each hardening that does no harm elsewhere.
fn config(arch: &Arch, prebuilt: &Prebuilt) -> Config {
    let harmless = arch.flags.hardening.iter().filter(|option| !option.needs_kernel);
    let harmless = harmless.flat_map(|option| option.wanted_by).map(|&name| (name, "y"));
    let conditions = prebuilt.conditions.iter().filter(|(_, value)| *value != "n");
    let conditions = conditions.flat_map(|&(names, value)| names.split('|').map(move |name| (name, value)));
    Config::of(harmless.chain(conditions))
}

/// The conditions as `kernel/build.sh` reads them.
fn conditions(prebuilt: &Prebuilt) -> String {
    rust_flags::conditions_text(prebuilt.conditions.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_made_for_the_kernels_that_its_conditions_describe() {
        for arch in arch::ALL {
            for prebuilt in arch.prebuilt {
                let config = config(arch, prebuilt);
                for (names, value) in prebuilt.conditions {
                    for name in names.split('|') {
                        assert_eq!(config.value(name).unwrap_or("n"), *value, "{}: {name}", prebuilt.name);
                    }
                }
                assert!(std::ptr::eq(config.arch().unwrap(), arch));
                // What the object asks for by its flags is among them.
                for (names, value) in rust_flags::conditions(&config).unwrap() {
                    let found = prebuilt.conditions.iter().any(|known| *known == (&names, &value));
                    assert!(found, "{}: {names}={value}", prebuilt.name);
                }
            }
        }
    }

    #[test]
    fn other_packages_are_named() {
        assert_eq!(differences(PACKAGES, PACKAGES), [""; 0]);
        // The code generator is no part of the package rustc.
        let version = PACKAGES.lines().find_map(|line| line.strip_prefix("libllvm19 ")).unwrap();
        let rebuilt = PACKAGES.replace(&format!("libllvm19 {version}"), "libllvm19 1:19.1.7-3+b2");
        assert_eq!(
            differences(&rebuilt, PACKAGES),
            [format!("libllvm19 1:19.1.7-3+b2 instead of {version}")]
        );
        assert_eq!(differences("a 1\nc 1\n", "a 1\nb 2\n"), ["b none instead of 2", "c 1 instead of none"]);
        for package in ["rustc", "libllvm19", "rust-src", "binutils", "libc6", "tar", "xz-utils"] {
            assert!(PACKAGES.lines().any(|line| line.starts_with(&format!("{package} "))), "{package}");
        }
        assert!(PACKAGES.lines().is_sorted());
    }
}
