// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the command keeps what it knows of disks.

use std::path::{Path, PathBuf};

/// Folders of configurations. Tests have their own below `ZOSBD2_ROOT`.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// Disks that come back at boot.
    pub(crate) persistent: PathBuf,
    /// Disks until the reboot, and the state of servers without systemd.
    pub(crate) run: PathBuf,
}

impl Places {
    /// Those of this system.
    pub(crate) fn system() -> Self {
        let root = std::env::var_os("ZOSBD2_ROOT").map_or_else(|| PathBuf::from("/"), PathBuf::from);
        Self { persistent: root.join("etc/zosbd2"), run: root.join("run/zosbd2") }
    }

    /// Whether these are the places of the system, and not those of a test.
    pub(crate) fn is_system(&self) -> bool {
        self.run == Path::new("/run/zosbd2")
    }

    /// The configuration of a disk in either folder; the folder of this boot wins.
    pub(crate) fn configuration(&self, name: &str) -> Option<PathBuf> {
        self.configurations(name).into_iter().next()
    }

    /// The configurations of a disk that exist, the one that is used first.
    pub(crate) fn configurations(&self, name: &str) -> Vec<PathBuf> {
        let both = [&self.run, &self.persistent].map(|folder| file(folder, name, "toml"));
        both.into_iter().filter(|path| path.exists()).collect()
    }

    /// The configuration that comes back at boot, whether it exists or not.
    pub(crate) fn persistent_file(&self, name: &str) -> PathBuf {
        file(&self.persistent, name, "toml")
    }

    /// The configuration of this boot, whether it exists or not.
    pub(crate) fn run_file(&self, name: &str) -> PathBuf {
        file(&self.run, name, "toml")
    }

    /// The log of a server without systemd.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        file(&self.run, name, "log")
    }

    /// Names and configurations of the disks that come back at boot, sorted.
    pub(crate) fn persistent_disks(&self) -> Vec<(String, PathBuf)> {
        let mut disks: Vec<_> =
            names(&self.persistent).map(|name| (name.clone(), self.persistent_file(&name))).collect();
        disks.sort();
        disks
    }

    /// What udev's rule reads of a disk.
    pub(crate) fn udev(&self, name: &str) -> PathBuf {
        self.run.join(format!("zosbd2-{name}.udev"))
    }

    /// The names of all configured disks, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = names(&self.run).chain(names(&self.persistent)).collect();
        names.sort();
        names.dedup();
        names
    }
}

/// The names of the configurations in a folder.
fn names(folder: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".toml").map(str::to_owned))
}

/// Names have no `/`, but may have a point, which is why the suffix is added and not set.
fn file(folder: &Path, name: &str, suffix: &str) -> PathBuf {
    folder.join(format!("{name}.{suffix}"))
}

/// The bytes of a RAM disk that systemd does not keep.
pub(crate) fn memory(name: &str) -> PathBuf {
    PathBuf::from(format!("/dev/shm/zosbd2-{name}"))
}
