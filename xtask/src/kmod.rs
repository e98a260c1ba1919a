// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask kmod`, behind `make -C kernel`: builds `zosbd2.ko` for one kernel.
//!
//! Works in a separate folder (`target/kmod/RELEASE-VARIANT`), so several kernels can be built side by side. It
//! copies the C sources there, test-compiles the probes, makes the Rust object, and lets the kernel's own build
//! system compile and link. Any warning, of compiler, objtool or modpost, is an error.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::narrate::{self, Doing};
use crate::{paths, rust_object};

/// Which module to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Variant {
    /// What users get.
    Release,
    /// With steps that a module parameter makes fail; for tests only.
    Faults,
}

impl Variant {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Faults => "faults",
        }
    }
}

/// Arguments of `cargo xtask kmod`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Headers of the kernel to build for
    #[arg(long)]
    kdir: PathBuf,
    /// Which module to build
    #[arg(long, value_enum, default_value = "release")]
    variant: Variant,
    /// Folder to build in, instead of target/kmod/RELEASE-VARIANT
    #[arg(long)]
    out: Option<PathBuf>,
    /// Run sparse on the C sources, too
    #[arg(long)]
    sparse: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { kdir, variant, out, sparse } = arguments;
    let module = match out {
        Some(out) => {
            fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
            build_in(&paths::root(), kdir, *variant, *sparse, &out.canonicalize()?)?
        }
        None => build(kdir, *variant, *sparse)?,
    };
    println!("{}", module.display());
    Ok(())
}

/// Builds the module for the kernel whose headers are in `kdir`, and returns the path of `zosbd2.ko`.
pub(crate) fn build(kdir: &Path, variant: Variant, sparse: bool) -> Result<PathBuf> {
    let folder = format!("target/kmod/{}-{}", release(&headers(kdir)?)?, variant.name());
    build_in(&paths::root(), kdir, variant, sparse, &paths::root().join(folder))
}

/// Like [`build`], from the sources below `root` in the folder `work`. After an error no module is left there.
fn build_in(root: &Path, kdir: &Path, variant: Variant, sparse: bool, work: &Path) -> Result<PathBuf> {
    let kdir = &headers(kdir)?;
    let module = work.join("zosbd2.ko");
    let name = work.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let doing = narrate::doing(format!("building zosbd2.ko in {name}"));
    let built = steps(root, kdir, variant, sparse, work, &doing);
    if built.is_err() && module.exists() {
        fs::remove_file(&module).with_context(|| format!("remove {}", module.display()))?;
    }
    built.map(|()| module)
}

/// The folder, if it exists.
fn headers(kdir: &Path) -> Result<PathBuf> {
    kdir.canonicalize().with_context(|| {
        format!(
            "there are no kernel headers at {}: install Debian's package linux-headers-amd64 (or the one of your \
             kernel), or name others with KDIR=",
            kdir.display()
        )
    })
}

fn steps(root: &Path, kdir: &Path, variant: Variant, sparse: bool, work: &Path, doing: &Doing) -> Result<()> {
    mirror(&root.join("kernel/shim"), &work.join("shim"))?;
    mirror(&root.join("kernel/compat"), &work.join("compat"))?;
    mirror(&root.join("kernel/compat/probes"), &work.join("probes"))?;
    doing.detail("what this kernel has");
    probe(kdir, &root.join("kernel/compat/probes"), work)?;
    doing.detail("Rust");
    rust_object::build(kdir, variant == Variant::Faults, root, work)?;
    doing.detail(if sparse { "C, with sparse" } else { "C" });
    copy_if_changed(&root.join("kernel/Kbuild"), &work.join("Kbuild"))?;
    kbuild(kdir, work, variant, sparse)
}

/// `uname -r` of that kernel. `kernel.release` lacks the flavour on some Debian kernels.
pub(crate) fn release(kdir: &Path) -> Result<String> {
    let path = kdir.join("include/generated/utsrelease.h");
    let text = fs::read_to_string(&path)
        .with_context(|| {
        format!(
            "read {}: these are no headers of a configured kernel (KDIR= is the folder of one flavour, such as \
             /usr/src/linux-headers-6.12.117+deb12-cloud-amd64, not the one that ends with -common)",
            path.display()
        )
    })?;
    let quoted = text.lines().find_map(|line| line.strip_prefix("#define UTS_RELEASE "));
    let release = quoted.with_context(|| format!("{} has no UTS_RELEASE", path.display()))?;
    Ok(release.trim().trim_matches('"').to_owned())
}

/// Copies the files of a folder. Unchanged files keep their time, so make does not rebuild them.
fn mirror(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        if path.extension().is_some_and(|extension| extension == "c" || extension == "h") {
            copy_if_changed(&path, &to.join(name))?;
        }
    }
    Ok(())
}

fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let text = fs::read(from).with_context(|| format!("read {}", from.display()))?;
    write_if_changed(to, &text)
}

fn write_if_changed(path: &Path, text: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

fn make(kdir: &Path, folder: &Path) -> Command {
    let mut command = Command::new("make");
    command.arg("--no-print-directory").arg("-C").arg(kdir).arg(format!("M={}", folder.display()));
    command.env_remove("MAKEFLAGS").env_remove("MFLAGS").env_remove("MAKELEVEL").env("LC_ALL", "C");
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    command.arg(format!("-j{processors}"));
    command
}

/// Compiles every probe, and writes the results into `compat_probed.h`.
fn probe(kdir: &Path, source: &Path, work: &Path) -> Result<()> {
    let folder = work.join("probes");
    // Listed in the source folder, because compiling leaves generated C files beside the probes.
    let mut names = Vec::new();
    for entry in fs::read_dir(source).with_context(|| format!("read {}", source.display()))? {
        let path = entry?.path();
        if let (Some(name), true) =
            (path.file_stem(), path.extension().is_some_and(|extension| extension == "c"))
        {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    let kbuild: String = names.iter().fold(String::new(), |mut text, name| {
        let _infallible = writeln!(text, "obj-m += {name}.o");
        text
    });
    write_if_changed(&folder.join("Kbuild"), kbuild.as_bytes())?;
    let objects = names.iter().map(|name| format!("{name}.o"));
    // A probe may fail to compile. If all probes fail, the compiler does not work.
    let output = make(kdir, &folder).arg("-k").args(objects).output().context("run make")?;
    let mut header = String::from("/* Made by probing; see probes/. */\n");
    for name in &names {
        if folder.join(format!("{name}.o")).exists() {
            writeln!(header, "#define HAVE_{} 1", name.to_uppercase())?;
        }
    }
    ensure!(
        header.contains("HAVE_COMPILER"),
        "the compiler does not work for this kernel:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    write_if_changed(&work.join("compat/compat_probed.h"), header.as_bytes())
}

fn kbuild(kdir: &Path, work: &Path, variant: Variant, sparse: bool) -> Result<()> {
    let mut command = make(kdir, work);
    command.arg("modules").arg("W=1");
    if variant == Variant::Faults {
        command.arg("ZOSBD2_FAULTS=1");
    }
    if sparse {
        // All sources, including those that need no compiling.
        command.args(["C=2", "CF=-Wsparse-error"]);
    }
    let output = command.output().context("run make")?;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "building the module in {} failed:\n{text}", work.display());
    let complaint = text.lines().find(|line| {
        let line = line.to_lowercase();
        (line.contains("warning") || line.contains("error"))
            && !line.contains("vmlinux")
            && !line.contains("the compiler differs")
    });
    ensure!(complaint.is_none(), "building the module in {} warned:\n{text}", work.display());
    Ok(())
}
