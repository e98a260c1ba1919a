// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask rust-object`: the kernel part's Rust as one relocatable object.
//!
//! Plain `rustc`, crate by crate, with the flags that the target kernel's configuration asks for
//! (docs/building.md says which and why), against a `core` compiled with the same flags. Only `core`'s
//! metadata is used: its object is never linked, so a panic, a formatted message or a float that survives
//! optimisation is an undefined symbol. The crates' objects are merged, and what is not an entry point
//! becomes local. Before the object is handed on, [`crate::gates::object`] looks at it.
//!
//! Errors name the command that failed; a half-made object is never left at the output path.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::paths;

/// The target kernel's configuration, from `include/config/auto.conf`.
#[derive(Debug)]
pub(crate) struct Config(BTreeMap<String, String>);

impl Config {
    /// Reads the configuration of the kernel whose headers are in `kdir`.
    pub(crate) fn read(kdir: &Path) -> Result<Self> {
        let path = kdir.join("include/config/auto.conf");
        let text = fs::read_to_string(&path).with_context(|| {
            format!("read {}: {} are no configured kernel headers", path.display(), kdir.display())
        })?;
        let entries = text.lines().filter_map(|line| line.split_once('='));
        Ok(Self(entries.map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned())).collect()))
    }

    /// Whether `CONFIG_name` is `y`.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.value(name) == Some("y")
    }

    /// Whether `CONFIG_name` or the name it had in older kernels is `y`.
    pub(crate) fn any_set(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.is_set(name))
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.0.get(&format!("CONFIG_{name}")).map(String::as_str)
    }
}

/// Flags for every crate, by what the target kernel wants.
fn flags(config: &Config) -> Result<Vec<String>> {
    ensure!(
        config.is_set("X86_64"),
        "the target kernel is not x86-64: no other architecture is supported (yet)"
    );
    let mut flags: Vec<String> = [
        "--edition=2024",
        "--crate-type=rlib",
        "--emit=obj,metadata",
        "--target=x86_64-unknown-none",
        "--sysroot=/dev/null",
        "-Cpanic=abort",
        "-Cembed-bitcode=n",
        "-Ccodegen-units=1",
        "-Copt-level=2",
        "-Csymbol-mangling-version=v0",
        "-Cforce-unwind-tables=n",
        "-Zfunction-sections=n",
        "-Crelocation-model=static",
        "-Ccode-model=kernel",
        "-Cno-redzone=y",
        "-Ctarget-cpu=x86-64",
        "-Cdebug-assertions=n",
        "-Coverflow-checks=n",
        "-Cdebuginfo=1",
        // Together these keep the object free of GOT relocations, which a module loader refuses.
        "-Zplt=yes",
        "-Zdirect-access-external-data=yes",
        "--cfg=zosbd2_kernel",
    ]
    .map(str::to_owned)
    .to_vec();
    let mut features = Vec::new();
    let retpoline = config.any_set(&["MITIGATION_RETPOLINE", "RETPOLINE"]);
    if config.is_set("X86_KERNEL_IBT") {
        flags.push("-Zcf-protection=branch".to_owned());
    }
    if config.is_set("X86_KERNEL_IBT") || retpoline {
        flags.push("-Cjump-tables=n".to_owned());
    }
    if retpoline {
        flags.push("-Zretpoline-external-thunk".to_owned());
        flags.push("-Zindirect-branch-cs-prefix".to_owned());
    }
    if config.any_set(&["MITIGATION_RETHUNK", "RETHUNK"]) {
        flags.push("-Zfunction-return=thunk-extern".to_owned());
    }
    if config.any_set(&["MITIGATION_SLS", "SLS"]) {
        features.extend(["+harden-sls-ijmp", "+harden-sls-ret"]);
    }
    if config.is_set("CALL_PADDING") {
        let bytes =
            config.value("FUNCTION_PADDING_BYTES").context("CONFIG_FUNCTION_PADDING_BYTES is unset")?;
        flags.push(format!("-Zpatchable-function-entry={bytes},{bytes}"));
    }
    if config.is_set("FRAME_POINTER") {
        flags.push("-Cforce-frame-pointers=y".to_owned());
    }
    if config.any_set(&["CFI_CLANG", "CFI"]) {
        bail!("the target kernel uses kCFI, with which the Rust object was never tried");
    }
    if !features.is_empty() {
        flags.push(format!("-Ctarget-feature={}", features.join(",")));
    }
    Ok(flags)
}

fn rustc(arguments: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>) -> Command {
    let mut command = Command::new("rustc");
    // The flags are unstable options of a stable compiler, as in the kernel's own build.
    command.env("RUSTC_BOOTSTRAP", "1").args(arguments);
    command
}

