// SPDX-License-Identifier: GPL-2.0-only
//! A fake of the C shim, for tests of the glue on the host. It has one thread, and user memory is the test's
//! own memory.
//!
//! Each allocation has exactly the requested length and is freed with its last reference, so that a checker
//! (Miri, the address sanitizer) notices each access outside it. The fake panics, which aborts the test, if
//! the glue breaks the rules of `kernel/shim`: a lock taken twice or not held, or the end of a request that
//! does not exist.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char, c_void};
use std::ptr;

use zosbd2_abi::v1::IOCTL_OPERATION;
use zosbd2_engine::watch::WATCH_MS;
use zosbd2_glue::block::Device as Block;
use zosbd2_glue::entry;
use zosbd2_glue::shim::{Device, File, Params, Place, Queue, TELL, timer};

const EFAULT: i32 = -14;
const ETIME: i32 = -62;

thread_local! {
    static REGISTRY: Cell<*mut c_void> = const { Cell::new(ptr::null_mut()) };
    static REGISTRY_LOCKED: Cell<bool> = const { Cell::new(false) };
    /// Every device; null once it is freed.
    static DISKS: RefCell<Vec<*mut Disk>> = const { RefCell::new(Vec::new()) };
    static SERVERS: RefCell<Vec<*mut Server>> = const { RefCell::new(Vec::new()) };
    static NOW_NS: Cell<u64> = const { Cell::new(1) };
    static ABSENT: RefCell<Option<(u64, u64)>> = const { RefCell::new(None) };
    /// The calling process, which has one thread of the same number, and the processes that have ended.
    static CALLER: Cell<u32> = const { Cell::new(1) };
    static DEAD: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    static TEXT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Zeroed memory for the engine.
struct Memory {
    start: *mut u8,
    layout: Layout,
}

impl Memory {
    fn new(bytes: usize, align: usize) -> Self {
        let layout = Layout::from_size_align(bytes, align).expect("a layout");
        assert!(bytes > 0);
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc_zeroed(layout) };
        assert!(!start.is_null());
        Self { start, layout }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout by `new`.
        unsafe { dealloc(self.start, self.layout) };
    }
}

/// A lock for one thread.
#[derive(Default)]
struct Lock(Cell<bool>);

impl Lock {
    fn take(&self) {
        assert!(!self.0.replace(true), "the lock is held");
    }

    fn give_back(&self) {
        assert!(self.0.replace(false), "the lock is not held");
    }

    fn is_held(&self) -> bool {
        self.0.get()
    }
}

/// The object behind a `Device`.
struct Disk {
    references: Cell<u32>,
    lock: Lock,
    sealed: Cell<bool>,
    destroyed: Cell<bool>,
    gone: Cell<bool>,
    /// The process that serves, and the epoch of its server.
    process: Cell<(u32, u32)>,
    params: Params,
    engine: Memory,
    queues: RefCell<Vec<*mut Hardware>>,
}

/// The object behind a `Queue`.
struct Hardware {
    lock: Lock,
    engine: Memory,
    /// The data of each request that has not ended.
    requests: RefCell<Vec<Option<Vec<u8>>>>,
    ended: RefCell<Vec<Ended>>,
}

/// A block request that has ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) tag: usize,
    pub(crate) error: i32,
    pub(crate) data: Vec<u8>,
}

/// The object behind a `File`, which is a server descriptor.
struct Server {
    disk: *mut Disk,
    epoch: Cell<u32>,
    open: Cell<bool>,
}

fn disk(device: &*mut Device) -> &Disk {
    // SAFETY: the glue's pointers come from this file, and belong to disks to which the glue holds
    // references.
    unsafe { &*device.cast::<Disk>() }
}

fn hardware(queue: &*mut Queue) -> &Hardware {
    // SAFETY: as above; a queue lives as long as its disk.
    unsafe { &*queue.cast::<Hardware>() }
}

/// The registry. When this value is dropped, no device may be left.
pub(crate) struct Module {
    memory: Memory,
}

