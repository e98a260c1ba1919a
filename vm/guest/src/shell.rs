// SPDX-License-Identifier: MIT OR Apache-2.0
//! Process 1 of a session: a shell, a command or a foreign program instead of tests.
//!
//! Loads the module, mounts the shared folder, runs the session's work on its terminal, ends what is left, and powers
//! off. The roles of this file are other processes: [`terminal`] is what the work runs in, [`modprobe`] loads modules
//! for the kernel and for people, [`power_off`] ends the session, and [`conformance`] tests a foreign program.

pub(crate) mod conformance;
mod ending;
pub(crate) mod modprobe;
mod terminal;

use crate::guest::{Kmsg, Mounted, disk, load_file, modules, read_trimmed, report, suspicious, write_text};
use rustix::fs::{CWD, FileType, Mode};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process};
use rustix::system::RebootCommand;
use std::error::Error;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use zosbd2_vm_guest::protocol::{Line, MODULE};
use zosbd2_vm_guest::session::{FILE, SHARE, Session, Work};

/// Folders of programs.
const PATH: &str = "/usr/local/bin:/usr/local/sbin:/bin:/sbin:/usr/bin:/usr/sbin";
/// Names under which this program has a role for people.
const POWER_OFF: [&str; 3] = ["poweroff", "halt", "reboot"];
/// The process that runs the session's work.
const WORKER: &str = "/run/zosbd2-vm.worker";
/// Exists if somebody has asked for the end.
const ENDED: &str = "/run/zosbd2-vm.ended";

/// The session that the host describes, if there is one.
pub(crate) fn session() -> Option<Session> {
    let text = fs::read_to_string(FILE).ok()?;
    Some(Session::parse(&text).unwrap_or_else(|| panic!("{FILE} is damaged:\n{text}")))
}

/// Runs as process 1, after the file systems are mounted.
pub(crate) fn run(session: &Session) -> ExitCode {
    let mut kmsg = Kmsg::new();
    let prepared = prepare(session);
    let terminal = terminal::own(session.typed).unwrap_or_else(|error| panic!("take the terminal: {error}"));
    terminal::follow_size();
    report::send(&Line::Hello(read_trimmed("/proc/sys/kernel/osrelease")));
    let mut status = match &prepared {
        Ok(_share) => work(&terminal),
        Err(problem) => {
            report::send(&Line::Say(problem.clone()));
            1
        }
    };
    let mut problems = ending::clean_up();
    let said = suspicious(&kmsg.lines(), &[]);
    if !said.is_empty() {
        problems.push(format!("the kernel said:\n{}", said.join("\n")));
    }
    if !problems.is_empty() && matches!(session.work, Work::Conformance(_)) {
        status = 1;
    }
    let (passed, failed) = if status == 0 { (1, 0) } else { (0, 1) };
    for problem in problems {
        report::send(&Line::Say(problem));
    }
    report::send(&Line::Exit(status));
    report::send(&Line::Verdict { passed, failed, skipped: 0 });
    let failure = rustix::system::reboot(RebootCommand::PowerOff);
    panic!("power off: {failure:?}");
}

/// Makes the guest a place to work in. Returns the mounted share, if there is one.
fn prepare(session: &Session) -> Result<Option<Mounted>, String> {
    let _ = fs::create_dir_all("/dev/pts");
    let pts = rustix::mount::mount("devpts", "/dev/pts", "devpts", rustix::mount::MountFlags::empty(), None);
    pts.map_err(|error| format!("mount /dev/pts: {error}"))?;
    for name in POWER_OFF.into_iter().chain(["modprobe"]) {
        let path = format!("/sbin/{name}");
        // A tool of the host may have the name.
        let _ = fs::remove_file(&path);
        symlink("/init", &path).map_err(|error| format!("link {path}: {error}"))?;
    }
    write_text("/proc/sys/kernel/modprobe", "/sbin/modprobe");
    for [from, to] in
        [["/usr/bin", "/bin"], ["/usr/sbin", "/sbin"], ["/bin", "/usr/bin"], ["/sbin", "/usr/sbin"]]
    {
        link_programs(from, to).map_err(|error| format!("link the programs of {from} in {to}: {error}"))?;
    }
    for (path, major, minor) in modprobe::nodes() {
        let path = Path::new("/dev").join(path);
        let _ = path.parent().map(fs::create_dir_all);
        let device = rustix::fs::makedev(major, minor);
        match rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::from_raw_mode(0o600), device) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(format!("make {}: {error}", path.display())),
        }
    }
    let mut share = None;
    if session.share {
        disk::load();
        modules::load("ext4", "");
        let mounted = Mounted::attempt(disk::DISK, SHARE, "ext4", "");
        share = Some(mounted.map_err(|error| format!("mount the shared folder at {SHARE}: {error}"))?);
    }
    if Path::new(MODULE).exists() {
        load_file(MODULE, "");
    }
    Ok(share)
}

