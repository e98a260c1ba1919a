// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writer of the archive format that the kernel unpacks as its first root file system.
//!
//! The format is "newc": per entry a header of six magic characters and 13 numbers of eight hex digits, the name
//! with a NUL, and the data, each padded to four bytes. The entry `TRAILER!!!` ends an archive. Another archive
//! may follow at a multiple of four. A folder must come before its contents, which [`Archive`] ensures. The
//! archive is built in memory, so only reading the given files can fail.

use crate::Result;
use crate::error::file;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

const MAGIC: &str = "070701";
const FOLDER: u32 = 0o040_755;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_777;
const DEVICE: u32 = 0o020_600;

/// An archive under construction.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    names: BTreeSet<String>,
    inode: u32,
}

impl Archive {
    /// An empty archive.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a folder and its parents. Existing entries stay.
    pub fn folder(&mut self, path: &str) {
        let path = path.trim_matches('/');
        self.parents(path);
        if !path.is_empty() && self.names.insert(path.to_owned()) {
            self.entry(path, FOLDER, (0, 0), &[]);
        }
    }

    /// Adds a file. A second file of the same name is ignored.
    pub fn file(&mut self, path: &str, mode: u32, data: &[u8]) {
        self.once(path, REGULAR | (mode & 0o777), (0, 0), data);
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, to: &str) {
        self.once(path, LINK, (0, 0), to.as_bytes());
    }

    /// Adds a character device node.
    pub fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.once(path, DEVICE, (major, minor), &[]);
    }

    /// Adds a file of the host, following links, or a folder with its contents.
    pub fn host(&mut self, path: &str, host: &Path) -> Result<()> {
        let metadata = fs::metadata(host).map_err(file("examine", host))?;
        if !metadata.is_dir() {
            let data = fs::read(host).map_err(file("read", host))?;
            self.file(path, metadata.permissions().mode(), &data);
            return Ok(());
        }
        self.folder(path);
        for entry in fs::read_dir(host).map_err(file("read", host))? {
            let entry = entry.map_err(file("read", host))?;
            let inner = format!("{path}/{}", entry.file_name().to_string_lossy());
            match fs::read_link(entry.path()) {
                Ok(to) => self.link(&inner, &to.to_string_lossy()),
                Err(_) => self.host(&inner, &entry.path())?,
            }
        }
        Ok(())
    }

    /// Ends the archive. The length is a multiple of four, so another archive may follow.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn once(&mut self, path: &str, mode: u32, device: (u32, u32), data: &[u8]) {
        let path = path.trim_matches('/');
        self.parents(path);
        if self.names.insert(path.to_owned()) {
            self.entry(path, mode, device, data);
        }
    }

    fn parents(&mut self, path: &str) {
        if let Some((folder, _)) = path.rsplit_once('/') {
            self.folder(folder);
        }
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) {
        self.inode += 1;
        let size = u32::try_from(data.len()).expect("the format has 32 bits for a file's size");
        let name_size = u32::try_from(name.len() + 1).expect("names are short");
        let numbers = [
            self.inode, mode, 0, // owner
            0, // group
            1, // links
            0, // time
            size, 0, // device of the file system, major and minor
            0, device.0, device.1, name_size, 0, // checksum, unused in this variant
        ];
        self.bytes.extend_from_slice(MAGIC.as_bytes());
        for number in numbers {
            self.bytes.extend_from_slice(format!("{number:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(mut bytes: &[u8]) -> Vec<(String, usize)> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            assert_eq!(&bytes[..6], MAGIC.as_bytes());
            let number = |index: usize| {
                let text = std::str::from_utf8(&bytes[6 + 8 * index..14 + 8 * index]).unwrap();
                usize::from_str_radix(text, 16).unwrap()
            };
            let (size, name_size) = (number(6), number(11));
            let name = String::from_utf8(bytes[110..110 + name_size - 1].to_vec()).unwrap();
            let data = (110 + name_size).next_multiple_of(4);
            found.push((name, size));
            bytes = &bytes[(data + size).next_multiple_of(4)..];
        }
        found
    }

    #[test]
    fn parents_come_first_and_once() {
        let mut archive = Archive::new();
        archive.file("/a/b/c", 0o644, b"12345");
        archive.file("a/b/d", 0o755, b"");
        archive.file("a/b/c", 0o644, b"other");
        archive.link("a/e", "b/c");
        archive.device("dev/console", 5, 1);
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let expected =
            [("a", 0), ("a/b", 0), ("a/b/c", 5), ("a/b/d", 0), ("a/e", 3), ("dev", 0), ("dev/console", 0)];
        let mut expected: Vec<_> = expected.map(|(name, size)| (name.to_owned(), size)).into();
        expected.push(("TRAILER!!!".to_owned(), 0));
        assert_eq!(names(&bytes), expected);
    }
}
