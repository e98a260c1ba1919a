// SPDX-License-Identifier: MIT OR Apache-2.0
//! The description of a disk: what `zosbd2 add` writes, and the server of the disk reads.
//!
//! A file of TOML, `NAME.toml`, for people, too. A key that is not known is an error, so that a misspelt one is not
//! overlooked.

use crate::failure::{Code, Context as _, Failure, Result};
use crate::places::Places;
use crate::units::{Size, Time};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zosbd2::{Builder, DeadlinePolicy};

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Disk {
    /// What stores its data.
    pub(crate) backend: Kind,
    /// The file or block device of the backend `file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<PathBuf>,
    /// The size of the backends `ram` and `null`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) size: Option<Size>,
    /// The program of the backend `exec`, and its arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) command: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) block_size: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) queues: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) depth: Option<u32>,
    /// Threads for each queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) threads: Option<usize>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) read_only: bool,
    /// Bypasses the page cache.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) direct: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) grace: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) deadline: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) policy: Option<Policy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) serial: Option<String>,
    /// Permissions of the node, octal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mode: Option<String>,
    /// Owner and group of the node: `USER:GROUP`, `USER` or `:GROUP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<String>,
    /// Faults on purpose, for tests: the words of `zosbd2-faults`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) fault: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// The backend of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    File,
    Ram,
    Null,
    Exec,
}

impl Kind {
    /// Its word in the configuration.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Ram => "ram",
            Self::Null => "null",
            Self::Exec => "exec",
        }
    }
}

/// What happens to requests that pass their deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Policy {
    /// The request fails
    Eio,
    /// Another thread or server gets the request
    Requeue,
    /// The server is declared dead
    Dead,
}

impl From<Policy> for DeadlinePolicy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Eio => Self::Fail,
            Policy::Requeue => Self::Requeue,
            Policy::Dead => Self::DeclareDead,
        }
    }
}

impl Disk {
    /// A disk with this backend, and defaults.
    pub(crate) const fn new(backend: Kind) -> Self {
        Self {
            backend,
            path: None,
            size: None,
            command: Vec::new(),
            block_size: None,
            queues: None,
            depth: None,
            threads: None,
            read_only: false,
            direct: false,
            grace: None,
            deadline: None,
            policy: None,
            serial: None,
            mode: None,
            owner: None,
            fault: Vec::new(),
        }
    }

    /// What stores its data, for people: a path, a size or a command.
    pub(crate) fn source(&self) -> String {
        match self.backend {
            Kind::File => self.path.as_ref().map_or_else(String::new, |path| path.display().to_string()),
            Kind::Exec => self.command.join(" "),
            Kind::Ram | Kind::Null => String::new(),
        }
    }

