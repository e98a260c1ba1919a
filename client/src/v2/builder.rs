// SPDX-License-Identifier: MIT OR Apache-2.0
//! The description of a new device.
//!
//! Values are checked when the device is created, against the interface and the module's limits, before the
//! kernel is asked. A value that is not set comes from the backend, if there is one, or is the interface's
//! default.

use super::channel::Layers;
use super::same::{Found, Wanted, create_or_attach};
use super::serve::NO_FLUSHES;
use super::settings::milliseconds;
use super::signals::SignalWatch;
use super::tell::{Event, Listener};
use super::{
    Backend, Capabilities, Control, DeadlinePolicy, End, HandOver, Info, Layer, ServeOptions, Server, name,
};
use crate::{Error, Result, StopToken};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use zosbd2_abi::v2;

/// For limits: as much as the kernel can send at once.
pub const UNLIMITED: u32 = u32::MAX;

/// Default of [`Builder::grace`].
const DEFAULT_GRACE: Duration = Duration::from_secs(30);
/// Smallest `max_io_bytes`: a page.
const MIN_IO_BYTES: u32 = 4096;

/// A new device.
#[derive(Clone, Debug)]
pub struct Builder {
    name: String,
    serial: String,
    backend: Option<(u64, Capabilities)>,
    size_bytes: Option<u64>,
    logical_block_size: Option<u32>,
    physical_block_size: Option<u32>,
    io_min: u32,
    io_opt: Option<u32>,
    max_io_bytes: u32,
    queues: u32,
    depth: u32,
    read_only: Option<bool>,
    rotational: Option<bool>,
    volatile_cache: Option<bool>,
    fua: Option<bool>,
    partition_scan: bool,
    auto_destroy: bool,
    discard_granularity: Option<u32>,
    max_discard_bytes: Option<u32>,
    max_write_zeroes_bytes: Option<u32>,
    max_secure_erase_bytes: Option<u32>,
    deadline: Option<Duration>,
    deadline_policy: DeadlinePolicy,
    grace: Duration,
    serving: ServeOptions,
    listener: Listener,
    layers: Layers,
    identity: Vec<u8>,
    take_over: Option<HandOver>,
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty => $value:expr;)*) => {
        $($(#[$doc])*
        #[must_use]
        pub fn $name(mut self, $name: $type) -> Self {
            self.$name = $value;
            self
        })*
    };
}

