// SPDX-License-Identifier: MIT OR Apache-2.0
//! State that the threads of one process share: descriptors, and the names of all possible devices.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use zosbd2::v2::abi;

use super::board::Board;
use crate::guest::{Random, descriptor, raw};

/// Names of devices of version 2, and of version 1.
const NAMES: [&str; 5] = ["f0", "f1", "f2", "f3", "f4"];
const NAMES_1: [&str; 2] = ["zf0", "zf1"];
/// The module's `max_devices`. A destroyed device keeps its place while a descriptor of it is open, so there are
/// places for all descriptors, and for fewer devices than there are names.
#[expect(clippy::cast_possible_truncation, reason = "both are small")]
pub(super) const DEVICES: u32 = 6 + (PROCESSES * DESCRIPTORS) as u32;
/// Most descriptors of a process.
const DESCRIPTORS: usize = 10;
/// Number of processes.
pub(super) const PROCESSES: usize = 2;

/// A device, which need not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) name: &'static str,
    pub(super) version: u32,
}

impl Node {
    /// Some device of version 2.
    pub(super) fn v2(random: &mut Random) -> Self {
        Self { name: random.pick(&NAMES), version: 2 }
    }

    /// Some device of version 1.
    pub(super) fn v1(random: &mut Random) -> Self {
        Self { name: random.pick(&NAMES_1), version: 1 }
    }

    /// Some device.
    pub(super) fn any(random: &mut Random) -> Self {
        if random.chance(70) { Self::v2(random) } else { Self::v1(random) }
    }

    pub(super) fn path(&self) -> PathBuf {
        let prefix = if self.version == 2 { abi::NODE_PREFIX } else { "/dev/" };
        PathBuf::from(format!("{prefix}{}", self.name))
    }

    pub(super) fn field(&self) -> [u8; abi::NAME_BYTES] {
        let mut name = [0; abi::NAME_BYTES];
        name[..self.name.len()].copy_from_slice(self.name.as_bytes());
        name
    }
}

/// A server descriptor, or an observer's.
#[derive(Debug)]
pub(super) struct Held {
    fd: OwnedFd,
    pub(super) observes: bool,
    /// Queues of the device.
    pub(super) queues: u32,
    /// Requests that were fetched and not answered.
    pub(super) unanswered: Mutex<Vec<abi::Request>>,
}

impl Held {
    pub(super) fn new(fd: OwnedFd, observes: bool, queues: u32) -> Self {
        Self { fd, observes, queues, unanswered: Mutex::default() }
    }

    /// Whether requests wait for this server, or for an answer of this process.
    fn is_busy(&self) -> bool {
        let mut fds = [PollFd::new(self, PollFlags::IN)];
        let now = poll(&mut fds, Some(&Timespec::default()));
        (now.is_ok() && fds[0].revents() == PollFlags::IN) || !self.unanswered().is_empty()
    }

    /// Requests that wait for an answer of this process.
    pub(super) fn unanswered(&self) -> MutexGuard<'_, Vec<abi::Request>> {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// One process of the fuzzer.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) board: Board,
    pub(super) control: File,
    number: usize,
    folder: PathBuf,
    socket: UnixDatagram,
    pool: Mutex<Vec<Arc<Held>>>,
    /// Threads that may get signals.
    threads: Mutex<Vec<i32>>,
    /// Signals sent.
    signals: AtomicU32,
}

fn socket_path(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("socket-{number}"))
}

impl Process {
    /// Binds its socket in the folder that all processes share.
    pub(super) fn new(folder: &Path, number: usize) -> std::io::Result<Self> {
        let path = socket_path(folder, number);
        // Left by a killed process.
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(path)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            board: Board::open(&folder.join("board")),
            control: File::options().read(true).write(true).open(zosbd2_abi::CONTROL_PATH)?,
            number,
            folder: folder.to_owned(),
            socket,
            pool: Mutex::default(),
            threads: Mutex::default(),
            signals: AtomicU32::new(0),
        })
    }

    fn pool(&self) -> MutexGuard<'_, Vec<Arc<Held>>> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A random descriptor.
    pub(super) fn some(&self, random: &mut Random) -> Option<Arc<Held>> {
        self.some_of(random, |_| true)
    }

    /// A random server descriptor, usually one with work, if there is any.
    pub(super) fn some_server(&self, random: &mut Random) -> Option<Arc<Held>> {
        let busy = random.chance(80).then(|| self.some_of(random, |held| !held.observes && held.is_busy()));
        busy.flatten().or_else(|| self.some_of(random, |held| !held.observes))
    }

    fn some_of(&self, random: &mut Random, fits: impl Fn(&Held) -> bool) -> Option<Arc<Held>> {
        let all: Vec<_> = self.pool().iter().filter(|held| fits(held)).cloned().collect();
        let index = usize::try_from(random.below(all.len().max(1) as u64)).expect("an index");
        all.into_iter().nth(index)
    }

    /// Keeps a descriptor. If there are too many, another one is closed.
    pub(super) fn keep(&self, held: Held, random: &mut Random) {
        let mut pool = self.pool();
        pool.push(Arc::new(held));
        if pool.len() > DESCRIPTORS {
            let index = usize::try_from(random.below(DESCRIPTORS as u64)).expect("an index");
            let closed = pool.swap_remove(index);
            drop(pool);
            drop(closed);
        }
    }

    /// Drops a descriptor. It is closed when no thread of this process uses it any more.
    pub(super) fn forget(&self, held: &Arc<Held>) {
        let mut pool = self.pool();
        let index = pool.iter().position(|other| Arc::ptr_eq(other, held));
        let closed = index.map(|index| pool.swap_remove(index));
        drop(pool);
        drop(closed);
    }

    /// Sends a descriptor to a process, perhaps to this one.
    pub(super) fn pass(&self, held: &Held, random: &mut Random) -> Result<(), Errno> {
        let to = usize::try_from(random.below(PROCESSES as u64)).expect("a process");
        let path = socket_path(&self.folder, to);
        let errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        let socket = UnixDatagram::unbound().map_err(errno)?;
        // The other process may be dead.
        socket.connect(path).map_err(errno)?;
        descriptor::send(&socket, held, &[u8::from(held.observes), u8::try_from(held.queues).unwrap_or(1)])
    }

    /// Takes a descriptor that another process sent.
    pub(super) fn receive(&self, random: &mut Random) -> Result<(), Errno> {
        let mut bytes = [0; 2];
        let fd = descriptor::receive(&self.socket, &mut bytes)?;
        self.keep(Held::new(fd, bytes[0] != 0, bytes[1].into()), random);
        Ok(())
    }

    fn threads(&self) -> MutexGuard<'_, Vec<i32>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Allows signals to the calling thread.
    pub(super) fn enlist(&self) {
        self.threads().push(raw::thread_id());
    }

    /// Forbids signals to the calling thread.
    pub(super) fn leave(&self) {
        self.threads().retain(|thread| *thread != raw::thread_id());
    }

    /// Interrupts a random thread of this process.
    pub(super) fn interrupt(&self, random: &mut Random) {
        let threads = self.threads();
        raw::signal_thread(random.pick(&threads), libc::SIGUSR1);
        self.signals.fetch_add(1, Ordering::Relaxed);
    }

    /// Number of this process.
    pub(super) fn number(&self) -> usize {
        self.number
    }
}
