// SPDX-License-Identifier: MIT OR Apache-2.0
//! Determines whether this machine's `/dev/kvm` can run the guest.
//!
//! It is not enough that the device exists and that QEMU can open it: in some containers a stock kernel hangs
//! or dies with it. So the kernel is booted without a root file system. After its own initialisation it
//! panics with a known message. Only that message is a success. The trial ends within its limit, and QEMU
//! with it.

use crate::arch;
use std::fmt;
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Longest time of a trial. With KVM a stock kernel needs about a second.
pub const LIMIT: Duration = Duration::from_secs(10);

/// The device, and the panic of a kernel without a root file system.
const DEVICE: &str = "/dev/kvm";
const END: &str = "Kernel panic - not syncing: VFS: Unable to mount root fs";

/// What executes the guest's instructions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accel {
    /// The processor, through `/dev/kvm`.
    Kvm,
    /// QEMU itself, with the reason.
    Tcg(String),
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kvm => f.write_str("virtual machines use KVM"),
            Self::Tcg(why) => write!(f, "virtual machines are emulated in software: {why}"),
        }
    }
}

impl Accel {
    /// Tries `/dev/kvm` with this kernel.
    #[must_use]
    pub fn find(kernel: &Path) -> Self {
        decide(Path::new(arch::host().machine.qemu), Path::new(DEVICE), kernel, LIMIT)
    }
}

fn decide(qemu: &Path, device: &Path, kernel: &Path, limit: Duration) -> Accel {
    if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open(device) {
        return Accel::Tcg(format!("{}: {error}", device.display()));
    }
    match attempt(qemu, kernel, limit) {
        Ok(()) => Accel::Kvm,
        Err(why) => Accel::Tcg(format!("{} does not run the guest: {why}", device.display())),
    }
}

struct Trial(Child);

impl Drop for Trial {
    fn drop(&mut self) {
        // Both fail only if QEMU has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots the kernel. An error says why the trial failed.
fn attempt(qemu: &Path, kernel: &Path, limit: Duration) -> Result<(), String> {
    let start = Instant::now();
    let arch::Machine { console: port, append, .. } = arch::host().machine;
    let mut command = Command::new(qemu);
    command
        .args(["-accel", "kvm", "-cpu", "max", "-smp", "2", "-m", "512M"])
        .args(["-display", "none", "-monitor", "none", "-nodefaults", "-no-reboot", "-serial", "stdio"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-append")
        .arg(format!("console={port} earlyprintk={port} panic=-1 {append}"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut trial = Trial(command.spawn().map_err(|error| format!("{}: {error}", qemu.display()))?);
    let stdout = trial.0.stdout.take();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        let Some(mut stdout) = stdout else { return };
        while let Ok(count @ 1..) = stdout.read(&mut buffer) {
            if sender.send(buffer.get(..count).unwrap_or_default().to_vec()).is_err() {
                return;
            }
        }
    });
    let mut console = Vec::new();
    loop {
        let left = limit.saturating_sub(start.elapsed());
        match receiver.recv_timeout(left) {
            Ok(bytes) => console.extend(bytes),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let last = last_line(&console).map_or("nothing".to_owned(), |line| format!("{line:?}"));
                return Err(format!("after {limit:?} the kernel had said {last}"));
            }
            // QEMU has ended, or has closed its output.
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
        if String::from_utf8_lossy(&console).contains(END) {
            return Ok(());
        }
    }
    let _ = trial.0.kill();
    let mut errors = Vec::new();
    if let Some(mut stderr) = trial.0.stderr.take() {
        let _ = stderr.read_to_end(&mut errors);
    }
    // QEMU's first complaint is the cause.
    let errors = String::from_utf8_lossy(&errors);
    let cause = errors.lines().find(|line| !line.contains("warning:")).map(str::to_owned);
    let cause = cause.or_else(|| last_line(&console)).unwrap_or_else(|| "nothing".to_owned());
    Err(format!("QEMU ended, and said {cause:?}"))
}

fn last_line(console: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(console);
    text.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    /// A program in place of QEMU, and an existing device.
    fn fake(name: &str, script: &str) -> (PathBuf, PathBuf) {
        let folder = std::env::temp_dir().join(format!("zosbd2-vm-accel-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (program, device) = (folder.join("qemu"), folder.join("kvm"));
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(&device, "").unwrap();
        (program, device)
    }

    fn decision(name: &str, script: &str, limit: Duration) -> Accel {
        let (program, device) = fake(name, script);
        // Another test that is being started may still hold this file open for writing.
        let accel = loop {
            match decide(&program, &device, Path::new("vmlinuz"), limit) {
                Accel::Tcg(why) if why.contains("Text file busy") => {}
                accel => break accel,
            }
        };
        fs::remove_dir_all(program.parent().unwrap()).unwrap();
        accel
    }

    fn why(accel: Accel) -> String {
        match accel {
            Accel::Tcg(why) => why,
            Accel::Kvm => panic!("KVM was chosen"),
        }
    }

    #[test]
    fn a_kernel_that_comes_to_its_end_works_whatever_qemu_does_then() {
        let script = format!(
            "case \"$*\" in *'-accel kvm'*'-kernel vmlinuz'*) ;; *) exit 3;; esac\n\
             echo 'Linux version 6.12'; echo '[    0.9] {END} on unknown-block(0,0)'; exec sleep 600"
        );
        assert_eq!(decision("works", &script, Duration::from_mins(1)), Accel::Kvm);
    }

    #[test]
    fn a_kernel_that_hangs_is_given_up_and_qemu_is_gone() {
        let script = "echo $$; exec sleep 600";
        let why = why(decision("hangs", script, Duration::from_secs(2)));
        let pid = why.strip_suffix('"').and_then(|start| start.rsplit_once('"')).map(|(_, pid)| pid);
        let pid: u32 = pid.and_then(|pid| pid.parse().ok()).unwrap_or_else(|| panic!("{why}"));
        assert!(why.contains("after 2s the kernel had said"), "{why}");
        assert!(!Path::new("/proc").join(pid.to_string()).exists(), "QEMU still runs");
    }

    #[test]
    fn a_kernel_that_never_says_a_word_is_given_up() {
        let why = why(decision("silent", "exec sleep 600", Duration::from_millis(200)));
        assert!(why.contains("the kernel had said nothing"), "{why}");
    }

    #[test]
    fn a_qemu_that_ends_before_is_no_success() {
        let limit = Duration::from_mins(1);
        let refused = why(decision("refuses", "echo 'failed to initialize kvm' >&2; exit 1", limit));
        assert!(refused.contains("QEMU ended, and said \"failed to initialize kvm\""), "{refused}");
        let died =
            why(decision("dies", "echo 'Linux version 6.12'; echo 'Kernel panic - not syncing: x'", limit));
        assert!(died.contains("and said \"Kernel panic - not syncing: x\""), "{died}");
    }

    #[test]
    fn without_the_device_nothing_is_tried() {
        let limit = Duration::from_mins(1);
        let accel = decide(Path::new("/nonexistent"), Path::new("/nonexistent/kvm"), Path::new("k"), limit);
        assert!(why(accel).starts_with("/nonexistent/kvm: "));
    }
}