    /// Reads the configuration of a disk.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).context(format_args!("read the configuration {}", path.display()))?;
        let wrong =
            |why: &dyn std::fmt::Display| Failure::usage(format!("configuration {}: {why}", path.display()));
        let disk: Self = toml::from_str(&text).map_err(|error| wrong(&error.to_string().trim_end()))?;
        disk.check().map_err(|problem| wrong(&problem))?;
        Ok(disk)
    }

    /// The configuration of this disk, which must exist.
    pub(crate) fn find(places: &Places, name: &str) -> Result<Self> {
        let path = places.configuration(name).ok_or_else(|| {
            let wanted =
                [places.persistent_file(name), places.run_file(name)].map(|path| path.display().to_string());
            Failure::new(
                Code::Missing,
                format!("disk {name} has no configuration: neither {} exists", wanted.join(" nor ")),
            )
        })?;
        Self::read(&path)
    }

    /// Writes the configuration.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let doing = format!("write the configuration {}", path.display());
        let text = toml::to_string(self).context(&doing)?;
        replace(path, &text).context(&doing)
    }

    /// What does not fit together.
    pub(crate) fn check(&self) -> std::result::Result<(), String> {
        let word = self.backend.word();
        let needs = |key: &str, there: bool, wanted: bool| match (there, wanted) {
            (false, true) => Err(format!("the backend {word} needs the key `{key}`")),
            (true, false) => Err(format!("the backend {word} has no key `{key}`")),
            _ => Ok(()),
        };
        needs("path", self.path.is_some(), self.backend == Kind::File)?;
        needs("size", self.size.is_some(), matches!(self.backend, Kind::Ram | Kind::Null))?;
        needs("command", !self.command.is_empty(), self.backend == Kind::Exec)?;
        if self.direct && self.backend != Kind::File {
            return Err(format!("the backend {word} has no key `direct`"));
        }
        if let Some(path) = self.path.as_ref().filter(|path| !path.is_absolute()) {
            return Err(format!("the path {} is not absolute", path.display()));
        }
        if let Some(mode) = &self.mode {
            octal(mode)?;
        }
        for words in &self.fault {
            words.parse::<zosbd2_faults::Fault>().map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// The device of this disk.
    pub(crate) fn builder(&self, name: &str) -> Builder {
        let mut builder = Builder::new(name).queues(self.queues.unwrap_or(1)).depth(self.depth.unwrap_or(0));
        if let Some(serial) = &self.serial {
            builder = builder.serial(serial);
        }
        if let Some(bytes) = self.block_size {
            builder = builder.logical_block_size(bytes);
        }
        if self.read_only {
            builder = builder.read_only(true);
        }
        if let Some(Time(grace)) = self.grace {
            builder = builder.grace(grace);
        }
        if let Some(Time(deadline)) = self.deadline.filter(|time| time.0 != Duration::ZERO) {
            builder = builder.deadline(deadline);
        }
        builder.deadline_policy(self.policy.map_or(DeadlinePolicy::Fail, Into::into))
    }
}

/// Writes a file: all of it or nothing, and durably, because it may be wanted after a crash.
pub(crate) fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let written = (|| {
        let mut file = fs::File::create(&new)?;
        if let Ok(old) = fs::metadata(path) {
            file.set_permissions(old.permissions())?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        fs::File::open(folder)?.sync_all()
    })();
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

/// Permissions as `0660`.
pub(crate) fn octal(mode: &str) -> std::result::Result<u32, String> {
    u32::from_str_radix(mode, 8)
        .ok()
        .filter(|bits| *bits <= 0o777)
        .ok_or_else(|| format!("{mode:?} are no permissions: write three octal digits, such as 0660"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> std::result::Result<Disk, String> {
        let disk: Disk = toml::from_str(text).map_err(|error| error.to_string())?;
        disk.check().map(|()| disk)
    }

    #[test]
    fn a_configuration_survives_writing() {
        let mut disk = Disk::new(Kind::File);
        disk.path = Some("/srv/a b.img".into());
        disk.block_size = Some(4096);
        disk.grace = Some("90s".parse().unwrap());
        disk.policy = Some(Policy::Dead);
        disk.fault = vec!["read:nth=3:errno=EIO".into()];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/a.b.toml");
        disk.write(&path).unwrap();
        assert_eq!(Disk::read(&path).unwrap(), disk);
        assert_eq!(fs::read_dir(folder.path().join("new")).unwrap().count(), 1);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, wanted) in [
            ("backend = \"file\"", "needs the key `path`"),
            ("backend = \"ram\"\nsize = \"1G\"\npath = \"/x\"", "has no key `path`"),
            ("backend = \"file\"\npath = \"x\"", "is not absolute"),
            ("backend = \"ram\"\nsize = \"1G\"\nqueus = 1", "unknown field `queus`"),
            ("backend = \"disk\"", "unknown variant `disk`"),
            ("backend = \"ram\"\nsize = \"lots\"", "is no size"),
            ("backend = \"ram\"\nsize = \"1G\"\nmode = \"rw\"", "are no permissions"),
            ("backend = \"ram\"\nsize = \"1G\"\nfault = [\"x\"]", "fault \"x\""),
            ("backend = \"null\"\nsize = \"1G\"\ndirect = true", "has no key `direct`"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
