// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lines that guest and host exchange.
//!
//! The guest writes them to its second serial port, each line with [`PREFIX`]. The console (first port) is for
//! people. The host passes its plan in the file [`PLAN`] of the initramfs. A line that does not parse is kept for
//! people and otherwise ignored. Newlines within a text are escaped.

use std::fmt;

/// Prefix of every line.
pub const PREFIX: &str = "zosbd2-vm: ";

/// Path of the [`Plan`] in the guest.
pub const PLAN: &str = "/zosbd2-vm.plan";

/// Path of the module under test in the guest, if there is one.
pub const MODULE: &str = "/zosbd2.ko";

/// Folder of the kernel's loadable modules in the guest, decompressed, with [`MODULE_LIST`].
pub const MODULES: &str = "/modules";

/// Lines of `ALIAS NAME`: other names by which the kernel asks for one of these modules.
pub const MODULE_ALIASES: &str = "/modules/aliases";

/// Lines of `NAME: FILE...`: the files to load for a kernel module, in this order; none if it is built in.
pub const MODULE_LIST: &str = "/modules/list";

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The test passed.
    Passed,
    /// The test failed, for this reason.
    Failed(String),
    /// The test could not run in this guest, for this reason.
    Skipped(String),
}

/// One line from the guest.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// Init runs, in this kernel release.
    Hello(String),
    /// A test begins. The guest ends it after this many seconds without progress.
    Start(String, u64),
    /// A test has been running for this many seconds, and its current step. Sent by init, which watches the
    /// test.
    Going(String, u64, String),
    /// A test ended after this many seconds.
    Test(String, Outcome, f64),
    /// A message for people.
    Say(String),
    /// Data for the program that started the machine.
    Data(String),
    /// The shell or the command of a session ended with this status, as a shell counts it.
    Exit(u8),
    /// The counts of this boot; the guest powers off after this line.
    Verdict {
        /// Tests passed.
        passed: usize,
        /// Tests failed.
        failed: usize,
        /// Tests skipped.
        skipped: usize,
    },
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        match self {
            Self::Hello(release) => write!(f, "hello {release}"),
            Self::Start(name, seconds) => write!(f, "start {name} {seconds}"),
            Self::Going(name, seconds, step) => write!(f, "going {name} {seconds} {}", escape(step)),
            Self::Test(name, Outcome::Passed, seconds) => write!(f, "test {name} ok {seconds:.2}s"),
            Self::Test(name, Outcome::Failed(why), seconds) => {
                write!(f, "test {name} FAILED {seconds:.2}s: {}", escape(why))
            }
            Self::Test(name, Outcome::Skipped(why), _) => write!(f, "test {name} skipped: {}", escape(why)),
            Self::Say(text) => write!(f, "say {}", escape(text)),
            Self::Data(text) => write!(f, "data {}", escape(text)),
            Self::Exit(status) => write!(f, "exit {status}"),
            Self::Verdict { passed, failed, skipped } => {
                write!(f, "verdict passed={passed} failed={failed} skipped={skipped}")
            }
        }
    }
}

impl Line {
    /// Parses a line; `None` if it is not a line of the protocol.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (kind, rest) = line.trim_end().strip_prefix(PREFIX)?.split_once(' ')?;
        match kind {
            "hello" => Some(Self::Hello(rest.to_owned())),
            "start" => {
                let (name, seconds) = rest.split_once(' ')?;
                Some(Self::Start(name.to_owned(), seconds.parse().ok()?))
            }
            "going" => {
                let mut words = rest.splitn(3, ' ');
                let (name, seconds) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
                Some(Self::Going(name, seconds, unescape(words.next().unwrap_or_default())))
            }
            "test" => parse_test(rest),
            "say" => Some(Self::Say(unescape(rest))),
            "data" => Some(Self::Data(unescape(rest))),
            "exit" => rest.parse().ok().map(Self::Exit),
            "verdict" => {
                let mut numbers = rest.split(' ').zip(["passed=", "failed=", "skipped="]);
                let mut next = || {
                    let (word, key) = numbers.next()?;
                    word.strip_prefix(key)?.parse().ok()
                };
                Some(Self::Verdict { passed: next()?, failed: next()?, skipped: next()? })
            }
            _ => None,
        }
    }
}

