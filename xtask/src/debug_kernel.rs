// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask debug-kernel`: builds a kernel with run-time checks from Debian's source and
//! `vm/debug-kernel.config`.
//!
//! The package `linux-source-6.12` comes through the private apt of `vm`. It is unpacked and built in
//! `debug-build` in the kernels' cache. An interrupted build, or one with an old configuration, continues with the
//! existing files. The result (image, modules, and headers for building the module) gets a folder beside the stock
//! kernels. The folder's name contains the source's version and a hash of the configuration: if both are
//! unchanged, nothing is done. An option that did not take effect is an error.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use zosbd2_vm::kernels::{self, DEBUG_CONFIG, Kernel, KernelName};
use zosbd2_vm::packages;

use crate::lock::lock;
use crate::narrate::{self, Doing};
use crate::{command, fetch, setup};

/// The package, and the name of the archive and folder in it.
const PACKAGE: &str = "linux-source-6.12";
/// MiB that source and build need.
const NEED: u64 = 6144;
/// Host packages that only the build of a kernel needs.
const HOST: [(&str, &str); 4] = [
    ("flex", "builds kernels"),
    ("bison", "builds kernels"),
    ("bc", "builds kernels"),
    ("libssl-dev", "builds kernels"),
];

/// Arguments of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Ask Debian's archive for a newer source than what is in the cache
    #[arg(long)]
    update: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let kernel = one(arguments.update)?;
    fetch::print(&kernel);
    Ok(())
}

/// The debug kernel from the cache. Builds it if it is not there, or if `update` is set and a newer source exists.
pub(crate) fn one(update: bool) -> Result<Kernel> {
    if !update && let Ok(kernel) = kernels::find(KernelName::DEBUG) {
        return Ok(kernel);
    }
    let work = kernels::cache().join("debug-build");
    let _lock = lock(&work.join("lock"), "another build of the debug kernel")?;
    // The previous holder of the lock may have built it.
    if !update && let Ok(kernel) = kernels::find(KernelName::DEBUG) {
        return Ok(kernel);
    }
    setup::install_packages(&HOST)?;
    let version = source(&work, update)?;
    let release = kernels::debug_release(&version);
    let place = kernels::cache().join(&release);
    if !place.exists() {
        let start = Instant::now();
        eprintln!("building kernel {release}: this takes half an hour");
        let build = Build { tree: work.join(PACKAGE), log: work.join("build.log") };
        let doing = narrate::doing(format!("configuring kernel {release}"));
        build.configure(&release)?;
        doing.next(format!("building kernel {release}"));
        build.make(&["bzImage", "modules"], &doing)?;
        doing.next(format!("installing kernel {release}"));
        build.install(&release, &place)?;
        eprintln!("built {release} in {:.0?}", start.elapsed());
    }
    kernels::choose(KernelName::DEBUG, &release)?;
    Ok(kernels::find(KernelName::DEBUG)?)
}

/// Unpacks the source if necessary, and returns its version.
fn source(work: &Path, update: bool) -> Result<String> {
    let (tree, stamp) = (work.join(PACKAGE), work.join("version"));
    let there = fs::read_to_string(&stamp).ok().map(|text| text.trim().to_owned());
    if let (false, Some(version)) = (update, &there) {
        return Ok(version.clone());
    }
    kernels::require_free(work, NEED)?;
    let lock = kernels::lock()?;
    let suites = KernelName::DEBUG.suites();
    let (archive, package) =
        packages::find(PACKAGE, suites, KernelName::DEBUG.architecture().debian, |_| true)?
            .with_context(|| format!("Debian's archive has no {PACKAGE}"))?;
    let version = package.version.clone();
    if there.as_ref() == Some(&version) {
        return Ok(version);
    }
    eprintln!("fetching {PACKAGE} {version} into {}", work.display());
    let _doing = narrate::doing(format!("fetching and unpacking {PACKAGE} {version}"));
    // Without the file with its version, the folder does not count as a complete source.
    for folder in [&stamp, &tree, &work.join("unpacked")] {
        remove(folder)?;
    }
    let download = work.join("unpacked");
    fs::create_dir_all(&download).with_context(|| format!("create {}", download.display()))?;
    archive.download(&[package], &download)?;
    drop(lock);
    let package = fs::read_dir(&download)?.next().with_context(|| format!("no {PACKAGE} came"))??.path();
    run_quiet(Command::new("dpkg-deb").arg("-x").arg(package).arg(&download))?;
    let packed = download.join("usr/src").join(format!("{PACKAGE}.tar.xz"));
    run_quiet(Command::new("tar").arg("-xJf").arg(packed).arg("-C").arg(work))?;
    remove(&download)?;
    fs::write(&stamp, format!("{version}\n")).with_context(|| format!("write {}", stamp.display()))?;
    Ok(version)
}

/// A source tree to build in.
struct Build {
    tree: PathBuf,
    log: PathBuf,
}

