// SPDX-License-Identifier: MIT OR Apache-2.0
//! Interface version 2: all operations, many queues, and one call that answers and fetches in batches.
//!
//! A program makes its calls on the control node or on a *server descriptor*, which `IOCTL_CREATE` and
//! `IOCTL_ATTACH` return as the result of the ioctl. The holder of a server descriptor may serve the device.
//! A server descriptor can be polled and passed to other processes. Its last close is the server's death.
//!
//! Every argument begins with its own size in bytes. A size below that of the first version fails with
//! `EINVAL`. The kernel accepts a longer argument if the bytes that it does not know are zero, and otherwise
//! fails with `E2BIG`. The size part of an ioctl number is always the size of the first version. Unknown
//! flags, and reserved fields that are not zero, fail with `EINVAL`. Layouts are the same for 32-bit and
//! 64-bit callers: addresses are 64-bit integers.
//!
//! Offsets and lengths are in bytes. Errors are negative errno values. `docs/glossary.md` defines the terms.

/// Bytes of a name field; names are at most [`MAX_NAME_BYTES`] long, and the rest is NUL.
pub const NAME_BYTES: usize = 32;
/// Longest name: the disk is called `zosbd2-NAME` in 31 bytes.
pub const MAX_NAME_BYTES: usize = 24;
/// Bytes of a serial number field, NUL padded.
pub const SERIAL_BYTES: usize = 32;
/// Bytes of the name of a program, NUL padded.
pub const PROGRAM_BYTES: usize = 16;
/// What precedes the name of a device in the path of its block node. The disk's name in sysfs is the same without
/// `/dev/`.
pub const NODE_PREFIX: &str = "/dev/zosbd2-";

/// Smallest logical block, in bytes; also the granularity of sizes and offsets.
pub const MIN_BLOCK_SIZE: u32 = 512;
/// Largest logical block, in bytes, on kernels with 4096-byte pages; [`Info::max_block_size`] has the limit
/// of the running kernel.
pub const MAX_BLOCK_SIZE: u32 = 4096;
/// Largest physical block, minimum and optimal I/O size, in bytes.
pub const MAX_PHYSICAL_BLOCK_SIZE: u32 = 268_435_456;
/// Largest device, in bytes: 8 EiB less 1 MiB, so that every offset is positive.
pub const MAX_SIZE_BYTES: u64 = 9_223_372_036_853_727_232;
/// Most data of one request, in bytes (32 MiB).
pub const MAX_IO_BYTES: u32 = 33_554_432;
/// Value of `max_io_bytes` if CREATE passes 0, in bytes (4 MiB).
pub const DEFAULT_IO_BYTES: u32 = 4_194_304;
/// Most requests of one queue.
pub const MAX_DEPTH: u32 = 1024;
/// Value of `depth` if CREATE passes 0.
pub const DEFAULT_DEPTH: u32 = 128;
/// Most tags of one device: the depth, rounded up to a power of two, times the number of queues.
pub const MAX_TAGS: u32 = 65536;
/// Most entries of each array of one [`Enter`].
pub const MAX_BATCH: u32 = 1024;
/// Longest element of the arrays of an [`Enter`], in bytes.
pub const MAX_ELEMENT_BYTES: u32 = 256;
/// Most iovec entries of one commit.
pub const MAX_IOVECS: u32 = 1024;
/// Longest deadline and longest grace, in milliseconds (one day).
pub const MAX_MILLISECONDS: u32 = 86_400_000;
/// Longest time that ENTER polls before it sleeps, in microseconds.
pub const MAX_SPIN_US: u32 = 10_000;

/// Read: the commit supplies the data.
pub const OP_READ: u32 = 0;
/// Write.
pub const OP_WRITE: u32 = 1;
/// Discard: the contents of the range are no longer needed. The server decides what later reads return.
pub const OP_DISCARD: u32 = 2;
/// Flush: every write that was committed before the fetch of this flush must be durable before the flush is
/// committed.
pub const OP_FLUSH: u32 = 3;
/// Write zeros: later reads of the range return zeros.
pub const OP_WRITE_ZEROES: u32 = 4;
/// Secure erase: the contents of the range must not be recoverable.
pub const OP_SECURE_ERASE: u32 = 5;
/// Number of operations.
pub const OPERATIONS: usize = 6;
/// Number of buckets of each histogram of [`Latency`].
pub const LATENCY_BUCKETS: usize = 32;

