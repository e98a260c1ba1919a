// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs a backend on a device: threads that answer a batch of requests and fetch the next batch in one call.
//!
//! The calling thread waits; the serving threads have all ended when it returns. Each serving thread has its
//! own buffers, allocated before the device is started: serving a request allocates nothing. On a stop
//! request the device is destroyed while the threads still serve, so that the kernel can write out dirty
//! data.

mod inject;

use self::inject::Places;
use super::request::{Geometry, Wanted, operation_name};
use super::{
    Answers, Backend, Batch, Buffer, Capabilities, Entered, FaultPlan, Fetch, Region, Request, ServerId,
    Status, ThreadModel, Zero,
};
use crate::serving::{Decision, Running, prepare_thread, warn_of_limits};
use crate::{BadRequest, Errno, Error, Result, StopToken};
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread::Scope;
use std::time::Duration;
use zosbd2_abi::v2;

/// Number of consecutive failed calls after which a thread gives up.
const MAX_FAILURES: u32 = 20;
/// Time between a failed call and the next one.
const PAUSE: Duration = Duration::from_millis(100);
/// Time between two looks at the backend's size.
const SIZE_PAUSE: Duration = Duration::from_secs(1);
/// Time between two attempts to destroy a device that is in use.
const BUSY_PAUSE: Duration = Duration::from_millis(500);

