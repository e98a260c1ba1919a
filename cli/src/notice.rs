// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a server tells systemd, and what systemd keeps for it.
//!
//! Without `NOTIFY_SOCKET`, nothing is told, and nothing is kept.

use crate::failure::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use sd_notify::NotifyState;
use std::fs::File;
use std::os::fd::AsFd as _;

/// Longest time for systemd to confirm.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// Whether systemd listens to this process.
pub(crate) fn heard() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// The server is ready.
pub(crate) fn ready(text: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(text)]);
}

/// How the server is, in a sentence.
pub(crate) fn status(text: &str) {
    tell(&[NotifyState::Status(text)]);
}

/// Systemd may be gone, and nothing depends on what it hears.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("tell systemd: {error}");
    }
}

/// This process becomes the main process of its unit. Returns when systemd knows it, so that the end of the older
/// process is not the end of the unit.
pub(crate) fn main_process(pid: u32) -> Result<()> {
    if !heard() {
        return Ok(());
    }
    let doing = "make this process the main one of its unit";
    sd_notify::notify(&[NotifyState::MainPid(pid)]).context(doing)?;
    // Systemd closes the descriptor of a barrier when it has taken all earlier messages.
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).context(doing)?;
    sd_notify::notify_with_fds(&[NotifyState::Custom("BARRIER=1")], &[write.as_fd()]).context(doing)?;
    drop(write);
    let taken = poll(&mut [PollFd::new(&read, PollFlags::IN)], Some(&PATIENCE)).context(doing)?;
    if taken == 0 {
        tracing::warn!("systemd has not confirmed the main process within {} s", PATIENCE.tv_sec);
    }
    Ok(())
}

/// Gives systemd a copy of a file under a name, for the next process of the unit.
pub(crate) fn keep(file: &File, name: &str) -> Result<()> {
    let state = [NotifyState::FdStore, NotifyState::FdName(name)];
    sd_notify::notify_with_fds(&state, &[file.as_fd()]).context(format_args!("let systemd keep {name}"))
}

/// Lets systemd forget what it keeps under a name.
pub(crate) fn forget(name: &str) {
    tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
}

/// The file that systemd keeps under a name.
pub(crate) fn kept(name: &str) -> Option<File> {
    let descriptor = sd_notify::listen_fds_with_names().ok()?.find(|(_, own)| own == name)?.0;
    // A second description of the same file, which this process owns by the rules.
    File::options().read(true).write(true).open(format!("/proc/self/fd/{descriptor}")).ok()
}
