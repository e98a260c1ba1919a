// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a device is served: threads, memory and batches. Checked before serving begins.

use crate::v2::channel::Layers;
use crate::v2::tell::{Event, Listener};
use crate::v2::{Layer, ThreadModel};
use crate::{Errno, Error, Result};
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::thread::CpuSet;
use std::time::Duration;
use zosbd2_abi::v2;

/// Most requests that a lane takes at a time by default.
const BATCH: usize = 32;

/// How a device is served.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    threads_per_queue: usize,
    cpus: Vec<Vec<usize>>,
    memory_lock: MemoryLock,
    /// `None`: adapts itself.
    batch: Option<usize>,
    in_flight: Option<usize>,
    spin: Duration,
    listener: Listener,
    layers: Layers,
}

/// Which memory of the process is locked.
///
/// If the system swaps to the disk that a process serves, or if dirty pages of that disk fill the memory, the
/// kernel may need any page of the process to free memory. Needs `CAP_IPC_LOCK` or a high enough
/// `RLIMIT_MEMLOCK`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryLock {
    /// None.
    #[default]
    None,
    /// Pages that are, or will be, in memory. Right for a backend that uses only a part of large mappings.
    Present,
    /// All mappings, present and future. The kernel brings them in at once.
    All,
}

impl Default for ServeOptions {
    /// One thread per queue, on any CPU, up to 32 quick requests at a time, no polling.
    fn default() -> Self {
        Self {
            threads_per_queue: 1,
            cpus: Vec::new(),
            memory_lock: MemoryLock::None,
            batch: None,
            in_flight: None,
            spin: Duration::ZERO,
            listener: Listener::default(),
            layers: Layers::default(),
        }
    }
}

impl ServeOptions {
    /// Threads per queue, 1 to 1024.
    #[must_use]
    pub fn threads_per_queue(mut self, threads: usize) -> Self {
        self.threads_per_queue = threads;
        self
    }

    /// CPUs of each thread. The first list is for the first thread of the first queue, and so on. If there
    /// are fewer lists than threads, the lists are reused from the first one on. Without lists, the default,
    /// a thread runs on any CPU.
    #[must_use]
    pub fn cpus(mut self, cpus: Vec<Vec<usize>>) -> Self {
        self.cpus = cpus;
        self
    }

    /// Locks the memory of the process before serving begins. It stays locked afterwards.
    #[must_use]
    pub fn memory_lock(mut self, memory_lock: MemoryLock) -> Self {
        self.memory_lock = memory_lock;
        self
    }

    /// Most requests that a thread takes at a time, 1 to 1024. The thread answers them together when the last
    /// one is done. By default it takes up to 32 if they are done within milliseconds, and one at a time
    /// otherwise.
    #[must_use]
    pub fn batch(mut self, batch: usize) -> Self {
        self.batch = Some(batch);
        self
    }

    /// Most requests that an asynchronous lane has in flight, 1 to 1024; by default as many as the queue is deep.
    #[must_use]
    pub fn in_flight(mut self, requests: usize) -> Self {
        self.in_flight = Some(requests);
        self
    }

    /// Time that a thread polls for requests before it sleeps, up to 10 ms. Polling costs CPU time and saves
    /// latency.
    #[must_use]
    pub fn spin(mut self, spin: Duration) -> Self {
        self.spin = spin;
        self
    }

    /// Calls `tell` with each [`Event`] that an operator must know, instead of the callback that was set before. Any thread
    /// calls it, also several at the same time. It delays requests while it runs, and may not wait for I/O on the device.
    #[must_use]
    pub fn on_event(mut self, tell: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.listener = Listener::new(tell);
        self
    }

    /// Serves through this layer, which is put around those that were set before.
    #[must_use]
    pub fn layer(mut self, layer: impl Layer + 'static) -> Self {
        self.layers.push(layer);
        self
    }

    /// The same options with the layers of `outer` around the own ones, and with its callback if there is no own one.
    pub(in crate::v2) fn within(mut self, outer: &Self) -> Self {
        self.listener = self.listener.or(&outer.listener);
        self.layers.extend(&outer.layers);
        self
    }

    pub(in crate::v2) fn layers(&self) -> &Layers {
        &self.layers
    }