/// Scripts name a program in one folder or the other, which are the same on the host.
fn link_programs(from: &str, to: &str) -> std::io::Result<()> {
    fs::create_dir_all(from)?;
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let link = Path::new(to).join(path.file_name().unwrap_or_default());
        if !link.is_symlink() && !link.exists() {
            symlink(&path, &link)?;
        }
    }
    Ok(())
}

/// Runs the session's work to its end; returns its status as a shell counts it.
fn work(terminal: &File) -> u8 {
    let copy = || terminal.try_clone().unwrap_or_else(|error| panic!("copy the terminal: {error}"));
    #[expect(clippy::zombie_processes, reason = "the loop below waits for every child, this one included")]
    let child = Command::new("/init")
        .args(["--work", "now"])
        .stdin(copy())
        .stdout(copy())
        .stderr(copy())
        .process_group(0)
        .spawn()
        .unwrap_or_else(|error| panic!("start /init --work: {error}"));
    write_text(WORKER, &child.id().to_string());
    let pid = Pid::from_child(&child);
    terminal::give(terminal, pid).unwrap_or_else(|error| panic!("pass the terminal on: {error}"));
    let status = loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((ended, status))) if ended == pid => break status,
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => panic!("wait for the session's work: {error}"),
        }
    };
    if Path::new(ENDED).exists() { 0 } else { status_byte(status) }
}

/// The status as a shell counts it: 128 and the number of a signal, or the exit status.
fn status_byte(status: WaitStatus) -> u8 {
    let code = match status.terminating_signal() {
        Some(signal) => 128 + signal,
        None => status.exit_status().unwrap_or(1),
    };
    u8::try_from(code).unwrap_or(1)
}

/// The role `--work now`: becomes the session's work, with the terminal.
pub(crate) fn worker() -> Result<(), Box<dyn Error>> {
    let session = session().ok_or("there is no session")?;
    terminal::wait_for();
    for line in &session.greeting {
        println!("{line}");
    }
    std::env::set_current_dir("/root")?;
    let mut command = match &session.work {
        Work::Shell => Command::new("bash"),
        Work::Run(text) => {
            let mut command = Command::new("bash");
            command.args(["-c", text]);
            command
        }
        Work::Conformance(words) => {
            let mut command = Command::new("/init");
            command.arg("--conformance").args(words);
            command
        }
    };
    let settings = session.environment.iter().filter_map(|setting| setting.split_once('='));
    command.env_clear().env("PATH", PATH).env("HOME", "/root").env("PWD", "/root").env("USER", "root");
    command.env("PS1", "[\\u@\\h \\W]# ").envs(settings);
    let error = command.exec();
    Err(format!("start {}: {error}", command.get_program().to_string_lossy()).into())
}

/// The role of the name `poweroff`: ends the session's work, and so the session.
pub(crate) fn power_off() -> Result<(), Box<dyn Error>> {
    let worker: i32 = fs::read_to_string(WORKER)?.trim().parse()?;
    fs::write(ENDED, "")?;
    let worker = Pid::from_raw(worker).ok_or("the session's work has no process")?;
    kill_process(worker, Signal::KILL)?;
    Ok(())
}

/// What this program does under another name, with its arguments.
type Role = fn(&[&str]) -> Result<(), Box<dyn Error>>;

/// Whether this process has a role by the name of its program.
pub(crate) fn role_of(program: &str) -> Option<Role> {
    match program.rsplit('/').next()? {
        "modprobe" => Some(modprobe::role),
        name if POWER_OFF.contains(&name) => Some(|_| power_off()),
        _ => None,
    }
}