impl Module {
    pub(crate) fn load(max_devices: u32) -> Self {
        let memory = Memory::new(entry::zosbd2_rs_registry_bytes(max_devices), 8);
        REGISTRY.set(memory.start.cast());
        // SAFETY: new memory of the requested length and alignment.
        unsafe { entry::zosbd2_rs_registry_init(REGISTRY.get(), max_devices) };
        Self { memory }
    }

    /// An ioctl on the control node.
    pub(crate) fn control<T>(&self, command: u32, argument: &mut T) -> isize {
        // SAFETY: the registry is initialised.
        unsafe { entry::zosbd2_rs_control(self.memory.start.cast(), command, address(argument), false) }
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        assert!(DISKS.with_borrow(|disks| disks.iter().all(|disk| disk.is_null())), "a device is left");
        assert!(!REGISTRY_LOCKED.get());
    }
}

/// The user address of some memory.
pub(crate) fn address<T: ?Sized>(memory: &mut T) -> u64 {
    ptr::from_mut(memory).cast::<u8>().expose_provenance() as u64
}

/// Makes this memory missing: it must be brought in before the next copy.
pub(crate) fn page_out(memory: &mut [u8]) {
    let start = address(memory);
    ABSENT.set(Some((start, start + memory.len() as u64)));
}

/// Advances the clock.
pub(crate) fn pass(ns: u64) {
    NOW_NS.set(NOW_NS.get() + ns);
}

/// The following calls are of this process.
pub(crate) fn become_process(process: u32) {
    CALLER.set(process);
}

/// A process ends. Another process keeps its descriptors.
pub(crate) fn end_process(process: u32) {
    DEAD.with_borrow_mut(|dead| dead.push(process));
}

/// A call of the server of `epoch` records its process late: it was under way when another server attached.
pub(crate) fn late_call(number: usize, epoch: u32) {
    let engine = on_disk(number, |disk| disk.engine.start.cast());
    // SAFETY: a device's block.
    unsafe { Block::from_memory(&engine) }.note_process(CALLER.get(), epoch);
}

/// The worker looks at a device. Returns the events to tell.
pub(crate) fn watch(number: usize) -> Vec<zosbd2_glue::shim::Event> {
    let engine = on_disk(number, |disk| disk.engine.start.cast());
    let now_ms = NOW_NS.get() / 1_000_000;
    // SAFETY: a device's block.
    assert_eq!(unsafe { entry::zosbd2_rs_device_watch(engine, now_ms) }, WATCH_MS);
    let mut events = Vec::new();
    let mut event = zosbd2_glue::shim::Event::default();
    // SAFETY: a device's block; `event` can be written.
    while unsafe { entry::zosbd2_rs_device_next_event(engine, now_ms, 0, &raw mut event) } == TELL {
        events.push(event);
    }
    events
}

/// The debugfs text of a queue.
pub(crate) fn show(server: usize, queue: usize, what: u32) -> String {
    TEXT.take();
    let engine = at(server, queue, |hardware| hardware.engine.start.cast());
    // SAFETY: a queue's block; the file is what zosbd2_show_begin() below takes.
    unsafe { entry::zosbd2_rs_queue_show(engine, ptr::null_mut(), what) };
    TEXT.take()
}

fn server<T>(fd: usize, action: impl FnOnce(&Server) -> T) -> T {
    let server = SERVERS.with_borrow(|servers| servers[fd]);
    // SAFETY: servers are only freed by `close`, after which their numbers are not used.
    action(unsafe { &*server })
}

fn on_disk<T>(number: usize, action: impl FnOnce(&Disk) -> T) -> T {
    let device = DISKS.with_borrow(|disks| disks[number]).cast::<Device>();
    assert!(!device.is_null(), "it is freed");
    action(disk(&device))
}

fn at<T>(number: usize, queue: usize, action: impl FnOnce(&Hardware) -> T) -> T {
    let queue = on_disk(number, |disk| disk.queues.borrow()[queue].cast::<Queue>());
    action(hardware(&queue))
}