/// rustc hands the two SLS features on to LLVM, as wanted, and says that it does not know them itself.
fn expected_warning(block: &str) -> bool {
    let block = block.trim();
    block.is_empty()
        || block.starts_with(
            "warning: unknown and unstable feature specified for `-Ctarget-feature`: `harden-sls-",
        )
        || (block.ends_with("emitted") && block.starts_with("warning: "))
}

/// Runs a command and returns what it printed; a warning is an error too.
fn run_quiet(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed:\n{errors}");
    let warnings: Vec<&str> = errors.split("\n\n").filter(|block| !expected_warning(block)).collect();
    ensure!(warnings.is_empty(), "{command:?} warned:\n{}", warnings.join("\n\n"));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Builds the object for the kernel of `kdir` into `out/zosbd2_rust.o`, leaving an unstripped copy beside it.
pub(crate) fn build(kdir: &Path, faults: bool, root: &Path, out: &Path) -> Result<PathBuf> {
    let config = Config::read(kdir)?;
    let mut flags = flags(&config)?;
    let core = crate::core_lib::metadata(&flags)?;
    flags.push(format!("-L{}", core.display()));
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
        let mut command = rustc(&flags);
        command.arg(format!("--crate-name={name}")).arg(format!("--out-dir={}", work.display()));
        command.arg(format!("-L{}", work.display())).arg(root.join(source));
        command.arg(format!("--remap-path-prefix={}=.", root.display()));
        // Cargo's lint levels do not apply here, and unknown cfgs would be warned about.
        for earlier in objects.iter().map(PathBuf::as_path) {
            command.arg(extern_argument(earlier, &work)?);
        }
        command.arg("--check-cfg=cfg(zosbd2_faults,zosbd2_kernel)");
        run_quiet(&mut command)?;
        objects.push(work.join(format!("{name}.o")));
    }
    let merged = out.join("zosbd2_rust.unstripped.o");
    run_quiet(Command::new("ld").arg("-r").arg("-o").arg(&merged).args(&objects))?;
    let object = out.join("zosbd2_rust.o");
    let unfinished = out.join("zosbd2_rust.o.new");
    let mut objcopy = Command::new("objcopy");
    objcopy.arg("--strip-debug").arg("--remove-section=.comment");
    objcopy.arg(format!("--keep-global-symbols={}", root.join("kernel/exports.txt").display()));
    run_quiet(objcopy.arg(&merged).arg(&unfinished))?;
    crate::gates::object(&unfinished, root, &config)?;
    fs::rename(&unfinished, &object).with_context(|| format!("rename to {}", object.display()))?;
    Ok(object)
}

/// `--extern` for a crate compiled before, whose metadata is beside its object.
fn extern_argument(object: &Path, work: &Path) -> Result<String> {
    let name = object.file_stem().context("an object without a name")?.to_string_lossy();
    Ok(format!("--extern={name}={}", work.join(format!("lib{name}.rmeta")).display()))
}

/// Compiles `core` and the empty `compiler_builtins` with these flags into `out`.
pub(crate) fn build_core(flags: &[String], source: &Path, out: &Path) -> Result<()> {
    let builtins = out.join("compiler_builtins.rs");
    fs::write(
        &builtins,
        "#![feature(compiler_builtins)]\n#![compiler_builtins]\n#![no_builtins]\n#![no_std]\n",
    )
    .with_context(|| format!("write {}", builtins.display()))?;
    let mut command = rustc(flags);
    command.args(["--crate-name=core", "--cap-lints=allow", "--cfg=no_fp_fmt_parse"]);
    command.arg(format!("--out-dir={}", out.display())).arg(source.join("core/src/lib.rs"));
    run_quiet(&mut command).context("compile core")?;
    let mut command = rustc(flags);
    command.args(["--crate-name=compiler_builtins", "--cap-lints=allow"]);
    command.arg(format!("--out-dir={}", out.display())).arg(format!("-L{}", out.display())).arg(&builtins);
    run_quiet(&mut command).context("compile the empty compiler_builtins")?;
    Ok(())
}

/// The version of `rustc`, as `1.95.0`.
pub(crate) fn rustc_version() -> Result<String> {
    let text = run_quiet(Command::new("rustc").arg("--version")).context("is Rust installed?")?;
    let version = text.split_whitespace().nth(1).context("`rustc --version` names no version")?;
    Ok(version.to_owned())
}

/// `rustc --print sysroot`.
pub(crate) fn sysroot() -> Result<PathBuf> {
    Ok(PathBuf::from(run_quiet(Command::new("rustc").args(["--print", "sysroot"]))?.trim()))
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
    let object = build(&arguments.kdir, arguments.faults, &paths::root(), &arguments.out)?;
    println!("{}", object.display());
    Ok(())
}