impl Builder {
    /// Describes a device `/dev/zosbd2-NAME`. A name has 1 to 24 letters, digits and `._-+:`, and begins with
    /// a letter or digit.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            serial: String::new(),
            backend: None,
            size_bytes: None,
            logical_block_size: None,
            physical_block_size: None,
            io_min: 0,
            io_opt: None,
            max_io_bytes: 0,
            queues: 1,
            depth: 0,
            read_only: None,
            rotational: None,
            volatile_cache: None,
            fua: None,
            partition_scan: true,
            auto_destroy: false,
            discard_granularity: None,
            max_discard_bytes: None,
            max_write_zeroes_bytes: None,
            max_secure_erase_bytes: None,
            deadline: None,
            deadline_policy: DeadlinePolicy::Fail,
            grace: DEFAULT_GRACE,
            serving: ServeOptions::default(),
            listener: Listener::default(),
            layers: Layers::default(),
            identity: Vec::new(),
            take_over: None,
        }
    }

    /// Takes the size and the capabilities from the backend. Values that are set on the builder, before or
    /// after, win.
    #[must_use]
    pub fn for_backend<B: Backend + ?Sized>(mut self, backend: &B) -> Self {
        self.backend = Some((backend.size(), backend.capabilities()));
        self
    }

    setters! {
        /// Size in bytes: a multiple of the logical block.
        size_bytes: u64 => Some(size_bytes);
        /// Smallest unit of I/O, in bytes: a power of two, 512 to the page size.
        logical_block_size: u32 => Some(logical_block_size);
        /// Smallest unit that is written without a read before, in bytes: a power of two; 0: the logical
        /// block.
        physical_block_size: u32 => Some(physical_block_size);
        /// Smallest I/O without extra cost, in bytes: a multiple of the physical block; 0: one physical
        /// block.
        io_min: u32 => io_min;
        /// Optimal I/O size, in bytes: a multiple of `io_min`; 0: none.
        io_opt: u32 => Some(io_opt);
        /// Most data of one request, in bytes: a multiple of the logical block, a page to 32 MiB; 0: 4 MiB.
        /// The kernel cuts longer I/O into several requests, so a store with pieces of a size can ask for requests
        /// that are no longer. Each thread of [`serve`](Self::serve) has two buffers of this size, of which only used
        /// pages are in memory.
        max_io_bytes: u32 => max_io_bytes;
        /// Number of queues, 1 to the number of CPUs; 1 by default.
        queues: u32 => queues;
        /// Requests per queue, 1 to 1024; 0: 128.
        depth: u32 => depth;
        /// The kernel refuses writes.
        read_only: bool => Some(read_only);
        /// Seeking costs time.
        rotational: bool => Some(rotational);
        /// An answered write may be lost until a flush, so the kernel sends flushes.
        volatile_cache: bool => Some(volatile_cache);
        /// Single writes can be made durable. Needs a volatile cache.
        fua: bool => Some(fua);
        /// Whether the kernel looks for partitions when the device starts. True by default.
        partition_scan: bool => partition_scan;
        /// The kernel destroys the device when the grace ends, instead of failing all I/O until a server
        /// attaches.
        auto_destroy: bool => auto_destroy;
        /// Preferred unit of discards, in bytes: a power of two; 0: the physical block.
        discard_granularity: u32 => Some(discard_granularity);
        /// Longest discard, in bytes: a multiple of the logical block, or [`UNLIMITED`]; 0: not supported.
        max_discard_bytes: u32 => Some(max_discard_bytes);
        /// Longest write-zeroes, as for discards; 0: the kernel writes zeros.
        max_write_zeroes_bytes: u32 => Some(max_write_zeroes_bytes);
        /// Longest secure erase, as for discards.
        max_secure_erase_bytes: u32 => Some(max_secure_erase_bytes);
        /// Deadline of a request, 1 ms to one day. No deadline by default. Parts of a millisecond are rounded
        /// up.
        deadline: Duration => Some(deadline);
        /// What the kernel does with a request that passes its deadline. The request fails by default.
        deadline_policy: DeadlinePolicy => deadline_policy;
        /// How long I/O waits for a new server after the last one has gone, up to one day; 30 s by default.
        grace: Duration => grace;
        /// Options of [`serve`](Self::serve).
        serving: ServeOptions => serving;
    }

    /// Serial number, visible in sysfs: at most 31 printable ASCII characters.
    #[must_use]
    pub fn serial(mut self, serial: &str) -> Self {
        serial.clone_into(&mut self.serial);
        self
    }

    /// What identifies the content of the device, such as the path or the UUID of its store, or the version of data
    /// that others can change: at most 256 bytes, more is an error when the device is created. The
    /// kernel keeps it, as the blob ([`Server::blob`]), and [`serve`](Self::serve) follows only a device that has the
    /// same one.
    #[must_use]
    pub fn identity(mut self, identity: &[u8]) -> Self {
        identity.clone_into(&mut self.identity);
        self
    }

    /// Lets [`serve`](Self::serve) take over from a live server of the device, instead of failing.
    #[must_use]
    pub fn take_over(mut self, how: HandOver) -> Self {
        self.take_over = Some(how);
        self
    }

    /// Calls `tell` with each [`Event`] that an operator must know, instead of the callback of the
    /// [`ServeOptions`], if that has one. Any thread calls it, also several at the same time. It delays requests
    /// while it runs, and may not wait for I/O on the device.
    ///
    /// ```no_run
    /// # fn serve(backend: &impl zosbd2::Backend) -> zosbd2::Result<()> {
    /// zosbd2::Builder::new("mydisk").on_event(|event| eprintln!("{event}")).serve(backend)
    /// # }
    /// ```
    #[must_use]
    pub fn on_event(mut self, tell: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.listener = Listener::new(tell);
        self
    }

    /// Serves through this layer, which is put around those that were set before, here or in the [`ServeOptions`].
    #[must_use]
    pub fn layer(mut self, layer: impl Layer + 'static) -> Self {
        self.layers.push(layer);
        self
    }

    /// Name of the device.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Creates the device and serves it until it is gone or another server has taken over. This is the whole
    /// of a simple program.
    ///
    /// If the device exists and has lost its server, this one follows: it serves what the other one left unanswered,
    /// and submitters only notice a pause. So a program that is started again recovers its disk. That is so only if the
    /// device is the same: size, logical block, serial number, [`identity`](Self::identity) if one is set, and what else
    /// matters for the data or the backend. Otherwise [`Error::Differs`] names the differences, and
    /// nothing has changed. A backend whose data is gone with the process ([`Capabilities::ephemeral`]) follows nothing.
    /// If the device has a server, the error names the process; see also [`take_over`](Self::take_over).
    ///
    /// On SIGINT or SIGTERM the library writes out dirty data and destroys the device as soon as it is not
    /// open. A second SIGINT (^C) destroys it by force; a second SIGTERM does not. If the device was in use then,
    /// serving ends with [`Error::Forced`]. [`on_event`](Self::on_event) tells what uses the device. Size and
    /// capabilities come from the backend, as with [`for_backend`](Self::for_backend). If serving fails for good, the
    /// device stays without a server.
    pub fn serve<B: Backend + ?Sized>(self, backend: &B) -> Result<()> {
        self.serve_then(backend, |_| {})
    }

    /// Like [`serve`](Self::serve). Calls `ready` with the path of the block node when the node exists.
    pub fn serve_then<B: Backend + ?Sized>(self, backend: &B, ready: impl FnOnce(&Path)) -> Result<()> {
        Self::with_signals(|stop| self.serve_until(backend, stop, ready))
    }

    /// Like [`serve_then`](Self::serve_then), but catches no signals: `stop` takes their place.
    pub fn serve_until<B: Backend + ?Sized>(
        self,
        backend: &B,
        stop: &StopToken,
        ready: impl FnOnce(&Path),
    ) -> Result<()> {
        self.serve_by(backend.size(), backend.capabilities(), |server, options| {
            server.serve_then(backend, options, stop, || ready(&server.path()))
        })
    }

    /// Creates the device for a backend of this size, or follows, and serves it with `serve`.
    pub(super) fn serve_by(
        self,
        size: u64,
        capabilities: Capabilities,
        serve: impl FnOnce(&Arc<Server>, &ServeOptions) -> Result<End>,
    ) -> Result<()> {
        let (server, options) = self.create_for(size, capabilities)?;
        let result = serve(&server, &options);
        if result.is_err() {
            server.forget_unused();
        }
        result.map(drop)
    }

    /// Creates the device for a backend of this size, or follows, and waits for the end of older servers.
    pub(super) fn create_for(
        mut self,
        size: u64,
        capabilities: Capabilities,
    ) -> Result<(Arc<Server>, ServeOptions)> {
        self.backend.get_or_insert((size, capabilities));
        let serving = self.serving.clone().with_listener(&self.listener).with_layers(&self.layers);
        serving.check(&self.name, self.queues, capabilities.threads)?;
        let Found { server, existed } = self.find(&Control::open()?, &capabilities)?;
        if existed {
            let hand_over = self.take_over.unwrap_or_default().with_listener(serving.listener());
            hand_over.finish(&server, capabilities.cache_survives)?;
        }
        Ok((Arc::new(server), serving))
    }

    /// Calls `serve` with a token that SIGINT and SIGTERM request to stop, as [`serve`](Self::serve) does: for a program that
    /// takes over or attaches by itself.
    pub fn with_signals<T>(serve: impl FnOnce(&StopToken) -> Result<T>) -> Result<T> {
        let stop = StopToken::new();
        let _signals = Self::watch_signals(&stop)?;
        serve(&stop)
    }

    /// SIGINT and SIGTERM request a stop until the result is dropped.
    pub(super) fn watch_signals(stop: &StopToken) -> Result<SignalWatch> {
        SignalWatch::new(stop)
    }

    /// Creates the device or attaches to it.
    fn find(&self, control: &Control, capabilities: &Capabilities) -> Result<Found<Server>> {
        let wanted = Wanted {
            builder: self,
            create: self.to_raw(control.info())?,
            identity: &self.identity,
            ephemeral: capabilities.ephemeral,
            take_over: self.take_over.as_ref(),
        };
        create_or_attach(control, &wanted)
    }

    /// The blob of a new device.
    pub(super) fn blob(&self) -> &[u8] {
        &self.identity
    }

    /// The kernel's struct, or an error that names the invalid option.
    pub(super) fn to_raw(&self, info: &Info) -> Result<v2::Create> {
        let name = name::new_field(&self.name)?;
        let (backend_size, capabilities) = self.backend.unwrap_or_default();
        let logical = self.logical_block_size.unwrap_or(match capabilities.logical_block_size {
            0 => v2::MIN_BLOCK_SIZE,
            set => set,
        });
        self.power_of_two("logical block size", logical, v2::MIN_BLOCK_SIZE, info.max_block_size)?;
        if logical < capabilities.logical_block_size {
            let problem = format!("is smaller than the backend's, {}", capabilities.logical_block_size);
            return Err(self.nonsense("logical block size", logical, problem));
        }
        if capabilities.read_only && self.read_only == Some(false) {
            return Err(self.nonsense("read-only", "no", "is not possible with a read-only backend"));
        }
        if capabilities.volatile_cache && self.volatile_cache == Some(false) {
            return Err(self.nonsense("volatile cache", "no", NO_FLUSHES));
        }
        let physical = match self.physical_block_size.unwrap_or(capabilities.physical_block_size) {
            0 => logical,
            set => set,
        };
        self.power_of_two("physical block size", physical, logical, v2::MAX_PHYSICAL_BLOCK_SIZE)?;
        let size_bytes = self.size_bytes.unwrap_or(backend_size);
        self.range("size in bytes", size_bytes, logical.into(), v2::MAX_SIZE_BYTES)?;
        self.multiple("size in bytes", size_bytes, logical, "logical block")?;
        let io_min = if self.io_min == 0 { physical } else { self.io_min };
        self.range("minimum I/O", io_min.into(), physical.into(), v2::MAX_PHYSICAL_BLOCK_SIZE.into())?;
        self.multiple("minimum I/O", io_min.into(), physical, "physical block")?;
        let io_opt = self.io_opt.unwrap_or(capabilities.io_opt);
        self.range("optimal I/O", io_opt.into(), 0, v2::MAX_PHYSICAL_BLOCK_SIZE.into())?;
        self.multiple("optimal I/O", io_opt.into(), io_min, "minimum I/O")?;
        if self.max_io_bytes != 0 {
            let most = info.max_io_bytes;
            self.range("largest I/O", self.max_io_bytes.into(), MIN_IO_BYTES.into(), most.into())?;
            self.multiple("largest I/O", self.max_io_bytes.into(), logical, "logical block")?;
        }
        self.queues_and_depth(info)?;
        let discard_granularity =
            self.discard_granularity.unwrap_or(match capabilities.discard_granularity {
                set if capabilities.discard && set != 0 => set.max(logical),
                _ => 0,
            });
        if discard_granularity != 0 {
            let most = v2::MAX_PHYSICAL_BLOCK_SIZE;
            self.power_of_two("discard granularity", discard_granularity, logical, most)?;
        }
        let limit = |option, set: Option<u32>, capable: bool| {
            let value = set.unwrap_or(if capable { UNLIMITED } else { 0 });
            if value == UNLIMITED {
                return Ok(UNLIMITED / logical * logical);
            }
            self.multiple(option, value.into(), logical, "logical block").map(|()| value)
        };
        let max_discard_bytes = limit("longest discard", self.max_discard_bytes, capabilities.discard)?;
        if max_discard_bytes > 0 {
            // The block layer cannot have a smaller limit.
            let least = physical.max(discard_granularity);
            self.range("longest discard", max_discard_bytes.into(), least.into(), u32::MAX.into())?;
        }
        Ok(v2::Create {
            flags: self.flags(&capabilities)?,
            name,
            serial: self.serial_field()?,
            size_bytes,
            logical_block_size: logical,
            physical_block_size: physical,
            io_min,
            io_opt,
            max_io_bytes: self.max_io_bytes,
            queues: self.queues,
            depth: self.depth,
            discard_granularity,
            max_discard_bytes,
            max_write_zeroes_bytes: limit(
                "longest write-zeroes",
                self.max_write_zeroes_bytes,
                capabilities.write_zeroes,
            )?,
            max_secure_erase_bytes: limit(
                "longest secure erase",
                self.max_secure_erase_bytes,
                capabilities.secure_erase,
            )?,
            deadline_ms: match self.deadline {
                Some(deadline) => self.milliseconds("deadline in milliseconds", deadline, 1)?,
                None => 0,
            },
            deadline_policy: self.deadline_policy.into(),
            grace_ms: self.milliseconds("grace in milliseconds", self.grace, 0)?,
            ..v2::Create::default()
        })
    }

    fn flags(&self, capabilities: &Capabilities) -> Result<u32> {
        let volatile_cache = self.volatile_cache.unwrap_or(capabilities.volatile_cache);
        let fua = self.fua.unwrap_or(capabilities.fua);
        if fua && !volatile_cache {
            return Err(self.nonsense("FUA", "yes", "needs a volatile cache"));
        }
        let flags = [
            (self.read_only.unwrap_or(capabilities.read_only), v2::CREATE_READ_ONLY),
            (self.rotational.unwrap_or(capabilities.rotational), v2::CREATE_ROTATIONAL),
            (volatile_cache, v2::CREATE_VOLATILE_CACHE),
            (fua, v2::CREATE_FUA),
            (!self.partition_scan, v2::CREATE_NO_PARTITION_SCAN),
            (self.auto_destroy, v2::CREATE_AUTO_DESTROY),
        ];
        Ok(flags.iter().filter(|(set, _)| *set).fold(0, |all, (_, flag)| all | flag))
    }

    fn queues_and_depth(&self, info: &Info) -> Result<()> {
        self.range("number of queues", self.queues.into(), 1, info.max_queues.into())?;
        let depth = if self.depth == 0 { v2::DEFAULT_DEPTH } else { self.depth };
        self.range("depth of the queues", depth.into(), 1, info.max_depth.into())?;
        let tags = depth.checked_next_power_of_two().and_then(|tags| tags.checked_mul(self.queues));
        if tags.is_none_or(|tags| tags > v2::MAX_TAGS) {
            let problem = format!("makes more than {} requests in {} queues", v2::MAX_TAGS, self.queues);
            return Err(self.nonsense("depth of the queues", depth, problem));
        }
        Ok(())
    }

    fn serial_field(&self) -> Result<[u8; v2::SERIAL_BYTES]> {
        let problem = match name::padded(&self.serial) {
            Some(field) if self.serial.bytes().all(|byte| (b' '..=b'~').contains(&byte)) => return Ok(field),
            Some(_) => "has a character that is not printable ASCII",
            None => "is longer than 31 characters",
        };
        Err(self.nonsense("serial number", format!("{:?}", self.serial), problem))
    }

    fn milliseconds(&self, option: &'static str, time: Duration, min: u64) -> Result<u32> {
        milliseconds("create", &self.name, option, time, min)
    }

    fn range(&self, option: &'static str, value: u64, min: u64, max: u64) -> Result<()> {
        if (min..=max).contains(&value) {
            return Ok(());
        }
        Err(Error::Range { operation: "create", name: self.name.clone(), option, value, min, max })
    }

    fn power_of_two(&self, option: &'static str, value: u32, min: u32, max: u32) -> Result<()> {
        self.range(option, value.into(), min.into(), max.into())?;
        if value.is_power_of_two() {
            return Ok(());
        }
        Err(self.nonsense(option, value, "is not a power of two"))
    }

    fn multiple(&self, option: &'static str, value: u64, unit: u32, what: &str) -> Result<()> {
        if value % u64::from(unit) == 0 {
            return Ok(());
        }
        Err(self.nonsense(option, value, format!("is not a multiple of the {what} of {unit}")))
    }

    fn nonsense(
        &self,
        option: &'static str,
        value: impl std::fmt::Display,
        problem: impl Into<String>,
    ) -> Error {
        Error::Option {
            operation: "create",
            name: self.name.clone(),
            option,
            value: value.to_string(),
            problem: problem.into(),
        }
    }
}
