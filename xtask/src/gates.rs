// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask gates`: checks of the object and the module that no compiler makes.
//!
//! [`object`] is part of every build: a surviving panic, a float, or a relocation that a module loader refuses
//! makes the build fail. The command builds the tested variants of the module for each kernel and reports every gate:
//! the gates of the object; warnings of compiler, objtool, modpost and sparse; the module's own data; unwind data;
//! then the gates of the sources, and the planted faults. It reports all gates, and then fails if any gate failed.

mod elf;
mod older;
mod orc;
mod packages;
mod planted;
mod sources;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use zosbd2_vm::arch::Arch;
use zosbd2_vm::kernels::{self, Kernel, KernelName};

use crate::kmod::{self, How, Variant};
use crate::rust_flags::Config;
use crate::toolchain::Toolchain;
use crate::{command, dist, narrate, paths};

/// Largest stack frame of a Rust function, in bytes. Kbuild checks the same for C.
const MAX_FRAME: u64 = 1024;
/// Largest frame with KASAN, which pads stack variables. There the kernel's stacks are twice as long, 32 KiB.
const MAX_FRAME_KASAN: u64 = 5120;

/// Runs a tool of binutils on a file and returns its output.
fn run_tool(program: &str, arguments: &[&str], file: &Path) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .arg(file)
        .env("LC_ALL", "C")
        .output()
        .with_context(|| format!("run {program} (Debian: package binutils)"))?;
    ensure!(
        output.status.success(),
        "{program} {} failed: {}",
        file.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A gate of the Rust object. Returns a summary, or an error.
type Gate = fn(&Object<'_>) -> Result<String>;

/// A Rust object, and the kernel that it is for.
struct Object<'a> {
    path: &'a Path,
    exports: &'a [String],
    imports: &'a [String],
    config: &'a Config,
    arch: &'static Arch,
}

impl Object<'_> {
    /// Runs a tool of binutils on the object.
    fn tool(&self, program: &str, arguments: &[&str]) -> Result<String> {
        run_tool(&format!("{}{program}", self.arch.binutils), arguments, self.path)
    }
}

const OBJECT_GATES: [(&str, Gate); 8] = [
    ("stack-protector", stack_protector),
    ("kasan", kasan),
    ("undefined-symbols", undefined_symbols),
    ("relocations", relocations),
    ("instructions", instructions),
    ("stack", stack),
    ("sections", sections),
    ("exports", entry_points),
];

/// Every gate that the Rust object must pass before it is linked.
pub(crate) fn object(path: &Path, root: &Path, config: &Config) -> Result<()> {
    let arch = config.arch()?;
    let (exports, imports) = (exports(root)?, imports(root, arch)?);
    let object = Object { path, exports: &exports, imports: &imports, config, arch };
    for (name, gate) in OBJECT_GATES {
        gate(&object).with_context(|| format!("gate {name} stops the build"))?;
    }
    Ok(())
}

