// SPDX-License-Identifier: MIT OR Apache-2.0
//! Interface version 2: all operations, many queues, and one call that answers and fetches in batches.
//!
//! Calls are made on the control node or on a *server descriptor*, which `IOCTL_CREATE` and `IOCTL_ATTACH`
//! return as the result of the ioctl. Holding it is the right to serve the device; it can be polled and
//! passed to other processes, and its last close is the server's death.
//!
//! Every argument begins with its own size in bytes. A size below the first version's is `EINVAL`. The
//! kernel takes a longer argument whose unknown tail is zero; any other tail is `E2BIG`. The size part of
//! an ioctl number is that of the first version, whatever the argument's size is. Unknown flags, and
//! reserved fields that are not zero, are `EINVAL`. Layouts are the same for 32-bit and 64-bit callers:
//! addresses are 64-bit integers.
//!
//! Offsets and lengths are in bytes. Errors are negative errno values.

/// Bytes of a name field; names are at most [`MAX_NAME_BYTES`] long, and the rest is NUL.
pub const NAME_BYTES: usize = 32;
/// Longest name: the disk is called `zosbd2!NAME` in 31 bytes.
pub const MAX_NAME_BYTES: usize = 24;
/// Bytes of a serial number field, NUL padded.
pub const SERIAL_BYTES: usize = 32;
/// Folder of the block nodes.
pub const NODE_FOLDER: &str = "/dev/zosbd2";

/// Smallest logical block, in bytes; also the granularity of sizes and offsets.
pub const MIN_BLOCK_SIZE: u32 = 512;
/// Largest logical block, in bytes, on kernels whose page is 4096 bytes; `Info` has the actual one.
pub const MAX_BLOCK_SIZE: u32 = 4096;
/// Largest physical block, minimum and optimal I/O size, in bytes.
pub const MAX_PHYSICAL_BLOCK_SIZE: u32 = 268_435_456;
/// Largest device, in bytes (8 EiB less one MiB: offsets stay positive).
pub const MAX_SIZE_BYTES: u64 = 9_223_372_036_853_727_232;
/// Most data of one request, in bytes (32 MiB).
pub const MAX_IO_BYTES: u32 = 33_554_432;
/// What `max_io_bytes` 0 means, in bytes (4 MiB).
pub const DEFAULT_IO_BYTES: u32 = 4_194_304;
/// Most requests of one queue.
pub const MAX_DEPTH: u32 = 1024;
/// What `depth` 0 means.
pub const DEFAULT_DEPTH: u32 = 128;
/// Most tags of one device: the depth, rounded up to a power of two, times the queues.
pub const MAX_TAGS: u32 = 65536;
/// Most entries of each array of one [`Enter`].
pub const MAX_BATCH: u32 = 1024;
/// Most pieces of one commit's data.
pub const MAX_IOVECS: u32 = 1024;
/// Longest deadline and grace, in milliseconds (one day).
pub const MAX_MILLISECONDS: u32 = 86_400_000;
/// Longest spin before sleeping, in microseconds.
pub const MAX_SPIN_US: u32 = 10_000;

/// Reads data: the commit brings it.
pub const OP_READ: u32 = 0;
/// Writes data.
pub const OP_WRITE: u32 = 1;
/// The range's contents are not needed any more; what reads give afterwards is up to the server.
pub const OP_DISCARD: u32 = 2;
/// Every write that was committed before this was fetched must be durable before it is committed.
pub const OP_FLUSH: u32 = 3;
/// The range reads as zeros afterwards.
pub const OP_WRITE_ZEROES: u32 = 4;
/// The range's contents must not be recoverable afterwards.
pub const OP_SECURE_ERASE: u32 = 5;
/// Number of operations.
pub const OPERATIONS: usize = 6;
/// Number of buckets of each histogram of [`Latency`].
pub const LATENCY_BUCKETS: usize = 32;

