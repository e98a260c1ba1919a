// SPDX-License-Identifier: MIT OR Apache-2.0
//! Test results: how many passed, and which tests did not.
//!
//! Names are kept, so that the last lines of a long run show the tests to look at.

/// Number of passed tests. Failed and skipped tests, each with its scope and reason.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: Vec<String>,
    pub(crate) skipped: Vec<String>,
}

impl Tally {
    /// Only passed tests.
    pub(crate) fn passed(count: usize) -> Self {
        Self { passed: count, ..Self::default() }
    }

    /// One failed test.
    pub(crate) fn failed(why: String) -> Self {
        Self { failed: vec![why], ..Self::default() }
    }

    /// Adds results from `scope`.
    pub(crate) fn add(&mut self, scope: &str, other: Self) {
        let named = |names: Vec<String>| names.into_iter().map(move |name| format!("{scope}: {name}"));
        self.passed += other.passed;
        self.failed.extend(named(other.failed));
        self.skipped.extend(named(other.skipped));
    }

    /// Prints the names, one per line, and the counts on the last line.
    pub(crate) fn print(&self) {
        for (what, names) in [("skipped", &self.skipped), ("FAILED", &self.failed)] {
            for name in names {
                println!("{what}  {name}");
            }
        }
        println!("{self}");
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed.len(), self.skipped.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_where() {
        let mut sum = Tally::passed(2);
        sum.add("6.1", Tally { passed: 3, failed: vec!["a: why".to_owned()], skipped: vec!["b".to_owned()] });
        sum.add("6.12", Tally::failed("c".to_owned()));
        assert_eq!(sum.to_string(), "5 passed, 2 failed, 1 skipped");
        assert_eq!(
            (sum.failed, sum.skipped),
            (vec!["6.1: a: why".into(), "6.12: c".into()], vec!["6.1: b".into()])
        );
    }
}
