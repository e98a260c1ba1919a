// SPDX-License-Identifier: MIT OR Apache-2.0
//! What serving needs of the kernel.
//!
//! [`Server`](super::Server) implements it with system calls, the fake kernel of the tests in memory. All functions may
//! be called from any thread, also at the same time. A channel holds no request: what it hands out belongs to
//! the caller until the caller answers it or the channel is dropped.
//!
//! A layer is a channel around another one. A layer that injects faults needs nothing else: after the inner
//! `enter` it looks at the fetched requests and, for a request that it chose, answers the request in a call
//! of its own (error), keeps it out of the caller's array and lowers `fetched` (drop), kills the process, or
//! waits. Before the inner `enter` it looks at the answers of the batch to requests that it marked earlier,
//! and shortens, repeats or removes them. Only the last part needs functions that [`Batch`] does not have
//! yet: to find, change and remove an answer by its handle.

use super::{Batch, Entered, Fetch, ServerId, Status, Users};
use crate::Result;

/// Keeps a device that the caller has left, and serves nothing. The next server can attach when it is dropped.
pub type Keeper = Box<dyn std::any::Any + Send>;

/// A way to answer and fetch the requests of one device.
pub trait Channel: Send + Sync {
    /// Gives the unprocessed answers of `batch`, then fetches, and sleeps if there is nothing to fetch: see
    /// [`Server::enter`](super::Server::enter).
    ///
    /// The memory that the answers name is used until the call returns. `ENODEV` means that the device is
    /// gone, `ESHUTDOWN` that another server has it; both are final. A call that sleeps returns when one of
    /// them happens.
    fn enter(&self, batch: &mut Batch<'_>, fetch: Fetch<'_>) -> Entered;

    /// Identifies the server that the requests belong to. Always the same.
    fn id(&self) -> ServerId;

    /// Status of the device when the channel was made. Only the constant properties count.
    fn status(&self) -> &Status;

    /// Size of the device in bytes, as last heard. Makes no call.
    fn size(&self) -> u64;

    /// Asks the kernel for the size.
    fn refresh_size(&self) -> Result<u64>;

    /// Changes the size.
    fn resize(&self, size_bytes: u64) -> Result<()>;

    /// What uses the device, for messages.
    fn users(&self) -> Users {
        Users::default()
    }

    /// Ends all calls of [`enter`](Self::enter), those that sleep too, and leaves the device to the next
    /// server. Returns `None` if the calls end anyway. After an error nothing has changed.
    fn leave(&self) -> Result<Option<Keeper>>;
}

macro_rules! forward {
    ($($type:ty),*) => {
        $(impl<C: Channel + ?Sized> Channel for $type {
            #[inline]
            fn enter(&self, batch: &mut Batch<'_>, fetch: Fetch<'_>) -> Entered {
                (**self).enter(batch, fetch)
            }

            #[inline]
            fn id(&self) -> ServerId {
                (**self).id()
            }

            fn status(&self) -> &Status {
                (**self).status()
            }

            #[inline]
            fn size(&self) -> u64 {
                (**self).size()
            }

            fn refresh_size(&self) -> Result<u64> {
                (**self).refresh_size()
            }

            fn resize(&self, size_bytes: u64) -> Result<()> {
                (**self).resize(size_bytes)
            }

            fn users(&self) -> Users {
                (**self).users()
            }

            fn leave(&self) -> Result<Option<Keeper>> {
                (**self).leave()
            }
        })*
    };
}

forward!(&C, std::sync::Arc<C>);
