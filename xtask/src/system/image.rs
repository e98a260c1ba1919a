// SPDX-License-Identifier: MIT OR Apache-2.0
//! The image of a Debian system, made from packages, in the cache.
//!
//! `systems/SUITE` in the kernels' cache has `root.img` (ext4), the kernel and the initramfs that QEMU boots, `packages`
//! (a line with name and version for each) and `recipe`. It appears by a rename, complete or not at all. It is made
//! anew if the recipe has changed; otherwise it needs no network. The packages come through the private apt
//! configurations of the suite. mmdebstrap and the copy into the image need root.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use zosbd2_vm::packages::{self, Archive};
use zosbd2_vm::suites::{BOOKWORM, BOOKWORM_SECURITY, Suite, TRIXIE, TRIXIE_SECURITY};
use zosbd2_vm::{arch, kernels};

use crate::lock::lock;
use crate::narrate::{self, Doing};
use crate::{command, setup};

/// MiB for the system's files, its image, and its packages while they are installed.
const NEED: u64 = 6144;

/// Size of the image. It is sparse.
const SIZE: u64 = 6 << 30;

/// Packages besides those that Debian calls required. With what they depend on, nothing else is installed.
const PACKAGES: [&str; 23] = [
    "cryptsetup",
    "dbus",
    "dkms",
    "dmsetup",
    "e2fsprogs",
    "fio",
    "gcc",
    "initramfs-tools",
    "iproute2",
    "jq",
    "kmod",
    "libc6-dev",
    "linux-headers-cloud-amd64",
    "linux-image-cloud-amd64",
    "lvm2",
    "make",
    "openssl",
    "procps",
    "systemd",
    "systemd-sysv",
    "udev",
    "xfsprogs",
    "zstd",
];

/// Units that only take time in a test.
const MASKED: [&str; 9] = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@tty1.service",
    "serial-getty@ttyS0.service",
    "systemd-networkd-wait-online.service",
];

/// Files of the system: path, contents.
const FILES: [(&str, &str); 6] = [
    ("etc/fstab", "/dev/vda / ext4 errors=remount-ro 0 1\n"),
    ("etc/hostname", "system\n"),
    ("etc/hosts", "127.0.0.1 localhost system\n"),
    // Otherwise the first boot would be spent with the presets of all units.
    ("etc/machine-id", "7a6f736264320000000000000000000d\n"),
    // Steps read the journal of the boot before.
    ("etc/systemd/journald.conf.d/zosbd2.conf", "[Journal]\nStorage=persistent\n"),
    ("etc/systemd/system/zosbd2-agent.service", include_str!("zosbd2-agent.service")),
];

/// Files that must be there before the packages are configured.
const EARLY_FILES: [(&str, &str); 2] = [
    // The initramfs has only what the root file system needs: all modules would take emulated minutes to unpack.
    ("etc/initramfs-tools/conf.d/zosbd2", "MODULES=list\nCOMPRESS=zstd\n"),
    ("usr/share/initramfs-tools/modules.d/zosbd2", "virtio_pci\nvirtio_blk\next4\n"),
];

/// A Debian release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Release {
    /// Debian 13
    Trixie,
    /// Debian 12
    Bookworm,
}

impl Release {
    /// Its name in Debian's archive.
    pub(super) fn name(self) -> &'static str {
        self.suites().last().map_or("", |suite| suite.name)
    }

    fn suites(self) -> &'static [&'static Suite] {
        match self {
            Self::Trixie => &[&TRIXIE_SECURITY, &TRIXIE],
            Self::Bookworm => &[&BOOKWORM_SECURITY, &BOOKWORM],
        }
    }
}

/// A system in the cache.
#[derive(Clone, Debug)]
pub(super) struct Image {
    folder: PathBuf,
}

impl Image {
    /// The system from the cache. It is made if it is not there, if its recipe has changed, or if `renew` is set.
    pub(super) fn open(release: Release, renew: bool) -> Result<Self> {
        let folder = kernels::cache().join("systems").join(release.name());
        let image = Self { folder };
        if renew || !image.made(release) {
            let what = format!("making the system {}", release.name());
            ensure!(setup::is_root(), "{what} needs root: mmdebstrap installs packages in a folder");
            let start = Instant::now();
            let doing = narrate::doing(&what);
            image.make(release, renew, &doing).context(what)?;
            println!(
                "system: made the image of {} in {:.0} s",
                release.name(),
                start.elapsed().as_secs_f64()
            );
        }
        Ok(image)
    }

    fn made(&self, release: Release) -> bool {
        fs::read_to_string(self.folder.join("recipe")).is_ok_and(|text| text == recipe(release))
    }

