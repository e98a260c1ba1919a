// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finds the newest release of a line whose packages a suite has, all in one version.
//!
//! The suites of a line are asked one after the other. A suite that cannot be read does not matter as long as
//! another one has a release.

use super::lines::{KernelName, numbers};
use crate::packages::{Index, Package, in_suites};
use crate::suites::Suite;
use crate::{Error, Result};

/// A release, and the packages to unpack.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) release: String,
    pub(super) packages: Vec<Package>,
}

/// The newest release of a line, and the archive that has it.
pub(super) fn newest<I: Index>(name: KernelName, open: impl Fn(&Suite) -> Result<I>) -> Result<(I, Found)> {
    let found = in_suites(name.suites(), |suite| {
        let index = open(suite)?;
        Ok(newest_in(&index, name)?.map(|found| (index, found)))
    })?;
    let mut best: Option<(I, Found)> = None;
    for (index, found) in found {
        if best.as_ref().is_none_or(|(_, other)| newer(name, &found.release, &other.release)) {
            best = Some((index, found));
        }
    }
    best.ok_or_else(|| absent(name))
}

/// Whether `release` is newer than `other`. Both belong to the line.
pub(super) fn newer(name: KernelName, release: &str, other: &str) -> bool {
    let order = |release| name.version_of(release).map(numbers);
    order(release) > order(other)
}

fn newest_in(index: &impl Index, name: KernelName) -> Result<Option<Found>> {
    for release in releases(index, name)? {
        let version = name.version_of(&release).unwrap_or_default();
        if let Some(packages) = packages(index, &release, version)? {
            return Ok(Some(Found { release, packages }));
        }
    }
    Ok(None)
}

/// The releases of a line that have headers, newest first.
fn releases(index: &impl Index, name: KernelName) -> Result<Vec<String>> {
    let headers = index.names(&name.headers_prefix())?;
    let releases = headers.iter().filter_map(|package| package.strip_prefix("linux-headers-"));
    let releases = releases.filter(|release| name.version_of(release).is_some());
    let mut releases: Vec<String> = releases.map(str::to_owned).collect();
    releases.sort_by_key(|release| std::cmp::Reverse(name.version_of(release).map(numbers)));
    Ok(releases)
}

/// The package with the newest headers of a line that can be installed: those of which the
/// index has the flavour's own and the common files. The kernel itself need not be there.
pub fn newest_headers(index: &impl Index, name: KernelName) -> Result<String> {
    for release in releases(index, name)? {
        let package = format!("linux-headers-{release}");
        let version = name.version_of(&release).unwrap_or_default();
        // Names can be known of packages that no suite has any more.
        let own = [package.clone(), format!("linux-headers-{version}-common")];
        if index.versions(&own)?.len() == own.len() {
            return Ok(package);
        }
    }
    Err(absent(name))
}

fn absent(name: KernelName) -> Error {
    Error::NoVersion {
        kernel: name.to_string(),
        suites: name.suites().iter().map(|suite| suite.name).collect::<Vec<_>>().join(", "),
    }
}

