// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owned requests and asynchronous backends, through the kernel: data, stops, take-overs, and the death of an
//! executor.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use zosbd2::{
    AsyncBackend, Backend as _, Blocking, Builder, Capabilities, End, Errno, Handler, Request, ServeOptions,
    Server, State, StopToken, TakeOver, Zero,
};
use zosbd2_backends::conformance::{self, Check};
use zosbd2_backends::{Null, Ram};

use super::super::support::open_direct;
use super::support::{Disk, Serving, control};
use crate::guest::{Context, Need, Test, run, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_owned_conformance", owned_conformance).needs(&[Need::Module]).timeout(120),
    Test::new("v2_owned_conformance_elsewhere", elsewhere_conformance).needs(&[Need::Module]).timeout(120),
    Test::new("v2_async_conformance", async_conformance).needs(&[Need::Module]).timeout(120),
    Test::new("v2_tokio_conformance", tokio_conformance).needs(&[Need::Module]).timeout(120),
    Test::new("v2_owned_fio_verify", owned_fio).needs(&[Need::Module, Need::Tool("fio")]).timeout(150),
    Test::new("v2_tokio_fio_verify", tokio_fio).needs(&[Need::Module, Need::Tool("fio")]).timeout(150),
    Test::new("v2_owned_take_over", take_over).needs(&[Need::Module]).timeout(60),
    Test::new("v2_tokio_ends", tokio_ends).needs(&[Need::Module]).timeout(60),
    Test::new("v2_slow_disk", slow_disk).needs(&[Need::Module, Need::Program("slow_disk")]).timeout(90),
];

const MIB: u64 = 1 << 20;

/// Serves a started device.
type Serve = Box<dyn FnOnce(&Arc<Server>, Box<dyn FnOnce() + Send>) -> zosbd2::Result<End> + Send>;

fn serve(builder: &Builder, serve: Serve) -> (Disk, Serving) {
    let disk = Disk::create(builder);
    let (ready, is_ready) = mpsc::channel();
    let server = disk.server.clone();
    let serving =
        std::thread::spawn(move || serve(&server, Box::new(move || ready.send(()).expect("listened to"))));
    is_ready.recv_timeout(Duration::from_secs(60)).expect("the device to be ready");
    (disk, serving)
}

/// A description for this RAM disk.
fn describe(name: &str, ram: &Ram) -> Builder {
    Builder::new(name).for_backend(ram).partition_scan(false)
}

fn conform(context: &Context, (disk, serving): (Disk, Serving)) {
    let target = conformance::Disk::open(&disk.path()).expect("open the disk");
    let report = conformance::run(&target, context.seed()).unwrap_or_else(|failure| panic!("{failure}"));
    drop(target);
    disk.destroy_and_join(serving);
    let skipped: Vec<_> =
        report.iter().filter(|Check { skipped, .. }| skipped.is_some()).map(|check| check.name).collect();
    assert_eq!(skipped, ["outside"]);
}

fn fio(context: &mut Context, serving: (Disk, Serving)) {
    let (disk, serving) = serving;
    let file = format!("--filename={}", disk.path().display());
    let seed = format!("--randseed={}", context.seed());
    let options = [
        "--name=verify",
        "--ioengine=libaio",
        "--direct=1",
        "--rw=randrw",
        "--bsrange=4k-256k",
        "--iodepth=64",
        "--size=48m",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--thread",
    ];
    run(120, "fio", &[&options[..], &[&file, &seed]].concat());
    disk.destroy_and_join(serving);
}

/// Serves a RAM disk with owned requests on the lane's thread.
fn owned(name: &str) -> (Disk, Serving) {
    let ram = Ram::new(64 * MIB).expect("memory");
    let options = ServeOptions::default().threads_per_queue(2).batch(5);
    serve(
        &describe(name, &ram).queues(2),
        Box::new(move |server, ready| {
            server.serve_requests(&Blocking(ram), &options, &StopToken::new(), ready)
        }),
    )
}

