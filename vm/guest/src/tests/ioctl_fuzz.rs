// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ioctl fuzzer: several threads make calls of both versions with mostly valid arguments, beside servers with
//! correct and wrong answers, and beside submitters. The processes of all these threads are killed now and then.
//!
//! ```text
//!   ioctl_fuzz ---- starts, kills, starts again --> process 0, process 1 (role)
//!       |                                              | two threads each that
//!       |  sweeps: destroys all by force, when a       |   make calls     (control, server, v1)
//!       |  thread gets nowhere, and at the end         |   serve          (serve, v1)
//!       |                                              |   submit         (submit)
//!       +-------- board: steps, outcomes --------------+
//! ```
//!
//! The checks: each call ends with an error that the documents give for it ([`calls`]), or succeeds if its argument
//! was valid; a failed call leaves its argument unchanged; reserved fields are 0; results are plausible. In the end
//! no device and no blocked task is left, and the harness makes its usual checks.
//!
//! A run has at least [`STEPS`] steps, and at most [`MOST_STEPS`] until each essential outcome was seen. What a thread
//! tries in a step depends only on the seed and on the numbers of the thread and the step; the state that it meets
//! depends on the other threads.

mod board;
mod calls;
mod control;
mod memory;
mod process;
pub(crate) mod role;
mod serve;
mod server;
mod submit;
mod thread;
mod v1;

use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::Signal;

use self::board::{Board, SLOTS};
use self::process::{DEVICES, PROCESSES};
use super::v2::support::control;
use super::v2::teardown::nobody_is_stuck;
use crate::guest::{Context, Need, Patience, Random, Spawned, Test, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("ioctl_fuzz", fuzz).needs(&[Need::Module]).timeout(180),
    // The same in rounds, each with the next seed, for the given number of minutes, at most an hour.
    Test::new("ioctl_fuzz_long", fuzz_long)
        .needs(&[Need::Module, Need::Setting("fuzz_minutes")])
        .timeout(3900)
        .hidden(),
];

/// Folder that the processes share.
const FOLDER: &str = "/tmp/fuzz";
/// Steps of a run, summed over the threads that make calls.
const STEPS: u64 = 2000;
/// A run that has not seen an essential outcome by then has failed.
const MOST_STEPS: u64 = 10 * STEPS;
/// A thread that is in the same step for this long waits for something that nobody does.
const PATIENCE: Duration = Duration::from_secs(3);
/// Time between two looks at the processes.
const PERIOD: Duration = Duration::from_millis(10);
/// After this time the servers are killed, too, because a destroy lets a server continue that answers something.
const IMPATIENCE: Duration = Duration::from_secs(9);
/// Seconds within which every thread must continue.
const LIMIT: u64 = 60;

fn fuzz(context: &mut Context) {
    let board = board();
    round(context, &board, context.seed());
    for line in board.table() {
        eprintln!("{line}");
    }
    all_was_seen(&board, false);
}

fn fuzz_long(context: &mut Context) {
    let minutes: u64 = context.setting("fuzz_minutes").and_then(|text| text.parse().ok()).expect("minutes");
    let (board, begin) = (board(), Instant::now());
    let mut rounds = 0;
    while begin.elapsed() < Duration::from_secs(60 * minutes) {
        round(context, &board, context.seed().wrapping_add(rounds));
        context.unload_module();
        rounds += 1;
    }
    context.say(&format!("{rounds} rounds from seed {} on", context.seed()));
    for line in board.table() {
        context.say(&line);
    }
    all_was_seen(&board, true);
}

fn board() -> Board {
    std::fs::create_dir_all(FOLDER).expect("a folder");
    Board::open(&Path::new(FOLDER).join("board"))
}

fn all_was_seen(board: &Board, everything: bool) {
    let missing = board.missing(everything);
    assert!(missing.is_empty(), "never seen: {}", missing.join(", "));
}

/// One run, from the load of the module until there is no device.
fn round(context: &mut Context, board: &Board, seed: u64) {
    context.load_module(&format!("max_devices={DEVICES}"));
    board.restart();
    let mut random = Random::named(seed, "ioctl_fuzz, kills");
    let mut fuzzer = Fuzzer::new(context, board, seed);
    let mut interval = || STEPS / 20 + random.below(STEPS / 10);
    let mut kill_at = interval();
    loop {
        fuzzer.look();
        let steps = fuzzer.steps();
        if steps >= MOST_STEPS || steps >= STEPS && board.missing(false).is_empty() {
            break;
        }
        if steps >= kill_at {
            kill_at = steps + interval();
            fuzzer.replace(&[usize::try_from(steps % PROCESSES as u64).expect("a process")]);
        }
        std::thread::sleep(PERIOD);
    }
    let told = fuzzer.end();
    context.say(&format!("seed {seed}: {told}"));
}

/// The processes of one run, as seen from their parent.
struct Fuzzer<'a> {
    context: &'a Context,
    board: &'a Board,
    seed: u64,
    processes: Vec<Spawned>,
    /// Step of each thread, and since when.
    seen: [(u64, Instant); SLOTS],
    /// Sweeps that may still run, and when the last one began.
    sweeping: Vec<JoinHandle<()>>,
    swept: Instant,
    /// A sweep did not help.
    impatient: bool,
    begin: Instant,
    calls: u64,
    kills: usize,
    sweeps: usize,
}

