// SPDX-License-Identifier: MIT OR Apache-2.0
//! Plants faults into a copy of the kernel part's sources, and checks that the Rust object of no copy builds. Plants a
//! fault into the unwind data of a module, and checks that its gate finds it.
//!
//! The copy without a fault must build; otherwise the failures would prove nothing.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::elf::Elf;
use super::{Report, exports, orc};
use crate::kmod::{self, How, Variant};
use crate::rust_flags::Config;
use crate::rust_object::{self, Inputs};
use crate::toolchain::Toolchain;
use crate::{command, narrate, paths};

/// The entry point for the planted faults. Its argument is only known at run time.
const PLACE: &str = "pub extern \"C\" fn zosbd2_rs_queue_bytes(depth: u32) -> usize {\n";
const FILE: &str = "kernel/glue/src/entry.rs";

/// Name, code, and a part of the expected error.
const FAULTS: [(&str, &str, &str); 4] = [
    ("panic", "if depth == 7 { panic!(\"planted\"); }", "panicking"),
    ("index", "if [1_u8, 2, 3][depth as usize] == 2 { return 1; }", "panic_bounds_check"),
    ("float", "let depth = (depth as f32 * 1.5) as u32;", "__mulsf3"),
    (
        "format",
        "if core::fmt::Write::write_fmt(&mut X, format_args!(\"{depth}\")).is_err() { return 1; }\n\
      struct X; impl core::fmt::Write for X { fn write_str(&mut self, _: &str) -> core::fmt::Result { Ok(()) } }",
        "fmt",
    ),
];

/// Builds the faulty copies for one kernel.
pub(super) fn run(report: &mut Report, kdir: &Path) {
    report.gate("planted", "none", build(kdir, "none", "").map(|()| "builds".to_owned()));
    for (name, code, expected) in FAULTS {
        report.gate("planted", name, refused(kdir, name, code, expected));
    }
    report.gate("planted", "stack-protector", protected(kdir));
    report.gate("planted", "unwind", blind(kdir));
}

/// Makes every state in the unwind data of a module undefined.
fn blind(kdir: &Path) -> Result<String> {
    let built = kmod::build(kdir, &How::plain(Variant::Release))?;
    let folder = paths::root().join("target/planted/unwind");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let (states, module) = (folder.join("states"), folder.join("zosbd2.ko"));
    let elf = Elf::read(built.path())?;
    let size = elf.contents(elf.section(".orc_unwind").context("the module has no .orc_unwind")?)?.len();
    fs::write(&states, vec![0; size]).with_context(|| format!("write {}", states.display()))?;
    let arch = Config::read(kdir)?.arch()?;
    let mut objcopy = Command::new(format!("{}objcopy", arch.binutils));
    objcopy.arg(format!("--update-section=.orc_unwind={}", states.display())).arg(built.path()).arg(&module);
    command::finish(&mut objcopy)?;
    let Err(error) = orc::gate(&module, arch, &exports(&paths::root())?) else {
        bail!("the gate finds nothing");
    };
    let text = format!("{error:#}");
    ensure!(text.contains("has no unwind data"), "the gate fails, but not for the unwind data: {text}");
    Ok(format!("refused: {text}"))
}

/// Builds the object with a stack protector in each function.
fn protected(kdir: &Path) -> Result<String> {
    let out = paths::root().join("target/planted/stack-protector");
    fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
    let (config, sources) = (Config::read(kdir)?, paths::root());
    let inputs = Inputs { more: &["-Zstack-protector=all"], ..inputs(&config, &sources) };
    let Err(error) = rust_object::build(&inputs, &out) else { bail!("the build did not fail") };
    let text = format!("{error:#}");
    ensure!(
        text.contains("gate stack-protector") && text.contains("__stack_chk_fail"),
        "the build failed, but not for its stack protector: {text}"
    );
    Ok("does not build: undefined __stack_chk_fail".to_owned())
}

fn refused(kdir: &Path, name: &str, code: &str, expected: &str) -> Result<String> {
    let Err(error) = build(kdir, name, code) else { bail!("the build did not fail") };
    let text = format!("{error:#}");
    ensure!(
        text.contains("gate undefined-symbols") && text.contains(expected),
        "the build failed, but not for {expected}: {text}"
    );
    Ok(format!("does not build: undefined {expected}"))
}

/// Builds the object from a copy of the sources with `code` in it.
fn build(kdir: &Path, name: &str, code: &str) -> Result<()> {
    let _doing = narrate::doing(format!("building the Rust object with a planted fault: {name}"));
    let folder = paths::root().join("target/planted").join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    for part in ["abi/src", "engine/src", "kernel"] {
        copy(&paths::root().join(part), &folder.join(part))?;
    }
    let file = folder.join(FILE);
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let (before, after) =
        text.split_once(PLACE).with_context(|| format!("{FILE} has no place to plant a fault: {PLACE}"))?;
    fs::write(&file, format!("{before}{PLACE}{code}\n{after}"))
        .with_context(|| format!("write {}", file.display()))?;
    rust_object::build(&inputs(&Config::read(kdir)?, &folder), &folder)?;
    Ok(())
}

/// The release variant of these sources.
fn inputs<'a>(config: &'a Config, sources: &'a Path) -> Inputs<'a> {
    Inputs { toolchain: &Toolchain::Host, config, faults: false, sources, cores: None, more: &[] }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let (path, copied) = (entry.path(), to.join(entry.file_name()));
        // Files that `make` may have left, such as a link to the last module, are no sources.
        if entry.file_type()?.is_dir() {
            copy(&path, &copied)?;
        } else if entry.file_type()?.is_file() {
            fs::copy(&path, &copied).with_context(|| format!("copy {}", path.display()))?;
        }
    }
    Ok(())
}
