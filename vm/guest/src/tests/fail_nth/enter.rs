// SPDX-License-Identifier: MIT OR Apache-2.0
//! ENTER, with data in both directions: no request is lost, answered twice, or has wrong data.
//!
//! A round has one or more submitters with requests of their own. The requests that the kernel counts as held must
//! be the requests that the server was told of.

use std::thread::JoinHandle;

use rustix::io::Errno;
use std::os::fd::AsFd as _;
use zosbd2::v2::abi;

use super::{each, started, test};
use crate::guest::raw::{self, PAGE, Pages};
use crate::guest::{Context, FailNth, Test, wait_until};
use crate::tests::support::{Aligned, read_in_thread, write_in_thread};
use crate::tests::v2::support::Disk;

pub(super) const TESTS: &[Test] = &[
    test("fail_nth_fetch", fetch),
    test("fail_nth_commit", commit),
    test("fail_nth_commit_and_fetch", both),
    test("fail_nth_batches", batches),
];

/// How a server takes or gives the data of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Data of a write, together with the request.
    Arena,
    /// The same, in a buffer of a list.
    Buffers,
    /// In one piece, with the commit.
    Whole,
    /// In several pieces, with the commit.
    Pieces,
    /// Data of a write: copied first, committed later without data.
    Copied,
    /// Data of a read: half of it, followed by zeros.
    Half,
}

/// A kind of request.
#[derive(Clone, Copy, Debug)]
struct Kind {
    writes: bool,
    bytes: usize,
    way: Way,
    /// The server's memory for the data is unused, so the copy has to wait for it.
    fresh: bool,
}

/// Data in one page, and in several.
const LENGTHS: [usize; 2] = [512, 16384];

fn kinds() -> impl Iterator<Item = Kind> {
    let ways = [
        (true, Way::Arena),
        (true, Way::Buffers),
        (true, Way::Whole),
        (true, Way::Pieces),
        (true, Way::Copied),
        (false, Way::Whole),
        (false, Way::Pieces),
        (false, Way::Half),
    ];
    let every = ways.into_iter().flat_map(|way| LENGTHS.map(|bytes| (way, bytes)));
    every.flat_map(|((writes, way), bytes)| [false, true].map(|fresh| Kind { writes, bytes, way, fresh }))
}

impl Kind {
    fn what(self, call: &str) -> String {
        let Self { writes, bytes, way, fresh } = self;
        let (op, fresh) = (if writes { "write" } else { "read" }, if fresh { ", fresh memory" } else { "" });
        format!("{call} of a {op} of {bytes} bytes, {way:?}{fresh}")
    }

    /// Whether it is a write whose data comes with the request.
    fn comes_with_data(self) -> bool {
        matches!(self.way, Way::Arena | Way::Buffers)
    }

    /// The data that the submitter writes, or must read.
    fn data(self, seed: u64) -> Vec<u8> {
        let mut data = Aligned::new(self.bytes, 0);
        if self.writes || !self.fresh {
            data.fill(seed);
        }
        let mut data = data.bytes().to_vec();
        if self.way == Way::Half {
            data[self.bytes / 2..].fill(0);
        }
        data
    }
}

/// A submitter, at `place` of the device.
struct Submitted {
    kind: Kind,
    seed: u64,
    thread: JoinHandle<Result<Vec<u8>, Errno>>,
}

const SPACING: u64 = 16384;

impl Submitted {
    fn new(disk: &Disk, kind: Kind, place: u64, seed: u64) -> Self {
        let (path, bytes) = (disk.path(), kind.bytes);
        let thread = if kind.writes {
            let write = write_in_thread(path, place * SPACING, seed, bytes);
            std::thread::spawn(move || write.join().expect("writer").map(|count| vec![0; count]))
        } else {
            read_in_thread(path, place * SPACING, bytes)
        };
        Self { kind, seed, thread }
    }

    /// Asserts that the request succeeded with the right data.
    #[track_caller]
    fn succeeds(self) {
        let result = self.thread.join().expect("submitter").expect("success");
        assert_eq!(result.len(), self.kind.bytes);
        assert!(self.kind.writes || result == self.kind.data(self.seed), "wrong data was read");
    }
}

