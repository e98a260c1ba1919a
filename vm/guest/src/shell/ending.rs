// SPDX-License-Identifier: MIT OR Apache-2.0
//! The end of a session: its processes are asked to end, file systems are unmounted, and the module is unloaded.

use crate::guest::{Patience, modules, others};
use rustix::mount::UnmountFlags;
use rustix::process::{Signal, WaitOptions, kill_process};
use std::fs;
use std::time::Duration;
use zosbd2::Control;

/// Seconds for processes to end by themselves.
const POLITE: u64 = 15;
/// Seconds for killed processes to end, and for the module to unload.
const GRACE: u64 = 30;

/// Ends what the session has left. Returns what a person should know.
pub(crate) fn clean_up() -> Vec<String> {
    let mut problems = Vec::new();
    // A server destroys its disk as soon as nobody uses it. A second SIGTERM would ask it to use force.
    for (pid, _) in others() {
        let _ = kill_process(pid, Signal::TERM);
    }
    // Only a shell that reads commands ignores SIGTERM.
    for (pid, name) in others() {
        if ["bash", "sh", "dash"].contains(&name.as_str()) {
            let _ = kill_process(pid, Signal::HUP);
        }
    }
    let left = wait(POLITE, |_| ());
    if !left.is_empty() {
        problems.push(format!("killed what did not end in {POLITE} s: {}", left.join(", ")));
        let stuck = wait(GRACE, |pid| {
            let _ = kill_process(pid, Signal::KILL);
        });
        if !stuck.is_empty() {
            problems.push(format!("processes that do not die: {}", stuck.join(", ")));
        }
    }
    problems.extend(still_mounted().into_iter().map(|place| format!("{place} cannot be unmounted")));
    if modules::loaded("zosbd2") {
        problems.extend(unload());
    }
    rustix::fs::sync();
    problems
}

/// Unmounts, and waits until no process is left. Returns the names of those that are.
fn wait(seconds: u64, each: impl Fn(rustix::process::Pid)) -> Vec<String> {
    let mut patience = Patience::seconds(seconds);
    loop {
        let over = patience.over();
        for place in still_mounted() {
            let _ = rustix::mount::unmount(&place, UnmountFlags::empty());
        }
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        let left = others();
        if over || (left.is_empty() && still_mounted().is_empty()) {
            return left
                .into_iter()
                .map(|(pid, name)| format!("{name} ({})", pid.as_raw_nonzero()))
                .collect();
        }
        for (pid, _) in left {
            each(pid);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The places where block devices are mounted, the last one first.
fn still_mounted() -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let place = |line: &str| {
        let mut words = line.split(' ');
        words.next().filter(|device| device.starts_with("/dev/"))?;
        // The file has octal numbers in place of blanks.
        words.next().map(|place| place.replace("\\040", " "))
    };
    mounts.lines().rev().filter_map(place).collect()
}

/// Destroys the devices whose servers have gone without doing so, and unloads the module.
fn unload() -> Vec<String> {
    let mut problems = Vec::new();
    let listed = Control::open().and_then(|control| Ok((control.list()?, control)));
    if let Ok((devices, control)) = listed {
        for device in devices.iter().filter(|device| device.version != 1) {
            problems.push(format!("device {} was left, and is destroyed", device.name));
            if let Err(error) = control.destroy(device.name.as_str(), true) {
                problems.push(error.to_string());
            }
        }
    }
    let mut patience = Patience::seconds(GRACE);
    loop {
        let over = patience.over();
        match modules::try_unload("zosbd2") {
            Ok(()) => return problems,
            Err(error) if over => {
                problems.push(format!("zosbd2 does not unload: {error}"));
                return problems;
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
