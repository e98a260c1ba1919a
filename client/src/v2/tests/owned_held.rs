// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests that a handler keeps, on the kernel in memory: how many there can be, and what happens when they end without
//! it.

use crate::testing::{Disk, Io, Kernel, Serving};
use crate::{Builder, DeadlinePolicy, Errno, Handler, Request, ServeOptions};
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
    let kernel = Kernel::new(1);
    let server = kernel.create(builder).expect("create");
    let serving = server
        .spawn_with(move |server, stop| server.serve_requests(&handler, &ServeOptions::default(), stop));
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
