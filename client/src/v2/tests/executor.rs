// SPDX-License-Identifier: MIT OR Apache-2.0
//! Serving in a task of tokio, against the fake kernel: hundreds of requests in flight, and the end of the executor.

use super::*;
use crate::AsyncBackend;
use crate::v2::fake::FakeReady;
use crate::v2::serve::executor::serve_in_task;
use std::sync::{Barrier, mpsc};
use std::time::Instant;
use tokio::runtime::{Builder as Runtime, Runtime as Started};

const LATENCY: Duration = Duration::from_millis(100);

/// A slow store.
struct Slow {
    in_flight: AtomicUsize,
    peak: AtomicUsize,
}

impl Slow {
    fn new() -> Arc<Self> {
        Arc::new(Self { in_flight: AtomicUsize::new(0), peak: AtomicUsize::new(0) })
    }
}

impl AsyncBackend for Slow {
    fn size(&self) -> u64 {
        SIZE
    }

    async fn read(&self, _: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        let now = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        self.peak.fetch_max(now, Ordering::Relaxed);
        tokio::time::sleep(LATENCY).await;
        buffer.fill(7);
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }

    async fn write(&self, _: u64, _: &mut [u8], _: bool) -> Result<(), Errno> {
        tokio::time::sleep(LATENCY).await;
        Ok(())
    }
}

fn runtime() -> Started {
    Runtime::new_current_thread().enable_time().build().expect("a runtime")
}

async fn serve(fake: &Arc<Fake>, backend: Arc<Slow>, stop: &StopToken) -> Result<End> {
    let destroyed = fake.clone();
    let destroy = move |_| {
        destroyed.destroy();
        Ok(())
    };
    let options = ServeOptions::default();
    let ready = || Ok(FakeReady::new(fake));
    serve_in_task(fake, backend, &options, stop, ready, || Ok(()), destroy).await
}

/// The backend of the field report: 256 reads of 100 ms each by 64 readers. One after the other they take 26 s.
#[test]
fn sixty_four_readers_of_a_slow_store_wait_for_four_reads_each() {
    let read = Spec::new(v2::OP_READ, 0, 4096);
    let fake = Arc::new(Fake::new(SIZE, MAX_IO, []).sleeping(1).with_readers(64, 256, read));
    let (stop, backend) = (StopToken::new(), Slow::new());
    let threads = || std::fs::read_dir("/proc/self/task").expect("tasks").count();
    let before = threads();
    let begin = Instant::now();
    let took = std::thread::scope(|scope| {
        let serving = scope.spawn(|| runtime().block_on(serve(&fake, backend.clone(), &stop)));
        fake.wait_answers(256);
        let took = begin.elapsed();
        // Other tests run beside this one, so this is only a bound on what was added if they end meanwhile.
        let added = threads().saturating_sub(before);
        stop.request();
        assert_eq!(serving.join().expect("no panic").expect("served"), End::Gone);
        (took, added)
    });
    assert_eq!(backend.peak.load(Ordering::Relaxed), 64);
    assert!(fake.answers().iter().all(|answer| answer.data == [7; 4096]));
    let (took, added) = took;
    println!("256 reads of 100 ms by 64 readers: {took:?}, {added} more threads");
    assert!(took >= 4 * LATENCY);
    assert!(took < 40 * LATENCY, "{took:?}: the reads were not carried out at the same time");
}

#[test]
fn a_dropped_future_answers_nothing_and_leaves_the_requests_to_the_next_server() {
    let reads = [Spec::new(v2::OP_READ, 0, 512); 20];
    let fake = Arc::new(Fake::new(SIZE, MAX_IO, [requests(&reads)]).sleeping(1));
    let (stop, backend) = (StopToken::new(), Slow::new());
    runtime().block_on(async {
        tokio::select! {
            biased;
            _ = serve(&fake, backend.clone(), &stop) => panic!("still serving"),
            () = async {
                while backend.in_flight.load(Ordering::Relaxed) < 20 {
                    tokio::task::yield_now().await;
                }
            } => {}
        }
    });
    assert_eq!((fake.results(), fake.left()), (vec![], 20));
    // The watching thread gives the channel back when it sees that no lane is left.
    let limit = Instant::now() + Duration::from_secs(60);
    while Arc::strong_count(&fake) > 1 {
        assert!(Instant::now() < limit, "somebody keeps the channel");
        std::thread::yield_now();
    }
}

#[test]
fn a_device_that_does_not_start_is_destroyed() {
    let fake = Arc::new(Fake::new(SIZE, MAX_IO, []).sleeping(2));
    let destroyed = fake.clone();
    let destroy = move |force: bool| {
        assert!(force);
        destroyed.destroy();
        Ok(())
    };
    let (options, stop) = (ServeOptions::default(), StopToken::new());
    let served = runtime().block_on(serve_in_task(
        &fake,
        Slow::new(),
        &options,
        &stop,
        || Ok(FakeReady::new(&fake)),
        || Err(busy("not the device")),
        destroy,
    ));
    assert!(matches!(served, Err(Error::Control { .. })), "{served:?}");
}

#[test]
fn a_future_that_is_never_polled_does_nothing() {
    let backend = Slow::new();
    drop(Builder::new("never").serve_tokio(backend.clone()));
    assert_eq!(Arc::strong_count(&backend), 1);
}

