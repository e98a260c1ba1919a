// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owned requests and asynchronous backends, through the kernel: data, stops, take-overs, and the death of an
//! executor.

use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use zosbd2::{
    AsyncBackend, Backend, Blocking, Builder, Capabilities, End, Errno, Handler, Request, ServeOptions,
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
    Test::new("v2_async_fio_verify", async_fio).needs(&[Need::Module, Need::Tool("fio")]).timeout(150),
    Test::new("v2_tokio_fio_verify", tokio_fio).needs(&[Need::Module, Need::Tool("fio")]).timeout(150),
    Test::new("v2_owned_take_over", take_over).needs(&[Need::Module]).timeout(60),
    Test::new("v2_tokio_ends", tokio_ends).needs(&[Need::Module]).timeout(60),
];

const MIB: u64 = 1 << 20;

/// Serves a started device.
pub(super) type Serve = Box<dyn FnOnce(&Arc<Server>, Box<dyn FnOnce() + Send>) -> zosbd2::Result<End> + Send>;

pub(super) fn serve(builder: &Builder, serve: Serve) -> (Disk, Serving) {
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

/// A backend as an asynchronous one, whose operations are interrupted once.
pub(super) struct Paused<B>(pub(super) B);

impl<B: Backend> Paused<B> {
    async fn pause() {
        tokio::task::yield_now().await;
    }
}

impl<B: Backend> AsyncBackend for Paused<B> {
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

    async fn flush(&self) -> Result<(), Errno> {
        self.0.flush()
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

/// Serves a RAM disk with futures on the library's threads.
fn in_threads(name: &str, options: ServeOptions) -> (Disk, Serving) {
    let ram = Ram::new(64 * MIB).expect("memory");
    serve(
        &describe(name, &ram).queues(2),
        Box::new(move |server, ready| server.serve_async(&Paused(ram), &options, &StopToken::new(), ready)),
    )
}

fn async_conformance(context: &mut Context) {
    context.load_module("");
    conform(context, in_threads("async", ServeOptions::default().in_flight(3)));
}

fn async_fio(context: &mut Context) {
    context.load_module("");
    fio(context, in_threads("asyncfio", ServeOptions::default()));
}

pub(super) fn runtime() -> tokio::runtime::Runtime {
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
