// SPDX-License-Identifier: MIT OR Apache-2.0
//! Honest flush: a submitter is told of writes that were answered, not flushed, and lost with a server's
//! cache.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::fdatasync;
use rustix::io::{Errno, IoSlice, ReadWriteFlags, pwritev2};
use zosbd2::v2::abi;
use zosbd2::{Answers, Builder, Control, Entered, Fetch, Fetched, Server, TakeOver};

use super::super::support::{Aligned, open_direct, read_in_thread, sleeps_in_ioctl, write_in_thread};
use super::hostile::{call, commit_raw};
use super::support::{Disk, Manual, Recorder, by_hand, control, join, plain, threads};
use crate::guest::raw::{PAGE, Pages};
use crate::guest::{Context, Mounted, Need, Test, raw, run, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_flush_after_a_lost_cache_fails", fails_until_reported).needs(&[Need::Module]).timeout(60),
    Test::new("v2_flush_of_two_queues_and_two_servers", two_queues).needs(&[Need::Module]).timeout(60),
    Test::new("v2_flush_between_attach_and_claim", between_attach_and_claim)
        .needs(&[Need::Module])
        .timeout(60),
    Test::new("v2_flush_older_than_the_loss", older_flush).needs(&[Need::Module]).timeout(60),
    Test::new("v2_merged_flush_leaves_the_loss", merged_flush).needs(&[Need::Module]).timeout(60),
    Test::new("v2_flush_sent_during_a_batch_leaves_the_loss", flush_during_a_batch)
        .needs(&[Need::Module])
        .timeout(60),
    Test::new("v2_flush_after_a_lost_cache_under_ext4", under_ext4)
        .needs(&[Need::Module, Need::Tool("mkfs.ext4")])
        .timeout(120),
];

const MIB: u64 = 1 << 20;

/// Most flushes of a quiet disk that fail because of a loss: each queue has one that was made after the loss,
/// and the next one of some queue reports it.
const fn most_failures(queues: u64) -> u64 {
    queues + 1
}

fn builder(name: &str) -> Builder {
    plain(name).volatile_cache(true).fua(true)
}

fn attach(name: &str, take_over: TakeOver, cache_survived: bool) -> (Disk, Manual) {
    let server = control().attach_with(name, take_over, cache_survived).expect("attach");
    let disk = Disk { server: Arc::new(server), name: name.to_owned() };
    let manual = Manual::new(&disk);
    (disk, manual)
}

/// The first fetch of a server, while nothing is queued.
fn begin(server: &mut Manual) {
    let (requests, entered) = server.try_fetch(0, 1, 0, 0);
    assert_eq!((requests.len(), entered.error), (0, None));
}

/// Flushes the disk's own cache, which sends nothing but a flush.
fn flush(path: PathBuf) -> JoinHandle<Result<(), Errno>> {
    std::thread::spawn(move || fdatasync(open_direct(&path)))
}

/// Serves until the thread has ended; returns its result, and the requests that came.
fn serve<T>(server: &mut Manual, done: JoinHandle<T>) -> (T, Vec<Fetched>) {
    let mut seen = Vec::new();
    wait_until(20, "a submitter", || {
        let (requests, entered) = server.try_fetch(0, 8, 1, 20);
        assert_eq!(entered.error, None);
        for request in &requests {
            server.complete(request);
        }
        seen.extend(requests.into_iter().filter(|request| request.op() != abi::OP_READ));
        done.is_finished()
    });
    (done.join().expect("a submitter"), seen)
}

fn write(server: &mut Manual, path: &Path, offset: u64, fua: bool) {
    let path = path.to_owned();
    let thread = if fua {
        std::thread::spawn(move || {
            let (fd, data) = (open_direct(&path), Aligned::new(4096, 0));
            pwritev2(&fd, &[IoSlice::new(data.bytes())], offset, ReadWriteFlags::DSYNC)
        })
    } else {
        write_in_thread(path, offset, offset, 4096)
    };
    let (written, seen) = serve(server, thread);
    assert_eq!(written, Ok(4096));
    let flagged = seen.iter().any(|request| request.flags() & abi::REQUEST_FUA != 0);
    assert_eq!(flagged, fua, "{seen:?}");
}

fn flushes(server: &mut Manual, path: &Path) -> Result<(), Errno> {
    let (flushed, seen) = serve(server, flush(path.to_owned()));
    assert!(seen.iter().any(|request| request.op() == abi::OP_FLUSH), "no flush: {seen:?}");
    flushed
}

