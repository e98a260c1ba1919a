// SPDX-License-Identifier: GPL-2.0-only
//! The memory that the shim keeps for the engine, and the locks around it.
//!
//! A device's block is one allocation: [`Device`], then pointers to the blocks of its queues. A queue's block is an
//! allocation of its own, so that it can be on the memory node of the queue's CPUs: a [`QueueBlock`] and its [`Slot`]s.
//! Several contexts share the blocks. Data that changes after initialisation is behind the device's lock and
//! reached through [`LockedDevice`], or behind a queue's lock and reached through [`Locked`].
//!
//! A reference to a header covers only that header. The data after the header is reached through pointers in
//! the header, which are pointers to the whole allocation.
//!
//! The order of the locks is registry, device, queue.

use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::mem::{align_of, size_of};
use core::slice;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use zosbd2_abi::v2 as abi;
use zosbd2_engine::Errno;
use zosbd2_engine::cache::Cache;
use zosbd2_engine::deadline::is_late;
use zosbd2_engine::device::{Change, Life, Phase, Terms};
use zosbd2_engine::event::{Board, Event, Kind, News, Next};
use zosbd2_engine::latency::{Histograms, Latencies};
use zosbd2_engine::queue::{Deadline, End, Moment, Queue, QueueState, Surroundings, Wake};
use zosbd2_engine::request::{Handle, Slot, State};
use zosbd2_engine::v2::{deadline_policy, tag_bits};
use zosbd2_engine::watch::{CacheWatch, QueueWatch, Seen, WATCH_MS};

use crate::list::List;
use crate::survey::{self, Survey};
use crate::{shim, trace};

/// Data that is written often, on cache lines of its own. Neighbours that everybody reads stay in all caches.
#[derive(Debug)]
#[repr(align(64))]
struct Apart<T>(T);

/// A device's block.
#[derive(Debug)]
#[repr(align(64))]
pub struct Device {
    params: shim::Params,
    shim: *mut shim::Device,
    /// The blocks of the queues; constant once the device is shared.
    queues: *mut *mut QueueBlock,
    tag_bits: u32,
    size_bytes: AtomicU64,
    /// Epoch of the server that gets requests, for readers without a lock; 0: none, or it was declared dead.
    present: AtomicU32,
    /// Whether the device is gone, for readers without a lock.
    gone: AtomicBool,
    /// The deadline of requests, 0 for none, and what happens to late ones (`DEADLINE_` numbers). Changed under the
    /// device's lock.
    deadline_ms: AtomicU32,
    policy: AtomicU32,
    /// Epoch of the newest server that ever fetched or answered; 0: none did.
    served: AtomicU32,
    /// Epoch of the newest server whose first fetch has decided what is lost with older servers' caches, for readers
    /// without a lock.
    fetched: AtomicU32,
    /// The process that called last; in version 2, that of the present server.
    caller: Apart<AtomicU32>,
    /// `Some` if servers may have a volatile cache.
    cache: Option<Cache>,
    life: Apart<UnsafeCell<Life>>,
    voice: UnsafeCell<Voice>,
    blob: UnsafeCell<Blob>,
}

/// What operators are told; behind the device's lock.
#[derive(Debug)]
struct Voice {
    board: Board,
    cache_watch: CacheWatch,
    /// Requests that the newest dead server held.
    held: u32,
}

/// The blob; behind the device's lock.
#[derive(Clone, Copy, Debug)]
pub struct Blob {
    /// Number of used bytes.
    pub length: u32,
    /// Bytes beyond `length` are 0.
    pub bytes: [u8; abi::BLOB_BYTES],
}

/// A queue's block. Its slots follow it in memory.
#[derive(Debug)]
#[repr(align(64))]
pub struct QueueBlock {
    device: *const Device,
    queue: *mut shim::Queue,
    index: u32,
    /// The first slot; constant, like the number of slots.
    slots: *mut Slot,
    depth: usize,
    /// Number of queued requests, for readers without the lock.
    busy: Apart<AtomicU32>,
    state: UnsafeCell<QueueState>,
    latencies: UnsafeCell<Latencies>,
    watch: UnsafeCell<QueueWatch>,
}

const _: () = assert!(size_of::<Device>() % align_of::<*mut QueueBlock>() == 0);
const _: () = assert!(size_of::<QueueBlock>() % align_of::<Slot>() == 0);

impl Device {
    /// Bytes of a block with this many queues.
    #[must_use]
    pub const fn bytes(queues: u32) -> usize {
        size_of::<Self>().saturating_add((queues as usize).saturating_mul(size_of::<*mut QueueBlock>()))
    }

