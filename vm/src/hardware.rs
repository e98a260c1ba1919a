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
}

impl Hardware {
    /// Two words that [`parse`](Self::parse) accepts.
    #[must_use]
    pub fn words(self) -> String {
        let word = |number: Option<u32>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        format!("{} {}", word(self.memory_mib), word(self.disk_gib))
    }

    /// Parses two words; `None` if they are invalid.
    #[must_use]
    pub fn parse(memory: &str, disk: &str) -> Option<Self> {
        let number = |word: &str| if word == "-" { Some(None) } else { word.parse().ok().map(Some) };
        Some(Self { memory_mib: number(memory)?, disk_gib: number(disk)? })
    }
}

/// The special demands; empty for the default machine.
impl fmt::Display for Hardware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = self.memory_mib.map(|mib| format!("memory-{mib}M"));
        let disk = self.disk_gib.map(|gib| format!("disk-{gib}G"));
        f.write_str(&memory.into_iter().chain(disk).collect::<Vec<_>>().join("-"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_trip() {
        for (memory_mib, disk_gib) in [(None, None), (Some(512), None), (None, Some(5)), (Some(1), Some(2))] {
            let hardware = Hardware { memory_mib, disk_gib };
            let words = hardware.words();
            let (memory, disk) = words.split_once(' ').unwrap();
            assert_eq!(Hardware::parse(memory, disk), Some(hardware));
        }
        assert_eq!(Hardware::parse("much", "-"), None);
        assert_eq!(Hardware { memory_mib: Some(512), disk_gib: Some(5) }.to_string(), "memory-512M-disk-5G");
    }
}
