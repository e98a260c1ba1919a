// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs that are started again, stopped and interrupted: what the library makes of them, and what it says.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use zosbd2::{Builder, DeadlinePolicy, HandOver, State};
use zosbd2_backends::{FileOptions, Ram};

use super::super::support::{Aligned, open_direct, read_in_thread};
use super::support::control;
use crate::guest::{Context, Mounted, Need, Spawned, Test, run, sys, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_again_follows_under_io", follows).needs(&[Need::Module]).timeout(180),
    Test::new("v2_again_refuses_another_disk", refuses).needs(&[Need::Module]).timeout(120),
    Test::new("v2_again_grows_and_stops_after_following", grows).needs(&[Need::Module]).timeout(120),
    Test::new("v2_again_two_at_once", two_at_once).needs(&[Need::Module]).timeout(120),
    Test::new("v2_again_names_the_server", names_the_server).needs(&[Need::Module]).timeout(60),
    Test::new("v2_signals_and_force", signals).needs(&[Need::Module, Need::Tool("mkfs.ext4")]).timeout(180),
    Test::new("v2_busy_destroy_names_the_users", busy)
        .needs(&[Need::Module, Need::Tool("mkfs.ext4")])
        .timeout(120),
    Test::new("v2_again_needs_an_identity", needs_an_identity).needs(&[Need::Module]).timeout(120),
    Test::new("v2_fork_keeps_nothing", fork).needs(&[Need::Module]).timeout(120),
];

const MIB: u64 = 1 << 20;
pub(super) const NAME: &str = "again";
pub(super) const FILE: &str = "/tmp/again";

/// The role `--serve-again NAME FILE WORD...`: serves a file, or memory if FILE is `-`, with the library alone: it
/// creates the device or follows. Prints `serving` when it serves, and its events to standard error. A word is
/// `serial=TEXT`, `identity=TEXT`, `size=BYTES`, `deadline=MS` (with the policy declare-dead), `over=MS` (takes over,
/// with this patience), `gently` (does not kill), `strict` (does not follow without an identity), or `fork` (forks a child
/// that sleeps when it serves).
pub(crate) fn role(arguments: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    let [name, file, words @ ..] = arguments else {
        return Err("usage: --serve-again NAME FILE WORD...".into());
    };
    let mut builder = Builder::new(name)
        .partition_scan(false)
        .follow_without_identity(!words.contains(&"strict"))
        .on_event(|event| eprintln!("event: {event}"));
    let mut take_over = None;
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        builder = match key {
            "serial" => builder.serial(value),
            "identity" => builder.identity(value.as_bytes()),
            "size" => builder.size_bytes(value.parse()?),
            "deadline" => builder
                .deadline(Duration::from_millis(value.parse()?))
                .deadline_policy(DeadlinePolicy::DeclareDead),
            "over" => {
                let patience = Duration::from_millis(value.parse()?);
                take_over = Some(HandOver::new().patience(patience).fence(!words.contains(&"gently")));
                builder
            }
            "gently" | "fork" | "strict" => builder,
            _ => return Err(format!("unknown word {word}").into()),
        };
    }
    let forks = words.contains(&"fork");
    let ready = |_: &Path| {
        if forks {
            eprintln!("child: {}", sys::fork_sleeper());
        }
        println!("serving");
    };
    if *file == "-" {
        builder.serve_then(&Ram::new(16 * MIB)?, ready)?;
        return Ok(());
    }
    let successor = take_over.is_some();
    if let Some(take_over) = take_over {
        builder = builder.take_over(take_over);
    }
    let disk = FileOptions::default().successor(successor).open(Path::new(file))?;
    println!("ended: {:?}", builder.serve_then(&disk, ready)?);
    Ok(())
}

pub(super) fn file_of(mib: u64) {
    File::create(FILE).expect("create").set_len(mib * MIB).expect("size");
}

/// Starts a server with these words.
pub(super) fn start(context: &Context, words: &[&str]) -> Spawned {
    start_on(context, FILE, words)
}