/// The kernel refuses writes.
pub const CREATE_READ_ONLY: u32 = 1;
/// The kernel advertises the device as rotational.
pub const CREATE_ROTATIONAL: u32 = 2;
/// A committed write may be lost until a flush is committed, so the kernel sends flushes.
pub const CREATE_VOLATILE_CACHE: u32 = 4;
/// Writes may carry [`REQUEST_FUA`]. Allowed only together with [`CREATE_VOLATILE_CACHE`]. Without this flag
/// the kernel sends a flush after such a write.
pub const CREATE_FUA: u32 = 8;
/// The kernel does not look for partitions when the device starts. `BLKRRPART` still can.
pub const CREATE_NO_PARTITION_SCAN: u32 = 16;
/// The kernel destroys the device when the grace ends. Without this flag the device stays and fails all I/O
/// until a server attaches.
pub const CREATE_AUTO_DESTROY: u32 = 32;
/// All flags of [`Create`].
pub const CREATE_FLAGS: u32 = 63;

/// [`Create::deadline_policy`]: a request that passes its deadline fails with `EIO`.
pub const DEADLINE_FAIL: u32 = 0;
/// [`Create::deadline_policy`]: a request that passes its deadline while a server holds it returns to the
/// queue, marked as maybe executed, for another thread or server. No request fails for being late.
pub const DEADLINE_REQUEUE: u32 = 1;
/// [`Create::deadline_policy`]: when a request passes its deadline, the kernel declares the server dead: the
/// server that holds the request, or that left it in the queue. The device then behaves as if that server had
/// closed its descriptor.
pub const DEADLINE_DECLARE_DEAD: u32 = 2;

/// Become the server although the device has one. The old server gets no more requests, but may commit those
/// it holds.
pub const ATTACH_TAKE_OVER: u32 = 1;
/// Return an observer's descriptor, not a server's. STATUS, STATS, LATENCY, REQUESTS and reading BLOB work on
/// it; any other call fails with `EPERM`. No other flag may be set. Devices of version 1 can be observed,
/// too.
pub const ATTACH_OBSERVE: u32 = 2;
/// All flags of [`Attach`].
pub const ATTACH_FLAGS: u32 = 3;

/// This server has every write that earlier servers committed: their volatile caches survived. Without this claim, if
/// earlier servers had committed writes that no flush had covered, flushes fail from this server's first fetch on, until
/// one has failed that was sent after those writes had ended.
pub const CLAIM_CACHE: u32 = 1;
/// All flags of [`Claim`].
pub const CLAIM_FLAGS: u32 = 1;

/// Destroy the device even if it is open.
pub const DESTROY_FORCE: u32 = 1;
/// All flags of [`Destroy`].
pub const DESTROY_FLAGS: u32 = 1;

/// The write must be durable when it is committed.
pub const REQUEST_FUA: u32 = 1;
/// The range of a write-zeroes must stay allocated.
pub const REQUEST_NO_UNMAP: u32 = 2;
/// An earlier server, or another thread of this one, held this request and may have executed it.
pub const REQUEST_MAYBE_EXECUTED: u32 = 4;
/// The data of this write came with it: it is in the arena or in a buffer of ENTER, as [`Request::data`] says.
pub const REQUEST_DATA: u32 = 8;

/// `address` points to an array of `iovec_count` [`Iovec`] instead of the data.
pub const COMMIT_IOVEC: u32 = 1;
/// A read whose `result` is less than its length succeeds; the kernel fills the rest with zeros. Without this
/// flag it fails.
pub const COMMIT_ZERO_FILL: u32 = 2;
/// Copy the data of a write to `address` and do not end the request, which stays with the server. `result` is
/// the room at `address`, in bytes: at least the length of the request.
pub const COMMIT_COPY_ONLY: u32 = 4;
/// All flags of [`Commit`].
pub const COMMIT_FLAGS: u32 = 7;

/// `timeout_ms` is valid: ENTER waits no longer than that for `minimum` requests.
pub const ENTER_TIMEOUT: u32 = 1;
/// All flags of [`Enter`].
pub const ENTER_FLAGS: u32 = 1;

/// Change the grace.
pub const SETTINGS_GRACE: u32 = 1;
/// Change the deadline.
pub const SETTINGS_DEADLINE: u32 = 2;
/// Change the policy for late requests.
pub const SETTINGS_POLICY: u32 = 4;
/// All flags of [`Settings`].
pub const SETTINGS_FLAGS: u32 = 7;

/// Replace the blob by the bytes of the argument.
pub const BLOB_WRITE: u32 = 1;
/// All flags of [`Blob`].
pub const BLOB_FLAGS: u32 = 1;
/// Largest blob, in bytes.
pub const BLOB_BYTES: usize = 256;

/// The request waits in the queue.
pub const OUTSTANDING_QUEUED: u32 = 1;
/// A server holds the request.
pub const OUTSTANDING_HELD: u32 = 2;
/// A server holds the request, and its data is being copied.
pub const OUTSTANDING_COPYING: u32 = 3;
/// The request has failed; it ends when the copy of its data stops.
pub const OUTSTANDING_DOOMED: u32 = 4;

