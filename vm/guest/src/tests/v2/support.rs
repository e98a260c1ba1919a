// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices, servers and backends for the tests of version 2.
//!
//! A [`Disk`] is a device created by the test. [`Disk::destroy`] destroys it, or the end of its server; dropping
//! it does not, because the harness cleans up after a failed test.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use zosbd2::v2::abi;
use zosbd2::{
    Answers, Backend, Batch, Builder, Capabilities, Control, End, Entered, Errno, Error, Fetch, Fetched,
    MemoryLock, Region, ServeOptions, Server, StopToken, TakeOver, Zero,
};
use zosbd2_backends::{FileOptions, Null, Ram};

use super::super::support::open_direct;
use super::owned::{NullRequests, serve_in_tokio};
use crate::guest::wait_until;

/// Every call of version 2 on the control node.
pub(crate) const CONTROL_CALLS: [u32; 7] = [
    abi::IOCTL_INFO,
    abi::IOCTL_CREATE,
    abi::IOCTL_ATTACH,
    abi::IOCTL_DESTROY,
    abi::IOCTL_LIST,
    abi::IOCTL_STATUS,
    abi::IOCTL_SETTINGS,
];

/// Every call on a server descriptor.
pub(crate) const SERVER_CALLS: [u32; 11] = [
    abi::IOCTL_START,
    abi::IOCTL_RESIZE,
    abi::IOCTL_CLAIM,
    abi::IOCTL_STATS,
    abi::IOCTL_ENTER,
    abi::IOCTL_STATUS,
    abi::IOCTL_ATTACH,
    abi::IOCTL_LATENCY,
    abi::IOCTL_REQUESTS,
    abi::IOCTL_BLOB,
    abi::IOCTL_SETTINGS,
];

/// The processors whose submissions go to this queue. The kernel assigns them, in 7.3 in another order than before.
pub(crate) fn processors_of(disk: &str, queue: u32) -> Vec<usize> {
    let list = crate::guest::read_trimmed(&format!("/sys/block/zosbd2-{disk}/mq/{queue}/cpu_list"));
    list.split(", ").map(|number| number.parse().expect("the number of a processor")).collect()
}

/// A device that the test created.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) server: Arc<Server>,
    pub(crate) name: String,
}

/// Serving threads.
pub(crate) type Serving = JoinHandle<zosbd2::Result<End>>;

impl Disk {
    pub(crate) fn create(builder: &Builder) -> Self {
        let server = control().create(builder).expect("create");
        Self { server: Arc::new(server), name: builder.name().to_owned() }
    }

    /// Creates the device and serves it with threads of this process; returns when the node exists.
    pub(crate) fn serve<B: Backend + Send + 'static>(
        builder: &Builder,
        backend: &Arc<B>,
        options: ServeOptions,
    ) -> (Self, Serving) {
        let disk = Self::create(&builder.clone().for_backend(&**backend));
        let serving = disk.serve_with(backend, options);
        (disk, serving)
    }

    pub(crate) fn serve_with<B: Backend + Send + 'static>(
        &self,
        backend: &Arc<B>,
        options: ServeOptions,
    ) -> Serving {
        let (ready, is_ready) = mpsc::channel();
        let (server, backend) = (Arc::clone(&self.server), Arc::clone(backend));
        let serving = std::thread::spawn(move || {
            server.serve_then(&*backend, &options, &StopToken::new(), || ready.send(()).expect("listened to"))
        });
        is_ready.recv_timeout(Duration::from_secs(60)).expect("the device to be ready");
        serving
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.server.path()
    }

    pub(crate) fn sysfs(&self) -> PathBuf {
        Path::new("/sys/block").join(format!("zosbd2-{}", self.name))
    }

    /// A processor whose submissions go to this queue.
    pub(crate) fn processor_of(&self, queue: u32) -> usize {
        processors_of(&self.name, queue)[0]
    }

    /// Waits for a partition of a disk that has just started. The partition's node appears some time before the partition
    /// can be opened (ENXIO until then) and before the block class knows it. An open of the disk waits for the scan.
    pub(crate) fn wait_for_partition(&self, node: &str) {
        wait_until(60, "the partition", || Path::new(node).exists());
        drop(open_direct(&self.path()));
    }

    /// A setting of the queue.
    pub(crate) fn setting(&self, name: &str) -> String {
        let path = self.sysfs().join(name);
        let text = std::fs::read_to_string(&path);
        text.unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
    }

    pub(crate) fn destroy(&self, force: bool) {
        control().destroy(&*self.server, force).expect("destroy");
    }

    /// Destroys the device and checks how its server ended.
    pub(crate) fn destroy_and_join(&self, serving: Serving) {
        self.destroy(true);
        assert_eq!(join(serving), End::Gone);
        assert!(!self.path().exists(), "the node is still there");
    }
}

