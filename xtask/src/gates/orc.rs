// SPDX-License-Identifier: MIT OR Apache-2.0
//! The gate that checks whether the kernel can unwind through the module's Rust frames.
//!
//! A frame appears in a stack trace by a return address. So the kernel must find a defined ORC state for every
//! call in every Rust function, and for each function's first instruction. Bytes between functions, or after a
//! jump at which straight-line speculation stops, have no state and need none.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use zosbd2_vm::arch::Arch;

use super::elf::Elf;
use super::run_tool;

/// Bytes of an `.orc_unwind` entry, in every kernel that has ORC.
const ENTRY_BYTES: usize = 6;

/// Start of a state.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    section: usize,
    address: u64,
    defined: bool,
}

/// Checks a module. Returns a summary.
pub(super) fn gate(module: &Path, arch: &Arch, exports: &[String]) -> Result<String> {
    let elf = Elf::read(module)?;
    let symbols = elf.symbols()?;
    let states = states(&elf)?;
    let calls = calls(module, arch)?;
    let mut functions = 0_usize;
    let mut covered = 0_usize;
    let mut seen = 0_usize;
    for symbol in &symbols {
        let is_export = exports.contains(&symbol.name);
        // Prefix of Rust's mangled names.
        if !symbol.is_function || !(is_export || symbol.name.starts_with("_R")) {
            continue;
        }
        seen += usize::from(is_export);
        functions += 1;
        let end = symbol.value + symbol.size;
        let section = elf.section_name(symbol.section);
        let own = calls.iter().filter(|call| call.0 == section && (symbol.value..end).contains(&call.1));
        for address in own.map(|call| call.1).chain([symbol.value]) {
            ensure!(
                is_defined(&states, symbol.section, address),
                "{} at {section}+{address:#x} has no unwind data",
                symbol.name
            );
            covered += 1;
        }
    }
    ensure!(seen == exports.len(), "the module has {seen} of the {} entry points", exports.len());
    Ok(format!("{functions} Rust functions, {covered} places, all unwindable"))
}

/// Whether the state at an address is defined.
fn is_defined(states: &[State], section: usize, address: u64) -> bool {
    let after = states.partition_point(|state| (state.section, state.address) <= (section, address));
    let state = after.checked_sub(1).and_then(|index| states.get(index));
    state.is_some_and(|state| state.section == section && state.defined)
}

/// The states of the module, ordered by address.
fn states(elf: &Elf) -> Result<Vec<State>> {
    let places = elf.section(".orc_unwind_ip").context("no section .orc_unwind_ip")?;
    let entries = elf.section(".orc_unwind").context("no section .orc_unwind")?;
    let entries = elf.contents(entries)?;
    let symbols = elf.symbols()?;
    let mut states = Vec::new();
    for relocation in elf.relocations(places)? {
        let symbol = symbols.get(relocation.symbol).context("a relocation names no symbol")?;
        let index = usize::try_from(relocation.offset / 4)?;
        let entry = entries.get(index * ENTRY_BYTES..(index + 1) * ENTRY_BYTES);
        let entry = entry.with_context(|| format!(".orc_unwind has no entry {index}"))?;
        states.push(State {
            section: symbol.section,
            address: symbol.value.wrapping_add_signed(relocation.addend),
            // The base register for the caller's stack pointer; 0 means undefined.
            defined: entry[4] & 0xf != 0,
        });
    }
    ensure!(!states.is_empty(), ".orc_unwind_ip is empty");
    states.sort();
    Ok(states)
}

/// Section and address of every call instruction.
fn calls(module: &Path, arch: &Arch) -> Result<Vec<(String, u64)>> {
    let text =
        run_tool(&format!("{}objdump", arch.binutils), &["--disassemble", "--no-show-raw-insn"], module)?;
    let mut section = String::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("Disassembly of section ") {
            name.trim_end_matches(':').clone_into(&mut section);
        }
        let Some((address, instruction)) = line.split_once(":\t") else { continue };
        if instruction.contains("call") {
            calls.push((section.clone(), u64::from_str_radix(address.trim(), 16)?));
        }
    }
    Ok(calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_holds_until_the_next_one_of_its_section() {
        let state = |section, address, defined| State { section, address, defined };
        let states = [state(1, 0, true), state(1, 0x20, false), state(3, 0x10, true)];
        let found = [(1, 0), (1, 0x1f), (1, 0x20), (2, 0), (3, 0xf), (3, 0x10), (3, 0x4000)];
        let found = found.map(|(section, address)| is_defined(&states, section, address));
        assert_eq!(found, [true, true, false, false, false, true, true]);
        assert!(!is_defined(&[], 1, 0));
    }
}