    /// Initialises a block, all but its queues.
    ///
    /// # Safety
    ///
    /// `memory` is [`bytes`](Self::bytes) long, aligned to 64, and not in use. `device` stays valid as long
    /// as the block is used.
    pub unsafe fn initialise(
        memory: *mut c_void,
        params: shim::Params,
        terms: Terms,
        device: *mut shim::Device,
    ) {
        // SAFETY: one header on is still within the block, or at its end without queues.
        let queues = unsafe { memory.byte_add(size_of::<Self>()) }.cast();
        let block = Self {
            params,
            shim: device,
            queues,
            tag_bits: tag_bits(params.depth),
            size_bytes: AtomicU64::new(params.size_bytes),
            present: AtomicU32::new(0),
            gone: AtomicBool::new(false),
            deadline_ms: AtomicU32::new(params.deadline_ms),
            policy: AtomicU32::new(params.deadline_policy),
            served: AtomicU32::new(0),
            fetched: AtomicU32::new(0),
            caller: Apart(AtomicU32::new(0)),
            cache: (params.flags & abi::CREATE_VOLATILE_CACHE != 0).then(Cache::new),
            life: Apart(UnsafeCell::new(Life::new(terms))),
            voice: UnsafeCell::new(Voice { board: Board::new(), cache_watch: CacheWatch::new(), held: 0 }),
            blob: UnsafeCell::new(Blob { length: 0, bytes: [0; abi::BLOB_BYTES] }),
        };
        // SAFETY: the caller's promise; the header is at the start of the block.
        unsafe { memory.cast::<Self>().write(block) };
    }

    /// Initialises the block of one queue.
    ///
    /// # Safety
    ///
    /// `device` is an initialised block and is not shared yet; `index` is below its number of queues. `memory` is
    /// [`QueueBlock::bytes`] long, aligned to 64, and not in use. `queue` and `memory` stay valid as long as the
    /// device's block is used.
    pub unsafe fn initialise_queue(
        memory: *mut c_void,
        device: *mut c_void,
        index: u32,
        queue: *mut shim::Queue,
    ) {
        // SAFETY: the caller's promise.
        let owner = unsafe { Self::from_memory(&device) };
        let depth = owner.params.depth as usize;
        let block = memory.cast::<QueueBlock>();
        // SAFETY: one header on is still within the block.
        let slots = unsafe { block.add(1) }.cast::<Slot>();
        let header = QueueBlock {
            device: device.cast(),
            queue,
            index,
            slots,
            depth,
            busy: Apart(AtomicU32::new(0)),
            state: UnsafeCell::new(QueueState::default()),
            latencies: UnsafeCell::new(Latencies::new()),
            watch: UnsafeCell::new(QueueWatch::new()),
        };
        // SAFETY: the caller's promise.
        unsafe { block.write(header) };
        for number in 0..depth {
            // SAFETY: `number` is below the number of slots the block has room for.
            let slot = unsafe { slots.add(number) };
            // SAFETY: within the block, aligned because the header's size is a multiple of the alignment.
            unsafe { slot.write(Slot::default()) };
        }
        // SAFETY: the device's block has room for one pointer per queue.
        let place = unsafe { owner.queues.add(index as usize) };
        // SAFETY: as above, and nobody else uses the block.
        unsafe { place.write(block) };
    }

    /// The block at `memory`, for as long as the caller's pointer is borrowed.
    ///
    /// # Safety
    ///
    /// `memory` was initialised and lives as long as the result.
    #[must_use]
    pub const unsafe fn from_memory(memory: &*mut c_void) -> &Self {
        // SAFETY: the caller's promise. Only shared references to the header are ever made, and changing data
        // is in an `UnsafeCell` or atomic.
        unsafe { &*memory.cast::<Self>() }
    }

    /// The parameters of the device's creation. The size may have changed since.
    #[must_use]
    pub const fn params(&self) -> &shim::Params {
        &self.params
    }

    /// The shim's device.
    #[must_use]
    pub const fn device(&self) -> *mut shim::Device {
        self.shim
    }

    /// Whether servers of this device may have a volatile cache.
    #[inline]
    #[must_use]
    pub const fn has_cache(&self) -> bool {
        self.cache.is_some()
    }

    /// Bits of a tag in the handles of this device.
    #[inline]
    #[must_use]
    pub const fn tag_bits(&self) -> u32 {
        self.tag_bits
    }

    /// The deadline that a request has passed whose timeout of `ms` is over, and its policy; `None` if the request has no
    /// deadline.
    #[must_use]
    pub fn deadline(&self, ms: u32) -> Option<Deadline> {
        if !is_late(self.deadline_ms.load(Ordering::Relaxed), ms) {
            return None;
        }
        Some(Deadline { policy: deadline_policy(self.policy()).unwrap_or_default(), ns: deadline_ns(ms) })
    }

    /// What happens to late requests: a `DEADLINE_` number.
    #[must_use]
    pub fn policy(&self) -> u32 {
        self.policy.load(Ordering::Relaxed)
    }

    /// Whether the next flush will fail because writes were lost.
    #[must_use]
    pub fn lost(&self) -> bool {
        self.cache.as_ref().is_some_and(Cache::lost)
    }

    /// Whether the device was created read-only. `blockdev --setro` only concerns the block layer.
    #[inline]
    #[must_use]
    pub const fn is_read_only(&self) -> bool {
        self.params.flags & abi::CREATE_READ_ONLY != 0
    }

