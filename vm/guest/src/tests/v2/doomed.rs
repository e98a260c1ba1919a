// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests that fail while their data is copied.
//!
//! The time of the failure is known: the block layer's timer runs [`LATER`] after the deadline of the first
//! request. Copies that begin shortly before it, and that are long enough, still run then, because the guest's
//! processors are emulated. The timer runs on the submitter's processor, and would have to wait for copies that
//! are made there.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use zosbd2::v2::abi;
use zosbd2::{Builder, DeadlinePolicy, Fetched, RequestState};

use super::super::support::{Aligned, open_direct};
use super::hostile::{commit_raw, enter};
use super::support::{Disk, Manual};
use crate::guest::raw::{PAGE, Pages};
use crate::guest::{Context, Need, Test, processor, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_doomed_beside_a_slow_page", beside_a_slow_page).needs(&[Need::Module]).timeout(120),
    Test::new("v2_late_copy_is_stale", late_copy_is_stale).needs(&[Need::Module]).timeout(120),
];

/// Bytes of a request.
const LENGTH: usize = 8 << 20;
/// One less than the kernel copies at once.
const OLD: usize = 15;
const LIMIT: Duration = Duration::from_millis(1900);
/// Time from the first deadline to the block layer's timer: HZ rounded up to a power of two, in ticks
/// (`blk_round_jiffies`); HZ is 250.
const LATER: Duration = Duration::from_millis(1024);
/// The kernel lets a timer that is 512 to 4095 ticks ahead expire at the next multiple of 64 ticks (`kernel/time/timer.c`).
const STEP: Duration = Duration::from_millis(256);
/// How long before the timer the copies of [`late_copy_is_stale`] begin.
const AHEAD: Duration = Duration::from_millis(100);
/// The same for [`beside_a_slow_page`], one after the other: its copy is shorter.
const CLOSE: [Duration; 4] = [
    Duration::from_millis(30),
    Duration::from_millis(10),
    Duration::from_millis(60),
    Duration::from_millis(2),
];
/// Most attempts; usually the first one hits.
const ROUNDS: usize = 20;

/// Bytes of an older write beside the slow page: all of them are copied in one run.
const SHORT: usize = 128 << 10;
/// Bytes of the youngest write, to which the slow page belongs.
const LONG: usize = 32 << 20;

/// Offset of a request. The offsets are not adjacent, so the requests do not merge.
const fn place(index: usize) -> u64 {
    (index * 2 * LENGTH) as u64
}

fn started(name: &str) -> Disk {
    let bytes = u32::try_from(LONG).expect("a length");
    let size = place(OLD) + LONG as u64;
    let builder = Builder::new(name).size_bytes(size).partition_scan(false).max_io_bytes(bytes);
    let disk = Disk::create(&builder.deadline(LIMIT).deadline_policy(DeadlinePolicy::Fail));
    disk.server.start().expect("start");
    disk
}

/// Sleeps until this long before the timer. The test aims at a point in time, so there is no condition to wait
/// for.
fn sleep_until(ahead: Duration, look: Instant) {
    std::thread::sleep(look.saturating_duration_since(Instant::now()).saturating_sub(ahead));
}

fn write(
    path: PathBuf,
    index: usize,
    data: &Arc<Aligned>,
    length: usize,
) -> JoinHandle<Result<usize, Errno>> {
    let data = Arc::clone(data);
    std::thread::spawn(move || rustix::io::pwrite(open_direct(&path), &data.bytes()[..length], place(index)))
}

/// Waits for requests of this many bytes in all, even if the block layer splits some. Returns the time of the timer,
/// or `None` if the requests came too late to aim at it.
fn wait_for(disk: &Disk, bytes: usize) -> Option<Instant> {
    let begin = Instant::now();
    let (mut oldest, mut all) = (Duration::ZERO, false);
    wait_until(20, "the requests", || {
        let requests = disk.server.requests(0, Duration::ZERO).expect("requests");
        oldest = requests.iter().map(|request| request.age).max().unwrap_or_default();
        all = requests.iter().map(|request| request.length).sum::<u64>() == bytes as u64;
        all || oldest.max(begin.elapsed()) > LIMIT + LATER
    });
    all.then(|| Instant::now() + (LIMIT + LATER).saturating_sub(oldest))
}

