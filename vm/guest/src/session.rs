// SPDX-License-Identifier: MIT OR Apache-2.0
//! A boot that runs a shell, a command or a foreign program instead of tests.
//!
//! The host describes the session in the file [`FILE`] of the initramfs. The session's terminal is the third serial port,
//! so the kernel's messages (first port) and the [`protocol`](crate::protocol) (second port) do not disturb it. The host
//! sends lines of [`Size`] to the second port.

use crate::protocol::{escape, unescape};
use std::fmt;

/// Path of the [`Session`] in the guest.
pub const FILE: &str = "/zosbd2-vm.session";

/// Where the shared folder is in the guest.
pub const SHARE: &str = "/share";

/// What a session runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// A shell for a person.
    Shell,
    /// A command for the shell.
    Run(String),
    /// A program whose device has to pass the conformance suite, with its arguments.
    Conformance(Vec<String>),
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// What it runs.
    pub work: Work,
    /// Whether a person types into its terminal.
    pub typed: bool,
    /// Whether the machine's disk is a file system to be mounted at [`SHARE`].
    pub share: bool,
    /// Environment of the programs: `NAME=VALUE`.
    pub environment: Vec<String>,
    /// Greeting for a person.
    pub greeting: Vec<String>,
}

impl Session {
    /// The session as a file of lines `KEY VALUE`.
    #[must_use]
    pub fn write(&self) -> String {
        let mut lines = match &self.work {
            Work::Shell => vec!["shell now".to_owned()],
            Work::Run(command) => vec![format!("run {}", escape(command))],
            Work::Conformance(words) => {
                words.iter().map(|word| format!("conformance {}", escape(word))).collect()
            }
        };
        lines.extend(self.typed.then(|| "typed yes".to_owned()));
        lines.extend(self.share.then(|| "share yes".to_owned()));
        lines.extend(self.environment.iter().map(|setting| format!("environment {}", escape(setting))));
        lines.extend(self.greeting.iter().map(|line| format!("greeting {}", escape(line))));
        lines.join("\n") + "\n"
    }

    /// Parses a session; `None` if it is damaged.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut session =
            Self { work: Work::Shell, typed: false, share: false, environment: vec![], greeting: vec![] };
        for line in text.lines() {
            let (key, value) = line.split_once(' ')?;
            let value = unescape(value);
            match key {
                "shell" => session.work = Work::Shell,
                "run" => session.work = Work::Run(value),
                "conformance" => match &mut session.work {
                    Work::Conformance(words) => words.push(value),
                    work => *work = Work::Conformance(vec![value]),
                },
                "typed" => session.typed = true,
                "share" => session.share = true,
                "environment" => session.environment.push(value),
                "greeting" => session.greeting.push(value),
                _ => return None,
            }
        }
        Some(session)
    }
}

/// The size of the person's terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Its rows.
    pub rows: u16,
    /// Its columns.
    pub columns: u16,
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "size {} {}", self.rows, self.columns)
    }
}

impl Size {
    /// Parses a line; `None` if it is something else.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (rows, columns) = line.trim().strip_prefix("size ")?.split_once(' ')?;
        Some(Self { rows: rows.parse().ok()?, columns: columns.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_survive_the_trip() {
        let empty =
            Session { work: Work::Shell, typed: true, share: false, environment: vec![], greeting: vec![] };
        let full = Session {
            work: Work::Run("a\nb\\n 'c'".into()),
            typed: false,
            share: true,
            environment: vec!["TERM=xterm".into(), "X=1 2".into()],
            greeting: vec!["hello".into(), String::new()],
        };
        let tested = Session {
            work: Work::Conformance(vec!["disk".into(), "--size".into(), "1 G".into()]),
            ..full.clone()
        };
        for session in [empty, full, tested] {
            assert_eq!(Session::parse(&session.write()), Some(session));
        }
        assert_eq!(Session::parse("what 1"), None);
    }

    #[test]
    fn sizes_survive_the_trip() {
        let size = Size { rows: 24, columns: 80 };
        assert_eq!(Size::parse(&format!("{size}\r\n")), Some(size));
        assert_eq!(Size::parse("size 24"), None);
    }
}