    /// Current size in bytes.
    #[inline]
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Relaxed)
    }

    /// Changes the size.
    pub fn set_size_bytes(&self, size_bytes: u64) {
        self.size_bytes.store(size_bytes, Ordering::Relaxed);
    }

    /// One of the queues.
    #[inline]
    #[must_use]
    pub fn queue(&self, index: u32) -> Option<&QueueBlock> {
        if index >= self.params.queues {
            return None;
        }
        // SAFETY: the block has more than `index` pointers from there on.
        let place = unsafe { self.queues.add(index as usize) };
        // SAFETY: written before the device was shared, and constant since.
        let block = unsafe { place.read() };
        // SAFETY: initialised before the device was shared; changing data is in an `UnsafeCell` or atomic.
        Some(unsafe { &*block })
    }

    /// All queues.
    pub fn queues(&self) -> impl Iterator<Item = &QueueBlock> {
        (0..self.params.queues).filter_map(|index| self.queue(index))
    }

    /// Takes the device's lock. Process context.
    ///
    /// # Errors
    ///
    /// `EINTR` if the caller is being killed.
    pub fn lock(&self) -> Result<LockedDevice<'_>, Errno> {
        // SAFETY: the device lives as long as its block.
        let code = unsafe { shim::zosbd2_device_lock(self.shim) };
        shim::result(code).map_err(|_| Errno::EINTR)?;
        Ok(LockedDevice { device: self })
    }

    /// Like [`lock`](Self::lock), but not killable.
    #[must_use]
    pub fn lock_always(&self) -> LockedDevice<'_> {
        // SAFETY: the device lives as long as its block.
        unsafe { shim::zosbd2_device_lock_always(self.shim) };
        LockedDevice { device: self }
    }

    /// Whether a poller of a server descriptor must see that the device is gone, or no longer belongs to this
    /// server. A hint while the device's lock is not held. An observer has epoch 0.
    #[must_use]
    pub fn lost_by(&self, epoch: u32) -> bool {
        self.gone.load(Ordering::Relaxed) || (epoch != 0 && self.present.load(Ordering::Relaxed) != epoch)
    }

    /// Reports POLLHUP to the servers that lost the device.
    pub fn hang_up(&self) {
        // SAFETY: the device lives as long as its block.
        unsafe { shim::zosbd2_device_hang_up(self.shim) };
    }

    /// Number of accepted answers, and number of outstanding requests. The lock of no queue is held.
    fn progress(&self) -> (u64, u32) {
        self.queues().fold((0, 0), |(answers, outstanding), block| {
            let mut locked = block.lock();
            let queue = locked.queue();
            (answers.wrapping_add(queue.answers()), outstanding.saturating_add(queue.outstanding()))
        })
    }

    /// Records that the server of `epoch` fetches or answers.
    #[inline]
    pub fn note_served(&self, epoch: u32) {
        // All CPUs read this cache line, and it is written once for each server.
        if self.served.load(Ordering::Relaxed) < epoch {
            self.served.fetch_max(epoch, Ordering::Relaxed);
        }
        // So is this one, unless several processes serve.
        let process = shim::process();
        if self.caller.0.load(Ordering::Relaxed) != process && self.present.load(Ordering::Relaxed) == epoch {
            self.note_process(process, epoch);
        }
    }

    /// Records that the calling process, of this number, serves the device as the server of `epoch`. Without effect on
    /// STATUS and events if a newer server has attached meanwhile.
    #[cold]
    pub fn note_process(&self, process: u32, epoch: u32) {
        // Only saves calls: the next call of another process records that one.
        self.caller.0.store(process, Ordering::Relaxed);
        // SAFETY: the device lives as long as its block.
        unsafe { shim::zosbd2_device_note_process(self.shim, epoch) };
    }

    /// The process that serves the device, or that did so last.
    #[must_use]
    pub fn process(&self) -> shim::Process {
        let mut process = shim::Process::default();
        // SAFETY: the device lives as long as its block; `process` is writable.
        unsafe { shim::zosbd2_device_process(self.shim, &raw mut process) };
        process
    }

    /// Whether the process that serves the device, or that did so last, has a living thread.
    #[must_use]
    pub fn process_lives(&self) -> bool {
        // SAFETY: the device lives as long as its block.
        unsafe { shim::zosbd2_device_process_lives(self.shim) }
    }

    /// Whether the server of `epoch` has fetched before, so that [`LockedDevice::first_fetch`] need not be called.
    #[inline]
    #[must_use]
    pub fn has_fetched(&self, epoch: u32) -> bool {
        self.fetched.load(Ordering::Acquire) >= epoch
    }

    /// Like [`note_served`](Self::note_served), for a device whose servers are unknown: records the calling
    /// process.
    pub fn note_caller(&self) {
        self.caller.0.store(shim::process(), Ordering::Relaxed);
        if self.served.load(Ordering::Relaxed) == 0 {
            self.served.store(1, Ordering::Relaxed);
        }
    }

    /// Whether the server that gets the requests has ever called, and, if servers are unknown, whether one of
    /// them is alive: the process that called last, or a thread that waits for requests or holds one.
    fn server_lives(&self) -> bool {
        let served = self.served.load(Ordering::Relaxed);
        if served == 0 || served < self.present.load(Ordering::Relaxed) {
            return false;
        }
        self.params.version != 1
            || shim::process_lives(self.caller.0.load(Ordering::Relaxed))
            || self.queues().any(QueueBlock::is_attended)
    }

    /// Fails with `EEXIST` if another disk has the name, so that a start would fail. The caller holds no lock.
    ///
    /// # Errors
    ///
    /// `EEXIST`.
    pub fn name_is_free(&self) -> Result<(), Errno> {
        // SAFETY: the device lives as long as its block, and its disk as long as a caller may start it.
        let taken = unsafe { shim::zosbd2_device_name_taken(self.shim) };
        if taken { Err(Errno::EEXIST) } else { Ok(()) }
    }

    /// Ends every request that is queued or held, because the phase accepts no requests. The lock of no queue
    /// is held.
    pub fn fail_requests(&self) {
        for queue in self.queues() {
            let mut from = Some(0);
            while let Some(tag) = from {
                let end = queue.lock().queue().fail_next(tag);
                from = end.as_ref().and_then(|end| end.tag().checked_add(1));
                // SAFETY: an effect of this queue.
                unsafe { queue.end_if(end) };
            }
        }
    }
}

