// SPDX-License-Identifier: MIT OR Apache-2.0
//! Killed servers: data covered by a flush or FUA is on the disk afterwards, and no data that nobody wrote.

mod account;
mod cache;
pub(crate) mod server;

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{Errno, IoSlice, ReadWriteFlags};
use rustix::process::Signal;
use zosbd2::TakeOver;

use self::account::{Account, Kept};
use self::server::{BLOCK, Kind, cache_of};
use super::super::support::{Aligned, open_direct};
use super::support::control;
use crate::guest::{Context, Mounted, Need, Random, Spawned, Test, run, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_crash_keeps_what_a_flush_covered", keeps).needs(&[Need::Module]).timeout(240),
    Test::new("v2_crash_checker_finds_liars", liars)
        .needs(&[Need::Module, Need::Tool("mkfs.ext4")])
        .timeout(240),
    Test::new("v2_crash_and_another_server", another_server).needs(&[Need::Module]).timeout(240),
    Test::new("v2_killed_server_and_its_cache", own_cache).needs(&[Need::Module]).timeout(60),
    Test::new("v2_crash_under_ext4", ext4).needs(&[Need::Module, Need::Tool("mkfs.ext4")]).timeout(240),
];

const ROUNDS: u64 = 24;
const EXT4_ROUNDS: u64 = 20;
/// Threads that write, each to its own blocks.
const WRITERS: u64 = 3;
const BLOCKS_EACH: u64 = 16;
const BLOCKS: u64 = WRITERS * BLOCKS_EACH;
const FILE: &str = "/run/disk/file";
const NEVER: u64 = u64::MAX;

/// The folder of the servers' files, which outlive the servers.
fn store() -> Mounted {
    Mounted::new("store", "/run/disk", "tmpfs", "")
}

/// A new disk of zeros.
fn new_disk(bytes: u64) {
    File::create(FILE).expect("create").set_len(bytes).expect("size");
}

fn node(name: &str) -> PathBuf {
    PathBuf::from(format!("/dev/zosbd2-{name}"))
}

/// Starts a server. Returns when it serves, or has served and is dead.
fn start(context: &Context, name: &str, kind: Kind, random: &mut Random, steps: u64, grace: u64) -> Spawned {
    let numbers = [random.next(), steps, grace].map(|number| number.to_string());
    let [seed, steps, grace] = &numbers;
    let arguments = ["--serve-mortal", name, FILE, &kind.word(), seed, steps, grace];
    let mut server = context.spawn("/proc/self/exe", &arguments);
    wait_until(30, "the server to serve", || server.stdout().contains("serving") || !server.running());
    if !server.stdout().contains("serving") {
        // Requests that others left in the queue can kill it before it prints anything.
        killed(&mut server);
    }
    server
}

/// Asserts that the server was killed, and ended in no other way.
fn killed(server: &mut Spawned) {
    let status = server.wait(60);
    assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "{status:?}: {}", server.stderr());
}

/// Writes and flushes at random until an error, or until `stop`.
fn write(
    fd: &OwnedFd,
    account: &Account,
    writer: u64,
    random: &mut Random,
    stop: &AtomicBool,
) -> Result<(), Errno> {
    let mut buffer = Aligned::new(usize::try_from(4 * BLOCK).expect("small"), 0);
    while !stop.load(Ordering::Relaxed) {
        let kind = random.below(16);
        if kind < 3 {
            let covered = account.flush();
            rustix::fs::fdatasync(fd)?;
            account.flushed(&covered);
            continue;
        }
        let count = 1 + random.below(4);
        let first = writer * BLOCKS_EACH + random.below(BLOCKS_EACH - count + 1);
        let bytes = usize::try_from(count * BLOCK).expect("small");
        let data = &mut buffer.bytes_mut()[..bytes];
        account.submit(first, count, data);
        let durable = kind < 6;
        let flags = if durable { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
        let written = rustix::io::pwritev2(fd, &[IoSlice::new(data)], first * BLOCK, flags)?;
        assert_eq!(written, bytes, "a short write");
        account.answered(first, count, durable);
    }
    Ok(())
}

/// Runs the writers until each has ended, beside `meanwhile`. Returns their results, and that of `meanwhile`.
fn work<T>(
    path: &Path,
    account: &Account,
    random: &mut Random,
    meanwhile: impl FnOnce(&AtomicBool) -> T,
) -> (Vec<Result<(), Errno>>, T) {
    let stop = AtomicBool::new(false);
    // Opened before the first write, which can kill the server and remove the node.
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| (writer, open_direct(path), Random::named(random.next(), "writer")))
        .collect();
    std::thread::scope(|scope| {
        let stop = &stop;
        let writers: Vec<_> = writers
            .into_iter()
            .map(|(writer, fd, mut random)| {
                scope.spawn(move || write(&fd, account, writer, &mut random, stop))
            })
            .collect();
        let said = meanwhile(stop);
        let ends = writers.into_iter().map(|writer| writer.join().expect("a writer panicked")).collect();
        (ends, said)
    })
}