/// Writes are refused.
pub const CREATE_READ_ONLY: u32 = 1;
/// The device is advertised as rotational.
pub const CREATE_ROTATIONAL: u32 = 2;
/// A committed write may be lost until a flush is committed: flushes are sent.
pub const CREATE_VOLATILE_CACHE: u32 = 4;
/// Writes may carry [`REQUEST_FUA`]; only together with [`CREATE_VOLATILE_CACHE`]. Without it the kernel
/// sends a flush after such a write.
pub const CREATE_FUA: u32 = 8;
/// Partitions are not looked for when the device starts. They can be asked for (`BLKRRPART`).
pub const CREATE_NO_PARTITION_SCAN: u32 = 16;
/// When the grace is over the device goes. Without it the device stays and fails all I/O until a server
/// attaches.
pub const CREATE_AUTO_DESTROY: u32 = 32;
/// All flags of [`Create`].
pub const CREATE_FLAGS: u32 = 63;

/// A request that passes its deadline fails with `EIO`. For [`Create::deadline_policy`].
pub const DEADLINE_FAIL: u32 = 0;
/// A request that passes its deadline while a server has it goes back into the queue, marked as maybe executed,
/// for another thread or server. It never fails for being late.
pub const DEADLINE_REQUEUE: u32 = 1;
/// When a request passes its deadline the server that has it, or lets it wait, counts as dead: the device does
/// what it does when a server's descriptor is closed.
pub const DEADLINE_DECLARE_DEAD: u32 = 2;

/// Become the server although there is one: it gets no more requests, but may commit those it has.
pub const ATTACH_TAKE_OVER: u32 = 1;
/// The volatile cache of the server before this one survived, and this one has it. Without it the next flush fails,
/// once, if that server had committed writes that no flush had covered.
pub const ATTACH_CACHE_SURVIVED: u32 = 2;
/// Only look: the descriptor is of no server. STATUS, STATS, LATENCY, REQUESTS and the reading of BLOB work with it;
/// any other call is `EPERM`. No other flag may be set; devices of version 1 can be looked at, too.
pub const ATTACH_OBSERVE: u32 = 4;
/// All flags of [`Attach`].
pub const ATTACH_FLAGS: u32 = 7;

/// Destroy whoever has the device open.
pub const DESTROY_FORCE: u32 = 1;
/// All flags of [`Destroy`].
pub const DESTROY_FLAGS: u32 = 1;

/// The write must be durable when it is committed.
pub const REQUEST_FUA: u32 = 1;
/// The range of a write-zeroes must stay allocated.
pub const REQUEST_NO_UNMAP: u32 = 2;
/// An earlier server had this request and may have executed it.
pub const REQUEST_MAYBE_EXECUTED: u32 = 4;
/// The data of this write is in the arena, at [`Request::data`].
pub const REQUEST_DATA: u32 = 8;

/// `address` is that of an array of `iovec_count` [`Iovec`], not of the data.
pub const COMMIT_IOVEC: u32 = 1;
/// A read that brings fewer bytes than asked for: the rest is zeros. Without it the read fails.
pub const COMMIT_ZERO_FILL: u32 = 2;
/// Only copy the data of a write to `address`; the request stays with the server. `result` is the room
/// there, in bytes: at least the request's length.
pub const COMMIT_COPY_ONLY: u32 = 4;
/// All flags of [`Commit`].
pub const COMMIT_FLAGS: u32 = 7;

/// `timeout_ms` is valid: do not wait longer for `minimum` requests.
pub const ENTER_TIMEOUT: u32 = 1;
/// All flags of [`Enter`].
pub const ENTER_FLAGS: u32 = 1;

/// Replace what is kept by what the argument has.
pub const BLOB_WRITE: u32 = 1;
/// All flags of [`Blob`].
pub const BLOB_FLAGS: u32 = 1;
/// Most bytes that are kept for the servers of a device.
pub const BLOB_BYTES: usize = 256;

/// Waits for a server.
pub const OUTSTANDING_QUEUED: u32 = 1;
/// A server has it.
pub const OUTSTANDING_HELD: u32 = 2;
/// A server has it, and its data is being copied.
pub const OUTSTANDING_COPYING: u32 = 3;
/// It has failed, and ends when the copy of its data does.
pub const OUTSTANDING_DOOMED: u32 = 4;

