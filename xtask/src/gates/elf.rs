// SPDX-License-Identifier: MIT OR Apache-2.0
//! A small ELF reader for modules: sections, symbols, relocations of little-endian 64-bit files.
//!
//! It reads files of this project's own build. Anything unexpected is an error, not a guess.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

const HEADER_BYTES: usize = 64;
const SECTION_BYTES: usize = 64;
const SYMBOL_BYTES: usize = 24;
const RELOCATION_BYTES: usize = 24;
const SHT_SYMTAB: u32 = 2;
const SHT_RELA: u32 = 4;
const STT_FUNC: u8 = 2;

/// A file in memory.
pub(super) struct Elf {
    bytes: Vec<u8>,
    sections: Vec<Section>,
}

/// An entry of the section table.
#[derive(Clone, Debug)]
pub(super) struct Section {
    pub(super) name: String,
    kind: u32,
    offset: usize,
    size: usize,
    link: usize,
    info: usize,
}

/// An entry of the symbol table.
#[derive(Debug)]
pub(super) struct Symbol {
    pub(super) name: String,
    pub(super) is_function: bool,
    /// Index of its section, or one of ELF's special numbers.
    pub(super) section: usize,
    pub(super) value: u64,
    pub(super) size: u64,
}

/// A relocation, which the loader fills in.
#[derive(Debug)]
pub(super) struct Relocation {
    pub(super) offset: u64,
    pub(super) symbol: usize,
    pub(super) addend: i64,
}

impl Elf {
    /// Reads a file.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        Self::parse(bytes).with_context(|| format!("{} is damaged", path.display()))
    }

    fn parse(bytes: Vec<u8>) -> Result<Self> {
        ensure!(bytes.starts_with(b"\x7fELF\x02\x01"), "not a little-endian 64-bit ELF file");
        ensure!(bytes.len() >= HEADER_BYTES, "the file ends in its header");
        let table = usize::try_from(number::<8>(&bytes, 0x28)?)?;
        let count = usize::try_from(number::<2>(&bytes, 0x3c)?)?;
        let names = usize::try_from(number::<2>(&bytes, 0x3e)?)?;
        let mut sections = Vec::with_capacity(count);
        for index in 0..count {
            let at = table + index * SECTION_BYTES;
            sections.push(Section {
                name: number::<4>(&bytes, at)?.to_string(),
                kind: u32::try_from(number::<4>(&bytes, at + 4)?)?,
                offset: usize::try_from(number::<8>(&bytes, at + 0x18)?)?,
                size: usize::try_from(number::<8>(&bytes, at + 0x20)?)?,
                link: usize::try_from(number::<4>(&bytes, at + 0x28)?)?,
                info: usize::try_from(number::<4>(&bytes, at + 0x2c)?)?,
            });
        }
        let names = sections.get(names).context("no table of section names")?.offset;
        for section in &mut sections {
            section.name = text(&bytes, names + section.name.parse::<usize>()?)?;
        }
        Ok(Self { bytes, sections })
    }

    /// Index of the section of this name.
    pub(super) fn section(&self, name: &str) -> Option<usize> {
        self.sections.iter().position(|section| section.name == name)
    }

    /// Name of a section.
    pub(super) fn section_name(&self, index: usize) -> &str {
        self.sections.get(index).map_or("", |section| &section.name)
    }

    /// Contents of a section.
    pub(super) fn contents(&self, index: usize) -> Result<&[u8]> {
        let section = self.sections.get(index).context("no such section")?;
        let contents = self.bytes.get(section.offset..section.offset + section.size);
        contents.with_context(|| format!("section {} is longer than the file", section.name))
    }

    /// The symbol table.
    pub(super) fn symbols(&self) -> Result<Vec<Symbol>> {
        let table = self.sections.iter().position(|section| section.kind == SHT_SYMTAB);
        let table = table.context("no symbol table")?;
        let names = self.sections[table].link;
        let names = self.sections.get(names).context("no table of symbol names")?.offset;
        let entries = self.contents(table)?.chunks_exact(SYMBOL_BYTES);
        entries
            .map(|entry| {
                let name = text(&self.bytes, names + usize::try_from(number::<4>(entry, 0)?)?)?;
                Ok(Symbol {
                    name,
                    is_function: entry[4] & 0xf == STT_FUNC,
                    section: usize::try_from(number::<2>(entry, 6)?)?,
                    value: number::<8>(entry, 8)?,
                    size: number::<8>(entry, 16)?,
                })
            })
            .collect()
    }

    /// The relocations of a section.
    pub(super) fn relocations(&self, section: usize) -> Result<Vec<Relocation>> {
        let mut relocations = Vec::new();
        for (index, table) in self.sections.iter().enumerate() {
            if table.kind != SHT_RELA || table.info != section {
                continue;
            }
            for entry in self.contents(index)?.chunks_exact(RELOCATION_BYTES) {
                relocations.push(Relocation {
                    offset: number::<8>(entry, 0)?,
                    symbol: usize::try_from(number::<4>(entry, 12)?)?,
                    addend: number::<8>(entry, 16)?.cast_signed(),
                });
            }
        }
        Ok(relocations)
    }
}

/// A little-endian number of `N` bytes.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Result<u64> {
    let found = bytes.get(at..at + N).context("the file ends too early")?;
    Ok(found.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// The text at `at`, up to its NUL.
fn text(bytes: &[u8], at: usize) -> Result<String> {
    let rest = bytes.get(at..).context("a name lies beyond the file")?;
    let end = rest.iter().position(|byte| *byte == 0).context("a name does not end")?;
    Ok(String::from_utf8_lossy(&rest[..end]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_has_what_it_is_made_of() {
        let elf = Elf::read(&std::env::current_exe().unwrap()).unwrap();
        let text = elf.section(".text").unwrap();
        assert_eq!(elf.section_name(text), ".text");
        let symbols = elf.symbols().unwrap();
        let main = symbols.iter().find(|symbol| symbol.name == "main").unwrap();
        assert!(main.is_function && main.section == text && main.size > 0);
        assert!(!elf.contents(text).unwrap().is_empty());
    }

    #[test]
    fn what_is_damaged_is_an_error() {
        let whole = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(Elf::parse(b"#!/bin/sh\n".to_vec()).is_err());
        assert!(Elf::parse(whole[..HEADER_BYTES].to_vec()).is_err());
        assert!(Elf::parse(whole[..20].to_vec()).is_err());
    }
}
