// SPDX-License-Identifier: MIT OR Apache-2.0
//! Debian kernels, by short name, in a cache folder: stock kernels, and a debug kernel built from the same source.
//!
//! [`fetch`] downloads image, modules and headers of the newest version that has all three and unpacks them side
//! by side, never onto the host. [`find`] only looks. The cache is shared: a file lock serialises runs, and a
//! kernel appears by a rename, complete or not at all. Cached kernels are used offline and do not expire; `update`
//! asks the archive for a newer version. `cargo xtask debug-kernel` builds the debug kernel, which [`find`]
//! accepts only if it was built with the current configuration.

use crate::arch::{self, Arch};
use crate::error::file;
use crate::packages::{Archive, Package};
use crate::{Error, Result, command};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

/// Free MiB needed to unpack a kernel.
const NEED: u64 = 2048;
/// Suites that together have both kernels for Debian 12.
pub const SOURCES: [(&str, &str); 3] = [
    ("http://deb.debian.org/debian", "bookworm"),
    ("http://deb.debian.org/debian", "bookworm-backports"),
    ("http://deb.debian.org/debian-security", "bookworm-security"),
];
const SERIES: [&str; 2] = ["6.1", "6.12"];
/// Configuration of the debug kernel. Options that it does not mention are off.
pub const DEBUG_CONFIG: &str = include_str!("../debug-kernel.config");

/// Which kernel: a release series and a flavour of Debian's amd64 kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelName {
    series: &'static str,
    flavour: Flavour,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Flavour {
    Cloud,
    Generic,
    Debug,
}

impl KernelName {
    /// Every stock kernel.
    pub const STOCK: [Self; 4] = [
        Self { series: "6.1", flavour: Flavour::Cloud },
        Self { series: "6.12", flavour: Flavour::Cloud },
        Self { series: "6.1", flavour: Flavour::Generic },
        Self { series: "6.12", flavour: Flavour::Generic },
    ];
    /// The debug kernel.
    pub const DEBUG: Self = Self { series: "6.12", flavour: Flavour::Debug };

    /// Whether it is [`DEBUG`](Self::DEBUG).
    #[must_use]
    pub fn is_debug(self) -> bool {
        self == Self::DEBUG
    }

    /// Whether it is the generic flavour.
    #[must_use]
    pub fn is_generic(self) -> bool {
        self.flavour == Flavour::Generic
    }

    fn suffix(self) -> String {
        match self.flavour {
            Flavour::Cloud => "-cloud-amd64".to_owned(),
            Flavour::Generic => "-amd64".to_owned(),
            Flavour::Debug => debug_suffix(DEBUG_CONFIG),
        }
    }

    /// The part of a release before the flavour, if the release belongs to this kernel.
    fn version_of(self, release: &str) -> Option<&str> {
        let version = release.strip_suffix(self.suffix().as_str())?;
        let rest = version.strip_prefix(self.series)?.strip_prefix('.')?;
        let other = ["-cloud", "-rt"].iter().any(|flavour| rest.ends_with(flavour));
        (!other).then_some(version)
    }
}

impl FromStr for KernelName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        if name == "debug" {
            return Ok(Self::DEBUG);
        }
        let (series, flavour) = match name.strip_suffix("-generic") {
            Some(series) => (series, Flavour::Generic),
            None => (name, Flavour::Cloud),
        };
        let series = SERIES.into_iter().find(|known| *known == series);
        series.map(|series| Self { series, flavour }).ok_or_else(|| Error::UnknownKernel(name.to_owned()))
    }
}

impl std::fmt::Display for KernelName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.flavour {
            Flavour::Cloud => f.write_str(self.series),
            Flavour::Generic => write!(f, "{}-generic", self.series),
            Flavour::Debug => f.write_str("debug"),
        }
    }
}

/// `uname -r` of the debug kernel that is built from this version of Debian's source.
#[must_use]
pub fn debug_release(version: &str) -> String {
    // A release must not contain a tilde.
    format!("{}{}", version.replace('~', "-"), KernelName::DEBUG.suffix())
}

fn debug_suffix(config: &str) -> String {
    let mut key = DefaultHasher::new();
    config.hash(&mut key);
    format!("-debug-{:08x}", key.finish() >> 32)
}

/// A kernel in the cache.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its short name.
    pub name: KernelName,
    /// Its `uname -r`.
    pub release: String,
    /// The image that QEMU boots.
    pub vmlinuz: PathBuf,
    /// The folder with `kernel/`, `modules.dep` and `modules.builtin`.
    pub modules: PathBuf,
    /// Value of `KDIR=` for building modules.
    pub headers: PathBuf,
}

impl Kernel {
    /// Its architecture.
    #[must_use]
    pub fn arch(&self) -> &'static Arch {
        arch::host()
    }
}