/// A device's lock, held until dropped.
#[derive(Debug)]
pub struct LockedDevice<'a> {
    device: &'a Device,
}

impl LockedDevice<'_> {
    /// The engine's life of the device.
    pub fn life(&mut self) -> &mut Life {
        // SAFETY: the lock is held, and `&mut self` makes this the only reference under it.
        unsafe { &mut *self.device.life.0.get() }
    }

    /// The blob.
    pub fn blob(&mut self) -> &mut Blob {
        // SAFETY: the lock is held, and `&mut self` makes this the only reference under it.
        unsafe { &mut *self.device.blob.get() }
    }

    /// The server of this epoch gets the requests from now on; 0: no server. Called before the queues are
    /// told.
    pub fn set_present(&mut self, epoch: u32) {
        self.device.present.store(epoch, Ordering::Relaxed);
    }

    /// The server of `epoch` is about to fetch for the first time: decides what is lost with the caches of the servers
    /// before it. Nobody waits for I/O of the device while it holds the lock.
    pub fn first_fetch(&mut self, epoch: u32) {
        if self.life().first_fetch(epoch) {
            for block in self.device.queues() {
                block.lock().queue().lose_cache(epoch);
            }
        }
        // Of a server that was superseded, too: it need not ask again.
        self.device.fetched.fetch_max(epoch, Ordering::Release);
    }

    /// Declares the server of `epoch`, and all earlier ones, dead.
    pub fn declare_dead(&mut self, epoch: u32) {
        if self.device.present.load(Ordering::Relaxed) <= epoch {
            self.set_present(0);
        }
    }

    /// The device is gone.
    pub fn set_gone(&mut self) {
        self.life().gone();
        self.device.gone.store(true, Ordering::Relaxed);
    }

    /// Passes the phase on to the queues, then carries out the engine's `change`. Returns whether the caller
    /// must destroy the device after dropping the lock.
    pub fn carry_out(&mut self, change: Change) -> bool {
        let phase = self.life().phase();
        for queue in self.device.queues() {
            queue.lock().queue().set_phase(phase);
        }
        match change {
            Change::None => {}
            Change::Grace(ms) => {
                // SAFETY: the device lives as long as its block; its lock is held.
                unsafe { shim::zosbd2_device_begin_grace(self.device.shim, ms) };
            }
            Change::Fail | Change::Destroy => self.device.fail_requests(),
        }
        self.tell_news();
        change == Change::Destroy
    }

    fn voice(&mut self) -> &mut Voice {
        // SAFETY: the lock is held, and `&mut self` makes this the only reference under it.
        unsafe { &mut *self.device.voice.get() }
    }

    /// The newest server has died, and held this many requests.
    pub fn note_held(&mut self, requests: u32) {
        self.voice().held = requests;
    }

    /// Passes on what the engine wants operators to know about the device's life. A worker tells it.
    pub fn tell_news(&mut self) {
        let news = self.life().take_news();
        if news != News::NONE {
            self.note_news(news);
        }
    }

    #[cold]
    fn note_news(&mut self, news: News) {
        for kind in news.kinds() {
            let (requests, ms) = self.facts(kind);
            self.note(kind, requests, ms);
        }
        // SAFETY: the device lives as long as its block, and its worker as long as it is not gone.
        unsafe { shim::zosbd2_device_tell(self.device.shim) };
    }

    /// How many requests an event concerns, and its time.
    fn facts(&mut self, kind: Kind) -> (u32, u64) {
        let now_ms = shim::now_ms();
        let life = *self.life();
        match kind {
            Kind::Died => {
                let waits = matches!(life.phase(), Phase::Orphaned);
                (self.voice().held, if waits { life.grace_ms().into() } else { 0 })
            }
            Kind::Recovered => (self.device.progress().1, life.orphaned_for_ms(now_ms)),
            Kind::Failed => (0, life.grace_ms().into()),
            Kind::Unserved => {
                let survey = Survey::of(self.device, now_ms);
                (survey.unserved, survey.unserved_ms)
            }
            // SAFETY: the device's lock is held, and the teardown, which deletes the disk, takes it first.
            Kind::Destroyed => (unsafe { shim::zosbd2_device_opens(self.device.shim) }, 0),
            Kind::Late | Kind::CacheLost => (0, 0),
        }
    }

    fn note(&mut self, kind: Kind, requests: u32, ms: u64) {
        let process = self.device.process();
        let ms = u32::try_from(ms).unwrap_or(u32::MAX);
        let (epoch, process, program) = (self.life().epoch(), process.first, process.program);
        self.voice().board.note(Event { kind, epoch, process, program, requests, ms });
    }

    /// The next event to be told, after `late` more requests were late.
    pub fn next_event(&mut self, now_ms: u64, late: u32) -> Next {
        if late > 0 && self.device.params.version != 1 {
            self.note(Kind::Late, late, 0);
        }
        // What a destruction tells is little, and there is no later.
        let urgent = !self.life().phase().is_there();
        self.voice().board.next(now_ms, urgent)
    }

    /// Looks for what no call reports. Returns in how many milliseconds to look again, 0 for never.
    pub fn watch(&mut self, now_ms: u64) -> u32 {
        let life = *self.life();
        if !life.phase().is_there() {
            return 0;
        }
        let device = self.device;
        let (unserved, lost_flushes) = survey::look(device, now_ms, life.serving());
        let mut news = if unserved { News::NONE.with(Kind::Unserved) } else { News::NONE };
        let served = life.serving() && device.served.load(Ordering::Relaxed) >= life.epoch();
        if self.voice().cache_watch.look(lost_flushes, served, device.lost()) {
            news = news.with(Kind::CacheLost);
        }
        if news != News::NONE {
            self.note_news(news);
        }
        WATCH_MS
    }

    /// How often the node is open; 0 once the device is being destroyed.
    pub fn opens(&mut self) -> u32 {
        if !self.life().phase().is_there() {
            return 0;
        }
        // SAFETY: the device's lock is held, and it is not being destroyed, so its disk is there.
        unsafe { shim::zosbd2_device_opens(self.device.shim) }
    }

    /// Changes settings, which were checked. Returns whether the caller must destroy the device after dropping the
    /// lock.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device is being destroyed.
    pub fn set(&mut self, asked: &abi::Settings) -> Result<bool, Errno> {
        if !self.life().phase().is_there() {
            return Err(Errno::ENODEV);
        }
        if asked.flags & abi::SETTINGS_POLICY != 0 {
            self.device.policy.store(asked.deadline_policy, Ordering::Relaxed);
        }
        if asked.flags & abi::SETTINGS_DEADLINE != 0 {
            self.device.deadline_ms.store(asked.deadline_ms, Ordering::Relaxed);
            // SAFETY: the device's lock is held, and it is not being destroyed, so its disk is there.
            unsafe { shim::zosbd2_device_set_deadline(self.device.shim, asked.deadline_ms) };
        }
        if asked.flags & abi::SETTINGS_GRACE == 0 {
            return Ok(false);
        }
        let change = self.life().set_grace(asked.grace_ms, shim::now_ms());
        Ok(change != Change::None && self.carry_out(change))
    }

    /// Begins the destruction, or continues it: the server is asked to write out dirty data. When the server
    /// has had its time, ends every request with `EIO`, later ones too.
    pub fn drain(&mut self, now_ms: u64) {
        let (answers, outstanding) = self.device.progress();
        let lives = self.device.server_lives();
        if self.life().phase().is_there() {
            let change = self.life().drain(now_ms, answers, lives);
            self.carry_out(change);
        } else {
            let life = self.life();
            let change = if lives {
                life.tick(now_ms, answers, outstanding)
            } else {
                life.declare_dead(life.epoch(), now_ms)
            };
            if change != Change::None {
                self.carry_out(change);
            }
        }
    }

    /// Creates the node. The caller has just seen that the [name is free](Device::name_is_free).
    ///
    /// # Errors
    ///
    /// Errors of the engine and of the block layer.
    pub fn start(&mut self) -> Result<(), Errno> {
        self.life().may_start()?;
        // SAFETY: the device's lock is held, and it is not being destroyed, so its disk is there.
        let code = unsafe { shim::zosbd2_device_start(self.device.shim) };
        shim::result(code)?;
        self.life().set_started();
        Ok(())
    }

    /// Changes the size.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device is being destroyed.
    pub fn resize(&mut self, size_bytes: u64) -> Result<(), Errno> {
        if !self.life().phase().is_there() {
            return Err(Errno::ENODEV);
        }
        self.device.set_size_bytes(size_bytes);
        // SAFETY: the device's lock is held, and it is not being destroyed, so its disk is there.
        unsafe { shim::zosbd2_device_resize(self.device.shim, size_bytes) };
        Ok(())
    }

    /// The deadline of requests in milliseconds, as an operator may have changed it; 0 without a deadline.
    pub fn deadline_ms(&mut self) -> u32 {
        let ms = self.device.deadline_ms.load(Ordering::Relaxed);
        if ms == 0 || !self.life().phase().is_there() {
            return ms;
        }
        // SAFETY: the device's lock is held, and it is not being destroyed, so its disk is there.
        unsafe { shim::zosbd2_device_deadline(self.device.shim, ms) }
    }

    /// Major and minor number of the node; 0 and 0 without a node.
    pub fn number(&mut self) -> (u32, u32) {
        if !self.life().phase().is_there() {
            return (0, 0);
        }
        // SAFETY: the device's lock is held, and it is not being destroyed, so its disk is there.
        let number = unsafe { shim::zosbd2_device_number(self.device.shim) };
        #[expect(clippy::cast_possible_truncation, reason = "splits a word into its halves")]
        ((number >> 32) as u32, number as u32)
    }
}

