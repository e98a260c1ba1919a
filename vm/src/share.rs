// SPDX-License-Identifier: MIT OR Apache-2.0
//! A folder of the host for a session: copied into the guest, and what the guest has changed copied back.
//!
//! The folder becomes an ext4 image, which is a disk of the guest. `mkfs.ext4 -d` makes it and `debugfs` reads it, so
//! nothing needs root. (virtiofsd of QEMU 7.2 must be root, and Debian's cloud kernels have no 9p.) The guest can put
//! stores for direct I/O into it. After a crash `e2fsck` restores what the guest had written out.
//!
//! A regular file or a symbolic link counts as changed if it is new or its size or time of change differs from that at
//! the beginning. Files that the guest has removed stay on the host. If a file was changed on both sides, the guest's gets
//! the name `NAME.guest`.

use crate::error::file;
use crate::{Error, Result, command};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Free space of the image besides the folder's files, in bytes. The image is sparse.
const FREE: u64 = 4 << 30;
/// Largest folder.
const MOST: u64 = 16 << 30;

/// What tells whether a file has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Look {
    /// Length and time of the last change, in seconds.
    File(u64, i64),
    /// Target. debugfs makes links anew, so their times say nothing.
    Link(PathBuf),
}

impl Look {
    fn bytes(&self) -> u64 {
        match self {
            Self::File(bytes, _) => *bytes,
            Self::Link(_) => 0,
        }
    }
}

/// A folder in an image.
#[derive(Debug)]
pub struct Share {
    folder: PathBuf,
    image: PathBuf,
    /// The files at the beginning, by their path in the folder.
    before: BTreeMap<PathBuf, Look>,
}

impl Share {
    /// Copies a folder into an image in the folder `work`.
    pub fn make(folder: &Path, work: &Path) -> Result<Self> {
        let cannot = |problem: String| Error::CannotAdd { path: folder.to_owned(), problem };
        match fs::metadata(folder) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(cannot("it is not a folder".to_owned())),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(cannot("there is no such folder".to_owned()));
            }
            Err(error) => return Err(file("examine", folder)(error)),
        }
        let before = looks(folder)?;
        let bytes: u64 = before.values().map(|look| look.bytes().next_multiple_of(4096)).sum();
        if bytes > MOST {
            return Err(cannot(format!(
                "its files have {} MiB, and {} are the most",
                bytes >> 20,
                MOST >> 20
            )));
        }
        let image = work.join("share.img");
        let made = File::create(&image).and_then(|file| file.set_len(bytes + bytes / 8 + FREE));
        made.map_err(file("create", &image))?;
        let mut mkfs = Command::new("/sbin/mkfs.ext4");
        // The whole inode table would be written at the first mount; the owner is root, as in the guest.
        mkfs.args(["-q", "-F", "-E", "root_owner=0:0,lazy_itable_init=1", "-m", "0", "-d"])
            .arg(folder)
            .arg(&image);
        command::output(&mut mkfs, "e2fsprogs")?;
        Ok(Self { folder: folder.to_owned(), image, before })
    }

    /// The image.
    #[must_use]
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// Copies back what the guest has changed, and removes the image. Returns the paths in the folder.
    pub fn take_back(self) -> Result<Vec<String>> {
        // 1: it was not unmounted, and is in order now.
        let check = Command::new("/sbin/e2fsck").args(["-f", "-y"]).arg(&self.image).output();
        let check = check.map_err(file("run", Path::new("/sbin/e2fsck")))?;
        if check.status.code().is_none_or(|code| code & !3 != 0) {
            return Err(Error::Command {
                command: format!("e2fsck {}", self.image.display()),
                status: check.status.to_string(),
                output: command::tail(&String::from_utf8_lossy(&check.stdout)),
            });
        }
        let copy = self.image.with_file_name("share");
        let _ = fs::remove_dir_all(&copy);
        fs::create_dir_all(&copy).map_err(file("create", &copy))?;
        // debugfs cannot change owners without root and says so; what it copies is compared below.
        let mut dump = Command::new("/sbin/debugfs");
        dump.args(["-R", "rdump / ."]).arg(&self.image).current_dir(&copy);
        command::output(&mut dump, "e2fsprogs")?;
        let changed = self.compare(&copy)?;
        let _ = fs::remove_dir_all(&copy);
        let _ = fs::remove_file(&self.image);
        Ok(changed)
    }

    fn compare(&self, copy: &Path) -> Result<Vec<String>> {
        let mut changed = Vec::new();
        for (path, look) in looks(copy)? {
            if path.starts_with("lost+found") || self.before.get(&path) == Some(&look) {
                continue;
            }
            let host = self.folder.join(&path);
            let now = fs::symlink_metadata(&host).ok().map(|metadata| self::look(&host, &metadata));
            let mut to = host.clone();
            if now.as_ref() != self.before.get(&path) {
                let name = host.file_name().unwrap_or_default().to_string_lossy();
                to = host.with_file_name(format!("{name}.guest"));
            }
            put(&copy.join(&path), &to)?;
            changed.push(to.strip_prefix(&self.folder).unwrap_or(&to).display().to_string());
        }
        Ok(changed)
    }
}

