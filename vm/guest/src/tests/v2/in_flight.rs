// SPDX-License-Identifier: MIT OR Apache-2.0
//! A server that has a thousand requests in flight: its memory grows by their data, and comes back.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;
use tokio::sync::watch;
use zosbd2::{AsyncBackend, Builder, Errno, Handler, Observer, Operation, Request};

use super::owned::runtime;
use super::support::control;
use crate::guest::{Context, Need, Patience, Spawned, Test, command, wait_until, write_text};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_thousand_owned_requests", |context| thousand(context, "owned")).needs(NEEDS).timeout(120),
    Test::new("v2_thousand_futures", |context| thousand(context, "async")).needs(NEEDS).timeout(120),
    Test::new("v2_thousand_futures_in_tokio", |context| thousand(context, "tokio")).needs(NEEDS).timeout(120),
    Test::new("v2_idle_owned_server_gives_memory_back", |context| idle(context, "owned"))
        .needs(NEEDS)
        .timeout(120),
    Test::new("v2_idle_async_server_gives_memory_back", |context| idle(context, "async"))
        .needs(NEEDS)
        .timeout(120),
    Test::new("v2_idle_tokio_server_gives_memory_back", |context| idle(context, "tokio"))
        .needs(NEEDS)
        .timeout(120),
];

const NEEDS: &[Need] = &[Need::Module, Need::Tool("fio")];
const NAME: &str = "thousand";
const SIZE: u64 = 64 << 20;
const QUEUES: u32 = 2;
/// In each queue.
const REQUESTS: u64 = 500;
/// Of a request.
const KIB: u64 = 16;
/// What may be added to the data, in KiB: half a KiB for each request (the request itself, its future and the slot of
/// that), and some pages of the program.
const BESIDES_KIB: u64 = 768;
/// What an idle queue may keep for later requests, in KiB: as much as the longest request, and a reserve for one read and
/// one write of that length.
const KEPT_KIB: u64 = 3 * 512;
/// A named pipe, on which the test closes and opens the gate.
const GATE: &str = "/tmp/gate";

/// Requests behind the gate wait while it is closed.
struct Gate {
    open: watch::Sender<bool>,
    held: Mutex<Vec<Request>>,
    /// Requests, or futures, that have reached the closed gate since it was closed.
    waiting: AtomicU64,
}

impl Gate {
    fn set(&self, open: bool) {
        // Under the lock, so that no request comes to the list after it was emptied.
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        self.open.send_replace(open);
        if open {
            held.drain(..).for_each(|request| request.complete(Ok(())));
        }
    }

    /// Obeys the words that come on the pipe: `open` and `close` are repeated when they are carried out, and `count` is
    /// answered with the number of requests that wait.
    fn obey(&self) -> std::io::Result<()> {
        for word in BufReader::new(File::open(GATE)?).lines() {
            let word = word?;
            if word == "count" {
                println!("{}", self.waiting.load(Ordering::Relaxed));
            } else {
                self.set(word == "open");
                println!("{word}");
            }
        }
        Ok(())
    }

    async fn pass(&self) -> Result<(), Errno> {
        if !*self.open.borrow() {
            self.waiting.fetch_add(1, Ordering::Relaxed);
        }
        self.open.subscribe().wait_for(|open| *open).await.map(drop).map_err(|_| Errno::IO)
    }
}

impl Handler for Gate {
    fn size(&self) -> u64 {
        SIZE
    }

