// SPDX-License-Identifier: MIT OR Apache-2.0
//! The right to serve a device of the kernel in memory.
//!
//! Clones are the same server, as duplicates of a descriptor are. When the last one is dropped, the server is dead. The
//! lanes' own clones end with their serve.

use super::device::Device;
use crate::v2::channel::Keeper;
use crate::v2::control::failed;
use crate::v2::serve::ready::Sleeper;
use crate::v2::serve::{serve_async_with, serve_requests_with, serve_with};
use crate::v2::{
    Answers, AsyncBackend, Backend, Batch, Channel, End, Entered, Fetch, Handler, Identity, Readiness,
    ServeOptions, ServerId, Status,
};
use crate::{Errno, Result, StopToken};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::JoinHandle;
use zosbd2_abi::v2;

/// A server of a device in memory: see [`Kernel::create`](super::Kernel::create).
#[derive(Clone, Debug)]
pub struct Server {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    device: Arc<Device>,
    epoch: u32,
    identity: Identity,
    status: Status,
    size: AtomicU64,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.device.lose(self.epoch, true);
    }
}

impl Server {
    pub(super) fn new(device: Arc<Device>, epoch: u32) -> Self {
        let status = device.status();
        let size = AtomicU64::new(status.size_bytes);
        Self { inner: Arc::new(Inner { device, epoch, identity: Identity::new(), status, size }) }
    }

    /// Name of the device.
    #[must_use]
    pub fn name(&self) -> &str {
        self.inner.device.name()
    }

    /// Creates the block node. The functions that serve do it by themselves.
    pub fn start(&self) -> Result<()> {
        self.inner.device.start().map_err(|source| failed("start device", self.name(), source))
    }

    /// Begins a batch of answers for [`enter`](Channel::enter) in reused memory.
    pub fn batch<'a>(&self, answers: &'a mut Answers) -> Batch<'a> {
        answers.begin(self.id())
    }

    /// Claims the cache: see [`Server::claim_cache`](crate::Server::claim_cache).
    pub fn claim_cache(&self) -> Result<()> {
        let mut state = self.inner.device.lock();
        let server = state.server_mut(self.inner.epoch);
        if server.fetched {
            return Err(failed("claim the cache of device", self.name(), Errno::ALREADY));
        }
        server.claimed = true;
        Ok(())
    }

    /// The server dies: its requests go to the next one, its calls end with `ESHUTDOWN`, and its answers are refused. Its
    /// threads may still call the backend, as those of a process that was declared dead.
    pub fn kill(&self) {
        self.inner.device.lose(self.inner.epoch, false);
    }

    /// Number of requests that wait, and of those that a server holds, in all queues.
    #[must_use]
    pub fn outstanding(&self) -> (usize, usize) {
        let state = self.inner.device.lock();
        (state.requests.len() - state.handles.len(), state.handles.len())
    }

    /// Serves like [`Server::serve`](crate::Server::serve), but the whole process is not prepared for it.
    pub fn serve<B: Backend + ?Sized>(
        &self,
        backend: &B,
        options: &ServeOptions,
        stop: &StopToken,
    ) -> Result<End> {
        let (start, destroy) = (|| self.begin(), |force| self.destroy(force));
        match options.layers().around(self.clone(), stop) {
            None => serve_with(self, backend, options, stop, start, destroy),
            Some(channel) => serve_with(&channel, backend, options, stop, start, destroy),
        }
    }

    /// Serves like [`Server::serve_requests`](crate::Server::serve_requests).
    pub fn serve_requests<H: Handler + ?Sized>(
        &self,
        handler: &H,
        options: &ServeOptions,
        stop: &StopToken,
    ) -> Result<End> {
        let (start, destroy) = (|| self.begin(), |force| self.destroy(force));
        match options.layers().around(self.clone(), stop) {
            None => serve_requests_with(self, handler, options, stop, start, destroy),
            Some(channel) => serve_requests_with(&channel, handler, options, stop, start, destroy),
        }
    }

    /// Serves like [`Server::serve_async`](crate::Server::serve_async).
    pub fn serve_async<B: AsyncBackend + ?Sized>(
        &self,
        backend: &B,
        options: &ServeOptions,
        stop: &StopToken,
    ) -> Result<End> {
        let (start, destroy) = (|| self.begin(), |force| self.destroy(force));
        let sleepers = || Ok(Sleep::new(self));
        match options.layers().around(self.clone(), stop) {
            None => serve_async_with(self, backend, options, stop, sleepers, start, destroy),
            Some(channel) => serve_async_with(&channel, backend, options, stop, sleepers, start, destroy),
        }
    }

    /// Serves on a thread of its own.
    #[must_use]
    pub fn spawn<B: Backend + Send + 'static>(self, backend: Arc<B>, options: ServeOptions) -> Serving {
        self.spawn_with(move |server, stop| server.serve(&*backend, &options, stop))
    }

    /// Serves with this function on a thread of its own.
    #[must_use]
    pub fn spawn_with(
        self,
        serve: impl FnOnce(&Self, &StopToken) -> Result<End> + Send + 'static,
    ) -> Serving {
        let stop = StopToken::new();
        let (server, token) = (self.clone(), stop.clone());
        let thread = std::thread::spawn(move || serve(&server, &token));
        Serving { server: self, stop, thread }
    }

    pub(in crate::v2) fn begin(&self) -> Result<()> {
        match self.inner.device.start() {
            Ok(()) | Err(Errno::ALREADY) => Ok(()),
            Err(source) => Err(failed("start device", self.name(), source)),
        }
    }

    pub(in crate::v2) fn destroy(&self, force: bool) -> Result<()> {
        let destroyed = self.inner.device.destroy(force);
        destroyed.map_err(|source| failed("destroy device", self.name(), source))
    }
}