/// One server's life, and its death after a number of steps or answers. Returns the contents of the disk.
fn round(context: &Context, kind: Kind, random: &mut Random, from_outside: bool) -> Result<Kept, String> {
    new_disk(BLOCKS * BLOCK);
    let (steps, answers) =
        if from_outside { (NEVER, 1 + random.below(300)) } else { (2 + random.below(600), NEVER) };
    let mut server = start(context, "crash", kind, random, steps, 0);
    let account = Account::new(random.next(), BLOCKS);
    let (ends, ()) = work(&node("crash"), &account, random, |_| {
        if from_outside {
            wait_until(60, "enough answers", || account.answers() >= answers);
            server.signal(Signal::KILL);
        }
    });
    killed(&mut server);
    // A disk that is being removed has size 0.
    let dead = |end: &Result<(), Errno>| matches!(end, Err(Errno::IO | Errno::NOSPC | Errno::NXIO));
    assert!(ends.iter().all(dead), "how writers end without a server: {ends:?}");
    wait_until(30, "the device to go with its server", || control().status("crash").is_err());
    account.check(&std::fs::read(FILE).expect("read the disk"))
}

fn keeps(context: &mut Context) {
    context.load_module("");
    let _store = store();
    let mut random = context.random("crash");
    let (mut durable, mut forgotten) = (0, 0);
    for number in 0..ROUNDS {
        let kept = round(context, Kind::Honest, &mut random, number % 3 == 2)
            .unwrap_or_else(|lost| panic!("round {number}: {lost}"));
        durable += kept.durable;
        forgotten += kept.forgotten;
    }
    context.say(&format!("{ROUNDS} crashes: {durable} durable blocks kept, {forgotten} others forgotten"));
    // Otherwise the round tested nothing.
    assert!(durable > 0 && forgotten > 0);
}

fn liars(context: &mut Context) {
    context.load_module("");
    context.load_kernel_module("ext4", "");
    let _store = store();
    let mut random = context.random("liars");
    let mut find = |kind, round: &dyn Fn(&mut Random) -> Option<String>| {
        let found = (0..ROUNDS).find_map(|number| Some((number, round(&mut random)?)));
        let (number, lost) = found.unwrap_or_else(|| panic!("{kind:?} was not found in {ROUNDS} rounds"));
        context.say(&format!("{kind:?}: found in round {number}: {lost}"));
    };
    let flush = Kind::LiesAboutFlush;
    find(flush, &|random| round(context, flush, random, false).err());
    // Programs cannot send FUA without a flush after it; the journal of ext4 does.
    let fua = Kind::LiesAboutFua;
    find(fua, &|random| ext4_round(context, fua, random, true).err());
    for kind in [flush, Kind::LosesCache] {
        find(kind, &|random| relay(context, kind, random).err());
    }
}

