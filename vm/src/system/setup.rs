// SPDX-License-Identifier: MIT OR Apache-2.0
//! A system's machine: disks, kernel, console.

#[cfg(doc)]
use super::TERMINAL;
use crate::accel::Accel;
use crate::arch;
use crate::machine::counter_speed;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A disk.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The image.
    pub path: PathBuf,
    /// Its format, as QEMU names it.
    pub format: &'static str,
    /// Its serial number: `/dev/disk/by-id/virtio-SERIAL`.
    pub serial: &'static str,
    /// Whether the system may only read it.
    pub read_only: bool,
}

/// A system to start.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What executes the guest.
    pub accel: Accel,
    /// Virtual processors.
    pub smp: u32,
    /// Memory, as QEMU writes it.
    pub memory: String,
    /// The kernel's image.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initrd: PathBuf,
    /// Disks, in order; the first one has the root file system, the second one is the agent's program.
    pub disks: Vec<Disk>,
    /// More kernel arguments.
    pub append: Vec<String>,
    /// Folder for `console.log` and `qemu.log`, to which further starts append.
    pub folder: PathBuf,
    /// Whether a person's terminal is to be joined with [`TERMINAL`].
    pub terminal: bool,
}

/// QEMU's command line, but for the ports that are sockets.
pub(super) fn command_of(setup: &Setup, console: &Path) -> Command {
    let arch::Machine { qemu, arguments, console: port, append, .. } = arch::host().machine;
    // A busy host makes an emulated service miss systemd's limit of 90 s; the host's limits are for systems that hang.
    let mut line = format!(
        "root=/dev/vda rw console={port} panic=-1 oops=panic loglevel=5 rcupdate.rcu_cpu_stall_timeout=60 \
         watchdog_thresh=30 random.trust_cpu=on systemd.show_status=1 \
         TERM=dumb \
         systemd.default_timeout_start_sec=900 systemd.default_device_timeout_sec=900 {append}"
    );
    line.extend(counter_speed(false, &setup.accel));
    for argument in &setup.append {
        line.push(' ');
        line.push_str(argument);
    }
    let mut command = Command::new(qemu);
    let accel = if setup.accel == Accel::Kvm { "kvm" } else { "tcg,thread=multi" };
    command
        .args(["-accel", accel])
        // See `machine::Machine::command`.
        .args(["-cpu", "max,-erms,-fsrm", "-smp", &setup.smp.to_string(), "-m", &setup.memory])
        .args(arguments)
        .args(["-display", "none", "-monitor", "none", "-nodefaults"])
        .arg("-chardev")
        .arg(format!("file,id=console,append=on,path={}", console.display()))
        .args(["-serial", "chardev:console", "-kernel"])
        .arg(&setup.kernel)
        .arg("-initrd")
        .arg(&setup.initrd)
        .args(["-append", &line]);
    for Disk { path, format, serial, read_only } in &setup.disks {
        // The host need not make the guest's flushes durable.
        let mode = if *read_only { "readonly=on" } else { "cache=unsafe" };
        command
            .arg("-drive")
            .arg(format!("file={},format={format},if=none,id={serial},{mode},discard=unmap", path.display()));
        command.arg("-device").arg(format!("virtio-blk-pci,drive={serial},serial={serial}"));
    }
    command
}
