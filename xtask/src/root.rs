// SPDX-License-Identifier: MIT OR Apache-2.0
//! Build roots: folders with the compilers and tools of a Debian release, in which programs run without anything
//! being installed on the host. `cargo xtask root NAME -- PROGRAM...` runs a program there by hand.
//!
//! A root is `roots/NAME` in the kernels' cache: `tree` has the unpacked packages, and `packages` a line with name
//! and version for each. It appears by a rename, complete or not at all. An update leaves the old root beside it while
//! programs run there. [`Root::command`] enters it with a mount namespace and chroot, which needs root or user
//! namespaces. `/usr` and `/etc` are read-only inside; files outside the bound folders vanish with the program.

mod check;
mod make;
mod recipes;

use anyhow::{Context as _, Result, ensure};
pub(crate) use check::check;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use zosbd2_vm::kernels;
pub(crate) use zosbd2_vm::kernels::lines::RootKind;

use crate::{narrate, paths, setup};
use recipes::Recipe;

/// Sets up the mounts and runs a program: TREE MOUNTPOINT FOLDER NUMBER-OF-BINDS BIND... PROGRAM ARGUMENT...
const ENTER: &str = include_str!("root/enter.sh");

/// Variables of programs in a root.
const ENVIRONMENT: [(&str, &str); 3] = [
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("LC_ALL", "C"),
];

/// A root in the cache.
#[derive(Clone, Debug)]
pub(crate) struct Root {
    folder: PathBuf,
}

impl Root {
    /// The root from the cache. Fetches its packages if it is not there, or if its list of packages has changed.
    pub(crate) fn open(kind: RootKind) -> Result<Self> {
        may_enter()?;
        match Self::find(kind) {
            Some(root) => Ok(root),
            None => Self::make(kind, false),
        }
    }

    /// The root, with the newest versions of its packages.
    pub(crate) fn renew(kind: RootKind) -> Result<Self> {
        may_enter()?;
        Self::make(kind, true)
    }

    /// The root, if it is in the cache.
    pub(crate) fn find(kind: RootKind) -> Option<Self> {
        let recipe = Recipe::of(kind);
        let folder = folder(recipe);
        recipe.made(&folder).then_some(Self { folder })
    }

    fn make(kind: RootKind, renew: bool) -> Result<Self> {
        let recipe = Recipe::of(kind);
        let folder = folder(recipe);
        let doing = narrate::doing(format!("making the root {}", recipe.name));
        make::make(recipe, &folder, renew, &doing)
            .with_context(|| format!("make the root {}", recipe.name))?;
        Ok(Self { folder })
    }

    /// A command that runs `program` in the root, in the folder `here`. `binds` are folders or files of the host that
    /// exist inside at the same path. Arguments and variables can be added as usual.
    pub(crate) fn command(&self, program: &str, here: &Path, binds: &[&Path]) -> Command {
        let mut command = namespace();
        command.args(["sh", "-c", ENTER, "enter"]).arg(self.tree());
        command.arg(self.folder.with_file_name("mount")).arg(here).arg(binds.len().to_string());
        command.args(binds).arg(program);
        command.env_clear().envs(ENVIRONMENT);
        command
    }

    /// The folder that programs inside see as `/`.
    pub(crate) fn tree(&self) -> PathBuf {
        self.folder.join("tree")
    }

    /// A line `NAME VERSION` for each package in the root, in the order of their names.
    pub(crate) fn packages(&self) -> Result<String> {
        let path = self.folder.join("packages");
        let list = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let mut lines: Vec<&str> = list.lines().collect();
        lines.sort_unstable();
        Ok(lines.into_iter().flat_map(|line| [line, "\n"]).collect())
    }

    /// The version of a package in the root.
    pub(crate) fn version(&self, package: &str) -> Result<String> {
        let list = self.packages()?;
        let version = list.lines().find_map(|line| line.strip_prefix(package)?.strip_prefix(' '));
        let version =
            version.with_context(|| format!("{} has no package {package}", self.folder.display()))?;
        Ok(version.to_owned())
    }
}

fn folder(recipe: &Recipe) -> PathBuf {
    kernels::cache().join("roots").join(recipe.name)
}

/// Runs a program in a mount namespace in which it may mount.
fn namespace() -> Command {
    let mut command = Command::new("unshare");
    if !setup::is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--mount", "--propagation", "private", "--"]);
    command
}

/// Fails if this user cannot enter roots.
fn may_enter() -> Result<()> {
    let output = namespace().arg("true").output().context("run unshare (package util-linux)")?;
    ensure!(
        output.status.success(),
        "build roots need a mount namespace, which this user may not make ({}): run as root, or allow user \
         namespaces (`sysctl kernel.unprivileged_userns_clone=1`, `sysctl kernel.apparmor_restrict_unprivileged_userns=0`)",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Arguments of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Root: bookworm, trixie, sid, rust, stranger-trixie or stranger-bookworm
    #[arg(value_parser = recipes::kind)]
    name: RootKind,
    /// Make the root anew, with the newest versions of its packages
    #[arg(long)]
    update: bool,
    /// Check that programs run in the root as they should, and that it has what it is for
    #[arg(long, conflicts_with_all = ["binds", "program"])]
    check: bool,
    /// More folders of the host to be seen inside, besides this project and the cache
    #[arg(long = "bind")]
    binds: Vec<PathBuf>,
    /// Program to run in the project's folder, with its arguments; by default the versions of the tools are printed
    #[arg(last = true)]
    program: Vec<String>,
}

/// Runs the command. Becomes the program, if there is one.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let root = if arguments.update { Root::renew(arguments.name)? } else { Root::open(arguments.name)? };
    if arguments.check {
        println!("{} checks passed", check(arguments.name)?);
        return Ok(());
    }
    let [program, words @ ..] = arguments.program.as_slice() else {
        println!("{}", root.tree().display());
        for package in Recipe::of(arguments.name).own.iter().copied().flatten() {
            println!("  {package} {}", root.version(package)?);
        }
        return Ok(());
    };
    let (project, cache) = (paths::root(), kernels::cache());
    let own =
        arguments.binds.iter().map(|path| path.canonicalize().with_context(|| path.display().to_string()));
    let own = own.collect::<Result<Vec<_>>>()?;
    let binds: Vec<&Path> =
        [project.as_path(), &cache].into_iter().chain(own.iter().map(PathBuf::as_path)).collect();
    let mut command = root.command(program, &project, &binds);
    let error = command.args(words).exec();
    Err(error).context("run unshare (package util-linux)")
}