/// Made, but not started: there is no block node yet.
pub const STATE_CREATED: u32 = 0;
/// A server is attached.
pub const STATE_LIVE: u32 = 1;
/// No server is attached; I/O waits for one, as long as the grace lasts.
pub const STATE_ORPHANED: u32 = 2;
/// No server is attached and the grace is over: all I/O fails until one attaches.
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
pub const DESTROY_BYTES: u32 = 40;
/// Bytes of [`List`].
pub const LIST_BYTES: u32 = 32;
/// Bytes of [`Status`].
pub const STATUS_BYTES: u32 = 176;
/// Bytes of [`Start`].
pub const START_BYTES: u32 = 8;
/// Bytes of [`Resize`].
pub const RESIZE_BYTES: u32 = 16;
/// Bytes of [`Stats`].
pub const STATS_BYTES: u32 = 192;
/// Bytes of [`Enter`].
pub const ENTER_BYTES: u32 = 80;
/// Bytes of [`Latency`].
pub const LATENCY_BYTES: u32 = 784;
/// Bytes of [`Requests`].
pub const REQUESTS_BYTES: u32 = 40;
/// Bytes of [`Blob`].
pub const BLOB_ARGUMENT_BYTES: u32 = 272;

/// Type of all numbers below. Each is direction (read and write) << 30 | size << 16 | type << 8 | number.
pub const IOCTL_TYPE: u32 = 0xbd;
/// Control node: what the module can do ([`Info`], in and out).
pub const IOCTL_INFO: u32 = (3 << 30) | (INFO_BYTES << 16) | (IOCTL_TYPE << 8);
/// Control node: make a device ([`Create`], in and out); returns its server descriptor.
pub const IOCTL_CREATE: u32 = (3 << 30) | (CREATE_BYTES << 16) | (IOCTL_TYPE << 8) | 1;
/// Control node: become the server of a device ([`Attach`], in and out); returns a server descriptor.
pub const IOCTL_ATTACH: u32 = (3 << 30) | (ATTACH_BYTES << 16) | (IOCTL_TYPE << 8) | 2;
/// Control node: destroy a device and wait until it is gone ([`Destroy`], in).
pub const IOCTL_DESTROY: u32 = (3 << 30) | (DESTROY_BYTES << 16) | (IOCTL_TYPE << 8) | 3;
/// Control node: list the devices of both versions ([`List`], in and out).
pub const IOCTL_LIST: u32 = (3 << 30) | (LIST_BYTES << 16) | (IOCTL_TYPE << 8) | 4;
/// Control node: what a device is and how it is ([`Status`], in and out), by name. Server descriptor: the
/// same of its own device; the name must be empty or that of the device.
pub const IOCTL_STATUS: u32 = (3 << 30) | (STATUS_BYTES << 16) | (IOCTL_TYPE << 8) | 5;
/// Server descriptor: make the block node ([`Start`], in). May be called by the only serving thread.
pub const IOCTL_START: u32 = (3 << 30) | (START_BYTES << 16) | (IOCTL_TYPE << 8) | 0x10;
/// Server descriptor: change the size ([`Resize`], in).
pub const IOCTL_RESIZE: u32 = (3 << 30) | (RESIZE_BYTES << 16) | (IOCTL_TYPE << 8) | 0x11;
/// Server descriptor: the counters of one queue ([`Stats`], in and out).
pub const IOCTL_STATS: u32 = (3 << 30) | (STATS_BYTES << 16) | (IOCTL_TYPE << 8) | 0x12;
/// Server descriptor: answer requests, move their data, fetch more ([`Enter`], in and out).
pub const IOCTL_ENTER: u32 = (3 << 30) | (ENTER_BYTES << 16) | (IOCTL_TYPE << 8) | 0x13;
/// Server descriptor: how long the requests of one queue took ([`Latency`], in and out).
pub const IOCTL_LATENCY: u32 = (3 << 30) | (LATENCY_BYTES << 16) | (IOCTL_TYPE << 8) | 0x14;
/// Server descriptor: the requests of one queue that are not answered ([`Requests`], in and out).
pub const IOCTL_REQUESTS: u32 = (3 << 30) | (REQUESTS_BYTES << 16) | (IOCTL_TYPE << 8) | 0x15;
/// Server descriptor: read or replace what is kept for the device's servers ([`Blob`], in and out).
pub const IOCTL_BLOB: u32 = (3 << 30) | (BLOB_ARGUMENT_BYTES << 16) | (IOCTL_TYPE << 8) | 0x16;