/// A server's memory for one ENTER, with an unmapped page behind each array.
struct Memory {
    enter: Pages,
    commits: Pages,
    requests: Pages,
    iovecs: Pages,
    data: Pages,
    count: usize,
}

const DATA: usize = 65536;
const CAPACITY: usize = 32;

/// Place and length of a buffer: the first two have room for every request, the others for short ones.
const fn buffer(number: usize) -> (usize, usize) {
    match number {
        0 | 1 => (number * 16384, 16384),
        _ => (32768 + (number - 2) * 1024, 1024),
    }
}

impl Memory {
    /// Empty memory. The memory for data is unused if `fresh` is set.
    fn new(fresh: bool) -> Self {
        let [enter, commits, requests, iovecs] = [PAGE, 2 * PAGE, 2 * PAGE, PAGE].map(Pages::new);
        // Touched, so that the nth operation of a call is never a page fault here.
        for pages in [&enter, &commits, &requests, &iovecs] {
            pages.put(pages.at_end(PAGE), &[0; PAGE]);
        }
        commits.put(commits.at_end(2 * PAGE), &[0; 2 * PAGE]);
        requests.put(requests.at_end(2 * PAGE), &[0; 2 * PAGE]);
        let data = Pages::new(DATA);
        if !fresh {
            data.put(data.at_end(DATA), &vec![0; DATA]);
        }
        Self { enter, commits, requests, iovecs, data, count: 0 }
    }

    fn data_at(&self) -> usize {
        self.data.at_end(DATA)
    }

    /// Adds the answer to a request of this kind, with its data if the request is a read.
    fn answer(&mut self, kind: Kind, request: &abi::Request, seed: u64) {
        let (index, bytes) = (self.count, kind.bytes);
        let at = self.data_at() + index * usize::try_from(SPACING).expect("small") % DATA;
        if !kind.writes && !kind.fresh {
            self.data.put(at, &kind.data(seed));
        }
        let (mut address, mut iovec_count, mut flags, mut result) = (at as u64, 0, 0, bytes);
        match kind.way {
            Way::Arena | Way::Buffers => address = 0,
            Way::Whole => {}
            Way::Copied => flags = abi::COMMIT_COPY_ONLY,
            Way::Half => {
                flags = abi::COMMIT_ZERO_FILL;
                result = bytes / 2;
            }
            Way::Pieces => {
                // The first piece is short; the others are of any length.
                let cuts = [0, 100, bytes / 2, bytes];
                let list = self.iovecs.at_end(3 * size_of::<abi::Iovec>());
                for (number, cut) in cuts.windows(2).enumerate() {
                    let iovec =
                        abi::Iovec { address: (at + cut[0]) as u64, length: (cut[1] - cut[0]) as u64 };
                    self.iovecs.put_value(list + number * size_of::<abi::Iovec>(), &iovec);
                }
                (address, iovec_count, flags) = (list as u64, 3, abi::COMMIT_IOVEC);
            }
        }
        let result = i64::try_from(result).expect("small");
        let entry = abi::Commit {
            handle: request.handle,
            result,
            address,
            iovec_count,
            flags,
            ..abi::Commit::default()
        };
        self.commits.put_value(self.commits.at_end(PAGE) + index * size_of::<abi::Commit>(), &entry);
        self.count += 1;
    }

    /// Writes the argument of an ENTER that fetches up to `capacity` requests, and returns its address. The data of writes
    /// comes in this way, if it is `Arena` or `Buffers`.
    fn prepare(&self, capacity: usize, way: Option<Way>) -> usize {
        let count = |count: usize| u32::try_from(count).expect("a count");
        let (mut buffers, mut buffer_count) = (0, 0);
        if way == Some(Way::Buffers) {
            buffer_count = capacity;
            let list = self.iovecs.at_end(buffer_count * size_of::<abi::Iovec>());
            for number in 0..buffer_count {
                let (at, length) = buffer(number);
                let entry = abi::Iovec { address: (self.data_at() + at) as u64, length: length as u64 };
                self.iovecs.put_value(list + number * size_of::<abi::Iovec>(), &entry);
            }
            buffers = list as u64;
        }
        let enter = abi::Enter {
            size: abi::ENTER_BYTES,
            commits: self.commits.at_end(PAGE) as u64,
            commit_count: count(self.count),
            requests: self.requests.at_end(2 * PAGE) as u64,
            capacity: count(capacity),
            arena: self.data_at() as u64,
            arena_bytes: if way == Some(Way::Arena) { DATA as u64 } else { 0 },
            buffers,
            buffer_count: count(buffer_count),
            ..abi::Enter::default()
        };
        let at = self.enter.at_end(size_of::<abi::Enter>());
        self.enter.put_value(at, &enter);
        at
    }

