// SPDX-License-Identifier: MIT OR Apache-2.0
//! The disk of guests with [`Need::Disk`](super::Need::Disk): the only virtio disk of the machine.

use super::{modules, wait_until};
use std::fs;
use std::path::Path;

/// Its node.
pub(crate) const DISK: &str = "/dev/vda";

/// Whether this machine has the disk, whether or not its drivers are loaded.
pub(crate) fn attached() -> bool {
    let Ok(devices) = fs::read_dir("/sys/bus/pci/devices") else { return false };
    // The PCI vendor of all virtio devices.
    devices
        .flatten()
        .any(|device| fs::read_to_string(device.path().join("vendor")).is_ok_and(|id| id.trim() == "0x1af4"))
}

/// Loads the disk's drivers and waits for the node.
pub(crate) fn load() {
    for driver in ["virtio_pci", "virtio_blk"] {
        modules::load(driver, "");
    }
    wait_until(20, "the disk to appear", || Path::new(DISK).exists());
}
