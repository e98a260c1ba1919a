// SPDX-License-Identifier: MIT OR Apache-2.0
//! Debian packages through a private apt configuration: own sources, lists and cache in one folder.
//!
//! The host's sources and package database are neither read nor changed. Needs `apt-get` and the network
//! for [`Apt::open`] of a folder that is not there yet.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// A private apt.
#[derive(Debug)]
pub(crate) struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// Sets one up in `folder` for these suites of Debian, and reads their package lists.
    pub(crate) fn open(folder: &Path, suites: &[&str]) -> Result<Self> {
        for part in ["etc/parts", "state/lists/partial", "cache/archives/partial"] {
            let path = folder.join(part);
            fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        }
        let mut sources = String::new();
        for suite in suites {
            writeln!(
                sources,
                "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] \
                 http://deb.debian.org/debian {suite} main"
            )?;
        }
        let root = folder.display();
        let configuration = format!(
            "Dir \"{root}\";\nDir::State \"state\";\nDir::State::status \"{root}/state/status\";\n\
             Dir::Cache \"cache\";\nDir::Etc \"etc\";\nDir::Etc::sourcelist \"sources.list\";\n\
             Dir::Etc::sourceparts \"parts\";\nDir::Etc::parts \"parts\";\nDir::Etc::main \"parts/none\";\n\
             Dir::Etc::preferencesparts \"parts\";\nAPT::Sandbox::User \"root\";\n\
             Acquire::Languages \"none\";\nAcquire::Retries \"3\";\n"
        );
        for (name, text) in
            [("etc/sources.list", sources.as_str()), ("apt.conf", &configuration), ("state/status", "")]
        {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
        let apt = Self { folder: folder.to_owned() };
        apt.run("apt-get", ["update"]).context("is the network there?")?;
        Ok(apt)
    }

    /// Versions of a package, newest first.
    pub(crate) fn versions(&self, package: &str) -> Result<Vec<String>> {
        let table = self.run("apt-cache", ["madison", package])?;
        Ok(table
            .lines()
            .filter_map(|line| line.split('|').nth(1))
            .map(|word| word.trim().to_owned())
            .collect())
    }

    /// Downloads one version of a package.
    pub(crate) fn download(&self, package: &str, version: &str) -> Result<PathBuf> {
        self.run("apt-get", ["download", &format!("{package}={version}")])?;
        let escaped = version.replace(':', "%3a");
        let start = format!("{package}_{escaped}_");
        let found = fs::read_dir(&self.folder)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&start)));
        found.with_context(|| format!("apt-get downloaded no {package} {version}"))
    }

    fn run(&self, program: &str, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<String> {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&self.folder);
        command.env("APT_CONFIG", self.folder.join("apt.conf")).env("LC_ALL", "C");
        let output = command.output().with_context(|| format!("run {command:?}"))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{command:?} failed:\n{errors}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
