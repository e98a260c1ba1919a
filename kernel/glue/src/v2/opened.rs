// SPDX-License-Identifier: GPL-2.0-only
//! Descriptors on their way to a process: made before anything is changed, so that nothing can fail afterwards.
//!
//! Called in process context with no lock held; may sleep.

use core::ptr;

use zosbd2_engine::Errno;

use crate::block::Device;
use crate::shim;

/// A server descriptor that its process does not see yet; abandoned when dropped.
pub struct Opened(Option<(i32, *mut shim::File)>);

impl Opened {
    /// A descriptor of no server yet.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `EMFILE`, `ENFILE`.
    pub fn new(device: &Device) -> Result<Self, Errno> {
        let mut file = ptr::null_mut();
        // SAFETY: whoever has the block has a reference to its device; `file` is written on success.
        let fd = unsafe { shim::zosbd2_server_open(device.device(), &raw mut file) };
        shim::result(fd)?;
        Ok(Self(Some((fd, file))))
    }

    /// Makes it the descriptor of the server of `epoch`, who is dead when it is closed. The device's lock is held.
    pub fn appoint(&self, epoch: u32) {
        if let Some((_, file)) = self.0 {
            // SAFETY: opened by `new`, and neither installed nor abandoned before.
            unsafe { shim::zosbd2_server_appoint(file, epoch) };
        }
    }

    /// From now on its process has it. Returns its number.
    #[must_use]
    pub fn install(mut self) -> i32 {
        // It is there until now.
        let Some((fd, file)) = self.0.take() else { return 0 };
        // SAFETY: opened by `new`, and neither installed nor abandoned before.
        unsafe { shim::zosbd2_server_install(fd, file) };
        fd
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some((fd, file)) = self.0.take() {
            // SAFETY: opened by `new`, and neither installed nor abandoned before.
            unsafe { shim::zosbd2_server_abandon(fd, file) };
        }
    }
}