    /// The result of the call.
    fn said(&self) -> abi::Enter {
        self.enter.get_value(self.enter.at_end(size_of::<abi::Enter>()))
    }

    fn status(&self, index: usize) -> i32 {
        let at = self.commits.at_end(PAGE) + index * size_of::<abi::Commit>();
        self.commits.get_value::<abi::Commit>(at).status
    }

    /// The requests that the server was told of.
    fn fetched(&self) -> Vec<abi::Request> {
        let from = self.requests.at_end(2 * PAGE);
        let count = self.said().fetched as usize;
        (0..count).map(|index| self.requests.get_value(from + index * size_of::<abi::Request>())).collect()
    }

    /// Bytes of the data, `at` behind its beginning.
    fn bytes(&self, at: usize, bytes: usize) -> Vec<u8> {
        self.data.get(self.data_at() + at, bytes)
    }
}

/// The server.
struct Scene {
    disk: Disk,
    seed: u64,
}

impl Scene {
    fn new(name: &str) -> Self {
        Self { disk: started(name), seed: 0 }
    }

    fn submit(&mut self, kind: Kind, place: u64) -> Submitted {
        self.seed += 1;
        Submitted::new(&self.disk, kind, place, self.seed)
    }

    /// Number of queued and of held requests, as the kernel counts them.
    fn counts(&self) -> (u32, u32) {
        let stats = self.disk.server.stats(0).expect("stats");
        (stats.queued, stats.held)
    }

    fn wait_for(&self, queued: u32) {
        wait_until(20, "the requests", || self.counts().0 == queued);
    }

    fn committed(&self) -> u64 {
        self.disk.server.stats(0).expect("stats").operations.iter().map(|counts| counts.committed).sum()
    }

    fn enter(&self, memory: &Memory, capacity: usize, way: Option<Way>) -> Result<i32, Errno> {
        raw::ioctl(self.disk.server.as_fd(), abi::IOCTL_ENTER, memory.prepare(capacity, way))
    }

    /// Fetches all queued requests, without injected failures.
    fn fetch(&self, count: usize, way: Option<Way>) -> (Vec<abi::Request>, Memory) {
        let memory = Memory::new(false);
        assert_eq!(self.enter(&memory, CAPACITY, way), Ok(0));
        let requests = memory.fetched();
        assert_eq!(requests.len(), count);
        (requests, memory)
    }

    /// Answers one request without injected failures; returns the status and the memory.
    fn answer(&self, kind: Kind, request: &abi::Request, seed: u64) -> (i32, Memory) {
        let mut memory = Memory::new(kind.fresh);
        memory.answer(kind, request, seed);
        assert_eq!(self.enter(&memory, 0, None), Ok(0));
        (memory.status(0), memory)
    }

    /// Answers a request; the server has seen its data if it is a write.
    #[track_caller]
    fn finish(&self, submitted: Submitted, request: &abi::Request) {
        let Submitted { kind, seed, .. } = submitted;
        let kind = Kind { way: if kind.writes { Way::Arena } else { kind.way }, ..kind };
        assert_eq!(self.answer(kind, request, seed).0, 0, "refused");
        submitted.succeeds();
    }
}

const STALE: i32 = -Errno::STALE.raw_os_error();
const FAULT: i32 = -Errno::FAULT.raw_os_error();

