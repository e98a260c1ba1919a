// SPDX-License-Identifier: MIT OR Apache-2.0
//! A program is killed, or its successor is started, while fio verifies its disk at depth 64: the same for blocking,
//! owned and asynchronous serving, and for the examples.
//!
//! Each program has one command line. Every start of it, the first one too, is that command line.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;
use zosbd2::{Blocking, Builder, HandOver, Observer, State};
use zosbd2_backends::FileOptions;

use super::owned::{Paused, runtime};
use super::recovery::{RaisedAtEnd, requeued, stop_while_it_holds_one, work};
use super::support::control;
use crate::guest::{Context, Need, Spawned, Test, command, run, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_form_blocking_is_killed", |context| killed(context, &form("blocking", false)))
        .needs(NEEDS)
        .timeout(120),
    Test::new("v2_form_owned_is_killed", |context| killed(context, &form("owned", false)))
        .needs(NEEDS)
        .timeout(120),
    Test::new("v2_form_async_is_killed", |context| killed(context, &form("async", false)))
        .needs(NEEDS)
        .timeout(120),
    Test::new("v2_form_tokio_is_killed", |context| killed(context, &form("tokio", false)))
        .needs(NEEDS)
        .timeout(120),
    Test::new("v2_form_blocking_is_taken_over", |context| taken_over(context, &form("blocking", true)))
        .needs(NEEDS)
        .timeout(120),
    Test::new("v2_form_owned_is_taken_over", |context| taken_over(context, &form("owned", true)))
        .needs(NEEDS)
        .timeout(120),
    Test::new("v2_form_async_is_taken_over", |context| taken_over(context, &form("async", true)))
        .needs(NEEDS)
        .timeout(120),
    Test::new("v2_form_tokio_is_taken_over", |context| taken_over(context, &form("tokio", true)))
        .needs(NEEDS)
        .timeout(120),
    Test::new("v2_form_hello_disk_is_killed", hello)
        .needs(&[Need::Module, Need::Tool("fio"), Need::Program("hello_disk")])
        .timeout(120),
    Test::new("v2_form_mirror_disk_is_killed", mirror)
        .needs(&[Need::Module, Need::Tool("fio"), Need::Program("mirror_disk")])
        .timeout(120),
];

const NEEDS: &[Need] = &[Need::Module, Need::Tool("fio")];
const MIB: u64 = 1 << 20;
const NAME: &str = "form";
const FILE: &str = "/tmp/form";
/// Servers that are killed or superseded in a test.
const CHANGES: u64 = 4;

/// A command line, which runs in `/tmp`, and the device that it serves.
struct Program {
    device: &'static str,
    path: &'static str,
    words: Vec<&'static str>,
    /// MiB that fio uses.
    mib: u64,
}

impl Program {
    fn node(&self) -> String {
        format!("/dev/zosbd2-{}", self.device)
    }

    /// Starts it and waits until it serves.
    fn start(&self) -> Spawned {
        let mut command = command(self.path, &self.words);
        command.current_dir("/tmp");
        let mut server = Spawned::start(command);
        wait_until(60, "the server to serve", || {
            assert!(server.running(), "it ended: {}", server.stderr());
            server.stderr().contains(&format!("serving {}", self.node()))
        });
        server
    }
}

/// The role [`role`] in one of the forms of serving. With `over` it takes over from a live server.
fn form(form: &'static str, over: bool) -> Program {
    File::create(FILE).expect("create").set_len(16 * MIB).expect("size");
    let mut words = vec!["--serve-form", form, NAME, FILE];
    words.extend(over.then_some("over"));
    Program { device: NAME, path: "/proc/self/exe", words, mib: 16 }
}

/// The role `--serve-form blocking|owned|async|tokio NAME FILE [over]`: serves a file until it is stopped, in one of the
/// forms of serving. Follows a device that has lost its server; with `over` takes over from a live one, too.
pub(crate) fn role(arguments: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    let (form, name, file, over) = match *arguments {
        [form, name, file] => (form, name, file, false),
        [form, name, file, "over"] => (form, name, file, true),
        _ => return Err("usage: --serve-form blocking|owned|async|tokio NAME FILE [over]".into()),
    };
    let mut builder = Builder::new(name).queues(2).partition_scan(false).identity(file.as_bytes());
    if over {
        builder = builder.take_over(HandOver::new());
    }
    let builder = builder.on_event(|event| eprintln!("{event}"));
    let disk = FileOptions::default().successor(over).open(Path::new(file))?;
    match form {
        "blocking" => builder.serve(&disk)?,
        "owned" => builder.serve_requests(&Blocking(disk))?,
        "async" => builder.serve_async(&Paused(disk))?,
        "tokio" => runtime().block_on(builder.serve_tokio(Arc::new(Paused(disk))))?,
        _ => return Err(format!("{form} is no form of serving").into()),
    };
    Ok(())
}

