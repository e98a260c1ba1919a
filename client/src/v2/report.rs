// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the kernel reports about the module and its devices.

use super::name;
use std::path::PathBuf;
use std::time::Duration;
use zosbd2_abi::v2;

/// Abilities and limits of the module.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Highest interface version that the module supports.
    pub version: u32,
    /// Version of the module.
    pub module_version: String,
    /// Bit mask of optional features.
    pub features: u64,
    /// Bit n is set if the module knows operation number n.
    pub operations: u64,
    /// Most devices that can exist at once.
    pub max_devices: u32,
    /// Most queues of a device.
    pub max_queues: u32,
    /// Most requests of one queue.
    pub max_depth: u32,
    /// Largest logical block, in bytes.
    pub max_block_size: u32,
    /// Most data of one request, in bytes.
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

/// An entry of the list of devices.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Handle.
    pub handle: u32,
    /// Name.
    pub name: String,
    /// Interface version.
    pub version: u32,
}

impl From<&v2::ListEntry> for Listed {
    fn from(raw: &v2::ListEntry) -> Self {
        Self { handle: raw.handle, name: name::text(&raw.name), version: raw.version }
    }
}

/// State of a device.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Created, but not started: the block node does not exist yet.
    Created,
    /// A server is attached.
    Live,
    /// No server is attached. I/O waits for one until the grace ends.
    Orphaned,
    /// No server is attached and the grace has ended. All I/O fails until a server attaches.
    Failed,
    /// The device is being destroyed.
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

/// Properties and state of a device.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Handle.
    pub handle: u32,
    /// Name.
    pub name: String,
    /// Serial number.
    pub serial: String,
    /// State.
    pub state: State,
    /// Interface version.
    pub version: u32,
    /// Epoch of the newest server. The server that created the device has epoch 1.
    pub epoch: u32,
    /// Number of open servers, including superseded ones.
    pub servers: u32,
    /// User ID of the process that created the device.
    pub owner_uid: u32,
    /// Current size in bytes.
    pub size_bytes: u64,
    /// Logical block size in bytes.
    pub logical_block_size: u32,
    /// Physical block size in bytes.
    pub physical_block_size: u32,
    /// Smallest I/O without extra cost, in bytes.
    pub io_min: u32,
    /// Optimal I/O size, in bytes; 0: none.
    pub io_opt: u32,
    /// Most data of one request, in bytes.
    pub max_io_bytes: u32,
    /// Number of queues.
    pub queues: u32,
    /// Requests per queue.
    pub depth: u32,
    /// Preferred unit of discards, in bytes.
    pub discard_granularity: u32,
    /// Longest discard, in bytes; 0: not supported.
    pub max_discard_bytes: u32,
    /// Longest write-zeroes, in bytes; 0: not supported.
    pub max_write_zeroes_bytes: u32,
    /// Longest secure erase, in bytes; 0: not supported.
    pub max_secure_erase_bytes: u32,
    /// Deadline of a request; `None`: no deadline.
    pub deadline: Option<Duration>,
    /// What the kernel does with a request that passes its deadline.
    pub deadline_policy: DeadlinePolicy,
    /// How long I/O waits for a new server after the last one has gone.
    pub grace: Duration,
    /// The next flush will fail, because answered writes were lost with a server's cache.
    pub lost: bool,
    /// `CREATE_` flags of [`abi`](super::abi).
    pub create_flags: u32,
    /// Major and minor device number of the block node; `None` before it is started.
    pub device_number: Option<(u32, u32)>,
    /// The serving process: that of the newest server which made the last call, or which attached. `None` if the
    /// device has no server, and if that process has ended or is in another PID namespace.
    pub process: Option<u32>,
    /// Name of that process, even if it has ended; empty if the device has no server, or if the module is too old.
    pub program: String,
    /// How often the block node and its partitions are open now; a mount counts as one.
    pub opens: u32,
    /// Threads that wait for requests now.
    pub threads: u32,
    /// For how long requests have waited while no thread waited for them or called. The kernel looks every 2 s, so this
    /// is `None` for at least that long.
    pub unserved: Option<Duration>,
}

impl Status {
    /// Path of the block node.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        node_path(&self.name, self.version)
    }
}

/// Path of the block node of a device of this interface version.
pub(super) fn node_path(name: &str, version: u32) -> PathBuf {
    let prefix = if version == 1 { "/dev/" } else { v2::NODE_PREFIX };
    PathBuf::from(format!("{prefix}{name}"))
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
            deadline_policy: raw.deadline_policy.into(),
            lost: raw.lost != 0,
            grace: Duration::from_millis(raw.grace_ms.into()),
            create_flags: raw.create_flags,
            device_number: started.then_some((raw.major, raw.minor)),
            process: (raw.pid != 0).then_some(raw.pid),
            program: name::text(&raw.program),
            opens: raw.opens,
            threads: raw.threads,
            unserved: (raw.unserved_ms != 0).then(|| Duration::from_millis(raw.unserved_ms.into())),
        }
    }
}

/// The counters of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OperationCounts {
    /// Requests fetched.
    pub fetched: u64,
    /// Requests that succeeded.
    pub committed: u64,
}

