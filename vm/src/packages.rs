// SPDX-License-Identifier: MIT OR Apache-2.0
//! Debian's package archive, through private apt configurations, one per suite and architecture.
//!
//! Lists, cache, status and sources are private folders in the cache, so the host's apt stays unchanged and packages
//! of another release are available. A suite whose index is broken does not affect the others. Packages are only
//! downloaded; the caller decides where to unpack them. Only the host's proxy settings are reused. The caller holds
//! the cache's [`lock`](crate::kernels::lock).

use crate::error::file;
use crate::kernels::cache;
use crate::kernels::lines::numbers;
use crate::suites::Suite;
use crate::{Error, Result, command};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The configurations that this process has opened.
static OPENED: Mutex<Vec<Archive>> = Mutex::new(Vec::new());

/// A private apt.
#[derive(Clone, Debug)]
pub struct Archive {
    folder: PathBuf,
    sources: String,
    architecture: String,
}

/// A package in one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version, as apt writes it.
    pub version: String,
}

/// What `look` finds in each suite. A suite that cannot be read is left out; its error is returned if nothing is found
/// in any other suite.
pub fn in_suites<T>(suites: &[&Suite], mut look: impl FnMut(&Suite) -> Result<Option<T>>) -> Result<Vec<T>> {
    let (mut found, mut broken) = (Vec::new(), None);
    for suite in suites {
        match look(suite) {
            Ok(one) => found.extend(one),
            Err(error) => broken = broken.or(Some(error)),
        }
    }
    match broken {
        Some(error) if found.is_empty() => Err(error),
        _ => Ok(found),
    }
}

/// The newest version of a package that `fits`, and the archive that has it.
pub fn find(
    name: &str,
    suites: &[&Suite],
    architecture: &str,
    fits: impl Fn(&str) -> bool,
) -> Result<Option<(Archive, Package)>> {
    let names = [name.to_owned()];
    let found = in_suites(suites, |suite| {
        let archive = Archive::open(suite, architecture)?;
        let versions = archive.versions(&names)?.remove(name).unwrap_or_default();
        let version = versions.into_iter().find(|version| fits(version));
        Ok(version.map(|version| (archive, Package { name: name.to_owned(), version })))
    })?;
    // The first of equals.
    Ok(found.into_iter().rev().max_by_key(|(_, package)| numbers(&package.version)))
}

/// The lines of the host's apt configuration that name a proxy.
pub fn proxies() -> Result<Vec<String>> {
    let host = command::text(Command::new("apt-config").arg("dump"), "apt")?;
    let named =
        |line: &&str| line.starts_with("Acquire::") && line.contains("::Proxy") && !line.ends_with("\"\";");
    Ok(host.lines().filter(named).map(str::to_owned).collect())
}

/// What a suite has.
pub trait Index {
    /// Names of packages with this prefix.
    fn names(&self, prefix: &str) -> Result<Vec<String>>;

    /// Versions of each package, newest first. A package that does not exist has no entry.
    fn versions(&self, names: &[String]) -> Result<BTreeMap<String, Vec<String>>>;
}

impl Archive {
    /// The suite's packages for one architecture. The first call of a process downloads the suite's index.
    pub fn open(suite: &Suite, architecture: &str) -> Result<Self> {
        let archive = Self {
            folder: cache().join("apt").join(format!("{}-{architecture}", suite.name)),
            sources: format!(
                "deb [signed-by={KEYRING} arch={architecture}] {} {} main\n",
                suite.address, suite.name
            ),
            architecture: architecture.to_owned(),
        };
        let mut opened = OPENED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if opened.iter().any(|other| other.folder == archive.folder) {
            return Ok(archive);
        }
        if !Path::new(KEYRING).exists() {
            return Err(Error::MissingProgram {
                program: KEYRING.to_owned(),
                package: "debian-archive-keyring".to_owned(),
            });
        }
        archive.configure(suite.check_date)?;
        // `any` turns a failed list into an error; apt would only warn.
        let mut update = archive.program("apt-get");
        command::output(update.args(["--quiet", "--error-on=any", "update"]), "apt")
            .map_err(|error| Error::Archive { suite: suite.name.to_owned(), said: Box::new(error) })?;
        opened.push(archive.clone());
        Ok(archive)
    }