    /// The file system.
    pub(super) fn root(&self) -> PathBuf {
        self.folder.join("root.img")
    }

    pub(super) fn kernel(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    pub(super) fn initrd(&self) -> PathBuf {
        self.folder.join("initrd.img")
    }

    fn make(&self, release: Release, renew: bool, doing: &Doing) -> Result<()> {
        let parent = self.folder.parent().context("a system is in a folder")?;
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        let _lock = lock(&parent.join("lock"), "another command that makes a system")?;
        // The previous holder of the lock may have made it.
        if !renew && self.made(release) {
            return Ok(());
        }
        kernels::require_free(parent, NEED)?;
        setup::install_packages(&[("mmdebstrap", "makes Debian systems"), ("e2fsprogs", "ext4")])?;
        let fresh = parent.join(format!("{}.new", release.name()));
        remove(&fresh)?;
        let tree = fresh.join("tree");
        fs::create_dir_all(&fresh).with_context(|| format!("create {}", fresh.display()))?;
        let start = Instant::now();
        install(release, &fresh, &tree, doing)?;
        let installed = start.elapsed();
        complete(&tree)?;
        for (from, to) in [("vmlinuz-", "vmlinuz"), ("initrd.img-", "initrd.img")] {
            let from = only(&tree.join("boot"), from)?;
            fs::copy(&from, fresh.join(to)).with_context(|| format!("copy {}", from.display()))?;
        }
        write(&fresh.join("packages"), &packages(&tree)?)?;
        doing.detail("copying the files into an image");
        let start = Instant::now();
        copy_into_image(&tree, &fresh.join("root.img"))?;
        let (packages, image) = (installed.as_secs_f64(), start.elapsed().as_secs_f64());
        println!("system: packages installed in {packages:.0} s, copied into an image in {image:.0} s");
        for name in ["tree", "early"] {
            remove(&fresh.join(name))?;
        }
        write(&fresh.join("recipe"), &recipe(release))?;
        // A run has a link to the old image, and a copy of the kernel.
        remove(&self.folder)?;
        fs::rename(&fresh, &self.folder).with_context(|| format!("rename {}", fresh.display()))
    }
}

/// A text that changes whenever the image would.
fn recipe(release: Release) -> String {
    let mut lines: Vec<String> =
        release.suites().iter().map(|suite| format!("suite {}", suite.name)).collect();
    lines.extend(PACKAGES.iter().map(|name| format!("package {name}")));
    lines.extend(MASKED.iter().map(|name| format!("masked {name}")));
    lines.extend(EARLY_FILES.iter().chain(&FILES).map(|(path, contents)| format!("file {path}\n{contents}")));
    lines.push(format!("size {SIZE}\n"));
    lines.join("\n")
}

/// Installs the packages in a folder.
fn install(release: Release, fresh: &Path, tree: &Path, doing: &Doing) -> Result<()> {
    doing.detail("package lists");
    let early = fresh.join("early");
    for (path, contents) in EARLY_FILES {
        write_in(&early, path, contents)?;
    }
    let sources = fresh.join("sources.list");
    let cache = kernels::lock()?;
    let open = |suite: &Suite| Archive::open(suite, arch::host().debian).map(Some);
    let archives = packages::in_suites(release.suites(), open)?;
    drop(cache);
    write(&sources, &archives.iter().map(Archive::sources).collect::<String>())?;
    // Its mounts end with it, whatever happens: the tree can be deleted.
    let mut mmdebstrap = Command::new("unshare");
    mmdebstrap
        .args(["--mount", "--propagation", "private", "--", "mmdebstrap"])
        .args(["--mode=root", "--variant=apt", "--format=directory", "--verbose"])
        .arg(format!("--architectures={}", arch::host().debian))
        .arg(format!("--include={}", PACKAGES.join(",")))
        .arg("--aptopt=APT::Install-Recommends \"false\"")
        // The copy into the image makes everything durable that has to be.
        .arg("--dpkgopt=force-unsafe-io")
        .args(
            ["man", "doc", "locale", "info"]
                .map(|name| format!("--dpkgopt=path-exclude=/usr/share/{name}/*")),
        )
        .arg(format!("--essential-hook=sync-in {} /", early.display()));
    for line in packages::proxies()? {
        mmdebstrap.arg(format!("--aptopt={line}"));
    }
    mmdebstrap.arg(release.name()).arg(tree).arg(&sources);
    watch(&mut mmdebstrap, &fresh.join("mmdebstrap.log"), doing)
}

/// Runs mmdebstrap. Its last message is the progress.
fn watch(mmdebstrap: &mut Command, log: &Path, doing: &Doing) -> Result<()> {
    let name = "mmdebstrap";
    let mut child = mmdebstrap
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {name}"))?;
    let mut text = String::new();
    for line in child.stderr.take().map(BufReader::new).into_iter().flat_map(BufReader::lines) {
        let line = line.with_context(|| format!("read from {name}"))?;
        if let Some(said) = line.strip_prefix("I: ") {
            doing.detail(said);
        }
        text.push_str(&line);
        text.push('\n');
    }
    let status = child.wait().with_context(|| format!("wait for {name}"))?;
    write(log, &text)?;
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(30)..].join("\n");
    ensure!(status.success(), "{name} failed ({status}):\n{tail}\nall of it: {}", log.display());
    Ok(())
}