/// Created, but not started: the block node does not exist yet.
pub const STATE_CREATED: u32 = 0;
/// A server is attached.
pub const STATE_LIVE: u32 = 1;
/// No server is attached. I/O waits for one until the grace ends.
pub const STATE_ORPHANED: u32 = 2;
/// No server is attached and the grace has ended. All I/O fails until a server attaches.
pub const STATE_FAILED: u32 = 3;
/// The device is being destroyed.
pub const STATE_DESTROYED: u32 = 4;

/// Bytes of [`Info`].
pub const INFO_BYTES: u32 = 88;
/// Bytes of [`Create`].
pub const CREATE_BYTES: u32 = 144;
/// Bytes of [`Attach`].
pub const ATTACH_BYTES: u32 = 48;
/// Bytes of [`Destroy`].
pub const DESTROY_BYTES: u32 = 48;
/// Bytes of [`List`].
pub const LIST_BYTES: u32 = 32;
/// Bytes of [`Status`].
pub const STATUS_BYTES: u32 = 208;
/// Bytes of the first version of [`Status`], up to `lost`: the size in the number of the call.
pub const STATUS_FIRST_BYTES: u32 = 176;
/// Bytes of [`Settings`].
pub const SETTINGS_BYTES: u32 = 64;
/// Bytes of [`Start`].
pub const START_BYTES: u32 = 8;
/// Bytes of [`Resize`].
pub const RESIZE_BYTES: u32 = 16;
/// Bytes of [`Stats`].
pub const STATS_BYTES: u32 = 192;
/// Bytes of [`Enter`].
pub const ENTER_BYTES: u32 = 96;
/// Bytes of [`Commit`].
pub const COMMIT_BYTES: u32 = 40;
/// Bytes of [`Request`].
pub const REQUEST_BYTES: u32 = 48;
/// Bytes of [`Claim`].
pub const CLAIM_BYTES: u32 = 8;
/// Bytes of [`Latency`].
pub const LATENCY_BYTES: u32 = 784;
/// Bytes of [`Requests`].
pub const REQUESTS_BYTES: u32 = 40;
/// Bytes of [`Blob`].
pub const BLOB_ARGUMENT_BYTES: u32 = 272;

/// Type of all ioctl numbers below. Each number is direction (read and write) << 30 | size << 16 | type << 8
/// | number.
pub const IOCTL_TYPE: u32 = 0xbd;
/// Control node: get the abilities and limits of the module ([`Info`], in and out).
pub const IOCTL_INFO: u32 = (3 << 30) | (INFO_BYTES << 16) | (IOCTL_TYPE << 8);
/// Control node: create a device ([`Create`], in and out); returns its server descriptor.
pub const IOCTL_CREATE: u32 = (3 << 30) | (CREATE_BYTES << 16) | (IOCTL_TYPE << 8) | 1;
/// Control node: become the server of a device ([`Attach`], in and out); returns a server descriptor.
pub const IOCTL_ATTACH: u32 = (3 << 30) | (ATTACH_BYTES << 16) | (IOCTL_TYPE << 8) | 2;
/// Control node: destroy a device and wait until it is gone ([`Destroy`], in).
pub const IOCTL_DESTROY: u32 = (3 << 30) | (DESTROY_BYTES << 16) | (IOCTL_TYPE << 8) | 3;
/// Control node: list the devices of both versions ([`List`], in and out).
pub const IOCTL_LIST: u32 = (3 << 30) | (LIST_BYTES << 16) | (IOCTL_TYPE << 8) | 4;
/// Control node: get the properties and the state of a device ([`Status`], in and out), by name. Server
/// descriptor: the same for its own device; the name must be empty or that of the device.
pub const IOCTL_STATUS: u32 = (3 << 30) | (STATUS_FIRST_BYTES << 16) | (IOCTL_TYPE << 8) | 5;
/// Control node: change settings of a device in use ([`Settings`], in), by name. Server descriptor: the same for its
/// own device; the name must be empty or that of the device.
pub const IOCTL_SETTINGS: u32 = (3 << 30) | (SETTINGS_BYTES << 16) | (IOCTL_TYPE << 8) | 6;
/// Server descriptor: create the block node ([`Start`], in). The call does no I/O on the device, so the only
/// serving thread may make it.
pub const IOCTL_START: u32 = (3 << 30) | (START_BYTES << 16) | (IOCTL_TYPE << 8) | 0x10;
/// Server descriptor: change the size ([`Resize`], in).
pub const IOCTL_RESIZE: u32 = (3 << 30) | (RESIZE_BYTES << 16) | (IOCTL_TYPE << 8) | 0x11;
/// Server descriptor: get the counters of one queue ([`Stats`], in and out).
pub const IOCTL_STATS: u32 = (3 << 30) | (STATS_BYTES << 16) | (IOCTL_TYPE << 8) | 0x12;
/// Server descriptor: answer requests, move their data, fetch more ([`Enter`], in and out).
pub const IOCTL_ENTER: u32 = (3 << 30) | (ENTER_BYTES << 16) | (IOCTL_TYPE << 8) | 0x13;
/// Server descriptor: get the latency histograms of one queue ([`Latency`], in and out).
pub const IOCTL_LATENCY: u32 = (3 << 30) | (LATENCY_BYTES << 16) | (IOCTL_TYPE << 8) | 0x14;
/// Server descriptor: list the unanswered requests of one queue ([`Requests`], in and out).
pub const IOCTL_REQUESTS: u32 = (3 << 30) | (REQUESTS_BYTES << 16) | (IOCTL_TYPE << 8) | 0x15;
/// Server descriptor: read or replace the blob of the device ([`Blob`], in and out).
pub const IOCTL_BLOB: u32 = (3 << 30) | (BLOB_ARGUMENT_BYTES << 16) | (IOCTL_TYPE << 8) | 0x16;
/// Server descriptor: state what this server has of the servers before it ([`Claim`], in).
pub const IOCTL_CLAIM: u32 = (3 << 30) | (CLAIM_BYTES << 16) | (IOCTL_TYPE << 8) | 0x18;

