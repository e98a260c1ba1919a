// SPDX-License-Identifier: MIT OR Apache-2.0
//! Installs the packages in Debian systems in folders, without systemd: DKMS builds the module for the kernels whose headers
//! are there, refuses one that no Rust object fits, an upgrade builds it anew, and a purge leaves nothing.
//!
//! mmdebstrap makes a system as an archive in the cache, from Debian's own packages. Each check unpacks it anew.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use zosbd2_vm::kernels;
use zosbd2_vm::kernels::lines::numbers;
use zosbd2_vm::suites::{BOOKWORM, BOOKWORM_SECURITY, Suite, TRIXIE, TRIXIE_SECURITY};

use super::Packages;
use crate::install::{create, remove_folder, write};
use crate::tally::Tally;
use crate::{command, narrate, setup};

/// A Debian release.
struct Release {
    suites: [&'static Suite; 2],
    /// How the packages with the headers of its kernels begin.
    headers: &'static str,
}

const RELEASES: [Release; 2] = [
    Release { suites: [&TRIXIE, &TRIXIE_SECURITY], headers: "linux-headers-6.12." },
    Release { suites: [&BOOKWORM, &BOOKWORM_SECURITY], headers: "linux-headers-6.1." },
];

/// The flavour of the kernels, whose headers are the smallest.
const FLAVOUR: &str = "-cloud-amd64";
/// MiB for a system and its archive.
const NEED: u64 = 3072;

/// What a command in the system is told first.
const ENTER: &str = "mount -t proc proc \"$0/proc\" && mount --rbind /dev \"$0/dev\" && exec chroot \"$0\" /bin/sh -ec \"$1\"";

/// Runs the checks with the packages, and with others of a newer version.
pub(super) fn check(made: &Packages, version: &str, newer: &Packages, next: &str) -> Result<Tally> {
    ensure!(setup::is_root(), "packages can be installed in a folder by root only");
    let mut sum = Tally::default();
    for release in &RELEASES {
        let name = release.name();
        let system = System::new(release)?;
        let tally = system.check(name, release.headers, [(made, version), (newer, next)]);
        sum.add(name, tally.with_context(|| format!("on Debian's {name}"))?);
        remove_folder(&system.tree)?;
    }
    Ok(sum)
}

impl Release {
    const fn name(&self) -> &'static str {
        self.suites[0].name
    }

    /// The archive of a system with DKMS. The first call makes it.
    fn archive(&self) -> Result<PathBuf> {
        let folder = kernels::cache().join("debian-systems");
        let archive = folder.join(format!("{}.tar", self.name()));
        if archive.exists() {
            return Ok(archive);
        }
        create(&folder)?;
        kernels::require_free(&folder, NEED)?;
        let _doing = narrate::doing(format!("making a system of Debian's {}", self.name()));
        let fresh = folder.join(format!("{}.new.tar", self.name()));
        let mut make = Command::new("mmdebstrap");
        make.args(["--variant=apt", "--include=dkms", "--aptopt=APT::Install-Recommends false", self.name()]);
        make.arg(&fresh);
        let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
        make.args(
            self.suites
                .map(|suite| format!("deb [signed-by={keyring}] {} {} main", suite.address, suite.name)),
        );
        command::finish(&mut make)?;
        fs::rename(&fresh, &archive).with_context(|| format!("rename {}", fresh.display()))?;
        Ok(archive)
    }
}

/// A system in a folder.
struct System {
    tree: PathBuf,
}

impl System {
    fn new(release: &Release) -> Result<Self> {
        let archive = release.archive()?;
        let tree = kernels::target().join("deb/systems").join(release.name());
        let _doing = narrate::doing(format!("unpacking a system of Debian's {}", release.name()));
        remove_folder(&tree)?;
        create(&tree)?;
        command::finish(Command::new("tar").arg("-xpf").arg(archive).arg("-C").arg(&tree))?;
        fs::copy("/etc/resolv.conf", tree.join("etc/resolv.conf")).context("copy resolv.conf")?;
        Ok(Self { tree })
    }

