// SPDX-License-Identifier: MIT OR Apache-2.0
//! One test from init's side: start it, end it if it hangs, clean up after it, and judge it.
//!
//! Init is the parent of every orphan, so this reaps every process that ends while the test runs. Meanwhile init tells
//! the host the test's current step. A test hangs if it has used up its limit as [`Patience`] counts it.

use super::child::{REASON, SKIPPED};
use super::kmsg::{self, Kmsg};
use super::patience::Patience;
use super::step::{self, STEP};
use super::tracing::{self, Followed};
use super::{Context, Test, modules, report, write_text};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, kill_process, kill_process_group};
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use zosbd2_vm_guest::protocol::{Line, Outcome};

/// Seconds for a killed process to end, and for cleaning up.
const GRACE: u64 = 30;

/// Time between two reports of a running test to the host.
const PERIOD: Duration = Duration::from_secs(2);

/// A test's end.
pub(crate) struct Judged {
    pub(crate) outcome: Outcome,
    pub(crate) seconds: f64,
    /// Whether another test may run in this boot.
    pub(crate) sound: bool,
    /// Result of the check of its tracepoints.
    pub(crate) followed: Followed,
}

/// Runs one test.
pub(crate) fn run(test: &Test, context: &Context, kmsg: &mut Kmsg) -> Judged {
    for path in [REASON, SKIPPED, STEP] {
        let _ = fs::remove_file(path);
    }
    let mut faults = Vec::new();
    let start = Instant::now();
    let before = modules::all_loaded();
    // Hidden tests are measurements, so they are not traced.
    tracing::prepare(!test.hidden);
    let mut sound = match in_a_process(test) {
        Ended::With(status) if status.exit_status() == Some(0) => true,
        Ended::With(status) => {
            let words = match status.terminating_signal() {
                Some(signal) => format!("killed by signal {signal}"),
                None => format!("exit status {}", status.exit_status().unwrap_or(-1)),
            };
            faults.push(fs::read_to_string(REASON).unwrap_or(words));
            true
        }
        Ended::Killed => {
            faults.push(hung(test, context, start.elapsed()));
            true
        }
        Ended::Stuck => {
            let hung = hung(test, context, start.elapsed());
            faults.push(format!("{hung}, stuck in the kernel, {GRACE} s after it was killed"));
            false
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    // Waiting for the processes that it leaves may take time, too.
    let going = Going { name: test.name, start };
    let mut followed = Followed::default();
    if sound {
        let untidy = clean_up(&before, &mut followed, &going);
        sound = untidy.is_empty();
        // After a failed test, remaining processes are a consequence and not a cause.
        let after = if faults.is_empty() { "" } else { "afterwards: " };
        faults.extend(untidy.into_iter().map(|fault| format!("{after}{fault}")));
        faults.extend(followed.fault.take());
    }
    // The kernel's last line can only be read when another line follows.
    write_text("/dev/kmsg", &format!("<5>test {}: end\n", test.name));
    let reports = kmsg::suspicious(&kmsg.lines(), test.allowed);
    if !reports.is_empty() {
        faults.push(format!("the kernel said:\n{}", reports.join("\n")));
    }
    let taints = kmsg::taints();
    if !taints.is_empty() {
        // Many of the kernel's reports appear only once per boot.
        sound = false;
        if test.allowed.is_empty() && reports.is_empty() {
            faults.push(format!("the kernel is tainted: {}", taints.join(", ")));
        }
    }
    let outcome = if !faults.is_empty() {
        Outcome::Failed(faults.join("\n"))
    } else if let Ok(why) = fs::read_to_string(SKIPPED) {
        Outcome::Skipped(why)
    } else {
        Outcome::Passed
    };
    Judged { outcome, seconds, sound: sound && reports.is_empty(), followed }
}

enum Ended {
    With(WaitStatus),
    Killed,
    Stuck,
}

/// The failure's reason for a test that hung, with its step.
fn hung(test: &Test, context: &Context, took: Duration) -> String {
    let limit = test.seconds * u64::from(context.slowness());
    let step = step::current();
    let step = if step.is_empty() { String::new() } else { format!(" in the step \"{step}\"") };
    format!("hung{step}: its limit of {limit} s is spent, after {:.0} s in all", took.as_secs_f64())
}

/// Reports a running test to the host.
struct Going<'a> {
    name: &'a str,
    start: Instant,
}

impl Going<'_> {
    /// Reports the step, unless the last report was less than [`PERIOD`] ago.
    fn tell(&self, told: &mut Instant, step: impl FnOnce() -> String) {
        if told.elapsed() >= PERIOD {
            *told = Instant::now();
            report::send(&Line::Going(self.name.to_owned(), self.start.elapsed().as_secs(), step()));
        }
    }
}

