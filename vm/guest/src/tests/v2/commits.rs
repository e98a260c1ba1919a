// SPDX-License-Identifier: MIT OR Apache-2.0
//! The commits of one ENTER: their order, and calls with many of them.

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, pwrite};
use rustix::process::Signal;
use zosbd2::v2::abi;
use zosbd2::{Fetched, TakeOver};

use super::super::support::{Aligned, open_direct, write_in_thread};
use super::hostile::commit_raw;
use super::support::{Disk, attach, plain, plain_by_hand};
use crate::guest::raw::{FilePages, PAGE, Pages, SharedWords};
use crate::guest::{Context, Mounted, Need, Test, raw, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_copy_only_and_answer_in_one_call", copy_then_answer).needs(&[Need::Module]).timeout(120),
    Test::new("v2_long_enter_can_be_killed", long_enter).needs(&[Need::Module]).timeout(120),
    Test::new("v2_long_fetch_can_be_killed", long_fetch).needs(&[Need::Module]).timeout(240),
];

/// An entry that copies the data of a write and leaves the request with the server.
fn copy_only(request: &Fetched, address: usize) -> abi::Commit {
    abi::Commit { flags: abi::COMMIT_COPY_ONLY, ..answer(request, address) }
}

/// An entry that ends a write, and copies its data if `address` is not 0.
fn answer(request: &Fetched, address: usize) -> abi::Commit {
    abi::Commit {
        handle: request.handle(),
        result: i64::try_from(request.length()).expect("a length"),
        address: address as u64,
        ..abi::Commit::default()
    }
}

/// A write of a page in flight, and its data.
fn write_of(disk: &Disk, seed: u64) -> (JoinHandle<Result<usize, Errno>>, Vec<u8>) {
    let mut data = Aligned::new(PAGE, 0);
    data.fill(seed);
    (write_in_thread(disk.path(), 0, seed, PAGE), data.bytes().to_vec())
}

/// Entries of one request are carried out in order, at any position in the call.
fn copy_then_answer(context: &mut Context) {
    context.load_module("");
    let (disk, mut server) = plain_by_hand("twice");
    // Without room for its data a write comes alone.
    server.arena = Vec::new();
    let pages = Pages::new(2 * PAGE);
    let (first, second) = (pages.at_end(2 * PAGE), pages.at_end(PAGE));
    for place in 0..40_usize {
        let (write, data) = write_of(&disk, place as u64 + 1);
        let request = server.fetch_one();
        pages.put(first, &[0; 2 * PAGE]);
        // Invented handles stand before them.
        let invented = abi::Commit { handle: request.handle() ^ 1 << 31, ..answer(&request, 0) };
        let mut entries = vec![invented; place];
        let mut wanted = vec![-Errno::STALE.raw_os_error(); place];
        entries.extend([copy_only(&request, first), copy_only(&request, second), answer(&request, 0)]);
        wanted.extend([0, 0, 0]);
        entries.extend([answer(&request, 0), copy_only(&request, first)]);
        wanted.extend([-Errno::STALE.raw_os_error(); 2]);
        assert_eq!(commit_raw(&disk.server, &pages, &entries), wanted, "behind {place} others");
        assert_eq!(write.join().expect("writer"), Ok(PAGE), "behind {place} others");
        for at in [first, second] {
            assert!(pages.get(at, PAGE) == data, "the data, behind {place} others");
        }
    }
    // The data that comes with an answer is copied before the next entry, too.
    let (write, data) = write_of(&disk, 77);
    let request = server.fetch_one();
    let entries = [answer(&request, first), copy_only(&request, second)];
    assert_eq!(commit_raw(&disk.server, &pages, &entries), [0, -Errno::STALE.raw_os_error()]);
    assert_eq!(write.join().expect("writer"), Ok(PAGE));
    assert!(pages.get(first, PAGE) == data, "the data of an answer");
    disk.destroy(true);
}

/// Largest data of a request.
const LARGE: usize = 32 << 20;
/// Offsets in the file that the server in [`role`] shares with the test: the argument of ENTER, its commits,
/// and then the data.
const COMMITS_AT: usize = PAGE;
const DATA_AT: usize = 1 << 20;

