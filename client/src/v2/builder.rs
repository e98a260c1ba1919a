// SPDX-License-Identifier: MIT OR Apache-2.0
//! The description of a new device.
//!
//! A value that is not set comes from the backend, if there is one, or is the interface's default.
//!
//! | file | content |
//! |---|---|
//! | `create` | checks the values, and makes the kernel's struct of them |
//! | `run` | creates the device or follows, and serves it |

mod create;
mod run;

pub(super) use self::run::Checked;
use super::tell::Event;
use super::{AsyncBackend, Backend, Capabilities, DeadlinePolicy, HandOver, Handler, Layer, ServeOptions};
use std::time::Duration;

/// For limits: as much as the kernel can send at once.
pub const UNLIMITED: u32 = u32::MAX;

/// Default of [`Builder::grace`].
const DEFAULT_GRACE: Duration = Duration::from_secs(30);

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
    identity: Vec<u8>,
    follow_without_identity: bool,
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
            identity: Vec::new(),
            follow_without_identity: false,
            take_over: None,
        }
    }

    /// Takes the size and the capabilities from the backend. Values that are set on the builder, before or
    /// after, win.
    #[must_use]
    pub fn for_backend<B: Backend + ?Sized>(self, backend: &B) -> Self {
        self.for_store(backend.size(), backend.capabilities())
    }

    /// Like [`for_backend`](Self::for_backend).
    #[must_use]
    pub fn for_async_backend<B: AsyncBackend + ?Sized>(self, backend: &B) -> Self {
        self.for_store(backend.size(), backend.capabilities())
    }

    /// Like [`for_backend`](Self::for_backend).
    #[must_use]
    pub fn for_handler<H: Handler + ?Sized>(self, handler: &H) -> Self {
        self.for_store(handler.size(), handler.capabilities())
    }

    fn for_store(mut self, size: u64, capabilities: Capabilities) -> Self {
        self.backend = Some((size, capabilities));
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
        /// Whether [`serve`](Self::serve) follows a device that has no [`identity`](Self::identity) if this program has
        /// none either. By default that is an error, because a disk of another program could have the same name, size and
        /// properties. Right for a name that no other program uses.
        follow_without_identity: bool => follow_without_identity;
    }

    /// Options of [`serve`](Self::serve). They keep what was set before with [`on_event`](Self::on_event) and
    /// [`layer`](Self::layer): their own callback counts, if they have one, and their layers are inside.
    #[must_use]
    pub fn serving(mut self, serving: ServeOptions) -> Self {
        self.serving = serving.within(&self.serving);
        self
    }

    /// Serial number, visible in sysfs: at most 31 printable ASCII characters.
    #[must_use]
    pub fn serial(mut self, serial: &str) -> Self {
        serial.clone_into(&mut self.serial);
        self
    }

    /// What identifies the content of the device, such as the path or the UUID of its store, the version of data
    /// that others can change, or the digest of a key: at most 256 bytes. The kernel keeps it, as the blob
    /// ([`Server::blob`](super::Server::blob)), and [`serve`](Self::serve) follows only a device that has the same one.
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

    /// Calls `tell` with each [`Event`]: see [`ServeOptions::on_event`].
    ///
    /// ```no_run
    /// # fn serve(backend: &impl zosbd2::Backend) -> zosbd2::Result<zosbd2::End> {
    /// zosbd2::Builder::new("mydisk").on_event(|event| eprintln!("{event}")).serve(backend)
    /// # }
    /// ```
    #[must_use]
    pub fn on_event(mut self, tell: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.serving = self.serving.on_event(tell);
        self
    }

    /// Serves through this layer: see [`ServeOptions::layer`].
    #[must_use]
    pub fn layer(mut self, layer: impl Layer + 'static) -> Self {
        self.serving = self.serving.layer(layer);
        self
    }

    /// Name of the device.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The blob of a new device.
    pub(super) fn blob(&self) -> &[u8] {
        &self.identity
    }
}