/// Runs the test's process, and reaps every other process that ends meanwhile.
fn in_a_process(test: &Test) -> Ended {
    let name = test.name;
    #[expect(clippy::zombie_processes, reason = "the reaper below waits for every child, this one included")]
    let child = Command::new("/init")
        .env("PATH", "/bin:/sbin:/usr/bin:/usr/sbin")
        .args(["--test", name])
        .process_group(0)
        .spawn()
        .unwrap_or_else(|error| panic!("start /init --test: {error}"));
    let pid = Pid::from_child(&child);
    let handle = rustix::process::pidfd_open(pid, PidfdFlags::empty())
        .unwrap_or_else(|error| panic!("open the test's process: {error}"));
    let killed = Arc::new(AtomicBool::new(false));
    let (sender, receiver) = std::sync::mpsc::channel();
    let reaper = std::thread::spawn(move || {
        loop {
            match rustix::process::wait(WaitOptions::empty()) {
                Ok(Some((ended, status))) if ended == pid => {
                    let _ = sender.send(status);
                    return;
                }
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                // The receiver finds the channel closed, and nothing else can be done.
                Err(_) => return,
            }
        }
    });
    let going = Going { name, start: Instant::now() };
    if !readable(&handle, Patience::seconds(test.seconds), &going, &step::current) {
        killed.store(true, Ordering::Relaxed);
        eprintln!("test {name} hangs; blocked tasks:");
        let _ = fs::write("/proc/sysrq-trigger", "w");
        let _ = kill_process_group(pid, Signal::KILL);
        let _ = kill_process(pid, Signal::KILL);
        let dies = || "it was killed, and has not ended".to_owned();
        if !readable(&handle, Patience::seconds(GRACE), &going, &dies) {
            return Ended::Stuck;
        }
    }
    let status = receiver.recv();
    let _ = reaper.join();
    match status {
        Ok(status) if !killed.load(Ordering::Relaxed) => Ended::With(status),
        Ok(_) => Ended::Killed,
        Err(_) => Ended::Stuck,
    }
}

/// Waits until a process has ended. Returns false if the limit is used up first.
fn readable(
    handle: &impl std::os::fd::AsFd,
    mut patience: Patience,
    going: &Going<'_>,
    step: &dyn Fn() -> String,
) -> bool {
    const SLICE: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };
    let mut told = Instant::now();
    loop {
        // It may have ended while this process was not scheduled.
        let over = patience.over();
        match poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&SLICE)) {
            Ok(0) if over => return false,
            Ok(0) | Err(_) => going.tell(&mut told, step),
            Ok(_) => return true,
        }
    }
}

/// Kills, unmounts and unloads what the test has left. Returns what could not be removed.
fn clean_up(before: &[String], followed: &mut Followed, going: &Going<'_>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut patience = Patience::seconds(GRACE);
    let mut told = Instant::now();
    loop {
        let left = processes();
        if left.is_empty() {
            break;
        }
        if patience.over() {
            let _ = fs::write("/proc/sysrq-trigger", "w");
            faults.push(format!("processes that do not die: {}", left.join(", ")));
            return faults;
        }
        going.tell(&mut told, || format!("killing what it left: {}", left.join(", ")));
        std::thread::sleep(Duration::from_millis(5));
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for line in mounts.lines().rev() {
        let mut words = line.split(' ');
        let (Some(device), Some(place)) = (words.next(), words.next()) else { continue };
        if device.starts_with("/dev/") {
            let _ = rustix::mount::unmount(place, UnmountFlags::empty());
        }
    }
    if !before.iter().any(|name| name == "zosbd2") {
        *followed = tracing::follow();
    }
    for name in modules::all_loaded() {
        if before.contains(&name) {
            continue;
        }
        let ours = name == "zosbd2";
        loop {
            going.tell(&mut told, || format!("unloading {name}"));
            match modules::try_unload(&name) {
                Ok(()) => break,
                Err(error) if patience.over() => {
                    if ours {
                        faults.push(format!("zosbd2 does not unload: {error}"));
                    }
                    break;
                }
                // Modules of the kernel may stay; the next test finds them loaded.
                Err(_) if !ours => break,
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
    // Files of a test occupy memory that the next test needs.
    if let Ok(entries) = fs::read_dir("/tmp") {
        for entry in entries.flatten() {
            let path = entry.path();
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    }
    write_text("/proc/sys/vm/drop_caches", "3");
    faults
}

/// Kills every process except init and the kernel's threads, reaps the processes that ended, and names those left.
fn processes() -> Vec<String> {
    while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
    let left = others();
    for (pid, _) in &left {
        let _ = kill_process(*pid, Signal::KILL);
    }
    left.into_iter().map(|(pid, name)| format!("{} {name}", pid.as_raw_nonzero())).collect()
}

/// Every process except init and the kernel's threads.
pub(crate) fn others() -> Vec<(Pid, String)> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir("/proc") else { return found };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.parse().ok().and_then(Pid::from_raw) else { continue };
        // "PID (NAME) STATE PARENT ...": the kernel's threads are process 2 and its children.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((program, rest)) = stat.rsplit_once(')') else { continue };
        let parent = rest.split_whitespace().nth(1).unwrap_or_default();
        let ours = name == "1" || name == "2" || parent == "2";
        // Some of the kernel's own threads, such as a failed module's, are children of init. They have no memory.
        let kernels = fs::read_to_string(entry.path().join("statm")).is_ok_and(|text| text.starts_with("0 "))
            && !rest.trim_start().starts_with('Z');
        if ours || kernels {
            continue;
        }
        let program = program.split_once(" (").map_or(program, |(_, program)| program);
        found.push((pid, program.to_owned()));
    }
    found
}
