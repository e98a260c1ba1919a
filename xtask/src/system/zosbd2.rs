// SPDX-License-Identifier: MIT OR Apache-2.0
//! Steps that use the command and the packages of this project.
//!
//! They call the command as docs/plans/operating.md says. The disk `a` is made in the second step, and lives through the
//! others, at /mnt/a. A step that loads a disk does so with fio in a unit, so that it goes on while the step does something.

use anyhow::{Context as _, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use zosbd2_vm::kernels;

use super::guest::{Guest, LONG};
use super::steps::{Step, is_running, was_clean};
use crate::command;

/// The steps, in order.
pub(super) const STEPS: &[Step] = &[
    Step::new("packages_are_installed", packages_are_installed).after(&["boot"]).short(),
    Step::new("add_mkfs_mount", add_mkfs_mount).after(&["packages_are_installed"]).short(),
    Step::new("server_is_killed_under_fio_verify", server_is_killed).after(&["add_mkfs_mount"]).short(),
    Step::new("package_is_upgraded_under_io", package_is_upgraded).after(&["add_mkfs_mount"]).short(),
    Step::new("remove_while_mounted_names_the_mount", remove_while_mounted)
        .after(&["add_mkfs_mount"])
        .short(),
    Step::new("names_with_plus_and_minus", names).after(&["packages_are_installed"]).short(),
    Step::new("fstab_by_uuid_after_a_reboot", fstab_by_uuid).after(&["add_mkfs_mount"]),
    Step::new("dirty_data_survives_a_reboot", dirty_data).after(&["fstab_by_uuid_after_a_reboot"]),
    Step::new("store_on_another_mount", store_on_another_mount).after(&["packages_are_installed"]),
    Step::new("lvm_and_dm_crypt_on_disks", lvm_and_dm_crypt).after(&["packages_are_installed"]),
    Step::new("missing_store_at_boot", missing_store).after(&["packages_are_installed"]),
    Step::new("remove_leaves_nothing", remove_leaves_nothing).after(&["add_mkfs_mount"]).short(),
    Step::new("purge_leaves_nothing", purge_leaves_nothing).after(&["remove_leaves_nothing"]),
];

/// The unit that loads a disk.
const LOAD: &str = "load";

/// apt installs the packages, and DKMS has built the module for this kernel.
fn packages_are_installed(guest: &mut Guest) -> Result<()> {
    ensure!(!guest.debs.is_empty(), "there are no packages: `cargo xtask deb` makes them");
    if !guest.installed {
        let debs = guest.debs.clone();
        guest.install(&debs)?;
    }
    guest
        .sh("dpkg --audit; modinfo -n zosbd2; zosbd2 --version; systemctl cat zosbd2@.service >/dev/null")?;
    is_running(guest)
}

/// A persistent disk is made, gets a file system, and its links in /dev/disk.
fn add_mkfs_mount(guest: &mut Guest) -> Result<()> {
    let node = add(guest, "a", "file /srv/a.img --create --size 512M --persist")?;
    guest.sh(&format!("mkfs.ext4 -q -L label-a {node}; mkdir -p /mnt/a"))?;
    guest.until("the links of the new file system", "test -b /dev/disk/by-label/label-a")?;
    guest
        .sh(&format!("test /dev/disk/by-label/label-a -ef {node}; mount LABEL=label-a /mnt/a; df /mnt/a"))?;
    guest.sh("test -f /etc/zosbd2/a.toml; systemctl is-active --quiet zosbd2@a.service")?;
    guest.sh("zosbd2 list --json | jq -e .").map(drop)
}

/// The server dies three times while fio writes and verifies. Nobody sees an error, and systemd starts it again.
fn server_is_killed(guest: &mut Guest) -> Result<()> {
    start_load(guest, "/mnt/a")?;
    for round in 1..=3 {
        let before = main_pid(guest, "a")?;
        wait_for_writes(guest, "/mnt/a")?;
        guest.sh("systemctl kill --signal=KILL --kill-whom=main zosbd2@a.service")?;
        new_server(guest, "a", &before).with_context(|| format!("round {round}"))?;
        wait_for_writes(guest, "/mnt/a").with_context(|| format!("after death {round}"))?;
    }
    finish_load(guest)?;
    no_errors(guest)
}

/// The package is upgraded while fio writes and verifies; new servers take over.
fn package_is_upgraded(guest: &mut Guest) -> Result<()> {
    let newer = newer(&guest.deb("zosbd2_")?)?;
    let before = main_pid(guest, "a")?;
    start_load(guest, "/mnt/a")?;
    guest.install(&[newer])?;
    new_server(guest, "a", &before)?;
    wait_for_writes(guest, "/mnt/a")?;
    finish_load(guest)?;
    no_errors(guest)
}

/// Status 4, and the mount is named. The disk stays.
fn remove_while_mounted(guest: &mut Guest) -> Result<()> {
    let said = guest.fails(4, "zosbd2 remove a")?;
    ensure!(said.contains("/mnt/a"), "the mount is not named: {said}");
    guest.sh("mountpoint -q /mnt/a; echo works > /mnt/a/works; sync /mnt/a/works").map(drop)
}

/// The unit of a disk is named by `systemd-escape`.
fn names(guest: &mut Guest) -> Result<()> {
    for name in ["a-b", "c+d", "e+-f"] {
        let node = add(guest, name, "ram 16M")?;
        guest.sh(&format!(
            "systemctl is-active --quiet \"zosbd2@$(systemd-escape {name}).service\"; zosbd2 show {name}
             echo hello | dd of={node} conv=fsync status=none"
        ))?;
        guest.sh(&format!("systemctl kill --signal=KILL \"zosbd2@$(systemd-escape {name}).service\""))?;
        let read = format!("test \"$(timeout 20 head -c 5 {node})\" = hello");
        guest.until("the bytes after the server's death", &read)?;
        guest.sh(&format!("zosbd2 remove {name}; test ! -e {node}"))?;
    }
    Ok(())
}

/// A line of fstab by UUID brings the disk back, and shutdown unmounts it.
fn fstab_by_uuid(guest: &mut Guest) -> Result<()> {
    guest.sh("echo content > /mnt/a/file; echo \"UUID=$(findmnt -no UUID /mnt/a) /mnt/a ext4 defaults 0 2\" >> /etc/fstab")?;
    guest.reboot()?;
    is_running(guest)?;
    was_clean(guest)?;
    mounted_clean(guest, "/mnt/a")?;
    ensure!(guest.sh("cat /mnt/a/file")? == "content", "the content has changed");
    Ok(())
}

/// What nobody has synchronised is written out before the server ends.
fn dirty_data(guest: &mut Guest) -> Result<()> {
    guest.sh("dd if=/dev/urandom of=/mnt/a/dirty bs=1M count=96 status=none
         (cd /mnt/a; sha256sum dirty) > /root/sum; sync /root/sum")?;
    guest.reboot()?;
    is_running(guest)?;
    mounted_clean(guest, "/mnt/a")?;
    guest.sh("cd /mnt/a; sha256sum --quiet -c /root/sum").map(drop)
}

/// The store is on a file system that fstab mounts, too.
fn store_on_another_mount(guest: &mut Guest) -> Result<()> {
    guest.sh("mkfs.xfs -q -L stores /dev/disk/by-id/virtio-empty; mkdir -p /srv/stores /mnt/b
         echo '/dev/disk/by-id/virtio-empty /srv/stores xfs defaults 0 0' >> /etc/fstab
         systemctl daemon-reload; mount /srv/stores")?;
    let node = add(guest, "b-1+2", "file /srv/stores/b.img --create --size 256M --persist")?;
    guest.sh(&format!(
        "mkfs.ext4 -q -L label-b {node}; echo 'LABEL=label-b /mnt/b ext4 defaults 0 2' >> /etc/fstab
         systemctl daemon-reload"
    ))?;
    guest.until("the label", "test -b /dev/disk/by-label/label-b")?;
    guest.sh("mount /mnt/b; echo content > /mnt/b/file")?;
    guest.reboot()?;
    is_running(guest)?;
    mounted_clean(guest, "/mnt/b")?;
    ensure!(guest.sh("cat /mnt/b/file")? == "content", "the content has changed");
    Ok(())
}

/// A logical volume and an encrypted file system on disks of ours come back.
fn lvm_and_dm_crypt(guest: &mut Guest) -> Result<()> {
    let lvm = add(guest, "lvm", "file /srv/lvm.img --create --size 256M --persist")?;
    let crypt = add(guest, "crypt", "file /srv/crypt.img --create --size 128M --persist")?;
    guest.sh(&format!(
        "pvcreate -q {lvm}; vgcreate -q group {lvm}; lvcreate -q -y -n volume -l 100%FREE group
         mkfs.ext4 -q /dev/group/volume
         head -c 32 /dev/urandom > /root/key; chmod 400 /root/key
         cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 {crypt} /root/key
         cryptsetup open --key-file /root/key {crypt} secret; mkfs.ext4 -q /dev/mapper/secret
         echo \"secret UUID=$(cryptsetup luksUUID {crypt}) /root/key luks\" >> /etc/crypttab
         mkdir -p /mnt/volume /mnt/secret
         echo '/dev/group/volume /mnt/volume ext4 defaults 0 2' >> /etc/fstab
         echo '/dev/mapper/secret /mnt/secret ext4 defaults 0 2' >> /etc/fstab
         systemctl daemon-reload
         for name in volume secret; do mount /mnt/$name; echo $name > /mnt/$name/file; done"
    ))?;
    guest.reboot()?;
    is_running(guest)?;
    for name in ["volume", "secret"] {
        mounted_clean(guest, &format!("/mnt/{name}"))?;
        ensure!(guest.sh(&format!("cat /mnt/{name}/file"))? == name, "the content of {name} has changed");
    }
    Ok(())
}

/// A server whose store is missing does not keep the system from booting, and says why.
fn missing_store(guest: &mut Guest) -> Result<()> {
    let node = add(guest, "missing", "file /srv/missing.img --create --size 64M --persist")?;
    guest.sh(&format!(
        "mkfs.ext4 -q -L label-m {node}; mkdir -p /mnt/m; mv /srv/missing.img /srv/elsewhere.img
         cp /etc/fstab /root/fstab
         echo 'LABEL=label-m /mnt/m ext4 nofail,x-systemd.device-timeout=5s 0 2' >> /etc/fstab"
    ))?;
    guest.reboot()?;
    let state = guest.sh("systemctl is-system-running || true")?;
    ensure!(state == "degraded", "the system is {state}");
    let said = guest.sh("systemctl status zosbd2@missing.service --no-pager || true")?;
    ensure!(said.contains("/srv/missing.img"), "the unit does not say what is missing:\n{said}");
    guest.sh("mv /srv/elsewhere.img /srv/missing.img; systemctl reset-failed; systemctl start zosbd2@missing.service")?;
    guest.until("the label", "test -b /dev/disk/by-label/label-m")?;
    guest
        .sh("mountpoint -q /mnt/m || mount LABEL=label-m /mnt/m; umount /mnt/m; cp /root/fstab /etc/fstab")?;
    guest
        .sh("systemctl daemon-reload; zosbd2 remove --forget missing; test ! -e /etc/zosbd2/missing.toml")
        .map(drop)
}

/// A disk that is unmounted is removed, with its configuration; its store stays.
fn remove_leaves_nothing(guest: &mut Guest) -> Result<()> {
    guest.sh("sed -i '\\,/mnt/a,d' /etc/fstab; systemctl daemon-reload; umount /mnt/a
         zosbd2 remove --forget a
         test ! -e /etc/zosbd2/a.toml; test ! -e /run/zosbd2/a.toml; test -f /srv/a.img
         test ! -e /dev/disk/by-label/label-a
         ! systemctl is-active --quiet zosbd2@a.service")?;
    no_errors(guest)
}

/// After a purge there is no file of the packages.
fn purge_leaves_nothing(guest: &mut Guest) -> Result<()> {
    guest.sh(
        "swapoff -a; cd /; for path in /mnt/secret /mnt/volume /mnt/b; do umount $path 2>/dev/null || true; done
         cryptsetup close secret 2>/dev/null || true; vgchange -q -an group 2>/dev/null || true
         sed -i '\\,^/dev/vda,!d' /etc/fstab; rm -f /etc/crypttab; systemctl daemon-reload
         zosbd2 remove --all --forget; rm -rf /root/debs",
    )?;
    guest.sh_within(LONG, "apt-get purge -y 'zosbd2*' 'libzosbd2*' 2>&1")?;
    let left =
        guest.sh("find / -xdev -path /var/log -prune -o -path /proc -prune -o -name '*zosbd2*' -print |
             grep -vE 'zosbd2-agent|initramfs-tools|journald.conf.d/zosbd2.conf' || true
         ls -d /run/zosbd2* /dev/shm/zosbd2* 2>/dev/null || true; lsmod | grep zosbd2 || true")?;
    ensure!(left.is_empty(), "the packages left:\n{left}");
    is_running(guest)
}

/// Makes a disk, and returns its node, which can be used at once.
fn add(guest: &mut Guest, name: &str, what: &str) -> Result<String> {
    let node = guest.sh(&format!("zosbd2 add {what} -n {name}"))?;
    ensure!(node.starts_with("/dev/") && !node.contains('\n'), "add printed {node:?}, not a node alone");
    guest.sh(&format!("test -b {node}; dd if={node} of=/dev/null bs=4096 count=1 status=none"))?;
    Ok(node)
}

/// The process that serves a disk.
fn main_pid(guest: &mut Guest, name: &str) -> Result<String> {
    let pid = guest.sh(&format!("systemctl show -P MainPID \"zosbd2@$(systemd-escape {name}).service\""))?;
    ensure!(pid.parse::<u32>().is_ok_and(|pid| pid > 0), "{name} has no server: {pid}");
    Ok(pid)
}

/// Waits until another process serves the disk.
fn new_server(guest: &mut Guest, name: &str, before: &str) -> Result<()> {
    let script = format!(
        "unit=zosbd2@$(systemd-escape {name}).service; pid=$(systemctl show -P MainPID $unit)
         systemctl is-active --quiet $unit; test $pid != 0; test $pid != {before}"
    );
    guest.until("another server", &script).map(drop)
}

/// Starts fio on a file of this mount: it writes, and verifies all that it wrote, for many rounds.
fn start_load(guest: &mut Guest, mount: &str) -> Result<()> {
    guest
        .sh(&format!(
            "systemctl reset-failed {LOAD}.service 2>/dev/null || true; rm -f /run/{LOAD}.stop
         systemd-run --quiet --unit={LOAD} -p RemainAfterExit=yes sh -ec 'until [ -e /run/{LOAD}.stop ]; do
             fio --name=verify --filename={mount}/verify --size=32M --rw=randwrite --bs=4k --ioengine=libaio \
                 --iodepth=16 --direct=1 --verify=crc32c --verify_fatal=1 --minimal >/dev/null
         done'"
        ))
        .map(drop)
}

/// Waits until the disk below a mount has completed writes, so that the load goes on.
fn wait_for_writes(guest: &mut Guest, mount: &str) -> Result<()> {
    let count = format!("awk '{{print $5}}' /sys/class/block/$(basename $(findmnt -no SOURCE {mount}))/stat");
    let before: u64 = guest.sh(&count)?.parse().context("the count of writes")?;
    guest.until("more writes", &format!("test $({count}) -ge {}", before + 200))?;
    guest.sh(&format!("test \"$(systemctl show -P SubState {LOAD}.service)\" = running")).map(drop)
}

/// Lets the load end after its round, without an error.
fn finish_load(guest: &mut Guest) -> Result<()> {
    guest.sh(&format!("touch /run/{LOAD}.stop"))?;
    guest.until(
        "the end of fio",
        &format!("test \"$(systemctl show -P SubState {LOAD}.service)\" != running"),
    )?;
    let result = guest.sh(&format!("systemctl show -P SubState -P Result {LOAD}.service | xargs"))?;
    ensure!(
        result.contains("exited") && result.contains("success"),
        "fio ended with an error ({result}):\n{}",
        guest.sh(&format!("journalctl -u {LOAD} --no-pager -n 20"))?
    );
    guest.sh(&format!("systemctl stop {LOAD}.service")).map(drop)
}

/// Fails if the kernel saw an error of a disk.
fn no_errors(guest: &mut Guest) -> Result<()> {
    let errors =
        guest.sh("dmesg | grep -E 'I/O error|EXT4-fs error|Buffer I/O|BUG:|WARNING:|hung_task' || true")?;
    ensure!(errors.is_empty(), "the kernel said:\n{errors}");
    Ok(())
}

/// Fails unless the file system is mounted, and was unmounted before.
fn mounted_clean(guest: &mut Guest, mount: &str) -> Result<()> {
    guest.sh(&format!(
        "mountpoint -q {mount}; name=$(basename $(readlink -f $(findmnt -no SOURCE {mount})))
         ! dmesg | grep -E \"EXT4-fs \\($name\\): .*recovery\""
    ))?;
    no_errors(guest)
}

/// The same package with a higher version, made on the host.
fn newer(deb: &Path) -> Result<PathBuf> {
    let folder = kernels::target().join("system/newer");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder)?;
    let tree = folder.join("tree");
    command::finish(Command::new("dpkg-deb").arg("-R").arg(deb).arg(&tree))?;
    let control = tree.join("DEBIAN/control");
    let text = std::fs::read_to_string(&control)?;
    let raise = |line: &str| {
        if line.starts_with("Version: ") { format!("{line}+newer\n") } else { format!("{line}\n") }
    };
    std::fs::write(&control, text.lines().map(raise).collect::<String>())?;
    let name =
        deb.file_name().context("a file has a name")?.display().to_string().replace(".deb", "+newer.deb");
    let file = folder.join(name);
    command::finish(Command::new("dpkg-deb").args(["--root-owner-group", "-b"]).arg(&tree).arg(&file))?;
    Ok(file)
}