/// A request that could not be given to the server returns to the queue.
fn fetch(context: &mut Context) {
    context.load_module("");
    let faults = FailNth::new(context);
    let mut scene = Scene::new("fetch");
    for kind in kinds().filter(|kind| kind.comes_with_data() || (kind.way == Way::Whole && !kind.fresh)) {
        let way = Some(kind.way);
        each(context, &faults, &kind.what("fetch"), |round| {
            let committed = scene.committed();
            let submitted = scene.submit(kind, 0);
            scene.wait_for(1);
            let memory = Memory::new(kind.fresh);
            let at = memory.prepare(1, way);
            let result = round.call(|| raw::ioctl(scene.disk.server.as_fd(), abi::IOCTL_ENTER, at));
            round.check(&result, &[Errno::FAULT]);
            let (request, memory) = if result.is_ok() {
                assert_eq!((memory.fetched().len(), scene.counts()), (1, (0, 1)));
                (memory.fetched()[0], memory)
            } else {
                assert_eq!(scene.counts(), (1, 0), "the request is lost");
                let (requests, memory) = scene.fetch(1, way);
                (requests[0], memory)
            };
            assert_eq!(request.length, kind.bytes as u64);
            if kind.comes_with_data() {
                assert_ne!(request.flags & abi::REQUEST_DATA, 0);
                assert_eq!(request.data, 0, "the first place");
                assert!(memory.bytes(0, kind.bytes) == kind.data(submitted.seed), "wrong data was fetched");
            }
            scene.finish(submitted, &request);
            assert_eq!((scene.counts(), scene.committed()), ((0, 0), committed + 1));
        });
    }
    scene.disk.destroy(true);
}

/// An answer is carried out once, or it is refused and can be repeated.
fn commit(context: &mut Context) {
    context.load_module("");
    let faults = FailNth::new(context);
    let mut scene = Scene::new("commit");
    for kind in kinds() {
        each(context, &faults, &kind.what("commit"), |round| {
            let committed = scene.committed();
            let submitted = scene.submit(kind, 0);
            scene.wait_for(1);
            let (requests, _) = scene.fetch(1, Some(kind.way));
            let [request] = requests[..] else { unreachable!("one was fetched") };
            let mut memory = Memory::new(kind.fresh);
            memory.answer(kind, &request, submitted.seed);
            let at = memory.prepare(0, None);
            let result = round.call(|| raw::ioctl(scene.disk.server.as_fd(), abi::IOCTL_ENTER, at));
            round.check(&result, &[Errno::FAULT]);
            let refused = memory.status(0);
            assert!([0, FAULT].contains(&refused), "{refused}");
            let stays = kind.way == Way::Copied;
            let held = scene.counts().1 == 1;
            if result.is_ok() {
                assert_eq!((memory.said().processed, memory.said().refused), (1, u32::from(refused != 0)));
                assert_eq!(held, stays || refused != 0);
            }
            // A server that was not told of the success asks again.
            let mut seen = memory;
            if result.is_err() || refused != 0 {
                let (status, again) = scene.answer(kind, &request, submitted.seed);
                assert_eq!(status, if held { 0 } else { STALE });
                if held {
                    seen = again;
                }
            }
            if kind.writes && !kind.comes_with_data() {
                assert!(seen.bytes(0, kind.bytes) == kind.data(submitted.seed), "wrong data was given");
            }
            if stays {
                scene.finish(submitted, &request);
            } else {
                submitted.succeeds();
            }
            assert_eq!((scene.counts(), scene.committed()), ((0, 0), committed + 1));
        });
    }
    scene.disk.destroy(true);
}

/// One call that answers a request and fetches another.
fn both(context: &mut Context) {
    context.load_module("");
    let faults = FailNth::new(context);
    let mut scene = Scene::new("both");
    for (kind, writes) in kinds().flat_map(|kind| [(kind, false), (kind, true)]) {
        if kind.way == Way::Copied || kind.fresh {
            continue;
        }
        let next =
            Kind { writes, bytes: 4096, way: if writes { Way::Arena } else { Way::Whole }, fresh: false };
        each(context, &faults, &kind.what(&format!("commit, and fetch of a {:?},", next.way)), |round| {
            let committed = scene.committed();
            let first = scene.submit(kind, 0);
            scene.wait_for(1);
            let (requests, _) = scene.fetch(1, Some(kind.way));
            let second = scene.submit(next, 1);
            scene.wait_for(1);
            let mut memory = Memory::new(false);
            memory.answer(kind, &requests[0], first.seed);
            let at = memory.prepare(1, None);
            let result = round.call(|| raw::ioctl(scene.disk.server.as_fd(), abi::IOCTL_ENTER, at));
            round.check(&result, &[Errno::FAULT]);
            let fetched = memory.fetched();
            assert!(result.is_ok() || fetched.is_empty(), "fetched, and an error");
            let (queued, held) = scene.counts();
            let told = u32::try_from(fetched.len()).expect("one");
            assert_eq!(queued + told, 1, "the second request is lost");
            let answered = held == told;
            assert!(answered || held == told + 1);
            if result.is_ok() {
                assert_eq!(answered, memory.status(0) == 0);
            }
            let status = scene.answer(kind, &requests[0], first.seed).0;
            assert_eq!(status, if answered { STALE } else { 0 });
            first.succeeds();
            let request = match fetched[..] {
                [request] => request,
                _ => scene.fetch(1, None).0[0],
            };
            scene.finish(second, &request);
            assert_eq!((scene.counts(), scene.committed()), ((0, 0), committed + 2));
        });
    }
    scene.disk.destroy(true);
}