    /// The packages of several archives of one architecture as one archive, for packages of one suite that depend on
    /// packages of another. `folder` must not exist. Only copies what the archives have downloaded.
    pub fn together(folder: &Path, archives: &[Self]) -> Result<Self> {
        let joined = Self {
            folder: folder.to_owned(),
            sources: archives.iter().map(|archive| archive.sources.as_str()).collect(),
            architecture: archives.first().map(|archive| archive.architecture.clone()).unwrap_or_default(),
        };
        joined.configure(true)?;
        for archive in archives {
            let lists = archive.folder.join("state/lists");
            for entry in fs::read_dir(&lists).map_err(file("read", &lists))? {
                let from = entry.map_err(file("read", &lists))?.path();
                if from.is_file()
                    && let Some(name) = from.file_name()
                {
                    let to = joined.folder.join("state/lists").join(name);
                    fs::copy(&from, &to).map_err(file("write", &to))?;
                }
            }
        }
        Ok(joined)
    }

    /// Its lines for a `sources.list`.
    #[must_use]
    pub fn sources(&self) -> &str {
        &self.sources
    }

    fn configure(&self, check_date: bool) -> Result<()> {
        for sub in ["etc/empty", "state/lists/partial", "cache/archives/partial"] {
            let path = self.folder.join(sub);
            fs::create_dir_all(&path).map_err(file("create", &path))?;
        }
        let write = |name: &str, text: &str| {
            let path = self.folder.join(name);
            fs::write(&path, text).map_err(file("write", &path))
        };
        write("etc/sources.list", &self.sources)?;
        write("state/status", "")?;
        let (folder, architecture) = (self.folder.display(), &self.architecture);
        let mut config = format!(
            "Dir \"{folder}\";\nDir::State \"state\";\nDir::State::status \"{folder}/state/status\";\n\
             Dir::Cache \"cache\";\nDir::Cache::srcpkgcache \"\";\nDir::Etc \"etc\";\nDir::Etc::main \"none\";\n\
             Dir::Etc::parts \"empty\";\nDir::Etc::sourcelist \"sources.list\";\nDir::Etc::sourceparts \"empty\";\n\
             Dir::Etc::preferencesparts \"empty\";\nAPT::Architecture \"{architecture}\";\n\
             APT::Architectures {{ \"{architecture}\"; }};\nAPT::Install-Recommends \"false\";\n\
             APT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\nAcquire::Retries \"3\";\n"
        );
        if !check_date {
            config.push_str("Acquire::Check-Valid-Until \"false\";\n");
        }
        for line in proxies()? {
            let _ = writeln!(config, "{line}");
        }
        write("apt.conf", &config)
    }

    fn program(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.folder.join("apt.conf")).env("LC_ALL", "C");
        command
    }

    /// Downloads packages into `folder`.
    pub fn download(&self, packages: &[Package], folder: &Path) -> Result<()> {
        let wanted = packages.iter().map(|package| format!("{}={}", package.name, package.version));
        let mut command = self.program("apt-get");
        command.args(["--quiet", "download"]).args(wanted).current_dir(folder);
        command::output(&mut command, "apt").map(drop).map_err(Self::download_failed)
    }

    /// Downloads packages into `folder`, with everything that they depend on, down to the C library.
    pub fn download_all(&self, names: &[String], folder: &Path) -> Result<()> {
        let partial = folder.join("partial");
        fs::create_dir_all(&partial).map_err(file("create", &partial))?;
        let mut command = self.program("apt-get");
        command.args(["--quiet", "--yes", "--download-only", "-o"]);
        command.arg(format!("Dir::Cache::archives={}", folder.display())).arg("install").args(names);
        command::output(&mut command, "apt").map(drop).map_err(Self::download_failed)
    }

    fn download_failed(error: Error) -> Error {
        match error {
            Error::Command { .. } => Error::Download(Box::new(error)),
            other => other,
        }
    }
}

impl Index for Archive {
    fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let text = command::text(self.program("apt-cache").args(["pkgnames", prefix]), "apt")?;
        Ok(text.lines().map(|line| line.trim().to_owned()).collect())
    }

    fn versions(&self, names: &[String]) -> Result<BTreeMap<String, Vec<String>>> {
        let text = command::text(self.program("apt-cache").arg("madison").args(names), "apt")?;
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in text.lines() {
            let mut fields = line.split('|').map(str::trim);
            if let (Some(name), Some(version)) = (fields.next(), fields.next()) {
                found.entry(name.to_owned()).or_default().push(version.to_owned());
            }
        }
        Ok(found)
    }
}