/// Argument of [`IOCTL_INFO`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Bytes of this argument.
    pub size: u32,
    /// 0.
    pub flags: u32,
    /// Out: highest version of the interface that the module speaks.
    pub version: u32,
    /// Out: devices that can exist at once.
    pub max_devices: u32,
    /// Out: optional features; bit numbers are assigned as features come, none is yet.
    pub features: u64,
    /// Out: bit n is set if operation number n is known.
    pub operations: u64,
    /// Out: most queues of a device: the number of CPUs.
    pub max_queues: u32,
    /// Out: most requests of a queue.
    pub max_depth: u32,
    /// Out: largest logical block, in bytes.
    pub max_block_size: u32,
    /// Out: most data of a request, in bytes.
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
    /// Name: letters, digits, `.`, `_`, `-`, `+` and `:`, beginning with a letter or digit, NUL padded.
    pub name: [u8; NAME_BYTES],
    /// Serial number, visible in sysfs; printable ASCII, NUL padded, at most one byte less than the field.
    pub serial: [u8; SERIAL_BYTES],
    /// Size, a multiple of the logical block, at least one, at most [`MAX_SIZE_BYTES`].
    pub size_bytes: u64,
    /// Logical block size, a power of two, [`MIN_BLOCK_SIZE`] to the page size; 0 means 512.
    pub logical_block_size: u32,
    /// Physical block size, a power of two and at least the logical one; 0 means the logical one.
    pub physical_block_size: u32,
    /// Smallest I/O that does not cost extra, a multiple of the physical block; 0 means one such block.
    pub io_min: u32,
    /// Best size of I/O, a multiple of `io_min`; 0 means that there is none.
    pub io_opt: u32,
    /// Most data of a request, a multiple of the logical block, at least a page; 0 means
    /// [`DEFAULT_IO_BYTES`].
    pub max_io_bytes: u32,
    /// Number of queues, 1 to the number of CPUs; 0 means 1.
    pub queues: u32,
    /// Requests of each queue, 1 to [`MAX_DEPTH`]; 0 means [`DEFAULT_DEPTH`].
    pub depth: u32,
    /// Discards are best made in multiples of this, a power of two; 0 means the physical block.
    pub discard_granularity: u32,
    /// Longest discard, a multiple of the logical block; 0: not supported.
    pub max_discard_bytes: u32,
    /// Longest write-zeroes, a multiple of the logical block; 0: not supported, the kernel writes zeros.
    pub max_write_zeroes_bytes: u32,
    /// Longest secure erase, a multiple of the logical block; 0: not supported.
    pub max_secure_erase_bytes: u32,
    /// `deadline_policy` is for requests that are not committed so long after they came, in milliseconds; 0: none is.
    pub deadline_ms: u32,
    /// How long I/O waits for another server when the last one is gone, in milliseconds; 0: it fails.
    pub grace_ms: u32,
    /// Out: number of the device.
    pub handle: u32,
    /// What happens to a request that passes its deadline: one of the `DEADLINE_` numbers.
    pub deadline_policy: u32,
    /// 0.
    pub reserved: u32,
}

/// Argument of [`IOCTL_ATTACH`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attach {
    /// Bytes of this argument.
    pub size: u32,
    /// `ATTACH_` flags.
    pub flags: u32,
    /// Name of the device.
    pub name: [u8; NAME_BYTES],
    /// Out: number of the device.
    pub handle: u32,
    /// Out: which server of the device this is: 1 for the one that made it.
    pub epoch: u32,
}