/// Server after server dies under a device that outlives them. For the disk each death is a power failure;
/// submitters notice none of them. An error says which data the disk lacks.
fn relay(context: &Context, kind: Kind, random: &mut Random) -> Result<Vec<Kept>, String> {
    new_disk(BLOCKS * BLOCK);
    // The cache of the last relay is not used again.
    let _none_is_as_well = std::fs::remove_file(cache_of(Path::new(FILE)));
    let account = Account::new(random.next(), BLOCKS);
    let mut servers = Random::named(random.next(), "servers");
    let from_outside = |number: u64| number % 3 == 2;
    let mut next = |number, immortal| {
        let steps = 2 + servers.below(400);
        let steps = if immortal || from_outside(number) { NEVER } else { steps };
        start(context, "crash", kind, &mut servers, steps, 60)
    };
    let mut server = next(0, false);
    let mut found = Vec::new();
    let (ends, (deaths, lost)) = work(&node("crash"), &account, random, |stop| {
        let mut number = 0;
        loop {
            if from_outside(number) {
                let enough = account.answers() + 30;
                wait_until(60, "enough answers", || account.answers() >= enough);
                server.signal(Signal::KILL);
            }
            killed(&mut server);
            // No server runs, so meanwhile nothing is answered or written to the disk.
            let lost = match account.check(&std::fs::read(FILE).expect("read the disk")) {
                Ok(kept) => {
                    found.push(kept);
                    None
                }
                Err(lost) => Some(format!("server {number}: {lost}")),
            };
            number += 1;
            // The last server lives, so that the writers end well.
            let enough = number == ROUNDS || lost.is_some();
            server = next(number, enough);
            if enough {
                stop.store(true, Ordering::Relaxed);
                return (number, lost);
            }
        }
    });
    assert!(ends.iter().all(Result::is_ok), "a writer noticed: {ends:?}");
    let status = control().status("crash").expect("status");
    assert_eq!(u64::from(status.epoch), deaths + 1, "one epoch for each server");
    let end = control().attach("crash", TakeOver::Yes).expect("attach");
    assert!(server.wait(60).success(), "{}", server.stderr());
    // Servers that kill themselves hold a request at that time.
    let requeued = end.stats(0).expect("stats").requeued;
    let own_hands = (0..deaths).filter(|number| !from_outside(*number)).count();
    assert!(requeued >= own_hands as u64, "{requeued} requests for the next servers");
    control().destroy("crash", true).expect("destroy");
    lost.map_or(Ok(found), Err)
}

fn another_server(context: &mut Context) {
    context.load_module("");
    let _store = store();
    let mut random = context.random("another");
    for kind in [Kind::WriteThrough, Kind::Honest] {
        let found = relay(context, kind, &mut random).unwrap_or_else(|lost| panic!("{kind:?}: {lost}"));
        let durable: usize = found.iter().map(|kept| kept.durable).sum();
        let forgotten: usize = found.iter().map(|kept| kept.forgotten).sum();
        context.say(&format!(
            "{kind:?}: {ROUNDS} servers: {durable} durable blocks kept, {forgotten} others not"
        ));
        assert!(durable > 0, "nothing was at stake");
        // A server without a cache loses no answered write.
        assert_eq!(forgotten > 0, kind == Kind::Honest, "{forgotten} blocks forgotten");
    }
}

/// A server is killed with an answered write in its cache. If the next server has that cache, a flush puts the
/// write into the file. If it does not have the cache, and says so, two flushes of the quiet disk fail.
fn own_cache(context: &mut Context) {
    context.load_module("");
    let _store = store();
    let mut random = context.random("own cache");
    for (kind, fails) in [(Kind::Honest, false), (Kind::OwnCache, true)] {
        new_disk(BLOCKS * BLOCK);
        let mut first = start(context, "crash", kind, &mut random, NEVER, 60);
        let fd = open_direct(&node("crash"));
        let mut data = Aligned::new(usize::try_from(BLOCK).expect("small"), 0);
        data.fill(1);
        assert_eq!(rustix::io::pwrite(&fd, data.bytes(), 0), Ok(data.bytes().len()), "{kind:?}");
        first.signal(Signal::KILL);
        killed(&mut first);
        let mut second = start(context, "crash", kind, &mut random, NEVER, 60);
        let observer = control().observe("crash").expect("observe");
        // The server decides it with its first fetch, which may come after it says that it serves.
        if fails {
            wait_until(30, "the cache to be lost", || observer.status().expect("status").lost);
        }
        let flushes = [(); 3].map(|()| rustix::fs::fdatasync(&fd));
        let wanted = if fails { Err(Errno::IO) } else { Ok(()) };
        assert_eq!(flushes, [wanted, wanted, Ok(())], "{kind:?}");
        assert!(!observer.status().expect("status").lost, "{kind:?}");
        assert_eq!(observer.stats(0).expect("stats").lost_flushes, 2 * u64::from(fails), "{kind:?}");
        if !fails {
            let file = std::fs::read(FILE).expect("read the disk");
            assert!(file.starts_with(data.bytes()), "{kind:?}: flushed, and not in the file");
        }
        drop(fd);
        control().destroy("crash", true).expect("destroy");
        assert!(second.wait(60).success(), "{}", second.stderr());
    }
}

