// SPDX-License-Identifier: MIT OR Apache-2.0
//! What every serving thread does first, whichever interface it serves.

/// Makes the calling thread fit to serve a disk. Failures are told to the log: serving works without.
pub(crate) fn prepare_thread() {
    become_io_flusher();
    if let Err(error) = crate::sys::schedule::wake_without_preempting() {
        tracing::debug!(%error, "serving with the default scheduling policy");
    }
}

/// Tells the kernel that this thread serves a disk: memory that it needs must not wait for write-back,
/// which may be waiting for this thread. Serving works without, except when memory is short.
fn become_io_flusher() {
    let set =
        rustix::process::configure_io_flusher_behavior(true).and_then(|()| rustix::process::is_io_flusher());
    if set != Ok(true) {
        tracing::warn!(
            "cannot become an I/O flusher (needs CAP_SYS_RESOURCE): may hang when memory is short"
        );
    }
}