impl Drop for LockedDevice<'_> {
    fn drop(&mut self) {
        // SAFETY: the lock is held.
        unsafe { shim::zosbd2_device_unlock(self.device.shim) };
    }
}

/// Least time that a server had when the block layer's timer reports this deadline. The timer counts in
/// ticks, and the first tick may be almost over when the timer starts (the longest tick is 10 ms,
/// `CONFIG_HZ=100`).
const fn deadline_ns(ms: u32) -> u64 {
    const TICK_NS: u64 = 10_000_000;
    let ns = (ms as u64).saturating_mul(1_000_000);
    if ns > TICK_NS { ns.saturating_sub(TICK_NS) } else { ns }
}

impl QueueBlock {
    /// Bytes of a block with `depth` slots; a multiple of 64.
    #[must_use]
    pub const fn bytes(depth: u32) -> usize {
        let bytes = size_of::<Self>().saturating_add((depth as usize).saturating_mul(size_of::<Slot>()));
        bytes.saturating_add(align_of::<Self>().wrapping_sub(1)) & !align_of::<Self>().wrapping_sub(1)
    }

    /// The block at `memory`, for as long as the caller's pointer is borrowed.
    ///
    /// # Safety
    ///
    /// `memory` was initialised and lives as long as the result.
    #[inline]
    #[must_use]
    pub const unsafe fn from_memory(memory: &*mut c_void) -> &Self {
        // SAFETY: the caller's promise. Only shared references to the header are ever made, and changing data
        // is in an `UnsafeCell` or atomic.
        unsafe { &*memory.cast::<Self>() }
    }