/// The first multiple of [`STEP`] after `look`, counted from `known`, the time at which such a timer was seen to expire. Both
/// times are some milliseconds late.
fn next_step(look: Instant, known: Instant) -> Instant {
    let since = look.saturating_duration_since(known + Duration::from_millis(10)).as_nanos();
    let steps = u32::try_from(since.div_ceil(STEP.as_nanos())).expect("a short test");
    known + STEP * steps
}

/// The requests came too late, on a busy machine.
fn again(round: usize, disk: &Disk, submitters: impl IntoIterator<Item = JoinHandle<Result<usize, Errno>>>) {
    eprintln!("round {round}: the requests came too late: again");
    disk.destroy(true);
    for submitter in submitters {
        // A read that is sent when the disk has no size any more finds the end of the file.
        let result = submitter.join().expect("submitter");
        assert!(matches!(result, Err(Errno::IO) | Ok(0)), "nobody answered: {result:?}");
    }
}

fn states(disk: &Disk) -> Vec<(u64, RequestState)> {
    let requests = disk.server.requests(0, Duration::ZERO).expect("requests");
    requests.iter().map(|request| (request.offset, request.state)).collect()
}

/// A server fetches writes into memory whose last page never comes. While the rest is copied, in one run, the older
/// writes pass their deadline. The youngest write, to which the missing page belongs, does not.
fn beside_a_slow_page(context: &mut Context) {
    context.load_module("");
    processor::bind(0);
    let mut data = Aligned::new(LONG, 0);
    data.fill(1);
    let data = Arc::new(data);
    // When a timer expired in an earlier round. A fast machine copies for less than a step, so the step has to be known.
    let mut expired: Option<Instant> = None;
    for (round, ahead) in CLOSE.iter().cycle().take(ROUNDS).enumerate() {
        // A new device has no timer yet.
        let disk = started("beside");
        let bytes = OLD * SHORT + LONG;
        let pages = Arc::new(Pages::new(bytes));
        let arena = pages.at_end(bytes);
        for index in 0..OLD {
            pages.put(arena + index * SHORT, &data.bytes()[..SHORT]);
        }
        pages.put(arena + OLD * SHORT, &data.bytes()[..LONG - PAGE]);
        let keeper = pages.withhold().expect("userfaultfd");
        let old: Vec<_> = (0..OLD).map(|index| write(disk.path(), index, &data, SHORT)).collect();
        let Some(look) = wait_for(&disk, OLD * SHORT) else {
            again(round, &disk, old);
            continue;
        };
        let look = expired.map_or(look, |expired| next_step(look, expired));
        // Young enough not to be late then.
        sleep_until(AHEAD * 2, look);
        let young = write(disk.path(), OLD, &data, LONG);
        if wait_for(&disk, bytes).is_none() {
            again(round, &disk, old.into_iter().chain([young]));
            continue;
        }
        sleep_until(*ahead, look);
        let call = std::thread::spawn({
            let (server, pages) = (Arc::clone(&disk.server), Arc::clone(&pages));
            move || {
                let _kept = pages;
                processor::bind(1);
                let requests = Pages::new((OLD + 1) * size_of::<abi::Request>());
                let argument = abi::Enter {
                    requests: requests.at_end((OLD + 1) * size_of::<abi::Request>()) as u64,
                    arena: arena as u64,
                    arena_bytes: bytes as u64,
                    capacity: u32::try_from(OLD + 1).expect("a count"),
                    ..abi::Enter::default()
                };
                enter(&server, &argument)
            }
        });
        let begin = Instant::now();
        let (mut hit, mut most) = (false, 0);
        wait_until(20, "the copies to fail, or to be made", || {
            let states = states(&disk);
            let is_young = |offset: u64| offset == place(OLD);
            let doomed = states.iter().filter(|(_, state)| *state == RequestState::Doomed).count();
            let waits =
                states.iter().any(|(offset, state)| is_young(*offset) && *state == RequestState::Copying);
            most = most.max(doomed);
            hit = doomed > 0 && waits;
            hit || old.iter().any(JoinHandle::is_finished) || call.is_finished()
        });
        let (result, took) = (if hit { "as wanted" } else { "again" }, begin.elapsed());
        eprintln!("round {round}: {most} failed while they were copied, after {took:?}: {result}");
        if old.iter().any(JoinHandle::is_finished) {
            // Unknown if the timer expired before anyone looked.
            expired = (took > Duration::from_millis(10)).then_some(begin + took);
        }
        if hit {
            // Their data is copied soon, and these writes only had to wait for that.
            wait_until(20, "the failed writes to end, although a page is withheld that is another's", || {
                old.iter().all(JoinHandle::is_finished) || call.is_finished()
            });
            // Otherwise the copies took so long that the youngest write was late, too, and the call waited for
            // nothing.
            hit = !call.is_finished();
        }
        if hit {
            disk.destroy(true);
            assert!(!call.is_finished(), "the memory came");
        }
        for write in old.into_iter().chain([young]) {
            assert_eq!(write.join().expect("writer"), Err(Errno::IO), "late, and no server answered");
        }
        drop(keeper);
        let (result, after) = call.join().expect("the fetching server");
        if hit {
            assert_eq!((result, after.fetched), (Err(Errno::NODEV), 0));
            return;
        }
        disk.destroy(true);
    }
    panic!("no copy could be made to last until the deadline in {ROUNDS} rounds");
}