/// The block of a descriptor's device, and the epoch of its server.
fn served(fd: usize) -> (*mut c_void, u32) {
    server(fd, |server| {
        let device = server.disk.cast();
        (disk(&device).engine.start.cast(), server.epoch.get())
    })
}

/// An ioctl on a server descriptor.
pub(crate) fn call<T>(fd: usize, command: u32, argument: &mut T) -> isize {
    let (engine, epoch) = served(fd);
    // SAFETY: a device's block; the descriptor keeps it.
    unsafe { entry::zosbd2_rs_server(engine, epoch, command, address(argument)) }
}

/// The poll events of a server descriptor.
pub(crate) fn poll(fd: usize) -> u32 {
    let (engine, epoch) = served(fd);
    // SAFETY: a device's block; the descriptor keeps it.
    unsafe { entry::zosbd2_rs_server_poll(engine, epoch) }
}

/// The last close of a server descriptor.
pub(crate) fn close(fd: usize) {
    let (engine, epoch) = served(fd);
    assert!(server(fd, |server| server.open.replace(false)), "closed twice");
    if epoch != 0 {
        // SAFETY: both are initialised and stay so.
        unsafe { entry::zosbd2_rs_server_closed(engine, REGISTRY.get(), epoch) };
    }
    work();
    let server = SERVERS.with_borrow(|servers| servers[fd]);
    // SAFETY: made by zosbd2_server_open(), and no longer open.
    let server = unsafe { Box::from_raw(server) };
    zosbd2_device_put(server.disk.cast());
}

/// The operation call on a device's node.
pub(crate) fn operation<T: ?Sized>(number: usize, argument: &mut T) -> isize {
    let engine = on_disk(number, |disk| disk.engine.start.cast());
    // SAFETY: a device's block, which is not freed meanwhile.
    unsafe { entry::zosbd2_rs_node(engine, true, IOCTL_OPERATION, address(argument)) }
}

/// Submits a block request, on any CPU, like `queue_rq`.
pub(crate) fn submit(
    number: usize,
    queue: usize,
    tag: usize,
    (op, offset): (u32, u64),
    data: Vec<u8>,
) -> i32 {
    const LAST: u32 = 1 << 16;
    at(number, queue, |hardware| {
        let length = u32::try_from(data.len()).expect("short");
        let place = hardware.requests.borrow_mut()[tag].replace(data);
        assert_eq!(place, None, "the tag is in use");
        hardware.lock.take();
        let (engine, tag) = (hardware.engine.start.cast(), u32::try_from(tag).expect("small"));
        // SAFETY: a queue's block, with its lock held.
        let code =
            unsafe { entry::zosbd2_rs_queue_submit(engine, tag, op | LAST, offset, length, NOW_NS.get()) };
        hardware.lock.give_back();
        code
    })
}

/// The deadline of every block request that has one, in milliseconds.
const DEADLINE_MS: u32 = 50;

/// The deadline of a request passes. Returns whether the request has ended.
pub(crate) fn expire(number: usize, queue: usize, tag: u32) -> bool {
    time_out(number, queue, tag, DEADLINE_MS) == timer::OVER
}

/// A request's timeout passes. Returns what becomes of its timer.
pub(crate) fn time_out(number: usize, queue: usize, tag: u32, timeout_ms: u32) -> u32 {
    let mut late = zosbd2_glue::shim::Late::default();
    let engine = at(number, queue, |hardware| hardware.engine.start.cast());
    // SAFETY: a queue's block; `late` can be written.
    unsafe { entry::zosbd2_rs_queue_expire(engine, tag, timeout_ms, &raw mut late) }
}

/// The requests that ended since the last call.
pub(crate) fn ended(number: usize, queue: usize) -> Vec<Ended> {
    at(number, queue, |hardware| hardware.ended.take())
}