/// Writes and syncs files until an error, or up to a number of files. The list has the synced files.
fn write_files(folder: &Path, most: usize, random: &mut Random, synced: &Mutex<Vec<(PathBuf, Vec<u8>)>>) {
    for number in 0..most {
        let path = folder.join(format!("file-{number}"));
        let length = usize::try_from(1 + random.below(40_000)).expect("small");
        let bytes = random.bytes(length);
        // The first sync of a new file also makes its name durable.
        let made = File::create_new(&path).and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_all()
        });
        if made.is_err() {
            return;
        }
        synced.lock().expect("not poisoned").push((path, bytes));
    }
}

/// A server dies under a file system, at rest or in the middle of the next files. Synced files exist when the file
/// system is mounted again; an error names missing ones.
fn ext4_round(context: &Context, kind: Kind, random: &mut Random, at_rest: bool) -> Result<(), String> {
    let path = node("crash");
    let device = path.to_str().expect("a plain path");
    new_disk(48 << 20);
    // The device does not tell mkfs the block size to use.
    run(60, "mkfs.ext4", &["-q", "-F", "-b", &BLOCK.to_string(), FILE]);
    let mut server = start(context, "crash", kind, random, NEVER, 0);
    let mounted = Mounted::new(device, "/mnt", "ext4", "");
    let synced = Mutex::new(Vec::new());
    let enough = usize::try_from(1 + random.below(25)).expect("small");
    let mut files = Random::named(random.next(), "files");
    let folder = Path::new("/mnt");
    std::thread::scope(|scope| {
        if at_rest {
            write_files(folder, enough, &mut files, &synced);
        } else {
            scope.spawn(|| write_files(folder, usize::MAX, &mut files, &synced));
            wait_until(60, "enough files", || synced.lock().expect("not poisoned").len() >= enough);
        }
        server.signal(Signal::KILL);
    });
    killed(&mut server);
    mounted.unmount();
    wait_until(30, "the device to go with its server", || control().status("crash").is_err());

    let mut server = start(context, "crash", kind, random, NEVER, 0);
    let mounted = Mounted::new(device, "/mnt", "ext4", "");
    let lost =
        synced.into_inner().expect("not poisoned").into_iter().find_map(|(path, bytes)| match std::fs::read(
            &path,
        ) {
            Ok(found) if found == bytes => None,
            Ok(_) => Some(format!("{} differs from the synced data", path.display())),
            Err(error) => Some(format!("{} is lost: {error}", path.display())),
        });
    mounted.unmount();
    if lost.is_none() {
        run(60, "e2fsck", &["-fn", device]);
    }
    control().destroy("crash", true).expect("destroy");
    assert!(server.wait(60).success(), "{}", server.stderr());
    lost.map_or(Ok(()), Err)
}

fn ext4(context: &mut Context) {
    context.load_module("");
    context.load_kernel_module("ext4", "");
    let _store = store();
    let mut random = context.random("ext4");
    for number in 0..EXT4_ROUNDS {
        if let Err(lost) = ext4_round(context, Kind::Honest, &mut random, number % 2 == 0) {
            panic!("round {number}: {lost}");
        }
    }
}