/// A read passes its deadline while its data, all of which is present, is copied in: the answer comes too late.
fn late_copy_is_stale(context: &mut Context) {
    context.load_module("");
    processor::bind(0);
    let pages = Arc::new(Pages::new(LENGTH));
    let from = pages.at_end(LENGTH);
    pages.put(from, &vec![7; LENGTH]);
    for round in 0..ROUNDS {
        let disk = started("stale");
        let mut server = Manual::new(&disk);
        let reads: Vec<_> = (0..OLD).map(|index| read(&disk.path(), index)).collect();
        let Some(look) = wait_for(&disk, OLD * LENGTH) else {
            again(round, &disk, reads);
            continue;
        };
        let requests = server.fetch(0, 16, 1).expect("fetch");
        let entry = |request: &Fetched| abi::Commit {
            handle: request.handle(),
            result: i64::try_from(request.length()).expect("a length"),
            address: from as u64,
            ..abi::Commit::default()
        };
        let entries: Vec<_> = requests.iter().map(entry).collect();
        sleep_until(AHEAD, look);
        let call = std::thread::spawn({
            let (server, pages) = (Arc::clone(&disk.server), Arc::clone(&pages));
            move || {
                processor::bind(1);
                commit_raw(&server, &pages, &entries)
            }
        });
        let begin = Instant::now();
        let mut doomed = Vec::new();
        wait_until(20, "the answers", || {
            let seen = states(&disk).into_iter().filter(|(_, state)| *state == RequestState::Doomed);
            doomed.extend(seen.map(|(offset, _)| offset));
            call.is_finished()
        });
        doomed.sort_unstable();
        doomed.dedup();
        let (took, count) = (begin.elapsed(), doomed.len());
        eprintln!("round {round}: {count} failed while their data was copied, which took {took:?}");
        let statuses = call.join().expect("the answering server");
        for (request, status) in requests.iter().zip(statuses) {
            if doomed.contains(&request.offset()) {
                let place = request.offset();
                assert_eq!(status, -Errno::STALE.raw_os_error(), "the answer of the failed read at {place}");
            }
        }
        for (index, read) in reads.into_iter().enumerate() {
            let got = read.join().expect("reader");
            if doomed.iter().any(|offset| (place(index)..place(index + 1)).contains(offset)) {
                assert_eq!(got, Err(Errno::IO), "read {index}, which failed while its data was copied");
            }
        }
        disk.destroy(true);
        if count > 0 {
            return;
        }
    }
    panic!("no copy could be made to last until the deadline in {ROUNDS} rounds");
}

fn read(path: &Path, index: usize) -> JoinHandle<Result<usize, Errno>> {
    let node = open_direct(path);
    std::thread::spawn(move || {
        let mut buffer = Aligned::new(LENGTH, 0);
        buffer.bytes_mut().fill(1);
        rustix::io::pread(&node, buffer.bytes_mut(), place(index))
    })
}
