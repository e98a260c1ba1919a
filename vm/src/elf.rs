// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an ELF file says about the machine that it is for, and about its dynamic loader.

/// A program or a library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elf {
    /// Its machine, such as `x86-64`.
    pub machine: String,
    /// Path of its dynamic loader; `None` for a static program and for a library.
    pub loader: Option<String>,
}

/// Where the headers of segments and their fields are, with 32 and with 64 bits.
struct Layout {
    table: usize,
    entry_size: usize,
    count: usize,
    offset: usize,
    size: usize,
    wide: bool,
}

const NARROW: Layout = Layout { table: 28, entry_size: 42, count: 44, offset: 4, size: 16, wide: false };
const WIDE: Layout = Layout { table: 32, entry_size: 54, count: 56, offset: 8, size: 32, wide: true };

/// The segment with the path of the loader.
const INTERPRETER: u64 = 3;

impl Elf {
    /// Reads a file's bytes; `None` if they are not of an ELF file, or damaged.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if !bytes.starts_with(b"\x7fELF") {
            return None;
        }
        let layout = match bytes.get(4)? {
            1 => NARROW,
            2 => WIDE,
            _ => return None,
        };
        let big = *bytes.get(5)? == 2;
        let number = |at: usize, length: usize| {
            let part = bytes.get(at..at.checked_add(length)?)?;
            let join = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
            Some(if big { part.iter().fold(0, join) } else { part.iter().rev().fold(0, join) })
        };
        let word =
            |at| number(at, if layout.wide { 8 } else { 4 }).and_then(|value| usize::try_from(value).ok());
        let half = |at| number(at, 2).and_then(|value| usize::try_from(value).ok());
        let (table, size, count) = (word(layout.table)?, half(layout.entry_size)?, half(layout.count)?);
        let mut loader = None;
        for index in 0..count {
            let entry = table.checked_add(index * size)?;
            if number(entry, 4)? == INTERPRETER {
                let start = word(entry + layout.offset)?;
                let end = start.checked_add(word(entry + layout.size)?)?;
                let text = String::from_utf8_lossy(bytes.get(start..end)?).into_owned();
                loader = Some(text.trim_end_matches('\0').to_owned());
            }
        }
        Some(Self { machine: machine(number(18, 2)?, layout.wide), loader })
    }

    /// Whether a guest with an x86-64 kernel of Debian runs it.
    #[must_use]
    pub fn runs_on_amd64(&self) -> bool {
        ["x86-64", "i386"].contains(&self.machine.as_str())
    }
}

fn machine(number: u64, wide: bool) -> String {
    match (number, wide) {
        (62, true) => "x86-64".to_owned(),
        (62, false) => "x32".to_owned(),
        (3, _) => "i386".to_owned(),
        (40, _) => "32-bit ARM".to_owned(),
        (183, _) => "ARM64".to_owned(),
        (243, _) => "RISC-V".to_owned(),
        (21, _) => "PowerPC".to_owned(),
        (22, _) => "S/390".to_owned(),
        (other, _) => format!("machine number {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_is_for_this_machine() {
        let elf = Elf::parse(&std::fs::read("/proc/self/exe").unwrap()).unwrap();
        assert!(elf.runs_on_amd64(), "{elf:?}");
        assert!(elf.loader.is_some_and(|loader| loader.contains("ld-linux")));
    }

    #[test]
    fn headers_of_other_machines_are_read() {
        let mut big = vec![0; 52];
        big[..6].copy_from_slice(b"\x7fELF\x01\x02");
        big[18..20].copy_from_slice(&[0, 22]);
        let elf = Elf::parse(&big).unwrap();
        assert_eq!((elf.machine.as_str(), elf.loader.is_none()), ("S/390", true));
        assert!(!elf.runs_on_amd64());
    }

    #[test]
    fn what_is_damaged_is_not_read() {
        let whole = std::fs::read("/proc/self/exe").unwrap();
        for length in [0, 4, 5, 18, 30, 60] {
            assert_eq!(Elf::parse(&whole[..length]), None, "{length}");
        }
        assert_eq!(Elf::parse(b"#!/bin/sh\n"), None);
    }
}
