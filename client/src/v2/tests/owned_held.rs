// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests that a handler keeps, on the kernel in memory: how many there can be, what happens when they end without
//! it, and when their answers cannot be given.

use crate::testing::{Disk, Io, Kernel, Serving};
use crate::{
    Batch, Builder, Channel, DeadlinePolicy, Entered, Errno, Error, Fetch, Handler, Keeper, Layer, Request,
    Result, ServeOptions, ServerId, Status, StopToken, TakeOver,
};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::{Duration, Instant};

const SIZE: u64 = 1 << 20;
const DEPTH: usize = 4;
/// A bound for what should take no time.
const LIMIT: Duration = Duration::from_secs(60);

/// Keeps requests, or answers them at once.
#[derive(Default)]
struct Keeps {
    kept: Mutex<Vec<Request>>,
    came: Condvar,
    answers: AtomicBool,
}

impl Keeps {
    /// Waits until this many requests are kept.
    fn wait(&self, count: usize) {
        let kept = self.kept.lock().expect("kept");
        let few = |kept: &mut Vec<Request>| kept.len() < count;
        let (kept, waited) = self.came.wait_timeout_while(kept, LIMIT, few).expect("kept");
        assert!(!waited.timed_out(), "only {} requests came", kept.len());
    }

    fn take(&self) -> Vec<Request> {
        std::mem::take(&mut *self.kept.lock().expect("kept"))
    }
}

impl Handler for Keeps {
    fn size(&self) -> u64 {
        SIZE
    }

    fn handle(&self, mut request: Request) {
        if self.answers.load(Ordering::Relaxed) {
            request.data_mut().fill(7);
            return request.complete(Ok(()));
        }
        self.kept.lock().expect("kept").push(request);
        self.came.notify_all();
    }
}

fn builder() -> Builder {
    let depth = u32::try_from(DEPTH).expect("small");
    Builder::new("disk").size_bytes(SIZE).depth(depth).max_io_bytes(4096)
}

/// Serves a device of this builder with this handler.
fn serve(builder: &Builder, handler: impl Handler + Send + 'static) -> (Kernel, Disk, Serving) {
    serve_with(builder, handler, ServeOptions::default())
}

fn serve_with(
    builder: &Builder,
    handler: impl Handler + Send + 'static,
    options: ServeOptions,
) -> (Kernel, Disk, Serving) {
    let kernel = Kernel::new(1);
    let server = kernel.create(builder).expect("create");
    let serving = server.spawn_with(move |server, stop| server.serve_requests(&handler, &options, stop));
    let disk = kernel.disk("disk").expect("open");
    (kernel, disk, serving)
}

/// The handler of somebody else's, too.
struct Shared(Arc<Keeps>);

impl Handler for Shared {
    fn size(&self) -> u64 {
        SIZE
    }

    fn handle(&self, request: Request) {
        self.0.handle(request);
    }
}

/// Otherwise a handler that hangs gets new requests, with new buffers, as long as submitters try again.
#[test]
fn a_handler_holds_no_more_requests_than_the_queue_is_deep() {
    let late = builder().deadline(Duration::from_millis(20)).deadline_policy(DeadlinePolicy::Fail);
    let keeps = Arc::new(Keeps::default());
    let (_kernel, disk, serving) = serve(&late, Shared(keeps.clone()));
    for _ in 0..2 {
        // Each submission beyond the depth waits until a deadline has ended another request.
        let reads: Vec<_> =
            (0..5 * DEPTH).map(|_| disk.submit(Io::read(0, 512)).expect("submitted")).collect();
        for read in reads {
            assert_eq!(read.wait(), Err(Errno::IO));
        }
        keeps.wait(DEPTH);
        assert_eq!(keeps.kept.lock().expect("kept").len(), DEPTH);
        // One by an answer, which is too late, and the others without.
        let mut kept = keeps.take();
        kept.remove(0).complete(Ok(()));
        drop(kept);
    }
    keeps.answers.store(true, Ordering::Relaxed);
    let begin = Instant::now();
    let mut data = [0; 512];
    // A slow machine may be late, too.
    while disk.read(0, &mut data).is_err() {
        assert!(begin.elapsed() < LIMIT, "nothing is served any more");
        keeps.take();
    }
    assert_eq!(data, [7; 512]);
    drop(disk);
    serving.stop().expect("served");
}