/// The number of four bytes at an offset.
fn half(words: &[AtomicU64], offset: usize) -> u32 {
    let bytes = words[offset / 8].load(Ordering::Relaxed).to_ne_bytes();
    let own = bytes[offset % 8..][..4].try_into().expect("four bytes");
    u32::from_ne_bytes(own)
}

/// A server that copies one large write repeatedly in one ENTER is killed before all copies are made.
fn long_enter(context: &mut Context) {
    context.load_module("");
    let shared = Mounted::new("shared", "/run/shared", "tmpfs", "");
    let path = "/run/shared/file";
    let file = std::fs::File::options().read(true).write(true).create_new(true).open(path).expect("create");
    let words = SharedWords::new(&file, (DATA_AT + LARGE) / 8);
    let large = u32::try_from(LARGE).expect("32 bits");
    let disk = Disk::create(&plain("long").size_bytes(64 << 20).max_io_bytes(large));
    disk.server.start().expect("start");
    let write = write_in_thread(disk.path(), 0, 0xa5, LARGE);
    let mut child = context.spawn("/proc/self/exe", &["--copy-long", "long", path]);
    let first_words = &words.words()[DATA_AT / 8..][..PAGE / 8];
    wait_until(60, "the first bytes to be copied", || {
        assert!(child.running(), "the server ended: {}", child.stderr());
        first_words.iter().any(|word| word.load(Ordering::Relaxed) != 0)
    });
    child.signal(Signal::KILL);
    child.wait(100);
    let processed = half(words.words(), std::mem::offset_of!(abi::Enter, processed));
    context.say(&format!("{} ; {processed} of {} entries", child.stdout().trim(), abi::MAX_BATCH));
    assert!(processed < abi::MAX_BATCH, "every entry was carried out after the server was killed");
    // Nothing is lost: another server gets the write.
    let (_next, mut server) = attach("long", TakeOver::Yes);
    server.arena = Vec::new();
    let mut left = LARGE as u64;
    while left > 0 {
        let request = server.fetch_one();
        left -= request.length();
        server.complete(&request);
    }
    assert_eq!(write.join().expect("writer"), Ok(LARGE));
    disk.destroy(true);
    drop(shared);
}

/// The role `--copy-long NAME FILE`: takes the device over, fetches a write, and copies its data to one place
/// of the file, with as many entries as one ENTER allows.
pub(crate) fn role(arguments: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    let (name, memory) = shared_memory(arguments, "--copy-long", LARGE)?;
    let (disk, mut server) = attach(name, TakeOver::Yes);
    server.arena = Vec::new();
    let request = server.fetch_one();
    println!("a write of {} bytes", request.length());
    let entry = copy_only(&request, memory.address() + DATA_AT);
    for index in 0..abi::MAX_BATCH as usize {
        memory.put_value(COMMITS_AT + index * size_of::<abi::Commit>(), &entry);
    }
    let argument = abi::Enter {
        size: abi::ENTER_BYTES,
        commits: (memory.address() + COMMITS_AT) as u64,
        commit_count: abi::MAX_BATCH,
        ..abi::Enter::default()
    };
    Err(came_back(&disk, &memory, &argument))
}

/// The arguments NAME and FILE of a role, and the memory that the file shares with the test.
fn shared_memory<'a>(
    arguments: &[&'a str],
    role: &str,
    data_bytes: usize,
) -> Result<(&'a str, FilePages), Box<dyn std::error::Error>> {
    let [name, path] = arguments else { return Err(format!("usage: {role} NAME FILE").into()) };
    let file = rustix::fs::open(*path, OFlags::RDWR, Mode::empty())?;
    Ok((name, FilePages::new(file.as_fd(), DATA_AT + data_bytes)))
}

/// Calls ENTER with an argument in shared memory. The call is to be ended by a signal that kills the process, so that a
/// return from it is an error.
fn came_back(disk: &Disk, memory: &FilePages, argument: &abi::Enter) -> Box<dyn std::error::Error> {
    memory.put_value(0, argument);
    let entered = raw::ioctl(disk.server.as_fd(), abi::IOCTL_ENTER, memory.address());
    format!("ENTER came back: {entered:?}").into()
}