/// The gates of a linked module, with their results. `headers` are those of its kernel, and `root` has its sources.
pub(crate) fn linked(
    module: &Path,
    root: &Path,
    headers: &Path,
) -> Result<[(&'static str, Result<String>); 2]> {
    let config = Config::read(headers)?;
    let unwind = if config.is_set("UNWINDER_ORC") {
        orc::gate(module, config.arch()?, &exports(root)?)
    } else {
        // objtool checks that each function that calls another one sets up a frame.
        Ok("this kernel follows frame pointers".to_owned())
    };
    Ok([("modinfo", module_says(module, &kmod::release(headers)?, &config)), ("unwind", unwind)])
}

/// The entry points in `kernel/exports.txt`.
fn exports(root: &Path) -> Result<Vec<String>> {
    names(root, "exports.txt")
}

/// The symbols that the object may use besides the shim's functions.
fn imports(root: &Path, arch: &Arch) -> Result<Vec<String>> {
    names(root, &format!("imports-{}.txt", arch.debian))
}

/// The names in a file of the folder `kernel`, one on each line.
fn names(root: &Path, file: &str) -> Result<Vec<String>> {
    let path = root.join("kernel").join(file);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// rustc reads the stack canary at `%gs:40`. Newer kernels keep it elsewhere, and a function that reads it
/// there would report a smashed stack sooner or later. So no function may have a stack protector, or read
/// per-CPU data.
fn stack_protector(object: &Object<'_>) -> Result<String> {
    let table = object.tool("nm", &["--undefined-only", "--format=just-symbols"])?;
    let asked = table.lines().map(str::trim).find(|name| name.starts_with("__stack_chk"));
    ensure!(
        asked.is_none(),
        "the Rust object refers to {}: it has a stack protector",
        asked.unwrap_or_default()
    );
    let text = object.tool("objdump", &["--disassemble", "--no-show-raw-insn"])?;
    for Instruction { function, text, .. } in disassemble(&text) {
        let per_cpu = object.arch.object.per_cpu.iter().any(|segment| text.contains(segment));
        ensure!(!per_cpu, "{function} reads per-CPU data, as a stack protector does: {text}");
    }
    Ok("none, and no per-CPU data".to_owned())
}

/// The object calls KASAN if and only if the kernel has KASAN.
fn kasan(object: &Object<'_>) -> Result<String> {
    let table = object.tool("nm", &["--undefined-only", "--format=just-symbols"])?;
    let count = table.lines().filter(|name| name.trim().starts_with("__asan_")).count();
    match (object.config.is_set("KASAN"), count) {
        (false, 0) => Ok("not in this kernel".to_owned()),
        (false, _) => bail!("the Rust object calls KASAN, which the kernel does not have"),
        (true, 0) => bail!("the kernel has KASAN, and nothing in the Rust object calls it"),
        (true, _) => Ok(format!("{count} symbols of KASAN")),
    }
}

/// No code of `core` is linked, so a remaining call into `core` is an undefined symbol. Besides the shim's functions
/// the object may use what the list of its architecture has, such as `kernel/imports-amd64.txt`.
fn undefined_symbols(object: &Object<'_>) -> Result<String> {
    let table = object.tool("nm", &["--undefined-only", "--format=just-symbols"])?;
    let checks = object.config.is_set("KASAN");
    let imports = object.imports;
    let is_known = |name: &&str| {
        name.starts_with("zosbd2_")
            || imports.iter().any(|import| import == name)
            || (checks && name.starts_with("__asan_"))
    };
    let (known, foreign): (Vec<&str>, Vec<&str>) = table.lines().map(str::trim).partition(is_known);
    ensure!(
        foreign.is_empty(),
        "the Rust object wants {}: a panic, a formatted message or arithmetic without an instruction has \
         survived",
        foreign.join(", ")
    );
    Ok(format!("{} symbols, all of the shim or the kernel", known.len()))
}

fn relocations(object: &Object<'_>) -> Result<String> {
    let table = object.tool("readelf", &["--relocs", "--wide"])?;
    let kinds = table.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with("R_")));
    let kinds: BTreeSet<&str> = kinds.collect();
    let known = object.arch.object.relocations;
    let refused: Vec<_> = kinds.iter().filter(|kind| !known.contains(kind)).copied().collect();
    ensure!(refused.is_empty(), "the module loader does not know {}", refused.join(", "));
    Ok(kinds.into_iter().collect::<Vec<_>>().join(", "))
}

/// An instruction, and the function that contains it.
struct Instruction<'a> {
    function: &'a str,
    text: &'a str,
    is_first: bool,
}

fn disassemble(text: &str) -> Vec<Instruction<'_>> {
    let (mut function, mut is_first) = ("", false);
    let mut instructions = Vec::new();
    for line in text.lines() {
        if let Some((_, name)) = line.strip_suffix(">:").and_then(|line| line.split_once('<')) {
            (function, is_first) = (name, true);
        } else if let Some((_, text)) = line.split_once(":\t") {
            instructions.push(Instruction { function, text: text.trim(), is_first });
            is_first = false;
        }
    }
    instructions
}

/// Checks that no instruction uses a float or vector register, and that the hardening of the kernel's
/// configuration is present.
fn instructions(object: &Object<'_>) -> Result<String> {
    let text = object.tool("objdump", &["--disassemble", "--no-show-raw-insn"])?;
    let instructions = disassemble(&text);
    let (plain_return, thunks) = object.arch.object.plain_return;
    let thunks = object.config.any_set(thunks);
    let (landing_pad, landing_pads) = object.arch.object.landing_pad;
    let landing_pads = object.config.is_set(landing_pads);
    let mut landed = 0_usize;
    for Instruction { function, text, is_first } in &instructions {
        let is_float = object.arch.object.float_registers.iter().any(|register| text.contains(register));
        ensure!(!is_float, "float or vector code in {function}: {text}");
        let name = text.split_whitespace().next().unwrap_or_default();
        ensure!(!(thunks && name.starts_with(plain_return)), "{function} returns without the kernel's thunk");
        let is_indirect = (name.starts_with("call") || name.starts_with("jmp")) && text.contains('*');
        ensure!(!is_indirect, "indirect branch in {function}: {text}");
        if *is_first && object.exports.iter().any(|export| export == function) {
            ensure!(!landing_pads || name == landing_pad, "{function} does not begin with {landing_pad}");
            landed += 1;
        }
    }
    ensure!(landed == object.exports.len(), "the object has code for {landed} of the entry points");
    Ok(format!("{} instructions", instructions.len()))
}