/// Runs the workers of destroyed devices.
fn work() {
    for disk in DISKS.with_borrow(Clone::clone) {
        let device = disk.cast();
        if !disk.is_null() && self::disk(&device).destroyed.get() && !self::disk(&device).gone.get() {
            tear_down(device);
        }
    }
}

/// Runs the worker of one device.
fn tear_down(device: *mut Device) {
    {
        let disk = disk(&device);
        let engine = disk.engine.start.cast();
        let mut now_ms = NOW_NS.get() / 1_000_000;
        loop {
            // SAFETY: a device's block.
            let wait_ms = unsafe { entry::zosbd2_rs_device_drain(engine, now_ms) };
            let left = disk
                .queues
                .borrow()
                .iter()
                .any(|queue| hardware(&queue.cast()).requests.borrow().iter().any(Option::is_some));
            if !left {
                break;
            }
            assert!(wait_ms > 0, "requests are left, and nobody looks after them");
            now_ms += u64::from(wait_ms);
        }
        // SAFETY: a device's block.
        unsafe { entry::zosbd2_rs_device_gone(engine) };
        // SAFETY: the registry is initialised.
        unsafe { entry::zosbd2_rs_registry_remove(REGISTRY.get(), disk.params.place) };
        disk.gone.set(true);
    }
    zosbd2_device_put(device);
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_device_create(params: *const Params, device: *mut *mut Device) -> i32 {
    // SAFETY: the glue's promise.
    let params = unsafe { params.read() };
    let engine = Memory::new(entry::zosbd2_rs_device_bytes(params.queues), 64);
    let memory = engine.start.cast();
    let made: *mut Device = Box::into_raw(Box::new(Disk {
        references: Cell::new(1),
        lock: Lock::default(),
        sealed: Cell::new(false),
        destroyed: Cell::new(false),
        gone: Cell::new(false),
        process: Cell::new((0, 0)),
        params,
        engine,
        queues: RefCell::default(),
    }))
    .cast();
    DISKS.with_borrow_mut(|disks| disks.push(made.cast()));
    // SAFETY: new memory of the requested length and alignment.
    unsafe { entry::zosbd2_rs_device_init(memory, &raw const params, made) };
    for index in 0..params.queues {
        let hardware = Box::into_raw(Box::new(Hardware {
            lock: Lock::default(),
            engine: Memory::new(entry::zosbd2_rs_queue_bytes(params.depth), 64),
            requests: RefCell::new(vec![None; params.depth as usize]),
            ended: RefCell::default(),
        }));
        let engine = self::hardware(&hardware.cast()).engine.start.cast();
        // SAFETY: new memory of the requested length and alignment; the device is initialised and not shared.
        unsafe { entry::zosbd2_rs_queue_init(engine, memory, index, hardware.cast()) };
        disk(&made).queues.borrow_mut().push(hardware);
    }
    // SAFETY: the glue's promise.
    unsafe { device.write(made) };
    0
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_device_engine(device: *mut Device) -> *mut c_void {
    disk(&device).engine.start.cast()
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_device_get(device: *mut Device) {
    let references = &disk(&device).references;
    references.set(references.get() + 1);
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_device_put(device: *mut Device) {
    let left = disk(&device).references.get() - 1;
    disk(&device).references.set(left);
    if left > 0 {
        return;
    }
    assert!(disk(&device).gone.get(), "the last reference to a device that is there");
    // SAFETY: made by zosbd2_device_create(), and there are no references any more.
    let disk = unsafe { Box::from_raw(device.cast::<Disk>()) };
    for queue in disk.queues.take() {
        // SAFETY: made with the disk.
        let queue = unsafe { Box::from_raw(queue) };
        assert!(!queue.lock.is_held());
        assert!(queue.requests.borrow().iter().all(Option::is_none), "a request never ended");
    }
    DISKS.with_borrow_mut(|disks| {
        for place in disks.iter_mut().filter(|place| **place == device.cast()) {
            *place = ptr::null_mut();
        }
    });
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_device_lock(device: *mut Device) -> i32 {
    disk(&device).lock.take();
    0
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_device_lock_always(device: *mut Device) {
    disk(&device).lock.take();
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_device_unlock(device: *mut Device) {
    disk(&device).lock.give_back();
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_device_name_taken(device: *mut Device) -> bool {
    assert!(!disk(&device).lock.is_held());
    false
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_device_start(device: *mut Device) -> i32 {
    assert!(disk(&device).lock.is_held());
    0
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_device_resize(device: *mut Device, _size_bytes: u64) {
    assert!(disk(&device).lock.is_held());
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_device_hang_up(device: *mut Device) {
    assert!(disk(&device).references.get() > 0);
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_device_number(device: *mut Device) -> u64 {
    assert!(disk(&device).lock.is_held());
    259 << 32 | 7
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_device_deadline(device: *mut Device, ms: u32) -> u32 {
    assert!(disk(&device).lock.is_held());
    ms
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_device_begin_grace(device: *mut Device, _ms: u32) {
    assert!(disk(&device).lock.is_held());
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_device_set_deadline(device: *mut Device, _ms: u32) {
    assert!(disk(&device).lock.is_held());
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_device_opens(device: *mut Device) -> u32 {
    assert!(disk(&device).lock.is_held());
    0
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_device_note_process(device: *mut Device, epoch: u32) {
    let process = &disk(&device).process;
    if epoch >= process.get().1 {
        process.set((CALLER.get(), epoch));
    }
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_device_process(device: *mut Device, process: *mut zosbd2_glue::shim::Process) {
    let program = *b"fake\0\0\0\0\0\0\0\0\0\0\0\0";
    let (first, _) = disk(&device).process.get();
    let own = if lives(first) { first } else { 0 };
    // SAFETY: the glue's promise.
    unsafe { process.write(zosbd2_glue::shim::Process { first, own, program }) };
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_device_process_lives(device: *mut Device) -> bool {
    lives(disk(&device).process.get().0)
}

fn lives(process: u32) -> bool {
    DEAD.with_borrow(|dead| !dead.contains(&process))
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_thread() -> u32 {
    CALLER.get()
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_thread_lives(thread: u32) -> bool {
    lives(thread)
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_process() -> u32 {
    CALLER.get()
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_process_lives(process: u32) -> bool {
    lives(process)
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_device_tell(device: *mut Device) {
    assert!(disk(&device).lock.is_held());
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_device_seal(device: *mut Device, _force: bool) -> bool {
    assert!(REGISTRY_LOCKED.get());
    disk(&device).sealed.set(true);
    true
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_device_destroy(device: *mut Device) {
    assert!(!disk(&device).destroyed.replace(true), "destroyed twice");
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_device_wait_gone(device: *mut Device) -> i32 {
    assert!(disk(&device).destroyed.get(), "nobody destroys it");
    work();
    assert!(disk(&device).gone.get());
    0
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_server_open(device: *mut Device, file: *mut *mut File) -> i32 {
    zosbd2_device_get(device);
    let server = Server { disk: device.cast(), epoch: Cell::new(0), open: Cell::new(false) };
    let server = Box::into_raw(Box::new(server));
    // SAFETY: the glue's promise.
    unsafe { file.write(server.cast()) };
    SERVERS.with_borrow_mut(|servers| {
        servers.push(server);
        i32::try_from(servers.len() - 1).expect("few")
    })
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_server_appoint(file: *mut File, epoch: u32) {
    // SAFETY: made by zosbd2_server_open().
    unsafe { &*file.cast::<Server>() }.epoch.set(epoch);
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_server_install(fd: i32, file: *mut File) {
    let number = usize::try_from(fd).expect("a descriptor");
    assert_eq!(SERVERS.with_borrow(|servers| servers[number]), file.cast());
    server(number, |server| server.open.set(true));
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_server_abandon(fd: i32, file: *mut File) {
    zosbd2_server_install(fd, file);
    close(usize::try_from(fd).expect("a descriptor"));
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_queue_lock(queue: *mut Queue) {
    hardware(&queue).lock.take();
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_queue_unlock(queue: *mut Queue, servers: u32, look: bool) {
    assert_eq!((servers, look), (0, false), "nobody sleeps");
    hardware(&queue).lock.give_back();
}

/// No other thread could wake this one.
#[unsafe(no_mangle)]
extern "C" fn zosbd2_queue_sleep(queue: *mut Queue, left: *mut isize) -> i32 {
    assert!(hardware(&queue).lock.is_held());
    // SAFETY: the glue's promise.
    assert!(unsafe { left.read() } >= 0);
    ETIME
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_queue_wake_all(queue: *mut Queue) {
    assert!(hardware(&queue).lock.is_held());
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_queue_wake_pollers(queue: *mut Queue) {
    assert!(!hardware(&queue).lock.is_held());
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_request_end(queue: *mut Queue, tag: u32, error: i32) {
    let (hardware, tag) = (hardware(&queue), tag as usize);
    assert!(!hardware.lock.is_held());
    let data = hardware.requests.borrow_mut()[tag].take().expect("a request that is not ended");
    hardware.ended.borrow_mut().push(Ended { tag, error, data });
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_requests_end(queue: *mut Queue, tags: *const u16, count: u32) {
    for index in 0..count as usize {
        // SAFETY: the glue's promise: so many tags are there.
        let tag = unsafe { tags.add(index) };
        // SAFETY: as above.
        let tag = unsafe { tag.read() };
        zosbd2_request_end(queue, tag.into(), 0);
    }
}

/// Whether a copy to or from there meets a missing page.
fn faults(user: u64, bytes: usize) -> bool {
    ABSENT.with_borrow(|absent| {
        absent.is_some_and(|(start, end)| user < end && start < user + bytes as u64) || user == 0
    })
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_request_copy(
    queue: *mut Queue,
    tag: u32,
    place: *mut Place,
    user: u64,
    bytes: u32,
    done: *mut u32,
    to_user: bool,
) -> i32 {
    // Here a place is the offset of its byte.
    let place = place.cast::<u64>();
    // SAFETY: the glue's promise.
    let before = unsafe { done.read() };
    // SAFETY: the glue's promise.
    let from = usize::try_from(unsafe { place.read() }).expect("an offset");
    let length = (bytes - before) as usize;
    let user = user + u64::from(before);
    if faults(user, length) {
        return EFAULT;
    }
    let memory = ptr::with_exposed_provenance_mut::<u8>(usize::try_from(user).expect("an address"));
    let mut requests = hardware(&queue).requests.borrow_mut();
    let data =
        &mut requests[tag as usize].as_mut().expect("a request that is not ended")[from..from + length];
    if to_user {
        // SAFETY: the test's memory has the stated length.
        unsafe { ptr::copy_nonoverlapping(data.as_ptr(), memory, length) };
    } else {
        // SAFETY: as above.
        unsafe { ptr::copy_nonoverlapping(memory, data.as_mut_ptr(), length) };
    }
    // SAFETY: the glue's promise.
    unsafe { place.write((from + length) as u64) };
    // SAFETY: the glue's promise.
    unsafe { done.write(bytes) };
    0
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_request_copy_all(
    queue: *mut Queue,
    tag: u32,
    user: u64,
    bytes: u32,
    to_user: bool,
) -> i32 {
    zosbd2_request_copy(queue, tag, &mut Place::default(), user, bytes, &mut 0, to_user)
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_request_zero(queue: *mut Queue, tag: u32, start: u32) {
    let mut requests = hardware(&queue).requests.borrow_mut();
    requests[tag as usize].as_mut().expect("a request that is not ended")[start as usize..].fill(0);
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_user_read(to: *mut c_void, user: u64, bytes: u32) -> i32 {
    if faults(user, bytes as usize) {
        return EFAULT;
    }
    let from = ptr::with_exposed_provenance::<u8>(usize::try_from(user).expect("an address"));
    // SAFETY: the test's memory and the glue's have the stated length.
    unsafe { ptr::copy_nonoverlapping(from, to.cast(), bytes as usize) };
    0
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_user_write(user: u64, from: *const c_void, bytes: u32) -> i32 {
    if faults(user, bytes as usize) {
        return EFAULT;
    }
    let to = ptr::with_exposed_provenance_mut::<u8>(usize::try_from(user).expect("an address"));
    // SAFETY: the test's memory and the glue's have the stated length.
    unsafe { ptr::copy_nonoverlapping(from.cast(), to, bytes as usize) };
    0
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_user_clear(user: u64, bytes: u32) -> i32 {
    let zeros = vec![0_u8; bytes as usize];
    zosbd2_user_write(user, zeros.as_ptr().cast(), bytes)
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_user_check(user: u64, _bytes: u32) -> i32 {
    if user == 0 { EFAULT } else { 0 }
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_user_fault_in(user: u64, bytes: u32, _write: bool) -> i32 {
    if faults(user, bytes as usize) {
        ABSENT.set(None);
    }
    if user == 0 { EFAULT } else { 0 }
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_user_tail_is_zero(user: u64, bytes: u32) -> i32 {
    let mut tail = vec![0_u8; bytes as usize];
    let code = zosbd2_user_read(tail.as_mut_ptr().cast(), user, bytes);
    if code == 0 { tail.iter().all(|byte| *byte == 0).into() } else { code }
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_registry_lock() -> i32 {
    zosbd2_registry_lock_always();
    0
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_registry_lock_always() {
    assert!(!REGISTRY_LOCKED.replace(true), "the registry is locked");
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_registry_unlock() {
    assert!(REGISTRY_LOCKED.replace(false), "the registry is not locked");
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_now_ns() -> u64 {
    pass(1000);
    NOW_NS.get()
}

fn add(text: &str) {
    TEXT.with_borrow_mut(|shown| shown.push_str(text));
}

fn string(text: *const c_char) -> String {
    // SAFETY: the glue's strings are terminated.
    unsafe { CStr::from_ptr(text) }.to_str().expect("plain text").to_owned()
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_show_begin(_file: *mut c_void, queue: u32) -> bool {
    add(&format!("queue={queue}"));
    true
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_show_number(_file: *mut c_void, key: *const c_char, number: u64) {
    add(&format!(" {}={number}", string(key)));
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_show_word(_file: *mut c_void, key: *const c_char, word: *const c_char) {
    add(&format!(" {}={}", string(key), string(word)));
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_show_end(_file: *mut c_void) {
    add("\n");
}

#[unsafe(no_mangle)]
extern "C" fn zosbd2_version(version: *mut u8) {
    // SAFETY: the glue gives 32 bytes.
    unsafe { version.write_bytes(b'1', 1) };
}

/// Functions with a constant result.
macro_rules! always {
    ($($name:ident($($argument:ty),*) $(-> $result:ty = $value:expr)?;)*) => { $(
        #[unsafe(no_mangle)]
        extern "C" fn $name($(_: $argument),*) $(-> $result)? {
            $($value)?
        }
    )* };
}

always! {
    zosbd2_node_exists(*const u8) -> bool = false;
    zosbd2_signal_pending() -> u32 = 0;
    zosbd2_signal_fatal() -> bool = false;
    zosbd2_pause() -> bool = true;
    zosbd2_current_uid() -> u32 = 0;
    zosbd2_may_serve(u32) -> bool = true;
    zosbd2_timeout(u32) -> isize = 0;
    zosbd2_spin(u64) -> bool = false;
    zosbd2_cpus() -> u32 = 4;
    zosbd2_page_size() -> u32 = 4096;
    zosbd2_tracing() -> bool = true;
    zosbd2_trace_fetch(*mut Queue, u32, u32, u32);
    zosbd2_trace_commit(*mut Queue, u32, u32, u32, i32);
    zosbd2_trace_requeue(*mut Queue, u32);
    zosbd2_trace_timeout(*mut Queue, u32, u32);
}