/// The cache folder: `ZOSBD2_CACHE`, or `kernels` in cargo's target folder of this project.
#[must_use]
pub fn cache() -> PathBuf {
    if let Some(cache) = std::env::var_os("ZOSBD2_CACHE") {
        return cache.into();
    }
    target().join("kernels")
}

/// Cargo's target folder of this project.
#[must_use]
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target"), PathBuf::from)
}

/// MiB free where `path` is or will be.
pub fn free_mib(path: &Path) -> Result<u64> {
    let there = path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(there).map_err(|error| file("examine", there)(error.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize) >> 20)
}

/// Fails unless `need` MiB are free where `path` is or will be.
pub fn require_free(path: &Path, need: u64) -> Result<()> {
    let free = free_mib(path)?;
    if free < need {
        return Err(Error::DiskSpace { path: path.to_owned(), free, need });
    }
    Ok(())
}

/// Finds a kernel in the cache.
pub fn find(name: KernelName) -> Result<Kernel> {
    let cache = cache();
    let chosen = cache.join(format!("{name}.release"));
    let missing = || if name.is_debug() { Error::NotBuilt } else { Error::NotFetched(name.to_string()) };
    let release = fs::read_to_string(&chosen).map_err(|_| missing())?;
    let release = release.trim().to_owned();
    // The debug kernel's configuration may have changed since the build.
    if name.version_of(&release).is_none() {
        return Err(missing());
    }
    let tree = cache.join(&release);
    let kernel = Kernel {
        name,
        vmlinuz: tree.join("boot").join(format!("vmlinuz-{release}")),
        modules: modules_folder(&tree, &release),
        headers: tree.join("usr/src").join(format!("linux-headers-{release}")),
        release,
    };
    let complete = kernel.vmlinuz.exists() && kernel.modules.exists() && kernel.headers.exists();
    if complete { Ok(kernel) } else { Err(missing()) }
}

/// Makes [`find`] return this cached release for the name.
pub fn choose(name: KernelName, release: &str) -> Result<()> {
    let cache = cache();
    let chosen = cache.join(format!("{name}.release"));
    let fresh = cache.join(format!("{name}.release.new"));
    fs::write(&fresh, format!("{release}\n")).map_err(file("write", &fresh))?;
    fs::rename(&fresh, &chosen).map_err(file("rename", &fresh))
}

/// A stock kernel. Downloads it if it is not in the cache, or if `update` is set and a newer version exists.
pub fn fetch(name: KernelName, update: bool) -> Result<Kernel> {
    if name.is_debug() {
        return Err(Error::NotBuilt);
    }
    let cache = cache();
    fs::create_dir_all(&cache).map_err(file("create", &cache))?;
    let lock_path = cache.join("lock");
    let lock = File::create(&lock_path).map_err(file("create", &lock_path))?;
    lock.lock().map_err(file("lock", &lock_path))?;
    if !update && let Ok(kernel) = find(name) {
        return Ok(kernel);
    }
    require_free(&cache, NEED)?;
    // apt-get needs seconds for the lists. They are fetched once per kernel and run, which is rare.
    let archive = Archive::open(&cache.join("apt"), &SOURCES)?;
    let (release, packages) = newest(&archive, name)?;
    if !cache.join(&release).exists() {
        unpack(&archive, &cache, &release, &packages)?;
    }
    choose(name, &release)?;
    find(name)
}

/// The newest release with all packages in one version.
fn newest(archive: &Archive, name: KernelName) -> Result<(String, Vec<Package>)> {
    let images = archive.names(&format!("linux-image-{}.", name.series))?;
    let mut releases: Vec<&str> = images
        .iter()
        .filter_map(|image| image.strip_prefix("linux-image-"))
        .filter(|release| name.version_of(release).is_some())
        .collect();
    releases.sort_by_key(|release| std::cmp::Reverse(numbers(release)));
    for release in releases {
        let Some(version) = name.version_of(release) else { continue };
        let mut names = vec![
            format!("linux-image-{release}"),
            format!("linux-headers-{release}"),
            format!("linux-headers-{version}-common"),
        ];
        let kbuild = format!("linux-kbuild-{version}");
        let own_kbuild = !archive.versions(&kbuild)?.is_empty();
        names.push(if own_kbuild { kbuild } else { format!("linux-kbuild-{}", name.series) });
        let mut common = archive.versions(&names[0])?;
        for other in &names[1..] {
            let versions = archive.versions(other)?;
            common.retain(|version| versions.contains(version));
        }
        if let Some(version) = common.first() {
            let package = |name| Package { name, version: version.clone() };
            return Ok((release.to_owned(), names.into_iter().map(package).collect()));
        }
    }
    Err(Error::NoVersion(name.to_string()))
}

/// The numbers in a release, for ordering: `6.12.117+deb12` is newer than `6.12.95+deb12`.
fn numbers(release: &str) -> Vec<u64> {
    let pieces = release.split(|c: char| !c.is_ascii_digit());
    pieces.filter_map(|piece| piece.parse().ok()).collect()
}

