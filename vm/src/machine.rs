// SPDX-License-Identifier: MIT OR Apache-2.0
//! One boot of one kernel in QEMU, by KVM or in software emulation.
//!
//! [`Machine::boot`] returns the guest's report and how the boot ended. The console (first serial port) goes into
//! a file. The second port is QEMU's standard output and carries the [`protocol`](crate::protocol). The guest ends
//! hung tests itself; the host only steps in if the guest is silent for longer than that takes. QEMU has always
//! ended when this returns. [`Machine::session`] boots for a shell instead of tests.

pub(crate) mod session;

pub use session::Ending;

use crate::accel::Accel;
use crate::error::file;
use crate::initramfs::{self, Contents};
use crate::kernels::{self, Kernel};
use crate::protocol::{Line, Outcome, Plan};
use crate::{Error, Result, arch, command, sys};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Longest silence from QEMU's start to init's first line, and from one report of init to the next.
const QUIET: Duration = Duration::from_mins(2);
/// Time between two checks.
pub(crate) const SLICE: Duration = Duration::from_secs(1);
/// Divisor for time in which QEMU works, or waits for a processor: the host may be slow.
pub(crate) const STRETCH: u32 = 5;

/// A machine to boot.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The kernel.
    pub kernel: Kernel,
    /// Virtual processors.
    pub smp: u32,
    /// Memory, as QEMU writes it.
    pub memory: String,
    /// GiB of an empty virtio disk, created for each boot and removed after it.
    pub disk_gib: Option<u32>,
    /// What executes the guest; always software if instructions are counted.
    pub accel: Accel,
    /// Count instructions: the guest's clock advances by 1 ns per instruction. For benchmarks.
    pub icount: bool,
    /// More kernel arguments.
    pub append: Vec<String>,
    /// Folder for console log and initramfs.
    pub folder: PathBuf,
}

/// One test's result.
#[derive(Clone, Debug)]
pub struct TestResult {
    /// The test.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took, in the guest's seconds.
    pub seconds: f64,
}

/// Report of one boot.
#[derive(Debug)]
pub struct Boot {
    /// Results, in the order in which the tests ended.
    pub results: Vec<TestResult>,
    /// Data lines.
    pub data: Vec<String>,
    /// Host time from QEMU's start to init's first line.
    pub boot_time: Option<Duration>,
    /// `Ok` if the guest sent a verdict and powered off.
    pub ending: Result<()>,
}

/// QEMU, until it is dropped.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if QEMU has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A disk's file: sparse, and removed after the boot.
struct Disk(PathBuf);

impl Disk {
    fn make(path: PathBuf, gib: u32) -> Result<Self> {
        let folder = path.parent().unwrap_or(&path);
        kernels::require_free(folder, u64::from(gib) << 10)?;
        let made = File::create(&path).and_then(|file| file.set_len(u64::from(gib) << 30));
        made.map_err(file("create", &path))?;
        Ok(Self(path))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // If this fails, the next run empties the folder.
        let _ = fs::remove_file(&self.0);
    }
}