impl Build {
    /// Writes the configuration, and checks that every option took effect.
    fn configure(&self, release: &str) -> Result<()> {
        let version = run_quiet(self.command().args(["-s", "kernelversion"]))?;
        let local = release.strip_prefix(version.trim());
        let local = local.with_context(|| format!("{release} is not of the source's {version}"))?;
        let wanted = format!("{DEBUG_CONFIG}CONFIG_LOCALVERSION=\"{local}\"\n");
        let path = self.tree.with_file_name("debug-kernel.config");
        fs::write(&path, &wanted).with_context(|| format!("write {}", path.display()))?;
        let all = format!("KCONFIG_ALLCONFIG={}", path.display());
        run_quiet(self.command().args([&all, "allnoconfig"]))?;
        let made = self.tree.join(".config");
        let made = fs::read_to_string(&made).with_context(|| format!("read {}", made.display()))?;
        let lost = lost(&wanted, &made);
        ensure!(
            lost.is_empty(),
            "these lines of vm/debug-kernel.config did not take effect, for want of what they depend on:\n{}",
            lost.join("\n")
        );
        Ok(())
    }

    /// Runs make, which takes long. Its output goes into the log.
    fn make(&self, targets: &[&str], doing: &Doing) -> Result<()> {
        let log = File::create(&self.log).with_context(|| format!("create {}", self.log.display()))?;
        let errors = log.try_clone().context("share the log")?;
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let mut command = self.command();
        command.arg(format!("-j{processors}")).args(targets).stdout(log).stderr(errors);
        let mut child = command.spawn().context("run make")?;
        let status = loop {
            if let Some(status) = child.try_wait().context("wait for make")? {
                break status;
            }
            let said = fs::read_to_string(&self.log).unwrap_or_default();
            doing.detail(format!("{} steps done", said.lines().count()));
            std::thread::sleep(Duration::from_secs(1));
        };
        ensure!(status.success(), "building the kernel failed: see {}", self.log.display());
        Ok(())
    }

    /// Installs the build into the cache of kernels, complete or not at all.
    fn install(&self, release: &str, place: &Path) -> Result<()> {
        let fresh = place.with_file_name(format!("{release}.new"));
        remove(&fresh)?;
        let boot = fresh.join("boot");
        fs::create_dir_all(&boot).with_context(|| format!("create {}", boot.display()))?;
        for (from, to) in
            [("arch/x86/boot/bzImage", "vmlinuz"), ("System.map", "System.map"), (".config", "config")]
        {
            let (from, to) = (self.tree.join(from), boot.join(format!("{to}-{release}")));
            fs::copy(&from, &to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
        }
        let modules = format!("INSTALL_MOD_PATH={}", fresh.display());
        run_quiet(self.command().args([&modules, "DEPMOD=/sbin/depmod", "modules_install"]))?;
        // The kernel's own selection of files for building modules. The build tree is reused for the next
        // configuration.
        let headers = fresh.join("usr/src").join(format!("linux-headers-{release}"));
        let script = format!("KBUILD_RUN_COMMAND=scripts/package/install-extmod-build {}", headers.display());
        run_quiet(self.command().args([&script, "run-command"]))?;
        let link = fresh.join("lib/modules").join(release).join("build");
        remove(&link)?;
        fs::rename(&fresh, place)
            .with_context(|| format!("rename {} to {}", fresh.display(), place.display()))
    }

    fn command(&self) -> Command {
        let mut command = command::outside_make(Command::new("make"));
        command.current_dir(&self.tree).arg("--no-print-directory");
        // An empty LOCALVERSION keeps the build from running git.
        command.env("LC_ALL", "C").env("LOCALVERSION", "");
        command
    }
}

/// Lines of the wanted configuration that the generated one lacks.
fn lost(wanted: &str, made: &str) -> Vec<String> {
    let is = |line: &str| match line.strip_prefix("# ").and_then(|line| line.strip_suffix(" is not set")) {
        // An option that cannot be chosen is not mentioned, and is off.
        Some(option) => !made.lines().any(|line| line.starts_with(&format!("{option}="))),
        None => line.starts_with('#') || line.is_empty() || made.lines().any(|other| other == line),
    };
    wanted.lines().filter(|line| !is(line)).map(str::to_owned).collect()
}

/// Removes a file or a folder.
fn remove(path: &Path) -> Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    let removed = if metadata.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.with_context(|| format!("remove {}", path.display()))
}

/// Runs a command and returns its output.
fn run_quiet(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&command::finish(command)?.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_without_effect_are_named() {
        let made = "CONFIG_SMP=y\nCONFIG_A=m\n# CONFIG_B is not set\nCONFIG_S=\"-x\"\nCONFIG_ON_TOO=y\n";
        let fine = "# A comment.\n\nCONFIG_SMP=y\nCONFIG_A=m\n# CONFIG_B is not set\n# CONFIG_ON is not set\n\
                    CONFIG_S=\"-x\"\n";
        assert!(lost(fine, made).is_empty());
        let wrong = ["CONFIG_A=y", "CONFIG_B=y", "# CONFIG_SMP is not set", "CONFIG_NONE=y"];
        assert_eq!(lost(&wrong.join("\n"), made), wrong);
    }

    #[test]
    fn the_configuration_says_each_option_once() {
        let option = |line: &str| {
            let line = line.strip_prefix("# ").filter(|line| line.ends_with(" is not set")).unwrap_or(line);
            line.starts_with("CONFIG_").then(|| line.split(['=', ' ']).next().unwrap_or(line).to_owned())
        };
        let mut options: Vec<String> = DEBUG_CONFIG.lines().filter_map(option).collect();
        assert!(options.contains(&"CONFIG_KASAN".to_owned()));
        let count = options.len();
        options.sort();
        options.dedup();
        assert_eq!(options.len(), count);
    }
}
