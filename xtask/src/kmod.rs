// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask kmod`, behind `make -C kernel`: builds `zosbd2.ko` for one kernel.
//!
//! Works in a separate folder (`target/kmod/RELEASE-VARIANT`), so several kernels can be built side by side. This
//! command makes the Rust object; `kernel/build.sh`, which needs no Rust, does all else.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::lock::lock;
use crate::narrate::{self, Doing};
use crate::rust_flags::Config;
use crate::rust_object::{self, Inputs};
use crate::toolchain::Toolchain;
use crate::{command, paths};

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

/// How to build a module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How<'a> {
    pub(crate) variant: Variant,
    /// Ask the compiler for more warnings (`W=1`), and run sparse on the C sources, if the toolchain has it.
    pub(crate) strict: bool,
    /// The key and the certificate with which the module is signed.
    pub(crate) signed: Option<(&'a Path, &'a Path)>,
}

impl How<'_> {
    /// As users build it, unsigned.
    pub(crate) const fn plain(variant: Variant) -> Self {
        Self { variant, strict: false, signed: None }
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
    /// Ask the compiler for more warnings, and run sparse on the C sources, too
    #[arg(long)]
    strict: bool,
    /// Sign the module with this private key
    #[arg(long, requires = "sign_cert")]
    sign_key: Option<PathBuf>,
    /// The certificate of the key
    #[arg(long, requires = "sign_key")]
    sign_cert: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { kdir, variant, out, strict, sign_key, sign_cert } = arguments;
    let signed = sign_key.as_deref().zip(sign_cert.as_deref());
    let how = How { variant: *variant, strict: *strict, signed };
    let module = match out {
        Some(out) => {
            fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
            build_in(&paths::root(), kdir, &how, &out.canonicalize()?)?
        }
        None => build(kdir, &how)?,
    };
    println!("{}", module.path().display());
    Ok(())
}

/// A module. No other command builds in its folder before the value is dropped.
#[derive(Debug)]
pub(crate) struct Module {
    path: PathBuf,
    _lock: File,
}

impl Module {
    /// The path of `zosbd2.ko`.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Builds the module for the kernel whose headers are in `kdir`.
pub(crate) fn build(kdir: &Path, how: &How<'_>) -> Result<Module> {
    let (root, variant) = (paths::root(), format!("VARIANT={}", how.variant.name()));
    let folder = make(&Toolchain::Host, &root, &headers(kdir)?, &["where".to_owned(), variant])?;
    build_in(&root, kdir, how, Path::new(&folder))
}

/// Like [`build`], from the sources below `root` in the folder `work`. After an error no module is left there. Waits
/// while another command builds there, or uses a module from there.
pub(crate) fn build_in(root: &Path, kdir: &Path, how: &How<'_>, work: &Path) -> Result<Module> {
    let kdir = &headers(kdir)?;
    let in_use = lock(&work.join("in-use"), "another command that builds in this folder")?;
    let module = work.join("zosbd2.ko");
    let name = work.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let doing = narrate::doing(format!("building zosbd2.ko in {name}"));
    let object = {
        // `kernel/build.sh` takes the same lock for its half, also if people call `make -C kernel`.
        let _lock = lock(&work.join("lock"), "another build in this folder")?;
        if module.exists() {
            fs::remove_file(&module).with_context(|| format!("remove {}", module.display()))?;
        }
        object(root, kdir, how, work, &doing)?
    };
    doing.detail("C");
    link(root, kdir, how, work, &object)?;
    Ok(Module { path: module, _lock: in_use })
}

/// The folder, if it exists.
fn headers(kdir: &Path) -> Result<PathBuf> {
    kdir.canonicalize().with_context(|| format!("there are no kernel headers at {}", kdir.display()))
}

/// Makes the Rust object.
fn object(root: &Path, kdir: &Path, how: &How<'_>, work: &Path, doing: &Doing) -> Result<PathBuf> {
    doing.detail("Rust");
    let inputs = Inputs {
        toolchain: &Toolchain::Host,
        config: &Config::read(kdir)?,
        faults: how.variant == Variant::Faults,
        sources: root,
        cores: None,
        more: &[],
    };
    rust_object::build(&inputs, work)
}

/// Makes the module with this object.
fn link(root: &Path, kdir: &Path, how: &How<'_>, work: &Path, object: &Path) -> Result<()> {
    let toolchain = Toolchain::for_headers(kdir)?;
    let mut variables = vec![
        format!("O={}", work.display()),
        format!("VARIANT={}", how.variant.name()),
        format!("ZOSBD2_RUST={}", object.display()),
    ];
    if how.strict {
        variables.push("W=1".to_owned());
        if toolchain.has("sparse")? {
            variables.push("SPARSE=1".to_owned());
        }
    }
    if let Some((key, certificate)) = how.signed {
        variables.push(format!("SIGN_KEY={}", key.display()));
        variables.push(format!("SIGN_CERT={}", certificate.display()));
    }
    make(&toolchain, root, kdir, &variables).map(|_| ())
}

/// Runs `make -C kernel` in the sources below `root`, for the kernel whose headers are in `kdir`, with these variables
/// (`NAME=value`) or goals. Returns what it printed, by default the path of the module. The error is what it said.
pub(crate) fn make(toolchain: &Toolchain, root: &Path, kdir: &Path, variables: &[String]) -> Result<String> {
    let mut command = command::outside_make(toolchain.program("make"));
    command.arg("--no-print-directory").arg("-C").arg(root.join("kernel"));
    command.arg(format!("KDIR={}", kdir.display())).arg("ZOSBD2_QUIET=1").args(variables);
    let output = command.output().context("run make")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// `uname -r` of that kernel. `kernel.release` lacks the flavour on some Debian kernels.
pub(crate) fn release(kdir: &Path) -> Result<String> {
    let path = kdir.join("include/generated/utsrelease.h");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let quoted = text.lines().find_map(|line| line.strip_prefix("#define UTS_RELEASE "));
    let release = quoted.with_context(|| format!("{} has no UTS_RELEASE", path.display()))?;
    Ok(release.trim().trim_matches('"').to_owned())
}
