// SPDX-License-Identifier: MIT OR Apache-2.0
//! What submitters see of each fault, on a kernel in memory, with each kind of backend.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use zosbd2::testing::{Disk, Io, Kernel, Serving};
use zosbd2::{
    AsyncBackend, Backend, Blocking, Builder, Capabilities, DeadlinePolicy, Errno, Operation, Region,
    ServeOptions, SparseMemory, StopToken,
};
use zosbd2_faults::{Action, Fault, FaultPlan, Moment};

const SIZE: u64 = 1 << 20;

/// How a store is served.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// The kernel copies from and to its memory.
    Direct,
    Buffered,
    /// As owned requests.
    Owned,
    /// With futures.
    Async,
}

const WAYS: [Way; 4] = [Way::Direct, Way::Buffered, Way::Owned, Way::Async];

struct Store {
    memory: SparseMemory,
    way: Way,
}

impl Backend for Store {
    fn size(&self) -> u64 {
        SIZE
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default().discard(true).volatile_cache(true)
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        Backend::read(&self.memory, offset, buffer)
    }

    fn write(&self, offset: u64, data: &mut [u8], fua: bool) -> Result<(), Errno> {
        Backend::write(&self.memory, offset, data, fua)
    }

    fn flush(&self) -> Result<(), Errno> {
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), Errno> {
        Backend::discard(&self.memory, offset, length)
    }

    fn region(&self, offset: u64, length: usize) -> Option<Region<'_>> {
        if self.way == Way::Direct { Backend::region(&self.memory, offset, length) } else { None }
    }
}

/// The store with futures, each of which waits once before it does something.
struct Futures(Arc<Store>);

impl AsyncBackend for Futures {
    fn size(&self) -> u64 {
        SIZE
    }

    fn capabilities(&self) -> Capabilities {
        Backend::capabilities(&*self.0)
    }

    async fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        turn().await;
        Backend::read(&*self.0, offset, buffer)
    }

    async fn write(&self, offset: u64, data: &mut [u8], fua: bool) -> Result<(), Errno> {
        turn().await;
        Backend::write(&*self.0, offset, data, fua)
    }

    async fn flush(&self) -> Result<(), Errno> {
        turn().await;
        Backend::flush(&*self.0)
    }

    async fn discard(&self, offset: u64, length: u64) -> Result<(), Errno> {
        turn().await;
        Backend::discard(&*self.0, offset, length)
    }
}