/// Argument of [`IOCTL_INFO`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Bytes of this argument.
    pub size: u32,
    /// 0.
    pub flags: u32,
    /// Out: highest interface version that the module supports.
    pub version: u32,
    /// Out: most devices that can exist at once.
    pub max_devices: u32,
    /// Out: bit mask of optional features. No bit is assigned yet.
    pub features: u64,
    /// Out: bit n is set if the module knows operation number n.
    pub operations: u64,
    /// Out: most queues of a device, which is the number of CPUs.
    pub max_queues: u32,
    /// Out: most requests of one queue.
    pub max_depth: u32,
    /// Out: largest logical block, in bytes.
    pub max_block_size: u32,
    /// Out: most data of one request, in bytes.
    pub max_io_bytes: u32,
    /// Out: most entries of each array of an [`Enter`].
    pub max_batch: u32,
    /// 0.
    pub reserved: u32,
    /// Out: version of the module, NUL padded.
    pub module_version: [u8; 32],
}

/// Argument of [`IOCTL_CREATE`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Create {
    /// Bytes of this argument.
    pub size: u32,
    /// `CREATE_` flags.
    pub flags: u32,
    /// Name: letters, digits, `.`, `_`, `-`, `+` and `:`. The first character is a letter or digit. NUL
    /// padded.
    pub name: [u8; NAME_BYTES],
    /// Serial number, visible in sysfs: printable ASCII, at most [`SERIAL_BYTES`] - 1 bytes, NUL padded.
    pub serial: [u8; SERIAL_BYTES],
    /// Size in bytes: a multiple of the logical block, at least one block, at most [`MAX_SIZE_BYTES`].
    pub size_bytes: u64,
    /// Logical block size: a power of two, [`MIN_BLOCK_SIZE`] to the page size; 0 means 512.
    pub logical_block_size: u32,
    /// Physical block size: a power of two, at least the logical block size; 0 means the logical block size.
    pub physical_block_size: u32,
    /// Smallest I/O without extra cost: a multiple of the physical block; 0 means one physical block.
    pub io_min: u32,
    /// Optimal I/O size: a multiple of `io_min`; 0 means that no size is better than another.
    pub io_opt: u32,
    /// Most data of one request: a multiple of the logical block, at least a page; 0 means
    /// [`DEFAULT_IO_BYTES`].
    pub max_io_bytes: u32,
    /// Number of queues, 1 to the number of CPUs; 0 means 1.
    pub queues: u32,
    /// Requests per queue, 1 to [`MAX_DEPTH`]; 0 means [`DEFAULT_DEPTH`].
    pub depth: u32,
    /// Preferred unit of discards: a power of two; 0 means the physical block.
    pub discard_granularity: u32,
    /// Longest discard, a multiple of the logical block; 0 means that the device does not support discards.
    pub max_discard_bytes: u32,
    /// Longest write-zeroes, a multiple of the logical block; 0 means not supported: the kernel then writes
    /// zeros.
    pub max_write_zeroes_bytes: u32,
    /// Longest secure erase, a multiple of the logical block; 0 means not supported.
    pub max_secure_erase_bytes: u32,
    /// Deadline: how long after its submission a request must be committed, in milliseconds; 0 means no
    /// deadline.
    pub deadline_ms: u32,
    /// Grace: how long I/O waits for a new server after the last one has gone, in milliseconds; 0: I/O fails
    /// at once.
    pub grace_ms: u32,
    /// Out: handle of the device.
    pub handle: u32,
    /// What the kernel does with a request that passes its deadline: one of the `DEADLINE_` numbers.
    pub deadline_policy: u32,
    /// Must be 0.
    pub reserved: u32,
}