/// Checks the stack frames. The kernel's stack is small, and a server's call is deep if its memory faults.
fn stack(object: &Object<'_>) -> Result<String> {
    let text = object.tool("objdump", &["--disassemble", "--no-show-raw-insn"])?;
    let (mut largest, mut where_largest) = (0, "");
    for Instruction { function, text, .. } in disassemble(&text) {
        let amount = text.strip_prefix("sub").and_then(|rest| {
            let (amount, register) = rest.split_once('$')?.1.split_once(',')?;
            (register.trim() == object.arch.object.stack_pointer).then_some(amount)
        });
        let Some(amount) = amount else { continue };
        let amount = u64::from_str_radix(amount.trim_start_matches("0x"), 16)
            .with_context(|| format!("{function} uses a strange amount of stack: {text}"))?;
        if amount > largest {
            (largest, where_largest) = (amount, function);
        }
    }
    let most = if object.config.is_set("KASAN") { MAX_FRAME_KASAN } else { MAX_FRAME };
    ensure!(largest <= most, "{where_largest} uses {largest} bytes, more than {most}");
    Ok(format!("{largest} bytes at most, in {where_largest}"))
}

/// Checks that there are no unwind tables for user space, no constructors, and no writable data.
fn sections(object: &Object<'_>) -> Result<String> {
    let table = object.tool("readelf", &["--sections", "--wide"])?;
    for line in table.lines() {
        let Some((_, rest)) = line.split_once("] ") else { continue };
        let mut words = rest.split_whitespace();
        let (Some(name), size) = (words.next(), words.nth(3)) else { continue };
        let empty = size.is_some_and(|size| size.trim_matches('0').is_empty());
        let refused = [".eh_frame", ".init_array", ".data", ".bss", ".tdata", ".tbss"];
        let found = refused.iter().any(|prefix| name == *prefix || name.starts_with(&format!("{prefix}.")));
        ensure!(!found || empty, "the Rust object has a section {name}");
    }
    Ok("nothing writable, no constructors".to_owned())
}

/// Checks that the unmangled functions are those of `kernel/exports.txt`, no more and no fewer. The merge made all
/// other symbols local, so an entry point that is only missing in the file shows by its name.
fn entry_points(object: &Object<'_>) -> Result<String> {
    let names = |arguments| -> Result<BTreeSet<String>> {
        let table = object.tool("nm", arguments)?;
        let symbols = table.lines().filter_map(|line| line.split_once(' ')?.1.split_once(' '));
        let functions = symbols.filter(|(kind, _)| kind.eq_ignore_ascii_case("t"));
        Ok(functions
            .map(|(_, name)| name.to_owned())
            .filter(|name| !name.starts_with("_R") && !name.starts_with('.'))
            .collect())
    };
    let unmangled = names(&["--defined-only"])?;
    let global = names(&["--defined-only", "--extern-only"])?;
    let wanted: BTreeSet<String> = object.exports.iter().cloned().collect();
    let missing: Vec<_> = wanted.difference(&global).collect();
    let surplus: Vec<_> = unmangled.difference(&wanted).collect();
    ensure!(
        missing.is_empty() && surplus.is_empty(),
        "kernel/exports.txt and the Rust object differ: missing {missing:?}, surplus {surplus:?}"
    );
    Ok(format!("{} entry points", wanted.len()))
}