/// Sends flushes until one succeeds. Before each flush, the status predicts its result. Returns the number of
/// failed flushes.
fn failures(disk: &Disk, queues: u64, mut flush: impl FnMut() -> Result<(), Errno>) -> u64 {
    for failed in 0..=most_failures(queues) {
        let lost = disk.server.status().expect("status").lost;
        let result = flush();
        assert_eq!(result, if lost { Err(Errno::IO) } else { Ok(()) }, "after {failed} that failed");
        if result.is_ok() {
            return failed;
        }
    }
    panic!("more than {} flushes of a quiet disk failed", most_failures(queues));
}

/// Cases: what happened before the server's death, whether the next server has its cache, and whether flushes
/// must fail.
fn fails_until_reported(context: &mut Context) {
    type Before = fn(&mut Manual, &Path);
    const CASES: [(&str, Before, bool, bool); 6] = [
        ("a write", |server, path| write(server, path, 0, false), false, true),
        ("a write, and its cache survives", |server, path| write(server, path, 0, false), true, false),
        ("nothing", |_, _| {}, false, false),
        ("a durable write", |server, path| write(server, path, 0, true), false, false),
        (
            "a write and a flush",
            |server, path| {
                write(server, path, 0, false);
                assert_eq!(flushes(server, path), Ok(()));
            },
            false,
            false,
        ),
        (
            "a flush between two writes",
            |server, path| {
                write(server, path, 0, false);
                assert_eq!(flushes(server, path), Ok(()));
                write(server, path, 8192, false);
            },
            false,
            true,
        ),
    ];
    context.load_module("");
    for take_over in [TakeOver::No, TakeOver::Yes] {
        for (what, before, survived, fails) in CASES {
            let disk = Disk::create(&builder("honest"));
            disk.server.start().expect("start");
            let mut server = Manual::new(&disk);
            let path = disk.path();
            before(&mut server, &path);
            let (next, mut second) = if take_over == TakeOver::No {
                drop((disk, server));
                attach("honest", take_over, survived)
            } else {
                let attached = attach("honest", take_over, survived);
                drop((disk, server));
                attached
            };
            assert!(
                !next.server.status().expect("status").lost,
                "{what}: nothing is decided before the first fetch"
            );
            // Reads and writes are not affected.
            write(&mut second, &path, 4096, false);
            assert_eq!(next.server.status().expect("status").lost, fails, "{what}");
            let failed = failures(&next, 1, || flushes(&mut second, &path));
            assert_eq!(failed > 0, fails, "{what}, then {take_over:?}");
            assert!(!next.server.status().expect("status").lost);
            assert_eq!(flushes(&mut second, &path), Ok(()), "{what}: another flush");
            let stats = next.server.stats(0).expect("stats");
            assert_eq!(stats.lost_flushes, failed, "{what}");
            next.destroy(true);
            drop(second);
        }
    }
}

/// The old server answers a write after the new one came; and what one queue's flush covers, another queue wrote.
fn two_queues(context: &mut Context) {
    context.load_module("");
    let disk = Disk::create(&builder("both").queues(2));
    disk.server.start().expect("start");
    let mut server = Manual::new(&disk);
    let path = disk.path();
    // Both queues are served by one thread, whichever CPU a submitter runs on.
    let take = |server: &mut Manual| {
        let mut found = None;
        wait_until(20, "a request", || {
            found = (0..2).find_map(|queue| server.try_fetch(queue, 1, 0, 0).0.pop());
            found.is_some()
        });
        found.expect("found")
    };
    let writer = write_in_thread(path.clone(), 0, 1, 4096);
    let held = take(&mut server);
    let (next, mut second) = attach("both", TakeOver::Yes, false);
    server.complete(&held);
    assert_eq!(writer.join().expect("writer"), Ok(4096));
    assert!(!next.server.status().expect("status").lost, "the new server may claim the cache yet");
    begin(&mut second);
    assert!(next.server.status().expect("status").lost, "answered by one whose cache is another one");
    let failed = failures(&next, 2, || {
        let flusher = flush(path.clone());
        let request = take(&mut second);
        assert_eq!(request.op(), abi::OP_FLUSH);
        second.complete(&request);
        flusher.join().expect("flusher")
    });
    assert!(failed > 0, "the write must be told of");
    // Written on one queue and flushed on the same or another: covered.
    for offset in 0..8 {
        let writer = write_in_thread(path.clone(), offset * 8192, offset, 4096);
        let request = take(&mut second);
        second.complete(&request);
        assert_eq!(writer.join().expect("writer"), Ok(4096));
    }
    let flusher = flush(path);
    let request = take(&mut second);
    second.complete(&request);
    assert_eq!(flusher.join().expect("flusher"), Ok(()));
    drop((disk, server));
    let (last, mut third) = attach("both", TakeOver::Yes, false);
    begin(&mut third);
    assert!(!last.server.status().expect("status").lost, "all writes were flushed");
    last.destroy(true);
    drop((next, second, third));
}