impl Machine {
    /// Boots and runs the plan's tests. `number` distinguishes the logs of several boots.
    pub fn boot(
        &self,
        contents: &Contents,
        plan: &Plan,
        number: usize,
        on_line: &mut dyn FnMut(&Line),
    ) -> Result<Boot> {
        fs::create_dir_all(&self.folder).map_err(file("create", &self.folder))?;
        let suffix = if number == 0 { String::new() } else { format!("-{number}") };
        let console = self.folder.join(format!("console{suffix}.log"));
        let errors = self.folder.join(format!("qemu{suffix}.log"));
        let initramfs = self.folder.join(format!("initramfs{suffix}.cpio"));
        initramfs::write(&initramfs, &self.kernel, contents, plan)?;
        let arch::Machine { qemu, package, .. } = self.kernel.name.architecture().machine;
        let mut command = self.command(&console, &initramfs);
        let disk = self
            .disk_gib
            .map(|gib| Disk::make(self.folder.join(format!("disk{suffix}.img")), gib))
            .transpose()?;
        if let Some(disk) = &disk {
            // The host need not make the guest's flushes durable.
            command.arg("-drive");
            command.arg(format!("file={},format=raw,if=none,id=disk,cache=unsafe", disk.0.display()));
            command.args(["-device", "virtio-blk-pci,drive=disk"]);
        }
        let errors_file = File::create(&errors).map_err(file("create", &errors))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors_file);
        let started = Instant::now();
        let mut child = match command.spawn() {
            Ok(child) => Running(child),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(Error::MissingProgram { program: qemu.into(), package: package.into() });
            }
            Err(error) => return Err(file("start", Path::new(qemu))(error)),
        };
        let lines = child.0.stdout.take().map(listen);
        let mut watch = Watch::new(started, plan.slowness);
        let mut meter = Meter::new(child.0.id());
        let silent = lines.is_none_or(|lines| watch.follow(&lines, &mut || meter.worked(), on_line));
        if silent {
            let _ = child.0.kill();
        }
        let status = child.0.wait().map_err(file("wait for", Path::new(qemu)))?;
        let _ = fs::remove_file(&initramfs);
        let ending = if silent {
            let reason = watch.silence();
            Err(Error::Guest { reason, during: watch.during.clone(), console })
        } else if !status.success() {
            let output = command::tail(&fs::read_to_string(&errors).unwrap_or_default());
            Err(Error::Qemu { status: status.to_string(), output })
        } else if let Some(reason) = death(&console) {
            Err(Error::Guest { reason, during: watch.during.clone(), console })
        } else if watch.verdict {
            Ok(())
        } else {
            Err(Error::NoVerdict { during: watch.during.clone(), console })
        };
        Ok(Boot { results: watch.results, data: watch.data, boot_time: watch.boot_time, ending })
    }

    fn command(&self, console: &Path, initramfs: &Path) -> Command {
        let mut command = Command::new(self.kernel.name.architecture().machine.qemu);
        if self.icount {
            command.args(["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"]);
        } else if self.accel == Accel::Kvm {
            command.args(["-accel", "kvm"]);
        } else {
            command.args(["-accel", "tcg,thread=multi"]);
        }
        // A slow host must not make the kernel report stalls; a real stall lasts longer.
        let arch::Machine { console: port, append, .. } = self.kernel.name.architecture().machine;
        let mut append = format!(
            "console={port} panic=-1 oops=panic quiet loglevel=4 rcupdate.rcu_cpu_stall_timeout=60 \
             watchdog_thresh=30 random.trust_cpu=on {append}"
        );
        append.extend(counter_speed(self.icount, &self.accel));
        for argument in &self.append {
            append.push(' ');
            append.push_str(argument);
        }
        // QEMU executes fast string instructions byte by byte and counts every byte, whereas real machines move
        // cache lines. Without these instructions the kernel and the C library copy words. Tests that want a disk
        // move gigabytes.
        let words = self.icount || self.disk_gib.is_some();
        let mut processor = if words { "max,-erms,-fsrm" } else { "max" }.to_owned();
        // If an interrupt follows CMPXCHG16B while QEMU 7.2 counts instructions, QEMU uses the compared value
        // (RAX) as the flags. The kernel's allocator uses that instruction, and dies of a double fault.
        if self.icount {
            processor.push_str(",-cx16");
        }
        command
            .args(["-cpu", &processor, "-smp", &self.smp.to_string(), "-m", &self.memory])
            .args(self.kernel.name.architecture().machine.arguments)
            .args(["-display", "none", "-monitor", "none", "-nodefaults", "-no-reboot"])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .args(["-serial", "stdio"])
            .arg("-kernel")
            .arg(&self.kernel.vmlinuz)
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", &append]);
        command
    }
}

/// The guest reads the host's time stamp counter. On a busy host the guest's kernel would measure the counter's speed
/// wrongly, so its command line has the speed. Counted instructions are a clock of their own, and KVM tells the guest.
pub(crate) fn counter_speed(icount: bool, accel: &Accel) -> Option<String> {
    let khz = if icount || *accel == Accel::Kvm { None } else { sys::tsc_khz() };
    khz.map(|khz| format!(" tsc_early_khz={khz}"))
}

/// The guest's report so far.
struct Watch {
    started: Instant,
    slowness: u32,
    patience: Duration,
    during: Option<String>,
    /// The last reported step.
    step: String,
    results: Vec<TestResult>,
    data: Vec<String>,
    boot_time: Option<Duration>,
    /// The status of a session's work.
    exit: Option<u8>,
    verdict: bool,
    session: bool,
}

