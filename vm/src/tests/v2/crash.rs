// SPDX-License-Identifier: MIT OR Apache-2.0
//! Servers that are killed: what a flush or FUA had covered is on the disk afterwards, and nothing that nobody wrote.

mod account;
pub(crate) mod server;

use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{Errno, IoSlice, ReadWriteFlags};
use rustix::process::Signal;

use self::account::{Account, Kept};
use self::server::{BLOCK, Kind};
use super::super::support::{Aligned, open_direct};
use super::support::control;
use crate::guest::{Context, Mounted, Need, Random, Spawned, Test, run, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_crash_keeps_what_a_flush_covered", keeps).needs(&[Need::Module]).timeout(240),
    Test::new("v2_crash_checker_finds_liars", liars)
        .needs(&[Need::Module, Need::Tool("mkfs.ext4")])
        .timeout(240),
    Test::new("v2_crash_and_another_server", another_server).needs(&[Need::Module]).timeout(240),
    Test::new("v2_crash_under_ext4", ext4).needs(&[Need::Module, Need::Tool("mkfs.ext4")]).timeout(240),
];

const ROUNDS: u64 = 24;
/// Threads that write, each to its own blocks.
const WRITERS: u64 = 3;
const BLOCKS_EACH: u64 = 16;
const BLOCKS: u64 = WRITERS * BLOCKS_EACH;
const FILE: &str = "/run/disk/file";
const NEVER: u64 = u64::MAX;

/// The folder of the servers' file, which outlives them.
fn store() -> Mounted {
    Mounted::new("store", "/run/disk", "tmpfs", "")
}

fn node(name: &str) -> PathBuf {
    Path::new("/dev/zosbd2").join(name)
}

/// Starts a server; returns when it serves, or has done so and is dead.
fn start(context: &Context, name: &str, kind: Kind, random: &mut Random, steps: u64, grace: u64) -> Spawned {
    let numbers = [random.next(), steps, grace].map(|number| number.to_string());
    let [seed, steps, grace] = &numbers;
    let arguments = ["--serve-mortal", name, FILE, &kind.word(), seed, steps, grace];
    let mut server = context.spawn("/proc/self/exe", &arguments);
    wait_until(30, "the server to serve", || server.stdout().contains("serving") || !server.running());
    if !server.stdout().contains("serving") {
        // What others had left in the queue can be its death before it says anything.
        killed(&mut server);
    }
    server
}

/// The server was killed, and ended by nothing else.
fn killed(server: &mut Spawned) {
    let status = server.wait(60);
    assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "{status:?}: {}", server.stderr());
}