    fn handle(&self, mut request: Request) {
        if request.operation() == Operation::Read {
            request.data_mut().fill(7);
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if *self.open.borrow() {
            drop(held);
            request.complete(Ok(()));
        } else {
            held.push(request);
            self.waiting.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl AsyncBackend for Gate {
    fn size(&self) -> u64 {
        SIZE
    }

    async fn read(&self, _: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        buffer.fill(7);
        self.pass().await
    }

    async fn write(&self, _: u64, _: &mut [u8], _: bool) -> Result<(), Errno> {
        self.pass().await
    }
}

/// The role `--serve-gate owned|async|tokio`: serves a disk that stores nothing, and answers while the gate is open.
pub(crate) fn role(form: &str) -> Result<(), Box<dyn std::error::Error>> {
    let gate =
        Arc::new(Gate { open: watch::Sender::new(true), held: Mutex::default(), waiting: AtomicU64::new(0) });
    let obedient = gate.clone();
    std::thread::spawn(move || obedient.obey());
    let builder = Builder::new(NAME).queues(QUEUES).depth(512).max_io_bytes(512 << 10);
    let builder = builder.partition_scan(false).on_event(|event| eprintln!("{event}"));
    match form {
        "owned" => builder.serve_requests(&*gate)?,
        "async" => builder.serve_async(&*gate)?,
        "tokio" => runtime().block_on(builder.serve_tokio(gate))?,
        _ => return Err(format!("{form} is no form of serving").into()),
    };
    Ok(())
}

/// Memory of a process that is in memory, in KiB. `smaps_rollup` counts pages; the number in `status` is out by some
/// pages for each processor.
fn resident(server: &Spawned) -> u64 {
    let path = format!("/proc/{}/smaps_rollup", server.id());
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {path}: {error}"));
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).expect("the resident memory");
    line.trim().trim_end_matches("kB").trim().parse().expect("a number")
}

/// Waits until the idle server has given back the memory of its requests, but for what it may keep. Returns how many KiB
/// it has more than `before`.
#[track_caller]
fn wait_for_memory(server: &Spawned, before: u64) -> u64 {
    let bound = u64::from(QUEUES) * KEPT_KIB + BESIDES_KIB;
    let mut patience = Patience::seconds(60);
    loop {
        let over = patience.over();
        let grown = resident(server).saturating_sub(before);
        if grown <= bound {
            return grown;
        }
        assert!(!over, "an idle server keeps {grown} KiB more than before, instead of {bound}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn outstanding(observer: &Observer) -> (u64, u64) {
    let stats = (0..QUEUES).map(|queue| observer.stats(queue).expect("stats"));
    stats.fold((0, 0), |(queued, held), stats| {
        (queued + u64::from(stats.queued), held + u64::from(stats.held))
    })
}

/// fio with this many requests of both kinds in flight in each queue.
fn load(seed: u64, kib: u64, depth: u64, size: &str) -> Command {
    let mut load = command(
        "fio",
        &[
            "--name=load",
            "--filename=/dev/zosbd2-thousand",
            "--ioengine=libaio",
            "--direct=1",
            "--rw=randrw",
            // One job on each processor, so one for each queue.
            "--numjobs=2",
            "--cpus_allowed=0,1",
            "--cpus_allowed_policy=split",
            "--offset_increment=32m",
            "--thread",
        ],
    );
    load.args([
        format!("--randseed={}", seed >> 1),
        format!("--bs={kib}k"),
        format!("--iodepth={depth}"),
        format!("--size={size}"),
    ]);
    load
}

fn finish(load: Spawned, observer: &Observer) {
    let finished = load.finish(60);
    assert!(finished.status.success(), "{}{}", finished.stdout, finished.stderr);
    wait_until(20, "the last answer", || outstanding(observer) == (0, 0));
}

/// Starts a server in one of the forms, with an open gate, and lets it answer some requests, so that the code of serving and
/// what a lane always has are in memory. Returns its memory, too.
fn start(context: &mut Context, form: &str) -> (Spawned, Observer, u64) {
    context.load_module("");
    mknodat(CWD, GATE, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("make a pipe");
    let mut server = context.spawn("/proc/self/exe", &["--serve-gate", form]);
    wait_until(60, "the server to serve", || {
        assert!(server.running(), "it ended: {}", server.stderr());
        server.stderr().contains("serving /dev/zosbd2-thousand")
    });
    write_text("/sys/block/zosbd2-thousand/queue/nomerges", "2");
    let observer = control().observe(NAME).expect("observe");
    finish(Spawned::start(load(context.seed(), KIB, 1, "1m")), &observer);
    let before = resident(&server);
    (server, observer, before)
}

fn end(mut server: Spawned) {
    server.signal(Signal::TERM);
    assert!(server.wait(30).success(), "{}", server.stderr());
}

/// The requests are in flight until the gate opens. Then they are answered, and as many more.
fn thousand(context: &mut Context, form: &str) {
    let (server, observer, before) = start(context, form);
    let mut gate = File::options().write(true).open(GATE).expect("open the pipe");
    let mut said = 0;
    let mut say = |word: &str| -> String {
        writeln!(gate, "{word}").expect("write to the pipe");
        wait_until(20, "the gate to answer", || server.stdout().lines().count() > said);
        said += 1;
        server.stdout().lines().last().expect("a line").to_owned()
    };
    assert_eq!(say("close"), "close");
    let mut load = Spawned::start(load(context.seed(), KIB, REQUESTS, "32m"));
    let all = u64::from(QUEUES) * REQUESTS;
    wait_until(60, "all requests to be held", || {
        assert!(load.running(), "fio ended: {}{}", load.stdout(), load.stderr());
        outstanding(&observer) == (0, all)
    });
    // The kernel counts a request as held when it hands it out, before the server has filled the buffer.
    wait_until(60, "the server to have all requests", || say("count") == all.to_string());
    let grown = resident(&server).saturating_sub(before);
    let threads = std::fs::read_dir(format!("/proc/{}/task", server.id())).expect("threads").count();
    context.say(&format!(
        "{form}: {before} KiB and {threads} threads; {grown} KiB more with {all} requests of {KIB} KiB in flight"
    ));
    let bound = all * KIB + BESIDES_KIB;
    assert!(grown <= bound, "{grown} KiB more with {all} requests of {KIB} KiB, instead of {bound}");
    assert_eq!(say("open"), "open");
    finish(load, &observer);
    end(server);
}

/// After requests of half a MiB, 32 at a time in each queue, an idle server has given their memory back.
fn idle(context: &mut Context, form: &str) {
    let (server, observer, before) = start(context, form);
    finish(Spawned::start(load(context.seed(), 512, 32, "32m")), &observer);
    let grown = wait_for_memory(&server, before);
    context.say(&format!("{form}: {grown} KiB more than before 64 requests of 512 KiB"));
    end(server);
}
