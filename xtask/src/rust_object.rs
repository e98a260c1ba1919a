// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask rust-object`: compiles the kernel part's Rust into one relocatable object.
//!
//! It runs plain `rustc` crate by crate, with the flags for the target kernel's configuration (docs/building.md
//! has the flags and reasons), against a `core` compiled with the same flags. Only the metadata of `core` is used:
//! its object is never linked, so a panic, a formatted message or a float that survives optimisation is an
//! undefined symbol. The crates' objects are merged, and all symbols except entry points become local. Finally
//! [`crate::gates::object`] checks the object.
//!
//! An error names the failed command. An incomplete object is never left at the output path.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::rust_flags::{self, Config, Core};
use crate::toolchain::Toolchain;
use crate::{command, core_lib, paths};

/// rustc passes the two SLS features on to LLVM, as intended, and warns that it does not know them; so does an older
/// rustc with the retpoline features, for which it has no options of its own. It also warns that the host's `core` was
/// compiled for another ABI, but none of that compiled code is used.
fn expected_warning(block: &str) -> bool {
    let block = block.trim();
    let expected = [
        "warning: unknown and unstable feature specified for `-Ctarget-feature`: `harden-sls-",
        "warning: unknown and unstable feature specified for `-Ctarget-feature`: `retpoline-",
        "warning: target feature `",
        "warning: unstable feature specified for `-Ctarget-feature`",
    ];
    block.is_empty()
        || expected.iter().any(|start| block.starts_with(start))
        || (block.ends_with("emitted") && block.starts_with("warning: "))
}

/// Runs a command and returns its output. A warning is an error, too.
fn run_quiet(command: &mut Command) -> Result<String> {
    let output = command::finish(command)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    let warnings: Vec<&str> = errors.split("\n\n").filter(|block| !expected_warning(block)).collect();
    ensure!(warnings.is_empty(), "{command:?} warned:\n{}", warnings.join("\n\n"));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What an object is built from.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub(crate) toolchain: &'a Toolchain,
    /// The kernel's configuration.
    pub(crate) config: &'a Config,
    /// With steps that fail on demand.
    pub(crate) faults: bool,
    /// The project, or a copy of it.
    pub(crate) sources: &'a Path,
    /// Folder for compiled `core`s; without one the cache.
    pub(crate) cores: Option<&'a Path>,
    /// More flags for rustc, for the crates and for `core`.
    pub(crate) more: &'a [&'a str],
}

/// Builds the object into `out/zosbd2_rust.o`. Leaves beside it the conditions that a kernel must meet
/// (`zosbd2_rust.conf`), and an unstripped copy.
pub(crate) fn build(inputs: &Inputs<'_>, out: &Path) -> Result<PathBuf> {
    let &Inputs { toolchain, config, faults, sources, cores, more } = inputs;
    let mut flags = match core_lib::source(toolchain) {
        Ok(source) => {
            let mut flags = rust_flags::flags(toolchain, config, Core::Source)?;
            flags.extend(more.iter().map(|&flag| flag.to_owned()));
            let core = core_lib::metadata(toolchain, &flags, &source, cores)?;
            flags.push(format!("-L{}", core.display()));
            flags
        }
        Err(error) if !toolchain.is_host() => return Err(error),
        Err(error) => {
            println!("using the metadata of the host's core, because its source cannot be had: {error:#}");
            rust_flags::flags(toolchain, config, Core::Host)?
        }
    };
    if faults {
        flags.push("--cfg=zosbd2_faults".to_owned());
    }
    let work = out.join("rust");
    fs::create_dir_all(&work).with_context(|| format!("create {}", work.display()))?;
    let crates = [
        ("zosbd2_abi", "abi/src/lib.rs"),
        ("zosbd2_engine", "engine/src/lib.rs"),
        ("zosbd2_glue", "kernel/glue/src/lib.rs"),
    ];
    let mut objects = Vec::new();
    for (name, source) in crates {
        let mut command = toolchain.rustc();
        command.args(&flags).arg(rust_flags::EDITION);
        command.arg(format!("--crate-name={name}")).arg(format!("--out-dir={}", work.display()));
        command.arg(format!("-L{}", work.display())).arg(sources.join(source));
        command.arg(format!("--remap-path-prefix={}=.", sources.display()));
        // Cargo's lint levels do not apply here, and rustc would warn about unknown cfgs.
        for earlier in objects.iter().map(PathBuf::as_path) {
            command.arg(extern_argument(earlier, &work)?);
        }
        command.arg("--check-cfg=cfg(test,zosbd2_faults,zosbd2_kernel)");
        run_quiet(&mut command)?;
        objects.push(work.join(format!("{name}.o")));
    }
    let binutils = config.arch()?.binutils;
    let merged = out.join("zosbd2_rust.unstripped.o");
    let mut ld = toolchain.program(&format!("{binutils}ld"));
    run_quiet(ld.arg("-r").arg("-o").arg(&merged).args(&objects))?;
    let object = out.join("zosbd2_rust.o");
    let unfinished = out.join("zosbd2_rust.o.new");
    let mut objcopy = toolchain.program(&format!("{binutils}objcopy"));
    objcopy.args(["--strip-debug", "--remove-section=.comment"]);
    // The host's target has unwind tables for user space; the kernel has its own.
    objcopy.arg("--remove-section=.eh_frame");
    objcopy.arg(format!("--keep-global-symbols={}", sources.join("kernel/exports.txt").display()));
    run_quiet(objcopy.arg(&merged).arg(&unfinished))?;
    crate::gates::object(&unfinished, sources, config)?;
    let conditions = rust_flags::conditions(config)?;
    let conditions = conditions.iter().map(|(names, value)| (names.as_str(), value.as_str()));
    let beside = object.with_extension("conf");
    fs::write(&beside, rust_flags::conditions_text(conditions))
        .with_context(|| format!("write {}", beside.display()))?;
    fs::rename(&unfinished, &object).with_context(|| format!("rename to {}", object.display()))?;
    Ok(object)
}