/// Runs fio again and again until `stop`. Each run writes and compares all of its part of the disk, and fails on any error.
/// Returns the number of runs.
fn verify(program: &Program, seed: u64, stop: &AtomicBool) -> u64 {
    let (file, size) = (format!("--filename={}", program.node()), format!("--size={}m", program.mib));
    let mut runs = 0;
    while !stop.load(Ordering::Relaxed) {
        let seed = format!("--randseed={}", seed.wrapping_add(runs) >> 1);
        let options = [
            "--name=verify",
            "--ioengine=libaio",
            "--direct=1",
            "--rw=randwrite",
            "--bsrange=4k-64k",
            "--iodepth=64",
            "--verify=crc32c",
            "--verify_fatal=1",
            &file,
            &size,
            &seed,
        ];
        run(120, "fio", &options);
        runs += 1;
    }
    runs
}

/// Lets fio verify the disk while `change` replaces the server some times. Returns how many requests were served
/// again.
fn under_fio(
    context: &mut Context,
    program: &Program,
    change: impl Fn(&Observer, Spawned) -> Spawned,
) -> u64 {
    context.load_module("");
    let mut random = context.random("forms");
    let server = program.start();
    let observer = control().observe(program.device).expect("observe");
    let changes = context.share(CHANGES);
    let stop = AtomicBool::new(false);
    let (runs, mut server) = std::thread::scope(|scope| {
        let mut server = server;
        // Whatever fails below, fio ends.
        let raised = RaisedAtEnd(&stop);
        let verifier = scope.spawn(|| verify(program, context.seed(), &stop));
        for _ in 0..changes {
            work(&observer, &mut random);
            if verifier.is_finished() {
                break;
            }
            server = change(&observer, server);
        }
        drop(raised);
        (verifier.join().expect("fio found something"), server)
    });
    // No answered write is lost, so a flush succeeds.
    File::open(program.node()).expect("open").sync_all().expect("flush");
    let status = observer.status().expect("status");
    assert_eq!((status.state, u64::from(status.epoch), status.lost), (State::Live, changes + 1, false));
    let again = requeued(&observer);
    for queue in 0..status.queues {
        let counts = observer.stats(queue).expect("stats");
        assert_eq!((counts.failed, counts.expired, counts.lost_flushes), (0, 0, 0));
    }
    let words = program.words.join(" ");
    context.say(&format!("{words}: {runs} runs of fio, {changes} changes, {again} requests served again"));
    server.signal(Signal::TERM);
    assert!(server.wait(30).success(), "{}", server.stderr());
    assert!(control().status(program.device).is_err(), "the device is still there");
    again
}

/// Servers that hold requests are killed, and the same command line follows.
fn killed(context: &mut Context, program: &Program) {
    let again = under_fio(context, program, |observer, mut server| {
        stop_while_it_holds_one(observer, &mut server);
        server.signal(Signal::KILL);
        let _killed = server.wait(20);
        wait_until(20, "the device to be an orphan", || {
            observer.status().expect("status").state == State::Orphaned
        });
        let next = program.start();
        // A line is written in parts.
        wait_until(20, "the end of its line", || next.stderr().contains("in place of its last server\n"));
        next
    });
    assert!(again >= context.share(CHANGES), "only {again} requests were served again");
}

/// The same command line takes over from a server at work, which answers what it holds, and ends with success.
fn taken_over(context: &mut Context, program: &Program) {
    let again = under_fio(context, program, |_, mut server| {
        let next = program.start();
        assert!(server.wait(30).success(), "{}", server.stderr());
        assert!(server.stderr().contains("another server has taken over"), "{}", server.stderr());
        assert!(!next.stderr().contains("killed"), "{}", next.stderr());
        next
    });
    assert_eq!(again, 0, "an old server did not answer what it held");
}

fn hello(context: &mut Context) {
    killed(context, &Program { device: "hello", path: "hello_disk", words: Vec::new(), mib: 16 });
}

/// I/O also waits while the second leg gets its copy.
fn mirror(context: &mut Context) {
    let legs = ["/tmp/one", "/tmp/other"];
    run(30, "mirror_disk", &[&["create", "16"][..], &legs].concat());
    killed(context, &Program { device: "mirror", path: "mirror_disk", words: legs.to_vec(), mib: 16 });
}
