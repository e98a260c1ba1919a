// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs a backend on a device.
//!
//! | file | content |
//! |---|---|
//! | `options` | how a device is served |
//! | `session` | threads, their start, and the watch over them |
//! | `place` | the places of lanes, and the news that a session cannot go on |
//! | `course` | what the watch decides: a pure state machine |
//! | `blocking` | the lane of a [`Backend`]: answers a batch of requests and fetches the next one in one call |
//! | `memory` | the buffers of that lane |
//! | `pace` | how many requests that lane takes at a time |
//! | `owned` | the lane of a [`Handler`]: hands out requests that are answered anywhere |
//! | `asynchronous` | the lane of an [`AsyncBackend`]: a future |
//! | `slots`, `ready` | the futures of that lane, and its sleep |
//! | `executor` | that lane in a task of an executor |
//! | `aside` | the blocking steps of that task |
//! | `exchange` | what all lanes with owned requests do |
//! | `offering` | the buffers that an exchange offers for the data of writes |
//! | `limits` | checks requests |
//! | `start` | serving with owned requests, as functions of `Builder` and `Server` |
//! | `calls` | repeats interrupted calls, and gives refused answers again |
//! | `notes` | the errors of one serve |
//!
//! The calling thread waits; the serving threads have all ended when it returns. On a stop request the device
//! is destroyed while the threads still serve, so that the kernel can write out dirty data.

#[cfg(feature = "tokio")]
mod aside;
mod asynchronous;
mod blocking;
pub(super) mod calls;
mod course;
mod exchange;
#[cfg(feature = "tokio")]
pub(super) mod executor;
mod limits;
mod memory;
pub(super) mod notes;
mod offering;
mod options;
mod owned;
mod pace;
pub(super) mod place;
pub(super) mod ready;
mod session;
mod slots;
mod start;

use self::asynchronous::AsyncLanes;
use self::blocking::Blocking;
use self::owned::Owned;
use self::ready::Sleeper;
use self::session::Session;
use super::backend::is_default;
use super::tell::Event;
use super::{AsyncBackend, Backend, Capabilities, Channel, Handler, Status, ThreadModel};
use crate::serving::warn_of_limits;
use crate::{Error, Result, StopToken};
pub(super) use options::through_layers;
pub use options::{MemoryLock, ServeOptions};
pub use ready::Readiness;
use std::pin::pin;
use std::task::{Context, Waker};
use zosbd2_abi::v2;

/// Why serving ended.
///
/// In no case is a flush the last call of the backend. What a backend keeps in a cache of its own after its last flush, it
/// writes out itself when serving has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The device was destroyed: on a stop request, or by another process. Unless that was by force, nobody used the device,
    /// and the kernel had written out its dirty pages before. A file system sends a flush when it is unmounted; the kernel
    /// sends none when it destroys the device.
    Gone,
    /// Another server has taken over. This server has answered all requests that it held, and the other one gets the
    /// flushes that follow. It claims that the cache [survived](Capabilities::cache_survives), or flushes fail for what this
    /// server answered and no flush covered.
    TakenOver,
}

/// Serves `channel` until it is gone or taken over. Calls `start` once when all threads are ready. The argument
/// of `destroy` says whether to use force. [`session::run`] has the details.
pub(super) fn serve_with<C, B>(
    channel: &C,
    backend: &B,
    options: &ServeOptions,
    stop: &StopToken,
    start: impl FnOnce() -> Result<()>,
    destroy: impl Fn(bool) -> Result<()> + Sync,
) -> Result<End>
where
    C: Channel,
    B: Backend + ?Sized,
{
    let capabilities = backend.capabilities();
    check(channel.status(), &capabilities, options)?;
    let status = channel.status();
    check_flush(&status.name, status.create_flags, &capabilities, || is_default(|| backend.flush()))?;
    let session = Session::new(channel, stop, options.listener());
    session::run(&session, &Blocking::new(&session, backend, options), options, start, destroy)
}

/// Like [`serve_with`], with a handler of owned requests.
pub(super) fn serve_requests_with<C, H>(
    channel: &C,
    handler: &H,
    options: &ServeOptions,
    stop: &StopToken,
    start: impl FnOnce() -> Result<()>,
    destroy: impl Fn(bool) -> Result<()> + Sync,
) -> Result<End>
where
    C: Channel + Clone + 'static,
    H: Handler + ?Sized,
{
    check(channel.status(), &handler.capabilities(), options)?;
    let session = Session::new(channel.clone(), stop, options.listener());
    let lanes = Owned { session: &session, handler, options };
    session::run(&session, &lanes, options, start, destroy)
}