/// Argument of [`IOCTL_ATTACH`]. A name can be used again after its device is gone: `handle` and `epoch` identify the device that is meant.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attach {
    /// Bytes of this argument.
    pub size: u32,
    /// `ATTACH_` flags.
    pub flags: u32,
    /// Name of the device.
    pub name: [u8; NAME_BYTES],
    /// In: handle that the device must have, 0 for any; otherwise the call fails with `ESTALE`. Out: handle of the
    /// device.
    pub handle: u32,
    /// In: epoch that the newest server of the device must have, 0 for any; otherwise the call fails with `ESTALE`. Out:
    /// epoch of this server; 0 for an observer. The server that created the device has epoch 1.
    pub epoch: u32,
}

/// Argument of [`IOCTL_DESTROY`]. A name can be used again after its device is gone: `handle` and `epoch` identify the device that is meant.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Destroy {
    /// Bytes of this argument.
    pub size: u32,
    /// `DESTROY_` flags. Without force the call fails with `EBUSY` while the block node is open.
    pub flags: u32,
    /// Name of the device.
    pub name: [u8; NAME_BYTES],
    /// Handle that the device must have, 0 for any; otherwise the call fails with `ESTALE`. [`Create`], [`Status`] and
    /// [`ListEntry`] report it.
    pub handle: u32,
    /// Epoch that the newest server of the device must have, 0 for any; otherwise the call fails with `ESTALE`.
    /// [`Status`] reports it. It protects a device that another server has attached to in the meantime.
    pub epoch: u32,
}

/// Argument of [`IOCTL_LIST`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// Bytes of this argument.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// Address of an array of [`ListEntry`].
    pub entries: u64,
    /// Entries that fit into the array.
    pub capacity: u32,
    /// Out: entries written, in the order of creation.
    pub count: u32,
    /// Out: number of existing devices.
    pub total: u32,
    /// Must be 0.
    pub reserved: u32,
}

/// One device in a [`List`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListEntry {
    /// Handle of the device.
    pub handle: u32,
    /// Interface version of the device: 1 or 2.
    pub version: u32,
    /// Name of the device.
    pub name: [u8; NAME_BYTES],
}

/// Argument of [`IOCTL_STATUS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Bytes of this argument.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// In and out: name of the device.
    pub name: [u8; NAME_BYTES],
    /// Out: as in [`Create`].
    pub serial: [u8; SERIAL_BYTES],
    /// Out: current size in bytes.
    pub size_bytes: u64,
    /// Out: as in [`Create`], with 0 replaced by its meaning. So are the following fields.
    pub logical_block_size: u32,
    /// Out: as in [`Create`].
    pub physical_block_size: u32,
    /// Out: as in [`Create`].
    pub io_min: u32,
    /// Out: as in [`Create`].
    pub io_opt: u32,
    /// Out: as in [`Create`].
    pub max_io_bytes: u32,
    /// Out: as in [`Create`].
    pub queues: u32,
    /// Out: as in [`Create`].
    pub depth: u32,
    /// Out: as in [`Create`].
    pub discard_granularity: u32,
    /// Out: as in [`Create`].
    pub max_discard_bytes: u32,
    /// Out: as in [`Create`].
    pub max_write_zeroes_bytes: u32,
    /// Out: as in [`Create`].
    pub max_secure_erase_bytes: u32,
    /// Out: as in [`Create`].
    pub deadline_ms: u32,
    /// Out: as in [`Create`].
    pub grace_ms: u32,
    /// Out: handle of the device.
    pub handle: u32,
    /// Out: the `CREATE_` flags of the device.
    pub create_flags: u32,
    /// Out: one of the `STATE_` numbers.
    pub state: u32,
    /// Out: on a server's descriptor, the epoch of this server; otherwise that of the newest server; 0 if no
    /// server ever attached (version 1).
    pub epoch: u32,
    /// Out: number of open servers, including superseded ones.
    pub servers: u32,
    /// Out: user ID of the process that created the device.
    pub owner_uid: u32,
    /// Out: interface version of the device: 1 or 2.
    pub version: u32,
    /// Out: major device number of the block node; 0 before START.
    pub major: u32,
    /// Out: minor device number of the block node; 0 before START.
    pub minor: u32,
    /// Out: as in [`Create`].
    pub deadline_policy: u32,
    /// Out: 1 if the next flush will fail because answered writes were lost with a server's cache, else 0.
    pub lost: u32,
    /// Out: the serving process, in the PID namespace of the caller: the process of the newest server that called
    /// ENTER last, or that attached if none did. 0 if the device has no server, and if that process has ended or is in
    /// another namespace.
    pub pid: u32,
    /// Out: how often the block node and its partitions are open now; a mount counts as one.
    pub opens: u32,
    /// Out: threads that wait for requests in ENTER now.
    pub threads: u32,
    /// Out: for how long requests of some queue have been unserved, in milliseconds: no thread waited in or called ENTER
    /// for the queue, and requests are queued, or held by a process that has ended. The kernel looks every 2 s, so it is
    /// 0 for at least that long.
    pub unserved_ms: u32,
    /// Out: name of that process, even if it has ended, NUL padded; empty if the device has no server.
    pub program: [u8; PROGRAM_BYTES],
}