/// A successor says after it has attached that it has the cache, or does not say so. Until its first fetch nothing is
/// lost: flushes that the old server holds succeed, and younger flushes wait.
fn between_attach_and_claim(context: &mut Context) {
    context.load_module("");
    let claim = |server: &Server| {
        let argument = abi::Claim { size: abi::CLAIM_BYTES, flags: abi::CLAIM_CACHE };
        call(server.as_fd(), abi::IOCTL_CLAIM, &argument).0
    };
    for survived in [true, false] {
        let (disk, mut old) = by_hand(&builder("claim").grace(Duration::from_secs(60)));
        let path = disk.path();
        write(&mut old, &path, 0, false);
        assert_eq!(claim(&disk.server), Err(Errno::ALREADY));
        let observer = control().observe("claim").expect("observe");
        let argument = abi::Claim { size: abi::CLAIM_BYTES, flags: abi::CLAIM_CACHE };
        assert_eq!(call(observer.as_fd(), abi::IOCTL_CLAIM, &argument).0, Err(Errno::PERM));
        // The old server holds a flush and a write.
        let earlier = flush(path.clone());
        let flushed = old.fetch_one();
        let writer = write_in_thread(path.clone(), 8192, 1, 4096);
        let written = old.fetch_one();
        assert_eq!((flushed.op(), written.op()), (abi::OP_FLUSH, abi::OP_WRITE));
        // A server that never fetches decides nothing.
        drop(attach("claim", TakeOver::Yes, false));
        let (next, mut new) = attach("claim", TakeOver::No, false);
        assert_eq!(claim(&disk.server), Err(Errno::SHUTDOWN));
        old.complete(&flushed);
        assert_eq!(earlier.join().expect("flusher"), Ok(()), "the old server has the cache");
        old.complete(&written);
        assert_eq!(writer.join().expect("writer"), Ok(4096));
        let later = flush(path.clone());
        wait_until(20, "the flush", || next.server.stats(0).expect("stats").queued == 1);
        assert!(!next.server.status().expect("status").lost);
        // An ENTER that fetches nothing decides nothing, either.
        let mut answers = Answers::with_capacity(0);
        let entered = next.server.enter(&mut next.server.batch(&mut answers), Fetch::nothing());
        assert_eq!(entered, Entered::default());
        if survived {
            next.server.claim_cache().expect("claim");
            next.server.claim_cache().expect("claim again");
        }
        let (result, _) = serve(&mut new, later);
        assert_eq!(result, if survived { Ok(()) } else { Err(Errno::IO) });
        let failed = failures(&next, 1, || flushes(&mut new, &path));
        assert_eq!(failed > 0, !survived);
        assert_eq!(claim(&next.server), Err(Errno::ALREADY));
        next.destroy(true);
        assert_eq!(claim(&next.server), Err(Errno::NODEV));
        drop((disk, old, new));
    }
}

/// A flush that was sent before the lost write was answered is not the one that tells of it.
fn older_flush(context: &mut Context) {
    context.load_module("");
    let disk = Disk::create(&builder("older"));
    disk.server.start().expect("start");
    let (path, mut old) = (disk.path(), Manual::new(&disk));
    let writer = write_in_thread(path.clone(), 0, 1, 4096);
    let written = old.fetch_one();
    assert_eq!(written.op(), abi::OP_WRITE);
    let (next, mut new) = attach("older", TakeOver::Yes, false);
    let earlier = flush(path.clone());
    let flushed = new.fetch_one();
    assert_eq!(flushed.op(), abi::OP_FLUSH);
    // The write is in a cache that no flush will reach.
    old.complete(&written);
    assert_eq!(writer.join().expect("writer"), Ok(4096));
    new.complete(&flushed);
    assert_eq!(earlier.join().expect("flusher"), Err(Errno::IO));
    // The writer sends its flush now.
    let failed = failures(&next, 1, || {
        let (result, seen) = serve(&mut new, flush(path.clone()));
        assert_eq!(seen.len(), 1);
        result
    });
    assert!(failed > 0, "the writer must be told");
    next.destroy(true);
    drop((disk, old));
}