/// A lane with as many requests elsewhere as the queue is deep must see each answer at once.
#[test]
fn a_full_queue_is_served_without_pauses() {
    const ROUNDS: usize = 500;
    struct Elsewhere(Mutex<mpsc::Sender<Request>>);
    impl Handler for Elsewhere {
        fn size(&self) -> u64 {
            SIZE
        }
        fn handle(&self, request: Request) {
            self.0.lock().expect("sender").send(request).expect("a thread listens");
        }
    }
    let (sender, requests) = mpsc::channel::<Request>();
    let answering = std::thread::spawn(move || {
        for request in requests {
            request.complete(Ok(()));
        }
    });
    let (_kernel, disk, serving) = serve(&builder(), Elsewhere(Mutex::new(sender)));
    let begin = Instant::now();
    let left = AtomicUsize::new(ROUNDS * DEPTH);
    std::thread::scope(|scope| {
        // One more than the queue has room for.
        for _ in 0..=DEPTH {
            scope.spawn(|| {
                let more = |left: usize| left.checked_sub(1);
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok() {
                    disk.submit(Io::read(0, 512)).expect("submitted").wait().expect("read");
                }
            });
        }
    });
    // A lane that sleeps until its time is over needs a second for each such sleep.
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    drop(disk);
    serving.stop().expect("served");
    answering.join().expect("no panic");
}

/// Nobody sleeps in the kernel while the queue's requests are elsewhere, so the lane looks from time to time.
#[test]
fn the_end_of_the_device_is_noticed_while_a_handler_holds_all() {
    let keeps = Arc::new(Keeps::default());
    let (kernel, disk, serving) = serve(&builder(), Shared(keeps.clone()));
    let reads: Vec<_> = (0..DEPTH).map(|_| disk.submit(Io::read(0, 512)).expect("submitted")).collect();
    keeps.wait(DEPTH);
    kernel.destroy("disk", true).expect("destroy");
    serving.join().expect("served");
    for read in reads {
        assert_eq!(read.wait(), Err(Errno::IO));
    }
    drop(keeps.take());
}

/// A layer whose kernel takes no answers from elsewhere: a lane fetches with each call, and others never do.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Refusing {
    Fails,
    Panics,
}

struct Refused<'a>(Refusing, Arc<dyn Channel + 'a>);

impl Layer for Refusing {
    fn around<'a>(&self, channel: Arc<dyn Channel + 'a>, _: &StopToken) -> Arc<dyn Channel + 'a> {
        Arc::new(Refused(*self, channel))
    }
}

impl Channel for Refused<'_> {
    fn enter(&self, batch: &mut Batch<'_>, fetch: Fetch<'_>) -> Entered {
        if !batch.is_empty() && fetch.requests.is_empty() {
            assert_ne!(self.0, Refusing::Panics, "planted");
            return Entered { error: Some(Errno::NOMEM), ..Entered::default() };
        }
        self.1.enter(batch, fetch)
    }

    fn id(&self) -> ServerId {
        self.1.id()
    }

    fn status(&self) -> &Status {
        self.1.status()
    }

    fn size(&self) -> u64 {
        self.1.size()
    }

    fn refresh_size(&self) -> Result<u64> {
        self.1.refresh_size()
    }

    fn resize(&self, size_bytes: u64) -> Result<()> {
        self.1.resize(size_bytes)
    }

    fn leave(&self) -> Result<Option<Keeper>> {
        self.1.leave()
    }
}

/// The lane sleeps meanwhile, and nothing else wakes it.
#[test]
fn a_lane_ends_when_answers_from_elsewhere_cannot_be_given() {
    for refusing in [Refusing::Fails, Refusing::Panics] {
        let keeps = Arc::new(Keeps::default());
        let options = ServeOptions::default().layer(refusing);
        let (kernel, disk, serving) = serve_with(&builder(), Shared(keeps.clone()), options);
        let reads = [0, 512].map(|at| disk.submit(Io::read(at, 512)).expect("submitted"));
        keeps.wait(2);
        let mut kept = keeps.take();
        let request = kept.remove(0);
        let completed = catch_unwind(AssertUnwindSafe(|| request.complete(Ok(()))));
        assert_eq!(completed.is_err(), refusing == Refusing::Panics);
        let error = serving.join().expect_err("the answer is lost");
        match refusing {
            Refusing::Fails => assert!(matches!(error, Error::Fetch { source: Errno::NOMEM, .. }), "{error}"),
            Refusing::Panics => assert!(matches!(error, Error::BackendPanicked { .. }), "{error}"),
        }
        // The next server gets both requests, and later answers of the first one mean nothing.
        assert!(reads.iter().all(|read| !read.is_done()));
        keeps.answers.store(true, Ordering::Relaxed);
        let next = kernel.attach("disk", TakeOver::No).expect("attach");
        let handler = Shared(keeps.clone());
        let serving =
            next.spawn_with(move |next, stop| next.serve_requests(&handler, &ServeOptions::default(), stop));
        for request in kept {
            request.complete(Err(Errno::NOSPC));
        }
        for read in reads {
            assert_eq!(read.wait(), Ok(vec![7; 512]));
        }
        drop(disk);
        serving.stop().expect("served");
    }
}
