// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs a host program to its end. A missing program and a failing one are different errors, and both errors name
//! the program.

use crate::{Error, Result};
use std::io::ErrorKind;
use std::process::{Command, Stdio};

/// Bytes of a failed program's output that are kept.
const KEEP: usize = 4000;

/// Runs a command and returns its standard output. `package` is the Debian package with the program.
pub(crate) fn output(command: &mut Command, package: &str) -> Result<Vec<u8>> {
    let program = command.get_program().to_string_lossy().into_owned();
    let line = describe(command);
    let output = command.stdin(Stdio::null()).output().map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::MissingProgram { program, package: package.to_owned() },
        _ => Error::Command {
            command: line.clone(),
            status: "not started".to_owned(),
            output: error.to_string(),
        },
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let mut said = String::from_utf8_lossy(&output.stderr).into_owned();
    if said.trim().is_empty() {
        said = String::from_utf8_lossy(&output.stdout).into_owned();
    }
    Err(Error::Command { command: line, status: output.status.to_string(), output: tail(&said) })
}

/// Like [`output`], but returns text.
pub(crate) fn text(command: &mut Command, package: &str) -> Result<String> {
    output(command, package).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// The end of a long text.
pub(crate) fn tail(text: &str) -> String {
    let text = text.trim();
    let mut from = text.len().saturating_sub(KEEP);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text[from..].to_owned()
}

fn describe(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}
