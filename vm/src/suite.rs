// SPDX-License-Identifier: MIT OR Apache-2.0
//! Boots until every test has a result.
//!
//! A guest that dies or hangs fails the running test; the other tests run in a fresh boot. The guest itself ends a
//! boot early after a test that left the kernel in doubt. A boot without any result is an error, so the loop ends.
//!
//! A kernel that dies before init's first line is booted again, at most [`TRIES`] times: no code of this project
//! has run, and QEMU's translator does not always survive a booting kernel that patches code which another
//! processor executes.

use crate::hardware::Hardware;
use crate::initramfs::Contents;
use crate::machine::{Machine, TestResult};
use crate::protocol::{Line, Outcome, Plan};
use crate::{Error, Result, command};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Consecutive boots that may fail before init's first line.
const TRIES: u32 = 3;

/// Result of a run.
#[derive(Debug, Default)]
pub struct Report {
    /// One result per test of the plan, in the order in which they ended.
    pub results: Vec<TestResult>,
    /// Data lines of all boots.
    pub data: Vec<String>,
    /// Time from the start of each boot to init.
    pub boots: Vec<Duration>,
}

/// A test, as the guest lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestInfo {
    /// Its name.
    pub name: String,
    /// Variant of the module that the test needs.
    pub variant: String,
    /// Whether the test only runs if it is named.
    pub hidden: bool,
    /// Whether the test needs the debug kernel.
    pub debug_only: bool,
    /// The machine that the test needs.
    pub hardware: Hardware,
}

/// Asks a guest program for its tests.
pub fn list(init: &Path) -> Result<Vec<TestInfo>> {
    let text = command::text(Command::new(init).arg("--list"), "this project")?;
    let read = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let [name, variant, hidden, kernel, memory, disk, signed] = words[..] else { return None };
        Some(TestInfo {
            name: name.to_owned(),
            variant: variant.to_owned(),
            hidden: hidden == "hidden",
            debug_only: kernel == "debug",
            hardware: Hardware::parse(memory, disk, signed)?,
        })
    };
    Ok(text.lines().filter_map(read).collect())
}

/// The tests of `all` that are asked for, by name or by prefix and `*`. Without names: all tests that are not
/// hidden and that are for this kind of kernel (the debug kernel if `debug`).
pub fn select(all: &[TestInfo], asked: &[String], debug: bool) -> Result<Vec<TestInfo>> {
    if asked.is_empty() {
        let meant = |test: &&TestInfo| !test.hidden && (debug || !test.debug_only);
        return Ok(all.iter().filter(meant).cloned().collect());
    }
    let mut chosen: Vec<TestInfo> = Vec::new();
    for pattern in asked {
        let fits = |test: &&TestInfo| match pattern.strip_suffix('*') {
            Some(beginning) => test.name.starts_with(beginning),
            None => test.name == *pattern,
        };
        let found: Vec<&TestInfo> = all.iter().filter(fits).collect();
        if found.is_empty() {
            return Err(Error::UnknownTest(pattern.clone()));
        }
        for test in found {
            if !chosen.contains(test) {
                chosen.push(test.clone());
            }
        }
    }
    Ok(chosen)
}

/// Runs the plan's tests. `on_line` receives every line, and results that the host had to determine itself.
pub fn run(
    machine: &Machine,
    contents: &Contents,
    plan: &Plan,
    on_line: &mut dyn FnMut(&Line),
) -> Result<Report> {
    let mut report = Report::default();
    let mut plan = plan.clone();
    let mut stillborn = 0;
    for number in 0.. {
        let boot = machine.boot(contents, &plan, number, on_line)?;
        if let (None, Err(Error::Guest { reason, .. })) = (boot.boot_time, &boot.ending) {
            stillborn += 1;
            if stillborn < TRIES {
                on_line(&Line::Say(format!("the kernel died before init ran; booting again: {reason}")));
                continue;
            }
        } else {
            stillborn = 0;
        }
        let mut ended: Vec<TestResult> = boot.results;
        report.data.extend(boot.data);
        report.boots.extend(boot.boot_time);
        match boot.ending {
            Ok(()) => {}
            Err(Error::Guest { reason, during: Some(name), .. }) => ended.push(lost(name, reason, on_line)),
            Err(Error::NoVerdict { during: Some(name), .. }) => {
                let reason = "the guest ended without a message".to_owned();
                ended.push(lost(name, reason, on_line));
            }
            // Between two tests: blame the last test, which left the guest in this state.
            Err(Error::Guest { reason, during: None, console }) => match ended.last_mut() {
                Some(last) => *last = lost(last.name.clone(), format!("after the test: {reason}"), on_line),
                None => return Err(Error::Guest { reason, during: None, console }),
            },
            Err(error) => return Err(error),
        }
        plan.tests.retain(|name| !ended.iter().any(|result| result.name == *name));
        let nothing = ended.is_empty();
        report.results.extend(ended);
        if plan.tests.is_empty() {
            break;
        }
        if nothing {
            return Err(Error::NoVerdict { during: None, console: machine.folder.join("console.log") });
        }
    }
    Ok(report)
}

fn lost(name: String, reason: String, on_line: &mut dyn FnMut(&Line)) -> TestResult {
    let outcome = Outcome::Failed(reason);
    on_line(&Line::Test(name.clone(), outcome.clone(), 0.0));
    TestResult { name, outcome, seconds: 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_chosen_once_and_in_the_order_asked() {
        let test = |name: &str| TestInfo {
            name: name.into(),
            variant: "release".into(),
            hidden: name == "h",
            debug_only: name == "d",
            hardware: Hardware::default(),
        };
        let all: Vec<TestInfo> = ["a", "h", "ab", "b", "d"].map(test).into();
        let asked_on = |debug: bool, names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            select(&all, &names, debug)
                .map(|tests| tests.into_iter().map(|test| test.name).collect::<Vec<_>>())
        };
        let asked = |names: &[&str]| asked_on(false, names);
        assert_eq!(asked(&[]).unwrap(), ["a", "ab", "b"]);
        assert_eq!(asked_on(true, &[]).unwrap(), ["a", "ab", "b", "d"]);
        assert_eq!(asked(&["d"]).unwrap(), ["d"], "what is named is skipped with a reason");
        assert_eq!(asked(&["b", "a*", "a"]).unwrap(), ["b", "a", "ab"]);
        assert_eq!(asked(&["h"]).unwrap(), ["h"]);
        assert!(matches!(asked(&["c"]), Err(Error::UnknownTest(_))));
    }
}
