// SPDX-License-Identifier: MIT OR Apache-2.0
//! The disk of a guest whose tests want one ([`Need::Disk`](super::Need::Disk)): a virtio device, the only one there.

use super::{modules, wait_until};
use std::fs;
use std::path::Path;

/// Where it is.
pub(crate) const DISK: &str = "/dev/vda";

/// Whether this machine has it, whatever is loaded.
pub(crate) fn attached() -> bool {
    let Ok(devices) = fs::read_dir("/sys/bus/pci/devices") else { return false };
    // The vendor of all virtio devices.
    devices
        .flatten()
        .any(|device| fs::read_to_string(device.path().join("vendor")).is_ok_and(|id| id.trim() == "0x1af4"))
}

/// Loads its drivers, and waits for the node.
pub(crate) fn load() {
    for driver in ["virtio_pci", "virtio_blk"] {
        modules::load(driver, "");
    }
    wait_until(20, "the disk to appear", || Path::new(DISK).exists());
}