/// Argument of [`IOCTL_DESTROY`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Destroy {
    /// Bytes of this argument.
    pub size: u32,
    /// `DESTROY_` flags. Without force the call is `EBUSY` while anybody has the block node open.
    pub flags: u32,
    /// Name of the device.
    pub name: [u8; NAME_BYTES],
}

/// Argument of [`IOCTL_LIST`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// Bytes of this argument.
    pub size: u32,
    /// 0.
    pub flags: u32,
    /// Address of an array of [`ListEntry`].
    pub entries: u64,
    /// Entries that fit there.
    pub capacity: u32,
    /// Out: entries written, in the order of creation.
    pub count: u32,
    /// Out: devices there are.
    pub total: u32,
    /// 0.
    pub reserved: u32,
}

/// One device in a [`List`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListEntry {
    /// Number of the device.
    pub handle: u32,
    /// Version of the interface that serves it: 1 or 2.
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
    /// 0.
    pub flags: u32,
    /// In: name of the device. Out: the same.
    pub name: [u8; NAME_BYTES],
    /// Out: as created.
    pub serial: [u8; SERIAL_BYTES],
    /// Out: present size.
    pub size_bytes: u64,
    /// Out: as created, or what 0 meant; the same holds for the following.
    pub logical_block_size: u32,
    /// Out.
    pub physical_block_size: u32,
    /// Out.
    pub io_min: u32,
    /// Out.
    pub io_opt: u32,
    /// Out.
    pub max_io_bytes: u32,
    /// Out.
    pub queues: u32,
    /// Out.
    pub depth: u32,
    /// Out.
    pub discard_granularity: u32,
    /// Out.
    pub max_discard_bytes: u32,
    /// Out.
    pub max_write_zeroes_bytes: u32,
    /// Out.
    pub max_secure_erase_bytes: u32,
    /// Out.
    pub deadline_ms: u32,
    /// Out.
    pub grace_ms: u32,
    /// Out: number of the device.
    pub handle: u32,
    /// Out: `CREATE_` flags.
    pub create_flags: u32,
    /// Out: one of the `STATE_` numbers.
    pub state: u32,
    /// Out: the server that gets requests now or got them last; 0 if none ever did (version 1).
    pub epoch: u32,
    /// Out: server descriptors that are open, whether they get requests or not.
    pub servers: u32,
    /// Out: user whose process made the device.
    pub owner_uid: u32,
    /// Out: version of the interface that serves it: 1 or 2.
    pub version: u32,
    /// Out: device number of the block node; 0 and 0 before it is started.
    pub major: u32,
    /// Out: see `major`.
    pub minor: u32,
    /// Out: as created.
    pub deadline_policy: u32,
    /// Out: 1 if the next flush will fail because answered writes were lost with a server's cache, else 0.
    pub lost: u32,
}

/// Argument of [`IOCTL_START`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// Bytes of this argument.
    pub size: u32,
    /// 0.
    pub flags: u32,
}

/// Argument of [`IOCTL_RESIZE`]. Requests that came before may reach behind the new end.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resize {
    /// Bytes of this argument.
    pub size: u32,
    /// 0.
    pub flags: u32,
    /// New size, as in [`Create`].
    pub size_bytes: u64,
}

/// Argument of [`IOCTL_STATS`]. Counters go up from the making of the device and wrap at 64 bits.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of this argument.
    pub size: u32,
    /// 0.
    pub flags: u32,
    /// In: which queue.
    pub queue: u32,
    /// Out: requests that wait for a server.
    pub queued: u32,
    /// Out: requests that a server has.
    pub held: u32,
    /// Out: threads that wait for requests.
    pub waiting: u32,
    /// Out: requests of each operation that were fetched.
    pub fetched: [u64; OPERATIONS],
    /// Out: requests of each operation that ended well.
    pub committed: [u64; OPERATIONS],
    /// Out: bytes that reads brought.
    pub read_bytes: u64,
    /// Out: bytes that writes took.
    pub written_bytes: u64,
    /// Out: requests that a server failed.
    pub failed: u64,
    /// Out: requests that passed their deadline.
    pub expired: u64,
    /// Out: requests taken back from servers that died.
    pub requeued: u64,
    /// Out: commits that named no request of the server's.
    pub stale: u64,
    /// Out: threads woken.
    pub wakeups: u64,
    /// Out: calls of [`IOCTL_ENTER`] that slept.
    pub sleeps: u64,
    /// Out: flushes that a server carried out, and that failed because writes before them were lost with a server's
    /// cache.
    pub lost_flushes: u64,
}