/// Argument of [`IOCTL_SETTINGS`]. The flags say which settings change; the fields of the others must be 0. The new
/// grace also counts for a grace that has begun. A new deadline counts for requests that are sent from then on; those
/// sent before keep theirs, or have none if they were sent without one. No request is late while there is no deadline. The
/// new policy counts for all requests.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of this argument.
    pub size: u32,
    /// `SETTINGS_` flags.
    pub flags: u32,
    /// Name of the device.
    pub name: [u8; NAME_BYTES],
    /// Handle that the device must have; 0: any.
    pub handle: u32,
    /// Epoch that the device's newest server must have; 0: any.
    pub epoch: u32,
    /// New deadline, as in [`Create`].
    pub deadline_ms: u32,
    /// New policy, as in [`Create`].
    pub deadline_policy: u32,
    /// New grace, as in [`Create`].
    pub grace_ms: u32,
    /// Must be 0.
    pub reserved: u32,
}

/// Argument of [`IOCTL_START`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// Bytes of this argument.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
}

/// Argument of [`IOCTL_CLAIM`]. The newest server may claim until its first fetch, which is the first ENTER whose
/// `capacity` is not 0; afterwards the call fails with `EALREADY`. A server often knows only after ATTACH what it has:
/// until its first fetch the server before it may still answer requests, flushes among them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// Bytes of this argument.
    pub size: u32,
    /// `CLAIM_` flags, at least one.
    pub flags: u32,
}

/// Argument of [`IOCTL_RESIZE`]. Requests submitted before the call may reach beyond the new end.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resize {
    /// Bytes of this argument.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// New size, as in [`Create`].
    pub size_bytes: u64,
}

/// Argument of [`IOCTL_STATS`]. Counters start at the creation of the device and wrap at 64 bits.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of this argument.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// In: number of the queue.
    pub queue: u32,
    /// Out: requests that wait in the queue.
    pub queued: u32,
    /// Out: requests that a server holds.
    pub held: u32,
    /// Out: threads that sleep and wait for requests.
    pub waiting: u32,
    /// Out: requests fetched, by operation.
    pub fetched: [u64; OPERATIONS],
    /// Out: requests that succeeded, by operation.
    pub committed: [u64; OPERATIONS],
    /// Out: bytes of successful reads.
    pub read_bytes: u64,
    /// Out: bytes of successful writes.
    pub written_bytes: u64,
    /// Out: requests that a server failed.
    pub failed: u64,
    /// Out: requests that passed their deadline.
    pub expired: u64,
    /// Out: requests returned to the queue from a server that died or was late.
    pub requeued: u64,
    /// Out: commits refused with `ESTALE`.
    pub stale: u64,
    /// Out: wake-ups of sleeping threads.
    pub wakeups: u64,
    /// Out: calls of [`IOCTL_ENTER`] that slept.
    pub sleeps: u64,
    /// Out: flushes that a server carried out, but that failed because earlier writes were lost with a
    /// server's cache.
    pub lost_flushes: u64,
}

/// Argument of [`IOCTL_LATENCY`]. An accepted answer counts its request once in each histogram. Bucket 0
/// counts times below 1024 ns. Bucket n counts times from 2^(9 + n) to below 2^(10 + n) ns; the last bucket
/// also counts all longer times. Counts start at the creation of the device and wrap at 64 bits.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// Bytes of this argument.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// In: number of the queue.
    pub queue: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Out: time from the submission to the fetch by the server that answered.
    pub waiting: [u64; LATENCY_BUCKETS],
    /// Out: time from that fetch to the answer.
    pub serving: [u64; LATENCY_BUCKETS],
    /// Out: time from the submission to the answer.
    pub total: [u64; LATENCY_BUCKETS],
}

/// Argument of [`IOCTL_REQUESTS`]. The kernel makes the list in several steps; requests may come and go in
/// between.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Bytes of this argument.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// In: number of the queue.
    pub queue: u32,
    /// In: list only requests submitted at least this long ago, in milliseconds.
    pub age_ms: u32,
    /// Address of an array of [`Outstanding`].
    pub entries: u64,
    /// Entries that fit into the array.
    pub capacity: u32,
    /// Out: entries written, in the order of their tags.
    pub count: u32,
    /// Out: number of unanswered requests of that age.
    pub total: u32,
    /// Must be 0.
    pub reserved: u32,
}