/// How a device is served.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    threads_per_queue: usize,
    cpus: Vec<Vec<usize>>,
    memory_lock: MemoryLock,
    batch: usize,
    spin: Duration,
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
    /// One thread per queue, on any CPU, up to 32 requests at a time, no polling.
    fn default() -> Self {
        Self {
            threads_per_queue: 1,
            cpus: Vec::new(),
            memory_lock: MemoryLock::None,
            batch: 32,
            spin: Duration::ZERO,
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
    /// one is done: a backend that waits for something needs small batches and many threads.
    #[must_use]
    pub fn batch(mut self, batch: usize) -> Self {
        self.batch = batch;
        self
    }

    /// Time that a thread polls for requests before it sleeps, up to 10 ms. Polling costs CPU time and saves
    /// latency.
    #[must_use]
    pub fn spin(mut self, spin: Duration) -> Self {
        self.spin = spin;
        self
    }

    /// Checks these options for a device of that name.
    pub(super) fn check(&self, name: &str, queues: u32, threads: ThreadModel) -> Result<()> {
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
        range("batch", self.batch as u64, 1, v2::MAX_BATCH.into())?;
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

    fn spin_us(&self) -> u32 {
        u32::try_from(self.spin.as_micros()).unwrap_or(v2::MAX_SPIN_US)
    }

    fn lock_memory(&self) -> Result<()> {
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

/// Why serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The device is gone.
    Gone,
    /// Another server has taken over.
    TakenOver,
}

/// Where a thread answers and fetches: a [`Server`](super::Server), or a fake in tests.
pub(super) trait Channel: Sync {
    fn enter(&self, batch: &mut Batch<'_>, fetch: Fetch<'_>) -> Entered;
    fn id(&self) -> ServerId;
    /// Status of the device when serving began; only its constant properties count.
    fn status(&self) -> &Status;
    /// Size of the device, as last heard.
    fn size(&self) -> u64;
    /// Asks the kernel for the size.
    fn refresh_size(&self) -> Result<u64>;
    /// Changes the size.
    fn resize(&self, size_bytes: u64) -> Result<()>;
    /// Ends all calls of `enter`, including those that sleep, and leaves the device to the next server, which
    /// can attach when the returned placeholder is dropped. Returns `None` if the calls end anyway.
    fn leave(&self) -> Result<Option<Self::Placeholder>>;
    /// Keeps the device and serves nothing.
    type Placeholder;
}

/// Serves `channel` until it is gone or taken over. Calls `start` once when all threads are ready; if `start`
/// fails, the device is destroyed by force. The argument of `destroy` says whether to use force.
///
/// Every queue needs a thread, because nobody else answers its requests. If a queue has no thread to begin
/// with, nothing is fetched or started, and the device goes to the next server or is destroyed with this one.
/// If the last thread of a queue fails later, all threads leave the device to the next server. If they cannot
/// leave it for some seconds, the device is destroyed by force.
pub(super) fn serve_with<C, B>(
    channel: &C,
    backend: &B,
    options: &ServeOptions,
    stop: &StopToken,
    start: impl FnOnce() -> Result<()>,
    destroy: impl Fn(bool) -> Result<()> + Sync,
) -> Result<End>
where
    C: Channel,
    B: Backend + ?Sized,
{
    let status = channel.status();
    let capabilities = backend.capabilities();
    options.check(&status.name, status.queues, capabilities.threads)?;
    check_store(status, &capabilities)?;
    options.lock_memory()?;
    warn_of_limits(&status.name);
    let mut session = Session {
        channel,
        backend,
        options,
        stop,
        regions: false,
        faults: None,
        running: Running::default(),
        crews: (0..status.queues).map(|_| AtomicUsize::new(0)).collect(),
        all_manned: Decision::default(),
        deserted: AtomicBool::new(false),
        taken_over: AtomicBool::new(false),
        first: Mutex::new(None),
    };
    session.regions = session.offers_regions();
    session.faults = session.fault_plan();
    let size = session.backend_size();
    let session = session;
    let panicked = std::thread::scope(|scope| {
        let (ready, all_ready) = mpsc::channel();
        for queue in 0..status.queues {
            for index in 0..options.threads_per_queue {
                session.spawn(scope, queue, index, ready.clone());
            }
        }
        drop(ready);
        // The loop ends when every thread has dropped its sender, ready or not.
        for () in all_ready {}
        let all_manned = session.crews.iter().all(|crew| crew.load(Ordering::Relaxed) > 0);
        session.all_manned.tell(all_manned);
        let mut panicked = None;
        if all_manned {
            match catch_unwind(AssertUnwindSafe(start)) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    session.note(error);
                    session.destroy(&destroy, true);
                }
                Err(payload) => {
                    session.destroy(&destroy, true);
                    panicked = Some(payload);
                }
            }
        }
        session.wait(scope, size, &destroy);
        panicked
    });
    if let Some(payload) = panicked {
        resume_unwind(payload);
    }
    let end = if session.taken_over.load(Ordering::Relaxed) { End::TakenOver } else { End::Gone };
    let first = session.first.into_inner().unwrap_or_else(PoisonError::into_inner);
    first.map_or(Ok(end), Err)
}

/// Why a device without the volatile-cache flag is not for a backend with such a cache.
pub(super) const NO_FLUSHES: &str = "is not possible with a backend that has one: \
                                     the kernel would send no flushes, and fsync would be a lie";

/// Checks that the backend can carry out the requests of the device, which may have been created for another
/// backend.
fn check_store(status: &Status, backend: &Capabilities) -> Result<()> {
    let wrong = |option, value: String, problem: String| {
        Err(Error::Option { operation: "serve", name: status.name.clone(), option, value, problem })
    };
    if status.logical_block_size < backend.logical_block_size {
        let problem = format!("is smaller than the backend's, {}", backend.logical_block_size);
        return wrong("logical block size", status.logical_block_size.to_string(), problem);
    }
    if backend.read_only && status.create_flags & v2::CREATE_READ_ONLY == 0 {
        return wrong("read-only", "no".to_owned(), "is not possible with a read-only backend".to_owned());
    }
    if backend.volatile_cache && status.create_flags & v2::CREATE_VOLATILE_CACHE == 0 {
        return wrong("volatile cache", "no".to_owned(), NO_FLUSHES.to_owned());
    }
    Ok(())
}

/// What the threads of one `serve` share.
struct Session<'a, C, B: ?Sized> {
    channel: &'a C,
    backend: &'a B,
    options: &'a ServeOptions,
    stop: &'a StopToken,
    /// The kernel copies directly from and to the backend's memory, so writes need no arena.
    regions: bool,
    /// Faults to inject.
    faults: Option<&'a FaultPlan>,
    running: Running,
    /// For each queue: threads that serve it, or may do so.
    crews: Vec<AtomicUsize>,
    /// Whether each queue has a thread, once all threads were tried.
    all_manned: Decision,
    /// The last thread of a queue has failed.
    deserted: AtomicBool,
    taken_over: AtomicBool,
    first: Mutex<Option<Error>>,
}