/// Adds the files that no package has, and enables and masks units.
fn complete(tree: &Path) -> Result<()> {
    for (path, contents) in FILES {
        write_in(tree, path, contents)?;
    }
    let units = tree.join("etc/systemd/system");
    let wants = units.join("sysinit.target.wants");
    fs::create_dir_all(&wants).with_context(|| format!("create {}", wants.display()))?;
    let link = |to: &str, path: &Path| {
        let _ = fs::remove_file(path);
        symlink(to, path).with_context(|| format!("link {}", path.display()))
    };
    link("../zosbd2-agent.service", &wants.join("zosbd2-agent.service"))?;
    MASKED.iter().try_for_each(|name| link("/dev/null", &units.join(name)))?;
    // Newer than /usr: otherwise the first boot would make the linker's cache, the catalogue and the like again.
    ["etc/.updated", "var/.updated"].iter().try_for_each(|path| write_in(tree, path, ""))
}

/// The only file in a folder with this beginning.
fn only(folder: &Path, beginning: &str) -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(beginning.as_bytes()) {
            found.push(entry.path());
        }
    }
    match found.as_slice() {
        [path] => Ok(path.clone()),
        paths => bail!("{} has {} files {beginning}*, not one", folder.display(), paths.len()),
    }
}

fn packages(tree: &Path) -> Result<String> {
    let mut query = Command::new("dpkg-query");
    query.arg("--admindir").arg(tree.join("var/lib/dpkg")).args(["-W", "-f", "${Package} ${Version}\n"]);
    Ok(String::from_utf8_lossy(&command::finish(&mut query)?.stdout).into_owned())
}

fn copy_into_image(tree: &Path, image: &Path) -> Result<()> {
    let mut mkfs = Command::new("/sbin/mke2fs");
    mkfs.args(["-q", "-F", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-d"]);
    mkfs.arg(tree).arg(image).arg(format!("{}k", SIZE >> 10));
    command::finish(&mut mkfs).map(drop)
}

fn write_in(folder: &Path, path: &str, text: &str) -> Result<()> {
    let path = folder.join(path);
    let parent = path.parent().context("a file is in a folder")?;
    fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    write(&path, text)
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

    #[test]
    fn each_release_has_a_recipe_of_its_own() {
        assert_eq!(Release::Trixie.name(), "trixie");
        assert_eq!(Release::Bookworm.name(), "bookworm");
        let text = recipe(Release::Trixie);
        assert_ne!(text, recipe(Release::Bookworm));
        for line in
            ["suite trixie", "package dkms", "file etc/fstab", "ExecStart=/usr/local/sbin/zosbd2-agent"]
        {
            assert!(text.contains(line), "{line}");
        }
    }

    #[test]
    fn the_unit_names_the_port_of_the_machine() {
        let line = format!("ExecStart=/usr/local/sbin/zosbd2-agent {}\n", zosbd2_vm::system::AGENT);
        assert!(include_str!("zosbd2-agent.service").contains(&line));
    }

    #[test]
    fn the_units_are_enabled_and_masked() {
        let tree = tempfile::tempdir().unwrap();
        complete(tree.path()).unwrap();
        let units = tree.path().join("etc/systemd/system");
        assert!(units.join("sysinit.target.wants/zosbd2-agent.service").exists());
        assert_eq!(fs::read_link(units.join("fstrim.timer")).unwrap(), Path::new("/dev/null"));
        complete(tree.path()).unwrap();
    }

    #[test]
    fn one_kernel_is_found_and_two_are_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(only(folder.path(), "vmlinuz-").is_err());
        write(&folder.path().join("vmlinuz-6.12"), "").unwrap();
        assert_eq!(only(folder.path(), "vmlinuz-").unwrap(), folder.path().join("vmlinuz-6.12"));
        write(&folder.path().join("vmlinuz-6.13"), "").unwrap();
        assert!(only(folder.path(), "vmlinuz-").is_err());
    }
}
