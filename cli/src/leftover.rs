// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that a server without systemd may leave behind: its log, and the bytes of a RAM disk.

use crate::places::{self, Places};
use std::fs;
use std::path::{Path, PathBuf};

/// A file of a disk that may exist no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) disk: String,
    pub(crate) path: PathBuf,
}

/// All files of servers, but for configurations.
pub(crate) fn files(places: &Places) -> Vec<File> {
    let mut files = in_folder(&places.run, |name| name.strip_suffix(".log").or(name.strip_suffix(".pid")));
    // Other roots have the same memory, and their configurations are not seen here.
    if places.is_system() {
        let memory = places::memory("");
        let start = memory.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let folder = memory.parent().unwrap_or(Path::new("/"));
        files.extend(in_folder(folder, |name| name.strip_prefix(start)));
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// The files of a folder of whose names `disk` finds the disk.
fn in_folder(folder: &Path, disk: impl Fn(&str) -> Option<&str>) -> Vec<File> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.filter_map(|entry| {
        let name = entry.file_name();
        let disk = disk(name.to_str()?).filter(|disk| !disk.is_empty())?.to_owned();
        entry.file_type().is_ok_and(|kind| kind.is_file()).then(|| File { disk, path: entry.path() })
    });
    files.collect()
}

/// Whether a process that can be seen has the file open.
pub(crate) fn is_open(path: &Path) -> bool {
    let list = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_process = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.parse::<u32>().is_ok())
    };
    let mut open = list(Path::new("/proc")).filter(is_process).flat_map(|process| list(&process.join("fd")));
    open.any(|link| fs::read_link(link).is_ok_and(|target| target == path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_files_of_their_disks() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.b.log", "a.b.toml", "c.pid", ".log", "x"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        fs::create_dir(folder.path().join("d.log")).unwrap();
        let places = Places { persistent: folder.path().join("none"), run: folder.path().to_owned() };
        let found: Vec<String> = files(&places).into_iter().map(|file| file.disk).collect();
        assert_eq!(found, ["a.b", "c"]);
    }

    #[test]
    fn open_files_are_found() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().canonicalize().unwrap();
        assert!(is_open(&path));
        let (_, kept) = file.keep().unwrap();
        assert!(!is_open(&path));
        fs::remove_file(kept).unwrap();
    }
}
