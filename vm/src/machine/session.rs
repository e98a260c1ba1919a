// SPDX-License-Identifier: MIT OR Apache-2.0
//! A boot for a [session](crate::session): its terminal is the third serial port, which is joined with a person's
//! terminal, or whose output goes to a writer.
//!
//! If a person types, the person's terminal is in raw mode, so that every key but one reaches the guest. `Ctrl-a` then `x`
//! ends the machine at once; `Ctrl-a` twice is one `Ctrl-a` for the guest.

use super::{Machine, Meter, Running, Watch, death, listen};
use crate::error::file;
use crate::initramfs::{self, Contents};
use crate::protocol::{Line, Plan};
use crate::session::{FILE, Session, Size};
use crate::{Error, Result, arch, command};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{ChildStdin, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// The key that begins a command for the machine.
const ESCAPE: u8 = 1;
/// The key after it that ends the machine.
const QUIT: u8 = b'x';
/// Time between two looks at the size of the person's terminal.
const PERIOD: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };

/// How a session ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ending {
    /// The work ended with this status, as a shell counts it, and the guest powered off.
    Exit(u8),
    /// A person has ended the machine.
    Quit,
}

/// What the person types, byte by byte.
#[derive(Debug, Default)]
struct Keys {
    escaped: bool,
}

impl Keys {
    /// The bytes for the guest, and whether the machine is to be ended.
    fn take(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut bytes = Vec::with_capacity(typed.len());
        for byte in typed {
            match (self.escaped, *byte) {
                (true, QUIT) => return (bytes, true),
                (false, ESCAPE) => self.escaped = true,
                (_, byte) => {
                    self.escaped = false;
                    bytes.push(byte);
                }
            }
        }
        (bytes, false)
    }
}

/// The person's terminal in raw mode, until it is dropped.
struct Raw(Termios);

impl Raw {
    fn new() -> std::io::Result<Self> {
        let before = tcgetattr(std::io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Drain, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, &self.0);
    }
}

impl Machine {
    /// Boots and runs the session to its end. Its terminal's output goes to `output`, and `share` is an image for the guest.
    pub fn session(
        &self,
        contents: &Contents,
        plan: &Plan,
        session: &Session,
        share: Option<&Path>,
        output: &mut (dyn Write + Send),
        on_line: &mut dyn FnMut(&Line),
    ) -> Result<Ending> {
        fs::create_dir_all(&self.folder).map_err(file("create", &self.folder))?;
        let own = |name: &str| self.folder.join(name);
        let (console, errors, initramfs) = (own("console.log"), own("qemu.log"), own("initramfs.cpio"));
        let description = own("session");
        fs::write(&description, session.write()).map_err(file("write", &description))?;
        let mut contents = contents.clone();
        contents.files.push((FILE.to_owned(), description));
        initramfs::write(&initramfs, &self.kernel, &contents, plan)?;

        let (ours, theirs) = UnixStream::pair().map_err(file("create", Path::new("a socket")))?;
        let arch::Machine { qemu, package, .. } = self.kernel.name.architecture().machine;
        let mut command = self.command(&console, &initramfs);
        command.arg("-chardev").arg(format!("socket,id=terminal,fd={}", theirs.as_raw_fd()));
        command.args(["-serial", "chardev:terminal"]);
        if let Some(image) = share {
            command.arg("-drive").arg(format!("file={},format=raw,if=none,id=share", image.display()));
            command.args(["-device", "virtio-blk-pci,drive=share"]);
        }
        let errors_file = File::create(&errors).map_err(file("create", &errors))?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors_file);
        // QEMU gets the descriptor under the same number.
        fcntl_setfd(&theirs, FdFlags::empty())
            .map_err(|error| file("pass on", Path::new("a socket"))(error.into()))?;
        let started = Instant::now();
        let mut child = match command.spawn() {
            Ok(child) => Running(child),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(Error::MissingProgram { program: qemu.into(), package: package.into() });
            }
            Err(error) => return Err(file("start", Path::new(qemu))(error)),
        };
        drop(theirs);
        let sizes = child.0.stdin.take();
        let lines = child.0.stdout.take().map(listen);
        let mut watch = Watch::new(started, plan.slowness);
        // A session may last as long as it likes.
        watch.session = true;
        let mut meter = Meter::new(child.0.id());
        let [ended, quit, greeted] = [const { AtomicBool::new(false) }; 3];
        let pid = rustix::process::Pid::from_child(&child.0);
        let silent = std::thread::scope(|scope| {
            let reader = ours.try_clone();
            scope.spawn(|| {
                if let Ok(reader) = reader {
                    copy(reader, output);
                }
            });
            if session.typed {
                scope.spawn(|| {
                    if type_in(&ours, sizes, &greeted, &ended) {
                        quit.store(true, Ordering::Relaxed);
                        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                    }
                });
            }
            let mut each = |line: &Line| {
                if matches!(line, Line::Hello(_)) {
                    greeted.store(true, Ordering::Relaxed);
                }
                on_line(line);
            };
            let silent = lines.is_none_or(|lines| watch.follow(&lines, &mut || meter.worked(), &mut each));
            if silent {
                let _ = child.0.kill();
            }
            let waited = child.0.wait();
            ended.store(true, Ordering::Relaxed);
            waited.map(|status| (silent, status))
        });
        let (silent, status) = silent.map_err(file("wait for", Path::new(qemu)))?;
        let _ = fs::remove_file(&initramfs);
        if quit.load(Ordering::Relaxed) {
            Ok(Ending::Quit)
        } else if silent {
            Err(Error::Guest { reason: watch.silence(), during: None, console })
        } else if !status.success() {
            let output = command::tail(&fs::read_to_string(&errors).unwrap_or_default());
            Err(Error::Qemu { status: status.to_string(), output })
        } else if let Some(reason) = death(&console) {
            Err(Error::Guest { reason, during: None, console })
        } else {
            watch.exit.map(Ending::Exit).ok_or(Error::NoVerdict { during: None, console })
        }
    }
}

