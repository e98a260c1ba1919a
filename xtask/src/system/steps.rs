// SPDX-License-Identifier: MIT OR Apache-2.0
//! Steps: what they are, and those that need nothing of this project.
//!
//! A step has a name, the steps that must have passed before, and a function that uses a [`Guest`]. The steps of a run
//! share one system: each finds it as the step before left it.

use anyhow::{Result, ensure};
use std::process::Command;
use zosbd2_vm::kernels;

use super::guest::Guest;
use crate::command;

/// A step of the system test.
pub(super) struct Step {
    /// Unique.
    pub(super) name: &'static str,
    /// Steps without which this one makes no sense. They come before it in its list.
    pub(super) needs: &'static [&'static str],
    /// Whether the short form has it: that form boots once.
    pub(super) short: bool,
    /// The work.
    pub(super) run: fn(&mut Guest) -> Result<()>,
}

impl Step {
    pub(super) const fn new(name: &'static str, run: fn(&mut Guest) -> Result<()>) -> Self {
        Self { name, needs: &[], short: false, run }
    }

    /// Only if these have passed.
    pub(super) const fn after(self, needs: &'static [&'static str]) -> Self {
        Self { needs, ..self }
    }

    /// In the short form, too.
    pub(super) const fn short(self) -> Self {
        Self { short: true, ..self }
    }
}

/// The first steps.
pub(super) const FIRST: &[Step] = &[
    Step::new("boot", boot).short(),
    Step::new("commands", commands).after(&["boot"]).short(),
    Step::new("install_a_package", install_a_package).after(&["boot"]).short(),
    Step::new("reboot_keeps_files", reboot_keeps_files).after(&["boot"]),
    Step::new("reset_keeps_what_was_synced", reset).after(&["reboot_keeps_files"]),
    Step::new("boot_that_ends_in_emergency_mode", emergency).after(&["reboot_keeps_files"]),
    Step::new("new_machine_on_the_same_disk", new_machine).after(&["reboot_keeps_files"]),
];

/// The last step.
pub(super) const LAST: &[Step] = &[Step::new("power_off", power_off).after(&["boot"]).short()];

/// The system comes up, and no unit has failed.
fn boot(guest: &mut Guest) -> Result<()> {
    guest.system()?;
    is_running(guest)
}

/// Fails unless the boot is complete and no unit has failed.
pub(super) fn is_running(guest: &mut Guest) -> Result<()> {
    let state = guest.sh("systemctl is-system-running || systemctl --failed --no-legend --plain")?;
    ensure!(state == "running", "the system is {state}");
    Ok(())
}

/// The channel keeps status, streams and bytes apart, and takes input.
fn commands(guest: &mut Guest) -> Result<()> {
    ensure!(guest.sh("echo out; echo err >&2")? == "out", "standard error is among the output");
    ensure!(guest.fails(7, "echo a; echo b >&2; exit 7")? == "a\nb\n", "a command's words are lost");
    guest.fails(137, "kill -9 $$")?;
    // A process in the background does not keep the call.
    guest.sh("sleep 1000 & echo $! > /run/sleeper")?;
    guest.sh("kill $(cat /run/sleeper)")?;
    let bytes: Vec<u8> =
        (0..3 << 20).map(|number: u32| number.wrapping_mul(0x9e37_79b9).to_be_bytes()[0]).collect();
    guest.put("/root/put/bytes", &bytes)?;
    let back = guest.run(super::guest::LIMIT, "cat /root/put/bytes")?.stdout;
    ensure!(back == bytes, "{} bytes came back of {}, or they differ", back.len(), bytes.len());
    Ok(())
}

/// `apt-get install ./x.deb` works without network.
fn install_a_package(guest: &mut Guest) -> Result<()> {
    let folder = empty_folder()?;
    let (root, deb) = (folder.join("root"), folder.join("zosbd2-hello_1_all.deb"));
    for (path, contents) in [
        (
            "DEBIAN/control",
            "Package: zosbd2-hello\nVersion: 1\nArchitecture: all\nMaintainer: Nobody <nobody@localhost>\n\
                            Depends: systemd\nDescription: shows that packages can be installed\n",
        ),
        ("usr/share/zosbd2-hello", "hello\n"),
    ] {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap_or(&root))?;
        std::fs::write(path, contents)?;
    }
    command::finish(Command::new("dpkg-deb").args(["--root-owner-group", "-b"]).arg(&root).arg(&deb))?;
    guest.install(&[deb])?;
    ensure!(guest.sh("cat /usr/share/zosbd2-hello")? == "hello", "the package has another file");
    guest.sh("apt-get purge -y zosbd2-hello; test ! -e /usr/share/zosbd2-hello").map(drop)
}

/// An empty folder for files that a step makes on the host.
fn empty_folder() -> Result<std::path::PathBuf> {
    let folder = kernels::target().join("system/made");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// A reboot is clean, and keeps files.
fn reboot_keeps_files(guest: &mut Guest) -> Result<()> {
    guest.sh("echo kept > /root/kept")?;
    guest.reboot()?;
    is_running(guest)?;
    was_clean(guest)?;
    ensure!(guest.sh("cat /root/kept")? == "kept", "the file has changed");
    Ok(())
}

/// Fails if the file system was not unmounted before this boot.
pub(super) fn was_clean(guest: &mut Guest) -> Result<()> {
    let recovered = guest.sh("dmesg | grep -E 'EXT4-fs \\(vda\\): .*recovery' || true")?;
    ensure!(recovered.is_empty(), "the root file system was not unmounted: {recovered}");
    Ok(())
}

/// A machine that is reset comes back, and has to recover its file system.
fn reset(guest: &mut Guest) -> Result<()> {
    guest.sh("echo synced > /root/synced; sync /root/synced; echo maybe > /root/maybe")?;
    guest.reset()?;
    is_running(guest)?;
    ensure!(was_clean(guest).is_err(), "the machine was shut down, not reset");
    ensure!(guest.sh("cat /root/synced")? == "synced", "the file has changed");
    Ok(())
}

/// A boot that ends in emergency mode is seen, with its reason, and the system can be repaired.
fn emergency(guest: &mut Guest) -> Result<()> {
    guest.sh("cp /etc/fstab /root/fstab
         echo '/dev/disk/by-label/nowhere /mnt ext4 x-systemd.device-timeout=5s 0 2' >> /etc/fstab")?;
    guest.reboot()?;
    let state = guest.sh("systemctl is-system-running || true")?;
    ensure!(state == "maintenance", "the system is {state}");
    guest.sh("journalctl -b --no-pager | grep -F 'Dependency failed for mnt.mount'")?;
    guest.sh("mount -o remount,rw /; cp /root/fstab /etc/fstab")?;
    guest.reboot()?;
    is_running(guest)
}

/// The disk outlives the machine.
fn new_machine(guest: &mut Guest) -> Result<()> {
    guest.power_off()?;
    guest.start()?;
    is_running(guest)?;
    was_clean(guest)?;
    ensure!(guest.sh("cat /root/kept")? == "kept", "the file has changed");
    Ok(())
}

/// The system switches itself off, and unmounts everything.
fn power_off(guest: &mut Guest) -> Result<()> {
    guest.power_off()?;
    let console = guest.console();
    let last = console.lines().rev().take(12).collect::<Vec<_>>().join("\n");
    ensure!(last.contains("reboot: Power down"), "the console does not end with the power-off");
    for complaint in ["Failed to unmount", "Unable to finalize remaining"] {
        ensure!(!console.contains(complaint), "the console says: {complaint}");
    }
    Ok(())
}