impl Watch {
    fn new(started: Instant, slowness: u32) -> Self {
        Self {
            started,
            slowness: slowness.max(1),
            patience: QUIET * slowness.max(1),
            during: None,
            step: String::new(),
            results: Vec::new(),
            data: Vec::new(),
            boot_time: None,
            exit: None,
            verdict: false,
            session: false,
        }
    }

    /// Reads lines until the guest closes its port. Returns true if the guest was silent for too long. Time in which
    /// the machine worked, according to `worked`, counts less.
    fn follow(
        &mut self,
        lines: &Receiver<String>,
        worked: &mut dyn FnMut() -> bool,
        on_line: &mut dyn FnMut(&Line),
    ) -> bool {
        let (mut spent, mut seen) = (Duration::ZERO, Instant::now());
        loop {
            let slice = SLICE.min(self.patience);
            match lines.recv_timeout(slice) {
                Ok(text) => {
                    if let Some(line) = Line::parse(&text) {
                        self.take(&line);
                        on_line(&line);
                        // A test's own output does not extend its time limit.
                        if !matches!(line, Line::Say(_) | Line::Data(_)) {
                            (spent, seen) = (Duration::ZERO, Instant::now());
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
            let passed = seen.elapsed();
            if passed >= slice {
                spent += if worked() { passed / STRETCH } else { passed };
                seen += passed;
            }
            if spent >= self.patience {
                return true;
            }
        }
    }

    /// Why a silent guest was given up.
    fn silence(&self) -> String {
        let step =
            if self.step.is_empty() { String::new() } else { format!(" since the step \"{}\"", self.step) };
        format!("nothing was heard{step}: the limit of {} s is spent", self.patience.as_secs())
    }

    fn take(&mut self, line: &Line) {
        let quiet = QUIET * self.slowness;
        match line {
            Line::Hello(_) => {
                self.boot_time = Some(self.started.elapsed());
                if self.session {
                    self.patience = Duration::MAX;
                }
            }
            Line::Start(name, seconds) => {
                self.during = Some(name.clone());
                self.step.clear();
                self.patience = quiet + Duration::from_secs(*seconds);
            }
            Line::Test(name, outcome, seconds) => {
                self.during = None;
                self.patience = quiet;
                let (name, outcome, seconds) = (name.clone(), outcome.clone(), *seconds);
                self.results.push(TestResult { name, outcome, seconds });
            }
            Line::Going(_, _, step) => {
                step.clone_into(&mut self.step);
                // Init watches the test.
                self.patience = quiet;
            }
            Line::Say(_) => {}
            Line::Data(text) => self.data.push(text.clone()),
            Line::Exit(status) => {
                self.exit = Some(*status);
                self.patience = quiet;
            }
            Line::Verdict { .. } => self.verdict = true,
        }
    }
}

/// The time that QEMU has used the host's processors, or waited for them.
pub(crate) struct Meter {
    pid: u32,
    seen: Instant,
    used: Duration,
}

impl Meter {
    pub(crate) fn new(pid: u32) -> Self {
        Self { pid, seen: Instant::now(), used: Self::used(pid) }
    }

    fn used(pid: u32) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        // "RUNNING WAITING SLICES", in nanoseconds. If the kernel does not count them, QEMU counts as idle.
        let texts = tasks.filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok());
        let sums = texts.map(|text| {
            text.split_whitespace().take(2).filter_map(|word| word.parse::<u64>().ok()).sum::<u64>()
        });
        Duration::from_nanos(sums.sum())
    }

    /// Whether QEMU has worked for at least a quarter of the time since the last call.
    pub(crate) fn worked(&mut self) -> bool {
        let (passed, used) = (self.seen.elapsed(), Self::used(self.pid));
        let worked = used.saturating_sub(self.used) * 4 >= passed;
        self.seen += passed;
        self.used = used;
        worked
    }
}

fn listen(stdout: std::process::ChildStdout) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) {
            if sender.send(String::from_utf8_lossy(&bytes).into_owned()).is_err() {
                return;
            }
            bytes.clear();
        }
    });
    receiver
}