/// An unanswered request, as [`IOCTL_REQUESTS`] lists it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outstanding {
    /// First byte on the device.
    pub offset: u64,
    /// Length in bytes; 0 for a flush.
    pub length: u64,
    /// Nanoseconds since the submission.
    pub age_ns: u64,
    /// Nanoseconds since the fetch; 0 if no server holds the request.
    pub held_ns: u64,
    /// One of the `OP_` numbers.
    pub op: u32,
    /// `REQUEST_FUA`, `REQUEST_NO_UNMAP`, `REQUEST_MAYBE_EXECUTED`.
    pub flags: u32,
    /// `OUTSTANDING_QUEUED`, `OUTSTANDING_HELD`, `OUTSTANDING_COPYING` or `OUTSTANDING_DOOMED`.
    pub state: u32,
    /// Tag: identifies the request among the unanswered requests of its queue.
    pub tag: u32,
    /// Epoch of the server that holds the request; 0 if none does.
    pub epoch: u32,
    /// Thread that fetched the request, in the initial PID namespace; 0 if no server holds the request.
    pub thread: u32,
}

/// Argument of [`IOCTL_BLOB`]. The kernel keeps the blob for the servers of a device, as long as the device
/// exists, and does not interpret it. A server may store there where its journal is, for example.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Bytes of this argument.
    pub size: u32,
    /// `BLOB_` flags.
    pub flags: u32,
    /// Used bytes of `bytes`, at most [`BLOB_BYTES`]: in with [`BLOB_WRITE`], otherwise out.
    pub length: u32,
    /// Must be 0.
    pub reserved: u32,
    /// The blob: `length` bytes, then zeros.
    pub bytes: [u8; BLOB_BYTES],
}

impl Default for Blob {
    fn default() -> Self {
        Self { size: 0, flags: 0, length: 0, reserved: 0, bytes: [0; BLOB_BYTES] }
    }
}

/// Argument of [`IOCTL_ENTER`].
///
/// First the kernel carries out the commits, each independently of the others. A refused commit gets its
/// `status` and leaves its request unchanged. Then the kernel fetches up to `capacity` requests from the
/// queue, and waits until there are `minimum`.
///
/// The call returns fewer than `minimum` requests when a commit was refused, when the time limit has passed,
/// or when a signal arrives after something was committed or fetched. The call fails only if it fetched
/// nothing: `EINTR` for a signal if it committed nothing either, `ENODEV` if the device is gone, `ESHUTDOWN`
/// if another server has taken over, and `EFAULT` if an array cannot be accessed. `processed` and `refused`
/// are valid even then, unless the argument itself cannot be written.
///
/// The elements of the two arrays state their sizes, too, so that both can grow. A size below that of the first
/// version fails with `EINVAL`, one above [`MAX_ELEMENT_BYTES`] with `E2BIG`.
///
/// The data of a write comes with it if there is room: either in an arena, where the data of several writes follow
/// each other, or in a buffer of its own. After the call the fetched requests name the memory that has their data; the
/// rest of the arena, and all buffers that no request names, have undefined contents.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enter {
    /// Bytes of this argument.
    pub size: u32,
    /// `ENTER_` flags.
    pub flags: u32,
    /// Address of an array of [`Commit`].
    pub commits: u64,
    /// Address of an array of [`Request`].
    pub requests: u64,
    /// Address of the arena: memory for the data of writes. 0: no arena; without buffers, the commit of a write says
    /// where its data goes.
    pub arena: u64,
    /// Bytes of the arena. A write that does not fit into the free rest comes without its data.
    pub arena_bytes: u64,
    /// Address of an array of [`Iovec`]: buffers for the data of one write each. A write gets the next unused buffer if
    /// its data fits. Otherwise it comes without its data, and the buffer stays unused.
    pub buffers: u64,
    /// Entries of `commits`, at most [`MAX_BATCH`].
    pub commit_count: u32,
    /// Bytes of one entry of `commits`. If the bytes of an entry that the kernel does not know are not zero, the
    /// kernel refuses that commit with -`E2BIG`.
    pub commit_bytes: u32,
    /// Entries of `requests`, at most [`MAX_BATCH`]; 0: fetch nothing.
    pub capacity: u32,
    /// Bytes of one entry of `requests`. The kernel zeroes the bytes that it does not know.
    pub request_bytes: u32,
    /// Entries of `buffers`, at most [`MAX_BATCH`]; 0 if there is an arena.
    pub buffer_count: u32,
    /// Queue to fetch from. The commits may belong to any queue.
    pub queue: u32,
    /// Requests to wait for, at most `capacity`; 0: do not wait.
    pub minimum: u32,
    /// Time to poll before sleeping, in microseconds, at most [`MAX_SPIN_US`].
    pub spin_us: u32,
    /// With [`ENTER_TIMEOUT`]: longest wait, in milliseconds.
    pub timeout_ms: u32,
    /// Out: number of `commits`, from the first on, that were carried out or refused.
    pub processed: u32,
    /// Out: number of commits that were refused.
    pub refused: u32,
    /// Out: number of requests fetched.
    pub fetched: u32,
}

