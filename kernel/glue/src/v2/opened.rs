// SPDX-License-Identifier: GPL-2.0-only
//! Descriptors that are opened before anything is changed, so that nothing can fail afterwards.
//!
//! Called in process context with no lock held; may sleep.

use core::ptr;

use zosbd2_engine::Errno;

use crate::block::Device;
use crate::shim;

/// A server descriptor that its process does not see yet. Abandoned when dropped.
pub struct Opened(Option<(i32, *mut shim::File)>);

impl Opened {
    /// A descriptor without a server.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `EMFILE`, `ENFILE`.
    pub fn new(device: &Device) -> Result<Self, Errno> {
        let mut file = ptr::null_mut();
        // SAFETY: a holder of the block has a reference to its device; `file` is written on success.
        let fd = unsafe { shim::zosbd2_server_open(device.device(), &raw mut file) };
        shim::result(fd)?;
        Ok(Self(Some((fd, file))))
    }

    /// Makes it the descriptor of the server of `epoch`: its last close is that server's death. The device's
    /// lock is held.
    pub fn appoint(&self, epoch: u32) {
        if let Some((_, file)) = self.0 {
            // SAFETY: opened by `new`, and neither installed nor abandoned before.
            unsafe { shim::zosbd2_server_appoint(file, epoch) };
        }
    }

    /// Gives the descriptor to the process. Returns its number.
    #[must_use]
    pub fn install(mut self) -> i32 {
        // Present until this call.
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
