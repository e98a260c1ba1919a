// SPDX-License-Identifier: MIT OR Apache-2.0
//! Looks at the Rust object before anything is linked with it, and at modules after.
//!
//! [`object`] is part of every build: a surviving panic, float, or relocation that a module loader refuses
//! makes the build fail. Each gate names what it found.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

/// Undefined symbols the object may have besides the shim's functions: what the kernel exports.
const ALLOWED: &[&str] =
    &["__x86_return_thunk", "__fentry__", "memcpy", "memmove", "memset", "memcmp", "bcmp"];
/// Largest stack frame of a Rust function, in bytes.
const MAX_FRAME: u64 = 1024;

pub(crate) fn run_tool(program: &str, arguments: &[&str], file: &Path) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .arg(file)
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

/// Every gate that the Rust object must pass before it is linked.
pub(crate) fn object(object: &Path, root: &Path) -> Result<()> {
    undefined_symbols(object)?;
    relocations(object)?;
    instructions(object)?;
    sections(object)?;
    exports(object, root)
}

fn undefined_symbols(object: &Path) -> Result<()> {
    let table = run_tool("nm", &["--undefined-only", "--format=just-symbols"], object)?;
    let foreign: Vec<&str> = table
        .lines()
        .map(str::trim)
        .filter(|name| !name.starts_with("zosbd2_") && !name.starts_with("__x86_indirect_thunk_"))
        .filter(|name| !ALLOWED.contains(name))
        .collect();
    ensure!(
        foreign.is_empty(),
        "gate undefined-symbols: the Rust object wants {}: a panic, a formatted message or arithmetic \
         without an instruction has survived",
        foreign.join(", ")
    );
    Ok(())
}

fn relocations(object: &Path) -> Result<()> {
    let table = run_tool("readelf", &["--relocs", "--wide"], object)?;
    let refused =
        table.lines().find(|line| ["GOT", "TLS", "COPY", "TPOFF"].iter().any(|kind| line.contains(kind)));
    if let Some(line) = refused {
        bail!("gate relocations: a module loader refuses this one: {line}");
    }
    Ok(())
}

fn instructions(object: &Path) -> Result<()> {
    let text = run_tool("objdump", &["--disassemble", "--no-show-raw-insn"], object)?;
    let mut function = "";
    for line in text.lines() {
        if let Some(name) = line.strip_suffix(">:").and_then(|line| line.split_once('<')) {
            function = name.1;
        }
        let Some((_, instruction)) = line.split_once(":\t") else { continue };
        let float =
            ["%xmm", "%ymm", "%zmm", "%st", "%mm"].iter().any(|register| instruction.contains(register));
        ensure!(!float, "gate instructions: float or vector code in {function}: {instruction}");
        let bytes = instruction.strip_prefix("sub").and_then(|rest| {
            let (amount, register) = rest.split_once('$')?.1.split_once(',')?;
            (register.trim() == "%rsp").then_some(amount)
        });
        if let Some(amount) = bytes {
            let amount = u64::from_str_radix(amount.trim_start_matches("0x"), 16).unwrap_or(u64::MAX);
            ensure!(amount <= MAX_FRAME, "gate stack: {function} uses {amount} bytes, more than {MAX_FRAME}");
        }
    }
    Ok(())
}

fn sections(object: &Path) -> Result<()> {
    let table = run_tool("readelf", &["--sections", "--wide"], object)?;
    for line in table.lines() {
        let Some((_, rest)) = line.split_once("] ") else { continue };
        let mut words = rest.split_whitespace();
        let (Some(name), size) = (words.next(), words.nth(3)) else { continue };
        let empty = size.is_some_and(|size| size.trim_matches('0').is_empty());
        let refused = [".eh_frame", ".init_array", ".data", ".bss", ".tdata", ".tbss"];
        let found = refused.iter().any(|prefix| name == *prefix || name.starts_with(&format!("{prefix}.")));
        ensure!(!found || empty, "gate sections: the Rust object has a section {name}");
    }
    Ok(())
}

/// The entry points are those of `kernel/exports.txt`, no more and no fewer.
fn exports(object: &Path, root: &Path) -> Result<()> {
    let path = root.join("kernel/exports.txt");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let wanted: BTreeSet<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    let table = run_tool("nm", &["--defined-only", "--extern-only", "--format=just-symbols"], object)?;
    let found: BTreeSet<&str> = table.lines().map(str::trim).collect();
    let missing: Vec<_> = wanted.difference(&found).collect();
    let surplus: Vec<_> = found.difference(&wanted).collect();
    ensure!(
        missing.is_empty() && surplus.is_empty(),
        "gate exports: kernel/exports.txt and the Rust object differ: missing {missing:?}, surplus {surplus:?}"
    );
    Ok(())
}