    /// A script that runs in the system. It sees the processes that it starts, and no sysfs.
    fn command(&self, script: &str) -> Command {
        let mut run = Command::new("unshare");
        run.args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--propagation",
            "private",
            "--",
            "sh",
            "-c",
            ENTER,
        ]);
        run.arg(&self.tree).arg(script).env_clear();
        run.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root");
        run.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        // The headers bring the kernel, which nobody boots.
        run.env("INITRD", "No");
        run
    }

    fn output(&self, script: &str) -> Result<Output> {
        self.command(script).output().context("run unshare (package util-linux)")
    }

    /// The output of a script that must succeed.
    fn run(&self, script: &str) -> Result<String> {
        let output = self.output(script)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`{script}` failed ({}):\n{said}\n{complaint}", output.status);
        Ok(said)
    }

    fn install(&self, what: &str) -> Result<String> {
        self.run(&format!("apt-get --quiet --yes -o APT::Install-Recommends=false install {what}"))
    }

    /// Installs packages of this project, and returns what apt said.
    fn install_packages(&self, packages: &Packages) -> Result<String> {
        let mut names = Vec::new();
        for package in packages.values() {
            let name = package.file_name().context("a package is a file")?;
            let to = self.tree.join("root").join(name);
            fs::copy(package, &to).with_context(|| format!("copy {}", package.display()))?;
            names.push(format!("/root/{}", name.display()));
        }
        let said = self.install(&names.join(" "));
        self.run("rm -f /root/*.deb")?;
        said
    }

    /// Checks the packages of two versions.
    fn check(
        &self,
        name: &str,
        headers: &str,
        [(made, version), (newer, next)]: [(&Packages, &str); 2],
    ) -> Result<Tally> {
        let doing = narrate::doing(format!("installing the packages on Debian's {name}"));
        let mut sum = Tally::default();
        let mut pass = |what: String| {
            println!("pass  {name:<9} {what}");
            narrate::said();
            sum.passed += 1;
        };
        self.run("apt-get --quiet update")?;
        let kernels = self.kernels(headers)?;
        let (last, earlier) = kernels.split_last().context("the suites have no headers")?;
        let first = earlier.last().unwrap_or(last);
        doing.detail(format!("{first} and the packages"));
        self.install(&format!("linux-headers-{first}"))?;
        self.install_packages(made)?;
        pass(self.module(first, version)?);
        if first != last {
            doing.detail(format!("the newer kernel {last}"));
            self.install(&format!("linux-headers-{last}"))?;
            pass(self.module(last, version)?);
            self.module(first, version).context("the older kernel keeps its module")?;
        }
        doing.detail("a kernel that is refused");
        pass(self.refused(last, version)?);
        doing.detail("udev");
        self.install("udev")?;
        pass(self.udev()?);
        doing.detail("upgrade");
        self.install_packages(newer)?;
        pass(format!("upgrade: {}", self.module(last, next)?));
        doing.detail("purge");
        pass(self.purged(made)?);
        if first == last {
            sum.skipped.push(format!("another kernel: the release has only {last}"));
        }
        Ok(sum)
    }

    /// The releases of the kernels whose headers can be installed, the newest one last.
    fn kernels(&self, headers: &str) -> Result<Vec<String>> {
        let names = self.run(&format!("apt-cache pkgnames {headers}"))?;
        let releases = names.lines().filter_map(|name| name.strip_prefix("linux-headers-"));
        let mut releases: Vec<String> =
            releases.filter(|name| name.ends_with(FLAVOUR)).map(str::to_owned).collect();
        releases.sort_by_key(|release| numbers(release));
        Ok(releases)
    }

    /// Checks that DKMS has built, signed and installed the module of this version for a kernel.
    fn module(&self, kernel: &str, version: &str) -> Result<String> {
        let status = self.run(&format!("dkms status -m zosbd2 -v {version} -k {kernel}"))?;
        ensure!(
            status.contains(": installed"),
            "DKMS has not installed zosbd2 {version} for {kernel}: {status:?}"
        );
        let field = |name: &str| self.run(&format!("modinfo -k {kernel} -F {name} zosbd2"));
        let (file, magic, signer) = (field("filename")?, field("vermagic")?, field("signer")?);
        ensure!(magic.starts_with(&format!("{kernel} ")), "the module for {kernel} has the vermagic {magic}");
        ensure!(!signer.trim().is_empty(), "the module for {kernel} is not signed");
        Ok(format!("{}, signed by {}", file.trim(), signer.trim()))
    }

    /// Checks that the module is not built for a kernel that no object fits, and that the option is named.
    fn refused(&self, kernel: &str, version: &str) -> Result<String> {
        let refused = format!("{kernel}-refused");
        self.run(&format!(
            "mkdir -p /lib/modules/{refused} && cp -a /usr/src/linux-headers-{kernel} /usr/src/linux-headers-{refused} && \
             ln -s /usr/src/linux-headers-{refused} /lib/modules/{refused}/build && \
             echo CONFIG_CFI_CLANG=y >>/usr/src/linux-headers-{refused}/include/config/auto.conf"
        ))?;
        let output = self.output(&format!("dkms build zosbd2/{version} -k {refused}"))?;
        ensure!(!output.status.success(), "DKMS has built the module for a kernel with kCFI");
        let log = self.run(&format!("cat /var/lib/dkms/zosbd2/{version}/build/make.log"))?;
        let reason = log.lines().find(|line| line.contains("is not supported"));
        let reason = reason.with_context(|| format!("the log does not say why: {log}"))?;
        self.run(&format!("rm -r /lib/modules/{refused} /usr/src/linux-headers-{refused}"))?;
        Ok(format!("refused: {reason}"))
    }

    /// What udev makes of an event of a disk, whose sysfs is made up. The node is missing, so that probing fails. udev's
    /// database has what a probe has found before, and whether the disk had a server.
    fn event(&self, word: &str, served: bool) -> Result<String> {
        let event = if word.is_empty() { String::new() } else { format!("ZOSBD2_EVENT={word}\n") };
        let uevent = format!("MAJOR=259\nMINOR=77\nDEVNAME=zosbd2-data\nDEVTYPE=disk\n{event}");
        write(&self.tree.join("sys/devices/virtual/block/zosbd2-data/uevent"), uevent.as_bytes())?;
        let found = ["USAGE=filesystem", "TYPE=btrfs", "UUID=u-1", "UUID_ENC=u-1", "LABEL=l", "LABEL_ENC=l"];
        let found = found.map(|line| format!("E:ID_FS_{line}\n")).concat();
        let dead = if served { "" } else { "E:ZOSBD2_NO_SERVER=1\n" };
        write(&self.tree.join("run/udev/data/b259:77"), format!("I:1\n{found}{dead}").as_bytes())?;
        // Older releases of udevadm make links, which must not be in the host's /dev.
        self.run(
            "mount -t tmpfs none /dev && touch /dev/null && export SYSTEMD_DEVICE_VERIFY_SYSFS=0 && \
             udevadm test -a change /sys/devices/virtual/block/zosbd2-data 2>&1",
        )
    }

    /// Checks the udev rules: an event about the server of a disk reads nothing from the disk, and keeps links and properties.
    fn udev(&self) -> Result<String> {
        let disk = self.tree.join("sys/devices/virtual/block/zosbd2-data");
        write(&disk.join("serial"), b"a serial/1\n")?;
        self.run(
            "mkdir -p /sys/class/block /sys/dev/block /run/udev/data && \
             ln -s ../../../../class/block /sys/devices/virtual/block/zosbd2-data/subsystem && \
             ln -s ../../devices/virtual/block/zosbd2-data /sys/class/block/ && \
             ln -s ../../devices/virtual/block/zosbd2-data /sys/dev/block/259:77",
        )?;
        let settings = b"ZOSBD2_OWNER=nobody\nZOSBD2_GROUP=nogroup\nZOSBD2_MODE=0640\n";
        write(&self.tree.join("run/zosbd2/zosbd2-data.udev"), settings)?;
        let kept = [
            "ID_MODEL=zosbd2",
            "ID_SERIAL=a_serial_1",
            "ID_FS_TYPE=btrfs",
            "ID_FS_UUID=u-1",
            "OWNER nobody",
            "GROUP nogroup",
            "MODE 0640",
            "disk/by-id/zosbd2-a_serial_1",
            "disk/by-uuid/u-1",
            "disk/by-label/l",
        ];
        // An event without a word is udev's own: a writer has closed the node, or an operator asked for it.
        let keeping = [
            ("late", true),
            ("unserved", true),
            ("cache-lost", true),
            ("of-a-later-version", true),
            ("died", true),
            ("", false),
            ("failed", false),
            ("destroyed", true),
        ];
        for (word, served) in keeping {
            let said = self.event(word, served)?;
            ensure!(!said.contains("blkid"), "the event {word:?} reads the disk:\n{said}");
            ensure!(
                !said.contains("btrfs ready"),
                "the event {word:?} lets the rule of btrfs read the disk:\n{said}"
            );
            for line in kept {
                ensure!(said.contains(line), "after the event {word:?} there is no {line}:\n{said}");
            }
            let remembered = said.contains("ZOSBD2_NO_SERVER=1");
            let dead = !served || matches!(word, "died" | "destroyed");
            ensure!(remembered == dead, "after the event {word:?} udev is wrong about the server:\n{said}");
        }
        for (word, served) in [("recovered", false), ("", true)] {
            let said = self.event(word, served)?;
            ensure!(said.contains("blkid"), "the event {word:?} does not read the disk:\n{said}");
            for line in ["ID_FS_UUID=u-1", "ZOSBD2_NO_SERVER=1"] {
                ensure!(!said.contains(line), "the event {word:?} keeps {line}:\n{said}");
            }
        }
        self.run("rm -r /sys/devices /sys/class /sys/dev /run/udev")?;
        Ok(format!(
            "udev: links and properties stay through {} events, and a disk without a server is not read",
            keeping.len()
        ))
    }

    /// Purges the packages. Nothing with the project's name may stay.
    fn purged(&self, packages: &Packages) -> Result<String> {
        for file in ["etc/zosbd2/data.toml", "run/zosbd2/data.log"] {
            write(&self.tree.join(file), b"")?;
        }
        let names = packages.keys().map(String::as_str).collect::<Vec<_>>().join(" ");
        self.run(&format!("apt-get --quiet --yes purge {names}"))?;
        let left = self.run("find / -xdev -name '*zosbd2*'")?;
        ensure!(left.is_empty(), "after a purge there are still {left}");
        Ok("purge: nothing left".to_owned())
    }
}
