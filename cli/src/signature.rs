// SPDX-License-Identifier: MIT OR Apache-2.0
//! What seems to be on a disk: signatures of file systems and partition tables.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// So many bytes at the start of a disk have all signatures below.
const START: u64 = 68 << 10;

/// Offset, bytes, and what has them.
const SIGNATURES: [(usize, &[u8], &str); 12] = [
    (0, b"LUKS\xba\xbe", "a LUKS volume"),
    (0, b"XFSB", "an XFS file system"),
    (3, b"NTFS    ", "an NTFS file system"),
    (54, b"FAT", "a FAT file system"),
    (82, b"FAT32", "a FAT file system"),
    (512, b"EFI PART", "a GPT partition table"),
    (512, b"LABELONE", "an LVM volume"),
    (1080, b"\x53\xef", "an ext file system"),
    (4086, b"SWAPSPACE2", "swap space"),
    (4096, b"\xfc\x4e\x2b\xa9", "a member of a RAID"),
    (65_600, b"_BHRfS_M", "a btrfs file system"),
    // Last, because file systems that can boot have it too.
    (510, b"\x55\xaa", "a partition table"),
];

/// What is on the disk; `None` if nothing is recognised.
pub(crate) fn find(node: &Path) -> io::Result<Option<&'static str>> {
    let mut start = Vec::new();
    File::open(node)?.take(START).read_to_end(&mut start)?;
    Ok(recognise(&start))
}

fn recognise(start: &[u8]) -> Option<&'static str> {
    let mut found = SIGNATURES
        .iter()
        .filter(|(offset, bytes, _)| start.get(*offset..).is_some_and(|rest| rest.starts_with(bytes)));
    found.next().map(|(_, _, what)| *what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_recognised() {
        let with = |offset: usize, bytes: &[u8]| {
            let mut start = vec![0; usize::try_from(START).unwrap()];
            start[offset..offset + bytes.len()].copy_from_slice(bytes);
            recognise(&start)
        };
        for (offset, bytes, what) in SIGNATURES {
            assert_eq!(with(offset, bytes), Some(what));
        }
        assert_eq!(with(0, b"x"), None);
        assert_eq!(recognise(b"short"), None);
    }

    #[test]
    fn file_systems_of_this_machine_are_recognised() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8 << 20).unwrap();
        assert_eq!(find(file.path()).unwrap(), None);
        let made = std::process::Command::new("mkfs.ext4").args(["-q", "-F"]).arg(file.path()).status();
        if made.is_ok_and(|status| status.success()) {
            assert_eq!(find(file.path()).unwrap(), Some("an ext file system"));
        }
    }
}
