// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask demo`, behind `make demo`: the RAM disk from insmod to rmmod, on a real file tree.
//!
//! Installs missing packages, builds, boots Linux 6.12 in QEMU and runs the steps there. With `--native` the same
//! steps run on this machine, if it can load modules. Each step is shown with its time as it happens. An error
//! names the missing program or package, and how to get it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use zosbd2_vm::protocol::Outcome;

use crate::{fetch, kmod, setup, vm};

/// Arguments of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// On this machine, without a virtual one
    #[arg(long)]
    native: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::install().context("set up this machine")?;
    let kernel = fetch::one("6.12".parse()?, false).context("fetch Linux 6.12 and its headers")?;
    let trees = trees(&kernel.headers)?;
    if arguments.native { native(&trees) } else { in_vm(&trees) }
}

/// The files to copy: the downloaded kernel with its headers, and the C compiler that builds the module. More than
/// 100 MB in more than ten thousand files.
fn trees(headers: &Path) -> Result<[PathBuf; 2]> {
    let kernel = headers.ancestors().nth(3).context("the headers are in usr/src")?;
    Ok([kernel.to_owned(), PathBuf::from("/usr/lib/gcc")])
}

fn in_vm(trees: &[PathBuf]) -> Result<()> {
    let mut options = vm::arguments(&["--kernel", "6.12", "--mem", "4G", "demo"]);
    options.files =
        trees.iter().zip(0..).map(|(tree, index)| (format!("/tree/{index}"), tree.clone())).collect();
    let reports = vm::reports(&options, &vm::runs(&options))?;
    let result =
        reports.iter().flat_map(|(_, report)| &report.results).next().context("the demo did not run")?;
    match &result.outcome {
        Outcome::Passed => println!("demo passed"),
        Outcome::Failed(why) => bail!("the demo failed: {why}"),
        Outcome::Skipped(why) => bail!("the demo could not run: {why}"),
    }
    Ok(())
}

fn native(trees: &[PathBuf]) -> Result<()> {
    ensure!(
        Path::new("/proc/modules").exists(),
        "this kernel loads no modules: run `make demo`, which uses a virtual machine"
    );
    ensure!(
        is_root()?,
        "loading a module needs root: run `sudo make demo NATIVE=1`, or `make demo` for a virtual machine"
    );
    let release =
        std::fs::read_to_string("/proc/sys/kernel/osrelease").context("ask for the kernel's release")?;
    let headers = PathBuf::from(format!("/lib/modules/{}/build", release.trim()));
    ensure!(
        headers.exists(),
        "{} is missing: install the kernel's headers (Debian: apt install linux-headers-{}), or run `make demo`",
        headers.display(),
        release.trim()
    );
    let module = kmod::build(&headers, &kmod::How::plain(kmod::Variant::Release))?;
    let programs = vm::guest_programs()?;
    let sample = programs.programs.first().context("the sample is built")?;
    let folder = sample.parent().context("a program is in a folder")?;
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    let status =
        Command::new(&programs.init).arg("--demo").arg(module.path()).args(trees).env("PATH", path).status();
    ensure!(status.context("run the demo")?.success(), "the demo failed");
    println!("demo passed");
    Ok(())
}

/// Whether this process has root's rights.
fn is_root() -> Result<bool> {
    let status = std::fs::read_to_string("/proc/self/status").context("ask who we are")?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let effective =
        line.and_then(|line| line.split_whitespace().nth(1)).context("no Uid in /proc/self/status")?;
    Ok(effective == "0")
}