/// Like [`serve_with`], with an asynchronous backend on the library's own threads, one per lane.
pub(super) fn serve_async_with<C, B, R>(
    channel: &C,
    backend: &B,
    options: &ServeOptions,
    stop: &StopToken,
    sleepers: impl Fn() -> Result<R> + Sync,
    start: impl FnOnce() -> Result<()>,
    destroy: impl Fn(bool) -> Result<()> + Sync,
) -> Result<End>
where
    C: Channel + Clone + 'static,
    B: AsyncBackend + ?Sized,
    R: Sleeper,
{
    check_async(channel.status(), backend, options)?;
    let session = Session::new(channel.clone(), stop, options.listener());
    let lanes = AsyncLanes { session: &session, backend, options, sleepers };
    session::run(&session, &lanes, options, start, destroy)
}

/// Checks options and backend against the device, and prepares the process.
fn check_async<B: AsyncBackend + ?Sized>(status: &Status, backend: &B, options: &ServeOptions) -> Result<()> {
    let capabilities = Capabilities { threads: ThreadModel::Any, ..backend.capabilities() };
    check(status, &capabilities, options)?;
    check_flush(&status.name, status.create_flags, &capabilities, || flush_is_default(backend))
}

/// Whether the flush of an asynchronous backend is the default one.
pub(super) fn flush_is_default<B: AsyncBackend + ?Sized>(backend: &B) -> bool {
    // One poll tells: the default flush is ready at once.
    is_default(|| pin!(backend.flush()).poll(&mut Context::from_waker(Waker::noop())))
}

/// Checks options and backend against the device, and prepares the process.
fn check(status: &Status, capabilities: &Capabilities, options: &ServeOptions) -> Result<()> {
    options.check(&status.name, status.queues, capabilities.threads)?;
    check_store(status, capabilities)?;
    options.lock_memory()?;
    if let Some(seconds) = warn_of_limits(&status.name) {
        options.listener().tell(&Event::CpuLimit { device: status.name.clone(), seconds });
    }
    Ok(())
}

/// Why a device without the volatile-cache flag is not for a backend with such a cache.
pub(super) const NO_FLUSHES: &str = "is not possible with a backend that has one: \
                                     the kernel would send no flushes, and fsync would be a lie";

/// Why a backend with a flush of its own must say when the flush is needed.
const NO_CALLS: &str = "means that the kernel sends no flushes, but the backend has a flush of its own: \
                        declare `volatile_cache`, or `write_through` if no flush is needed";

/// Checks that a backend with a flush of its own gets flushes, or has said that it needs none. `is_default` calls `flush`,
/// which makes data durable that an earlier server has written, at worst.
pub(super) fn check_flush(
    name: &str,
    create_flags: u32,
    capabilities: &Capabilities,
    is_default: impl FnOnce() -> bool,
) -> Result<()> {
    if create_flags & v2::CREATE_VOLATILE_CACHE != 0 || capabilities.write_through || is_default() {
        return Ok(());
    }
    Err(Error::Option {
        operation: "serve",
        name: name.to_owned(),
        option: "volatile cache",
        value: "no".to_owned(),
        problem: NO_CALLS.to_owned(),
    })
}

/// Checks that the backend can carry out the requests of the device, which may have been created for another
/// backend.
fn check_store(status: &Status, backend: &Capabilities) -> Result<()> {
    let wrong = |option, value: String, problem: String| {
        Err(Error::Option { operation: "serve", name: status.name.clone(), option, value, problem })
    };
    if status.logical_block_size < backend.logical_block_size {
        let problem = format!("is smaller than the backend's, {}", backend.logical_block_size);
        return wrong("logical block size", status.logical_block_size.to_string(), problem);
    }
    if backend.read_only && status.create_flags & v2::CREATE_READ_ONLY == 0 {
        return wrong("read-only", "no".to_owned(), "is not possible with a read-only backend".to_owned());
    }
    if backend.volatile_cache && status.create_flags & v2::CREATE_VOLATILE_CACHE == 0 {
        return wrong("volatile cache", "no".to_owned(), NO_FLUSHES.to_owned());
    }
    Ok(())
}