    /// The device.
    #[inline]
    #[must_use]
    pub const fn device(&self) -> &Device {
        // SAFETY: a device's block lives as long as the blocks of its queues.
        unsafe { &*self.device }
    }

    /// Number of this queue in the device.
    #[inline]
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// Whether a living thread waits for requests or holds one.
    fn is_attended(&self) -> bool {
        let mut locked = self.lock();
        locked.queue().waiting() > 0 || locked.has_living_holder()
    }

    /// Whether requests seem to be queued. A hint: the lock is not held.
    #[inline]
    #[must_use]
    pub fn seems_busy(&self) -> bool {
        self.busy.0.load(Ordering::Relaxed) != 0
    }

    /// Takes the queue's lock, for actions that do not depend on the time ([`Moment`]).
    #[inline]
    #[must_use]
    pub fn lock(&self) -> Locked<'_> {
        self.lock_at(Moment::default())
    }

    /// Takes the queue's lock, at this time.
    #[inline]
    #[must_use]
    pub fn lock_at(&self, moment: Moment) -> Locked<'_> {
        // SAFETY: the queue lives as long as the block (`initialise_queue`).
        unsafe { shim::zosbd2_queue_lock(self.queue) };
        Locked { block: self, moment, wake: Wake::NONE }
    }

    /// The shim's queue.
    #[must_use]
    pub const fn queue(&self) -> *mut shim::Queue {
        self.queue
    }

    /// The engine's queue, for a submission.
    ///
    /// # Safety
    ///
    /// The queue's lock is held, and the result is the only one for as long as it lives. The caller calls
    /// [`note_queued`](Self::note_queued) before it drops the lock.
    #[inline]
    pub unsafe fn locked_by_caller(&self) -> Queue<'_> {
        // SAFETY: `depth` slots were initialised there; the lock makes this the only reference to them.
        let slots = unsafe { slice::from_raw_parts_mut(self.slots, self.depth) };
        // SAFETY: the caller's promise makes this the only reference under the lock.
        let state = unsafe { &mut *self.state.get() };
        Queue::new(state, slots)
    }

    /// Updates the number of queued requests for readers without the lock.
    #[inline]
    pub fn note_queued(&self, queued: u32) {
        self.busy.0.store(queued, Ordering::Relaxed);
    }

    /// Ends the block request of an effect. The lock is not held.
    ///
    /// # Safety
    ///
    /// `end` is an effect of this queue.
    #[inline]
    pub unsafe fn end(&self, end: End) {
        let (tag, result) = end.use_up();
        let error = result.map_or_else(Errno::negative, |()| 0);
        // SAFETY: the engine has freed the tag, and told this caller to end its request, which happens once.
        unsafe { shim::zosbd2_request_end(self.queue, u32::from(tag), error) };
    }

    /// Ends the block request of an effect, if there is one.
    ///
    /// # Safety
    ///
    /// Like [`end`](Self::end).
    #[inline]
    pub unsafe fn end_if(&self, end: Option<End>) {
        if let Some(end) = end {
            // SAFETY: the caller's promise.
            unsafe { self.end(end) };
        }
    }

    /// Ends block requests together. The lock is not held.
    ///
    /// # Safety
    ///
    /// They are effects of this queue.
    #[inline]
    #[expect(clippy::needless_pass_by_value, reason = "they are used up")]
    pub unsafe fn end_well<const N: usize>(&self, ends: Successes<N>) {
        let tags = ends.tags.items();
        let count = u32::try_from(tags.len()).unwrap_or(0);
        // SAFETY: as in `end`, for each request.
        unsafe { shim::zosbd2_requests_end(self.queue, tags.as_ptr(), count) };
    }

    /// Wakes pollers of the server descriptors. The lock is not held.
    pub fn wake_pollers(&self) {
        // SAFETY: the queue lives as long as the block.
        unsafe { shim::zosbd2_queue_wake_pollers(self.queue) };
    }

    /// Copies `bytes` of a request's data, from `place` on, between its pages and user memory, without
    /// waiting for pages. The first `done` bytes were copied before. The place advances with the copy.
    ///
    /// # Errors
    ///
    /// `EFAULT` at the first missing page; `done` counts the bytes copied so far.
    ///
    /// # Safety
    ///
    /// The caller made the request of `handle` COPYING and has not unpinned it. `place` is all zeros, or was
    /// advanced by copies of the same tenure.
    #[inline]
    pub unsafe fn copy(
        &self,
        handle: Handle,
        place: &mut shim::Place,
        user: u64,
        bytes: u32,
        done: &mut u32,
        to_user: bool,
    ) -> Result<(), Errno> {
        let tag = u32::from(handle.tag());
        // SAFETY: the request cannot be ended while it is COPYING, so its pages and bios stay.
        let code = unsafe { shim::zosbd2_request_copy(self.queue, tag, place, user, bytes, done, to_user) };
        shim::result(code)
    }

    /// Copies the first `bytes` bytes of a request's data, like [`copy`](Self::copy).
    ///
    /// # Errors
    ///
    /// `EFAULT` if a page is missing.
    ///
    /// # Safety
    ///
    /// Like [`copy`](Self::copy).
    #[inline]
    pub unsafe fn copy_all(&self, handle: Handle, user: u64, bytes: u32, to_user: bool) -> Result<(), Errno> {
        let tag = u32::from(handle.tag());
        // SAFETY: the request cannot be ended while it is COPYING, so its pages stay.
        let code = unsafe { shim::zosbd2_request_copy_all(self.queue, tag, user, bytes, to_user) };
        shim::result(code)
    }

    /// Zeroes a request's data from its byte `start` on.
    ///
    /// # Safety
    ///
    /// The caller made the request of `handle` COPYING and has not unpinned it.
    pub unsafe fn zero(&self, handle: Handle, start: u32) {
        // SAFETY: the request cannot be ended while it is COPYING, so its pages stay.
        unsafe { shim::zosbd2_request_zero(self.queue, u32::from(handle.tag()), start) };
    }
}