/// The counters of one queue. They start at the creation of the device and wrap at 64 bits.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests that wait in the queue.
    pub queued: u32,
    /// Requests that a server holds.
    pub held: u32,
    /// Threads that sleep and wait for requests.
    pub waiting: u32,
    /// By operation number: the `OP_` numbers of [`abi`](super::abi).
    pub operations: [OperationCounts; v2::OPERATIONS],
    /// Bytes of successful reads.
    pub read_bytes: u64,
    /// Bytes of successful writes.
    pub written_bytes: u64,
    /// Requests that a server failed.
    pub failed: u64,
    /// Requests that passed their deadline.
    pub expired: u64,
    /// Requests returned to the queue from a server that died or was late.
    pub requeued: u64,
    /// Answers refused with `ESTALE`.
    pub stale: u64,
    /// Wake-ups of sleeping threads.
    pub wakeups: u64,
    /// Calls that slept.
    pub sleeps: u64,
    /// Flushes that a server carried out, but that failed because earlier writes were lost with a server's
    /// cache.
    pub lost_flushes: u64,
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
            lost_flushes: raw.lost_flushes,
        }
    }
}

/// What the kernel does with a request that passes its deadline.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeadlinePolicy {
    /// Fail the request.
    #[default]
    Fail,
    /// Return the request to the queue, marked as maybe executed, for another thread or server. No request
    /// fails for being late.
    Requeue,
    /// Declare the server dead that holds the request, or left it in the queue. Another server may follow
    /// within the grace.
    DeclareDead,
    /// A policy that this library does not know.
    Unknown(u32),
}

impl From<u32> for DeadlinePolicy {
    fn from(raw: u32) -> Self {
        match raw {
            v2::DEADLINE_FAIL => Self::Fail,
            v2::DEADLINE_REQUEUE => Self::Requeue,
            v2::DEADLINE_DECLARE_DEAD => Self::DeclareDead,
            other => Self::Unknown(other),
        }
    }
}

impl From<DeadlinePolicy> for u32 {
    fn from(policy: DeadlinePolicy) -> Self {
        match policy {
            DeadlinePolicy::Fail => v2::DEADLINE_FAIL,
            DeadlinePolicy::Requeue => v2::DEADLINE_REQUEUE,
            DeadlinePolicy::DeclareDead => v2::DEADLINE_DECLARE_DEAD,
            DeadlinePolicy::Unknown(other) => other,
        }
    }
}

/// Latency histograms of one queue. Bucket 0 counts times below 1024 ns. Bucket n counts times from 2^(9 + n)
/// to below 2^(10 + n) ns; the last bucket also counts all longer times. An accepted answer counts its
/// request once in each histogram. Counts start at the creation of the device and wrap at 64 bits.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// Time from the submission to the fetch by the server that answered.
    pub waiting: [u64; v2::LATENCY_BUCKETS],
    /// Time from that fetch to the answer.
    pub serving: [u64; v2::LATENCY_BUCKETS],
    /// Time from the submission to the answer.
    pub total: [u64; v2::LATENCY_BUCKETS],
}

impl Latency {
    /// Upper limit of a bucket, which counts times below it; `None`: no limit.
    #[must_use]
    pub fn bound(bucket: usize) -> Option<Duration> {
        (bucket + 1 < v2::LATENCY_BUCKETS).then(|| Duration::from_nanos(1 << (bucket + 10)))
    }
}

impl From<&v2::Latency> for Latency {
    fn from(raw: &v2::Latency) -> Self {
        Self { waiting: raw.waiting, serving: raw.serving, total: raw.total }
    }
}

/// State of an unanswered request.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestState {
    /// The request waits in the queue.
    Queued,
    /// A server holds the request.
    Held,
    /// A server holds the request, and its data is being copied.
    Copying,
    /// The request has failed; it ends when the copy of its data stops.
    Doomed,
    /// A state that this library does not know.
    Unknown(u32),
}

impl From<u32> for RequestState {
    fn from(raw: u32) -> Self {
        match raw {
            v2::OUTSTANDING_QUEUED => Self::Queued,
            v2::OUTSTANDING_HELD => Self::Held,
            v2::OUTSTANDING_COPYING => Self::Copying,
            v2::OUTSTANDING_DOOMED => Self::Doomed,
            other => Self::Unknown(other),
        }
    }
}

/// The server and thread that hold a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The server's epoch; 0 with version 1.
    pub epoch: u32,
    /// The thread that fetched the request, in the initial PID namespace.
    pub thread: u32,
    /// Time since the fetch.
    pub since: Duration,
}

/// An unanswered request.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outstanding {
    /// Tag: identifies the request among the unanswered requests of its queue.
    pub tag: u32,
    /// One of the `OP_` numbers of [`abi`](super::abi).
    pub op: u32,
    /// `REQUEST_` flags of [`abi`](super::abi).
    pub flags: u32,
    /// First byte on the device.
    pub offset: u64,
    /// Length in bytes; 0 for a flush.
    pub length: u64,
    /// State of the request.
    pub state: RequestState,
    /// Time since the submission.
    pub age: Duration,
    /// The server and thread that hold the request, if any.
    pub holder: Option<Holder>,
}

impl From<&v2::Outstanding> for Outstanding {
    fn from(raw: &v2::Outstanding) -> Self {
        let v2::Outstanding { epoch, thread, .. } = *raw;
        let holder = Holder { epoch, thread, since: Duration::from_nanos(raw.held_ns) };
        let state = RequestState::from(raw.state);
        Self {
            tag: raw.tag,
            op: raw.op,
            flags: raw.flags,
            offset: raw.offset,
            length: raw.length,
            state,
            age: Duration::from_nanos(raw.age_ns),
            holder: (state != RequestState::Queued).then_some(holder),
        }
    }
}