/// The kernel's message of death, if any.
pub(crate) fn death(console: &Path) -> Option<String> {
    let bytes = fs::read(console).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let mut recent = VecDeque::new();
    for line in text.lines() {
        if line.contains("Kernel panic - not syncing") {
            let before: Vec<&str> = recent.into_iter().collect();
            return Some([before.join("\n").as_str(), line].join("\n").trim().to_owned());
        }
        if ["BUG:", "Oops:", "RIP: 0010:"].iter().any(|mark| line.contains(mark)) {
            recent.push_back(line);
            if recent.len() > 3 {
                recent.pop_front();
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emulated_guest_is_told_the_speed_of_the_counter() {
        let emulated = Accel::Tcg("a test".to_owned());
        assert_eq!(counter_speed(true, &emulated), None);
        assert_eq!(counter_speed(false, &Accel::Kvm), None);
        assert_eq!(counter_speed(false, &emulated).is_some(), cfg!(target_arch = "x86_64"));
    }

    #[test]
    fn silence_is_noticed_and_words_of_a_test_do_not_break_it() {
        let (sender, receiver) = mpsc::channel();
        let mut watch = Watch::new(Instant::now(), 1);
        sender.send(Line::Start("a".into(), 0).to_string()).unwrap();
        sender.send(Line::Data("x".into()).to_string()).unwrap();
        drop(sender);
        assert!(!watch.follow(&receiver, &mut || false, &mut |_| ()), "the guest has closed its port");
        assert_eq!((watch.during.as_deref(), watch.patience), (Some("a"), QUIET));
        let (sender, receiver) = mpsc::channel();
        watch.patience = Duration::from_millis(10);
        sender.send(Line::Say("still here".into()).to_string()).unwrap();
        assert!(watch.follow(&receiver, &mut || false, &mut |_| ()), "the guest is silent");
        drop(sender);
    }

    #[test]
    fn a_machine_that_works_is_given_more_time_but_not_for_ever() {
        let (sender, receiver) = mpsc::channel::<String>();
        let mut watch = Watch::new(Instant::now(), 1);
        watch.patience = Duration::from_millis(20);
        let start = Instant::now();
        assert!(watch.follow(&receiver, &mut || true, &mut |_| ()));
        assert!(start.elapsed() >= watch.patience * STRETCH, "{:?}", start.elapsed());
        drop(sender);
    }

    #[test]
    fn the_last_step_is_named_and_tests_that_go_on_prolong_their_time() {
        let (sender, receiver) = mpsc::channel();
        let mut watch = Watch::new(Instant::now(), 1);
        for line in [Line::Start("a".into(), 240), Line::Going("a".into(), 300, "compare".into())] {
            sender.send(line.to_string()).unwrap();
        }
        drop(sender);
        assert!(!watch.follow(&receiver, &mut || false, &mut |_| ()));
        assert_eq!(watch.patience, QUIET);
        assert!(watch.silence().contains("since the step \"compare\""), "{}", watch.silence());
        watch.take(&Line::Start("b".into(), 1));
        assert!(!watch.silence().contains("compare"), "{}", watch.silence());
    }

    #[test]
    fn a_process_that_computes_works_and_one_that_sleeps_does_not() {
        let run = |program: &str, argument: &str| {
            let silent = Command::new(program).arg(argument).stdout(Stdio::null()).spawn();
            Running(silent.unwrap())
        };
        let (busy, idle) = (run("yes", "x"), run("sleep", "60"));
        let (mut busy, mut idle) = (Meter::new(busy.0.id()), Meter::new(idle.0.id()));
        idle.worked();
        std::thread::sleep(Duration::from_millis(200));
        assert!(busy.worked() && !idle.worked());
    }

    #[test]
    fn the_cause_of_a_panic_is_found() {
        let folder = std::env::temp_dir().join(format!("zosbd2-vm-machine-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let console = folder.join("console.log");
        let log = "[1] fine\n[2] BUG: unable to handle page fault\n[3] RIP: 0010:f+0x1\n\
                   [4] Kernel panic - not syncing: Fatal exception\n[5] more\n";
        fs::write(&console, log).unwrap();
        let reason = death(&console).unwrap();
        assert!(reason.starts_with("[2] BUG") && reason.ends_with("Fatal exception"), "{reason}");
        fs::write(&console, "[1] reboot: Power down\n").unwrap();
        assert_eq!(death(&console), None);
        fs::remove_dir_all(&folder).unwrap();
    }
}
