// SPDX-License-Identifier: MIT OR Apache-2.0
//! A backend as the suite's target, served by the library in a kernel in memory: no root, no module.
//!
//! Unlike [`Direct`](super::Direct), this also works for asynchronous backends and for handlers, and includes the library's
//! lanes: the backend sees requests as they would come from the module.

use super::{Check, Failure, Target, run};
use zosbd2::testing::{Disk, Io, Kernel, Server};
use zosbd2::v2::abi;
use zosbd2::{
    AsyncBackend, Backend, Builder, Channel as _, End, Errno, Handler, ServeOptions, Status, StopToken,
};

/// Runs all checks on a device in memory, which `serve` serves on a thread of its own. The suite requests a stop on the
/// token when it is done.
///
/// ```
/// use std::sync::Arc;
/// use zosbd2::{Backend as _, Builder, ServeOptions, SparseMemory};
/// use zosbd2_backends::conformance;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let memory = SparseMemory::new(64 << 20)?;
/// let builder = Builder::new("memory").for_backend(&memory);
/// let options = ServeOptions::default().threads_per_queue(2);
/// conformance::run_served(&builder, 42, move |server, stop| server.serve(&memory, &options, stop))?;
/// # Ok(())
/// # }
/// ```
///
/// An asynchronous backend that needs tokio is served with
/// `runtime.block_on(server.serve_tokio(backend, &options, stop))`, with the feature `tokio` of the library.
///
/// # Errors
///
/// The first failure: of a check, or of serving.
pub fn run_served(
    builder: &Builder,
    seed: u64,
    serve: impl FnOnce(&Server, &StopToken) -> zosbd2::Result<End> + Send,
) -> Result<Vec<Check>, Failure> {
    let failed = |check, error: zosbd2::Error| Failure { check, problem: error.chain().to_string(), seed };
    let kernel = Kernel::new(seed);
    let server = kernel.create(builder).map_err(|error| failed("create", error))?;
    let status = server.status().clone();
    let stop = StopToken::new();
    std::thread::scope(|scope| {
        let token = stop.clone();
        // The server is dropped with the thread: then nobody waits for a device that was not started.
        let serving = scope.spawn(move || serve(&server, &token));
        let report = kernel.disk(builder.name()).map(|disk| run(&Hosted { disk, status }, seed));
        stop.request();
        let end = serving.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload));
        match (report, end) {
            (Ok(Err(failure)), _) => Err(failure),
            (_, Err(error)) => Err(failed("serve", error)),
            (Err(error), Ok(_)) => Err(failed("open", error)),
            (Ok(report), Ok(_)) => report,
        }
    })
}

/// Runs all checks on a backend, with one thread. Unlike with [`Direct`](super::Direct), no request is beyond the end, as none
/// comes from the module.
///
/// # Errors
///
/// The first failure.
pub fn run_backend<B: Backend + ?Sized>(backend: &B, seed: u64) -> Result<Vec<Check>, Failure> {
    let builder = Builder::new("conformance").for_backend(backend);
    run_served(&builder, seed, |server, stop| server.serve(backend, &ServeOptions::default(), stop))
}

/// Runs all checks on an asynchronous backend, on the library's own threads. For futures that need tokio, see
/// [`run_served`].
///
/// # Errors
///
/// The first failure.
pub fn run_async<B: AsyncBackend + Send + Sync>(backend: &B, seed: u64) -> Result<Vec<Check>, Failure> {
    let builder = Builder::new("conformance").for_async_backend(backend);
    run_served(&builder, seed, |server, stop| server.serve_async(backend, &ServeOptions::default(), stop))
}

/// Runs all checks on a handler of owned requests.
///
/// # Errors
///
/// The first failure.
pub fn run_requests<H: Handler>(handler: &H, seed: u64) -> Result<Vec<Check>, Failure> {
    let builder = Builder::new("conformance").for_handler(handler);
    run_served(&builder, seed, |server, stop| server.serve_requests(handler, &ServeOptions::default(), stop))
}

/// A device of the kernel in memory.
struct Hosted {
    disk: Disk,
    status: Status,
}

impl Target for Hosted {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn block_size(&self) -> u32 {
        self.status.logical_block_size
    }

    fn read_only(&self) -> bool {
        self.status.create_flags & abi::CREATE_READ_ONLY != 0
    }

    fn can_discard(&self) -> bool {
        self.status.max_discard_bytes > 0
    }

    fn can_write_zeroes(&self) -> bool {
        self.status.max_write_zeroes_bytes > 0
    }

    fn sees_the_outside(&self) -> bool {
        false
    }

    fn any_thread(&self) -> bool {
        true
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.disk.read(offset, buffer)
    }

    fn write(&self, offset: u64, data: &[u8], fua: bool) -> Result<(), Errno> {
        if fua { self.disk.write_durably(offset, data) } else { self.disk.write(offset, data) }
    }

    fn flush(&self) -> Result<(), Errno> {
        self.disk.flush()
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), Errno> {
        self.disk.discard(offset, length)
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> Result<(), Errno> {
        if unmap {
            return self.disk.write_zeroes(offset, length);
        }
        self.disk.submit(Io::write_zeroes(offset, length).allocated())?.wait().map(drop)
    }
}
