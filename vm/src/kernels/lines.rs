// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lines of kernels: for each short name the suites, the series and the flavour of its releases, and the root in
//! which its modules are built.
//!
//! A line outlives its releases: `backports` is 7.3 until Debian replaces it. A release belongs to one line.

use crate::arch::{AMD64, Arch};
use crate::suites::{
    BOOKWORM, BOOKWORM_BACKPORTS, BOOKWORM_SECURITY, SID, Suite, TRIXIE, TRIXIE_BACKPORTS, TRIXIE_SECURITY,
};
use crate::{Error, Result};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Configuration of the debug kernel. Options that it does not mention are off.
pub const DEBUG_CONFIG: &str = include_str!("../../debug-kernel.config");

/// A name that stands for the line with the newest kernel of a stable Debian.
const NEWEST: &str = "newest";

/// A folder with compilers and tools of a Debian release, in which programs run: see `xtask/src/root.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RootKind {
    /// Debian 12's compiler and kernel build tools.
    Bookworm,
    /// Debian 13's compiler and kernel build tools.
    Trixie,
    /// The same of Debian's development.
    Sid,
    /// Debian 13's Rust.
    Rust,
    /// Debian 13 with the headers of its kernel, gcc and make; no Rust.
    StrangerTrixie,
    /// Debian 12 likewise.
    StrangerBookworm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Flavour {
    Cloud,
    Generic,
    Debug,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Series {
    Fixed(&'static str),
    /// The newest of all series above this one.
    Above(&'static str),
}

#[derive(Debug, PartialEq, Eq)]
struct Line {
    name: &'static str,
    suites: &'static [&'static Suite],
    series: Series,
    flavour: Flavour,
    architecture: &'static Arch,
    /// Debian releases for which the kernel was built: the number after `+deb`, or 0 without that.
    debian: RangeInclusive<u32>,
    /// `None`: modules are built by the host's compiler.
    root: Option<RootKind>,
    /// First column of the rows of README's table that claim the line.
    row: Option<&'static str>,
}

const OF_6_1: &[&Suite] = &[&BOOKWORM_SECURITY, &BOOKWORM];
const OF_6_12: &[&Suite] = &[&BOOKWORM_SECURITY, &BOOKWORM_BACKPORTS];
const OF_TRIXIE: &[&Suite] = &[&TRIXIE_SECURITY, &TRIXIE];

const LINES: [Line; 7] = [
    Line {
        name: "6.1",
        suites: OF_6_1,
        series: Series::Fixed("6.1"),
        flavour: Flavour::Cloud,
        architecture: &AMD64,
        debian: 0..=0,
        root: None,
        row: Some("6.1 cloud"),
    },
    Line {
        name: "6.12",
        suites: OF_6_12,
        series: Series::Fixed("6.12"),
        flavour: Flavour::Cloud,
        architecture: &AMD64,
        debian: 12..=12,
        root: None,
        row: Some("6.12 cloud"),
    },
    Line {
        name: "6.1-generic",
        suites: OF_6_1,
        series: Series::Fixed("6.1"),
        flavour: Flavour::Generic,
        architecture: &AMD64,
        debian: 0..=0,
        root: None,
        row: Some("6.1 generic"),
    },
    Line {
        name: "6.12-generic",
        suites: OF_6_12,
        series: Series::Fixed("6.12"),
        flavour: Flavour::Generic,
        architecture: &AMD64,
        debian: 12..=12,
        root: None,
        row: Some("6.12 generic"),
    },
    Line {
        name: "6.12-trixie",
        suites: OF_TRIXIE,
        series: Series::Fixed("6.12"),
        flavour: Flavour::Cloud,
        architecture: &AMD64,
        debian: 13..=13,
        root: Some(RootKind::Trixie),
        row: Some("6.12 of Debian 13, cloud"),
    },
    Line {
        name: "backports",
        suites: &[&TRIXIE_BACKPORTS],
        series: Series::Above("6.12"),
        flavour: Flavour::Cloud,
        architecture: &AMD64,
        debian: 13..=13,
        root: Some(RootKind::Trixie),
        row: Some("newest of Debian 13's backports, cloud"),
    },
    Line {
        name: "sid",
        suites: &[&SID],
        series: Series::Above("6.12"),
        flavour: Flavour::Cloud,
        architecture: &AMD64,
        debian: 14..=u32::MAX,
        root: Some(RootKind::Sid),
        row: Some("newest of sid, cloud"),
    },
];

/// Built from the source package of the line 6.12; see `cargo xtask debug-kernel`.
const DEBUG_LINE: Line = Line {
    name: "debug",
    suites: OF_6_12,
    series: Series::Fixed("6.12"),
    flavour: Flavour::Debug,
    architecture: &AMD64,
    debian: 0..=0,
    root: None,
    row: None,
};

/// A line of kernels, by its short name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelName(&'static Line);

impl KernelName {
    /// The stock kernels whose modules the compiler of Debian 12 builds.
    pub const STOCK: [Self; 4] = [Self(&LINES[0]), Self(&LINES[1]), Self(&LINES[2]), Self(&LINES[3])];
    /// The newest kernel of a stable Debian.
    pub const NEWEST: Self = Self(&LINES[5]);
    /// The debug kernel.
    pub const DEBUG: Self = Self(&DEBUG_LINE);

    /// Every stock kernel.
    pub fn all_stock() -> impl Iterator<Item = Self> {
        LINES.iter().map(Self)
    }

    /// Whether it is [`DEBUG`](Self::DEBUG).
    #[must_use]
    pub fn is_debug(self) -> bool {
        self.0.flavour == Flavour::Debug
    }

    /// Whether it is the generic flavour.
    #[must_use]
    pub fn is_generic(self) -> bool {
        self.0.flavour == Flavour::Generic
    }

    /// The suites that have its releases.
    #[must_use]
    pub fn suites(self) -> &'static [&'static Suite] {
        self.0.suites
    }

    /// Its architecture.
    #[must_use]
    pub fn architecture(self) -> &'static Arch {
        self.0.architecture
    }

    /// First column of its rows in README's table of kernels; `None` if README does not claim the line.
    #[must_use]
    pub fn row(self) -> Option<&'static str> {
        self.0.row
    }

    /// Beginning of the names of its headers' packages.
    pub(super) fn headers_prefix(self) -> String {
        match self.0.series {
            Series::Fixed(series) => format!("linux-headers-{series}."),
            Series::Above(_) => "linux-headers-".to_owned(),
        }
    }

    fn suffix(self) -> String {
        match self.0.flavour {
            Flavour::Cloud => format!("-cloud-{}", self.0.architecture.debian),
            Flavour::Generic => format!("-{}", self.0.architecture.debian),
            Flavour::Debug => debug_suffix(DEBUG_CONFIG),
        }
    }

    /// The part of a release before the flavour, if the release belongs to this line.
    pub(super) fn version_of(self, release: &str) -> Option<&str> {
        let version = release.strip_suffix(self.suffix().as_str())?;
        if !version.starts_with(|first: char| first.is_ascii_digit())
            || ["-cloud", "-rt"].iter().any(|flavour| version.ends_with(flavour))
        {
            return None;
        }
        let debian = match version.split_once("+deb") {
            Some((_, number)) => number.split('.').next()?.parse().ok()?,
            None => 0,
        };
        let fits = match self.0.series {
            Series::Fixed(series) => version.strip_prefix(series).is_some_and(|rest| rest.starts_with('.')),
            Series::Above(series) => numbers(version).get(..2) > numbers(series).get(..2),
        };
        (fits && self.0.debian.contains(&debian)).then_some(version)
    }
}

