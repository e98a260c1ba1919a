// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs that a test runs, with their output and a deadline.
//!
//! Output goes to files, so a program never waits for the test to read it.

use super::step::Step;
use super::wait::wait_until;
use rustix::process::{Pid, Signal};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Result of a program.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A command line.
pub(crate) fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// Runs a program. It must succeed within this many seconds. Counts as a step of the test.
#[track_caller]
pub(crate) fn run(seconds: u64, program: &str, arguments: &[&str]) -> Finished {
    let words = format!("{program} {}", arguments.join(" "));
    let _step = Step::begin(&words.chars().take(100).collect::<String>());
    let finished = Spawned::start(command(program, arguments)).finish(seconds);
    let Finished { status, stdout, stderr } = &finished;
    assert!(status.success(), "{program} {}: {status}\n{stdout}{stderr}", arguments.join(" "));
    finished
}

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Spawned {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    ended: Option<ExitStatus>,
}

impl Spawned {
    /// Starts a command, in a process group of its own.
    #[track_caller]
    pub(crate) fn start(mut command: Command) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let words: Vec<&OsStr> = std::iter::once(command.get_program()).chain(command.get_args()).collect();
        let name = words.join(OsStr::new(" ")).to_string_lossy().into_owned();
        let output = |kind: &str| {
            let path = PathBuf::from(format!("/tmp/output-{}-{number}.{kind}", std::process::id()));
            let file =
                File::create(&path).unwrap_or_else(|error| panic!("create {}: {error}", path.display()));
            (path, file)
        };
        let ((stdout, stdout_file), (stderr, stderr_file)) = (output("out"), output("err"));
        command.stdin(Stdio::null()).stdout(stdout_file).stderr(stderr_file).process_group(0);
        let child = command.spawn().unwrap_or_else(|error| panic!("start {name}: {error}"));
        Self { name, child, stdout, stderr, ended: None }
    }

    /// Its process ID.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it is still running.
    pub(crate) fn running(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended =
                self.child.try_wait().unwrap_or_else(|error| panic!("wait for {}: {error}", self.name));
        }
        self.ended.is_none()
    }

    /// Sends it a signal; its children get none.
    #[track_caller]
    pub(crate) fn signal(&mut self, signal: Signal) {
        if self.running() {
            let pid = Pid::from_child(&self.child);
            rustix::process::kill_process(pid, signal)
                .unwrap_or_else(|error| panic!("signal {}: {error}", self.name));
        }
    }

    /// Stops it, and waits until none of its threads runs any more.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", self.id());
        wait_until(20, &format!("{} to stop", self.name), || {
            let tasks = std::fs::read_dir(&tasks).unwrap_or_else(|error| panic!("read {tasks}: {error}"));
            // "PID (NAME) STATE ..."
            tasks.flatten().all(|task| {
                let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
                stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
            })
        });
    }

    /// Its exit status, which must come within this many seconds.
    #[track_caller]
    pub(crate) fn wait(&mut self, seconds: u64) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        wait_until(seconds, &what, || !self.running());
        self.ended.expect("the program has ended")
    }

    /// Waits for its end and returns its output.
    #[track_caller]
    pub(crate) fn finish(mut self, seconds: u64) -> Finished {
        let status = self.wait(seconds);
        Finished { status, stdout: self.stdout(), stderr: self.stderr() }
    }

    /// Its standard output so far.
    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.stdout).unwrap_or_default()).into_owned()
    }

    /// Its standard error so far.
    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        if self.running() {
            let _ = rustix::process::kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            if std::thread::panicking() {
                eprintln!(
                    "{}: killed, because the test has failed\n{}{}",
                    self.name,
                    self.stdout(),
                    self.stderr()
                );
                return;
            }
            let _ = self.child.wait();
        }
    }
}