/// More requests than the kernel handles in one piece, answered and fetched together.
fn batches(context: &mut Context) {
    const COUNT: u32 = 20;
    context.load_module("");
    let faults = FailNth::new(context);
    let mut scene = Scene::new("many");
    for way in [Way::Arena, Way::Buffers, Way::Whole] {
        let writes = way != Way::Whole;
        let kind = Kind { writes, bytes: 512, way, fresh: false };
        each(context, &faults, &kind.what("batch: fetch"), |round| {
            let submitted = many(&mut scene, kind, COUNT);
            let memory = Memory::new(false);
            let at = memory.prepare(CAPACITY, Some(way));
            let result = round.call(|| raw::ioctl(scene.disk.server.as_fd(), abi::IOCTL_ENTER, at));
            round.check(&result, &[Errno::FAULT]);
            let mut requests = memory.fetched();
            let told = u32::try_from(requests.len()).expect("a count");
            assert_eq!(
                scene.counts(),
                (COUNT - told, told),
                "the server was told of other requests than it holds"
            );
            assert_eq!(result.is_ok(), told > 0, "an error only when nothing was fetched");
            requests.extend(scene.fetch((COUNT - told) as usize, Some(way)).0);
            for submitted in submitted {
                let place = submitted.1 * SPACING;
                let request = requests.iter().find(|request| request.offset == place);
                scene.finish(submitted.0, request.expect("each was fetched"));
            }
        });
        if way == Way::Buffers {
            // Committed like those that came in the arena.
            continue;
        }
        each(context, &faults, &kind.what("batch: commit"), |round| {
            let committed = scene.committed();
            let submitted = many(&mut scene, kind, COUNT);
            let requests = scene.fetch(COUNT as usize, Some(way)).0;
            let seed_of = |request: &abi::Request| {
                let own = submitted.iter().find(|(_, place)| place * SPACING == request.offset);
                own.expect("one of ours").0.seed
            };
            // All reads get the data of one place, so all must have the same seed.
            let seed = seed_of(&requests[0]);
            let mut memory = Memory::new(false);
            for request in &requests {
                memory.answer(kind, request, seed);
            }
            let at = memory.prepare(0, None);
            let result = round.call(|| raw::ioctl(scene.disk.server.as_fd(), abi::IOCTL_ENTER, at));
            round.check(&result, &[Errno::FAULT]);
            let statuses: Vec<i32> = (0..requests.len()).map(|index| memory.status(index)).collect();
            let refused = statuses.iter().filter(|status| **status != 0).count();
            let held = scene.counts().1;
            if result.is_ok() {
                assert_eq!((memory.said().processed, held as usize), (COUNT, refused), "{statuses:?}");
            }
            let again: Vec<i32> =
                requests.iter().map(|request| scene.answer(kind, request, seed).0).collect();
            let carried_out = u32::try_from(again.iter().filter(|status| **status == 0).count());
            assert_eq!(
                carried_out,
                Ok(held),
                "a commit without a reported result is carried out once: {again:?}"
            );
            for (submitted, _) in submitted {
                Submitted { seed, ..submitted }.succeeds();
            }
            assert_eq!((scene.counts(), scene.committed()), ((0, 0), committed + u64::from(COUNT)));
        });
    }
    scene.disk.destroy(true);
}

/// Queues this many requests of the same kind, each at its own place.
fn many(scene: &mut Scene, kind: Kind, count: u32) -> Vec<(Submitted, u64)> {
    let submitted = (0..u64::from(count)).map(|place| (scene.submit(kind, place), place)).collect();
    scene.wait_for(count);
    submitted
}