impl<'a> Fuzzer<'a> {
    fn new(context: &'a Context, board: &'a Board, seed: u64) -> Self {
        let begin = Instant::now();
        let mut fuzzer = Self {
            context,
            board,
            seed,
            processes: Vec::new(),
            seen: [(0, begin); SLOTS],
            sweeping: Vec::new(),
            swept: begin,
            impatient: false,
            begin,
            calls: board.calls(),
            kills: 0,
            sweeps: 0,
        };
        fuzzer.processes = (0..PROCESSES).map(|number| fuzzer.start(number)).collect();
        fuzzer
    }

    fn start(&self, number: usize) -> Spawned {
        let (number, seed) = (number.to_string(), self.seed.to_string());
        self.context.spawn("/proc/self/exe", &["--fuzz", &number, &seed, FOLDER])
    }

    /// Steps of the threads that make calls.
    fn steps(&self) -> u64 {
        (0..SLOTS).filter(|slot| role::makes_calls(*slot)).map(|slot| self.board.steps(slot)).sum()
    }

    /// Looks for failures, and helps threads that wait for something that nobody does.
    fn look(&mut self) {
        for process in &mut self.processes {
            assert!(process.running(), "a process of the fuzzer has ended:\n{}", process.stderr());
        }
        self.help();
        if self.impatient {
            let all: Vec<usize> = (0..PROCESSES).collect();
            self.replace(&all);
        }
    }

    /// Destroys all devices if a thread makes no progress, and kills the servers if that does not help.
    fn help(&mut self) {
        let slowness = self.context.slowness();
        let mut longest = Duration::ZERO;
        for slot in 0..SLOTS {
            let (step, since) = self.seen[slot];
            let now = self.board.steps(slot);
            if now != step {
                self.seen[slot] = (now, Instant::now());
                continue;
            }
            let doing = self.board.doing(slot);
            assert!(
                since.elapsed() < Duration::from_secs(LIMIT) * slowness,
                "thread {slot} is stuck in step {now}, {doing}"
            );
            longest = longest.max(since.elapsed());
        }
        if longest > PATIENCE && self.swept.elapsed() > PATIENCE {
            self.sweeps += 1;
            self.sweep();
        }
        if longest > IMPATIENCE {
            self.impatient = true;
        }
    }

    /// Begins to destroy all devices, beside everything else, also beside an earlier sweep, which does not know of
    /// devices created since.
    fn sweep(&mut self) {
        let (over, still) = self.sweeping.drain(..).partition(JoinHandle::is_finished);
        self.sweeping = still;
        join_all(over);
        self.swept = Instant::now();
        self.sweeping.push(std::thread::spawn(destroy_all));
    }

    /// Kills processes, waits for their end, and starts the next ones.
    fn replace(&mut self, numbers: &[usize]) {
        let mut patience = Patience::seconds(LIMIT);
        for number in numbers {
            self.kills += 1;
            self.processes[*number].signal(Signal::KILL);
        }
        for number in numbers {
            while self.processes[*number].running() {
                assert!(!patience.over(), "process {number} was killed, and does not die");
                self.help();
                std::thread::sleep(PERIOD);
            }
        }
        for number in numbers {
            self.processes[*number] = self.start(*number);
        }
        self.impatient = false;
        self.seen = self.seen.map(|(step, _)| (step, Instant::now()));
    }

    /// Ends the run. Nothing may be left. Returns a summary.
    fn end(mut self) -> String {
        self.board.stop();
        let mut patience = Patience::seconds(LIMIT);
        for number in 0..PROCESSES {
            while self.processes[number].running() {
                assert!(!patience.over(), "process {number} does not end:\n{}", self.doing());
                if self.swept.elapsed() > PERIOD * 10 {
                    self.sweep();
                }
                std::thread::sleep(PERIOD);
            }
            let status = self.processes[number].wait(1);
            assert!(status.success(), "process {number}: {status}\n{}", self.processes[number].stderr());
        }
        join_all(std::mem::take(&mut self.sweeping));
        // No process creates devices any more.
        destroy_all();
        assert_eq!(control().list().expect("list"), []);
        let old = zosbd2::v1::Control::open().expect("open the control node");
        assert_eq!(old.list().expect("list"), []);
        wait_until(20, "devices that went by themselves", || {
            std::fs::read_dir("/sys/kernel/debug/zosbd2").is_ok_and(|mut devices| devices.next().is_none())
        });
        nobody_is_stuck();
        format!(
            "{} calls, {} steps, {} kills, {} sweeps in {} s",
            self.board.calls() - self.calls,
            self.steps(),
            self.kills,
            self.sweeps,
            self.begin.elapsed().as_secs()
        )
    }

    fn doing(&self) -> String {
        let line =
            |slot| format!("thread {slot}: step {}, {}", self.board.steps(slot), self.board.doing(slot));
        (0..SLOTS).map(line).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Fuzzer<'_> {
    /// After a failure: devices with a grace of a day would cause further failures.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for process in &mut self.processes {
            process.signal(Signal::KILL);
        }
        let mut patience = Patience::seconds(LIMIT);
        // The processes may wait for devices, and create devices until they are dead.
        while self.processes.iter_mut().any(Spawned::running) && !patience.over() {
            destroy_all();
            std::thread::sleep(PERIOD);
        }
        destroy_all();
    }
}

fn join_all(sweeps: Vec<JoinHandle<()>>) {
    for sweep in sweeps {
        sweep.join().expect("a sweep");
    }
}

/// Destroys all devices at the same time. Another process may be faster.
fn destroy_all() {
    let devices = control().list().expect("list");
    std::thread::scope(|scope| {
        for device in &devices {
            scope.spawn(|| match control().destroy(&device.name, true) {
                Ok(()) | Err(zosbd2::Error::Control { source: Errno::NOENT, .. }) => {}
                Err(error) => panic!("destroy {}: {error:?}", device.name),
            });
        }
    });
}
