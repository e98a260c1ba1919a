// SPDX-License-Identifier: MIT OR Apache-2.0
//! The storage behind a device, for backends that answer requests later and elsewhere.

use super::{Backend, Capabilities, Operation, Request, Zero};

/// Gets requests and answers each of them at any time, from any thread.
///
/// This is the base of serving: a [`Backend`](super::Backend) answers within the call, an
/// [`AsyncBackend`](super::AsyncBackend) in a future. A handler of its own suits a store with completions, such
/// as `io_uring` or a protocol with tags.
///
/// What a backend may not do ([`Backend`](super::Backend#what-a-backend-may-not-do)) holds here, too.
///
/// ```no_run
/// use zosbd2::{Builder, Errno, Handler, Operation, Request};
///
/// /// Hands every request to a thread of its own pool.
/// struct Pool(std::sync::mpsc::SyncSender<Request>);
///
/// impl Handler for Pool {
///     fn size(&self) -> u64 {
///         1 << 30
///     }
///
///     fn handle(&self, request: Request) {
///         // If no thread is there any more, the request is dropped: its submitter gets `EIO`.
///         let _ = self.0.send(request);
///     }
/// }
///
/// # fn main() -> zosbd2::Result<()> {
/// let (sender, requests) = std::sync::mpsc::sync_channel::<Request>(1024);
/// std::thread::spawn(move || {
///     for mut request in requests {
///         let result = match request.operation() {
///             Operation::Read => Ok(request.data_mut().fill(0)),
///             Operation::Write => Ok(()),
///             _ => Err(Errno::OPNOTSUPP),
///         };
///         request.complete(result);
///     }
/// });
/// Builder::new("pool").serve_requests(&Pool(sender))?;
/// # Ok(())
/// # }
/// ```
pub trait Handler: Sync {
    /// Size of the device in bytes: see [`Backend::size`](super::Backend::size).
    fn size(&self) -> u64;

    /// Capabilities of the backend. Called once, when the device is created.
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    /// Takes a request. Called on a serving thread; while it runs, the thread takes no other requests. A panic
    /// fails the request if it was not passed on, and the thread continues.
    fn handle(&self, request: Request);
}

impl<H: Handler + ?Sized> Handler for &H {
    fn size(&self) -> u64 {
        (**self).size()
    }

    fn capabilities(&self) -> Capabilities {
        (**self).capabilities()
    }

    #[inline]
    fn handle(&self, request: Request) {
        (**self).handle(request);
    }
}

/// A [`Backend`] as a handler: carries each request out within the call, with a buffer of its own. Regions are not
/// used, so [`serve`](super::Builder::serve) is faster.
#[derive(Clone, Copy, Debug, Default)]
pub struct Blocking<B>(pub B);

impl<B: Backend> Handler for Blocking<B> {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn handle(&self, mut request: Request) {
        let (offset, length, fua) = (request.offset(), request.length(), request.fua());
        let result = match request.operation() {
            Operation::Read => self.0.read(offset, request.data_mut()),
            Operation::Write => self.0.write(offset, request.data_mut(), fua),
            Operation::Discard => self.0.discard(offset, length),
            Operation::Flush => self.0.flush(),
            Operation::WriteZeroes => {
                self.0.write_zeroes(offset, length, Zero { unmap: request.unmap(), fua })
            }
            Operation::SecureErase => self.0.secure_erase(offset, length),
        };
        request.complete(result);
    }
}