/// Successful effects, to be carried out together ([`QueueBlock::end_well`]).
#[derive(Debug)]
pub struct Successes<const N: usize> {
    tags: List<u16, N>,
}

impl<const N: usize> Successes<N> {
    /// An empty list.
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        Self { tags: List::new() }
    }

    /// Whether the list is empty.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.tags.is_empty()
    }

    /// Appends a success if there is room; the callers ensure that there is. Returns a failure to the caller.
    #[inline]
    pub fn push(&mut self, end: End) -> Option<End> {
        if end.result().is_err() {
            return Some(end);
        }
        let (tag, _) = end.use_up();
        self.tags.push(tag);
        None
    }
}

impl<const N: usize> Default for Successes<N> {
    fn default() -> Self {
        Self::new()
    }
}

/// A queue's lock, held until dropped.
#[derive(Debug)]
pub struct Locked<'a> {
    block: &'a QueueBlock,
    moment: Moment,
    /// Servers to wake when the lock is dropped.
    wake: Wake,
}

impl Locked<'_> {
    /// The block of the locked queue.
    #[inline]
    #[must_use]
    pub const fn block(&self) -> &QueueBlock {
        self.block
    }

    /// The engine's queue.
    #[inline]
    pub fn queue(&mut self) -> Queue<'_> {
        // SAFETY: the lock is held, `&mut self` makes this the only one under it, and `drop` updates the
        // count.
        let queue = unsafe { self.block.locked_by_caller() };
        // SAFETY: as above.
        let latencies = unsafe { &mut *self.block.latencies.get() };
        let cache = self.block.device().cache.as_ref();
        queue.within(Surroundings { cache, latencies: Some(latencies), moment: self.moment, written: 0 })
    }

    /// Sets the time, because time has passed since the lock was taken.
    #[inline]
    pub const fn set_moment(&mut self, moment: Moment) {
        self.moment = moment;
    }

    /// The latencies so far.
    #[must_use]
    pub fn latencies(&mut self) -> Histograms {
        // SAFETY: the lock is held, and `&mut self` makes this the only reference under it.
        let latencies = unsafe { &*self.block.latencies.get() };
        latencies.histograms()
    }

    /// The watch of the queue.
    pub fn watch(&mut self) -> &mut QueueWatch {
        // SAFETY: the lock is held, and `&mut self` makes this the only reference under it.
        unsafe { &mut *self.block.watch.get() }
    }

    /// The queue at this moment, for its watch. `process_lives`: the process that called ENTER last lives.
    pub fn seen(&mut self, process_lives: bool) -> Seen {
        let queue = self.queue();
        let counters = queue.counters();
        let fetched = counters.fetched.iter().fold(0_u64, |sum, count| sum.wrapping_add(*count));
        let seen = Seen {
            queued: queue.queued(),
            held: queue.held(),
            holder_lives: true,
            waiting: queue.waiting(),
            calls: fetched.wrapping_add(counters.sleeps).wrapping_add(queue.answers()),
        };
        // Looking for the threads takes long, and is rarely needed.
        let doubtful = !process_lives && seen.held > 0 && seen.waiting == 0;
        Seen { holder_lives: !doubtful || self.has_living_holder(), ..seen }
    }

    /// Whether a thread that fetched a request, which has not been answered, lives.
    fn has_living_holder(&mut self) -> bool {
        let mut from = 0;
        while let Some(request) = self.queue().outstanding_from(from) {
            if request.state != State::Queued && shim::thread_lives(request.thread) {
                return true;
            }
            from = request.tag.wrapping_add(1);
        }
        false
    }

    /// Carries out a wake-up when the lock is dropped.
    #[inline]
    pub const fn wake(&mut self, Wake { servers, look }: Wake) {
        self.wake.servers = self.wake.servers.wrapping_add(servers);
        self.wake.look |= look;
    }

    /// Returns a request to the queue that could not be given to the server.
    #[cold]
    pub fn unfetch(&mut self, handle: Handle) {
        let before = self.queue().queued();
        let wake = self.queue().unfetch(handle);
        if trace::on() && self.queue().queued() != before {
            trace::requeue(self.block, handle.tag());
        }
        self.wake(wake);
    }

    /// Requeues the requests that a server holds, by [`Queue::requeue`], or, if the server was `declared`
    /// dead, by [`Queue::declare_dead`]. Returns their number.
    pub fn take_back(&mut self, epoch: u32, declared: bool) -> u32 {
        let (block, tracing) = (self.block, trace::on());
        let mut count = 0_u32;
        let each = |tag| {
            count = count.saturating_add(1);
            if tracing {
                trace::requeue(block, tag);
            }
        };
        if declared {
            self.queue().declare_dead(epoch, each);
        } else {
            let wake = self.queue().requeue(epoch, each);
            self.wake(wake);
        }
        count
    }

    /// Checks the wake-ups under way, by [`Queue::look_after`].
    pub fn look_after(&mut self) {
        let wake = self.queue().look_after();
        self.wake(wake);
    }

    /// Wakes every sleeping server, to be sent away.
    pub fn wake_all(&mut self) {
        self.queue().wake_all();
        // The list has all sleepers, including those that were to be woken later.
        self.wake.servers = 0;
        // SAFETY: the lock is held.
        unsafe { shim::zosbd2_queue_wake_all(self.block.queue) };
    }

    /// Sleeps as a server of `epoch`, which takes `room` requests at a time, until there may be work, at most
    /// for the time `left`, from which the slept time is subtracted. Drops the lock meanwhile. Called in the
    /// same critical section as a fetch that found nothing.
    ///
    /// # Errors
    ///
    /// `ETIME`, or `EINTR` for a signal. A thread that is being killed gets `EINTR` even if it was woken,
    /// because a request fetched by a dying server would wait for another server, or for its deadline. If the
    /// thread was woken, it has passed the wake-up on.
    #[inline]
    pub fn sleep(&mut self, epoch: u32, room: u32, left: &mut isize) -> Result<(), Errno> {
        self.queue().wait(room);
        // SAFETY: the lock is held, no wake-up is pending, and the C function returns with the lock held.
        let code = unsafe { shim::zosbd2_queue_sleep(self.block.queue, left) };
        let mut slept = Ok(());
        match code {
            shim::SENT_AWAY => {}
            shim::WOKEN => self.queue().arrive(epoch),
            _ => {
                self.queue().leave();
                slept = shim::result(code);
            }
        }
        if slept.is_ok() && shim::signal_fatal() {
            slept = Err(Errno::EINTR);
        }
        if slept.is_err() {
            let wake = self.queue().announce();
            self.wake(wake);
        }
        slept
    }
}

impl Drop for Locked<'_> {
    #[inline]
    fn drop(&mut self) {
        let queued = self.queue().queued();
        self.block.note_queued(queued);
        // SAFETY: the lock is held, and the engine chose this many sleeping servers to be woken.
        unsafe { shim::zosbd2_queue_unlock(self.block.queue, self.wake.servers, self.wake.look) };
    }
}
