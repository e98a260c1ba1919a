// SPDX-License-Identifier: MIT OR Apache-2.0
//! The conformance of a foreign program: it is started, its device is tested, and it is asked to end.

use crate::guest::{Patience, modules};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};
use zosbd2::{Control, State, Status};

/// Seconds for the program to serve a device.
const START: u64 = 60;
/// Seconds for the suite.
const SUITE: u64 = 600;
/// Seconds for the program to end after SIGTERM.
const END: u64 = 60;
/// Time between two checks of a condition.
const PERIOD: Duration = Duration::from_millis(20);

/// The role `--conformance PROGRAM [ARGUMENT...]`. What the program prints is shown as it comes.
pub(crate) fn role(words: &[&str]) -> ExitCode {
    match test(words) {
        Ok(()) => {
            println!("{} conforms", words.join(" "));
            ExitCode::SUCCESS
        }
        Err(problem) => {
            println!("{} does not conform: {problem}", words.join(" "));
            ExitCode::FAILURE
        }
    }
}

/// A running program that is killed if it is not needed any more.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only if it has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Program {
    fn start(words: &[&str]) -> Result<Self, String> {
        let (program, arguments) = words.split_first().ok_or("no program is named")?;
        let child = Command::new(program).args(arguments).spawn();
        child.map(Self).map_err(|error| format!("start {program}: {error}"))
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>, String> {
        self.0.try_wait().map_err(|error| format!("wait for it: {error}"))
    }

    /// Its exit status, or `None` after this many seconds, as [`Patience`] counts them.
    fn end(&mut self, seconds: u64) -> Result<Option<ExitStatus>, String> {
        let mut patience = Patience::seconds(seconds);
        loop {
            let over = patience.over();
            let ended = self.ended()?;
            if ended.is_some() || over {
                return Ok(ended);
            }
            std::thread::sleep(PERIOD);
        }
    }
}

fn test(words: &[&str]) -> Result<(), String> {
    let start = Instant::now();
    let mut program = Program::start(words)?;
    let device = wait_until_it_serves(&mut program)?;
    let node = device.path();
    println!("serves {} after {:.1} s", node.display(), start.elapsed().as_secs_f64());

    let mut suite = Program::start(&["zosbd2-conformance", &node.to_string_lossy()])?;
    match suite.end(SUITE)? {
        Some(status) if status.success() => {}
        Some(_) => return Err("the suite has failed".to_owned()),
        None => {
            let requests = fs::read_to_string(format!("/sys/kernel/debug/zosbd2/{}/requests", disk(&device)));
            return Err(format!(
                "the suite has not ended after {SUITE} s; unanswered requests:\n{}",
                requests.unwrap_or_default()
            ));
        }
    }
    if let Some(status) = program.ended()? {
        return Err(format!("it has ended while its device was tested ({status})"));
    }

    let pid = Pid::from_child(&program.0);
    kill_process(pid, Signal::TERM).map_err(|error| format!("send it SIGTERM: {error}"))?;
    let status = program.end(END)?;
    let status =
        status.ok_or_else(|| format!("it has not ended {END} s after SIGTERM, with its device unused"))?;
    if !status.success() {
        return Err(format!("it should end after SIGTERM with exit status 0, and did with {status}"));
    }
    let left = served()?;
    if let Some(left) = left.first() {
        return Err(format!("it has ended, and its device {} is left ({:?})", left.name, left.state));
    }
    modules::try_unload("zosbd2")
        .map_err(|error| format!("it has ended, and the module does not unload: {error}"))?;
    println!("ended after SIGTERM, the device is gone, and the module is unloaded");
    Ok(())
}

/// Waits for the first device that is live and has a node.
fn wait_until_it_serves(program: &mut Program) -> Result<Status, String> {
    let mut patience = Patience::seconds(START);
    loop {
        let over = patience.over();
        let ended = program.ended()?;
        let devices = served()?;
        if let Some(device) =
            devices.iter().find(|device| device.state == State::Live && device.path().exists())
        {
            return Ok(device.clone());
        }
        if let Some(status) = ended {
            return Err(format!("it has ended before it served a device ({status})"));
        }
        if over {
            let found: Vec<String> =
                devices.iter().map(|device| format!("{} is {:?}", device.name, device.state)).collect();
            let found = if found.is_empty() { "there is none".to_owned() } else { found.join(", ") };
            return Err(format!("it serves no device after {START} s: {found}"));
        }
        std::thread::sleep(PERIOD);
    }
}

/// All devices of interface version 2.
fn served() -> Result<Vec<Status>, String> {
    let control = Control::open().map_err(|error| chain(&error))?;
    let listed = control.list().map_err(|error| chain(&error))?;
    // A device may be destroyed between the two calls.
    Ok(listed
        .iter()
        .filter(|device| device.version != 1)
        .filter_map(|device| control.status(&device.name).ok())
        .collect())
}

/// The name of a device's disk in the kernel.
fn disk(device: &Status) -> String {
    let (major, minor) = device.device_number.unwrap_or_default();
    let folder = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).unwrap_or_default();
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// An error with its causes.
fn chain(error: &zosbd2::Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
