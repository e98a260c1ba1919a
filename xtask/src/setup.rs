// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask setup`: installs the host packages that building and testing need.
//!
//! Installs only missing packages, by apt-get, as root or through sudo, after naming them. Kernels are not
//! installed: see `fetch`. If packages cannot be installed, or if the disk is too full, the error says what to do.

use crate::narrate;
use anyhow::{Context as _, Result, bail, ensure};
use std::process::{Command, Stdio};
use zosbd2_vm::{arch, kernels};

/// MiB that a build and its tests need, with some reserve: about 4 GiB for the build and the five kernels of
/// `make test`, and 2.6 GiB for the build roots `rust`, `trixie` and those of strangers (docs/building.md).
const NEED: u64 = 6912;

/// Packages, and the purpose of each.
const PACKAGES: [(&str, &str); 25] = [
    (arch::host().machine.package, "boots the kernels"),
    ("qemu-utils", "makes copy-on-write disks for Debian systems"),
    ("mmdebstrap", "makes Debian systems"),
    ("fio", "measures and verifies devices"),
    ("e2fsprogs", "ext4"),
    ("xfsprogs", "xfs"),
    ("util-linux", "fstrim, blkdiscard, fsfreeze; unshare, which enters build roots"),
    ("mdadm", "mirrors"),
    ("lvm2", "logical volumes"),
    ("dmsetup", "removes logical volumes"),
    ("kmod", "depmod"),
    ("xz-utils", "unpacks kernel modules"),
    ("zstd", "unpacks kernel modules"),
    ("debian-archive-keyring", "verifies fetched kernels"),
    ("gcc", "links programs, compiles the C sample"),
    ("gcc-multilib", "compiles 32-bit programs, whose calls are compared with 64-bit ones"),
    ("gcc-12", "compiles modules for Debian's kernels"),
    ("binutils", "reads objects"),
    ("make", "builds modules"),
    ("libc6-dev", "static programs for the guest"),
    ("libelf-dev", "kernel build tools"),
    ("dwarves", "pahole, which kernels with BTF need to build modules"),
    ("sparse", "checks the C sources"),
    ("openssl", "makes keys that sign modules"),
    ("python3", "runs the Python sample in the guest"),
];

/// Packages that only making Debian's packages needs, and the purpose of each. `make deb` installs them, too.
pub(crate) const PACKAGING: [(&str, &str); 5] = [
    ("debhelper", "makes Debian's packages"),
    ("dh-dkms", "writes the maintainer scripts of packages for DKMS"),
    ("dpkg-dev", "makes Debian's packages"),
    ("lintian", "checks Debian's packages"),
    ("mmdebstrap", "makes Debian systems in which packages are tested"),
];

/// Arguments of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only list missing packages, and fail if there are any
    #[arg(long)]
    check: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    go(arguments.check)
}

/// Installs missing packages.
pub(crate) fn install() -> Result<()> {
    go(false)
}

fn go(check: bool) -> Result<()> {
    kernels::require_free(&kernels::target(), NEED)?;
    kernels::require_free(&kernels::cache(), NEED)?;
    let looking = narrate::doing("looking for the host packages");
    let all = [&PACKAGES[..], &PACKAGING].concat();
    let complete = all.iter().all(|(package, _)| installed(package));
    drop(looking);
    if complete {
        println!("all {} host packages are installed", all.len());
        return Ok(());
    }
    install_missing(&all, check)
}

/// Installs missing packages that only one command needs. Prints nothing if nothing is missing.
pub(crate) fn install_packages(packages: &[(&str, &str)]) -> Result<()> {
    install_missing(packages, false)
}

/// Packages and their purposes.
fn install_missing(packages: &[(&str, &str)], check: bool) -> Result<()> {
    let missing: Vec<_> = packages.iter().filter(|(package, _)| !installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("missing on this machine:");
    for (package, purpose) in &missing {
        println!("  {package}: {purpose}");
    }
    let names: Vec<&str> = missing.iter().map(|(package, _)| *package).collect();
    let by_hand = format!("apt-get install --no-install-recommends {}", names.join(" "));
    if check {
        bail!("to install what is missing, run as root: {by_hand}");
    }
    ensure!(
        there("apt-get"),
        "this is not Debian (apt-get is missing): install by hand the packages with {}",
        names.join(", ")
    );
    let root = is_root();
    ensure!(root || there("sudo"), "installing needs root, and there is no sudo: run as root: {by_hand}");
    apt_get(root, &["update"])
        .context("apt-get cannot read the package lists: check the network and /etc/apt/sources.list")?;
    let options = ["install", "--yes", "--no-install-recommends"];
    apt_get(root, &[&options[..], &names].concat()).with_context(|| format!("install by hand: {by_hand}"))?;
    let still: Vec<&str> = names.into_iter().filter(|package| !installed(package)).collect();
    ensure!(still.is_empty(), "apt-get did not install {}", still.join(", "));
    Ok(())
}

fn apt_get(root: bool, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(if root { "env" } else { "sudo" });
    if !root {
        command.arg("env");
    }
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"]).args(arguments);
    println!("running {}", line(&command));
    let status = command.status().with_context(|| format!("run {}", line(&command)))?;
    ensure!(status.success(), "{} failed ({status})", line(&command));
    Ok(())
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn installed(package: &str) -> bool {
    let query = Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]).output();
    query.is_ok_and(|output| output.status.success() && output.stdout.starts_with(b"installed"))
}

fn there(program: &str) -> bool {
    let run = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    run.is_ok()
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    // The owner of the process's own folder is its effective user.
    std::fs::metadata("/proc/self").is_ok_and(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) == 0)
}
