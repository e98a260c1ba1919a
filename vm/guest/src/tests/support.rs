// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices, servers and submitters for the tests of version 1.
//!
//! A [`Disk`] is a device created by the test. [`Disk::destroy`] destroys it; dropping it does not, because the
//! harness cleans up after a failed test. Servers are a thread pool of this process ([`Disk::serve`]), other
//! processes ([`spawn_server`]), or the test itself, call by call ([`Manual`]).

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use zosbd2::SparseMemory;
use zosbd2::v1::{
    self, Backend, Channel as _, Control, CreateOptions, Device, DeviceName, Handle, OperationBuffer,
    StopToken,
};

use crate::guest::{raw, wait_until};

/// Bytes of a block.
pub(crate) const BLOCK: usize = 4096;
/// The kernel's timers may be early by one of its ticks, which is at most this long.
pub(crate) const TICK: Duration = Duration::from_millis(10);
/// Longest wait for a node.
const PATIENCE: Duration = Duration::from_secs(20);

/// A device that the test created.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) control: Control,
    pub(crate) name: DeviceName,
    pub(crate) handle: Handle,
}

impl Disk {
    /// Creates a device of this many blocks, with a timeout of 30 s.
    pub(crate) fn create(name: &str, blocks: u64) -> Self {
        Self::create_with(
            &CreateOptions::new(name, blocks).expect("options").timeout(Duration::from_secs(30)),
        )
    }

    pub(crate) fn create_with(options: &CreateOptions) -> Self {
        let control = Control::open().expect("open the control node");
        let handle = control.create(options).expect("create");
        Self { control, name: options.name().clone(), handle }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.name.path()
    }

    pub(crate) fn open(&self) -> Device {
        Device::open(&self.control, self.handle, PATIENCE).expect("open the node")
    }

    /// Serves the device with threads of this process until it is destroyed.
    pub(crate) fn serve<B: Backend + Send + 'static>(&self, backend: &Arc<B>, threads: usize) -> Server {
        let device = self.open();
        let control = Control::open().expect("open the control node");
        let threads = NonZeroUsize::new(threads).expect("a thread");
        let backend = Arc::clone(backend);
        std::thread::spawn(move || v1::serve(&control, &device, &*backend, threads, &StopToken::new()))
    }

    /// Like [`serve`](Self::serve), from memory.
    pub(crate) fn serve_memory(&self, threads: usize) -> Server {
        let size = self.control.status(self.handle).expect("status").size_bytes;
        self.serve(&Arc::new(SparseMemory::new(size).expect("memory")), threads)
    }

    pub(crate) fn destroy(&self) {
        self.control.destroy(self.handle, true).expect("destroy");
    }

    /// Destroys the device and checks how its server ended.
    pub(crate) fn destroy_and_join(&self, server: Server) {
        self.destroy();
        join(server);
    }
}

/// Serving threads.
pub(crate) type Server = JoinHandle<zosbd2::Result<()>>;

/// Waits for the end of a server whose device is gone.
pub(crate) fn join(server: Server) {
    server.join().expect("the server panicked").expect("the server failed");
}

/// A server that the test drives call by call.
#[derive(Debug)]
pub(crate) struct Manual {
    pub(crate) device: Device,
    pub(crate) buffer: OperationBuffer,
}

impl Manual {
    pub(crate) fn new(disk: &Disk) -> Self {
        Self { device: disk.open(), buffer: OperationBuffer::new() }
    }

    /// One call. The kernel's reply is in the buffer.
    pub(crate) fn call(&mut self, opcode: u32, op_id: u32, error: i32) -> Result<(), Errno> {
        self.buffer.set_handle(self.device.handle().raw());
        self.buffer.set_opcode(opcode);
        self.buffer.set_op_id(op_id);
        self.buffer.set_error(error);
        self.device.operation(&mut self.buffer)
    }