fn start_on(context: &Context, file: &str, words: &[&str]) -> Spawned {
    context.spawn("/proc/self/exe", &[&["--serve-again", NAME, file], words].concat())
}

pub(super) fn serving(mut server: Spawned) -> Spawned {
    wait_until(60, "the server to serve", || {
        assert!(server.running(), "it ended: {}", server.stderr());
        server.stdout().contains("serving")
    });
    server
}

/// What a server says that must end with an error.
pub(super) fn refused(context: &Context, file: &str, words: &[&str]) -> String {
    let finished = start_on(context, file, words).finish(60);
    assert!(!finished.status.success(), "it did not fail: {}", finished.stderr);
    context.say(&finished.stderr);
    finished.stderr
}

pub(super) fn node() -> PathBuf {
    control().status(NAME).expect("status").path()
}

pub(super) fn state() -> State {
    control().status(NAME).expect("status").state
}

fn kill(server: &mut Spawned) {
    server.signal(Signal::KILL);
    server.wait(20);
}

#[track_caller]
pub(super) fn says(server: &Spawned, text: &str) {
    wait_until(30, text, || server.stderr().contains(text));
}

pub(super) fn ends(mut server: Spawned) {
    server.signal(Signal::TERM);
    assert!(server.wait(30).success(), "{}", server.stderr());
    assert!(control().status(NAME).is_err(), "the device is still there");
}

/// The same command line again and again, under I/O: submitters notice a pause, and no byte is wrong.
fn follows(context: &mut Context) {
    context.load_module("");
    file_of(16);
    let mut server = serving(start(context, &["serial=one", "identity=red"]));
    says(&server, "event: serving /dev/");
    let path = node();
    let (done, written) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let node = open_direct(&path);
            let mut buffer = Aligned::new(4096, 0);
            while !done.load(Ordering::Relaxed) {
                let number = written.load(Ordering::Relaxed);
                buffer.bytes_mut().fill(byte(number));
                let place = number % 4096 * 4096;
                assert_eq!(rustix::io::pwrite(&node, buffer.bytes(), place), Ok(4096), "write {number}");
                assert_eq!(rustix::io::pread(&node, buffer.bytes_mut(), place), Ok(4096), "read {number}");
                assert!(buffer.bytes().iter().all(|it| *it == byte(number)), "wrong data at {place}");
                written.fetch_add(1, Ordering::Relaxed);
            }
        });
        for round in 0..5 {
            let before = written.load(Ordering::Relaxed);
            wait_until(60, "some writes", || written.load(Ordering::Relaxed) > before + 20);
            kill(&mut server);
            server = serving(start(context, &["serial=one", "identity=red"]));
            says(&server, "in place of its last server");
            assert_eq!(control().status(NAME).expect("status").epoch, round + 2);
        }
        done.store(true, Ordering::Relaxed);
        writer.join().expect("the writer");
    });
    let count = written.into_inner();
    let mut data = vec![0; 4096];
    let file = File::open(FILE).expect("open");
    rustix::fs::syncfs(&file).expect("sync");
    for number in count.saturating_sub(4096)..count {
        file.read_exact_at(&mut data, number % 4096 * 4096).expect("read");
        assert!(data.iter().all(|it| *it == byte(number)), "write {number} of {count}");
    }
    context.say(&format!("{count} writes"));
    ends(server);
}

fn byte(number: u64) -> u8 {
    u8::try_from(number % 251).expect("small")
}

