// SPDX-License-Identifier: MIT OR Apache-2.0
//! Prepares threads that the library did not start.

use crate::Errno;
use crate::serving::{NoFlusher, prepare_for_writes};

/// Prepares the calling thread to carry out requests of a disk, as the library does with its own threads. Call it on each
/// thread of an executor or a pool that does.
///
/// The thread becomes an I/O flusher (`PR_SET_IO_FLUSHER`), so the kernel does not let its allocations wait for I/O on the
/// disk that it serves. `SIGXFSZ` and `SIGPIPE` are blocked, so a write of the backend that fails returns an error instead
/// of killing the process.
///
/// The error says why the thread is no I/O flusher: `EPERM` without `CAP_SYS_RESOURCE`, `EOPNOTSUPP` if the call had
/// no effect. Serving works without, but may hang when memory is short; do not swap to such a disk.
///
/// ```no_run
/// # fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
/// tokio::runtime::Builder::new_multi_thread()
///     .enable_all()
///     .on_thread_start(|| {
///         if let Err(error) = zosbd2::prepare_thread() {
///             eprintln!("no I/O flusher: {error}");
///         }
///     })
///     .build()
/// # }
/// ```
pub fn prepare_thread() -> Result<(), Errno> {
    match prepare_for_writes("any") {
        None => Ok(()),
        Some(NoFlusher(error)) => Err(error.unwrap_or(Errno::OPNOTSUPP)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prepared_thread_is_a_flusher_or_knows_why_not() {
        let prepared = std::thread::spawn(|| {
            let prepared = prepare_thread();
            (prepared, rustix::process::is_io_flusher() == Ok(true))
        });
        let (prepared, flusher) = prepared.join().expect("no panic");
        assert_eq!(prepared.is_ok(), flusher, "{prepared:?}");
    }
}
