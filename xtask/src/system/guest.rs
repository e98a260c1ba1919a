// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a step does with the system: commands, files, waits, reboots.
//!
//! A script is run by `bash -euo pipefail`. It fails the step unless it ends as the step says. A script that waits for
//! something outside must not sleep: [`Guest::until`] tries again until a script succeeds. What is to go on in the background
//! is a unit (`systemd-run`): other processes are killed by nobody.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use zosbd2_vm::system::{Call, Output, Setup, System};

/// Time without progress after which a condition is given up, and in which nothing else is heard from a command.
pub(super) const LIMIT: Duration = Duration::from_mins(2);
/// Likewise, for compilers and installers, which are slow in an emulated processor and say little.
pub(super) const LONG: Duration = Duration::from_mins(5);
/// Lines of the journal, and of the console, that are printed when a step fails.
const TAIL: usize = 40;

/// The system under test.
pub(super) struct Guest {
    setup: Setup,
    system: Option<System>,
    /// Packages under test.
    pub(super) debs: Vec<PathBuf>,
    /// Whether the packages under test were installed before the first boot.
    pub(super) installed: bool,
    /// Where the packages under test are, in the system.
    pub(super) folder: &'static str,
}

impl Guest {
    pub(super) fn new(setup: Setup, debs: Vec<PathBuf>, installed: bool) -> Self {
        Self { setup, system: None, debs, installed, folder: "/root/debs" }
    }

    /// The system, which is started if it does not run.
    pub(super) fn system(&mut self) -> Result<&mut System> {
        if self.system.as_mut().is_none_or(|system| !system.is_alive()) {
            self.start()?;
        }
        self.system.as_mut().context("the system does not run")
    }

    /// Starts QEMU, on the disks as they are, and waits for the end of the boot.
    pub(super) fn start(&mut self) -> Result<()> {
        // The old machine must have closed the disks.
        self.system = None;
        self.system = Some(System::start(&self.setup)?);
        self.booted("cold start")
    }

    /// Reboots in the same machine, as a person would.
    pub(super) fn reboot(&mut self) -> Result<()> {
        self.request("reboot", &["systemctl", "reboot"])
    }

    /// Resets the machine at once: what is not on a disk is lost.
    pub(super) fn reset(&mut self) -> Result<()> {
        self.request("reset", &["sh", "-c", "echo 1 > /proc/sys/kernel/sysrq; echo b > /proc/sysrq-trigger"])
    }

    /// Switches the system off.
    pub(super) fn power_off(&mut self) -> Result<Duration> {
        let system = self.system()?;
        system.request(&["systemctl", "poweroff"])?;
        let time = system.wait_for_end()?;
        println!("system:   switched off in {:.1} s", time.as_secs_f64());
        Ok(time)
    }

    fn request(&mut self, what: &str, words: &[&str]) -> Result<()> {
        self.system()?.request(words)?;
        self.booted(what)
    }

    fn booted(&mut self, what: &str) -> Result<()> {
        let system = self.system.as_mut().context("the system does not run")?;
        let boot = system.wait_for_boot()?;
        let release = boot.release.clone();
        // It fails if some unit has failed, which is a matter of the step. Early in the boot it fails, too.
        let mut call = Call::new(&["systemctl", "is-system-running", "--wait"]);
        call.quiet = Some(LONG);
        let done =
            |output: &Output| ["running", "degraded", "maintenance"].contains(&text(&output.stdout).trim());
        system.until("the end of the boot", LONG, &call, done)?;
        let whole = system.since_request().as_secs_f64();
        println!(
            "system:   {what}: {whole:.1} s, {:.1} s of it to the agent; {release}",
            boot.time.as_secs_f64()
        );
        Ok(())
    }

    /// Runs a script, and returns its standard output without the end of the last line.
    pub(super) fn sh(&mut self, script: &str) -> Result<String> {
        self.sh_within(LIMIT, script)
    }

    /// Like [`sh`](Self::sh), for a script that may be silent for longer.
    pub(super) fn sh_within(&mut self, quiet: Duration, script: &str) -> Result<String> {
        let output = self.run(quiet, script)?;
        ensure!(output.status == 0, "{}", ending(script, &output));
        Ok(text(&output.stdout).trim_end().to_owned())
    }

    /// Runs a script that must end with this status, and returns all that it said.
    pub(super) fn fails(&mut self, status: u8, script: &str) -> Result<String> {
        let output = self.run(LIMIT, script)?;
        ensure!(output.status == status, "{}, and not {status}", ending(script, &output));
        Ok(text(&output.stdout) + &text(&output.stderr))
    }

    /// Runs a script again and again, until it succeeds. Returns its standard output.
    pub(super) fn until(&mut self, what: &str, script: &str) -> Result<String> {
        let call = shell(LIMIT, script);
        let output = self.system()?.until(what, LIMIT, &call, |output| output.status == 0)?;
        Ok(text(&output.stdout).trim_end().to_owned())
    }