/// Lets the lane have its turn.
async fn turn() {
    let mut waited = false;
    poll_fn(|context| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

struct Bench {
    kernel: Kernel,
    plan: FaultPlan,
    store: Arc<Store>,
    disk: Disk,
    serving: Serving,
}

impl Bench {
    fn new(way: Way, faults: &[Fault], change: impl FnOnce(Builder) -> Builder) -> Self {
        let plan = faults.iter().fold(FaultPlan::new(1), |plan, fault| plan.with(*fault));
        let kernel = Kernel::new(1);
        let store = Arc::new(Store { memory: SparseMemory::new(SIZE).expect("memory"), way });
        let builder = change(Builder::new("faulty").for_backend(&*store));
        let server = kernel.create(&builder).expect("create");
        let options = ServeOptions::default().layer(plan.clone());
        let serving = match way {
            Way::Direct | Way::Buffered => server.spawn(store.clone(), options),
            Way::Owned => {
                let handler = Blocking(store.clone());
                server.spawn_with(move |server, stop| server.serve_requests(&handler, &options, stop))
            }
            Way::Async => {
                let futures = Futures(store.clone());
                server.spawn_with(move |server, stop| server.serve_async(&futures, &options, stop))
            }
        };
        let disk = kernel.disk("faulty").expect("open");
        Self { kernel, plan, store, disk, serving }
    }

    /// The results of requests one after the other.
    fn results<const N: usize>(&self, ios: [Io; N]) -> [Result<usize, Errno>; N] {
        ios.map(|io| self.disk.submit(io)?.wait().map(|data| data.len()))
    }

    fn byte(&self, offset: u64) -> u8 {
        let mut byte = [0];
        self.store.memory.read_at(offset, &mut byte).expect("inside");
        byte[0]
    }

    fn injected(&self) -> Vec<u64> {
        self.plan.counts().map(|(_, counts)| counts.injected).collect()
    }

    fn end(self) {
        let Self { kernel, disk, serving, .. } = self;
        drop(disk);
        kernel.destroy("faulty", true).expect("destroy");
        serving.join().expect("served");
    }
}

fn same(builder: Builder) -> Builder {
    builder
}

fn write(offset: u64, length: usize, fill: u8) -> Io {
    Io::write(offset, &vec![fill; length])
}

#[test]
fn an_errno_is_the_answer_and_nothing_is_done() {
    for way in WAYS {
        let fault = Fault::new(Action::Errno(Errno::NOSPC)).on(Operation::Write).nth(2);
        let bench = Bench::new(way, &[fault], same);
        let results = bench.results([write(0, 512, 1), write(512, 512, 2), write(1024, 512, 3)]);
        assert_eq!(results, [Ok(0), Err(Errno::NOSPC), Ok(0)], "{way:?}");
        assert_eq!([0, 512, 1024].map(|at| bench.byte(at)), [1, 0, 3], "{way:?}");
        assert_eq!(bench.injected(), [1]);
        bench.end();
    }
}

#[test]
fn a_torn_write_leaves_its_first_half() {
    for way in WAYS {
        let short = Fault::new(Action::Short);
        let bench = Bench::new(way, &[short.nth(1), short.nth(3), short.nth(4), short.nth(5)], same);
        let ios = [
            write(0, 1536, 7),
            write(4096, 2048, 8),
            // One block cannot be halved.
            write(8192, 512, 9),
            Io::read(0, 2048),
            Io::discard(4096, 2048),
            Io::flush(),
            Io::read(0, 512),
        ];
        let failed = Err(Errno::IO);
        let results = bench.results(ios);
        assert_eq!(results, [failed, Ok(0), failed, failed, failed, Ok(0), Ok(512)], "{way:?}");
        let places = [0, 511, 512, 1535, 8192].map(|at| bench.byte(at));
        assert_eq!(places, [7, 7, 0, 0, 0], "{way:?}");
        assert_eq!([4096, 5119, 5120, 6143].map(|at| bench.byte(at)), [0, 0, 8, 8], "{way:?}");
        bench.end();
    }
}

#[test]
fn what_is_dropped_stays_with_the_server() {
    for way in WAYS {
        let drop = |moment| Fault::new(Action::Drop(moment)).on(Operation::Write);
        let faults = [drop(Moment::Before).nth(1), drop(Moment::After).nth(2)];
        let bench = Bench::new(way, &faults, same);
        let lost = [write(0, 512, 1), write(512, 512, 2)].map(|io| bench.disk.submit(io).expect("submitted"));
        assert_eq!(bench.results([write(1024, 512, 3), Io::read(512, 512)]), [Ok(0), Ok(512)], "{way:?}");
        assert_eq!([0, 512, 1024].map(|at| bench.byte(at)), [0, 2, 3], "{way:?}");
        assert_eq!(bench.serving.server().outstanding(), (0, 2));
        assert!(lost.iter().all(|pending| !pending.is_done()));
        bench.end();
        for pending in lost {
            assert_eq!(pending.wait(), Err(Errno::IO));
        }
    }
}

#[test]
fn what_is_dropped_comes_again_after_its_deadline() {
    for way in WAYS {
        let drop = |moment| Fault::new(Action::Drop(moment)).on(Operation::Write);
        let faults = [drop(Moment::After).nth(1), drop(Moment::Before).nth(2)];
        let bench = Bench::new(way, &faults, |builder| {
            builder.deadline(Duration::from_millis(100)).deadline_policy(DeadlinePolicy::Requeue)
        });
        assert_eq!(bench.results([write(0, 512, 1), Io::read(0, 512)]), [Ok(0), Ok(512)], "{way:?}");
        assert_eq!(bench.injected(), [1, 1]);
        bench.end();
    }
}

#[test]
fn the_second_answer_is_refused_and_harmless() {
    for way in WAYS {
        let bench = Bench::new(way, &[Fault::new(Action::Duplicate)], same);
        let ios = [write(0, 512, 7), Io::flush(), Io::read(0, 512), Io::discard(0, 4096)];
        assert_eq!(bench.results(ios), [Ok(0), Ok(0), Ok(512), Ok(0)], "{way:?}");
        assert_eq!(bench.injected(), [4]);
        bench.end();
    }
}

#[test]
fn a_delay_makes_the_answer_late() {
    let time = Duration::from_millis(50);
    let late = Fault::new(Action::Delay(time)).on(Operation::Read);
    for way in WAYS {
        let faults = [late.nth(1), late.nth(2), Fault::new(Action::Errno(Errno::IO)).nth(2)];
        let bench = Bench::new(way, &faults, same);
        let begin = Instant::now();
        let reads = [(); 3].map(|()| Io::read(0, 512));
        assert_eq!(bench.results(reads), [Ok(512), Err(Errno::IO), Ok(512)], "{way:?}");
        assert!(begin.elapsed() >= 2 * time, "{:?}", begin.elapsed());
        bench.end();
    }
}

#[test]
fn a_request_to_stop_ends_a_delay() {
    let kernel = Kernel::new(1);
    let plan = FaultPlan::new(1).with(Fault::new(Action::Delay(Duration::from_secs(24 * 60 * 60))));
    let memory = SparseMemory::new(SIZE).expect("memory");
    let server = kernel.create(&Builder::new("faulty").for_backend(&memory)).expect("create");
    let stop = StopToken::new();
    let (waits, layer) = (stop.clone(), plan.clone());
    let serving = server
        .spawn_with(move |server, _| server.serve(&memory, &ServeOptions::default().layer(layer), &waits));
    let disk = kernel.disk("faulty").expect("open");
    let read = disk.submit(Io::read(0, 512)).expect("submitted");
    while plan.injected() == 0 {
        std::thread::yield_now();
    }
    // The pause may begin after the first of them.
    while !read.is_done() {
        stop.request();
        std::thread::yield_now();
    }
    assert_eq!(read.wait(), Ok(vec![0; 512]));
    drop(disk);
    serving.join().expect("served");
}
