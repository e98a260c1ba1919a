// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tests that run in the guest. One line per file, in the order in which they run.

pub(crate) mod bench;
mod command;
mod data;
pub(crate) mod demo;
mod examples;
mod fail_nth;
mod hostile;
pub(crate) mod ioctl_fuzz;
mod languages;
mod lifecycle;
mod protocol;
mod selftest;
mod signature;
mod smoke;
pub(crate) mod support;
pub(crate) mod v2;
mod walkthrough;

use crate::guest::Test;

const TABLES: &[&[Test]] = &[
    smoke::TESTS,
    walkthrough::TESTS,
    data::TESTS,
    protocol::TESTS,
    lifecycle::TESTS,
    signature::TESTS,
    hostile::TESTS,
    languages::TESTS,
    examples::TESTS,
    command::TESTS,
    selftest::TESTS,
    bench::TESTS,
    demo::TESTS,
];

/// Every test, in order.
pub(crate) fn all() -> impl Iterator<Item = &'static Test> {
    let tables = TABLES.iter().chain(v2::TABLES).chain(fail_nth::TABLES);
    tables.chain(&[ioctl_fuzz::TESTS]).copied().flatten()
}

#[cfg(test)]
mod checks {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_plain() {
        let mut seen = BTreeSet::new();
        for test in all() {
            assert!(seen.insert(test.name), "{} is listed twice", test.name);
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            assert!(test.name.bytes().all(plain), "{}: only a-z, 0-9 and _", test.name);
        }
    }

    #[test]
    fn every_file_is_named() {
        let source = include_str!("tests.rs");
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests");
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            assert!(source.contains(&format!("mod {name};")), "{name} is not named in tests.rs");
        }
    }
}