/// Whether a thread of this process waits in fdatasync for its flush.
fn waits_in_fdatasync(thread: &AtomicI32) -> bool {
    let folder = format!("/proc/self/task/{}", thread.load(Ordering::SeqCst));
    let read = |file: &str| std::fs::read_to_string(format!("{folder}/{file}")).unwrap_or_default();
    let waits =
        |stat: &str| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('D'));
    read("syscall").starts_with("75 ") && waits(&read("stat"))
}

/// The server that answered a write is gone, and a flush is unanswered whose submitter cannot rely on that write:
/// it had not been answered when he sent it. He may be told anything, but he is not the one who must be told.
fn early_flush_leaves_the_loss(name: &str, path: &Path, early: JoinHandle<Result<(), Errno>>, what: &str) {
    let (next, mut second) = attach(name, TakeOver::No, false);
    let lost = || next.server.status().expect("status").lost;
    assert!(!lost(), "{what}: nothing is decided before the first fetch");
    let (flushed, seen) = serve(&mut second, early);
    assert!(matches!(flushed, Ok(()) | Err(Errno::IO)), "{what}: {flushed:?}");
    assert_eq!(seen.len(), 1, "{what}: {seen:?}");
    assert_eq!(seen[0].op(), abi::OP_FLUSH, "{what}");
    assert!(lost(), "{what}: the loss must be left to the writer's flush; the one before had {flushed:?}");
    // The writer sends its flush now.
    let failed = failures(&next, 1, || flushes(&mut second, path));
    assert!(failed > 0, "{what}: the writer's flush must fail; the flush before had {flushed:?}");
    next.destroy(true);
}

/// While a flush is on its way the block layer collects the others, and sends one for all of them when it has ended.
/// That one is younger than its submitters' calls.
fn merged_flush(context: &mut Context) {
    context.load_module("");
    for fetched in [false, true] {
        let what = if fetched { "fetched by the first server" } else { "not fetched by the first server" };
        let (disk, mut first) = by_hand(&builder("merged").grace(Duration::from_secs(60)));
        let path = disk.path();
        let queued = |server: &Manual| server.server.stats(0).expect("stats").queued;
        let before = flush(path.clone());
        let held = first.fetch_one();
        assert_eq!(held.op(), abi::OP_FLUSH);
        let thread = Arc::new(AtomicI32::new(0));
        let early = std::thread::spawn({
            let (thread, path) = (Arc::clone(&thread), path.clone());
            move || {
                let node = open_direct(&path);
                thread.store(raw::thread_id(), Ordering::SeqCst);
                fdatasync(node)
            }
        });
        wait_until(20, "the second flush to wait behind the first", || waits_in_fdatasync(&thread));
        assert_eq!(queued(&first), 0, "the block layer was to keep the second flush");
        // The second flush is not for this write.
        write(&mut first, &path, 0, false);
        first.complete(&held);
        assert_eq!(before.join().expect("the first flusher"), Ok(()));
        wait_until(20, "the second flush", || queued(&first) == 1);
        if fetched {
            assert_eq!(first.fetch_one().op(), abi::OP_FLUSH);
        }
        drop((disk, first));
        early_flush_leaves_the_loss("merged", &path, early, what);
    }
}