/// Argument of [`IOCTL_LATENCY`]. Requests are counted when an answer is accepted, in each histogram: bucket 0 has
/// those below 1024 ns, bucket n those from 2^(9 + n) to below 2^(10 + n) ns, the last one all others, too.
/// Counts go up from the making of the device and wrap at 64 bits.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// Bytes of this argument.
    pub size: u32,
    /// 0.
    pub flags: u32,
    /// In: which queue.
    pub queue: u32,
    /// 0.
    pub reserved: u32,
    /// Out: from the submission to the fetch by the server that answered.
    pub waiting: [u64; LATENCY_BUCKETS],
    /// Out: from that fetch to the answer.
    pub serving: [u64; LATENCY_BUCKETS],
    /// Out: from the submission to the answer.
    pub total: [u64; LATENCY_BUCKETS],
}

/// Argument of [`IOCTL_REQUESTS`]. The list is made in several steps, between which requests come and go.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Bytes of this argument.
    pub size: u32,
    /// 0.
    pub flags: u32,
    /// In: which queue.
    pub queue: u32,
    /// In: only requests that came at least so long ago, in milliseconds.
    pub age_ms: u32,
    /// Address of an array of [`Outstanding`].
    pub entries: u64,
    /// Entries that fit there.
    pub capacity: u32,
    /// Out: entries written, in the order of their tags.
    pub count: u32,
    /// Out: requests of that age there are.
    pub total: u32,
    /// 0.
    pub reserved: u32,
}

/// A request that is not answered.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outstanding {
    /// First byte on the device.
    pub offset: u64,
    /// Length in bytes; 0 for a flush.
    pub length: u64,
    /// Nanoseconds since it came.
    pub age_ns: u64,
    /// Nanoseconds since the server got it; 0 if none has it.
    pub held_ns: u64,
    /// One of the `OP_` numbers.
    pub op: u32,
    /// `REQUEST_FUA`, `REQUEST_NO_UNMAP`, `REQUEST_MAYBE_EXECUTED`.
    pub flags: u32,
    /// `OUTSTANDING_QUEUED`, `OUTSTANDING_HELD`, `OUTSTANDING_COPYING` or `OUTSTANDING_DOOMED`.
    pub state: u32,
    /// Its tag: one request of a queue has it at a time.
    pub tag: u32,
    /// The server that has it; 0 if none has.
    pub epoch: u32,
    /// The thread that fetched it, as the first pid namespace numbers it; 0 if no server has it.
    pub thread: u32,
}

/// Argument of [`IOCTL_BLOB`]: bytes that the kernel keeps for the servers of a device, as long as the device is
/// there. They mean nothing to it; an example is where a server has its journal.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Bytes of this argument.
    pub size: u32,
    /// `BLOB_` flags.
    pub flags: u32,
    /// Bytes of `bytes` that count: at most [`BLOB_BYTES`]. In with [`BLOB_WRITE`], otherwise out.
    pub length: u32,
    /// 0.
    pub reserved: u32,
    /// The bytes, as `length`; those behind are 0.
    pub bytes: [u8; BLOB_BYTES],
}

impl Default for Blob {
    fn default() -> Self {
        Self { size: 0, flags: 0, length: 0, reserved: 0, bytes: [0; BLOB_BYTES] }
    }
}