/// A thread's membership in the crew of a queue. Dropping it leaves the crew, unless the device is gone.
struct Member<'a> {
    crew: &'a AtomicUsize,
    deserted: &'a AtomicBool,
    done: bool,
}

impl<'a> Member<'a> {
    fn join(crew: &'a AtomicUsize, deserted: &'a AtomicBool) -> Self {
        crew.fetch_add(1, Ordering::Relaxed);
        Self { crew, deserted, done: false }
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        if !self.done && self.crew.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.deserted.store(true, Ordering::Release);
        }
    }
}

impl<'a, C: Channel, B: Backend + ?Sized> Session<'a, C, B> {
    fn spawn<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        queue: u32,
        index: usize,
        ready: mpsc::Sender<()>,
    ) {
        self.running.begin();
        let name = format!("zosbd2-{queue}.{index}");
        let run = move || self.thread(queue, index, ready);
        if let Err(source) = std::thread::Builder::new().name(name).spawn_scoped(scope, run) {
            self.running.cancel();
            // The other threads of the queue suffice. The caller gets the error in the end.
            self.note(Error::Spawn { device: self.device(), source });
        }
    }

    fn thread(&self, queue: u32, index: usize, ready: mpsc::Sender<()>) {
        let _count_out = self.running.count_out(self.stop);
        prepare_thread(&self.channel.status().name);
        self.bind(queue as usize * self.options.threads_per_queue + index);
        let memory = match Memory::new(self.channel.status(), self.options, self.regions) {
            Ok(memory) => memory,
            Err(error) => return self.note(error),
        };
        let worker = Worker::new(self, queue);
        // Dropped before the thread is counted out, because other threads look at the crews then.
        let mut member = Member::join(&self.crews[queue as usize], &self.deserted);
        drop(ready);
        if !self.all_manned.wait() {
            member.done = true;
            return;
        }
        match worker.work(memory) {
            Ok(end) => {
                member.done = true;
                if end == End::TakenOver {
                    self.taken_over.store(true, Ordering::Relaxed);
                }
            }
            Err(error) => self.note(error),
        }
    }

    /// Binds the calling thread to its CPUs, if it has a list.
    fn bind(&self, thread: usize) {
        let lists = &self.options.cpus;
        let Some(cpus) = thread.checked_rem(lists.len()).and_then(|list| lists.get(list)) else {
            return;
        };
        let mut set = CpuSet::new();
        for cpu in cpus {
            set.set(*cpu);
        }
        if let Err(source) = sched_setaffinity(None, &set) {
            self.note(Error::Cpus { device: self.device(), source });
        }
    }

    /// Waits for the end of all threads. Meanwhile it sends the threads away if a queue has none left, turns
    /// stop requests into destroys, and resizes the device if the backend's size changes.
    fn wait<'scope, D>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        mut size: Option<u64>,
        destroy: &'scope D,
    ) where
        D: Fn(bool) -> Result<()> + Sync,
    {
        let mut seen = 0;
        // Kept until all threads have ended, so that the next server does not work beside them unless it
        // takes over.
        let mut left = None;
        let mut failures = 0;
        loop {
            let leaves = || left.is_none() && self.deserted.load(Ordering::Acquire);
            let news = || self.ended() || (failures == 0 && leaves());
            let requests = if failures > 0 && left.is_none() {
                let pause = if failures < MAX_FAILURES { PAUSE } else { SIZE_PAUSE };
                self.stop.wait_for(pause, seen, news)
            } else if seen == 0 {
                self.stop.wait_for(SIZE_PAUSE, seen, news)
            } else {
                self.stop.wait(seen, news)
            };
            if self.ended() {
                return;
            }
            if leaves() {
                match self.channel.leave() {
                    Ok(placeholder) => {
                        let device = self.device();
                        tracing::error!(device, "a queue has no thread left: all threads end");
                        left = Some(placeholder);
                    }
                    Err(error) => {
                        failures = MAX_FAILURES.min(failures + 1);
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(
                            error,
                            failures,
                            "a queue has no thread left, but the other threads cannot leave the device"
                        );
                    }
                }
                if failures == MAX_FAILURES && left.is_none() {
                    self.destroy(destroy, true);
                }
            }
            if requests == seen {
                self.follow(&mut size);
                continue;
            }
            seen = requests;
            if seen > 1 {
                self.destroy(destroy, true);
                continue;
            }
            // A thread of its own, because the calling thread must listen for the request to use force.
            let name = "zosbd2-stop".to_owned();
            let run = || self.destroy_when_unused(destroy);
            if let Err(source) = std::thread::Builder::new().name(name).spawn_scoped(scope, run) {
                self.note(Error::Spawn { device: self.device(), source });
                self.destroy_when_unused(destroy);
            }
        }
    }

    /// Size of the backend. `None` if the backend panics; the panic is noted.
    fn backend_size(&self) -> Option<u64> {
        self.guard("size", || self.backend.size()).ok()
    }

    /// Resizes the device if the size of the backend is no longer the `known` one.
    fn follow(&self, known: &mut Option<u64>) {
        let Some(size) = self.backend_size().filter(|size| *known != Some(*size)) else { return };
        *known = Some(size);
        match self.channel.resize(size) {
            Ok(()) => tracing::info!(
                device = self.device(),
                size,
                "resized the device, because the size of the backend has changed"
            ),
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot resize the device to the size of the backend"
                );
            }
        }
    }

    /// Destroys the device without force as soon as it is not open. Gives up when a second stop request asks
    /// for force.
    fn destroy_when_unused(&self, destroy: &impl Fn(bool) -> Result<()>) {
        let mut told = false;
        while self.destroy(destroy, false) && self.stop.requests() < 2 {
            if !told {
                tracing::warn!(
                    device = self.device(),
                    "the device is in use: it will be destroyed when it is closed"
                );
                told = true;
            }
            self.stop.pause_unless(BUSY_PAUSE, || self.ended());
            if self.ended() {
                return;
            }
        }
    }

    /// Destroys the device. Returns true if the device is open.
    fn destroy(&self, destroy: &impl Fn(bool) -> Result<()>, force: bool) -> bool {
        match destroy(force) {
            // Another process destroyed the device first, or another server has it now.
            Ok(()) | Err(Error::Control { source: Errno::NOENT | Errno::NODEV | Errno::STALE, .. }) => false,
            Err(Error::Control { source: Errno::BUSY, .. }) if !force => true,
            Err(error) => {
                self.note(error);
                false
            }
        }
    }

    fn ended(&self) -> bool {
        self.running.none()
    }

    /// Whether the backend offers a region for its first block; the library takes that as an answer for all
    /// blocks.
    fn offers_regions(&self) -> bool {
        let block = self.channel.status().logical_block_size as usize;
        let offered = self.guard("region", || self.backend.region(0, block).is_some());
        offered.unwrap_or(false)
    }

    /// The faults of the backend.
    fn fault_plan(&self) -> Option<&'a FaultPlan> {
        let backend = self.backend;
        let plan = self.guard("faults", || backend.faults()).ok().flatten();
        if let Some(plan) = plan {
            tracing::warn!(device = self.device(), seed = plan.seed(), "serving with injected faults");
        }
        plan
    }

    /// The size up to which requests are valid for both the backend and the kernel, if the kernel's size is
    /// `size`.
    fn agreed_size(&self, size: u64) -> u64 {
        self.guard("size", || self.backend.size()).map_or(0, |own| own.min(size))
    }

    /// Calls the backend. A panic is noted and becomes `EIO`.
    #[inline]
    fn guard<T>(&self, operation: &'static str, run: impl FnOnce() -> T) -> Result<T, Errno> {
        catch_unwind(AssertUnwindSafe(run)).map_err(|_| self.panicked(operation))
    }

    #[cold]
    fn panicked(&self, operation: &'static str) -> Errno {
        self.note(Error::BackendPanicked { device: self.device(), operation });
        Errno::IO
    }

    /// Keeps the first error for the caller.
    #[cold]
    fn note(&self, error: Error) {
        tracing::error!(error = &error as &dyn std::error::Error, "while serving");
        self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    #[cold]
    fn device(&self) -> String {
        self.channel.status().name.clone()
    }
}

