// SPDX-License-Identifier: MIT OR Apache-2.0
//! The right to serve a device.
//!
//! Any number of threads may use one `Server` at a time. Its descriptor can be passed to another process
//! ([`AsFd`], `OwnedFd::from`), which turns it into a `Server` with [`Server::from_fd`]. When the last
//! descriptor is closed, the server is dead: the next server gets its requests, and I/O waits for that server
//! until the device's grace ends.

use super::channel::Keeper;
use super::control::failed;
use super::report::node_path;
use super::serve::{serve_with, through_layers};
use super::tell::{Event, Listener};
use super::{
    Answers, Backend, Batch, Channel, Control, End, Entered, Fetch, Latency, Outstanding, ServeOptions,
    ServerId, Settings, State, Stats, Status, Users, Which, inspect, peers,
};
use crate::sys::enter::ServerFd;
use crate::sys::fork::{ForkGuard, OwnFd, Place};
use crate::sys::ioctl2;
use crate::{Errno, Error, Result, StopToken};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use zosbd2_abi::v2;

/// A server descriptor and the constant properties of its device.
#[derive(Debug)]
pub struct Server {
    fd: ServerFd,
    created: Status,
    size: AtomicU64,
}

impl Server {
    /// Takes a descriptor that came from another process, and checks that it is a server descriptor.
    pub fn from_fd(fd: OwnedFd) -> Result<Self> {
        Self::from_own(fd.into())
    }

    pub(super) fn from_own(fd: OwnFd) -> Result<Self> {
        let mut raw = v2::Status::default();
        match ioctl2::status(fd.as_fd(), &mut raw) {
            Ok(()) if raw.version >= 2 => {
                let created = Status::from(&raw);
                let size = AtomicU64::new(created.size_bytes);
                Ok(Self { fd: ServerFd::new(fd), created, size })
            }
            Err(source @ Errno::NODEV) => Err(failed("get the status of", "the descriptor's device", source)),
            Ok(()) | Err(_) => {
                Err(Error::WrongDescriptor { problem: "it is not a server descriptor of zosbd2" })
            }
        }
    }

