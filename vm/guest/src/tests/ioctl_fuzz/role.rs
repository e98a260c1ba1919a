// SPDX-License-Identifier: MIT OR Apache-2.0
//! One process of the fuzzer: two threads that make calls of all kinds, two that serve, two that submit. It may be
//! killed at any time. Its successor continues with the next steps of its threads.

use std::cell::Cell;
use std::path::Path;
use std::process::exit;

use super::board::SLOTS;
use super::process::{PROCESSES, Process};
use super::thread::Thread;
use crate::guest::raw;

/// Threads of a process.
const THREADS: usize = SLOTS / PROCESSES;

/// Prefix of the threads' names; then comes the number.
const NAME: &str = "fuzz-";

thread_local! {
    /// The step of this thread.
    static STEP: Cell<u64> = const { Cell::new(0) };
}

/// The role `--fuzz PROCESS SEED FOLDER`: runs steps until the board says stop. A panic in a step ends the
/// process.
pub(crate) fn role(arguments: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    let [number, seed, folder] = arguments else { return Err("usage: --fuzz PROCESS SEED FOLDER".into()) };
    let process = Process::new(Path::new(folder), number.parse()?)?;
    let seed = seed.parse()?;
    raw::count_signal(libc::SIGUSR1);
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current();
        eprintln!("seed {seed}, {}, step {}:", thread.name().unwrap_or("main"), STEP.get());
        usual(panic);
        exit(1);
    }));
    std::thread::scope(|scope| {
        for index in 0..THREADS {
            let slot = process.number() * THREADS + index;
            let (name, process) = (format!("{NAME}{slot}"), &process);
            std::thread::Builder::new().name(name).spawn_scoped(scope, move || run(process, slot, seed))?;
        }
        Ok(())
    })
}

/// Whether a thread is one of those that make calls.
pub(super) const fn makes_calls(slot: usize) -> bool {
    slot % 3 == 0
}

fn run(process: &Process, slot: usize, seed: u64) {
    let mut thread = Thread::new(process, slot, seed);
    process.enlist();
    while !process.board.stopped() {
        STEP.set(thread.begin_step());
        match slot % 3 {
            0 => thread.call_something(),
            1 => thread.serve_something(),
            _ => thread.submit(),
        }
    }
    process.leave();
}

impl Thread<'_> {
    fn call_something(&mut self) {
        match self.random.below(100) {
            0..10 => self.create(),
            10..20 => self.attach(),
            20..25 => self.observe(),
            25..29 => self.destroy(),
            29..33 => self.list(),
            33..37 => self.status(),
            37..38 => self.info(),
            38..40 => self.settings(None),
            40..66 => self.server_call(),
            66..78 => self.control_1(),
            78..82 => self.poll(),
            82..85 => self.duplicate(),
            85..88 => self.close(),
            88..90 => self.pass(),
            90..93 => self.receive(),
            93..95 => self.unknown(),
            95..98 => self.map(),
            _ => self.process.interrupt(&mut self.random),
        }
    }

    fn serve_something(&mut self) {
        match self.random.below(100) {
            0..72 => self.serve(),
            72..95 => self.serve_1(),
            95..97 => self.map(),
            97 => self.poll(),
            _ => self.server_call(),
        }
    }
}
