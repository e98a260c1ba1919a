// SPDX-License-Identifier: MIT OR Apache-2.0
//! debugfs shows the same data as the ioctls, as text.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use zosbd2::v2::abi;
use zosbd2::{Builder, DeadlinePolicy, Latency, Outstanding};
use zosbd2_backends::Ram;

use super::super::support::{Disk as Disk1, write_in_thread};
use super::support::{Disk, Manual, by_hand, control, join, plain, threads};
use crate::guest::{Context, Need, Test, What, follow_trace, raw, traced, wait_until};

const ROOT: &str = "/sys/kernel/debug/zosbd2";

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_debugfs_tells_the_same", tells_the_same)
        .needs(&[Need::Module, Need::Path("/sys/kernel/debug")])
        .timeout(60),
    Test::new("v2_tracepoints_are_followed", tracepoints)
        .needs(&[Need::Module, Need::Path("/sys/kernel/tracing/events")])
        .timeout(60),
    Test::new("v2_tracepoints_of_a_late_request", late_tracepoints)
        .needs(&[Need::Module, Need::Path("/sys/kernel/tracing/events")])
        .timeout(60),
    Test::new("v2_debugfs_read_while_devices_go", read_while_devices_go)
        .needs(&[Need::Module, Need::Path("/sys/kernel/debug")])
        .timeout(60),
];

const MIB: u64 = 1 << 20;

type Words = BTreeMap<String, String>;

fn folder(disk: &str) -> PathBuf {
    Path::new(ROOT).join(disk)
}

/// The lines of a file, each as its keys and values.
pub(super) fn lines(disk: &str, file: &str) -> Vec<Words> {
    let path = folder(disk).join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let word = |word: &str| {
        let (key, value) = word.split_once('=').unwrap_or_else(|| panic!("no KEY=VALUE: {word} in {text}"));
        (key.to_owned(), value.to_owned())
    };
    text.lines().map(|line| line.split(' ').map(word).collect()).collect()
}

#[track_caller]
pub(super) fn number(words: &Words, key: &str) -> u64 {
    let value = words.get(key).unwrap_or_else(|| panic!("no {key} in {words:?}"));
    value.parse().unwrap_or_else(|_| panic!("{key}={value} is no number"))
}

fn tells_the_same(context: &mut Context) {
    context.load_module("");
    let disk = Disk::create(&plain("text").queues(2));
    disk.server.start().expect("start");
    let mut server = Manual::new(&disk);
    let name = "zosbd2-text";
    assert_eq!(lines(name, "requests"), Vec::<Words>::new());
    let submitters: Vec<_> =
        (0..12_u64).map(|index| write_in_thread(disk.path(), index * 8192, index, 4096)).collect();
    let queued = || (0..2).map(|queue| disk.server.stats(queue).expect("stats").queued).sum::<u32>();
    wait_until(20, "all writes", || queued() == 12);
    let held: Vec<_> = (0..2).flat_map(|queue| server.try_fetch(queue, 2, 0, 0).0).collect();
    assert!(!held.is_empty());

    let requests = lines(name, "requests");
    assert_eq!(requests.len(), 12);
    for words in &requests {
        assert_eq!((words["op"].as_str(), number(words, "length")), ("write", 4096), "{words:?}");
        let is_held = held.iter().any(|request| request.offset() == number(words, "offset"));
        let (state, epoch) = if is_held { ("held", 1) } else { ("queued", 0) };
        assert_eq!((words["state"].as_str(), number(words, "epoch")), (state, epoch), "{words:?}");
        let thread = if is_held { u64::try_from(raw::thread_id()).expect("a number") } else { 0 };
        assert_eq!(number(words, "thread"), thread);
        assert!(number(words, "held_ns") <= number(words, "age_ns"));
    }

    for request in &held {
        server.complete(request);
    }
    for queue in 0..2 {
        let asked = disk.server.stats(queue).expect("stats");
        let mine: Vec<Words> = lines(name, "stats")
            .into_iter()
            .filter(|words| number(words, "queue") == u64::from(queue))
            .collect();
        assert_eq!(mine.len(), abi::OPERATIONS + 1);
        let write = mine.iter().find(|words| words.get("op").is_some_and(|op| op == "write")).expect("write");
        let counts = asked.operations[abi::OP_WRITE as usize];
        assert_eq!(
            (number(write, "fetched"), number(write, "committed")),
            (counts.fetched, counts.committed)
        );
        let all = mine.iter().find(|words| !words.contains_key("op")).expect("the queue's");
        assert_eq!(number(all, "queued"), u64::from(asked.queued));
        assert_eq!(number(all, "held"), u64::from(asked.held));
        assert_eq!(number(all, "written_bytes"), asked.written_bytes);

        let latency = disk.server.latency(queue).expect("latency");
        let mut total = vec![0; abi::LATENCY_BUCKETS];
        for words in lines(name, "latency").iter().filter(|words| number(words, "queue") == u64::from(queue))
        {
            let bound =
                words.contains_key("below_ns").then(|| Duration::from_nanos(number(words, "below_ns")));
            let bucket = (0..total.len()).find(|bucket| Latency::bound(*bucket) == bound);
            total[bucket.unwrap_or_else(|| panic!("no bucket below {bound:?}"))] = number(words, "total");
        }
        assert_eq!(total, latency.total);
    }
    // Devices of version 1 as well.
    let old = Disk1::create("zosbd2old", 1024);
    assert!(!lines("zosbd2old", "stats").is_empty());
    old.destroy();
    drop(old);
    assert!(!folder("zosbd2old").exists());
    disk.destroy(true);
    drop((disk, server));
    for submitter in submitters {
        let _ends_either_way = submitter.join().expect("submitter");
    }
    assert!(!folder(name).exists());
    assert!(Path::new(ROOT).exists());
    context.unload_module();
    assert!(!Path::new(ROOT).exists());
}