/// Argument of [`IOCTL_ENTER`].
///
/// First every commit is carried out, each for itself: an entry that is refused has its `status` set and
/// leaves its request as it was. Then up to `capacity` requests are fetched from the queue, waiting until
/// there are `minimum`.
///
/// The call ends with fewer than `minimum` when a commit was refused, the time limit passes, or a signal
/// comes after something was committed or fetched. It fails only when nothing was fetched: `EINTR` for a signal when nothing was
/// committed either, `ENODEV` when the device is gone, `ESHUTDOWN` when another server has taken over, and
/// `EFAULT` when an array cannot be used. `processed` and `refused` are valid even then, unless the
/// argument itself cannot be written.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enter {
    /// Bytes of this argument.
    pub size: u32,
    /// `ENTER_` flags.
    pub flags: u32,
    /// Address of an array of [`Commit`].
    pub commits: u64,
    /// Address of an array of [`Request`].
    pub requests: u64,
    /// Address of memory for the data of writes; 0: none, and commits name where their data goes.
    pub arena: u64,
    /// Bytes there. A write that does not fit the rest comes without its data.
    pub arena_bytes: u64,
    /// Entries of `commits`, at most [`MAX_BATCH`].
    pub commit_count: u32,
    /// Entries of `requests`, at most [`MAX_BATCH`]; 0: fetch nothing.
    pub capacity: u32,
    /// Queue to fetch from. Commits may be of any queue.
    pub queue: u32,
    /// Requests to wait for, at most `capacity`; 0: do not wait.
    pub minimum: u32,
    /// Time to look for requests before sleeping, in microseconds, at most [`MAX_SPIN_US`].
    pub spin_us: u32,
    /// With [`ENTER_TIMEOUT`]: longest wait, in milliseconds.
    pub timeout_ms: u32,
    /// Out: entries of `commits` that were carried out or refused, from the first on.
    pub processed: u32,
    /// Out: those that were refused.
    pub refused: u32,
    /// Out: requests fetched.
    pub fetched: u32,
    /// 0.
    pub reserved: u32,
}

/// An answer to a request.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// The request's handle.
    pub handle: u64,
    /// Bytes done, or a negative errno (-4095 to -1), which fails the request. All operations but a read
    /// with [`COMMIT_ZERO_FILL`] fail if it is less than the request's length; 0 is right for a flush.
    pub result: i64,
    /// Read: where the data is. Write: where the data goes, or 0 if it was taken already. Otherwise 0.
    pub address: u64,
    /// With [`COMMIT_IOVEC`]: entries of the array at `address`, 1 to [`MAX_IOVECS`]. Otherwise 0.
    pub iovec_count: u32,
    /// `COMMIT_` flags.
    pub flags: u32,
    /// In: 0. Out, written only when the entry is refused: -`ESTALE` when the handle names no request of this server's,
    /// -`EFAULT` when the memory cannot be used, -`EINVAL` when the entry makes no sense for the request.
    pub status: i32,
    /// 0.
    pub reserved: u32,
}

/// A piece of a commit's data.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Iovec {
    /// Address.
    pub address: u64,
    /// Bytes there.
    pub length: u64,
}

/// A request for the server.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Names the request in commits, until one is accepted. Its bits mean nothing to servers.
    pub handle: u64,
    /// First byte on the device.
    pub offset: u64,
    /// Length in bytes; 0 for a flush.
    pub length: u64,
    /// With [`REQUEST_DATA`]: where in the arena the data is.
    pub data: u64,
    /// One of the `OP_` numbers.
    pub op: u32,
    /// `REQUEST_` flags.
    pub flags: u32,
    /// Queue it came from.
    pub queue: u32,
    /// 0.
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
    assert!(size_of::<Start>() == START_BYTES as usize);
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
    assert!(offset_of!(Enter, commit_count) == 40);
    assert!(offset_of!(Enter, processed) == 64);
    assert!(size_of::<Commit>() == 40);
    assert!(offset_of!(Commit, status) == 32);
    assert!(size_of::<Iovec>() == 16);
    assert!(size_of::<Request>() == 48);
    assert!(offset_of!(Request, op) == 32);
};
