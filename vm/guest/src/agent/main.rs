// SPDX-License-Identifier: MIT OR Apache-2.0
//! The agent of a Debian system: runs the host's commands, one at a time.
//!
//! `zosbd2-vm-agent NAME` says hello on the virtio-serial port with this name and serves [`Frame::Run`]. A call ends when its program has
//! ended: processes that it leaves in the background are not waited for, and their output is dropped.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::{env, fs};
use zosbd2_vm_guest::channel::{CHUNK, Decoder, Frame};

/// Variables of every command.
const ENVIRONMENT: [(&str, &str); 4] = [
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("LC_ALL", "C.UTF-8"),
    ("DEBIAN_FRONTEND", "noninteractive"),
];

/// Reads that empty a full pipe of 64 KiB.
const PIPE: usize = 2 * (64 << 10) / CHUNK;

/// Status of a call whose program cannot be started, as in a shell.
const NOT_STARTED: u8 = 127;

fn main() -> ExitCode {
    let Some(name) = env::args().nth(1) else {
        eprintln!("usage: zosbd2-vm-agent NAME");
        return ExitCode::from(2);
    };
    let Err(error) = find(&name).and_then(serve);
    eprintln!("port {name}: {error}");
    ExitCode::FAILURE
}

/// Opens the port with this name. Its node is there before udev makes a link to it.
fn find(name: &str) -> io::Result<File> {
    for entry in fs::read_dir("/sys/class/virtio-ports")? {
        let entry = entry?;
        if fs::read_to_string(entry.path().join("name")).is_ok_and(|own| own.trim() == name) {
            return OpenOptions::new().read(true).write(true).open(Path::new("/dev").join(entry.file_name()));
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// The port to the host.
struct Port {
    file: File,
    decoder: Decoder,
    arrived: VecDeque<Frame>,
}

impl Port {
    fn send(&mut self, frame: &Frame) -> io::Result<()> {
        self.file.write_all(&frame.encode())
    }

    /// Reads what has arrived. Waits if nothing has.
    fn read(&mut self) -> io::Result<()> {
        let mut buffer = [0; CHUNK];
        let count = io::Read::read(&mut self.file, &mut buffer)?;
        if count == 0 {
            // The host has closed its end, which it does only when it ends the machine.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.arrived.extend(self.decoder.push(buffer.get(..count).unwrap_or_default()));
        Ok(())
    }
}

/// Serves the host until the port fails.
fn serve(file: File) -> io::Result<Infallible> {
    let mut port = Port { file, decoder: Decoder::default(), arrived: VecDeque::new() };
    let line = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned());
    let (boot, release) = (line("/proc/sys/kernel/random/boot_id")?, line("/proc/sys/kernel/osrelease")?);
    port.send(&Frame::Hello { boot, release })?;
    loop {
        match port.arrived.pop_front() {
            Some(Frame::Run(call, words)) => {
                let status = match start(&words) {
                    Ok(child) => Call::new(call, child)?.run(&mut port)?,
                    Err(error) => {
                        let text = format!("{}: {error}\n", words.join(" "));
                        port.send(&Frame::Error(call, text.into_bytes()))?;
                        NOT_STARTED
                    }
                };
                port.send(&Frame::Exit(call, status))?;
            }
            // Of a call that has ended.
            Some(_) => {}
            None => port.read()?,
        }
    }
}

fn start(words: &[String]) -> io::Result<Child> {
    let (program, arguments) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(arguments).envs(ENVIRONMENT).current_dir("/").process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
}

/// A program that runs.
struct Call {
    number: u32,
    child: Child,
    /// Becomes readable when the program has ended.
    ended: OwnedFd,
    /// `None` once it is closed.
    stdin: Option<ChildStdin>,
    input: VecDeque<u8>,
    input_ended: bool,
    /// Standard output and standard error, until they are closed.
    outputs: [Option<OwnedFd>; 2],
}

impl Call {
    fn new(number: u32, mut child: Child) -> io::Result<Self> {
        let ended = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        let stdin = child.stdin.take();
        let outputs = [child.stdout.take().map(OwnedFd::from), child.stderr.take().map(OwnedFd::from)];
        for fd in outputs.iter().flatten().map(AsFd::as_fd).chain(stdin.as_ref().map(AsFd::as_fd)) {
            fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)?;
        }
        Ok(Self { number, child, ended, stdin, input: VecDeque::new(), input_ended: false, outputs })
    }

    /// Serves the program to its end, and returns its status.
    fn run(mut self, port: &mut Port) -> io::Result<u8> {
        loop {
            self.take_frames(port);
            self.feed()?;
            // What the program wrote before it ended is in the pipes.
            let ended = self.wait(port)?;
            for index in 0..self.outputs.len() {
                self.pass_on(port, index)?;
            }
            if ended {
                let status = self.child.wait()?;
                let signal = || u8::try_from(128 + status.signal().unwrap_or(0)).unwrap_or(u8::MAX);
                return Ok(status.code().map_or_else(signal, |code| u8::try_from(code).unwrap_or(u8::MAX)));
            }
        }
    }

    /// Waits until something can be done. Returns whether the program has ended.
    fn wait(&self, port: &mut Port) -> io::Result<bool> {
        let mut fds = vec![PollFd::new(&self.ended, PollFlags::IN), PollFd::new(&port.file, PollFlags::IN)];
        fds.extend(self.outputs.iter().flatten().map(|fd| PollFd::new(fd, PollFlags::IN)));
        if let Some(stdin) = self.stdin.as_ref().filter(|_| !self.input.is_empty()) {
            fds.push(PollFd::new(stdin, PollFlags::OUT));
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
        let (ended, arrived) = (ready(0), ready(1));
        drop(fds);
        if arrived {
            port.read()?;
        }
        Ok(ended)
    }

    fn take_frames(&mut self, port: &mut Port) {
        // The host sends the next call after the end of this one.
        while let Some(frame) = port.arrived.pop_front() {
            match frame {
                Frame::Input(call, bytes) if call == self.number => self.input.extend(bytes),
                Frame::InputEnd(call) if call == self.number => self.input_ended = true,
                Frame::Kill(call) if call == self.number => {
                    // It fails only if the program has just ended.
                    let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
                }
                _ => {}
            }
        }
    }

    /// Gives the program as much input as it takes.
    fn feed(&mut self) -> io::Result<()> {
        while let Some(stdin) = self.stdin.as_mut().filter(|_| !self.input.is_empty()) {
            match stdin.write(self.input.as_slices().0) {
                Ok(count) => drop(self.input.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The program wants no more.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    self.stdin = None;
                    self.input.clear();
                }
                Err(error) => return Err(error),
            }
        }
        if self.input_ended {
            self.stdin = None;
        }
        Ok(())
    }

    /// Passes on what the program has written.
    fn pass_on(&mut self, port: &mut Port, index: usize) -> io::Result<()> {
        let mut buffer = [0; CHUNK];
        // More than a pipe holds: a process in the background may write without end.
        for _ in 0..PIPE {
            let Some(Some(fd)) = self.outputs.get(index) else { return Ok(()) };
            match rustix::io::read(fd, &mut buffer) {
                Ok(0) => {
                    self.outputs[index] = None;
                }
                Ok(count) => {
                    let bytes = buffer.get(..count).unwrap_or_default().to_vec();
                    let frame = if index == 0 { Frame::Output } else { Frame::Error };
                    port.send(&frame(self.number, bytes))?;
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    /// A host with an agent in another thread.
    struct Host {
        port: UnixStream,
        decoder: Decoder,
        arrived: VecDeque<Frame>,
    }

    impl Host {
        fn new() -> Self {
            let (port, theirs) = UnixStream::pair().unwrap();
            port.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
            // It ends when the host's end is closed.
            std::thread::spawn(|| serve(File::from(OwnedFd::from(theirs))));
            let mut host = Self { port, decoder: Decoder::default(), arrived: VecDeque::new() };
            assert!(matches!(host.next(), Frame::Hello { .. }));
            host
        }

        fn next(&mut self) -> Frame {
            loop {
                if let Some(frame) = self.arrived.pop_front() {
                    return frame;
                }
                let mut buffer = [0; 4096];
                let count = io::Read::read(&mut self.port, &mut buffer).expect("the agent answers");
                assert!(count > 0, "the agent has ended");
                self.arrived.extend(self.decoder.push(&buffer[..count]));
            }
        }

        fn send(&mut self, frame: &Frame) {
            self.port.write_all(&frame.encode()).unwrap();
        }

        fn start(&mut self, call: u32, words: &[&str]) {
            self.send(&Frame::Run(call, words.iter().map(|word| (*word).to_owned()).collect()));
        }

        /// Output, errors and status of a call.
        fn end(&mut self, call: u32) -> (Vec<u8>, Vec<u8>, u8) {
            let (mut output, mut errors) = (Vec::new(), Vec::new());
            loop {
                match self.next() {
                    Frame::Output(number, bytes) if number == call => output.extend(bytes),
                    Frame::Error(number, bytes) if number == call => errors.extend(bytes),
                    Frame::Exit(number, status) if number == call => return (output, errors, status),
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[test]
    fn output_errors_and_status_come_back_apart() {
        let mut host = Host::new();
        host.start(1, &["sh", "-c", "echo out; echo err >&2; exit 7"]);
        assert_eq!(host.end(1), (b"out\n".to_vec(), b"err\n".to_vec(), 7));
        host.start(2, &["sh", "-c", "kill -9 $$"]);
        assert_eq!(host.end(2).2, 137);
        host.start(3, &["/nonexistent"]);
        assert_eq!(host.end(3).2, NOT_STARTED);
    }

    #[test]
    fn much_input_goes_through_a_program_that_writes_it_back() {
        let mut host = Host::new();
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|number| number.to_le_bytes()[1]).collect();
        host.start(1, &["cat"]);
        let mut writer = host.port.try_clone().unwrap();
        let input = bytes.clone();
        let sender = std::thread::spawn(move || {
            for piece in input.chunks(CHUNK) {
                writer.write_all(&Frame::Input(1, piece.to_vec()).encode()).unwrap();
            }
            writer.write_all(&Frame::InputEnd(1).encode()).unwrap();
        });
        let (output, _, status) = host.end(1);
        sender.join().unwrap();
        assert!(output == bytes, "{} bytes came back", output.len());
        assert_eq!(status, 0);
        // A program that takes no input.
        host.start(2, &["true"]);
        host.send(&Frame::Input(2, vec![0; CHUNK]));
        assert_eq!(host.end(2).2, 0);
        host.start(3, &["echo", "still here"]);
        assert_eq!(host.end(3).0, b"still here\n");
    }

    #[test]
    fn a_program_is_killed_with_its_children_and_the_background_is_not_waited_for() {
        let mut host = Host::new();
        host.start(1, &["sh", "-c", "echo started; sleep 1000; echo never"]);
        assert_eq!(host.next(), Frame::Output(1, b"started\n".to_vec()));
        host.send(&Frame::Kill(1));
        assert_eq!(host.end(1), (Vec::new(), Vec::new(), 137));
        host.start(2, &["sh", "-c", "sleep 1000 & echo $!"]);
        let (output, _, status) = host.end(2);
        assert_eq!(status, 0);
        host.start(3, &["kill", String::from_utf8_lossy(&output).trim()]);
        assert_eq!(host.end(3).2, 0);
    }
}