/// A device that waits is left to the program that it belongs to, with a sentence.
fn refuses(context: &mut Context) {
    context.load_module("");
    file_of(16);
    let same = ["serial=one", "identity=red"];
    let mut server = serving(start(context, &same));
    kill(&mut server);
    let status = control().status(NAME).expect("status");
    let said = refused(context, FILE, &["serial=two", "size=8388608", "identity=blue"]);
    for part in [
        "device again exists, but is another one: ",
        "its size is 16777216 bytes, not 8388608 bytes",
        "its serial number is \"one\", not \"two\"",
        "its identity is \"red\", not \"blue\"",
        "or destroy it first",
    ] {
        assert!(said.contains(part), "{part} is missing: {said}");
    }
    let said = refused(context, "-", &same);
    assert!(said.contains("its content is what its last server stored, not empty memory"), "{said}");
    let after = control().status(NAME).expect("status");
    assert_eq!((after.epoch, after.state), (status.epoch, State::Orphaned), "it was touched");
    ends(serving(start(context, &same)));
}

/// Size following and signals work for a server that followed another one.
fn grows(context: &mut Context) {
    context.load_module("");
    file_of(16);
    let mut server = serving(start(context, &[]));
    kill(&mut server);
    let server = serving(start(context, &[]));
    let file = File::options().write(true).open(FILE).expect("open");
    file.set_len(32 * MIB).expect("size");
    wait_until(30, "the device to grow", || control().status(NAME).expect("status").size_bytes == 32 * MIB);
    says(&server, "event: device again grew from 16777216 to 33554432 bytes");
    let reader = File::open(node()).expect("open");
    file.set_len(8 * MIB).expect("size");
    says(
        &server,
        "event: device again shrank from 33554432 to 8388608 bytes, as its backend did, while it is in use",
    );
    drop(reader);
    ends(server);
}

/// Of several programs that start at once one serves, and the others name it.
fn two_at_once(context: &mut Context) {
    context.load_module("");
    file_of(16);
    for orphaned in [false, true] {
        if orphaned {
            kill(&mut serving(start_on(context, FILE, &["over=100"])));
            assert_eq!(state(), State::Orphaned);
        }
        // Without the lock of the file only the device decides.
        let mut servers: Vec<_> = (0..4).map(|_| start_on(context, "-", &[])).collect();
        if orphaned {
            // Memory follows nothing.
            for server in servers {
                assert!(!server.finish(60).status.success());
            }
            servers = (0..4).map(|_| start_on(context, FILE, &[])).collect();
        }
        wait_until(60, "all but one to end", || {
            servers.iter_mut().map(Spawned::running).filter(|running| !running).count() == 3
        });
        let place = servers.iter_mut().position(Spawned::running).expect("one serves");
        let server = serving(servers.swap_remove(place));
        for loser in servers {
            let said = loser.finish(20).stderr;
            context.say(&said);
            let names = said.contains("a device of that name exists and has a server")
                || said.contains("is in use by");
            assert!(names, "{said}");
        }
        ends(server);
    }
}

fn names_the_server(context: &mut Context) {
    context.load_module("");
    file_of(16);
    let server = serving(start(context, &[]));
    let said = refused(context, "-", &[]);
    let wanted = format!(
        "create device again (a device of that name exists and has a server: process {} (",
        server.id()
    );
    assert!(said.contains(&wanted), "{wanted} is missing: {said}");
    let said = control().attach(NAME, zosbd2::TakeOver::No).expect_err("it has a server").to_string();
    assert!(said.contains(&format!("(it has a server: process {} (", server.id())), "{said}");
    let said = control().create(&Builder::new(NAME).size_bytes(MIB)).expect_err("it exists").to_string();
    assert!(said.contains(&format!("has a server: process {} (", server.id())), "{said}");
    ends(server);
}