/// Every step of a request is an event, and the model accepts the events.
fn tracepoints(context: &mut Context) {
    context.load_module("");
    let (before, disk) = (follow_trace(), Disk::create(&plain("traced")));
    assert_eq!((before.events, before.fault), (0, None));
    disk.server.start().expect("start");
    let mut server = Manual::new(&disk);
    let write = write_in_thread(disk.path(), 0, 1, 4096);
    let request = server.fetch_one();
    assert_eq!(follow_trace().events, 2, "queue and fetch");
    server.complete(&request);
    assert_eq!(write.join().expect("writer"), Ok(4096));
    let after = follow_trace();
    assert_eq!((after.events, after.cut, after.fault), (4, false, None), "commit and end, too");
    disk.destroy(true);
}

/// A held request passes its deadline and is requeued: one event for each, with the tag that REQUESTS shows. How
/// it was submitted is in the first event.
fn late_tracepoints(context: &mut Context) {
    // enum zosbd2_late_action
    const REQUEUED: u32 = 3;
    context.load_module("");
    let builder = plain("traced").deadline(Duration::from_secs(2)).deadline_policy(DeadlinePolicy::Requeue);
    let (disk, mut server) = by_hand(&builder);
    let write = write_in_thread(disk.path(), 8192, 1, 4096);
    let first = server.fetch_one();
    let seen = disk.server.requests(0, Duration::ZERO).expect("requests");
    let [Outstanding { tag, .. }] = seen[..] else { panic!("not one request: {seen:?}") };
    let again = server.fetch_one();
    assert_eq!(again.offset(), first.offset());
    server.complete(&again);
    assert_eq!(write.join().expect("writer"), Ok(4096));
    let events = traced();
    let whats: Vec<What> = events.iter().map(|event| event.what).collect();
    let [
        submitted,
        What::Fetch { .. },
        What::Timeout { action: REQUEUED },
        What::Requeue,
        What::Fetch { .. },
        What::Commit { status: 0, .. },
        What::End { error: 0 },
    ] = whats[..]
    else {
        panic!("other events, or in another order: {events:#?}")
    };
    assert_eq!(submitted, What::Queue { op: abi::OP_WRITE, flags: 0, offset: 8192, length: 4096 });
    assert!(events.iter().all(|event| event.tag == tag), "not all of tag {tag}: {events:#?}");
    disk.destroy(true);
}

/// Readers of debugfs delay no destruction, and see no device that is gone.
fn read_while_devices_go(context: &mut Context) {
    context.load_module("");
    let ends = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = ["stats", "latency", "requests"]
        .map(|file| {
            let ends = Arc::clone(&ends);
            std::thread::spawn(move || {
                let mut reads = 0_u64;
                while !ends.load(Ordering::Relaxed) {
                    let Ok(entries) = std::fs::read_dir(ROOT) else { continue };
                    for entry in entries.flatten() {
                        // The device may just have gone.
                        reads += u64::from(std::fs::read(entry.path().join(file)).is_ok());
                    }
                }
                reads
            })
        })
        .into();
    let ram = Arc::new(Ram::new(16 * MIB).expect("memory"));
    for round in 0..20_u64 {
        let (disk, serving) = Disk::serve(&Builder::new("brief").partition_scan(false), &ram, threads(2));
        assert_eq!(write_in_thread(disk.path(), 0, round, 4096).join().expect("writer"), Ok(4096));
        control().destroy("brief", true).expect("destroy");
        assert_eq!(join(serving), zosbd2::End::Gone);
    }
    ends.store(true, Ordering::Relaxed);
    let reads: u64 = readers.into_iter().map(|reader| reader.join().expect("a reader")).sum();
    assert!(reads > 0, "the readers read nothing");
}
