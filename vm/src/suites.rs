// SPDX-License-Identifier: MIT OR Apache-2.0
//! The suites of Debian's archive from which kernels and build roots come.
//!
//! [`packages`](crate::packages) keeps one private apt configuration per suite, because the index of one suite can
//! be inconsistent for hours while the mirror copies it.

/// A suite.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Suite {
    /// Its name in Debian's archive.
    pub name: &'static str,
    /// Address of that archive.
    pub address: &'static str,
    /// Whether an index past its date is refused. Off where mirrors keep old indexes; signatures are always checked.
    pub check_date: bool,
}

const DEBIAN: &str = "http://deb.debian.org/debian";
const SECURITY: &str = "http://deb.debian.org/debian-security";

const fn suite(name: &'static str, address: &'static str) -> Suite {
    Suite { name, address, check_date: true }
}

/// Debian 12.
pub const BOOKWORM: Suite = suite("bookworm", DEBIAN);
/// Newer kernels for Debian 12.
pub const BOOKWORM_BACKPORTS: Suite = suite("bookworm-backports", DEBIAN);
/// Security updates of Debian 12.
pub const BOOKWORM_SECURITY: Suite = suite("bookworm-security", SECURITY);
/// Debian 13.
pub const TRIXIE: Suite = suite("trixie", DEBIAN);
/// Newer kernels for Debian 13.
pub const TRIXIE_BACKPORTS: Suite = suite("trixie-backports", DEBIAN);
/// Security updates of Debian 13.
pub const TRIXIE_SECURITY: Suite = suite("trixie-security", SECURITY);
/// Debian's development.
pub const SID: Suite = Suite { check_date: false, ..suite("sid", DEBIAN) };
