// SPDX-License-Identifier: MIT OR Apache-2.0
//! Debian's package archive, through a private apt configuration.
//!
//! Lists, cache, status and sources are private folders, so the host's apt stays unchanged and packages of another
//! release are available. Packages are only downloaded; the caller decides where to unpack them. Only the host's
//! proxy settings are reused. The caller holds the cache's lock.

use crate::command;
use crate::error::file;
use crate::{Error, Result};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A private apt.
#[derive(Debug)]
pub struct Archive {
    config: PathBuf,
}

/// A package in one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version, as apt writes it.
    pub version: String,
}

impl Archive {
    /// Writes the configuration under `folder` and downloads the package lists of `sources`, which are pairs of
    /// address and suite.
    pub fn open(folder: &Path, sources: &[(&str, &str)]) -> Result<Self> {
        if !Path::new(KEYRING).exists() {
            return Err(Error::MissingProgram {
                program: KEYRING.to_owned(),
                package: "debian-archive-keyring".to_owned(),
            });
        }
        for sub in ["etc/empty", "state/lists/partial", "cache/archives/partial"] {
            let path = folder.join(sub);
            fs::create_dir_all(&path).map_err(file("create", &path))?;
        }
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).map_err(file("write", &path))
        };
        let mut list = String::new();
        for (address, suite) in sources {
            let _ = writeln!(list, "deb [signed-by={KEYRING} arch=amd64] {address} {suite} main");
        }
        write("etc/sources.list", &list)?;
        write("state/status", "")?;
        let folder_text = folder.display();
        let mut config = format!(
            "Dir \"{folder_text}\";\nDir::State \"state\";\nDir::State::status \"{folder_text}/state/status\";\n\
             Dir::Cache \"cache\";\nDir::Etc \"etc\";\nDir::Etc::main \"none\";\nDir::Etc::parts \"empty\";\n\
             Dir::Etc::sourcelist \"sources.list\";\nDir::Etc::sourceparts \"empty\";\n\
             Dir::Etc::preferencesparts \"empty\";\nAPT::Architecture \"amd64\";\nAPT::Sandbox::User \"root\";\n\
             Acquire::Languages \"none\";\nAcquire::Retries \"3\";\n"
        );
        let host = command::text(Command::new("apt-config").arg("dump"), "apt")?;
        for line in host.lines() {
            if line.starts_with("Acquire::") && line.contains("::Proxy") && !line.ends_with("\"\";") {
                let _ = writeln!(config, "{line}");
            }
        }
        write("apt.conf", &config)?;
        let archive = Self { config: folder.join("apt.conf") };
        // `any` turns a failed list into an error; apt would only warn.
        let mut update = archive.program("apt-get");
        command::output(update.args(["--quiet", "--error-on=any", "update"]), "apt")
            .map_err(|error| Error::Archive(Box::new(error)))?;
        Ok(archive)
    }

    fn program(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.config).env("LC_ALL", "C");
        command
    }

    /// Names of packages with this prefix.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let text = command::text(self.program("apt-cache").args(["pkgnames", prefix]), "apt")?;
        Ok(text.lines().map(|line| line.trim().to_owned()).collect())
    }

    /// Versions of a package, newest first; empty if the package does not exist.
    pub fn versions(&self, name: &str) -> Result<Vec<String>> {
        let text = command::text(self.program("apt-cache").args(["madison", name]), "apt")?;
        let version = |line: &str| line.split('|').nth(1).map(|version| version.trim().to_owned());
        Ok(text.lines().filter_map(version).collect())
    }

    /// Downloads packages into `folder`.
    pub fn download(&self, packages: &[Package], folder: &Path) -> Result<()> {
        let wanted = packages.iter().map(|package| format!("{}={}", package.name, package.version));
        let mut command = self.program("apt-get");
        command.args(["--quiet", "download"]).args(wanted).current_dir(folder);
        command::output(&mut command, "apt").map(drop)
    }
}