/// Builds a module with a new key, and checks that it names the key's owner as its signer.
fn signed(kdir: &Path) -> Result<String> {
    let folder = paths::root().join("target/signed");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let (key, certificate) = (folder.join("key.pem"), folder.join("certificate.der"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-outform", "DER"]);
    openssl.args(["-subj", "/CN=zosbd2 gate/", "-keyout"]).arg(&key).arg("-out").arg(&certificate);
    command::finish(&mut openssl).context("make a key (Debian: package openssl)")?;
    let how = How { signed: Some((&key, &certificate)), ..How::plain(Variant::Release) };
    let module = kmod::build_in(&paths::root(), kdir, &how, &folder)?;
    let signer = run_tool("/sbin/modinfo", &["--field", "signer"], module.path())?.trim().to_owned();
    ensure!(signer == "zosbd2 gate", "the module names {signer:?} as its signer");
    Ok(format!("by {signer}"))
}

/// Checks the output of `modinfo`.
fn module_says(module: &Path, release: &str, config: &Config) -> Result<String> {
    let field = |name: &str| -> Result<String> {
        Ok(run_tool("/sbin/modinfo", &["--field", name], module)?.trim().to_owned())
    };
    let (license, magic, name) = (field("license")?, field("vermagic")?, field("name")?);
    ensure!(license == "GPL", "the license is {license:?}");
    ensure!(name == "zosbd2", "the name is {name:?}");
    ensure!(magic.split(' ').next() == Some(release), "it is for {magic:?}, not for {release}");
    if config.any_set(&["MITIGATION_RETPOLINE", "RETPOLINE"]) {
        ensure!(field("retpoline")? == "Y", "it does not claim retpolines");
    }
    ensure!(field("depends")?.is_empty(), "it depends on other modules");
    Ok(magic)
}

/// The gates that passed, failed and were left out.
#[derive(Debug, Default)]
struct Report {
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<String>,
}

impl Report {
    fn gate(&mut self, scope: &str, name: &str, result: Result<String>) {
        match result {
            Ok(detail) => {
                println!("pass  {scope:<36} {name:<18} {detail}");
                narrate::said();
                self.passed += 1;
            }
            Err(error) => {
                println!("FAIL  {scope:<36} {name:<18} {error:#}");
                self.failed.push(format!("{scope} {name}"));
            }
        }
    }

    fn skip(&mut self, scope: &str, name: &str, reason: impl std::fmt::Display) {
        println!("skip  {scope:<36} {name:<18} {reason}");
        narrate::said();
        self.skipped.push(format!("{scope} {name}: {reason}"));
    }

    /// Prints the counts. Returns what was left out; an error if a gate failed.
    fn end(self) -> Result<Vec<String>> {
        let Self { passed, failed, skipped } = self;
        println!("{passed} gates passed, {} failed, {} skipped", failed.len(), skipped.len());
        ensure!(failed.is_empty(), "gates failed: {}", failed.join("; "));
        Ok(skipped)
    }
}

/// Arguments of the command.
#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// Headers of a kernel to build for; may be repeated. Without: every kernel that was fetched or built
    #[arg(long)]
    kdir: Vec<PathBuf>,
    /// Only plant faults and see that each makes the build fail
    #[arg(long)]
    planted: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    check(arguments).map(drop)
}

/// Runs the gates, and returns what was left out, with the reasons.
pub(crate) fn check(arguments: &Arguments) -> Result<Vec<String>> {
    let (mut report, mut modules) = (Report::default(), Vec::new());
    for kdir in &arguments.kdir {
        modules.extend([Variant::Faults, Variant::Release].map(|variant| (kdir.clone(), variant)));
    }
    if modules.is_empty() {
        modules = every_module(&mut report, kernels::find);
    }
    let Some((last, _)) = modules.last() else {
        bail!("no kernel's headers are there: `cargo xtask fetch` gets them, --kdir names others");
    };
    if !arguments.planted {
        for (kdir, variant) in &modules {
            module(&mut report, kdir, *variant)?;
        }
        for (name, gate) in sources::GATES {
            let _doing = narrate::doing(format!("gate {name}"));
            report.gate("sources", name, gate());
        }
        older::run(&mut report);
        report.gate("signature", "signed", signed(last));
        report.gate("archive", "reproducible", dist::reproducible());
    }
    planted::run(&mut report, last);
    report.end()
}

/// Runs the gates of one kernel's modules, and returns what was left out.
pub(crate) fn of_kernel(kernel: &Kernel) -> Result<Vec<String>> {
    let mut report = Report::default();
    for variant in [Variant::Faults, Variant::Release] {
        module(&mut report, &kernel.headers, variant)?;
    }
    report.end()
}

/// The modules to check: for each kernel that `find` finds the headers and the variant. The others are reported.
fn every_module(
    report: &mut Report,
    find: impl Fn(KernelName) -> zosbd2_vm::Result<Kernel>,
) -> Vec<(PathBuf, Variant)> {
    let mut modules = Vec::new();
    // The last one is of the lines that `make test` fetches.
    let stock = KernelName::all_stock().filter(|name| !KernelName::STOCK.contains(name));
    for name in [KernelName::DEBUG].into_iter().chain(stock).chain(KernelName::STOCK) {
        let kernel = match find(name) {
            Ok(kernel) => kernel,
            Err(error) => {
                report.skip(&name.to_string(), "all", error);
                continue;
            }
        };
        // No test uses the faults variant on the generic flavours, which have the same sources and compiler.
        if !name.is_generic() {
            modules.push((kernel.headers.clone(), Variant::Faults));
        }
        modules.push((kernel.headers, Variant::Release));
    }
    modules
}

/// Builds a module and reports its gates.
fn module(report: &mut Report, kdir: &Path, variant: Variant) -> Result<()> {
    let root = paths::root();
    let config = Config::read(kdir)?;
    let release = kmod::release(kdir)?;
    let scope = format!("{release} {}", variant.name());
    // One build passes both gates. After an error, a build as users do it tells which of them failed.
    let checked = kmod::build(kdir, &How { strict: true, ..How::plain(variant) });
    let (built, sparse) = match checked {
        Ok(module) => (Ok(module), Ok("nothing to say".to_owned())),
        Err(error) => (kmod::build(kdir, &How::plain(variant)), Err(error)),
    };
    let module = match built {
        Ok(module) => {
            report.gate(&scope, "build", Ok("compiler, objtool and modpost are silent".to_owned()));
            module
        }
        Err(error) => {
            report.gate(&scope, "build", Err(error));
            return Ok(());
        }
    };
    let arch = config.arch()?;
    let (exports, imports) = (exports(&root)?, imports(&root, arch)?);
    let path = module.path().with_file_name("zosbd2_rust.o");
    let object = Object { path: &path, exports: &exports, imports: &imports, config: &config, arch };
    for (name, gate) in OBJECT_GATES {
        report.gate(&scope, name, gate(&object));
    }
    for (name, result) in linked(module.path(), &root, kdir)? {
        report.gate(&scope, name, result);
    }
    if Toolchain::for_headers(kdir)?.has("sparse")? {
        report.gate(&scope, "sparse", sparse);
    } else {
        report.skip(&scope, "sparse", "the toolchain for this kernel has no sparse");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_know_their_function() {
        let text = "\n0000000000000010 <first>:\n  10:\tendbr64\n  14:\tcall   19 <first+0x9>\n\n\
                    0000000000000020 <second>:\n  20:\tsub    $0x18,%rsp\n";
        let found: Vec<_> = disassemble(text)
            .iter()
            .map(|instruction| (instruction.function, instruction.text, instruction.is_first))
            .collect();
        let expected = [
            ("first", "endbr64", true),
            ("first", "call   19 <first+0x9>", false),
            ("second", "sub    $0x18,%rsp", true),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn each_kernel_is_checked_or_reported_as_skipped() {
        let find = |there: &'static [&str]| {
            move |name: KernelName| {
                let short = name.to_string();
                if !there.contains(&short.as_str()) {
                    return Err(zosbd2_vm::Error::NotFetched(short));
                }
                let headers = PathBuf::from(&short);
                Ok(Kernel { name, release: short, vmlinuz: PathBuf::new(), modules: PathBuf::new(), headers })
            }
        };
        let mut report = Report::default();
        let modules = every_module(&mut report, find(&["6.1", "6.12-generic", "sid"]));
        let modules: Vec<_> =
            modules.iter().map(|(path, variant)| (path.to_str().unwrap(), *variant)).collect();
        let (faults, release) = (Variant::Faults, Variant::Release);
        let expected =
            [("sid", faults), ("sid", release), ("6.1", faults), ("6.1", release), ("6.12-generic", release)];
        assert_eq!(modules, expected);
        let skipped: Vec<_> = report.skipped.iter().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(skipped, ["debug", "6.12-trixie", "backports", "6.12", "6.1-generic"]);
        assert!(report.skipped[1].contains("cargo xtask fetch 6.12-trixie"), "{:?}", report.skipped);
        assert_eq!(every_module(&mut Report::default(), find(&[])), []);
    }

    #[test]
    fn a_failed_gate_is_an_error_that_names_it() {
        let mut report = Report::default();
        report.gate("a", "good", Ok(String::new()));
        report.skip("a", "left-out", "why");
        report.gate("b", "bad", Err(anyhow::anyhow!("this")));
        assert_eq!((report.passed, &report.skipped[..]), (1, &["a left-out: why".to_owned()][..]));
        assert_eq!(report.end().unwrap_err().to_string(), "gates failed: b bad");
        let mut report = Report::default();
        report.skip("a", "left-out", "why");
        assert_eq!(report.end().unwrap(), ["a left-out: why"]);
    }

    #[test]
    fn every_export_is_a_name_of_the_project() {
        let exports = exports(&paths::root()).unwrap();
        assert!(!exports.is_empty());
        assert!(exports.iter().all(|name| name.starts_with("zosbd2_")), "{exports:?}");
        assert!(exports.is_sorted());
    }
}
