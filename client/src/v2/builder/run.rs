// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Builder::serve`]: checks the description, creates the device or follows, and serves it.
//!
//! What can be wrong without the kernel comes first, so that an author without the module sees the own mistakes.

use super::{Builder, create};
#[cfg(doc)]
use crate::Error;
use crate::v2::abandoned::Abandoned;
use crate::v2::backend::is_default;
use crate::v2::same::{Found, Real, Wanted, create_or_attach};
use crate::v2::serve::check_flush;
use crate::v2::signals::SignalWatch;
use crate::v2::{Backend, Capabilities, Control, End, ServeOptions, Server};
use crate::{Result, StopToken};
use std::path::Path;
use std::sync::Arc;

impl Builder {
    /// Creates the device and serves it until it is gone or another server has taken over. This is the whole
    /// of a simple program.
    ///
    /// If the device exists and has lost its server, this one follows: it serves what the other one left unanswered,
    /// and submitters only notice a pause. So a program that is started again recovers its disk. That is so only if the
    /// device is the same: [`identity`](Self::identity), size, logical block, serial number, and what else
    /// matters for the data or the backend. Otherwise [`Error::Differs`] names the differences, and
    /// nothing has changed. Without an identity a program follows only if it
    /// [asks for that](Self::follow_without_identity); otherwise [`Error::NoIdentity`] says so. A backend whose data is gone
    /// with the process ([`Capabilities::ephemeral`]) follows nothing.
    /// If the device has a server, the error names the process; see also [`take_over`](Self::take_over).
    ///
    /// On SIGINT or SIGTERM the library writes out dirty data and destroys the device as soon as it is not
    /// open. A second SIGINT (^C) destroys it by force; a second SIGTERM does not. If the device was in use then,
    /// serving ends with [`Error::Forced`]. [`on_event`](Self::on_event) tells what uses the device. Size and
    /// capabilities come from the backend, as with [`for_backend`](Self::for_backend). If serving fails for good, the
    /// device stays without a server.
    ///
    /// The result says how serving ended: see [`End`], also for whether a flush came last. What can be checked without
    /// the kernel module, such as the name, the size, and a flush that the backend does not declare, is checked first.
    pub fn serve<B: Backend + ?Sized>(self, backend: &B) -> Result<End> {
        self.serve_then(backend, |_| {})
    }

    /// Like [`serve`](Self::serve). Calls `ready` with the path of the block node when the node exists.
    pub fn serve_then<B: Backend + ?Sized>(self, backend: &B, ready: impl FnOnce(&Path)) -> Result<End> {
        Self::with_signals(|stop| self.serve_until(backend, stop, ready))
    }

    /// Like [`serve_then`](Self::serve_then), but catches no signals: `stop` takes their place.
    pub fn serve_until<B: Backend + ?Sized>(
        self,
        backend: &B,
        stop: &StopToken,
        ready: impl FnOnce(&Path),
    ) -> Result<End> {
        let checked =
            self.check(backend.size(), backend.capabilities(), || is_default(|| backend.flush()))?;
        checked.serve(|server, options| server.serve_then(backend, options, stop, || ready(&server.path())))
    }

    /// Finds what is wrong with this description, for a backend of this size, without the kernel.
    pub(in crate::v2) fn check(
        mut self,
        size: u64,
        capabilities: Capabilities,
        flush_is_default: impl FnOnce() -> bool,
    ) -> Result<Checked> {
        self.backend.get_or_insert((size, capabilities));
        let create = self.to_raw(&create::widest())?;
        self.serving.check(&self.name, self.queues, capabilities.threads)?;
        check_flush(&self.name, create.flags, &capabilities, flush_is_default)?;
        Ok(Checked { builder: self, capabilities })
    }

    /// Calls `serve` with a token that SIGINT and SIGTERM request to stop, as [`serve`](Self::serve) does: for a program that
    /// takes over or attaches by itself.
    pub fn with_signals<T>(serve: impl FnOnce(&StopToken) -> Result<T>) -> Result<T> {
        let stop = StopToken::new();
        let _signals = Self::watch_signals(&stop)?;
        serve(&stop)
    }

    /// SIGINT and SIGTERM request a stop until the result is dropped.
    pub(in crate::v2) fn watch_signals(stop: &StopToken) -> Result<SignalWatch> {
        SignalWatch::new(stop)
    }
}

/// A description that the kernel may accept, for a backend with these capabilities.
pub(in crate::v2) struct Checked {
    builder: Builder,
    capabilities: Capabilities,
}

impl Checked {
    #[cfg(test)]
    pub(in crate::v2) fn options(&self) -> &ServeOptions {
        &self.builder.serving
    }

    /// Name of the device.
    #[cfg(feature = "tokio")]
    pub(in crate::v2) fn name(&self) -> &str {
        self.builder.name()
    }

    /// Creates the device or follows, and serves it with `serve`.
    pub(in crate::v2) fn serve(
        self,
        serve: impl FnOnce(&Arc<Server>, &ServeOptions) -> Result<End>,
    ) -> Result<End> {
        let (server, options) = self.begin(&Abandoned::never())?;
        let result = serve(&server, &options);
        if result.is_err() {
            server.forget_unused();
        }
        result
    }

    /// Creates the device, or follows and waits for the end of older servers. If nobody waits for the result any more, the
    /// device is left as it was: a new one goes with the server that is dropped, and an old one waits for its next server.
    pub(in crate::v2) fn begin(self, abandoned: &Abandoned) -> Result<(Arc<Server>, ServeOptions)> {
        let Self { builder, capabilities } = self;
        let control = Control::open()?;
        let wanted = Wanted {
            builder: &builder,
            create: builder.to_raw(control.info())?,
            identity: &builder.identity,
            without_identity: builder.follow_without_identity,
            ephemeral: capabilities.ephemeral,
            take_over: builder.take_over.as_ref(),
        };
        let Found { server, existed, recorded } =
            create_or_attach(&Real { control: &control, abandoned }, &wanted)?;
        if existed {
            let listener = builder.serving.listener();
            let hand_over = builder.take_over.unwrap_or_default().with_listener(listener);
            hand_over.finish(&server, capabilities.cache_survives, recorded, abandoned)?;
        }
        Ok((Arc::new(server), builder.serving))
    }
}
