// SPDX-License-Identifier: MIT OR Apache-2.0
//! What serving needs of the kernel.
//!
//! [`Server`](super::Server) implements it with system calls, [`testing`](crate::testing) in memory. All functions may
//! be called from any thread, also at the same time. A channel holds no request: what it hands out belongs to
//! the caller until the caller answers it or the channel is dropped.
//!
//! A [`Layer`] puts a channel around another one. To the lanes above, the new channel is the kernel: it hands out
//! requests under an [`Identity`](super::Identity) of its own and carries out their [`Answer`](super::Answer)s. To the
//! channel below, it is a server: it makes batches of its own and [passes](super::Batch::pass) answers on. Between the
//! two it may change, repeat, keep or delay what it likes.

use super::{Batch, Entered, Fetch, ServerId, Status, Users};
use crate::{Result, StopToken};
use std::fmt;
use std::sync::Arc;

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

/// Puts a channel around the channel to the kernel, for example one that injects faults (the crate `zosbd2-faults`).
pub trait Layer: Send + Sync {
    /// The channel that the lanes use instead of `channel`. Called once, when serving begins. A request on `stop` asks
    /// serving to end.
    fn around<'a>(&self, channel: Arc<dyn Channel + 'a>, stop: &StopToken) -> Arc<dyn Channel + 'a>;
}

/// The layers of a serve, the innermost first.
#[derive(Clone, Default)]
pub(super) struct Layers(Vec<Arc<dyn Layer>>);

impl fmt::Debug for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Layers({})", self.0.len())
    }
}

impl Layers {
    /// Adds a layer around the others.
    pub(super) fn push(&mut self, layer: impl Layer + 'static) {
        self.0.push(Arc::new(layer));
    }

    /// Adds layers around the others.
    pub(super) fn extend(&mut self, outer: &Self) {
        self.0.extend_from_slice(&outer.0);
    }

    /// The outermost channel. `None`: there are no layers.
    pub(super) fn around<'a>(
        &self,
        channel: impl Channel + 'a,
        stop: &StopToken,
    ) -> Option<Arc<dyn Channel + 'a>> {
        let (first, others) = self.0.split_first()?;
        let first = first.around(Arc::new(channel), stop);
        Some(others.iter().fold(first, |inner, layer| layer.around(inner, stop)))
    }
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

forward!(&C, Arc<C>);