/// Writes and flushes at random until an error, or until `stop`.
fn write(
    path: &Path,
    account: &Account,
    writer: u64,
    random: &mut Random,
    stop: &AtomicBool,
) -> Result<(), Errno> {
    let fd = open_direct(path);
    let mut buffer = Aligned::new(usize::try_from(4 * BLOCK).expect("small"), 0);
    while !stop.load(Ordering::Relaxed) {
        let kind = random.below(16);
        if kind < 3 {
            let covered = account.flush();
            rustix::fs::fdatasync(&fd)?;
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
        let written = rustix::io::pwritev2(&fd, &[IoSlice::new(data)], first * BLOCK, flags)?;
        assert_eq!(written, bytes, "a short write");
        account.answered(first, count, durable);
    }
    Ok(())
}

/// Lets the writers work until each has ended; `meanwhile` runs beside them. Returns how they ended.
fn work(
    path: &Path,
    account: &Account,
    random: &mut Random,
    meanwhile: impl FnOnce(&AtomicBool),
) -> Vec<Result<(), Errno>> {
    let stop = AtomicBool::new(false);
    let seeds: Vec<u64> = (0..WRITERS).map(|_| random.next()).collect();
    std::thread::scope(|scope| {
        let stop = &stop;
        let writers: Vec<_> = (0..)
            .zip(&seeds)
            .map(|(writer, seed)| {
                scope.spawn(move || write(path, account, writer, &mut Random::named(*seed, "writer"), stop))
            })
            .collect();
        meanwhile(stop);
        writers.into_iter().map(|writer| writer.join().expect("a writer panicked")).collect()
    })
}

/// One server's life, and death after so many steps or so many answers. Returns what the disk has.
fn round(context: &Context, kind: Kind, random: &mut Random, from_outside: bool) -> Result<Kept, String> {
    File::create(FILE).expect("create").set_len(BLOCKS * BLOCK).expect("size");
    let (steps, answers) =
        if from_outside { (NEVER, 1 + random.below(300)) } else { (2 + random.below(600), NEVER) };
    let mut server = start(context, "crash", kind, random, steps, 0);
    let account = Account::new(random.next(), BLOCKS);
    let ends = work(&node("crash"), &account, random, |_| {
        if from_outside {
            wait_until(60, "enough answers", || account.answers() >= answers);
            server.signal(Signal::KILL);
        }
    });
    killed(&mut server);
    // A disk that goes has no size any more.
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
    // Otherwise nothing was at stake.
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
    // Programs cannot send FUA without a flush behind it; the journal of ext4 does.
    let fua = Kind::LiesAboutFua;
    find(fua, &|random| ext4_round(context, fua, random, true).err());
}

/// The device outlives its servers: submitters notice nothing, and every answer holds.
fn another_server(context: &mut Context) {
    context.load_module("");
    let _store = store();
    let mut random = context.random("another");
    File::create(FILE).expect("create").set_len(BLOCKS * BLOCK).expect("size");
    let account = Account::new(random.next(), BLOCKS);
    let mut own = Random::named(random.next(), "servers");
    let mut steps = || 2 + own.below(400);
    let first = start(context, "crash", Kind::WriteThrough, &mut random, steps(), 60);
    let last = Mutex::new(None);
    let mut servers = Random::named(random.next(), "next servers");
    let ends = work(&node("crash"), &account, &mut random, |stop| {
        let mut server = first;
        for _ in 1..ROUNDS {
            killed(&mut server);
            server = start(context, "crash", Kind::WriteThrough, &mut servers, steps(), 60);
        }
        killed(&mut server);
        server = start(context, "crash", Kind::WriteThrough, &mut servers, NEVER, 60);
        stop.store(true, Ordering::Relaxed);
        last.lock().expect("not poisoned").replace(server);
    });
    assert!(ends.iter().all(Result::is_ok), "a writer noticed: {ends:?}");
    let status = control().status("crash").expect("status");
    assert_eq!(u64::from(status.epoch), ROUNDS + 1, "one epoch for each server");
    let kept = account.check(&std::fs::read(FILE).expect("read the disk")).expect("every answer holds");
    assert_eq!(kept.forgotten, 0, "{kept:?}");
    assert!(account.answers() > ROUNDS, "nothing was at stake");
    control().destroy("crash", true).expect("destroy");
    let mut server = last.into_inner().expect("not poisoned").expect("the last server");
    assert!(server.wait(60).success(), "{}", server.stderr());
}

/// Writes and syncs files until an error, or so many. Each that was synced is on the list.
fn write_files(folder: &Path, most: usize, random: &mut Random, synced: &Mutex<Vec<(PathBuf, Vec<u8>)>>) {
    for number in 0..most {
        let path = folder.join(format!("file-{number}"));
        let length = usize::try_from(1 + random.below(40_000)).expect("small");
        let bytes = random.bytes(length);
        // The first sync of a new file makes its name durable, too.
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

/// A server dies under a file system: at rest, or in the middle of the next files. What was synced is there when
/// the file system is mounted anew; the error says what is not.
fn ext4_round(context: &Context, kind: Kind, random: &mut Random, at_rest: bool) -> Result<(), String> {
    let path = node("crash");
    let device = path.to_str().expect("a plain path");
    File::create(FILE).expect("create").set_len(48 << 20).expect("size");
    let mut server = start(context, "crash", kind, random, NEVER, 0);
    run(60, "mkfs.ext4", &["-q", device]);
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
            Ok(_) => Some(format!("{} is not what was synced", path.display())),
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
    for number in 0..10 {
        if let Err(lost) = ext4_round(context, Kind::Honest, &mut random, number % 2 == 0) {
            panic!("round {number}: {lost}");
        }
    }
}