/// A started device, to be served by hand. The block layer does not merge I/O, so each I/O is a request of its
/// own.
pub(crate) fn by_hand(builder: &Builder) -> (Disk, Manual) {
    let disk = Disk::create(builder);
    disk.server.start().expect("start");
    std::fs::write(disk.sysfs().join("queue/nomerges"), "2").expect("switch merging off");
    let manual = Manual::new(&disk);
    (disk, manual)
}

/// A device of 16 MiB without partition scan.
pub(crate) fn plain(name: &str) -> Builder {
    Builder::new(name).size_bytes(16 << 20).partition_scan(false)
}

/// The same, started, to be served by hand.
pub(crate) fn plain_by_hand(name: &str) -> (Disk, Manual) {
    by_hand(&plain(name))
}

/// Attaches to a device, to serve it by hand.
pub(crate) fn attach(name: &str, take_over: TakeOver) -> (Disk, Manual) {
    let server = control().attach(name, take_over).expect("attach");
    let disk = Disk { server: Arc::new(server), name: name.to_owned() };
    let manual = Manual::new(&disk);
    (disk, manual)
}

/// The kernel's error.
#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(result: zosbd2::Result<T>) -> Errno {
    match result {
        Err(Error::Control { source, .. }) => source,
        other => panic!("not refused by the kernel: {other:?}"),
    }
}

pub(crate) fn control() -> Control {
    Control::open().expect("open the control node")
}

/// Waits for the end of a server.
pub(crate) fn join(serving: Serving) -> End {
    serving.join().expect("the server panicked").expect("the server failed")
}

/// Options with this many threads per queue.
pub(crate) fn threads(threads: usize) -> ServeOptions {
    ServeOptions::default().threads_per_queue(threads)
}

/// A call that a recording backend saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Read(u64, u64),
    Write { offset: u64, length: u64, fua: bool },
    Flush,
    Discard(u64, u64),
    WriteZeroes { offset: u64, length: u64, unmap: bool, fua: bool },
    SecureErase(u64, u64),
}

/// A RAM disk that records its calls, and has the given capabilities.
#[derive(Debug)]
pub(crate) struct Recorder {
    ram: Ram,
    capabilities: Capabilities,
    seen: Mutex<Vec<Seen>>,
}

impl Recorder {
    pub(crate) fn new(bytes: u64, change: impl FnOnce(&mut Capabilities)) -> Arc<Self> {
        let mut capabilities = Capabilities::default().write_through(true);
        change(&mut capabilities);
        Arc::new(Self { ram: Ram::new(bytes).expect("memory"), capabilities, seen: Mutex::default() })
    }

    fn list(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The calls since the last `take`.
    pub(crate) fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.list())
    }

    /// Like [`take`](Self::take), without reads, which the kernel does at any time.
    pub(crate) fn take_changes(&self) -> Vec<Seen> {
        self.take().into_iter().filter(|seen| !matches!(seen, Seen::Read(..))).collect()
    }
}

impl Backend for Recorder {
    fn size(&self) -> u64 {
        self.ram.size()
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.list().push(Seen::Read(offset, buffer.len() as u64));
        self.ram.read(offset, buffer)
    }

    fn write(&self, offset: u64, data: &mut [u8], fua: bool) -> Result<(), Errno> {
        self.list().push(Seen::Write { offset, length: data.len() as u64, fua });
        self.ram.write(offset, data, fua)
    }

    fn flush(&self) -> Result<(), Errno> {
        self.list().push(Seen::Flush);
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), Errno> {
        self.list().push(Seen::Discard(offset, length));
        self.ram.discard(offset, length)
    }

    fn write_zeroes(&self, offset: u64, length: u64, zero: Zero) -> Result<(), Errno> {
        let Zero { unmap, fua } = zero;
        self.list().push(Seen::WriteZeroes { offset, length, unmap, fua });
        self.ram.write_zeroes(offset, length, zero)
    }

    fn secure_erase(&self, offset: u64, length: u64) -> Result<(), Errno> {
        self.list().push(Seen::SecureErase(offset, length));
        self.ram.secure_erase(offset, length)
    }
}

/// A RAM disk without regions: its data goes through the buffers of the serving threads.
#[derive(Debug)]
pub(crate) struct Buffered(pub(crate) Ram);

impl Backend for Buffered {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.0.read(offset, buffer)
    }

    fn write(&self, offset: u64, data: &mut [u8], fua: bool) -> Result<(), Errno> {
        self.0.write(offset, data, fua)
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), Errno> {
        self.0.discard(offset, length)
    }

    fn write_zeroes(&self, offset: u64, length: u64, zero: Zero) -> Result<(), Errno> {
        self.0.write_zeroes(offset, length, zero)
    }

    fn secure_erase(&self, offset: u64, length: u64) -> Result<(), Errno> {
        self.0.secure_erase(offset, length)
    }

    fn region(&self, _: u64, _: usize) -> Option<Region<'_>> {
        None
    }
}