    /// Name of the device.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.created.name
    }

    /// Path of the block node, which exists once the device is started.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        node_path(self.name(), 2)
    }

    /// Size of the device in bytes, as this `Server` last heard.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Status of the device when this `Server` was made. State, size and server counts may have changed
    /// since.
    #[must_use]
    pub fn created(&self) -> &Status {
        &self.created
    }

    /// Creates the block node. A thread should serve soon, because the kernel looks for partitions.
    pub fn start(&self) -> Result<()> {
        let mut raw = v2::Start::default();
        ioctl2::start(self.as_fd(), &mut raw).map_err(|source| failed("start device", self.name(), source))
    }

    /// Changes the size. A backend must grow before this call, and may shrink after it. Requests submitted
    /// before the call may reach beyond the new end; this `Server` fails them.
    pub fn resize(&self, size_bytes: u64) -> Result<()> {
        let block = u64::from(self.created.logical_block_size).max(1);
        let range = |min, max| Error::Range {
            operation: "resize",
            name: self.name().to_owned(),
            option: "size in bytes",
            value: size_bytes,
            min,
            max,
        };
        if !(block..=v2::MAX_SIZE_BYTES).contains(&size_bytes) {
            return Err(range(block, v2::MAX_SIZE_BYTES));
        }
        if size_bytes % block != 0 {
            return Err(Error::Option {
                operation: "resize",
                name: self.name().to_owned(),
                option: "size in bytes",
                value: size_bytes.to_string(),
                problem: format!("is not a multiple of the logical block of {block}"),
            });
        }
        // Requests for the new part may come before the call returns.
        self.size.fetch_max(size_bytes, Ordering::AcqRel);
        let mut raw = v2::Resize { size_bytes, ..v2::Resize::default() };
        let resized = ioctl2::resize(self.as_fd(), &mut raw);
        // Ask the kernel for the current size: other servers may resize too, and this resize may have failed.
        let _ = self.refresh_size();
        resized.map_err(|source| failed("resize device", self.name(), source))
    }

    /// Changes settings of the device. Only the newest server may.
    pub fn set(&self, settings: &Settings) -> Result<()> {
        let mut raw = settings.to_raw(self.name())?;
        ioctl2::settings(self.as_fd(), &mut raw)
            .map_err(|source| failed("change settings of device", self.name(), source))
    }

    /// Claims the cache: states that this server's cache or storage has every write that earlier servers answered. May be
    /// called until the first fetch ([`enter`](Self::enter) with room for requests, or [`serve`](Self::serve)), and then
    /// fails with `EALREADY`. A successor often knows only after it has attached, and after the server before it has
    /// ended, what it has.
    ///
    /// Without this claim, writes that earlier servers answered and no flush covered count as lost from the first fetch
    /// on, and the next flushes fail. On a device without a volatile cache the claim has no effect.
    pub fn claim_cache(&self) -> Result<()> {
        let mut raw = v2::Claim { flags: v2::CLAIM_CACHE, ..v2::Claim::default() };
        ioctl2::claim(self.as_fd(), &mut raw)
            .map_err(|source| failed("claim the cache of device", self.name(), source))
    }

    /// Properties and state of the device.
    pub fn status(&self) -> Result<Status> {
        inspect::status(self.as_fd(), self.name())
    }

    /// The counters of one queue.
    pub fn stats(&self, queue: u32) -> Result<Stats> {
        inspect::stats(self.as_fd(), self.name(), queue)
    }

    /// The latency histograms of one queue.
    pub fn latency(&self, queue: u32) -> Result<Latency> {
        inspect::latency(self.as_fd(), self.name(), queue)
    }

    /// The unanswered requests of one queue that were submitted at least `age` ago.
    pub fn requests(&self, queue: u32, age: Duration) -> Result<Vec<Outstanding>> {
        inspect::requests(self.as_fd(), self.name(), queue, age)
    }

    /// The blob that an earlier call of [`set_blob`](Self::set_blob), by this or another server, left; empty
    /// if there was none.
    pub fn blob(&self) -> Result<Vec<u8>> {
        inspect::blob(self.as_fd(), self.name())
    }

    /// Replaces the blob: up to 256 bytes for the servers that follow. The kernel keeps the blob as long as
    /// the device exists and does not interpret it.
    pub fn set_blob(&self, bytes: &[u8]) -> Result<()> {
        inspect::set_blob(self.as_fd(), self.name(), bytes)
    }

    /// Begins a batch of answers for [`enter`](Self::enter) in reused memory.
    pub fn batch<'a>(&self, answers: &'a mut Answers) -> Batch<'a> {
        answers.begin(self.fd.id())
    }

    /// The one call of a server: gives the unprocessed answers of `batch`, then fetches. See `Enter` in
    /// [`abi`](super::abi).
    #[inline]
    pub fn enter(&self, batch: &mut Batch<'_>, fetch: Fetch<'_>) -> Entered {
        self.fd.enter(batch, fetch)
    }

    /// Serves the device with its own threads until the device is gone or another server has taken over.
    /// Starts the device if it is not started yet.
    ///
    /// A [request](StopToken::request) on `stop` destroys the device as soon as it is not open; dirty data is
    /// written out first. [`StopToken::force`] destroys it at once; if it was in use, serving ends with
    /// [`Error::Forced`]. To stop serving and leave the device to another server, attach to it with
    /// [`TakeOver::Yes`](super::TakeOver::Yes).
    ///
    /// The library asks the backend for its size every second, and resizes the device if the size has
    /// changed.
    ///
    /// Each queue needs a thread. If one queue gets none, the device is not started. If all threads of a
    /// queue fail later, the other threads end too, and the device waits for another server as if this one
    /// had been closed. If the device cannot be left to another server, it is destroyed by force.
    ///
    /// Returns the first error, if any, when all threads have ended.
    pub fn serve<B: Backend + ?Sized>(
        &self,
        backend: &B,
        options: &ServeOptions,
        stop: &StopToken,
    ) -> Result<End> {
        self.serve_then(backend, options, stop, || {})
    }

    /// Like [`serve`](Self::serve). Calls `ready` on the calling thread when the block node exists.
    pub fn serve_then<B: Backend + ?Sized>(
        &self,
        backend: &B,
        options: &ServeOptions,
        stop: &StopToken,
        ready: impl FnOnce(),
    ) -> Result<End> {
        let serving = Serving::new(self, options);
        let (start, destroy) = (|| serving.begin(ready), |force| serving.destroy(force));
        serving.end(through_layers!(options, stop, self, self, channel => {
            serve_with(channel, backend, options, stop, start, destroy)
        }))
    }

    /// After serving failed: destroys the device if it was never started, because nobody ever will. Errors are
    /// dropped: the first one is the one to report.
    pub(super) fn forget_unused(&self) {
        if self.status().is_ok_and(|status| status.device_number.is_none()) {
            let _ = self.destroy(true);
        }
    }

    /// Destroys the device of this server: not the next device of its name, nor one that another server has.
    fn destroy(&self, force: bool) -> Result<()> {
        Control::open()?.destroy_silently(Which::from(self).with_epoch(self.created.epoch), force)
    }

    /// Takes the descriptor away from children that this process forks, until the result is dropped. A child with the
    /// descriptor would keep the device live after the death of this process, and nobody would serve it. A `Server` does it
    /// by itself from its beginning, so this only says whether it is possible. `None`, after a log entry, if it is not possible.
    #[must_use]
    pub fn keep_from_children(&self) -> Option<ForkGuard<'_>> {
        ForkGuard::new(self.as_fd()).ok()
    }

    fn place(&self) -> Option<Place> {
        let place = Place::new(self.as_fd());
        if let Err(error) = &place {
            tracing::warn!(device = self.name(), %error, "a forked child will keep the device live");
        }
        place.ok()
    }

    /// What uses the device, as far as this process can see: mounts, swap, disks made of it, and processes that have
    /// it open.
    #[must_use]
    pub fn users(&self) -> Users {
        self.status().ok().and_then(|status| status.device_number).map(Users::of).unwrap_or_default()
    }
}