impl Channel for Server {
    fn enter(&self, batch: &mut Batch<'_>, fetch: Fetch<'_>) -> Entered {
        let Inner { device, epoch, identity, .. } = &*self.inner;
        if !batch.is_for(identity.id()) {
            return Entered { error: Some(Errno::INVAL), ..Entered::default() };
        }
        device.enter(*epoch, identity, batch, fetch)
    }

    fn id(&self) -> ServerId {
        self.inner.identity.id()
    }

    fn status(&self) -> &Status {
        &self.inner.status
    }

    fn size(&self) -> u64 {
        self.inner.size.load(Ordering::Acquire)
    }

    fn refresh_size(&self) -> Result<u64> {
        let size = self.inner.device.lock().raw.size_bytes;
        self.inner.size.store(size, Ordering::Release);
        Ok(size)
    }

    fn resize(&self, size_bytes: u64) -> Result<()> {
        let mut state = self.inner.device.lock();
        let block = u64::from(state.raw.logical_block_size);
        let error = match state.over(self.inner.epoch) {
            None if size_bytes == 0 || size_bytes % block != 0 || size_bytes > v2::MAX_SIZE_BYTES => {
                Some(Errno::INVAL)
            }
            over => over,
        };
        if let Some(source) = error {
            return Err(failed("resize device", self.name(), source));
        }
        state.raw.size_bytes = size_bytes;
        self.inner.size.store(size_bytes, Ordering::Release);
        Ok(())
    }

    fn leave(&self) -> Result<Option<Keeper>> {
        let Inner { device, epoch, .. } = &*self.inner;
        if device.lock().over(*epoch).is_some() {
            return Ok(None);
        }
        let next = device.attach(true).map_err(|source| failed("leave device", self.name(), source))?;
        Ok(Some(Box::new(Self::new(device.clone(), next))))
    }
}

/// A server that serves on a thread of its own.
#[derive(Debug)]
pub struct Serving {
    server: Server,
    stop: StopToken,
    thread: JoinHandle<Result<End>>,
}

impl Serving {
    /// The server.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The server dies ([`Server::kill`]). Returns when its threads have ended, so that the backend is not called any more.
    ///
    /// # Panics
    ///
    /// If serving has panicked.
    pub fn kill(self) {
        self.server.kill();
        // How it ended means nothing for a dead server.
        drop(self.join());
    }

    /// Requests a stop, and waits for the end: until the device is not open any more.
    ///
    /// # Panics
    ///
    /// If serving has panicked.
    pub fn stop(self) -> Result<End> {
        self.stop.request();
        self.join()
    }

    /// Waits for the end.
    ///
    /// # Panics
    ///
    /// If serving has panicked.
    pub fn join(self) -> Result<End> {
        let Self { server, thread, .. } = self;
        drop(server);
        thread.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload))
    }
}

/// How an asynchronous lane waits.
pub(in crate::v2) struct Sleep {
    server: Server,
    woken: Arc<Woken>,
    wanted: bool,
}

struct Woken {
    device: Arc<Device>,
    woken: AtomicBool,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.device.nudge();
    }
}

impl Sleep {
    pub(in crate::v2) fn new(server: &Server) -> Self {
        let woken = Woken { device: server.inner.device.clone(), woken: AtomicBool::new(false) };
        Self { server: server.clone(), woken: Arc::new(woken), wanted: false }
    }
}

impl Readiness for Sleep {
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Inner { device, epoch, .. } = &*self.server.inner;
        let mut state = device.lock();
        let ready = state.has_news(*epoch);
        self.wanted = !ready;
        if ready {
            return Poll::Ready(Ok(()));
        }
        state.wakers.push(context.waker().clone());
        Poll::Pending
    }
}

impl Sleeper for Sleep {
    fn waker(&self) -> Waker {
        self.woken.clone().into()
    }

    fn sleep(&mut self) {
        // Changes wake the lane's waker, which is this one. Timers wake nobody: a deadline returns a request to its queue.
        let Inner { device, epoch, .. } = &*self.server.inner;
        let mut state = device.lock();
        loop {
            let woken = self.woken.woken.swap(false, Ordering::AcqRel);
            if woken || self.wanted && state.has_news(*epoch) {
                return;
            }
            state = device.wait(state);
        }
    }
}