fn unpack(archive: &Archive, cache: &Path, release: &str, packages: &[Package]) -> Result<()> {
    let fresh = cache.join(format!("{release}.new"));
    if fresh.exists() {
        fs::remove_dir_all(&fresh).map_err(file("remove", &fresh))?;
    }
    let debs = fresh.join("debs");
    fs::create_dir_all(&debs).map_err(file("create", &debs))?;
    archive.download(packages, &debs)?;
    for entry in fs::read_dir(&debs).map_err(file("read", &debs))? {
        let deb = entry.map_err(file("read", &debs))?.path();
        command::output(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&fresh), "dpkg")?;
    }
    fs::remove_dir_all(&debs).map_err(file("remove", &debs))?;
    relocate(&fresh, release)?;
    // The package's own script would do this during installation.
    let modules = modules_folder(&fresh, release);
    let base = if modules.starts_with(fresh.join("usr")) { fresh.join("usr") } else { fresh.clone() };
    command::output(Command::new("/sbin/depmod").arg("-b").arg(&base).arg(release), "kmod")?;
    let place = cache.join(release);
    fs::rename(&fresh, &place).map_err(file("rename", &fresh))
}

fn modules_folder(tree: &Path, release: &str) -> PathBuf {
    let old = tree.join("lib/modules").join(release);
    if old.join("kernel").exists() { old } else { tree.join("usr/lib/modules").join(release) }
}

/// Makes the headers work in the cache: their Makefile and links refer to paths under /usr.
fn relocate(tree: &Path, release: &str) -> Result<()> {
    let headers = tree.join("usr/src").join(format!("linux-headers-{release}"));
    let makefile = headers.join("Makefile");
    let text = fs::read_to_string(&makefile).map_err(file("read", &makefile))?;
    let here = "$(dir $(lastword $(MAKEFILE_LIST)))../";
    fs::write(&makefile, text.replace("/usr/src/", here)).map_err(file("write", &makefile))?;
    let sources = tree.join("usr/src");
    let mut links = vec![modules_folder(tree, release)];
    for entry in fs::read_dir(&sources).map_err(file("read", &sources))? {
        links.push(entry.map_err(file("read", &sources))?.path());
    }
    for folder in links {
        for entry in fs::read_dir(&folder).map_err(file("read", &folder))? {
            let link = entry.map_err(file("read", &folder))?.path();
            let Ok(to) = fs::read_link(&link) else { continue };
            let Ok(inside) = to.strip_prefix("/") else { continue };
            let up = folder.strip_prefix(tree).unwrap_or(&folder).components().count();
            let relative: PathBuf = std::iter::repeat_n(Path::new(".."), up).chain([inside]).collect();
            fs::remove_file(&link).map_err(file("remove", &link))?;
            symlink(&relative, &link).map_err(file("write", &link))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for name in KernelName::STOCK.into_iter().chain([KernelName::DEBUG]) {
            assert_eq!(name.to_string().parse::<KernelName>().unwrap(), name);
        }
        assert!(matches!("6.2".parse::<KernelName>(), Err(Error::UnknownKernel(_))));
    }

    #[test]
    fn a_release_belongs_to_one_name() {
        for (release, name) in [
            ("6.12.117+deb12-cloud-amd64", "6.12"),
            ("6.12.117+deb12-amd64", "6.12-generic"),
            ("6.1.0-56-cloud-amd64", "6.1"),
            ("6.1.0-56-amd64", "6.1-generic"),
        ] {
            for candidate in KernelName::STOCK {
                assert_eq!(
                    candidate.version_of(release).is_some(),
                    candidate.to_string() == name,
                    "{release}"
                );
            }
        }
        for name in KernelName::STOCK {
            assert_eq!(name.version_of("6.1.0-56-rt-amd64"), None);
            assert_eq!(name.version_of("6.1.0-56-amd64-unsigned"), None);
        }
    }

    #[test]
    fn a_debug_release_is_of_one_configuration() {
        let release = debug_release("6.12.117-1~deb12u1");
        assert_eq!(KernelName::DEBUG.version_of(&release), Some("6.12.117-1-deb12u1"));
        for stock in KernelName::STOCK {
            assert_eq!(stock.version_of(&release), None);
        }
        let other = format!("6.12.117-1-deb12u1{}", debug_suffix("CONFIG_SMP=y\n"));
        assert_eq!(KernelName::DEBUG.version_of(&other), None);
    }

    #[test]
    fn releases_are_ordered_by_number() {
        assert!(numbers("6.12.117+deb12-amd64") > numbers("6.12.95+deb12-amd64"));
        assert!(numbers("6.1.0-56-amd64") > numbers("6.1.0-9-amd64"));
    }
}