fn owned_conformance(context: &mut Context) {
    context.load_module("");
    conform(context, owned("owned"));
}

fn owned_fio(context: &mut Context) {
    context.load_module("");
    fio(context, owned("ownedfio"));
}

/// Passes requests on to threads.
struct Elsewhere {
    ram: Arc<Ram>,
    threads: Mutex<mpsc::Sender<Request>>,
}

impl Handler for Elsewhere {
    fn size(&self) -> u64 {
        self.ram.size()
    }

    fn capabilities(&self) -> Capabilities {
        self.ram.capabilities()
    }

    fn handle(&self, request: Request) {
        self.threads.lock().expect("lock").send(request).expect("threads listen");
    }
}

fn elsewhere_conformance(context: &mut Context) {
    context.load_module("");
    let ram = Arc::new(Ram::new(64 * MIB).expect("memory"));
    let (sender, receiver) = mpsc::channel();
    let receiver = Arc::new(Mutex::new(receiver));
    let threads: Vec<JoinHandle<()>> = (0..3)
        .map(|_| {
            let (ram, receiver) = (ram.clone(), receiver.clone());
            std::thread::spawn(move || {
                loop {
                    let Ok(request) = receiver.lock().expect("lock").recv() else { return };
                    Blocking(&*ram).handle(request);
                }
            })
        })
        .collect();
    let builder = describe("elsewhere", &ram);
    let handler = Elsewhere { ram, threads: Mutex::new(sender) };
    let serving = serve(
        &builder,
        Box::new(move |server, ready| {
            server.serve_requests(&handler, &ServeOptions::default(), &StopToken::new(), ready)
        }),
    );
    conform(context, serving);
    for thread in threads {
        thread.join().expect("no panic");
    }
}

/// A RAM disk whose operations are interrupted once.
struct Paused(Ram);

impl Paused {
    async fn pause() {
        tokio::task::yield_now().await;
    }
}

impl AsyncBackend for Paused {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    async fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        Self::pause().await;
        self.0.read(offset, buffer)
    }

    async fn write(&self, offset: u64, data: &mut [u8], fua: bool) -> Result<(), Errno> {
        Self::pause().await;
        self.0.write(offset, data, fua)
    }

    async fn discard(&self, offset: u64, length: u64) -> Result<(), Errno> {
        self.0.discard(offset, length)
    }

    async fn write_zeroes(&self, offset: u64, length: u64, zero: Zero) -> Result<(), Errno> {
        Self::pause().await;
        self.0.write_zeroes(offset, length, zero)
    }

    async fn secure_erase(&self, offset: u64, length: u64) -> Result<(), Errno> {
        self.0.secure_erase(offset, length)
    }
}

