// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel tells about itself and about devices.

use super::name;
use std::path::PathBuf;
use std::time::Duration;
use zosbd2_abi::v2;

/// What the module can do.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Highest version of the interface that it speaks.
    pub version: u32,
    /// Version of the module.
    pub module_version: String,
    /// Optional features, by bit number.
    pub features: u64,
    /// Bit n: operation number n is known.
    pub operations: u64,
    /// Devices that can exist at once.
    pub max_devices: u32,
    /// Most queues of a device.
    pub max_queues: u32,
    /// Most requests of a queue.
    pub max_depth: u32,
    /// Largest logical block, in bytes.
    pub max_block_size: u32,
    /// Most data of a request, in bytes.
    pub max_io_bytes: u32,
    /// Most answers, and most requests, of one call.
    pub max_batch: u32,
}

impl From<&v2::Info> for Info {
    fn from(raw: &v2::Info) -> Self {
        Self {
            version: raw.version,
            module_version: name::text(&raw.module_version),
            features: raw.features,
            operations: raw.operations,
            max_devices: raw.max_devices,
            max_queues: raw.max_queues,
            max_depth: raw.max_depth,
            max_block_size: raw.max_block_size,
            max_io_bytes: raw.max_io_bytes,
            max_batch: raw.max_batch,
        }
    }
}

/// A device in a list.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its number.
    pub handle: u32,
    /// Its name.
    pub name: String,
    /// Version of the interface that serves it.
    pub version: u32,
}

impl From<&v2::ListEntry> for Listed {
    fn from(raw: &v2::ListEntry) -> Self {
        Self { handle: raw.handle, name: name::text(&raw.name), version: raw.version }
    }
}

/// How a device is.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Made, but not started: there is no block node yet.
    Created,
    /// A server is attached.
    Live,
    /// No server is attached; I/O waits for one, as long as the grace lasts.
    Orphaned,
    /// No server is attached and the grace is over: all I/O fails until one attaches.
    Failed,
    /// It is being destroyed.
    Destroyed,
    /// A state that this library does not know.
    Unknown(u32),
}

impl From<u32> for State {
    fn from(raw: u32) -> Self {
        match raw {
            v2::STATE_CREATED => Self::Created,
            v2::STATE_LIVE => Self::Live,
            v2::STATE_ORPHANED => Self::Orphaned,
            v2::STATE_FAILED => Self::Failed,
            v2::STATE_DESTROYED => Self::Destroyed,
            other => Self::Unknown(other),
        }
    }
}

/// What a device is and how it is.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its number.
    pub handle: u32,
    /// Its name.
    pub name: String,
    /// Its serial number.
    pub serial: String,
    /// How it is.
    pub state: State,
    /// Version of the interface that serves it.
    pub version: u32,
    /// The server that gets requests now or got them last: 1 for the one that made the device.
    pub epoch: u32,
    /// Server descriptors that are open.
    pub servers: u32,
    /// User whose process made the device.
    pub owner_uid: u32,
    /// Present size in bytes.
    pub size_bytes: u64,
    /// Logical block size in bytes.
    pub logical_block_size: u32,
    /// Physical block size in bytes.
    pub physical_block_size: u32,
    /// Smallest I/O that does not cost extra, in bytes.
    pub io_min: u32,
    /// Best size of I/O, in bytes; 0: none.
    pub io_opt: u32,
    /// Most data of a request, in bytes.
    pub max_io_bytes: u32,
    /// Number of queues.
    pub queues: u32,
    /// Requests of each queue.
    pub depth: u32,
    /// Discards are best made in multiples of this, in bytes.
    pub discard_granularity: u32,
    /// Longest discard, in bytes; 0: not supported.
    pub max_discard_bytes: u32,
    /// Longest write-zeroes, in bytes; 0: not supported.
    pub max_write_zeroes_bytes: u32,
    /// Longest secure erase, in bytes; 0: not supported.
    pub max_secure_erase_bytes: u32,
    /// Time after which a request fails; `None`: never.
    pub deadline: Option<Duration>,
    /// How long I/O waits for another server.
    pub grace: Duration,
    /// `CREATE_` flags of [`abi`](super::abi).
    pub create_flags: u32,
    /// Device number of the block node, major and minor, once it is started.
    pub device_number: Option<(u32, u32)>,
}

impl Status {
    /// Path of the block node.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        node_path(&self.name, self.version)
    }
}

/// Path of the block node of a device of this version of the interface.
pub(super) fn node_path(name: &str, version: u32) -> PathBuf {
    let folder = if version == 1 { "/dev" } else { v2::NODE_FOLDER };
    PathBuf::from(format!("{folder}/{name}"))
}

impl From<&v2::Status> for Status {
    fn from(raw: &v2::Status) -> Self {
        let deadline = (raw.deadline_ms != 0).then(|| Duration::from_millis(raw.deadline_ms.into()));
        let started = raw.major != 0 || raw.minor != 0;
        Self {
            handle: raw.handle,
            name: name::text(&raw.name),
            serial: name::text(&raw.serial),
            state: raw.state.into(),
            version: raw.version,
            epoch: raw.epoch,
            servers: raw.servers,
            owner_uid: raw.owner_uid,
            size_bytes: raw.size_bytes,
            logical_block_size: raw.logical_block_size,
            physical_block_size: raw.physical_block_size,
            io_min: raw.io_min,
            io_opt: raw.io_opt,
            max_io_bytes: raw.max_io_bytes,
            queues: raw.queues,
            depth: raw.depth,
            discard_granularity: raw.discard_granularity,
            max_discard_bytes: raw.max_discard_bytes,
            max_write_zeroes_bytes: raw.max_write_zeroes_bytes,
            max_secure_erase_bytes: raw.max_secure_erase_bytes,
            deadline,
            grace: Duration::from_millis(raw.grace_ms.into()),
            create_flags: raw.create_flags,
            device_number: started.then_some((raw.major, raw.minor)),
        }
    }
}

/// The counters of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OperationCounts {
    /// Requests that were fetched.
    pub fetched: u64,
    /// Requests that ended well.
    pub committed: u64,
}

/// The counters of one queue. They begin with the device and wrap at 64 bits.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests that wait for a server.
    pub queued: u32,
    /// Requests that a server has.
    pub held: u32,
    /// Threads that wait for requests.
    pub waiting: u32,
    /// By operation number: the `OP_` numbers of [`abi`](super::abi).
    pub operations: [OperationCounts; v2::OPERATIONS],
    /// Bytes that reads brought.
    pub read_bytes: u64,
    /// Bytes that writes took.
    pub written_bytes: u64,
    /// Requests that a server failed.
    pub failed: u64,
    /// Requests that passed their deadline.
    pub expired: u64,
    /// Requests taken back from servers that died.
    pub requeued: u64,
    /// Answers that named no request of the server's.
    pub stale: u64,
    /// Threads woken.
    pub wakeups: u64,
    /// Calls that slept.
    pub sleeps: u64,
}

impl From<&v2::Stats> for Stats {
    fn from(raw: &v2::Stats) -> Self {
        let counts = |index| OperationCounts { fetched: raw.fetched[index], committed: raw.committed[index] };
        Self {
            queued: raw.queued,
            held: raw.held,
            waiting: raw.waiting,
            operations: std::array::from_fn(counts),
            read_bytes: raw.read_bytes,
            written_bytes: raw.written_bytes,
            failed: raw.failed,
            expired: raw.expired,
            requeued: raw.requeued,
            stale: raw.stale,
            wakeups: raw.wakeups,
            sleeps: raw.sleeps,
        }
    }
}