impl Default for Enter {
    /// A call that does nothing, with the sizes of this version.
    fn default() -> Self {
        Self {
            size: ENTER_BYTES,
            flags: 0,
            commits: 0,
            requests: 0,
            arena: 0,
            arena_bytes: 0,
            buffers: 0,
            commit_count: 0,
            commit_bytes: COMMIT_BYTES,
            capacity: 0,
            request_bytes: REQUEST_BYTES,
            buffer_count: 0,
            queue: 0,
            minimum: 0,
            spin_us: 0,
            timeout_ms: 0,
            processed: 0,
            refused: 0,
            fetched: 0,
        }
    }
}

/// An answer to one request.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// Handle of the request.
    pub handle: u64,
    /// Number of bytes done, or a negative errno (-4095 to -1) to fail the request. A number below the length
    /// of the request fails the request, except for a read with [`COMMIT_ZERO_FILL`]. A flush uses 0.
    pub result: i64,
    /// Read: address of the data. Write: address to copy the data to, or 0 to copy nothing. Other operations:
    /// 0.
    pub address: u64,
    /// With [`COMMIT_IOVEC`]: number of entries in the array at `address`, 1 to [`MAX_IOVECS`]. Otherwise 0.
    pub iovec_count: u32,
    /// `COMMIT_` flags.
    pub flags: u32,
    /// In: 0. Out: written only if the commit is refused. -`ESTALE`: this server holds no request of that
    /// handle. -`EFAULT`: the memory cannot be accessed. -`EINVAL`: the commit does not suit the request.
    /// -`E2BIG`: the kernel does not know a part of the commit that is not zero.
    pub status: i32,
    /// Must be 0.
    pub reserved: u32,
}

/// A piece of memory for the data of a commit, or a buffer for the data of a write.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Iovec {
    /// Address.
    pub address: u64,
    /// Length in bytes.
    pub length: u64,
}

/// A request that ENTER fetched.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Identifies the request in commits until one commit is accepted. Servers do not interpret its bits.
    pub handle: u64,
    /// First byte on the device.
    pub offset: u64,
    /// Length in bytes; 0 for a flush.
    pub length: u64,
    /// With [`REQUEST_DATA`]: offset of the data in the arena, or number of the buffer that has it.
    pub data: u64,
    /// One of the `OP_` numbers.
    pub op: u32,
    /// `REQUEST_` flags.
    pub flags: u32,
    /// Queue of the request.
    pub queue: u32,
    /// Must be 0.
    pub reserved: u32,
}

const _: () = {
    use core::mem::{align_of, offset_of, size_of};
    assert!(size_of::<Info>() == INFO_BYTES as usize && align_of::<Info>() == 8);
    assert!(size_of::<Create>() == CREATE_BYTES as usize && align_of::<Create>() == 8);
    assert!(offset_of!(Create, size_bytes) == 72);
    assert!(offset_of!(Create, logical_block_size) == 80);
    assert!(offset_of!(Create, handle) == 132);
    assert!(size_of::<Attach>() == ATTACH_BYTES as usize);
    assert!(size_of::<Destroy>() == DESTROY_BYTES as usize);
    assert!(size_of::<List>() == LIST_BYTES as usize);
    assert!(size_of::<ListEntry>() == 40);
    assert!(size_of::<Status>() == STATUS_BYTES as usize);
    assert!(offset_of!(Status, size_bytes) == 72);
    assert!(offset_of!(Status, minor) == 164);
    assert!(offset_of!(Status, pid) == STATUS_FIRST_BYTES as usize);
    assert!(offset_of!(Status, program) == 192);
    assert!(size_of::<Settings>() == SETTINGS_BYTES as usize);
    assert!(offset_of!(Settings, deadline_ms) == 48);
    assert!(size_of::<Start>() == START_BYTES as usize);
    assert!(size_of::<Claim>() == CLAIM_BYTES as usize);
    assert!(size_of::<Resize>() == RESIZE_BYTES as usize);
    assert!(size_of::<Stats>() == STATS_BYTES as usize);
    assert!(offset_of!(Stats, fetched) == 24);
    assert!(offset_of!(Create, deadline_policy) == 136);
    assert!(size_of::<Latency>() == LATENCY_BYTES as usize);
    assert!(offset_of!(Latency, waiting) == 16);
    assert!(size_of::<Requests>() == REQUESTS_BYTES as usize);
    assert!(size_of::<Outstanding>() == 56);
    assert!(size_of::<Blob>() == BLOB_ARGUMENT_BYTES as usize);
    assert!(size_of::<Enter>() == ENTER_BYTES as usize);
    assert!(offset_of!(Enter, commit_count) == 48);
    assert!(offset_of!(Enter, processed) == 84);
    assert!(size_of::<Commit>() == COMMIT_BYTES as usize);
    assert!(offset_of!(Commit, status) == 32);
    assert!(size_of::<Iovec>() == 16);
    assert!(size_of::<Request>() == REQUEST_BYTES as usize);
    assert!(offset_of!(Request, op) == 32);
};