fn async_conformance(context: &mut Context) {
    context.load_module("");
    let ram = Ram::new(64 * MIB).expect("memory");
    let options = ServeOptions::default().in_flight(3);
    let serving = serve(
        &describe("async", &ram).queues(2),
        Box::new(move |server, ready| server.serve_async(&Paused(ram), &options, &StopToken::new(), ready)),
    );
    conform(context, serving);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn in_tokio(name: &str) -> (Disk, Serving) {
    let ram = Ram::new(64 * MIB).expect("memory");
    serve(
        &describe(name, &ram).queues(2),
        Box::new(move |server, ready| {
            let (options, stop) = (ServeOptions::default(), StopToken::new());
            runtime().block_on(server.serve_tokio(Arc::new(Paused(ram)), &options, &stop, ready))
        }),
    )
}

fn tokio_conformance(context: &mut Context) {
    context.load_module("");
    conform(context, in_tokio("tokio"));
}

fn tokio_fio(context: &mut Context) {
    context.load_module("");
    fio(context, in_tokio("tokiofio"));
}

/// Keeps requests until the test answers them.
struct Keeps(Arc<Mutex<Vec<Request>>>);

impl Handler for Keeps {
    fn size(&self) -> u64 {
        16 * MIB
    }

    fn handle(&self, request: Request) {
        self.0.lock().expect("lock").push(request);
    }
}

/// A reader of one block. Returns its first byte.
fn reader(disk: &Disk) -> JoinHandle<Result<u8, Errno>> {
    let path = disk.path();
    std::thread::spawn(move || {
        let node = open_direct(&path);
        let mut buffer = zosbd2::Buffer::new(4096, true).expect("memory");
        rustix::io::pread(&node, &mut *buffer, 0).map(|_| buffer[0])
    })
}

/// The old server answers what it holds, and ends; the new one gets what comes then.
fn take_over(context: &mut Context) {
    context.load_module("");
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keeps = Keeps(kept.clone());
    let builder = Builder::new("over").size_bytes(16 * MIB).partition_scan(false);
    let (disk, serving) = serve(
        &builder,
        Box::new(move |server, ready| {
            server.serve_requests(&keeps, &ServeOptions::default(), &StopToken::new(), ready)
        }),
    );
    let first = reader(&disk);
    wait_until(20, "the read to arrive", || !kept.lock().expect("lock").is_empty());
    let next = control().attach(disk.name.as_str(), TakeOver::Yes).expect("attach");
    assert!(!serving.is_finished());
    for mut request in std::mem::take(&mut *kept.lock().expect("lock")) {
        request.data_mut().fill(7);
        request.complete(Ok(()));
    }
    assert_eq!(first.join().expect("no panic"), Ok(7));
    assert_eq!(serving.join().expect("no panic").expect("served"), End::TakenOver);
    let next = Disk { server: Arc::new(next), name: disk.name.clone() };
    let serving = next.serve_with(&Arc::new(Null::new(16 * MIB)), ServeOptions::default());
    assert_eq!(reader(&next).join().expect("no panic"), Ok(0));
    next.destroy_and_join(serving);
}

/// Never ends a read.
struct Stuck;

impl AsyncBackend for Stuck {
    fn size(&self) -> u64 {
        16 * MIB
    }

    async fn read(&self, _: u64, _: &mut [u8]) -> Result<(), Errno> {
        std::future::pending().await
    }

    async fn write(&self, _: u64, _: &mut [u8], _: bool) -> Result<(), Errno> {
        Ok(())
    }
}

/// The future of the serve call is dropped: nothing is answered, and the next server gets the request.
fn tokio_ends(context: &mut Context) {
    context.load_module("");
    let builder = Builder::new("ends").size_bytes(16 * MIB).partition_scan(false);
    let server = Arc::new(control().create(&builder).expect("create"));
    let name = server.name().to_owned();
    let (ready, mut is_ready) = tokio::sync::oneshot::channel();
    let reading = runtime().block_on(async {
        let (options, stop) = (ServeOptions::default(), StopToken::new());
        let serving = server.serve_tokio(Arc::new(Stuck), &options, &stop, || ready.send(()).expect("sent"));
        tokio::pin!(serving);
        tokio::select! {
            end = &mut serving => panic!("served: {end:?}"),
            _ = &mut is_ready => {}
        }
        let disk = Disk { server: server.clone(), name: name.clone() };
        let reading = reader(&disk);
        drop(disk);
        let held = async {
            while server.stats(0).expect("stats").held == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            end = &mut serving => panic!("served: {end:?}"),
            () = held => {}
        }
        reading
    });
    drop(server);
    wait_until(20, "the server's death", || {
        control().status(&name).expect("status").state == State::Orphaned
    });
    assert!(!reading.is_finished());
    let next = control().attach(name.as_str(), TakeOver::No).expect("attach");
    let next = Disk { server: Arc::new(next), name };
    let serving = next.serve_with(&Arc::new(Null::new(16 * MIB)), ServeOptions::default());
    assert_eq!(reading.join().expect("no panic"), Ok(0));
    next.destroy_and_join(serving);
}

/// A number in `/proc/PID/status`.
fn status_of(process: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("the status");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
    line.trim_start_matches(':')
        .split_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .expect("a number")
}

/// Readers of the slow disk, and the reads of each.
const READERS: usize = 64;
const READS: u64 = 4;

/// Each reader reads some blocks, one after the other. With a barrier all begin each read together.
fn read_slowly(barrier: Option<&Barrier>) {
    let node = std::path::Path::new("/dev/zosbd2-slow");
    std::thread::scope(|scope| {
        for reader in 0..READERS as u64 {
            scope.spawn(move || {
                let node = open_direct(node);
                let mut buffer = zosbd2::Buffer::new(4096, true).expect("memory");
                for block in 0..READS {
                    if let Some(barrier) = barrier {
                        barrier.wait();
                    }
                    let read = rustix::io::pread(&node, &mut *buffer, (reader * READS + block) * 4096);
                    assert_eq!(read, Ok(4096));
                }
            });
        }
    });
}

/// 256 reads of 100 ms by 64 readers: with a thread for each of 64 requests, this took 5.7 s and 527 MB.
///
/// The time is that of the machine, too, so it counts only with `--icount --set undisturbed=1`. Otherwise the test counts
/// requests: the server holds the reads of all readers at the same time.
fn slow_disk(context: &mut Context) {
    context.load_module("");
    let mut server = context.spawn("slow_disk", &[]);
    wait_until(30, "the server to serve", || {
        assert!(server.running(), "it ended: {}", server.stderr());
        server.stderr().contains("serving /dev/zosbd2-slow\n")
    });
    let before = status_of(server.id(), "VmRSS");
    let begin = std::time::Instant::now();
    read_slowly(None);
    let took = begin.elapsed();
    if context.setting("undisturbed").is_some() {
        assert!(took <= Duration::from_millis(750), "{took:?}");
    }

    let observer = control().observe("slow").expect("observe");
    let done = AtomicBool::new(false);
    let most = || {
        let mut most = 0;
        while !done.load(Ordering::Relaxed) {
            most = most.max(observer.stats(0).expect("stats").held);
            std::thread::sleep(Duration::from_millis(1));
        }
        most
    };
    // The peak is that of four waves. A guest that stands still for long may miss it, and tries again.
    let full = (0..10).any(|_| {
        done.store(false, Ordering::Relaxed);
        let barrier = Barrier::new(READERS);
        std::thread::scope(|scope| {
            let most = scope.spawn(most);
            read_slowly(Some(&barrier));
            done.store(true, Ordering::Relaxed);
            most.join().expect("no panic") as usize == READERS
        })
    });
    assert!(full, "the server never held the reads of all readers at the same time");

    let (threads, most) = (status_of(server.id(), "Threads"), status_of(server.id(), "VmHWM"));
    let grown = most.saturating_sub(before);
    context.say(&format!(
        "256 reads of 100 ms by 64 readers: {took:?}, {threads} threads, {most} KiB at most, {grown} KiB more than before"
    ));
    assert!(threads <= 4, "{threads} threads");
    assert!(grown <= 10 << 10, "{grown} KiB more");
    server.signal(rustix::process::Signal::TERM);
    assert!(server.wait(20).success(), "the server did not exit with 0: {}", server.stderr());
}

/// Answers every request at once, and stores nothing, for the benchmark.
pub(super) struct NullRequests(pub(super) u64);

impl Handler for NullRequests {
    fn size(&self) -> u64 {
        self.0
    }

    #[inline]
    fn handle(&self, request: Request) {
        request.complete(Ok(()));
    }
}

impl AsyncBackend for NullRequests {
    fn size(&self) -> u64 {
        self.0
    }

    async fn read(&self, _: u64, _: &mut [u8]) -> Result<(), Errno> {
        Ok(())
    }

    async fn write(&self, _: u64, _: &mut [u8], _: bool) -> Result<(), Errno> {
        Ok(())
    }
}

/// Serves [`NullRequests`] in a current-thread runtime.
pub(super) fn serve_in_tokio(builder: Builder, bytes: u64) -> zosbd2::Result<End> {
    let serving = builder.serve_tokio_then(Arc::new(NullRequests(bytes)), |_| println!("serving"));
    runtime().block_on(serving)
}