/// Tells when the size is asked for, and waits with the answer.
struct Measured {
    asked: Barrier,
    answer: Barrier,
    /// The lanes do not ask for the size before there are requests; the watching thread does.
    calls: AtomicUsize,
}

impl AsyncBackend for Measured {
    fn size(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if std::thread::current().name() == Some("zosbd2-watch") {
            self.asked.wait();
            self.answer.wait();
        }
        SIZE
    }

    async fn read(&self, _: u64, _: &mut [u8]) -> Result<(), Errno> {
        Ok(())
    }

    async fn write(&self, _: u64, _: &mut [u8], _: bool) -> Result<(), Errno> {
        Ok(())
    }
}

#[test]
fn a_future_that_is_dropped_before_the_start_starts_nothing() {
    let fake = Arc::new(Fake::new(SIZE, MAX_IO, []).sleeping(2));
    let backend =
        Arc::new(Measured { asked: Barrier::new(2), answer: Barrier::new(2), calls: AtomicUsize::new(0) });
    let (options, stop) = (ServeOptions::default(), StopToken::new());
    let (started, is_started) = mpsc::channel::<()>();
    let start = move || started.send(()).map_err(|_| busy("nobody listens"));
    let ready = || Ok(FakeReady::new(&fake));
    let serving =
        serve_in_task(&fake, backend.clone(), &options, &stop, ready, start, |_| panic!("no destroy"));
    let mut serving = Box::pin(serving);
    runtime().block_on(async {
        tokio::select! {
            biased;
            end = &mut serving => panic!("served: {end:?}"),
            () = std::future::ready(()) => {}
        }
    });
    backend.asked.wait();
    drop(serving);
    backend.answer.wait();
    // The watching thread ends, and drops its end of the channel.
    is_started.recv_timeout(Duration::from_secs(60)).expect_err("it was started");
    assert!(backend.calls.load(Ordering::Relaxed) > 0);
}

/// The watching thread is still busy when the lanes have ended. The other task of the executor must run until it ends.
#[test]
fn the_end_does_not_block_the_executor() {
    let fake = Arc::new(Fake::new(SIZE, MAX_IO, []).sleeping(2));
    let (destroyed, (go, gone)) = (fake.clone(), mpsc::channel());
    let gone = Mutex::new(gone);
    let began = Arc::new(AtomicUsize::new(0));
    let begins = began.clone();
    let destroy = move |_| {
        destroyed.destroy();
        begins.fetch_add(1, Ordering::Release);
        gone.lock().expect("receiver").recv_timeout(Duration::from_secs(60)).expect("the executor runs");
        Ok(())
    };
    let (options, stop) = (ServeOptions::default(), StopToken::new());
    stop.request();
    let end = runtime().block_on(async {
        let ready = || Ok(FakeReady::new(&fake));
        let serving = serve_in_task(&fake, Slow::new(), &options, &stop, ready, || Ok(()), destroy);
        let other = async {
            while began.load(Ordering::Acquire) == 0 {
                tokio::task::yield_now().await;
            }
            // The lanes see the end first.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            go.send(()).expect("sent");
        };
        tokio::join!(serving, other).0
    });
    assert_eq!(end.expect("served"), End::Gone);
}

/// In the kernel in memory: what a dropped future held goes to the next server, and a stop ends a future.
#[test]
fn the_next_server_gets_what_a_dropped_future_held() {
    use crate::testing::{Io, Kernel};
    let (kernel, backend, options) = (Kernel::new(7), Slow::new(), ServeOptions::default());
    let builder = Builder::new("dropped").for_async_backend(&*backend);
    let server = kernel.create(&builder).expect("create");
    let stop = StopToken::new();
    let (disk, read) = runtime().block_on(async {
        let serving = server.serve_tokio(backend.clone(), &options, &stop);
        let reading = async {
            while kernel.status("dropped").expect("status").state == crate::State::Created {
                tokio::task::yield_now().await;
            }
            let disk = kernel.disk("dropped").expect("open");
            let read = disk.submit(Io::read(0, 512)).expect("submitted");
            while backend.in_flight.load(Ordering::Relaxed) == 0 {
                tokio::task::yield_now().await;
            }
            (disk, read)
        };
        tokio::select! {
            biased;
            end = serving => panic!("served: {end:?}"),
            opened = reading => opened,
        }
    });
    assert!(!read.is_done());
    drop(server);
    let limit = Instant::now() + Duration::from_secs(60);
    // The watching thread has the server until it sees that no lane is left.
    while kernel.status("dropped").expect("status").state != crate::State::Orphaned {
        assert!(Instant::now() < limit, "the server is not dead");
        std::thread::yield_now();
    }
    let next = kernel.attach("dropped", crate::TakeOver::No).expect("attach");
    let end = runtime().block_on(async {
        let read_it = async {
            while !read.is_done() {
                tokio::task::yield_now().await;
            }
            // A disk in use is not destroyed.
            drop(disk);
            stop.request();
        };
        tokio::join!(next.serve_tokio(backend, &options, &stop), read_it).0
    });
    assert_eq!(end.expect("served"), End::Gone);
    assert_eq!(read.wait(), Ok(vec![7; 512]));
}
