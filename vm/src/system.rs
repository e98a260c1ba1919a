// SPDX-License-Identifier: MIT OR Apache-2.0
//! A whole Debian system in QEMU, and a channel through which the host runs commands in it.
//!
//! [`System::start`] starts QEMU with the system's kernel, initramfs and disks, and [`System::wait_for_boot`] waits for the
//! agent, which the system starts early in its boot. [`System::call`] runs one program and returns its output. A reboot stays
//! in the same QEMU: the agent says hello again. QEMU has always ended when the `System` is dropped.
//!
//! Every wait has a limit on the time without progress. Output is progress, on the console, too, while the system boots or
//! shuts down. Time in which QEMU works, or waits for a processor, counts a fifth. [`LAST_RESORT`] ends a wait that
//! progresses for ever.

mod limit;
mod setup;

pub use setup::{Disk, Setup};

use crate::channel::{CHUNK, Decoder, Frame};
use crate::error::file;
use crate::machine::session::{copy, type_in};
use crate::machine::{Meter, Running, SLICE, death};
use crate::{Error, Result, arch, command};
use limit::Limit;
use rustix::io::{FdFlags, fcntl_setfd};
use setup::command_of;
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Longest time without progress.
pub const QUIET: Duration = Duration::from_mins(2);
/// Longest time of one wait, with or without progress.
pub const LAST_RESORT: Duration = Duration::from_mins(45);
/// Time between two tries for a condition.
const AGAIN: Duration = Duration::from_millis(300);
/// Longest time that the agent has to kill a program that was given up.
const KILL: Duration = Duration::from_secs(30);
/// Name of the agent's port, and serial number of the disk that is the agent's program.
pub const AGENT: &str = "zosbd2-agent";
/// The terminal for a person, as the system names it.
pub const TERMINAL: &str = "/dev/ttyS1";

/// A program to run.
#[derive(Clone, Debug)]
pub struct Call {
    /// The program and its arguments.
    pub words: Vec<String>,
    /// Its standard input.
    pub input: Vec<u8>,
    /// Longest time without progress; `None`: a person works, and takes any time.
    pub quiet: Option<Duration>,
}

impl Call {
    /// A program without input, with the default limit.
    #[must_use]
    pub fn new(words: &[&str]) -> Self {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        Self { words, input: Vec::new(), quiet: Some(QUIET) }
    }
}

/// What a program left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Its status, as a shell counts it.
    pub status: u8,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

/// A boot that has reached the agent.
#[derive(Clone, Debug)]
pub struct Boot {
    /// The kernel's release.
    pub release: String,
    /// Time from QEMU's start, or from the request to reboot, to the agent.
    pub time: Duration,
}

/// A running system.
pub struct System {
    child: Running,
    meter: Meter,
    port: UnixStream,
    frames: Receiver<Frame>,
    terminal: Option<UnixStream>,
    /// Number of the last call.
    call: u32,
    /// The identifier of the boot whose agent was heard last.
    boot: Option<String>,
    since: Instant,
    console: PathBuf,
    errors: PathBuf,
    /// Length of the console's log when QEMU was started.
    console_start: u64,
}