/// The memory of one thread.
struct Memory {
    requests: Vec<Request>,
    answers: Answers,
    /// Results of reads. The kernel uses it until the answers are given.
    reads: Buffer,
    /// Data of writes, whether it comes with the requests or later.
    arena: Buffer,
}

impl Memory {
    fn new(status: &Status, options: &ServeOptions, regions: bool) -> Result<Self> {
        // With regions the buffers are rarely used, so their pages are allocated on first use.
        let buffer = || {
            Buffer::new(status.max_io_bytes as usize, !regions)
                .map_err(|source| Error::Buffers { device: status.name.clone(), source })
        };
        Ok(Self {
            requests: vec![Request::EMPTY; options.batch],
            answers: Answers::with_capacity(options.batch),
            reads: buffer()?,
            arena: buffer()?,
        })
    }
}

/// The unused rest of a buffer.
struct Room<'b> {
    free: &'b mut [u8],
}

impl<'b> Room<'b> {
    #[inline]
    fn take(&mut self, length: usize) -> Option<&'b mut [u8]> {
        if length > self.free.len() {
            return None;
        }
        let (taken, rest) = std::mem::take(&mut self.free).split_at_mut(length);
        self.free = rest;
        Some(taken)
    }
}

/// What became of a request.
enum Taken<'b> {
    Done,
    Failed(Errno),
    Data(&'b [u8]),
    Source(Region<'b>),
    Target(Region<'b>),
    /// The request waits for room in the buffer for reads, or for its data.
    Later,
}

/// Result of giving a batch of answers.
#[derive(Clone, Copy)]
struct Given {
    fetched: usize,
    refused: usize,
    gone: bool,
}

/// One serving thread.
struct Worker<'s, C, B: ?Sized> {
    session: &'s Session<'s, C, B>,
    queue: u32,
    spin_us: u32,
    geometry: Geometry,
    /// Size of the channel when `geometry.size` was set.
    told_size: u64,
    failures: u32,
    /// Another server gets the requests now.
    taken_over: bool,
}

impl<'s, C: Channel, B: Backend + ?Sized> Worker<'s, C, B> {
    fn new(session: &'s Session<'s, C, B>, queue: u32) -> Self {
        let status = session.channel.status();
        let told_size = session.channel.size();
        let geometry = Geometry {
            size: session.agreed_size(told_size),
            block: u64::from(status.logical_block_size).max(1),
            max_io: u64::from(status.max_io_bytes),
        };
        let spin_us = session.options.spin_us();
        Self { session, queue, spin_us, geometry, told_size, failures: 0, taken_over: false }
    }

    /// Serves until the device is gone or taken over.
    ///
    /// In each round the thread answers or keeps every request that it holds. If it keeps none, the call that
    /// gives the answers also fetches. Otherwise the call makes room in the buffer for reads and gets missing
    /// data of writes, so the next round answers at least one more request.
    fn work(mut self, memory: Memory) -> Result<End> {
        let Memory { mut requests, mut answers, mut reads, mut arena } = memory;
        let mut pending = 0;
        let mut fresh = false;
        loop {
            if let (true, Some(plan)) = (fresh, self.session.faults) {
                let mut places = Places { arena: &arena, scratch: &mut reads };
                pending = self.inject(plan, &mut requests[..pending], &mut places, &mut answers)?;
            }
            let mut batch = answers.begin(self.session.channel.id());
            let mut room = Room { free: &mut reads };
            let kept = self.round(&mut requests[..pending], &arena, &mut room, &mut batch);
            fresh = kept == 0 && !self.taken_over;
            let given = if fresh {
                let fetch = Fetch {
                    requests: &mut requests,
                    arena: if self.session.regions { &mut [] } else { &mut arena },
                    buffers: None,
                    queue: self.queue,
                    minimum: 1,
                    spin_us: self.spin_us,
                    timeout_ms: None,
                };
                let given = self.give(&mut batch, fetch)?;
                pending = given.fetched;
                given
            } else {
                ask_for_data(&mut requests[..kept], &mut arena, &mut batch);
                pending = kept;
                self.give(&mut batch, Fetch::nothing())?
            };
            if given.gone {
                return Ok(End::Gone);
            }
            if given.refused != 0 {
                let keeps = kept != 0;
                pending = self.refused(&mut batch, &mut requests[..pending], keeps)?;
            }
            if self.taken_over && pending == 0 {
                return Ok(End::TakenOver);
            }
            if self.session.channel.size() != self.told_size {
                self.resized(self.session.channel.size());
            }
        }
    }

    /// Answers the requests that can be answered now. Moves the others to the front and returns their number.
    #[inline]
    fn round<'b>(
        &mut self,
        requests: &mut [Request],
        arena: &[u8],
        room: &mut Room<'b>,
        batch: &mut Batch<'b>,
    ) -> usize
    where
        's: 'b,
    {
        let mut kept = 0;
        for at in 0..requests.len() {
            let request = requests[at];
            let wanted = match self.geometry.look(&request) {
                Ok(wanted) => wanted,
                Err(bad) => match self.look_again(&request, bad) {
                    Ok(wanted) => wanted,
                    Err(error) => {
                        batch.fail(&request, error);
                        continue;
                    }
                },
            };
            match self.take(&request, wanted, arena, room) {
                Taken::Done => batch.done(&request),
                Taken::Failed(error) => batch.fail(&request, error),
                Taken::Data(data) => batch.read(&request, data),
                Taken::Source(region) => batch.read_region(&request, region),
                Taken::Target(region) => batch.write_region(&request, region),
                Taken::Later => {
                    requests[kept] = request;
                    kept += 1;
                }
            }
        }
        kept
    }

    /// Lets the backend carry out one request.
    #[inline]
    fn take<'b>(&self, request: &Request, wanted: Wanted, arena: &[u8], room: &mut Room<'b>) -> Taken<'b>
    where
        's: 'b,
    {
        let session = self.session;
        let backend: &'s B = session.backend;
        let (offset, long) = (request.offset(), request.length());
        // The lengths of reads and writes were compared with the length of a buffer.
        #[expect(clippy::cast_possible_truncation, reason = "see above; others use `long`")]
        let length = long as usize;
        let flag = |flag| request.flags() & flag != 0;
        let done = |result: Result<(), Errno>| result.map_or_else(Taken::Failed, |()| Taken::Done);
        let run = || match wanted {
            Wanted::Read => match backend.read_region(offset, length) {
                Some(region) => {
                    session.fits(region, offset, length).map_or_else(Taken::Failed, Taken::Source)
                }
                None => match room.take(length) {
                    Some(place) => match backend.read(offset, place) {
                        Ok(()) => Taken::Data(place),
                        Err(error) => Taken::Failed(error),
                    },
                    None => Taken::Later,
                },
            },
            Wanted::Write(at) => done(backend.write(offset, &arena[at..at + length], flag(v2::REQUEST_FUA))),
            Wanted::WriteWithoutData if flag(v2::REQUEST_FUA) => Taken::Later,
            Wanted::WriteWithoutData => match backend.region(offset, length) {
                Some(region) => {
                    session.fits(region, offset, length).map_or_else(Taken::Failed, Taken::Target)
                }
                None => Taken::Later,
            },
            Wanted::Discard => done(backend.discard(offset, long)),
            Wanted::Flush => done(backend.flush()),
            Wanted::WriteZeroes => {
                let zero = Zero { unmap: !flag(v2::REQUEST_NO_UNMAP), fua: flag(v2::REQUEST_FUA) };
                done(backend.write_zeroes(offset, long, zero))
            }
            Wanted::SecureErase => done(backend.secure_erase(offset, long)),
        };
        catch_unwind(AssertUnwindSafe(run))
            .unwrap_or_else(|_| Taken::Failed(session.panicked(operation_name(request.op()))))
    }

    /// Checks an invalid request again, because the device may have grown meanwhile.
    #[cold]
    fn look_again(&mut self, request: &Request, bad: BadRequest) -> Result<Wanted, Errno> {
        let device = self.session.device();
        if !matches!(bad, BadRequest::OutOfDevice { .. }) {
            let error = if matches!(bad, BadRequest::Opcode(_)) { Errno::OPNOTSUPP } else { Errno::IO };
            self.session.note(Error::Request { device, op_id: request.handle(), source: bad });
            return Err(error);
        }
        match self.session.channel.refresh_size() {
            Ok(size) => self.resized(size),
            Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "while serving"),
        }
        self.geometry.look(request).map_err(|bad| {
            // The request may have been submitted before the device shrank.
            tracing::debug!(device, %bad, "request failed");
            Errno::IO
        })
    }

    #[cold]
    fn resized(&mut self, size: u64) {
        self.told_size = size;
        self.geometry.size = self.session.agreed_size(size);
    }

    /// Gives all answers and fetches, and retries interrupted calls.
    #[inline]
    fn give(&mut self, batch: &mut Batch<'_>, mut fetch: Fetch<'_>) -> Result<Given> {
        let entered = self.session.channel.enter(batch, fetch.again());
        if entered.error.is_none() && batch.is_processed() {
            self.failures = 0;
            return Ok(Given { fetched: entered.fetched, refused: entered.refused, gone: false });
        }
        self.give_rest(batch, fetch, entered)
    }

    /// Continues after a call that failed or was incomplete.
    #[cold]
    fn give_rest(
        &mut self,
        batch: &mut Batch<'_>,
        mut fetch: Fetch<'_>,
        mut entered: Entered,
    ) -> Result<Given> {
        let mut given = Given { fetched: 0, refused: 0, gone: false };
        loop {
            given.refused += entered.refused;
            if entered.fetched > 0 {
                // The fetched requests stay in place while the remaining answers are given.
                given.fetched = entered.fetched;
                fetch = Fetch::nothing();
            }
            let progress = entered.processed > 0 || entered.fetched > 0;
            match entered.error {
                None if batch.is_processed() => {
                    self.failures = 0;
                    return Ok(given);
                }
                None if progress => {}
                Some(Errno::INTR) => {}
                Some(Errno::NODEV) => return Ok(Given { gone: true, ..given }),
                Some(Errno::SHUTDOWN) => {
                    self.taken_over = true;
                    if batch.is_processed() || !progress {
                        return Ok(given);
                    }
                    fetch = Fetch::nothing();
                }
                failed => self.failed(failed.unwrap_or(Errno::IO))?,
            }
            entered = self.session.channel.enter(batch, fetch.again());
        }
    }

    /// After a failed call: waits before the next attempt, or gives up after too many.
    fn failed(&mut self, source: Errno) -> Result<()> {
        let error = Error::Fetch { device: self.session.device(), source };
        self.failures += 1;
        if self.failures >= MAX_FAILURES {
            return Err(error);
        }
        let failures = self.failures;
        tracing::warn!(error = &error as &dyn std::error::Error, failures, "fetch will be retried");
        self.session.stop.pause(PAUSE);
        Ok(())
    }

    /// Fails the requests whose answers were refused, unless they are stale. With `kept` set, those requests
    /// may be among `pending`, and are removed from it. Returns the number of remaining requests.
    #[cold]
    fn refused(&mut self, batch: &mut Batch<'_>, pending: &mut [Request], kept: bool) -> Result<usize> {
        let mut left = pending.len();
        if kept {
            left = 0;
            for at in 0..pending.len() {
                if batch.refused().all(|(handle, _)| handle != pending[at].handle()) {
                    pending[left] = pending[at];
                    left += 1;
                }
            }
        }
        self.note_refused(batch);
        batch.fail_refused(Errno::IO);
        if !batch.is_empty() {
            self.give(batch, Fetch::nothing())?;
            self.note_refused(batch);
        }
        Ok(left)
    }

    fn note_refused(&self, batch: &Batch<'_>) {
        for (handle, source) in batch.refused() {
            let device = self.session.device();
            if source == Errno::STALE {
                // The request has passed its deadline, or the device is being destroyed.
                tracing::debug!(device, handle, "answer came too late");
            } else {
                self.session.note(Error::Refused { device, handle, source });
            }
        }
    }
}

impl<C: Channel, B: Backend + ?Sized> Session<'_, C, B> {
    #[inline]
    fn fits<'r>(&self, region: Region<'r>, offset: u64, length: usize) -> Result<Region<'r>, Errno> {
        if region.length() == length {
            return Ok(region);
        }
        let device = self.device();
        self.note(Error::Region { device, offset, length, given: region.length() });
        Err(Errno::IO)
    }
}

/// Requests the data of as many writes as fit into the arena.
fn ask_for_data<'b>(requests: &mut [Request], arena: &'b mut [u8], batch: &mut Batch<'b>) {
    let mut room = Room { free: arena };
    let mut at = 0;
    for request in requests {
        if request.op() != v2::OP_WRITE {
            continue;
        }
        let place = usize::try_from(request.length()).ok().and_then(|length| room.take(length));
        let Some(place) = place else { return };
        batch.copy(request, place);
        request.set_data(at);
        at += request.length();
    }
}
