// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `zosbd2`, without systemd: what it prints, its exit codes, and what it leaves behind.

mod failures;
mod lives;
mod many;
mod numbers;

use std::fs;
use std::path::Path;

use serde_json::Value;
use zosbd2::Control;

use crate::guest::{Context, Finished, Mounted, Need, Spawned, Test, command, others, wait_until};

const NEEDS: &[Need] = &[Need::Module, Need::Program("zosbd2"), Need::Tool("mkfs.ext4")];

pub(super) const TESTS: &[Test] = &[
    Test::new("command_kinds_of_disks", lives::kinds).needs(NEEDS).timeout(120),
    Test::new("command_recover_and_upgrade", lives::recover_and_upgrade).needs(NEEDS).timeout(120),
    Test::new("command_failures", failures::failures).needs(NEEDS).timeout(120),
    Test::new("command_keeps_what_is_used", failures::gc).needs(NEEDS).timeout(120),
    Test::new("command_numbers", numbers::numbers).needs(NEEDS).timeout(120),
    Test::new("command_size_and_settings", numbers::size_and_settings).needs(NEEDS).timeout(120),
    Test::new("command_100_disks", many::disks).needs(NEEDS).timeout(300),
];

/// The folder with the stores of the disks, and memory where the command looks for it. Checks at the end that nothing
/// is left of any disk.
struct Stage {
    store: Mounted,
    memory: Mounted,
}

impl Stage {
    fn new(context: &mut Context) -> Self {
        context.load_module("");
        context.load_kernel_module("ext4", "");
        Self {
            store: Mounted::new("store", "/run/store", "tmpfs", ""),
            memory: Mounted::new("memory", "/dev/shm", "tmpfs", ""),
        }
    }

    /// No device, node, file or process of a disk may be left.
    fn end(self) {
        let control = Control::open().expect("open");
        assert_eq!(control.list().expect("list"), [], "devices are left");
        wait_until(30, "the end of all servers", || others().iter().all(|(_, name)| name != "zosbd2"));
        for (folder, start) in [("/dev", "zosbd2-"), ("/run/zosbd2", ""), ("/dev/shm", "")] {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            let mut names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
            let left = names.find(|name| name.starts_with(start));
            assert_eq!(left, None, "is left in {folder}");
        }
        self.memory.unmount();
        self.store.unmount();
    }
}

/// Runs the command.
#[track_caller]
fn zosbd2(words: &[&str]) -> Finished {
    Spawned::start(command("zosbd2", words)).finish(60)
}

/// Runs the command, which must succeed. Returns what it printed, without the last line break.
#[track_caller]
fn ok(words: &[&str]) -> String {
    let Finished { status, stdout, stderr } = zosbd2(words);
    assert!(status.success(), "zosbd2 {}: {status}\n{stdout}{stderr}", words.join(" "));
    stdout.trim_end().to_owned()
}

/// Runs the command, which must fail with this exit code and a sentence with all these texts.
#[track_caller]
fn fails(code: i32, words: &[&str], texts: &[&str]) {
    let Finished { status, stdout, stderr } = zosbd2(words);
    assert_eq!(status.code(), Some(code), "zosbd2 {}\n{stdout}{stderr}", words.join(" "));
    for text in texts {
        assert!(stderr.contains(text), "zosbd2 {}: {text:?} is not in: {stderr}", words.join(" "));
    }
}

/// Runs the command with `--json`.
#[track_caller]
fn json(words: &[&str]) -> Value {
    let words = [words, &["--json"]].concat();
    let text = ok(&words);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("zosbd2 {}: {error}: {text}", words.join(" ")))
}

/// What `show` knows of a disk.
#[track_caller]
fn show(name: &str) -> Value {
    json(&["show", name])
}

/// The disk in `list`.
#[track_caller]
fn listed(name: &str) -> Value {
    let all = json(&["list"]);
    let found = all.as_array().expect("a list").iter().find(|disk| disk["name"] == name);
    found.unwrap_or_else(|| panic!("{name} is not in {all}")).clone()
}

/// Kills the server of a disk, and waits until the kernel knows.
#[track_caller]
fn kill_server(name: &str) {
    let pid = show(name)["server-pid"].as_i64().expect("a server");
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a number")).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kill");
    wait_until(20, "the death of the server", || show(name)["state"] != "live");
}

/// The facts have these values, and others.
#[track_caller]
fn has(facts: &Value, wanted: &Value) {
    for (key, value) in wanted.as_object().expect("an object") {
        assert_eq!(&facts[key], value, "{key}: {facts}");
    }
}

fn exists(path: &str) -> bool {
    Path::new(path).exists()
}