/// One serve of a server: its start, its destroys, and its end. Meanwhile forked children do not get the descriptor.
pub(super) struct Serving<S> {
    /// Dropped before the server is, which closes the descriptor.
    _place: Option<Place>,
    server: S,
    listener: Listener,
    /// What used the device when it was destroyed by force.
    forced: OnceLock<Users>,
}

impl<S: Deref<Target = Server>> Serving<S> {
    pub(super) fn new(server: S, options: &ServeOptions) -> Self {
        let place = server.place();
        peers::record(server.as_fd());
        Self { _place: place, server, listener: options.listener().clone(), forced: OnceLock::new() }
    }

    /// Creates the block node unless it exists, and calls `ready`.
    pub(super) fn begin(&self, ready: impl FnOnce()) -> Result<()> {
        let followed = self.server.status()?.device_number.is_some();
        if !followed {
            self.server.start()?;
        }
        ready();
        self.listener.tell(&Event::Serving { path: self.server.path(), followed });
        Ok(())
    }

    /// Destroys the device of this server: not the next device of its name, nor one that another server has.
    pub(super) fn destroy(&self, force: bool) -> Result<()> {
        if !force {
            return self.server.destroy(false);
        }
        // Tells whether the device is in use, without a moment in between in which that could change.
        match self.server.destroy(false) {
            Err(Error::Control { source: Errno::BUSY, .. }) => {}
            other => return other,
        }
        let users = self.server.users();
        let device = self.server.name().to_owned();
        self.listener.tell(&Event::Forced { device, users: users.clone() });
        self.server.destroy(true)?;
        let _ = self.forced.set(users);
        Ok(())
    }

    /// The result of serving: a destruction by force of a device in use is no success.
    pub(super) fn end(&self, end: Result<End>) -> Result<End> {
        let device = || self.server.name().to_owned();
        self.listener.tell_rest(self.server.name());
        match (end, self.forced.get()) {
            (Ok(_), Some(users)) => Err(Error::Forced { device: device(), users: users.clone() }),
            (Ok(End::TakenOver), None) => {
                self.listener.tell(&Event::TakenOver { device: device() });
                Ok(End::TakenOver)
            }
            (end, _) => end,
        }
    }
}

impl Channel for Server {
    #[inline]
    fn enter(&self, batch: &mut Batch<'_>, fetch: Fetch<'_>) -> Entered {
        self.fd.enter(batch, fetch)
    }

    fn id(&self) -> ServerId {
        self.fd.id()
    }

    fn status(&self) -> &Status {
        &self.created
    }

    #[inline]
    fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn refresh_size(&self) -> Result<u64> {
        let status = Server::status(self)?;
        if status.state != State::Destroyed {
            self.size.store(status.size_bytes, Ordering::Release);
        }
        Ok(self.size_bytes())
    }

    fn resize(&self, size_bytes: u64) -> Result<()> {
        Server::resize(self, size_bytes)
    }

    fn users(&self) -> Users {
        Server::users(self)
    }

    /// Takes over from this server, the only way to end its sleeping calls without destroying the device.
    fn leave(&self) -> Result<Option<Keeper>> {
        // Attaching on the server's own descriptor needs neither rights nor the control node, and fails if
        // another server has taken over. The placeholder never fetches, so no cache is lost with it: the next server
        // says whether the cache survived.
        let flags = v2::ATTACH_TAKE_OVER;
        match ioctl2::attach(self.as_fd(), &mut v2::Attach { flags, ..v2::Attach::default() }) {
            Ok(fd) => Ok(Some(Box::new(Server::from_own(fd)?))),
            // Taken over, declared dead, or being destroyed: each of these sends the threads away by itself.
            Err(Errno::SHUTDOWN | Errno::NODEV) => Ok(None),
            Err(source) => Err(failed("leave device", self.name(), source)),
        }
    }
}

impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Server> for OwnedFd {
    fn from(server: Server) -> Self {
        server.fd.into_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_descriptor_is_refused() {
        let null = std::fs::File::open("/dev/null").expect("null");
        let error = Server::from_fd(null.into()).expect_err("not a server");
        assert_eq!(error.to_string(), "take over descriptor: it is not a server descriptor of zosbd2");
    }
}