/// The packages of a release, if there is a version that all of them have.
fn packages(index: &impl Index, release: &str, version: &str) -> Result<Option<Vec<Package>>> {
    // Debian's kernels before 7 have one package with image and modules. Later ones have several, and an empty
    // `linux-image`. Where nobody has signed the image yet, only the unsigned one exists.
    let (modules, base) = (format!("linux-modules-{release}"), format!("linux-base-{release}"));
    let kernels = [
        vec![format!("linux-binary-{release}"), modules.clone(), base.clone()],
        vec![format!("linux-binary-unsigned-{release}"), modules, base],
        vec![format!("linux-image-{release}")],
        vec![format!("linux-image-{release}-unsigned")],
    ];
    // 6.1's kbuild package is named after the series.
    let series = version.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    let kbuild = [format!("linux-kbuild-{version}"), format!("linux-kbuild-{series}")];
    let headers = [format!("linux-headers-{release}"), format!("linux-headers-{version}-common")];
    let all: Vec<String> = kernels.iter().flatten().chain(&kbuild).chain(&headers).cloned().collect();
    let versions = index.versions(&all)?;
    let exists = |package: &&String| versions.contains_key(*package);
    let Some(kbuild) = kbuild.iter().find(exists) else { return Ok(None) };
    for kernel in &kernels {
        let names: Vec<&String> = kernel.iter().chain(&headers).chain([kbuild]).collect();
        let Some(own) = names.iter().map(|name| versions.get(*name)).collect::<Option<Vec<_>>>() else {
            continue;
        };
        let common = own[0].iter().find(|version| own.iter().all(|other| other.contains(version)));
        if let Some(version) = common {
            let package = |name: &String| Package { name: name.clone(), version: version.clone() };
            return Ok(Some(names.into_iter().map(package).collect()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// A made-up suite: lines of `PACKAGE VERSION...`.
    struct Text(&'static str);

    impl Index for Text {
        fn names(&self, prefix: &str) -> Result<Vec<String>> {
            let names = self.0.lines().filter_map(|line| line.split_whitespace().next());
            Ok(names.filter(|name| name.starts_with(prefix)).map(str::to_owned).collect())
        }

        fn versions(&self, names: &[String]) -> Result<BTreeMap<String, Vec<String>>> {
            let lines = self.0.lines().filter_map(|line| line.split_once(' '));
            let wanted = lines.filter(|(name, _)| names.iter().any(|wanted| wanted == name));
            let words = |versions: &str| versions.split_whitespace().map(str::to_owned).collect();
            Ok(wanted.map(|(name, versions)| (name.to_owned(), words(versions))).collect())
        }
    }

    const TRIXIE: &str = "linux-image-6.12.117+deb13-cloud-amd64 6.12.117-1
linux-headers-6.12.117+deb13-cloud-amd64 6.12.117-1
linux-headers-6.12.117+deb13-common 6.12.117-1
linux-kbuild-6.12.117+deb13 6.12.117-1
linux-headers-cloud-amd64 6.12.117-1";

    // The headers of .119 have no image yet, and the image of .118 has no signature.
    const SECURITY: &str = "linux-headers-6.12.119+deb13-cloud-amd64 6.12.119-1
linux-headers-6.12.119+deb13-common 6.12.119-1
linux-kbuild-6.12.119+deb13 6.12.119-1
linux-image-6.12.118+deb13-cloud-amd64-unsigned 6.12.118-1
linux-headers-6.12.118+deb13-cloud-amd64 6.12.118-1
linux-headers-6.12.118+deb13-common 6.12.118-1
linux-kbuild-6.12.118+deb13 6.12.118-1
linux-image-6.12.9+deb13-cloud-amd64 6.12.9-1
linux-headers-6.12.9+deb13-cloud-amd64 6.12.9-1
linux-headers-6.12.9+deb13-common 6.12.9-1
linux-kbuild-6.12.9+deb13 6.12.9-1";

    const BACKPORTS: &str = "linux-image-7.3.4+deb13-cloud-amd64 7.3.4-1
linux-binary-7.3.4+deb13-cloud-amd64 7.3.4-1
linux-modules-7.3.4+deb13-cloud-amd64 7.3.4-2 7.3.4-1
linux-base-7.3.4+deb13-cloud-amd64 7.3.4-1
linux-headers-7.3.4+deb13-cloud-amd64 7.3.4-2 7.3.4-1
linux-headers-7.3.4+deb13-common 7.3.4-1
linux-kbuild-7.3.4+deb13 7.3.4-1
linux-image-7.4.1+deb13-cloud-amd64 7.4.1-1
linux-image-6.16.3+deb13-cloud-amd64 6.16.3-1";

    fn broken(suite: &Suite) -> Error {
        let said = Error::Command {
            command: "apt-get update".to_owned(),
            status: "exit status: 100".to_owned(),
            output: "File has unexpected size. Mirror sync in progress?".to_owned(),
        };
        Error::Archive { suite: suite.name.to_owned(), said: Box::new(said) }
    }

    fn search(name: &str, open: impl Fn(&str) -> Option<&'static str>) -> Result<Found> {
        let open = |suite: &Suite| open(suite.name).map(Text).ok_or_else(|| broken(suite));
        newest(name.parse()?, open).map(|(_, found)| found)
    }

    fn names(found: &Found) -> Vec<&str> {
        found.packages.iter().map(|package| package.name.as_str()).collect()
    }

    #[test]
    fn the_newest_complete_release_of_all_suites_is_taken() {
        let open = |suite: &str| Some(if suite == "trixie" { TRIXIE } else { SECURITY });
        let found = search("6.12-trixie", open).unwrap();
        assert_eq!(found.release, "6.12.118+deb13-cloud-amd64");
        assert_eq!(names(&found)[0], "linux-image-6.12.118+deb13-cloud-amd64-unsigned");
    }

    #[test]
    fn an_inconsistent_suite_does_not_matter_if_another_one_delivers() {
        let found = search("6.12-trixie", |suite| (suite == "trixie").then_some(TRIXIE)).unwrap();
        assert_eq!(found.release, "6.12.117+deb13-cloud-amd64");
        let error = search("6.12-trixie", |suite| (suite == "trixie").then_some("")).unwrap_err();
        assert!(error.to_string().contains("trixie-security"), "{error}");
        assert!(error.is_absence());
        let error = search("6.12-trixie", |_| Some("")).unwrap_err();
        assert!(matches!(error, Error::NoVersion { .. }), "{error}");
        assert!(error.is_absence());
    }

    #[test]
    fn the_newest_headers_need_no_kernel() {
        let trixie = "6.12-trixie".parse().unwrap();
        assert_eq!(
            newest_headers(&Text(SECURITY), trixie).unwrap(),
            "linux-headers-6.12.119+deb13-cloud-amd64"
        );
        // Security is inconsistent, and the cached kernel came from there.
        assert_eq!(
            newest_headers(&Text(TRIXIE), trixie).unwrap(),
            "linux-headers-6.12.117+deb13-cloud-amd64"
        );
        // The common headers of the newest release are not there yet.
        let text = "linux-headers-6.12.119+deb13-cloud-amd64 6.12.119-1
linux-headers-6.12.9+deb13-common 6.12.9-1
linux-headers-6.12.9+deb13-cloud-amd64 6.12.9-1";
        assert_eq!(newest_headers(&Text(text), trixie).unwrap(), "linux-headers-6.12.9+deb13-cloud-amd64");
        let error = newest_headers(&Text("linux-headers-cloud-amd64 6.12.9-1"), trixie).unwrap_err();
        assert!(error.is_absence(), "{error}");
    }

    #[test]
    fn split_packages_are_found_in_one_version() {
        let found = search("backports", |_| Some(BACKPORTS)).unwrap();
        assert_eq!(found.release, "7.3.4+deb13-cloud-amd64");
        assert_eq!(
            names(&found),
            [
                "linux-binary-7.3.4+deb13-cloud-amd64",
                "linux-modules-7.3.4+deb13-cloud-amd64",
                "linux-base-7.3.4+deb13-cloud-amd64",
                "linux-headers-7.3.4+deb13-cloud-amd64",
                "linux-headers-7.3.4+deb13-common",
                "linux-kbuild-7.3.4+deb13"
            ]
        );
        assert!(found.packages.iter().all(|package| package.version == "7.3.4-1"));
    }

    #[test]
    fn a_kbuild_package_may_be_named_after_the_series() {
        let text = "linux-image-6.1.0-57-cloud-amd64 6.1.192-3
linux-headers-6.1.0-57-cloud-amd64 6.1.192-3
linux-headers-6.1.0-57-common 6.1.192-3
linux-kbuild-6.1 6.1.192-3 6.1.190-1";
        let found = search("6.1", |_| Some(text)).unwrap();
        assert!(names(&found).contains(&"linux-kbuild-6.1"));
    }
}
