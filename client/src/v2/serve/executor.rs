// SPDX-License-Identifier: MIT OR Apache-2.0
//! Serves an asynchronous backend in a task of an executor, here tokio's.
//!
//! The task polls all lanes, and never blocks: what blocks runs on threads of the library ([`aside`]). One creates the device, or
//! follows and waits for older servers. Another one starts the device and watches over it: it destroys the device on a stop
//! request, follows the backend's size, and ends with the lanes.
//!
//! What happens when the future is dropped, or its executor ends:
//!
//! | when | outcome |
//! |---|---|
//! | before it was polled | nothing was done |
//! | while it creates the device, or waits for an older server | a new device is gone; an existing one waits for its next server. No older server is killed from then on |
//! | before the device is started | the same |
//! | while it serves | nothing is answered: the lanes are closed, the watching thread ends, and the requests go to the next server when the last descriptor is closed, as after a death |

use super::aside::aside;
use super::asynchronous::AsyncLane;
use super::exchange::Exchange;
use super::ready::Readiness;
use super::session::Session;
use super::{End, ServeOptions, check_async, through_layers};
use crate::sys::fork::OwnFd;
use crate::sys::reactor::readable;
use crate::v2::async_backend::carry_out;
use crate::v2::server::Serving;
use crate::v2::testing::{self, Sleep};
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
    ///
    /// The task never blocks: creating the device, and waiting for an older server, are done on a thread of the library.
    /// If the future is dropped before the device is started, a new device is gone, and an existing one waits for its next
    /// server. If it is dropped while it serves, nothing is answered, and the requests go to the next server, as after the
    /// death of a process.
    pub async fn serve_tokio<B: AsyncBackend + Send + Sync + 'static>(self, backend: Arc<B>) -> Result<End> {
        self.serve_tokio_then(backend, |_| {}).await
    }

    /// Like [`serve_tokio`](Self::serve_tokio). Calls `ready` with the path of the block node when the node exists, on a
    /// thread of the library.
    pub async fn serve_tokio_then<B: AsyncBackend + Send + Sync + 'static>(
        self,
        backend: Arc<B>,
        ready: impl FnOnce(PathBuf) + Send + 'static,
    ) -> Result<End> {
        let checked = self.check_async(&*backend)?;
        let stop = StopToken::new();
        let _signals = Self::watch_signals(&stop)?;
        let device = checked.name().to_owned();
        let spawned = |result: io::Result<_>| result.map_err(|source| Error::Spawn { device, source });
        let begin = aside("zosbd2-begin", move |abandoned| -> Result<_> {
            let begun = checked.begin(abandoned)?;
            // Serving does it, too, and then has little to do.
            begun.1.lock_memory()?;
            Ok(begun)
        });
        let (server, options) = spawned(begin)?.await?;
        let path = server.path();
        let result = server.serve_tokio(backend, &options, &stop, move || ready(path)).await;
        if result.is_err() {
            // Without a thread the device waits for its next server.
            if let Ok(forget) = aside("zosbd2-end", move |_| server.forget_unused()) {
                forget.await;
            }
        }
        result
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
        serving.end(through_layers!(options, stop, self, self.clone(), channel => {
            serve_in_task(channel, backend, options, stop, readiness, start, destroy).await
        }))
    }
}

impl testing::Server {
    /// Serves like [`Server::serve_tokio`](crate::Server::serve_tokio), in the calling task of any executor.
    pub async fn serve_tokio<B: AsyncBackend + Send + Sync + 'static>(
        &self,
        backend: Arc<B>,
        options: &ServeOptions,
        stop: &StopToken,
    ) -> Result<End> {
        let (starter, destroyer) = (self.clone(), self.clone());
        let start = move || starter.begin();
        let destroy = move |force| destroyer.destroy(force);
        let readiness = || Ok(Sleep::new(self));
        through_layers!(options, stop, self, self.clone(), channel => {
            serve_in_task(channel, backend, options, stop, readiness, start, destroy).await
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
    let watch = move |_: &_| {
        let known = watched.backend_size(|| sized.size());
        // No lane is left to serve the device. A device that was not started goes with its server.
        if watched.ended() {
            return None;
        }
        let panicked = watched.begin(start, &destroy);
        watched.watch(|| sized.size(), known, &destroy);
        panicked
    };
    let watch = aside("zosbd2-watch", watch)
        .map_err(|source| Error::Spawn { device: session.notes.device(), source })?;
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
    match watch.await {
        None => session.end(),
        Some(payload) => resume_unwind(payload),
    }
}