    pub(in crate::v2) fn listener(&self) -> &Listener {
        &self.listener
    }

    /// Checks these options for a device of that name.
    pub(in crate::v2) fn check(&self, name: &str, queues: u32, threads: ThreadModel) -> Result<()> {
        let range = |option, value, min, max| {
            if (min..=max).contains(&value) {
                return Ok(());
            }
            Err(Error::Range { operation: "serve", name: name.to_owned(), option, value, min, max })
        };
        let wrong = |option, value: String, problem: &str| {
            let (name, problem) = (name.to_owned(), problem.to_owned());
            Err(Error::Option { operation: "serve", name, option, value, problem })
        };
        range("threads per queue", self.threads_per_queue as u64, 1, 1024)?;
        range("batch", self.most_requests() as u64, 1, v2::MAX_BATCH.into())?;
        range("requests in flight", self.in_flight.unwrap_or(1) as u64, 1, v2::MAX_DEPTH.into())?;
        let spin = u64::try_from(self.spin.as_micros()).unwrap_or(u64::MAX);
        range("spin in microseconds", spin, 0, v2::MAX_SPIN_US.into())?;
        for cpus in &self.cpus {
            if cpus.is_empty() {
                return wrong("CPU list", "[]".to_owned(), "is empty");
            }
            for cpu in cpus {
                range("CPU", *cpu as u64, 0, CpuSet::MAX_CPU as u64 - 1)?;
            }
        }
        match threads {
            ThreadModel::One if queues > 1 => wrong(
                "number of queues",
                queues.to_string(),
                "is too many: the backend allows only one thread",
            ),
            ThreadModel::One | ThreadModel::OnePerQueue if self.threads_per_queue > 1 => wrong(
                "threads per queue",
                self.threads_per_queue.to_string(),
                "is too many: the backend allows only one thread",
            ),
            ThreadModel::Any | ThreadModel::OnePerQueue | ThreadModel::One => Ok(()),
        }
    }

    /// Number of threads of each queue.
    pub(super) fn threads(&self) -> usize {
        self.threads_per_queue
    }

    /// CPUs of this thread, counted over all queues.
    pub(super) fn cpus_of(&self, thread: usize) -> Option<&Vec<usize>> {
        thread.checked_rem(self.cpus.len()).and_then(|list| self.cpus.get(list))
    }

    /// Most requests that a lane takes at a time.
    pub(super) fn most_requests(&self) -> usize {
        self.batch.unwrap_or(BATCH)
    }

    /// Most requests in flight in an asynchronous lane of a queue with this depth.
    pub(super) fn in_flight_of(&self, depth: usize) -> usize {
        self.in_flight.unwrap_or(depth).max(1)
    }

    /// Whether a lane finds out how many requests to take at a time.
    pub(super) fn adapts(&self) -> bool {
        self.batch.is_none()
    }

    /// Whether memory of the process is locked.
    pub(super) fn locks_memory(&self) -> bool {
        self.memory_lock != MemoryLock::None
    }

    pub(super) fn spin_us(&self) -> u32 {
        u32::try_from(self.spin.as_micros()).unwrap_or(v2::MAX_SPIN_US)
    }

    pub(super) fn lock_memory(&self) -> Result<()> {
        let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE;
        let flags = match self.memory_lock {
            MemoryLock::None => return Ok(()),
            MemoryLock::Present => all | MlockAllFlags::ONFAULT,
            MemoryLock::All => all,
        };
        mlockall(flags).map_err(|source| {
            let hint = match source {
                Errno::NOMEM | Errno::PERM | Errno::AGAIN => " (see RLIMIT_MEMLOCK)",
                _ => "",
            };
            Error::LockMemory { hint, source }
        })
    }
}

/// Evaluates an expression with a reference to the channel that the layers of these options make of `owned`; without
/// layers with `direct`, so that the lanes call that channel without a detour.
macro_rules! through_layers {
    ($options:expr, $stop:expr, $direct:expr, $owned:expr, $name:ident => $serve:expr) => {
        match $options.layers().around($owned, $stop) {
            None => {
                let $name = $direct;
                $serve
            }
            Some(layered) => {
                let $name = &layered;
                $serve
            }
        }
    };
}

pub(in crate::v2) use through_layers;