fn parse_test(rest: &str) -> Option<Line> {
    let (name, rest) = rest.split_once(' ')?;
    let seconds = |text: &str| text.strip_suffix('s')?.parse().ok();
    let (outcome, seconds) = if let Some(time) = rest.strip_prefix("ok ") {
        (Outcome::Passed, seconds(time)?)
    } else if let Some(rest) = rest.strip_prefix("FAILED ") {
        let (time, why) = rest.split_once(": ").unwrap_or((rest.trim_end_matches(':'), ""));
        (Outcome::Failed(unescape(why)), seconds(time)?)
    } else {
        (Outcome::Skipped(unescape(rest.strip_prefix("skipped: ")?)), 0.0)
    };
    Some(Line::Test(name.to_owned(), outcome, seconds))
}

/// The host's plan for one boot: a file of lines `KEY VALUE`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Tests, in order.
    pub tests: Vec<String>,
    /// Seed for the tests' random numbers.
    pub seed: u64,
    /// Variant of the module; `normal` for the default.
    pub variant: String,
    /// Factor for the tests' deadlines, for slow machines and for machines that count instructions.
    pub slowness: u32,
    /// Further settings for tests: `NAME=VALUE`.
    pub settings: Vec<String>,
}

impl Plan {
    /// The plan as a file.
    #[must_use]
    pub fn write(&self) -> String {
        let mut lines = vec![
            format!("seed {}", self.seed),
            format!("variant {}", self.variant),
            format!("slowness {}", self.slowness),
        ];
        lines.extend(self.tests.iter().map(|name| format!("test {name}")));
        lines.extend(self.settings.iter().map(|setting| format!("set {}", escape(setting))));
        lines.join("\n") + "\n"
    }

    /// Parses a plan; `None` if it is damaged.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut plan = Self::default();
        for line in text.lines() {
            let (key, value) = line.split_once(' ')?;
            match key {
                "seed" => plan.seed = value.parse().ok()?,
                "variant" => value.clone_into(&mut plan.variant),
                "slowness" => plan.slowness = value.parse().ok()?,
                "test" => plan.tests.push(value.to_owned()),
                "set" => plan.settings.push(unescape(value)),
                _ => return None,
            }
        }
        Some(plan)
    }
}

pub(crate) fn escape(text: &str) -> String {
    text.trim_end().replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "")
}

pub(crate) fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => plain.push(if characters.next() == Some('n') { '\n' } else { '\\' }),
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_survive_the_trip() {
        for line in [
            Line::Hello("6.12.1-test".into()),
            Line::Start("a_test".into(), 30),
            Line::Going("a_test".into(), 4, "copy: 3 of 7\nfiles".into()),
            Line::Going("a_test".into(), 4, String::new()),
            Line::Test("a".into(), Outcome::Passed, 1.25),
            Line::Test("a".into(), Outcome::Failed("x: y\nback\\slash \\n".into()), 0.5),
            Line::Test("a".into(), Outcome::Skipped("no\nway".into()), 0.0),
            Line::Say("[1] insmod".into()),
            Line::Data("{\"a\": 1}".into()),
            Line::Exit(137),
            Line::Verdict { passed: 1, failed: 2, skipped: 3 },
        ] {
            assert_eq!(Line::parse(&format!("{line}\r\n")), Some(line));
        }
        for text in [
            "",
            "hello",
            "zosbd2-vm: ",
            "zosbd2-vm: verdict passed=1 failed=2",
            "zosbd2-vm: test x maybe 1",
            "zosbd2-vm: exit 256",
        ] {
            assert_eq!(Line::parse(text), None, "{text}");
        }
    }

    #[test]
    fn plans_survive_the_trip() {
        let plan = Plan {
            tests: vec!["a".into(), "b".into()],
            seed: u64::MAX,
            variant: "normal".into(),
            slowness: 3,
            settings: vec!["x=1\n2".into()],
        };
        assert_eq!(Plan::parse(&plan.write()), Some(plan));
        assert_eq!(Plan::parse("what"), None);
    }
}