/// Copies a file or a symbolic link over what is there.
fn put(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(file("create", folder))?;
    }
    match fs::remove_file(to) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(file("replace", to)(error)),
        _ => {}
    }
    match fs::read_link(from) {
        Ok(target) => symlink(target, to).map_err(file("create", to)),
        Err(_) => fs::copy(from, to).map(drop).map_err(file("write", to)),
    }
}

fn look(path: &Path, metadata: &fs::Metadata) -> Look {
    match fs::read_link(path) {
        Ok(target) => Look::Link(target),
        Err(_) => Look::File(metadata.len(), metadata.mtime()),
    }
}

/// The regular files and symbolic links of a folder and the folders in it.
fn looks(folder: &Path) -> Result<BTreeMap<PathBuf, Look>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(inner) = folders.pop() {
        let path = folder.join(&inner);
        for entry in fs::read_dir(&path).map_err(file("read", &path))? {
            let entry = entry.map_err(file("read", &path))?;
            let metadata = entry.metadata().map_err(file("examine", &entry.path()))?;
            let (path, inner) = (entry.path(), inner.join(entry.file_name()));
            if metadata.is_dir() {
                folders.push(inner);
            } else if metadata.is_file() || metadata.is_symlink() {
                found.insert(inner, look(&path, &metadata));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("zosbd2-vm-share-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("shared/inner")).unwrap();
        path
    }

    /// Writes a file as the guest would, into the image.
    fn in_guest(image: &Path, name: &str, text: &str) {
        let source = image.with_file_name("source");
        fs::write(&source, text).unwrap();
        let later = SystemTime::now() + Duration::from_secs(5);
        File::options().write(true).open(&source).unwrap().set_modified(later).unwrap();
        for request in [format!("rm {name}"), format!("write {} {name}", source.display())] {
            let output = Command::new("/sbin/debugfs").args(["-w", "-R", &request]).arg(image).output();
            assert!(output.unwrap().status.success(), "{request}");
        }
    }

    #[test]
    fn changed_files_come_back_and_others_stay() {
        let work = folder("changed");
        let shared = work.join("shared");
        for (name, text) in
            [("same", "1"), ("changed", "2"), ("both", "3"), ("removed", "4"), ("inner/x y", "5")]
        {
            fs::write(shared.join(name), text).unwrap();
        }
        symlink("same", shared.join("link")).unwrap();
        let share = Share::make(&shared, &work).unwrap();
        in_guest(share.image(), "changed", "two");
        in_guest(share.image(), "both", "three");
        in_guest(share.image(), "new", "six");
        fs::write(shared.join("both"), "drei").unwrap();
        fs::write(shared.join("same"), "ten").unwrap();
        assert_eq!(share.take_back().unwrap(), ["both.guest", "changed", "new"]);
        let read = |name: &str| fs::read_to_string(shared.join(name)).unwrap();
        let texts =
            ["same", "changed", "both", "both.guest", "removed", "inner/x y", "link", "new"].map(read);
        assert_eq!(texts, ["ten", "two", "drei", "three", "4", "5", "ten", "six"]);
        assert!(!work.join("share.img").exists());
        fs::remove_dir_all(work).unwrap();
    }

    #[test]
    fn what_is_no_folder_is_refused() {
        let work = folder("refused");
        let problem = |path: &str| Share::make(Path::new(path), &work).unwrap_err().to_string();
        assert!(problem("/nonexistent").ends_with("there is no such folder"));
        assert!(problem("/bin/ls").ends_with("it is not a folder"));
        fs::remove_dir_all(work).unwrap();
    }
}