    /// Fetches a request; returns (opcode, `op_id`).
    pub(crate) fn fetch(&mut self) -> (u32, u32) {
        self.call(zosbd2_abi::v1::OP_FETCH, 0, 0).expect("fetch");
        (self.buffer.opcode(), self.buffer.op_id())
    }

    /// Answers, and fetches only if a request is queued; returns its opcode, if so.
    pub(crate) fn answer(&mut self, opcode: u32, op_id: u32, error: i32) -> Result<Option<u32>, Errno> {
        raw::count_signal(libc::SIGUSR1);
        let thread = AtomicI32::new(0);
        let result = std::thread::scope(|scope| {
            let call = scope.spawn(|| {
                thread.store(raw::thread_id(), Ordering::SeqCst);
                self.call(opcode, op_id, error)
            });
            wait_until(20, "the call to end or to sleep", || call.is_finished() || sleeps_in_ioctl(&thread));
            if !call.is_finished() {
                raw::signal_thread(thread.load(Ordering::SeqCst), libc::SIGUSR1);
            }
            call.join().expect("the call panicked")
        });
        match result {
            Ok(()) => Ok(Some(self.buffer.opcode())),
            Err(Errno::INTR) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// The first segment: offset and length.
    pub(crate) fn segment(&self) -> (u64, u64) {
        self.buffer.segments().iter().next().map_or((0, 0), |segment| (segment.start, segment.length))
    }
}

/// Whether a thread of this process sleeps in an ioctl.
pub(crate) fn sleeps_in_ioctl(thread: &AtomicI32) -> bool {
    let number = thread.load(Ordering::SeqCst);
    let text = std::fs::read_to_string(format!("/proc/self/task/{number}/syscall")).unwrap_or_default();
    text.starts_with("16 ")
}

/// A backend in a file, which outlives its server and can have several servers.
#[derive(Debug)]
pub(crate) struct FileStore(File);

impl FileStore {
    /// Opens or creates the file, as long as the device.
    pub(crate) fn open(path: &Path, bytes: u64) -> Self {
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(path).expect("store");
        if file.metadata().expect("store").len() < bytes {
            file.set_len(bytes).expect("store");
        }
        Self(file)
    }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

impl Backend for FileStore {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.0.read_exact_at(buffer, offset).map_err(|error| errno(&error))
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.0.write_all_at(data, offset).map_err(|error| errno(&error))
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), Errno> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.0, flags, offset, length)
    }
}