/// However often SIGTERM comes, a disk in use is not destroyed; a second SIGINT destroys it, and is no success.
fn signals(context: &mut Context) {
    context.load_module("");
    context.load_kernel_module("ext4", "");
    file_of(32);
    let mut server = serving(start(context, &[]));
    run(60, "mkfs.ext4", &["-q", node().to_str().expect("text")]);
    let mounted = Mounted::new(node().to_str().expect("text"), "/run/again", "ext4", "");
    for count in 1..=3 {
        server.signal(Signal::TERM);
        wait_until(30, "the server to say who uses the disk", || {
            server.stderr().matches("device again is in use (mounted on /run/again").count() >= count
        });
    }
    std::fs::write(mounted.path().join("file"), vec![7; 100_000]).expect("write");
    rustix::fs::sync();
    assert!(server.running() && state() == State::Live, "{}", server.stderr());
    mounted.unmount();
    assert!(server.wait(30).success(), "{}", server.stderr());
    // SIGTERM before does not count.
    let mut server = serving(start(context, &[]));
    let holder = File::open(node()).expect("open");
    for signal in [Signal::TERM, Signal::INT] {
        server.signal(signal);
        says(&server, "a second SIGINT (^C) destroys it at once");
    }
    wait_until(30, "both to be told", || server.stderr().matches("is in use (open in process").count() >= 2);
    assert!(server.running() && state() == State::Live, "{}", server.stderr());
    server.signal(Signal::INT);
    assert!(!server.wait(60).success(), "a forced destroy of a used disk was a success");
    let said = server.stderr();
    context.say(&said);
    assert!(
        said.contains("event: destroying device again by force although it is in use (open in process"),
        "{said}"
    );
    assert!(
        said.contains("serve: device again was destroyed by force while it was in use (open in process"),
        "{said}"
    );
    drop(holder);
}

/// A refused destroy names mount points and processes.
fn busy(context: &mut Context) {
    context.load_module("");
    context.load_kernel_module("ext4", "");
    file_of(32);
    let server = serving(start(context, &[]));
    run(60, "mkfs.ext4", &["-q", node().to_str().expect("text")]);
    let mounted = Mounted::new(node().to_str().expect("text"), "/run/a mount", "ext4", "");
    let said = control().destroy(NAME, false).expect_err("it is mounted").to_string();
    assert_eq!(said, "destroy device again (it is in use: mounted on /run/a mount)");
    mounted.unmount();
    let holder = File::open(node()).expect("open");
    let said = control().destroy(NAME, false).expect_err("it is open").to_string();
    let own = std::process::id();
    assert!(
        said.starts_with(&format!("destroy device again (it is in use: open in process {own} (")),
        "{said}"
    );
    drop(holder);
    ends(server);
}

/// Without an identity, a program follows only if it asks for that.
fn needs_an_identity(context: &mut Context) {
    context.load_module("");
    file_of(16);
    kill(&mut serving(start(context, &["strict"])));
    let status = control().status(NAME).expect("status");
    let said = refused(context, FILE, &["strict"]);
    assert!(
        said.contains("device again exists, but nothing tells that it is the disk of this program"),
        "{said}"
    );
    assert!(said.contains("(Builder::identity)"), "{said}");
    let said = refused(context, FILE, &["strict", "identity=red"]);
    assert!(said.contains("its identity is none, not \"red\""), "{said}");
    let after = control().status(NAME).expect("status");
    assert_eq!((after.epoch, after.state), (status.epoch, State::Orphaned), "it was touched");
    ends(serving(start(context, &[])));
}

/// A forked child does not keep the device live.
fn fork(context: &mut Context) {
    context.load_module("");
    file_of(16);
    let mut server = serving(start(context, &["fork"]));
    let child: i32 = {
        let said = server.stderr();
        let number = said.lines().find_map(|line| line.strip_prefix("child: ")).expect("its number");
        number.parse().expect("a number")
    };
    read_in_thread(node(), 0, 4096).join().expect("the reader").expect("the parent serves on");
    let reading = {
        server.stop();
        let reading = read_in_thread(node(), 4096, 4096);
        kill(&mut server);
        reading
    };
    wait_until(10, "the death to be noticed", || state() == State::Orphaned);
    assert!(Path::new(&format!("/proc/{child}")).exists(), "the child has ended");
    // The child has not kept the lock of the file either.
    let server = serving(start(context, &["fork"]));
    reading.join().expect("the reader").expect("no error");
    let child = rustix::process::Pid::from_raw(child).expect("a process");
    rustix::process::kill_process(child, Signal::KILL).expect("kill the child");
    ends(server);
}