impl System {
    /// Starts QEMU.
    pub fn start(setup: &Setup) -> Result<Self> {
        fs::create_dir_all(&setup.folder).map_err(file("create", &setup.folder))?;
        let (console, errors) = (setup.folder.join("console.log"), setup.folder.join("qemu.log"));
        let console_start = fs::metadata(&console).map_or(0, |metadata| metadata.len());
        let arch::Machine { qemu, package, .. } = arch::host().machine;
        let mut command = command_of(setup, &console);
        let socket = || UnixStream::pair().map_err(file("create", Path::new("a socket")));
        let mut theirs = Vec::new();
        let mut chardev = |command: &mut Command, id: &str| {
            let (ours, other) = socket()?;
            // QEMU gets the descriptor under the same number.
            fcntl_setfd(&other, FdFlags::empty())
                .map_err(|error| file("pass on", Path::new("a socket"))(error.into()))?;
            command.arg("-chardev").arg(format!("socket,id={id},fd={}", other.as_raw_fd()));
            theirs.push(other);
            Ok(ours)
        };
        let port = chardev(&mut command, "agent")?;
        command.args(["-device", "virtio-serial-pci", "-device"]);
        command.arg(format!("virtserialport,chardev=agent,name={AGENT}"));
        let terminal = if setup.terminal {
            let terminal = chardev(&mut command, "terminal")?;
            command.args(["-serial", "chardev:terminal"]);
            Some(terminal)
        } else {
            None
        };
        let errors_file = File::options().create(true).append(true).open(&errors);
        let errors_file = errors_file.map_err(file("create", &errors))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors_file);
        let since = Instant::now();
        let child = match command.spawn() {
            Ok(child) => Running(child),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(Error::MissingProgram { program: qemu.into(), package: package.into() });
            }
            Err(error) => return Err(file("start", Path::new(qemu))(error)),
        };
        drop(theirs);
        let socket_error = |error| file("use", Path::new("a socket"))(error);
        port.set_write_timeout(Some(QUIET)).map_err(socket_error)?;
        let frames = listen(port.try_clone().map_err(socket_error)?);
        let meter = Meter::new(child.0.id());
        let (call, boot) = (0, None);
        Ok(Self { child, meter, port, frames, terminal, call, boot, since, console, errors, console_start })
    }

    /// Waits for the agent of a boot that was not heard before.
    pub fn wait_for_boot(&mut self) -> Result<Boot> {
        let (mut limit, mut said) = (Limit::new(Some(QUIET)), 0);
        loop {
            self.listen_to_console(&mut limit, &mut said);
            match self.next(&mut limit, "the boot")? {
                Some(Frame::Hello { boot, release }) if self.boot.as_ref() != Some(&boot) => {
                    self.boot = Some(boot);
                    return Ok(Boot { release, time: self.since.elapsed() });
                }
                _ => {}
            }
        }
    }

    /// Runs a program to its end. An error means that the system is lost, or that the program made no progress; it was
    /// killed then, and the system may be used further if [`is_alive`](Self::is_alive).
    pub fn call(&mut self, call: &Call) -> Result<Output> {
        self.send(call)?;
        let mut limit = Limit::new(call.quiet);
        let mut output = Output::default();
        let what = call.words.join(" ");
        loop {
            let frame = match self.next(&mut limit, &what) {
                Ok(frame) => frame,
                Err(error) => {
                    self.kill();
                    return Err(error);
                }
            };
            match frame {
                Some(Frame::Output(number, bytes)) if number == self.call => output.stdout.extend(bytes),
                Some(Frame::Error(number, bytes)) if number == self.call => output.stderr.extend(bytes),
                Some(Frame::Exit(number, status)) if number == self.call => {
                    output.status = status;
                    return Ok(output);
                }
                Some(Frame::Hello { boot, .. }) => {
                    let again = self.boot.as_ref() == Some(&boot);
                    self.boot = Some(boot);
                    let event = if again { "its agent was started again" } else { "it was rebooted" };
                    return Err(self.failure(format!("{event} while it ran {what}")));
                }
                _ => {}
            }
        }
    }

    /// Runs a program again and again, until its output is `good`. Gives up after `quiet` without progress, where
    /// the tries themselves are none.
    pub fn until(
        &mut self,
        what: &str,
        quiet: Duration,
        call: &Call,
        good: impl Fn(&Output) -> bool,
    ) -> Result<Output> {
        let mut limit = Limit::new(Some(quiet));
        loop {
            let output = self.call(call)?;
            if good(&output) {
                return Ok(output);
            }
            std::thread::sleep(AGAIN);
            let meter = &mut self.meter;
            if let Some(why) = limit.spent(&mut || meter.worked()) {
                let said = [output.stdout, output.stderr].concat();
                let said = command::tail(&String::from_utf8_lossy(&said));
                return Err(
                    self.failure(format!("{what}: {why}; the last try: status {}, {said:?}", output.status))
                );
            }
        }
    }

    /// Time since QEMU was started, or since the last [`request`](Self::request).
    #[must_use]
    pub fn since_request(&self) -> Duration {
        self.since.elapsed()
    }

    /// Starts a program that ends this boot, such as `systemctl reboot`, and does not wait for it.
    pub fn request(&mut self, words: &[&str]) -> Result<()> {
        self.since = Instant::now();
        self.send(&Call::new(words))
    }

    /// Waits until the system has switched itself off. Returns the time since the request.
    pub fn wait_for_end(&mut self) -> Result<Duration> {
        let (mut limit, mut said) = (Limit::new(Some(QUIET)), 0);
        // QEMU closes the port when it ends.
        while !self.ended() {
            self.listen_to_console(&mut limit, &mut said);
            match self.next(&mut limit, "the power-off") {
                Ok(Some(Frame::Hello { .. })) => {
                    return Err(self.failure("it booted again instead of switching itself off".to_owned()));
                }
                Err(error) if self.is_alive() => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        let status = self.child.0.wait().map_err(file("wait for", Path::new("QEMU")))?;
        if !status.success() {
            let output = command::tail(&fs::read_to_string(&self.errors).unwrap_or_default());
            return Err(Error::Qemu { status: status.to_string(), output });
        }
        match death(&self.console) {
            Some(reason) => Err(self.failure(reason)),
            None => Ok(self.since.elapsed()),
        }
    }

    /// Joins the person's terminal with [`TERMINAL`] while a program runs, which takes any time. Returns `None` if the
    /// person ended the machine.
    pub fn attend(&mut self, words: &[&str]) -> Result<Option<Output>> {
        let Some(terminal) = self.terminal.take() else {
            return Err(self.failure("it has no terminal".to_owned()));
        };
        let reader = terminal.try_clone().map_err(file("use", Path::new("a socket")))?;
        let [ended, quit, greeted] = [const { AtomicBool::new(false) }; 3];
        greeted.store(true, Ordering::Relaxed);
        let pid = rustix::process::Pid::from_child(&self.child.0);
        let result = std::thread::scope(|scope| {
            scope.spawn(|| copy(reader, &mut std::io::stdout()));
            scope.spawn(|| {
                if type_in(&terminal, None, &greeted, &ended) {
                    quit.store(true, Ordering::Relaxed);
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            });
            let result = self.call(&Call { quiet: None, ..Call::new(words) });
            ended.store(true, Ordering::Relaxed);
            // Ends the copy.
            let _ = terminal.shutdown(std::net::Shutdown::Both);
            result
        });
        if quit.load(Ordering::Relaxed) { Ok(None) } else { result.map(Some) }
    }

    /// Whether QEMU runs and its kernel has not died.
    pub fn is_alive(&mut self) -> bool {
        !self.ended() && self.console_death().is_none()
    }

    /// The last lines of the console.
    #[must_use]
    pub fn console_tail(&self, lines: usize) -> String {
        let bytes = fs::read(&self.console).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let all: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// What the console has said since QEMU was started.
    #[must_use]
    pub fn console(&self) -> String {
        let bytes = fs::read(&self.console).unwrap_or_default();
        let start = usize::try_from(self.console_start).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(start..).unwrap_or_default()).into_owned()
    }

    /// New lines on the console are progress of a boot or a shutdown.
    fn listen_to_console(&self, limit: &mut Limit, said: &mut usize) {
        let now = lines_of_progress(&self.console());
        if now != *said {
            limit.progress();
            *said = now;
        }
    }

    fn console_death(&self) -> Option<String> {
        self.console().contains("Kernel panic - not syncing").then(|| death(&self.console)).flatten()
    }

    fn ended(&mut self) -> bool {
        !matches!(self.child.0.try_wait(), Ok(None))
    }

    fn send(&mut self, call: &Call) -> Result<()> {
        self.call = self.call.wrapping_add(1);
        let number = self.call;
        let inputs = call.input.chunks(CHUNK).map(|bytes| Frame::Input(number, bytes.to_vec()));
        let frames = std::iter::once(Frame::Run(number, call.words.clone()));
        for frame in frames.chain(inputs).chain([Frame::InputEnd(number)]) {
            if let Err(error) = self.port.write_all(&frame.encode()) {
                return Err(self.failure(format!("it takes no commands ({error})")));
            }
        }
        Ok(())
    }

    /// The next frame; `None` if nothing came for a moment.
    fn next(&mut self, limit: &mut Limit, what: &str) -> Result<Option<Frame>> {
        match self.frames.recv_timeout(SLICE) {
            Ok(frame) => {
                limit.progress();
                Ok(Some(frame))
            }
            Err(RecvTimeoutError::Disconnected) => {
                // The port is closed a moment before QEMU ends.
                let _ = self.child.0.wait();
                Err(self.failure(format!("it ended during {what}")))
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Some(reason) = self.console_death() {
                    return Err(self.failure(reason));
                }
                let meter = &mut self.meter;
                match limit.spent(&mut || meter.worked()) {
                    Some(why) => Err(self.failure(format!("{what}: {why}"))),
                    None => Ok(None),
                }
            }
        }
    }

    /// Kills the program of a call that was given up, and waits for its end.
    fn kill(&mut self) {
        let number = self.call;
        if self.ended() || self.port.write_all(&Frame::Kill(number).encode()).is_err() {
            return;
        }
        let mut limit = Limit::new(Some(KILL));
        while let Ok(frame) = self.next(&mut limit, "the kill") {
            if frame == Some(Frame::Exit(number, 137)) {
                return;
            }
        }
    }

    fn failure(&self, reason: String) -> Error {
        Error::Guest { reason, during: None, console: self.console.clone() }
    }
}

/// The lines of the console, without those that systemd prints every second while a job makes no progress.
fn lines_of_progress(console: &str) -> usize {
    console.lines().filter(|line| !line.contains(" running (")).count()
}

fn listen(mut port: UnixStream) -> Receiver<Frame> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let (mut decoder, mut buffer) = (Decoder::default(), [0; CHUNK]);
        while let Ok(count @ 1..) = port.read(&mut buffer) {
            for frame in decoder.push(buffer.get(..count).unwrap_or_default()) {
                if sender.send(frame).is_err() {
                    return;
                }
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_runs_on_is_no_progress() {
        let console = "[  OK  ] Mounted tmp.mount\n[ *** ] Job a.service/stop running (1min / 2min)\n\
                       [***  ] (1 of 2) Job a.service/stop running (1min 1s / no limit)\n[ 1.0] reboot: Power down\n";
        assert_eq!(lines_of_progress(console), 2);
    }
}