/// `--extern` for a crate that was compiled before; its metadata is beside its object.
fn extern_argument(object: &Path, work: &Path) -> Result<String> {
    let name = object.file_stem().context("an object without a name")?.to_string_lossy();
    Ok(format!("--extern={name}={}", work.join(format!("lib{name}.rmeta")).display()))
}

/// Compiles `core` and the empty `compiler_builtins` with these flags into `out`.
pub(crate) fn build_core(toolchain: &Toolchain, flags: &[String], source: &Path, out: &Path) -> Result<()> {
    let builtins = out.join("compiler_builtins.rs");
    fs::write(
        &builtins,
        "#![feature(compiler_builtins)]\n#![compiler_builtins]\n#![no_builtins]\n#![no_std]\n",
    )
    .with_context(|| format!("write {}", builtins.display()))?;
    let edition = format!("--edition={}", core_lib::edition(toolchain, source)?);
    let mut command = toolchain.rustc();
    command.args(flags).arg(&edition).args([
        "--crate-name=core",
        "--cap-lints=allow",
        "--cfg=no_fp_fmt_parse",
    ]);
    command.arg(format!("--out-dir={}", out.display())).arg(source.join("core/src/lib.rs"));
    run_quiet(&mut command).context("compile core")?;
    let mut command = toolchain.rustc();
    command.args(flags).arg(&edition).args(["--crate-name=compiler_builtins", "--cap-lints=allow"]);
    command.arg(format!("--out-dir={}", out.display())).arg(format!("-L{}", out.display())).arg(&builtins);
    run_quiet(&mut command).context("compile the empty compiler_builtins")?;
    Ok(())
}

/// The version of `rustc`, as `1.95.0`.
pub(crate) fn rustc_version(toolchain: &Toolchain) -> Result<String> {
    let text = rustc_identity(toolchain)?;
    let version = text.split_whitespace().nth(1).context("`rustc --version` names no version")?;
    Ok(version.to_owned())
}

/// Identifies a `rustc` exactly: another `rustc` cannot use its metadata, even if the version is the same.
pub(crate) fn rustc_identity(toolchain: &Toolchain) -> Result<String> {
    run_quiet(toolchain.rustc().args(["--version", "--verbose"])).context("is Rust installed?")
}

/// `rustc --print sysroot`.
pub(crate) fn sysroot(toolchain: &Toolchain) -> Result<PathBuf> {
    Ok(PathBuf::from(run_quiet(toolchain.rustc().args(["--print", "sysroot"]))?.trim()))
}

/// Arguments of `cargo xtask rust-object`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Headers of the kernel to build for
    #[arg(long)]
    kdir: PathBuf,
    /// Folder for the object
    #[arg(long)]
    out: PathBuf,
    /// Build the faults variant
    #[arg(long)]
    faults: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let inputs = Inputs {
        toolchain: &Toolchain::Host,
        config: &Config::read(&arguments.kdir)?,
        faults: arguments.faults,
        sources: &paths::root(),
        cores: None,
        more: &[],
    };
    let object = build(&inputs, &arguments.out)?;
    println!("{}", object.display());
    Ok(())
}
