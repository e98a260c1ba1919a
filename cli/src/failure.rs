// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a verb that fails tells: a sentence that names the operation, the object and the way out, and an exit code.

use std::fmt::Display;
use std::process::ExitCode;
use zosbd2::{Chain, Errno};

/// The exit codes, as in the man page. They are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Code {
    /// It failed.
    Failed = 1,
    /// The command line or a configuration is wrong.
    Usage = 2,
    /// There is no such device.
    Missing = 3,
    /// The device is in use.
    InUse = 4,
    /// Of `serve`: what was on the disk is lost, and starting again does not help.
    Lost = 66,
}

/// An error with its exit code. Prints as a sentence.
#[derive(Debug, thiserror::Error)]
#[error("{sentence}")]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) sentence: String,
}

/// What a verb returns.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn new(code: Code, sentence: impl Into<String>) -> Self {
        Self { code, sentence: sentence.into() }
    }

    /// A failure of the machine: exit code 1.
    pub(crate) fn failed(sentence: impl Into<String>) -> Self {
        Self::new(Code::Failed, sentence)
    }

    /// A wrong command line or configuration: exit code 2.
    pub(crate) fn usage(sentence: impl Into<String>) -> Self {
        Self::new(Code::Usage, sentence)
    }

    /// A failure of a server that ended with this exit code.
    pub(crate) fn of_server(status: Option<i32>, sentence: impl Into<String>) -> Self {
        let code = if status == Some(Code::Usage as i32) { Code::Usage } else { Code::Failed };
        Self::new(code, sentence)
    }

    /// No device of this name: exit code 3.
    pub(crate) fn missing(name: &str) -> Self {
        Self::new(Code::Missing, format!("there is no device {name}: `zosbd2 list` shows those that exist"))
    }

    /// Prints the sentence to standard error, and returns the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        eprintln!("zosbd2: {self}");
        ExitCode::from(self.code as u8)
    }
}

impl From<zosbd2::Error> for Failure {
    fn from(error: zosbd2::Error) -> Self {
        use zosbd2::Error;
        let code = match &error {
            Error::Control { source: Errno::NODEV | Errno::NOENT, .. } => Code::Missing,
            Error::Control { source: Errno::BUSY, .. } => Code::InUse,
            Error::Name { .. } | Error::Range { .. } | Error::Option { .. } => Code::Usage,
            _ => Code::Failed,
        };
        Self::new(code, error.chain().to_string())
    }
}

/// Adds to an error what was to be done: an operation and its object.
pub(crate) trait Context<T> {
    /// Fails with "WHAT: ERROR: ITS CAUSES".
    fn context(self, what: impl Display) -> Result<T>;
}

impl<T, E: std::error::Error + 'static> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl Display) -> Result<T> {
        self.map_err(|error| Failure::failed(format!("{what}: {}", Chain(&error))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_part_of_the_sentence() {
        let result: std::result::Result<(), _> = Err(std::io::Error::from_raw_os_error(2));
        let failure = result.context("open /x").unwrap_err();
        assert_eq!(failure.to_string(), "open /x: No such file or directory (os error 2)");
        assert_eq!(failure.code, Code::Failed);
        assert_eq!(Failure::missing("a").code as u8, 3);
    }
}