/// Copies what the guest prints, until the machine has ended.
pub(crate) fn copy(mut from: UnixStream, to: &mut (dyn Write + Send)) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let bytes = buffer.get(..count).unwrap_or_default();
        if to.write_all(bytes).and_then(|()| to.flush()).is_err() {
            // Nobody reads it any more; the guest must not wait.
            let _ = std::io::copy(&mut from, &mut std::io::sink());
        }
    }
}

/// Passes on what the person types, and the size of the terminal, once the guest has greeted. Returns true if the person
/// ends the machine.
pub(crate) fn type_in(
    mut to: &UnixStream,
    mut sizes: Option<ChildStdin>,
    greeted: &AtomicBool,
    ended: &AtomicBool,
) -> bool {
    let Ok(_raw) = Raw::new() else { return false };
    let (mut keys, mut told) = (Keys::default(), None);
    let mut buffer = [0; 1024];
    while !ended.load(Ordering::Relaxed) {
        if greeted.load(Ordering::Relaxed)
            && let (Ok(size), Some(port)) = (tcgetwinsize(std::io::stdin()), &mut sizes)
        {
            let size = Size { rows: size.ws_row, columns: size.ws_col };
            if told != Some(size) && size.rows > 0 && writeln!(port, "{size}").is_ok() {
                told = Some(size);
            }
        }
        let stdin = std::io::stdin();
        if !matches!(poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&PERIOD)), Ok(1)) {
            continue;
        }
        // Without the buffer of the standard library, which could hold bytes back.
        let count = match rustix::io::read(&stdin, &mut buffer) {
            Ok(0) => return true,
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return true,
        };
        let (bytes, quit) = keys.take(buffer.get(..count).unwrap_or_default());
        if quit {
            return true;
        }
        if to.write_all(&bytes).is_err() {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_is_for_the_machine() {
        let mut keys = Keys::default();
        assert_eq!(keys.take(b"ls\r\x03"), (b"ls\r\x03".to_vec(), false));
        assert_eq!(keys.take(b"a\x01"), (b"a".to_vec(), false));
        assert_eq!(keys.take(b"\x01b"), (b"\x01b".to_vec(), false));
        assert_eq!(keys.take(b"\x01cx"), (b"cx".to_vec(), false));
        assert_eq!(keys.take(b"d\x01x never"), (b"d".to_vec(), true));
    }
}