/// One call answers a read from memory that has to be waited for, and then a write; meanwhile a flush is sent.
fn flush_during_a_batch(context: &mut Context) {
    context.load_module("");
    for in_pieces in [true, false] {
        let what = if in_pieces { "behind data in pieces" } else { "behind a chunk of commits" };
        let (disk, mut first) = by_hand(&builder("batch").grace(Duration::from_secs(60)));
        let path = disk.path();
        let read = read_in_thread(path.clone(), 0, 4096);
        let asked = first.fetch_one();
        assert_eq!(asked.op(), abi::OP_READ);
        let writer = write_in_thread(path.clone(), 8192, 1, 4096);
        let written = first.fetch_one();
        assert_eq!(written.op(), abi::OP_WRITE);
        let pages = Arc::new(Pages::new(PAGE));
        let keeper = pages.withhold().expect("userfaultfd");
        let data = pages.at_end(PAGE) as u64;
        let pieces = Pages::new(PAGE);
        let at = pieces.at_end(size_of::<abi::Iovec>());
        pieces.put_value(at, &abi::Iovec { address: data, length: 4096 });
        let answer = abi::Commit { handle: asked.handle(), result: 4096, ..abi::Commit::default() };
        let mut entries = if in_pieces {
            let flags = abi::COMMIT_IOVEC;
            vec![abi::Commit { address: at as u64, iovec_count: 1, flags, ..answer }]
        } else {
            // Refused entries fill the sixteen that the kernel carries out at once.
            let mut entries = vec![abi::Commit { address: data, ..answer }];
            entries.resize(16, abi::Commit::default());
            entries
        };
        let stale = entries.len() - 1;
        entries.push(abi::Commit { handle: written.handle(), result: 4096, ..abi::Commit::default() });
        let thread = Arc::new(AtomicI32::new(0));
        let call = std::thread::spawn({
            let (server, thread) = (Arc::clone(&disk.server), Arc::clone(&thread));
            move || {
                let _kept = &pieces;
                thread.store(raw::thread_id(), Ordering::SeqCst);
                commit_raw(&server, &pages, &entries)
            }
        });
        wait_until(20, "the call to wait for its memory", || sleeps_in_ioctl(&thread));
        assert!(!writer.is_finished(), "{what}: the write was to be answered later");
        let early = flush(path.clone());
        wait_until(20, "the flush", || disk.server.stats(0).expect("stats").queued == 1);
        assert!(!call.is_finished() && !writer.is_finished(), "{what}: the memory became accessible");
        drop(keeper);
        let statuses = call.join().expect("the answers");
        let refused = vec![-Errno::STALE.raw_os_error(); stale];
        assert_eq!(statuses, [&[0], &refused[..], &[0]].concat(), "{what}");
        assert_eq!(read.join().expect("reader"), Ok(vec![0; 4096]));
        assert_eq!(writer.join().expect("writer"), Ok(4096));
        drop((disk, first));
        early_flush_leaves_the_loss("batch", &path, early, what);
    }
}

/// A file system hears of the loss, where it would otherwise go on as if all were well.
fn under_ext4(context: &mut Context) {
    // Nobody but this test may flush: a flush of ext4's own, of the tables it clears or of the journal's timer, would be
    // the one that tells of the loss, or would save the write from it.
    const QUIET: &str = "noinit_itable,commit=600";
    context.load_module("");
    context.load_kernel_module("ext4", "");
    for survived in [false, true] {
        let recorder = Recorder::new(32 * MIB, |capabilities| {
            capabilities.volatile_cache = true;
            capabilities.cache_survives = survived;
        });
        let builder = Builder::new("fs").partition_scan(false);
        let (disk, serving) = Disk::serve(&builder, &recorder, threads(1));
        let path = disk.path();
        run(60, "mkfs.ext4", &["-q", path.to_str().expect("a plain path")]);
        let mounted = Mounted::new(path.to_str().expect("a plain path"), "/mnt", "ext4", QUIET);
        let file = File::create("/mnt/file").expect("create");
        file.write_all_at(&[7; 8192], 0).expect("write");
        file.sync_all().expect("sync");
        // Answered, and no flush asked for it: in place, bypassing the page cache.
        assert_eq!(write_in_thread("/mnt/file".into(), 0, 8, 4096).join().expect("writer"), Ok(4096));
        let next = follow(&control(), &recorder);
        assert_eq!(join(serving), zosbd2::End::TakenOver);
        let serving = next.serve_with(&recorder, threads(1));
        let fetched = || next.server.stats(0).expect("stats").waiting == 1;
        wait_until(20, "the new server", fetched);
        assert_eq!(next.server.status().expect("status").lost, !survived);
        drop(disk);
        (&file).write_all(&[9; 4096]).expect("write");
        let synced = file.sync_all().map_err(|error| error.raw_os_error());
        assert_eq!(synced, if survived { Ok(()) } else { Err(Some(Errno::IO.raw_os_error())) });
        drop(file);
        mounted.unmount();
        // What it returns does not tell the flush from the superblock's failed write, which each new descriptor is told of.
        let lost = || next.server.status().expect("status").lost;
        let more = (0..).take_while(|_| lost()).map(|_| fdatasync(open_direct(&next.path()))).take(9).count();
        assert!(more <= 2, "{more} more flushes until the loss was reported");
        next.destroy_and_join(serving);
    }
}

fn follow(control: &Control, recorder: &Arc<Recorder>) -> Disk {
    let server = control.attach_for("fs", TakeOver::Yes, &**recorder).expect("attach");
    Disk { server: Arc::new(server), name: "fs".to_owned() }
}
