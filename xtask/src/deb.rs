// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask deb`, behind `make deb`: Debian's packages, in `target/deb`.
//!
//! `zosbd2-dkms` has the module's part of the release archive, with the Rust objects; `zosbd2` and `libzosbd2-dev` have an
//! installation below `/usr` (`install`). debhelper makes the packages from `packaging/debian`, because it writes the parts
//! of the maintainer scripts that every package has (DKMS), finds the libraries that the command needs, and sets modes and
//! times. lintian checks the result.
//!
//! The same commit gives the same packages, if compiler and debhelper are the same. `--check` makes them a second time from
//! another folder and compares, and then installs them in Debian systems in folders (`debian_systems`).

mod debian_systems;
#[cfg(test)]
mod scripts;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use zosbd2_vm::kernels;

use crate::install::{Tree, VERSION, compile, create, names, remove_folder, write};
use crate::lock::lock;
use crate::tally::Tally;
use crate::{command, dist, narrate, paths, setup};

/// Arguments of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Make the packages a second time in another folder and compare; install, upgrade and purge them on Debian 12 and 13
    #[arg(long)]
    check: bool,
    /// Take this program as the command
    #[arg(long)]
    command: Option<PathBuf>,
    /// Take the module's source from this release archive, instead of making one
    #[arg(long)]
    archive: Option<PathBuf>,
    /// Append this to the version, such as +1, for tests of upgrades
    #[arg(long, default_value = "")]
    suffix: String,
    /// Folder for the packages, instead of target/deb
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Parts of the release archive that DKMS gets: what builds the module, and the sources of the Rust objects.
const MODULE: [&str; 5] =
    ["abi", "engine", "kernel", "LICENSES/GPL-2.0-only.txt", "LICENSES/Linux-syscall-note.txt"];

/// Makes the packages, and checks them as `--check` does.
pub(crate) fn results() -> Result<Tally> {
    go(&Arguments { check: true, command: None, archive: None, suffix: String::new(), out: None })
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    go(arguments).map(drop)
}

fn go(arguments: &Arguments) -> Result<Tally> {
    setup::install_packages(&setup::PACKAGING)?;
    let target = kernels::target().join("deb");
    let out = match &arguments.out {
        Some(out) => {
            create(out)?;
            out.canonicalize().with_context(|| format!("find {}", out.display()))?
        }
        None => target.clone(),
    };
    let _lock = lock(&target.join("lock"), "another command that makes packages")?;
    let program = match &arguments.command {
        Some(program) => program.canonicalize().with_context(|| format!("find {}", program.display()))?,
        None => compile_for_package(&paths::root(), &target.join("cargo"))?,
    };
    let archive = match &arguments.archive {
        Some(archive) => archive.canonicalize().with_context(|| format!("find {}", archive.display()))?,
        None => dist::archive()?,
    };
    let version = format!("{VERSION}{}", arguments.suffix);
    let parts = Parts { sources: &paths::root(), program: &program, archive: &archive };
    let made = make(&parts, &version, &target.join("work"), &out)?;
    for package in made.values() {
        println!("{}", package.display());
        narrate::said();
    }
    println!("{}", lintian(&target.join("work"))?);
    let mut sum = Tally::passed(1);
    if arguments.check {
        let next = format!("{version}+next");
        let newer = make(&parts, &next, &target.join("work-next"), &target.join("next"))?;
        sum.add("", debian_systems::check(&made, &version, &newer, &next)?);
        println!("{}", same_elsewhere(arguments.command.as_deref(), &archive, &version, &made)?);
        sum.passed += 1;
    }
    Ok(sum)
}

/// Compiles the command so that the program does not depend on the folders.
fn compile_for_package(sources: &Path, target: &Path) -> Result<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo = home.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let cargo = cargo.context("neither CARGO_HOME nor HOME is set")?;
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    // The last one that fits counts: the target folder is in that of the sources.
    let flags = [remap(&cargo, "/cargo"), remap(sources, "/zosbd2"), remap(target, "/target")];
    compile(sources, target, &flags)
}

/// The packages by name.
pub(crate) type Packages = BTreeMap<String, PathBuf>;

/// What packages are made from.
struct Parts<'a> {
    sources: &'a Path,
    /// The command.
    program: &'a Path,
    /// The release archive.
    archive: &'a Path,
}

/// Makes the packages. They are built in `work`, which is cleared, and are then in `out`.
fn make(parts: &Parts<'_>, version: &str, work: &Path, out: &Path) -> Result<Packages> {
    let Parts { sources, program, archive } = *parts;
    let doing = narrate::doing("making Debian packages");
    remove_folder(work)?;
    let tree = work.join(format!("zosbd2-{version}"));
    let installation = Tree { program, sources, prefix: Path::new("/usr"), version };
    installation.install(&tree.join("installed"))?;
    for name in names(&sources.join("packaging/debian"))? {
        let from = sources.join("packaging/debian").join(&name);
        let text = fs::read_to_string(&from).with_context(|| format!("read {}", from.display()))?;
        let to = tree.join("debian").join(&name);
        write(&to, installation.adapt(&text).as_bytes())?;
        let mode = fs::metadata(&from).with_context(|| format!("examine {}", from.display()))?.permissions();
        fs::set_permissions(&to, mode).with_context(|| format!("change the mode of {}", to.display()))?;
    }
    let conf = fs::read_to_string(sources.join("packaging/dkms.conf")).context("read packaging/dkms.conf")?;
    write(&tree.join("debian/zosbd2-dkms.dkms"), installation.adapt(&conf).as_bytes())?;
    write(
        &tree.join("debian/changelog"),
        changelog(version, &fs::read_to_string(sources.join("packaging/debian/control"))?)?.as_bytes(),
    )?;
    for folder in ["docs", "examples"] {
        symlink(sources.join(folder), tree.join(folder)).with_context(|| format!("link {folder}"))?;
    }
    unpack(archive, &tree.join("module"))?;
    doing.detail("debhelper");
    let time = command::git(&["log", "-1", "--format=%ct"])?;
    let mut build = command::outside_make(Command::new("dpkg-buildpackage"));
    build.args(["--build=binary", "--no-sign", "--no-pre-clean"]).current_dir(&tree);
    build.env("SOURCE_DATE_EPOCH", time.trim()).env("LC_ALL", "C").env("TZ", "UTC");
    build.env("DEB_BUILD_OPTIONS", "nocheck noautodbgsym");
    // xz packs differently with one thread and with several.
    build.env("DPKG_DEB_THREADS_MAX", "1");
    let output = build.output().context("run dpkg-buildpackage (package dpkg-dev)")?;
    let log = [output.stdout, output.stderr].concat();
    write(&work.join("log"), &log)?;
    ensure!(output.status.success(), "dpkg-buildpackage failed:\n{}", String::from_utf8_lossy(&log));
    take(work, out)
}