/// Writes in flight whose data one ENTER fetches, and the data of all of them.
const WRITES: usize = 6;
const FETCHED: usize = WRITES * LARGE;
/// Attempts to kill a server during its fetch. A machine that is busy may be too late each time but the last.
const ATTEMPTS: usize = 10;

/// A server that fetches many large writes in one ENTER is killed before it has all data.
fn long_fetch(context: &mut Context) {
    context.load_module("");
    let shared = Mounted::new("shared", "/run/shared", "tmpfs", "size=100%");
    let path = "/run/shared/file";
    let file = std::fs::File::options().read(true).write(true).create_new(true).open(path).expect("create");
    let words = SharedWords::new(&file, (DATA_AT + FETCHED) / 8);
    let large = u32::try_from(LARGE).expect("32 bits");
    let builder = plain("long").size_bytes(1 << 30).max_io_bytes(large).depth(1024);
    let disk = Disk::create(&builder);
    disk.server.start().expect("start");
    let mut data = Aligned::new(LARGE, 0);
    data.fill(0xa5);
    let data = Arc::new(data);
    let writes: Vec<_> = (0..WRITES)
        .map(|index| {
            let (path, data) = (disk.path(), Arc::clone(&data));
            std::thread::spawn(move || pwrite(open_direct(&path), data.bytes(), (index * LARGE) as u64))
        })
        .collect();
    let mut stopped = false;
    for _ in 0..ATTEMPTS {
        words.words()[..PAGE / 8].iter().for_each(|word| word.store(0, Ordering::Relaxed));
        words.words()[DATA_AT / 8].store(0, Ordering::Relaxed);
        let mut child = context.spawn("/proc/self/exe", &["--fetch-long", "long", path]);
        wait_until(60, "the first bytes to be fetched", || {
            assert!(child.running(), "the server ended: {}", child.stderr());
            words.words()[DATA_AT / 8].load(Ordering::Relaxed) != 0
        });
        child.signal(Signal::KILL);
        child.wait(100);
        let all = words.words()[COMMITS_AT / 8].load(Ordering::Relaxed);
        let fetched = half(words.words(), std::mem::offset_of!(abi::Enter, fetched));
        context.say(&format!("{fetched} of {all} requests"));
        assert!(all >= WRITES as u64, "too few requests for this test");
        stopped = u64::from(fetched) < all;
        if stopped {
            break;
        }
    }
    assert!(stopped, "every request was fetched after the server was killed, each time");
    // Nothing is lost: another server gets the writes.
    let (_next, mut server) = attach("long", TakeOver::Yes);
    server.arena = Vec::new();
    let mut left = FETCHED as u64;
    while left > 0 {
        for request in server.fetch(0, 64, 1).expect("fetch") {
            left -= request.length();
            server.complete(&request);
        }
    }
    for write in writes {
        assert_eq!(write.join().expect("writer"), Ok(LARGE));
    }
    disk.destroy(true);
    drop(shared);
}

/// The role `--fetch-long NAME FILE`: takes the device over, and fetches all that is queued, with its data, in one
/// ENTER. The file gets the argument, the number of requests, the requests, and the data.
pub(crate) fn fetch_role(arguments: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    let (name, memory) = shared_memory(arguments, "--fetch-long", FETCHED)?;
    // With its memory present, the kernel copies without waiting.
    for page in 0..FETCHED / PAGE {
        memory.put_value(DATA_AT + page * PAGE, &abi::Iovec::default());
    }
    let (disk, _) = attach(name, TakeOver::Yes);
    wait_until(60, "the writes to be queued", || {
        let queued = disk.server.requests(0, Duration::ZERO).expect("requests");
        queued.iter().map(|request| request.length).sum::<u64>() >= FETCHED as u64
    });
    let all = disk.server.stats(0)?.queued;
    memory.put_value(COMMITS_AT, &abi::Iovec { address: u64::from(all), ..abi::Iovec::default() });
    let argument = abi::Enter {
        size: abi::ENTER_BYTES,
        requests: (memory.address() + COMMITS_AT + PAGE) as u64,
        capacity: abi::MAX_BATCH,
        minimum: 1,
        arena: (memory.address() + DATA_AT) as u64,
        arena_bytes: FETCHED as u64,
        ..abi::Enter::default()
    };
    Err(came_back(&disk, &memory, &argument))
}
