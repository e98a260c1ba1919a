// SPDX-License-Identifier: MIT OR Apache-2.0
//! Serves an asynchronous backend in a task of an executor, here tokio's.
//!
//! The task polls all lanes. A thread of the library starts the device and watches over it, because both may
//! block: it destroys the device on a stop request, follows the backend's size, and ends with the lanes.
//!
//! When the future is dropped, or its executor ends, nothing is answered: the lanes are closed, the watching
//! thread ends, and the requests go to the next server when the last descriptor is closed.

use super::asynchronous::AsyncLane;
use super::exchange::Exchange;
use super::ready::Readiness;
use super::session::Session;
use super::{End, ServeOptions, check_async};
use crate::sys::fork::OwnFd;
use crate::sys::reactor::readable;
use crate::v2::async_backend::carry_out;
use crate::v2::server::Serving;
use crate::v2::{AsyncBackend, Builder, Channel, Server};
use crate::{Errno, Error, Result, StopToken};
use ::tokio::io::unix::AsyncFd;
use rustix::fd::AsFd as _;
use std::future::poll_fn;
use std::io;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// A server descriptor of its own in tokio's reactor.
struct Reactor(AsyncFd<OwnFd>);

impl Readiness for Reactor {
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The lane looks until it finds nothing, so what becomes ready from here on is news.
        ready!(self.0.poll_read_ready(context))?.clear_ready();
        Poll::Ready(Ok(()))
    }
}

impl Builder {
    /// Like [`serve_async`](Self::serve_async), in the calling task of a tokio runtime with I/O enabled.
    pub async fn serve_tokio<B: AsyncBackend + Send + Sync + 'static>(self, backend: Arc<B>) -> Result<()> {
        self.serve_tokio_then(backend, |_| {}).await
    }

    /// Like [`serve_tokio`](Self::serve_tokio). Calls `ready` with the path of the block node when the node exists, on a
    /// thread of the library.
    pub async fn serve_tokio_then<B: AsyncBackend + Send + Sync + 'static>(
        self,
        backend: Arc<B>,
        ready: impl FnOnce(PathBuf) + Send + 'static,
    ) -> Result<()> {
        let stop = StopToken::new();
        let _signals = Self::watch_signals(&stop)?;
        let (server, options) = self.create_for(backend.size(), backend.capabilities())?;
        let path = server.path();
        let result = server.serve_tokio(backend, &options, &stop, move || ready(path)).await;
        if result.is_err() {
            server.forget_unused();
        }
        result.map(drop)
    }
}

impl Server {
    /// Like [`serve_async`](Self::serve_async), in the calling task of a tokio runtime with I/O enabled.
    pub async fn serve_tokio<B: AsyncBackend + Send + Sync + 'static>(
        self: &Arc<Self>,
        backend: Arc<B>,
        options: &ServeOptions,
        stop: &StopToken,
        ready: impl FnOnce() + Send + 'static,
    ) -> Result<End> {
        let readiness = || {
            let failed = |error: io::Error| Error::Fetch {
                device: self.name().to_owned(),
                source: Errno::from_io_error(&error).unwrap_or(Errno::IO),
            };
            let own = OwnFd::duplicate(self.as_fd()).map_err(failed)?;
            readable(own).map(Reactor).map_err(failed)
        };
        let serving = Arc::new(Serving::new(self.clone(), options));
        let (starter, destroyer) = (serving.clone(), serving.clone());
        let start = move || starter.begin(ready);
        let destroy = move |force| destroyer.destroy(force);
        serving.end(match options.layers().around(self.clone(), stop) {
            None => serve_in_task(self, backend, options, stop, readiness, start, destroy).await,
            Some(channel) => serve_in_task(&channel, backend, options, stop, readiness, start, destroy).await,
        })
    }
}

/// Serves in the calling task. `readiness` makes that of a lane.
pub(in crate::v2) async fn serve_in_task<C, B, R>(
    channel: &C,
    backend: Arc<B>,
    options: &ServeOptions,
    stop: &StopToken,
    readiness: impl Fn() -> Result<R>,
    start: impl FnOnce() -> Result<()> + Send + 'static,
    destroy: impl Fn(bool) -> Result<()> + Send + Sync + 'static,
) -> Result<End>
where
    C: Channel + Clone + 'static,
    B: AsyncBackend + Send + Sync + 'static,
    R: Readiness,
{
    check_async(channel.status(), &*backend, options)?;
    let session = Arc::new(Session::new(channel.clone(), stop, options.listener()));
    let size = || backend.size();
    let make = |request| carry_out(&*backend, request);
    let mut lanes = Vec::new();
    for queue in 0..channel.status().queues {
        let exchange = Exchange::new(&session, options, queue, size)?;
        let lane = AsyncLane::new(&session, options, exchange, readiness()?, make, size);
        lanes.push(Some((lane, session.place(queue))));
    }
    let (watched, sized) = (session.clone(), backend.clone());
    let watch = move || {
        let known = watched.backend_size(|| sized.size());
        let panicked = watched.begin(start, &destroy);
        watched.watch(|| sized.size(), known, &destroy);
        panicked
    };
    let thread = std::thread::Builder::new().name("zosbd2-watch".to_owned()).spawn(watch);
    let thread = match thread {
        Ok(thread) => thread,
        Err(source) => return Err(Error::Spawn { device: session.notes.device(), source }),
    };
    poll_fn(|context| {
        let mut pending = false;
        for served in &mut lanes {
            let Some((lane, _)) = served else { continue };
            match lane.poll(context) {
                Poll::Pending => pending = true,
                Poll::Ready(end) => {
                    let end = end.map_err(|error| session.notes.note(error)).ok();
                    // The lane is closed before it is counted out.
                    if let Some(place) = served.take().map(|(_, place)| place) {
                        place.end(end);
                    }
                }
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    // The thread ends as soon as it sees that all lanes have ended.
    match thread.join() {
        Ok(None) => session.end(),
        Ok(Some(payload)) | Err(payload) => resume_unwind(payload),
    }
}
