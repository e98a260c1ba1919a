// SPDX-License-Identifier: MIT OR Apache-2.0
//! Special demands of a test on its machine. Tests with the same demands share boots.
//!
//! The guest's program lists the demands with the tests, as [`words`](Hardware::words).

use std::fmt;

/// The kind of machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hardware {
    /// MiB of memory; `None`: the default.
    pub memory_mib: Option<u32>,
    /// GiB of an empty virtio disk.
    pub disk_gib: Option<u32>,
    /// The kernel loads only modules that are signed with a key it knows, as with Secure Boot.
    pub signed_only: bool,
}

const SIGNED_ONLY: &str = "signed-only";

impl Hardware {
    /// Three words that [`parse`](Self::parse) accepts.
    #[must_use]
    pub fn words(self) -> String {
        let word = |number: Option<u32>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let signed = if self.signed_only { SIGNED_ONLY } else { "-" };
        format!("{} {} {signed}", word(self.memory_mib), word(self.disk_gib))
    }

    /// Parses three words; `None` if they are invalid.
    #[must_use]
    pub fn parse(memory: &str, disk: &str, signed: &str) -> Option<Self> {
        let number = |word: &str| if word == "-" { Some(None) } else { word.parse().ok().map(Some) };
        let signed_only = match signed {
            SIGNED_ONLY => true,
            "-" => false,
            _ => return None,
        };
        Some(Self { memory_mib: number(memory)?, disk_gib: number(disk)?, signed_only })
    }

    /// What the kernel's command line needs for it.
    #[must_use]
    pub fn append(self) -> Option<&'static str> {
        self.signed_only.then_some("module.sig_enforce=1")
    }
}

/// The special demands; empty for the default machine.
impl fmt::Display for Hardware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = self.memory_mib.map(|mib| format!("memory-{mib}M"));
        let disk = self.disk_gib.map(|gib| format!("disk-{gib}G"));
        let signed = self.signed_only.then(|| SIGNED_ONLY.to_owned());
        f.write_str(&memory.into_iter().chain(disk).chain(signed).collect::<Vec<_>>().join("-"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_trip() {
        for (memory_mib, disk_gib, signed_only) in
            [(None, None, false), (Some(512), None, true), (None, Some(5), false), (Some(1), Some(2), true)]
        {
            let hardware = Hardware { memory_mib, disk_gib, signed_only };
            let words = hardware.words();
            let [memory, disk, signed] = words.split(' ').collect::<Vec<_>>()[..] else { panic!("{words}") };
            assert_eq!(Hardware::parse(memory, disk, signed), Some(hardware));
        }
        assert_eq!(Hardware::parse("much", "-", "-"), None);
        assert_eq!(Hardware::parse("-", "-", "yes"), None);
        let hardware = Hardware { memory_mib: Some(512), disk_gib: Some(5), signed_only: true };
        assert_eq!(hardware.to_string(), "memory-512M-disk-5G-signed-only");
    }
}
