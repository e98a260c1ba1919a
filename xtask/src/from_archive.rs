// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask from-archive [KERNEL...]`: builds modules from a release's archive, as people without Rust do.
//!
//! Makes the release archive, unpacks it, and runs `make -C kernel` in build roots that have no Rust: for the kernels
//! that were named, with the compiler of their suite; without names in the strangers' roots, which have the headers of
//! their own suite's kernel, gcc and make, and nothing else. Every module must pass the gates of modules, because
//! another rustc makes the objects of the release archive than those of `cargo xtask gates`. Prints the paths of the modules.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use zosbd2_vm::kernels::{KernelName, lines};

use crate::lock::lock;
use crate::root::{Root, RootKind};
use crate::tally::Tally;
use crate::toolchain::Toolchain;
use crate::{command, dist, fetch, gates, kmod, narrate, paths, vm};

/// Arguments of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Kernels, by their short names; without: the strangers' own
    kernels: Vec<KernelName>,
    /// Compile the Rust half, too, with the host's Rust and compiler (`ZOSBD2_RUST=source`)
    #[arg(long, requires = "kernels")]
    source: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let tree = Unpacked::new()?;
    for name in &arguments.kernels {
        let built = if arguments.source { from_source(&tree, *name)? } else { module(&tree, *name)? };
        println!("{}", built.display());
    }
    if arguments.kernels.is_empty() {
        for kind in STRANGERS {
            println!("{}", stranger(&tree, kind)?.display());
        }
    }
    Ok(())
}

/// Roots of people who have just installed the headers' package.
pub(crate) const STRANGERS: [RootKind; 2] = [RootKind::StrangerBookworm, RootKind::StrangerTrixie];

/// The archive, unpacked in `target/from-archive`. No other command replaces it there until the value is dropped.
pub(crate) struct Unpacked {
    tree: PathBuf,
    _lock: File,
}

impl Unpacked {
    /// Makes the release archive, and unpacks it. Waits while another command uses the folder.
    pub(crate) fn new() -> Result<Self> {
        let folder = paths::root().join("target/from-archive");
        let lock =
            lock(&folder.with_extension("lock"), "another command that builds from the release archive")?;
        let archive = dist::archive()?;
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        // Another command may be making the archive anew.
        let made = dist::lock_archives()?;
        command::finish(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&folder))?;
        drop(made);
        let name = archive.file_name().and_then(|name| name.to_str()?.strip_suffix(".tar.xz"));
        let tree = folder.join(name.context("an archive is called NAME.tar.xz")?);
        Ok(Self { tree, _lock: lock })
    }
}

/// The module for a kernel of the cache.
pub(crate) fn module(tree: &Unpacked, name: KernelName) -> Result<PathBuf> {
    let kernel = fetch::one(name, false)?;
    let kind = lines::root_of(name).unwrap_or(RootKind::Bookworm);
    build(tree, kind, &kernel.headers, &kernel.headers)
}

/// The module for a kernel of the cache, all of which is compiled on the host from the release archive's sources.
fn from_source(tree: &Unpacked, name: KernelName) -> Result<PathBuf> {
    ensure!(lines::root_of(name).is_none(), "modules for {name} are built in a root, which has no cargo");
    let headers = fetch::one(name, false)?.headers;
    let _doing = narrate::doing(format!("building zosbd2.ko for {name} from the release archive's sources"));
    let variables = ["ZOSBD2_RUST=source".to_owned(), format!("ZOSBD2_CACHE={}", paths::cache().display())];
    let printed = kmod::make(&Toolchain::Host, &tree.tree, &headers, &variables)
        .context("build with ZOSBD2_RUST=source in the release archive")?;
    // Before it come lines about the work.
    let module = printed.lines().last().unwrap_or_default();
    checked(module.into(), &tree.tree, &headers)
}

/// The module for the kernel whose headers are installed in a stranger's root.
pub(crate) fn stranger(tree: &Unpacked, kind: RootKind) -> Result<PathBuf> {
    let tree_of_root = Root::open(kind)?.tree();
    let modules = tree_of_root.join("usr/lib/modules");
    let mut releases = fs::read_dir(&modules).with_context(|| format!("read {}", modules.display()))?;
    let release = releases.next().with_context(|| format!("{} is empty", modules.display()))??.file_name();
    // The link `build` is absolute.
    let headers = format!("linux-headers-{}", release.display());
    let headers = tree_of_root.join("usr/src").join(headers);
    build(tree, kind, &Path::new("/lib/modules").join(release).join("build"), &headers)
}

/// Runs tests on a kernel with the release archive's module. A kernel that cannot be had counts as skipped.
pub(crate) fn results(tree: &Unpacked, name: KernelName, tests: &[&str]) -> Result<Tally> {
    let short = name.to_string();
    if let Err(reason) = fetch::to_test(name)? {
        return Ok(Tally { skipped: vec![format!("kernel {short}: {reason}")], ..Tally::default() });
    }
    let module = module(tree, name)?;
    let module = module.to_str().context("the module's path is no text")?;
    vm::results(&[&["--kernel", &short, "--module", module], tests].concat())
}

/// Boots every stock kernel with the release archive's module, and does some I/O. Builds one from the release archive's sources, too.
pub(crate) fn boots() -> Result<Tally> {
    let (tree, mut sum) = (Unpacked::new()?, Tally::default());
    for name in KernelName::all_stock() {
        sum.add(&name.to_string(), results(&tree, name, &BOOTS)?);
    }
    from_source(&tree, KernelName::STOCK[1])?;
    sum.passed += 1;
    Ok(sum)
}

/// What is run with the release archive's module on every kernel.
pub(crate) const BOOTS: [&str; 5] =
    ["smoke_boot", "insmod_rmmod", "readme_walkthrough", "v2_ext4", "v2_killed_server_is_followed"];

/// Runs `make -C kernel` in a root without Rust, for the kernel whose headers are at `kdir` there and at `headers` here,
/// and checks the module.
fn build(tree: &Unpacked, kind: RootKind, kdir: &Path, headers: &Path) -> Result<PathBuf> {
    let toolchain = Toolchain::Root(Root::open(kind)?);
    for program in ["rustc", "cargo"] {
        ensure!(
            !toolchain.has(program)?,
            "the root {kind:?} has {program}, so a build in it does not show that Rust is not needed"
        );
    }
    let _doing =
        narrate::doing(format!("building zosbd2.ko from the release archive for {}", kdir.display()));
    let module = kmod::make(&toolchain, &tree.tree, kdir, &[]).with_context(|| {
        format!("build the release archive's module in the root {kind:?} for {}", kdir.display())
    })?;
    checked(module.into(), &tree.tree, headers)
}

/// The module, if it passes the gates of modules. `headers` are those of its kernel, and `root` has its sources.
fn checked(module: PathBuf, root: &Path, headers: &Path) -> Result<PathBuf> {
    ensure!(module.is_file(), "make printed {:?}, which is no module", module.display().to_string());
    let release = kmod::release(headers)?;
    for (gate, result) in gates::linked(&module, root, headers)? {
        let detail = result
            .with_context(|| format!("gate {gate} refuses the release archive's module for {release}"))?;
        println!("pass  {:<36} {gate:<18} {detail}", format!("{release} archive"));
        narrate::said();
    }
    Ok(module)
}