/// The role `--serve NAME THREADS FILE`: serves an existing device from a file until the device is gone. Prints
/// `serving` when the node is open. When its standard input ends it exits, in the middle of serving.
pub(crate) fn serve_role(name: &str, threads: &str, file: &str) -> zosbd2::Result<()> {
    let control = Control::open()?;
    let device = Device::open_by_name(&control, &DeviceName::new(name)?, PATIENCE)?;
    let store = FileStore::open(Path::new(file), device.size_bytes());
    println!("serving");
    std::thread::spawn(|| {
        let _end_or_error = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    let threads = threads.parse().expect("a number of threads");
    v1::serve(&control, &device, &store, threads, &StopToken::new())
}

/// Memory for direct I/O: `length` bytes at `misalignment` behind a page boundary.
#[derive(Debug)]
pub(crate) struct Aligned {
    storage: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    pub(crate) fn new(length: usize, misalignment: usize) -> Self {
        let storage = vec![0; length + 2 * BLOCK];
        let address = storage.as_ptr().addr();
        let start = address.next_multiple_of(BLOCK) - address + misalignment;
        Self { storage, start, length }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.length]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.length]
    }

    /// Fills the memory with bytes that depend on their place.
    pub(crate) fn fill(&mut self, seed: u64) {
        for (index, chunk) in self.bytes_mut().chunks_mut(8).enumerate() {
            let word = (seed ^ index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }

    /// Whether the memory has the bytes that [`fill`](Self::fill) writes.
    pub(crate) fn is_filled(&self, seed: u64) -> bool {
        let mut filled = Self::new(self.length, 0);
        filled.fill(seed);
        self.bytes() == filled.bytes()
    }
}

pub(crate) fn open_direct(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty())
        .unwrap_or_else(|error| panic!("open {} with O_DIRECT: {error}", path.display()))
}

/// Reads with `O_DIRECT` in a thread of its own, into memory that is not zero, so that unfilled bytes are
/// noticed even if the kernel hands out zeroed memory.
pub(crate) fn read_in_thread(
    path: PathBuf,
    offset: u64,
    length: usize,
) -> JoinHandle<Result<Vec<u8>, Errno>> {
    std::thread::spawn(move || {
        let mut buffer = Aligned::new(length, 0);
        buffer.bytes_mut().fill(0xa5);
        let count = rustix::io::pread(open_direct(&path), buffer.bytes_mut(), offset)?;
        Ok(buffer.bytes()[..count].to_vec())
    })
}

/// Like [`read_in_thread`], into memory that was [filled](Aligned::fill) before. Returns the memory whatever the
/// result of the read, so that the caller can see later changes.
pub(crate) fn read_into_filled_in_thread(
    path: PathBuf,
    offset: u64,
    seed: u64,
    length: usize,
) -> JoinHandle<(Result<usize, Errno>, Aligned)> {
    std::thread::spawn(move || {
        let mut buffer = Aligned::new(length, 0);
        buffer.fill(seed);
        let result = rustix::io::pread(open_direct(&path), buffer.bytes_mut(), offset);
        (result, buffer)
    })
}

/// Writes with `O_DIRECT` in a thread of its own.
pub(crate) fn write_in_thread(
    path: PathBuf,
    offset: u64,
    seed: u64,
    length: usize,
) -> JoinHandle<Result<usize, Errno>> {
    std::thread::spawn(move || {
        let mut buffer = Aligned::new(length, 0);
        buffer.fill(seed);
        rustix::io::pwrite(open_direct(&path), buffer.bytes(), offset)
    })
}

/// Discards a range (`BLKDISCARD`).
pub(crate) fn discard(path: &Path, offset: u64, length: u64) -> Result<(), Errno> {
    range_ioctl(path, raw::BLKDISCARD, offset, length)
}

/// `BLKDISCARD`, `BLKZEROOUT` and the like.
pub(crate) fn range_ioctl(path: &Path, command: u32, offset: u64, length: u64) -> Result<(), Errno> {
    let node = open_direct(path);
    let pages = raw::Pages::new(16);
    let at = pages.at_end(16);
    pages.put(at, &offset.to_ne_bytes());
    pages.put(at + 8, &length.to_ne_bytes());
    raw::ioctl(std::os::fd::AsFd::as_fd(&node), command, at).map(|_| ())
}

/// The numbers in `/sys/block/NAME/stat`.
pub(crate) fn stat(name: &str) -> Vec<u64> {
    let text = std::fs::read_to_string(format!("/sys/block/{name}/stat")).expect("stat");
    text.split_whitespace().map(|word| word.parse().expect("a number")).collect()
}

/// A setting of the queue.
pub(crate) fn queue_setting(name: &str, setting: &str) -> String {
    let path = format!("/sys/block/{name}/queue/{setting}");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}")).trim().to_owned()
}

/// Starts another process that serves, and waits until it has the node open.
pub(crate) fn spawn_server(name: &str, threads: usize, file: &Path) -> std::process::Child {
    use std::io::BufRead as _;
    let mut child = std::process::Command::new("/proc/self/exe")
        .args(["--serve", name, &threads.to_string()])
        .arg(file)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("start a server");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("its output");
    std::io::BufReader::new(stdout).read_line(&mut line).expect("read its output");
    assert_eq!(line.trim(), "serving", "the server of {name} did not start");
    child
}