/// A server that the test drives call by call.
#[derive(Debug)]
pub(crate) struct Manual {
    pub(crate) server: Arc<Server>,
    pub(crate) answers: Answers,
    pub(crate) arena: Vec<u8>,
}

impl Manual {
    pub(crate) fn new(disk: &Disk) -> Self {
        let server = Arc::clone(&disk.server);
        Self { server, answers: Answers::with_capacity(16), arena: vec![0; 1 << 20] }
    }

    /// Fetches up to `most` requests of a queue, waiting for `minimum` at most 20 s.
    pub(crate) fn fetch(&mut self, queue: u32, most: usize, minimum: u32) -> Result<Vec<Fetched>, Errno> {
        let (requests, entered) = self.try_fetch(queue, most, minimum, 20_000);
        match entered.error {
            Some(error) => Err(error),
            None => Ok(requests),
        }
    }

    pub(crate) fn try_fetch(
        &mut self,
        queue: u32,
        most: usize,
        minimum: u32,
        timeout_ms: u32,
    ) -> (Vec<Fetched>, Entered) {
        let mut requests = vec![Fetched::EMPTY; most];
        let mut batch = self.server.batch(&mut self.answers);
        let fetch = Fetch {
            requests: &mut requests,
            arena: &mut self.arena,
            queue,
            minimum,
            timeout_ms: Some(timeout_ms),
            ..Fetch::default()
        };
        let entered = self.server.enter(&mut batch, fetch);
        requests.truncate(entered.fetched);
        (requests, entered)
    }

    /// Fetches one request of queue 0.
    pub(crate) fn fetch_one(&mut self) -> Fetched {
        let requests = self.fetch(0, 1, 1).expect("fetch");
        assert_eq!(requests.len(), 1, "no request came");
        requests[0]
    }

    /// Gives answers. Returns those that were refused, by place.
    pub(crate) fn answer<'a>(&'a mut self, give: impl FnOnce(&mut Batch<'a>)) -> Vec<(u64, Errno)> {
        let mut batch = self.server.batch(&mut self.answers);
        give(&mut batch);
        let entered = self.server.enter(&mut batch, Fetch::nothing());
        assert_eq!(entered.error, None, "{entered:?}");
        batch.refused().collect()
    }

    /// Answers a read with zeros, anything else with success.
    pub(crate) fn complete(&mut self, request: &Fetched) {
        static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
        let length = usize::try_from(request.length()).expect("a length");
        let refused = self.answer(|batch| {
            if request.op() == abi::OP_READ {
                batch.read(request, &ZEROS[..length]);
            } else {
                batch.done(request);
            }
        });
        assert!(refused.is_empty(), "{refused:?}");
    }
}

/// Size of the devices that [`serve_role`] creates without a file.
const SIZE: u64 = 256 << 20;

/// The role `--serve-v2 KIND NAME QUEUES THREADS [FILE]`: creates a device and serves it until it is destroyed.
/// Prints `serving` when the node exists.
pub(crate) fn serve_role(arguments: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    let [kind, name, queues, threads, rest @ ..] = arguments else {
        return Err(
            "usage: --serve-v2 null|owned|async|tokio|ram|file|direct|locked NAME QUEUES THREADS [FILE]"
                .into(),
        );
    };
    let options = ServeOptions::default().threads_per_queue(threads.parse()?);
    let builder =
        Builder::new(name).queues(queues.parse()?).depth(256).serving(options).partition_scan(false);
    let ready = |_: &Path| println!("serving");
    match (*kind, rest) {
        ("null", []) => builder.serve_then(&Null::new(SIZE), ready)?,
        ("owned", []) => builder.serve_requests_then(&NullRequests(SIZE), ready)?,
        ("async", []) => builder.serve_async_then(&NullRequests(SIZE), ready)?,
        ("tokio", []) => serve_in_tokio(builder, SIZE)?,
        ("ram", []) => builder.serve_then(&Ram::new(SIZE)?, ready)?,
        ("file", [file]) => builder.serve_then(&FileOptions::default().open(Path::new(file))?, ready)?,
        ("direct", [file]) => {
            builder.serve_then(&FileOptions::default().direct(true).open(Path::new(file))?, ready)?
        }
        ("locked", [file]) => {
            let options = ServeOptions::default().threads_per_queue(threads.parse()?);
            let builder = builder.serving(options.memory_lock(MemoryLock::All));
            builder.serve_then(&FileOptions::default().direct(true).open(Path::new(file))?, ready)?
        }
        _ => return Err(format!("{kind} is no backend, or wants another number of files").into()),
    };
    Ok(())
}

/// The role `--destroy-v2 NAME`.
pub(crate) fn destroy_role(name: &str) -> Result<(), Box<dyn std::error::Error>> {
    Ok(Control::open()?.destroy(name, true)?)
}