/// Moves the packages from the folder in which they were made, and removes older ones.
fn take(work: &Path, out: &Path) -> Result<Packages> {
    create(out)?;
    for old in packages_in(out)? {
        fs::remove_file(&old).with_context(|| format!("remove {}", old.display()))?;
    }
    let mut made = Packages::new();
    for package in packages_in(work)? {
        let name = package.file_name().context("a package is a file")?;
        let to = out.join(name);
        // lintian reads the original.
        fs::copy(&package, &to).with_context(|| format!("copy {}", package.display()))?;
        let name = name.to_string_lossy();
        made.insert(name.split('_').next().unwrap_or_default().to_owned(), to);
    }
    Ok(made)
}

/// This project's packages in a folder, sorted.
fn packages_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let mut found = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    found.retain(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let own = name.starts_with("zosbd2") || name.starts_with("libzosbd2");
        own && path.extension().is_some_and(|ending| ending == "deb")
    });
    found.sort();
    Ok(found)
}

/// Unpacks the module's part of the release archive.
fn unpack(archive: &Path, folder: &Path) -> Result<()> {
    create(folder)?;
    let name = archive.file_name().and_then(|name| name.to_str()?.strip_suffix(".tar.xz"));
    let name = name.context("an archive is called NAME.tar.xz")?;
    // Another command may be making the archive anew.
    let _lock: File = dist::lock_archives()?;
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(archive).arg("-C").arg(folder).arg("--strip-components=1");
    tar.args(["--exclude=tests", "--exclude=README.md"]);
    command::finish(tar.args(MODULE.map(|part| format!("{name}/{part}")))).map(drop)
}

/// debian/changelog: version, commit and time. People read CHANGELOG.md.
fn changelog(version: &str, control: &str) -> Result<String> {
    let maintainer = control.lines().find_map(|line| line.strip_prefix("Maintainer: "));
    let maintainer = maintainer.context("debian/control has no Maintainer")?;
    let (commit, date) =
        (command::git(&["log", "-1", "--format=%h"])?, command::git(&["log", "-1", "--format=%cD"])?);
    let changed = if command::has_changes()? { ", with changes that are not committed" } else { "" };
    Ok(format!(
        "zosbd2 ({version}) unstable; urgency=medium\n\n  * Made from commit {}{changed}.\n\n -- {maintainer}  {}\n",
        commit.trim(),
        date.trim()
    ))
}

/// Fails if lintian finds an error in the packages that were made in this folder. Returns what it says.
fn lintian(work: &Path) -> Result<String> {
    let _doing = narrate::doing("checking the packages with lintian");
    let mut check = Command::new("lintian");
    check.args(["--allow-root", "--fail-on", "error", "--tag-display-limit", "0", "--color", "never"]);
    let output = check.args(packages_in(work)?).env("LC_ALL", "C").output().context("run lintian")?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "lintian refuses the packages:\n{said}\n{}", complaint.trim());
    let warnings = said.lines().filter(|line| line.starts_with("W:")).count();
    Ok(format!("{said}\nlintian: no errors, {warnings} warnings").trim().to_owned())
}

/// Makes the packages again from a copy of the sources in another folder. An error if any differs.
fn same_elsewhere(program: Option<&Path>, archive: &Path, version: &str, made: &Packages) -> Result<String> {
    let folder = kernels::target().join("deb-elsewhere/in-another-folder");
    let sources = folder.join("sources");
    remove_folder(&folder)?;
    create(&sources)?;
    dist::copy_files(&paths::root(), &sources)?;
    let program = match program {
        Some(program) => program.to_owned(),
        None => compile_for_package(&sources, &folder.join("cargo"))?,
    };
    let parts = Parts { sources: &sources, program: &program, archive };
    let again = make(&parts, version, &folder.join("work"), &folder.join("out"))?;
    let names: Vec<&str> = made.keys().map(String::as_str).collect();
    ensure!(
        again.keys().eq(made.keys()),
        "the packages are {names:?}, and in another folder {:?}",
        again.keys()
    );
    for (first, second) in made.values().zip(again.values()) {
        let read = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
        ensure!(
            read(first)? == read(second)?,
            "{} and {} differ: something in the package depends on the folder in which it is made",
            first.display(),
            second.display()
        );
    }
    remove_folder(&folder)?;
    Ok(format!("{} are the same from two folders", names.join(", ")))
}
