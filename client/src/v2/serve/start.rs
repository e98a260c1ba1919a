// SPDX-License-Identifier: MIT OR Apache-2.0
//! Serving with owned requests and with futures: what [`Builder`] and [`Server`] offer for a [`Handler`] and an
//! [`AsyncBackend`].
//!
//! These functions block the calling thread like those for a [`Backend`](crate::Backend), and the serving threads
//! have ended when they return. Requests may live on; completing them then does nothing.

use super::ready::PollSleeper;
use super::{End, ServeOptions, flush_is_default, serve_async_with, serve_requests_with, through_layers};
use crate::v2::builder::Checked;
use crate::v2::server::Serving;
use crate::v2::{AsyncBackend, Builder, Capabilities, Handler, Server, ThreadModel};
use crate::{Error, Result, StopToken};
use std::path::Path;
use std::sync::Arc;

impl Builder {
    /// Like [`serve`](Self::serve), for a backend that answers requests later and elsewhere.
    pub fn serve_requests<H: Handler + ?Sized>(self, handler: &H) -> Result<End> {
        self.serve_requests_then(handler, |_| {})
    }

    /// Like [`serve_requests`](Self::serve_requests). Calls `ready` with the path of the block node when the node
    /// exists.
    pub fn serve_requests_then<H: Handler + ?Sized>(
        self,
        handler: &H,
        ready: impl FnOnce(&Path),
    ) -> Result<End> {
        Self::with_signals(|stop| self.serve_requests_until(handler, stop, ready))
    }

    /// Like [`serve_requests_then`](Self::serve_requests_then), but catches no signals: `stop` takes their
    /// place.
    pub fn serve_requests_until<H: Handler + ?Sized>(
        self,
        handler: &H,
        stop: &StopToken,
        ready: impl FnOnce(&Path),
    ) -> Result<End> {
        let checked = self.check(handler.size(), handler.capabilities(), || true)?;
        checked
            .serve(|server, options| server.serve_requests(handler, options, stop, || ready(&server.path())))
    }

    /// Like [`serve`](Self::serve), for an asynchronous backend, on the library's own threads: one for each queue,
    /// or as many as [`ServeOptions`](crate::ServeOptions) say. It blocks the calling thread, so a task of an executor does
    /// not call it: for futures that need an executor of their own, see `serve_tokio`.
    pub fn serve_async<B: AsyncBackend + ?Sized>(self, backend: &B) -> Result<End> {
        self.serve_async_then(backend, |_| {})
    }

    /// Like [`serve_async`](Self::serve_async). Calls `ready` with the path of the block node when the node
    /// exists.
    pub fn serve_async_then<B: AsyncBackend + ?Sized>(
        self,
        backend: &B,
        ready: impl FnOnce(&Path),
    ) -> Result<End> {
        let checked = self.check_async(backend)?;
        Self::with_signals(|stop| {
            checked
                .serve(|server, options| server.serve_async(backend, options, stop, || ready(&server.path())))
        })
    }

    /// Like [`check`](Self::check). Polls the flush of the backend once, in the calling task.
    pub(in crate::v2) fn check_async<B: AsyncBackend + ?Sized>(self, backend: &B) -> Result<Checked> {
        let capabilities = Capabilities { threads: ThreadModel::Any, ..backend.capabilities() };
        self.check(backend.size(), capabilities, || flush_is_default(backend))
    }
}

impl Server {
    /// Like [`serve_then`](Self::serve_then), for an asynchronous backend, on the library's own threads.
    pub fn serve_async<B: AsyncBackend + ?Sized>(
        self: &Arc<Self>,
        backend: &B,
        options: &ServeOptions,
        stop: &StopToken,
        ready: impl FnOnce(),
    ) -> Result<End> {
        let sleepers = || {
            PollSleeper::new(self.clone())
                .map_err(|source| Error::Fetch { device: self.name().to_owned(), source })
        };
        let serving = Serving::new(&**self, options);
        let (start, destroy) = (|| serving.begin(ready), |force| serving.destroy(force));
        serving.end(through_layers!(options, stop, self, self.clone(), channel => {
            serve_async_with(channel, backend, options, stop, sleepers, start, destroy)
        }))
    }

    /// Like [`serve_then`](Self::serve_then), for a backend that answers requests later and elsewhere.
    ///
    /// The requests keep the `Server`, and so its descriptor, only until this function returns. Requests that are
    /// not answered by then go to the next server when the last descriptor is closed.
    pub fn serve_requests<H: Handler + ?Sized>(
        self: &Arc<Self>,
        handler: &H,
        options: &ServeOptions,
        stop: &StopToken,
        ready: impl FnOnce(),
    ) -> Result<End> {
        let serving = Serving::new(&**self, options);
        let (start, destroy) = (|| serving.begin(ready), |force| serving.destroy(force));
        serving.end(through_layers!(options, stop, self, self.clone(), channel => {
            serve_requests_with(channel, handler, options, stop, start, destroy)
        }))
    }
}