    /// Runs a script, and returns how it ended.
    pub(super) fn run(&mut self, quiet: Duration, script: &str) -> Result<Output> {
        Ok(self.system()?.call(&shell(quiet, script))?)
    }

    /// Writes a file of the system.
    pub(super) fn put(&mut self, path: &str, contents: &[u8]) -> Result<()> {
        let mut call = Call::new(&["sh", "-c", "mkdir -p \"$(dirname \"$0\")\" && cat > \"$0\"", path]);
        call.input = contents.to_vec();
        let output = self.system()?.call(&call)?;
        ensure!(output.status == 0, "{}", ending(&format!("write {path}"), &output));
        Ok(())
    }

    /// Copies files of the host into a folder of the system.
    pub(super) fn put_files(&mut self, files: &[PathBuf], folder: &str) -> Result<()> {
        for path in files {
            let contents = fs::read(path).with_context(|| format!("read {}", path.display()))?;
            let name = path.file_name().context("a file has a name")?.display();
            self.put(&format!("{folder}/{name}"), &contents)?;
        }
        Ok(())
    }

    /// Installs packages with apt, without network.
    pub(super) fn install(&mut self, debs: &[PathBuf]) -> Result<String> {
        let folder = self.folder;
        self.put_files(debs, folder)?;
        let names = debs.iter().filter_map(|path| path.file_name());
        let paths: Vec<String> = names.map(|name| format!("{folder}/{}", name.display())).collect();
        self.sh_within(LONG, &format!("apt-get install -y {} 2>&1", paths.join(" ")))
    }

    /// Gives a person a shell on the system.
    pub(super) fn shell(&mut self, rows: u16, columns: u16) -> Result<()> {
        let line = format!("stty rows {rows} cols {columns}; exec bash -l");
        let terminal = format!("TTYPath={}", zosbd2_vm::system::TERMINAL);
        let term = format!("TERM={}", std::env::var("TERM").unwrap_or_else(|_| "vt220".to_owned()));
        let words = ["systemd-run", "--quiet", "--wait", "--collect", "--unit=zosbd2-shell", "-p", &terminal]
            .into_iter()
            .chain(["-p", "StandardInput=tty", "-p", "StandardOutput=tty", "-p", "StandardError=tty"])
            .chain(["-p", "WorkingDirectory=/root", "-E", "HOME=/root", "-E", &term, "bash", "-c", &line]);
        let words: Vec<&str> = words.collect();
        if self.system()?.attend(&words)?.is_none() {
            println!("\r\nsystem: the machine was ended");
        }
        Ok(())
    }

    /// Prints what the system said last.
    pub(super) fn explain(&mut self) {
        let Some(system) = self.system.as_mut() else { return };
        let indent = |text: &str| format!("        {}", text.trim_end().replace('\n', "\n        "));
        if system.is_alive() {
            let script = format!(
                "journalctl -b --no-pager -n {TAIL} -o short-monotonic 2>&1; systemctl --failed --no-legend --plain; \
                 ps -eo pid,stat,wchan:24,args | awk '$2 ~ /^D/'"
            );
            match system.call(&shell(Duration::from_secs(30), &script)) {
                Ok(output) => println!(
                    "    the journal's end, failed units, stuck tasks:\n{}",
                    indent(&text(&output.stdout))
                ),
                Err(error) => println!("    no journal: {error}"),
            }
        }
        println!("    the console's end:\n{}", indent(&system.console_tail(TAIL)));
    }

    /// What the console has said since the last start of QEMU.
    pub(super) fn console(&self) -> String {
        self.system.as_ref().map(System::console).unwrap_or_default()
    }

    /// A file of the host for a package under test, by the beginning of its name.
    pub(super) fn deb(&self, beginning: &str) -> Result<PathBuf> {
        let name = |path: &Path| {
            path.file_name().is_some_and(|name| name.display().to_string().starts_with(beginning))
        };
        let found: Vec<&PathBuf> = self.debs.iter().filter(|path| name(path)).collect();
        match found.as_slice() {
            [one] => Ok((*one).clone()),
            several => bail!("there are {} packages {beginning}*, not one", several.len()),
        }
    }
}

fn shell(quiet: Duration, script: &str) -> Call {
    let mut call = Call::new(&["bash", "-euo", "pipefail", "-c", script]);
    call.quiet = Some(quiet);
    call
}

/// What a program printed, as text.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// How a script ended, with what it said.
fn ending(script: &str, output: &Output) -> String {
    let said = text(&output.stdout) + &text(&output.stderr);
    let lines: Vec<&str> = said.lines().collect();
    let said = lines[lines.len().saturating_sub(TAIL)..].join("\n");
    format!("`{script}` ended with status {}:\n{said}\n", output.status)
}