impl FromStr for KernelName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let line = if name == NEWEST { Self::NEWEST.0.name } else { name };
        let known = LINES.iter().chain([&DEBUG_LINE]).find(|known| known.name == line);
        known.map(Self).ok_or_else(|| {
            let names: Vec<&str> = LINES.iter().map(|line| line.name).collect();
            Error::UnknownKernel { name: name.to_owned(), names: names.join(", ") }
        })
    }
}

impl std::fmt::Display for KernelName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.name)
    }
}

/// The root in which modules for these kernels are built; `None`: the host's compiler builds them.
#[must_use]
pub fn root_of(kernel: KernelName) -> Option<RootKind> {
    kernel.0.root
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

/// The numbers in a version, for ordering: `6.12.117+deb12` is newer than `6.12.95+deb12`.
#[must_use]
pub fn numbers(version: &str) -> Vec<u64> {
    let pieces = version.split(|c: char| !c.is_ascii_digit());
    pieces.filter_map(|piece| piece.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for name in KernelName::all_stock().chain([KernelName::DEBUG]) {
            assert_eq!(name.to_string().parse::<KernelName>().unwrap(), name);
        }
        assert_eq!("newest".parse::<KernelName>().unwrap().to_string(), "backports");
        let error = "6.2".parse::<KernelName>().unwrap_err();
        assert!(matches!(error, Error::UnknownKernel { .. }));
        assert!(error.to_string().contains("6.12-trixie, backports, sid"), "{error}");
    }

    #[test]
    fn a_release_belongs_to_one_line() {
        for (release, name) in [
            ("6.12.117+deb12-cloud-amd64", "6.12"),
            ("6.12.117+deb12-amd64", "6.12-generic"),
            ("6.12.118+deb13-cloud-amd64", "6.12-trixie"),
            ("6.12.115+deb13.1-cloud-amd64", "6.12-trixie"),
            ("6.1.0-56-cloud-amd64", "6.1"),
            ("6.1.0-56-amd64", "6.1-generic"),
            ("7.3.4+deb13-cloud-amd64", "backports"),
            ("7.2.13+deb14-cloud-amd64", "sid"),
            ("8.0.1+deb15-cloud-amd64", "sid"),
        ] {
            let owners = KernelName::all_stock().filter(|line| line.version_of(release).is_some());
            assert_eq!(owners.map(|line| line.to_string()).collect::<Vec<_>>(), [name], "{release}");
        }
        for name in KernelName::all_stock() {
            for release in
                ["6.1.0-56-rt-amd64", "6.1.0-56-amd64-unsigned", "cloud-amd64", "amd64", "6.12-cloud-amd64"]
            {
                assert_eq!(name.version_of(release), None, "{name} {release}");
            }
        }
    }

    #[test]
    fn a_debug_release_is_of_one_configuration() {
        let release = debug_release("6.12.117-1~deb12u1");
        assert_eq!(KernelName::DEBUG.version_of(&release), Some("6.12.117-1-deb12u1"));
        for stock in KernelName::all_stock() {
            assert_eq!(stock.version_of(&release), None);
        }
        let other = format!("6.12.117-1-deb12u1{}", debug_suffix("CONFIG_SMP=y\n"));
        assert_eq!(KernelName::DEBUG.version_of(&other), None);
    }

    #[test]
    fn releases_are_ordered_by_number() {
        let newest_first =
            ["7.3.4+deb13", "6.12.115+deb13.1", "6.12.115+deb13", "6.12.95+deb13", "6.1.0-56", "6.1.0-9"];
        assert!(newest_first.is_sorted_by_key(|version| std::cmp::Reverse(numbers(version))));
    }

    #[test]
    fn each_claimed_line_has_a_row_for_each_builder_in_readme() {
        let readme = include_str!("../../../README.md");
        let start = readme.find("| kernel (Debian, amd64) |").expect("the table of kernels");
        let rows = readme[start..].lines().skip(2).take_while(|line| line.starts_with('|'));
        let cells = |row: &str| {
            let mut cells = row.split('|').skip(1).map(|cell| cell.trim().to_owned());
            (cells.next().unwrap_or_default(), cells.next().unwrap_or_default())
        };
        let mut rows: Vec<_> = rows.map(cells).collect();
        let claimed = KernelName::all_stock().filter_map(KernelName::row);
        let pairs = claimed
            .flat_map(|row| ["release archive", "source"].map(|from| (row.to_owned(), from.to_owned())));
        let mut claimed: Vec<_> = pairs.collect();
        rows.sort_unstable();
        claimed.sort_unstable();
        assert_eq!(claimed, rows);
    }

    #[test]
    fn every_line_has_a_suite_and_newer_debians_have_a_root() {
        for name in KernelName::all_stock() {
            assert!(!name.suites().is_empty());
            let bookworm = name.suites().iter().all(|suite| suite.name.starts_with("bookworm"));
            assert_eq!(root_of(name).is_none(), bookworm, "{name}");
        }
    }
}
