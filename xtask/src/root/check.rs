// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks of a build root: programs run in it as promised, and it has what it is for.
//!
//! `make test` runs them after the roots have been made; `cargo xtask root NAME --check` runs them by hand. Unit tests
//! run before that, so they cannot.

use std::fs::{self, File, TryLockError};
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::{Root, RootKind, namespace};
use crate::{command, paths};

/// A check of one root. Returns what it found.
type Check = fn(&Root) -> Result<String>;

/// Of every root.
const ALL: [(&str, Check); 5] = [
    ("in use", in_use),
    ("project", project),
    ("environment", environment),
    ("read-only", read_only),
    ("below /usr", below_usr),
];

/// Checks a root, and returns the number of checks. The first check that fails is the error.
pub(crate) fn check(kind: RootKind) -> Result<usize> {
    let root = Root::open(kind)?;
    let own: &[(&str, Check)] = match kind {
        RootKind::Trixie => &[("compiler", compiler)],
        RootKind::StrangerTrixie | RootKind::StrangerBookworm => &[("stranger", stranger)],
        RootKind::Bookworm | RootKind::Sid | RootKind::Rust => &[],
    };
    let name = super::Recipe::of(kind).name;
    for (what, check) in ALL.iter().chain(own) {
        let found = check(&root).with_context(|| format!("check {what} of the root {name}"))?;
        println!("pass  root {name:<17} {what:<12} {found}");
    }
    Ok(ALL.len() + own.len())
}

/// The standard output of a program that must succeed.
fn said(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&command::finish(command)?.stdout).into_owned())
}

/// While a program runs, the tree is locked, which keeps it from being deleted.
fn in_use(root: &Root) -> Result<String> {
    let mut command = root.command("sh", Path::new("/"), &[]);
    command.args(["-c", "echo; read line"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut program = command.spawn().context("run sh")?;
    let mut byte = [0];
    let stdout = program.stdout.as_mut().context("its output is a pipe")?;
    let running = stdout.read_exact(&mut byte).context("wait for the program");
    let usr = File::open(root.tree().join("usr")).context("open usr")?;
    let locked = matches!(usr.try_lock(), Err(TryLockError::WouldBlock));
    drop(program.stdin.take());
    program.wait().context("wait for sh")?;
    running?;
    ensure!(locked, "a program runs in the tree, and the tree is not locked");
    Ok("locked".to_owned())
}

/// Bound folders are at their own paths.
fn project(root: &Root) -> Result<String> {
    let project = paths::root();
    let here = said(&mut root.command("pwd", &project, &[&project]))?;
    ensure!(here.trim() == project.display().to_string(), "pwd says {here}");
    Ok(here.trim().to_owned())
}

/// Variables of the host are not seen, and `/tmp` is writable.
fn environment(root: &Root) -> Result<String> {
    let mut shell = root.command("sh", Path::new("/tmp"), &[]);
    let there = said(shell.args(["-c", "echo x >f && cat f; echo $HOME; env"]))?;
    ensure!(there.starts_with("x\n/root\n") && !there.contains("CARGO"), "the shell says {there}");
    Ok(format!("{} variables", there.lines().skip(2).count()))
}

fn read_only(root: &Root) -> Result<String> {
    let written = root.command("touch", Path::new("/"), &[]).arg("/usr/new").output().context("run touch")?;
    let error = String::from_utf8_lossy(&written.stderr);
    ensure!(!written.status.success() && error.contains("Read-only"), "/usr is writable, or: {error}");
    Ok("/usr".to_owned())
}

/// A folder of the host below /usr can be bound, and a mount point that cannot be made is an error that names it.
fn below_usr(root: &Root) -> Result<String> {
    // Exists on the host only in the mount namespace of this check.
    let name = format!("usr/src/zosbd2-check-{}", std::process::id());
    let place = Path::new("/").join(&name);
    let file = place.join("file");
    let mut host = namespace();
    host.args(["sh", "-c", "mount -t tmpfs none /usr/src && mkdir $0 && echo seen >$0/file && exec \"$@\""]);
    let inner = root.command("sh", &place, &[&place, &file]);
    host.arg(&place).arg(inner.get_program()).args(inner.get_args());
    host.args(["-c", "cat file && touch new && ! touch /usr/src/new 2>&1"]);
    let there = said(&mut host);
    // The mount point stays in the root.
    fs::remove_dir(root.tree().join(name)).context("remove the mount point")?;
    let there = there?;
    ensure!(there.starts_with("seen\n") && there.contains("Read-only file system"), "the shell says {there}");
    let impossible = Path::new("/usr/bin/sh/project");
    let output = root.command("true", Path::new("/"), &[impossible]).output().context("run true")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success() && error.contains("/usr/bin/sh/project cannot be seen in the root"),
        "a mount point below a program gives {error:?}"
    );
    Ok("seen; what cannot be seen is refused".to_owned())
}

/// The compiler that runs is the one in the list of packages.
fn compiler(root: &Root) -> Result<String> {
    let version = root.version("gcc-14")?;
    let number = version.split('-').next().unwrap_or_default();
    let compiler = said(root.command("gcc", Path::new("/"), &[]).arg("--version"))?;
    ensure!(compiler.contains(number), "{compiler} is not {version}");
    ensure!(root.version("no-such-package").is_err(), "the list has no-such-package");
    Ok(format!("gcc {number}"))
}

/// Headers, compiler and make are there, and Rust is not.
fn stranger(root: &Root) -> Result<String> {
    let shell = |script: &str| {
        let mut command = root.command("sh", Path::new("/"), &[]);
        command.args(["-c", script]);
        command
    };
    for script in [
        "test -f /lib/modules/*/build/include/generated/autoconf.h",
        "awk 'BEGIN { exit 0 }'",
        "gcc --version",
        "make --version",
    ] {
        said(&mut shell(script))?;
    }
    for program in ["rustc", "cargo"] {
        let found = shell(&format!("command -v {program}")).output().context("run sh")?;
        ensure!(found.status.code() == Some(1) || found.status.code() == Some(127), "it has {program}");
    }
    Ok("headers, gcc, make; no Rust".to_owned())
}
