// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writing to standard output, for verbs that write more than once.

use crate::failure::{Context as _, Result};
use serde::Serialize;
use std::io::{ErrorKind, IsTerminal as _, Write as _};

/// Writes and flushes text. Returns false if nobody reads standard output any more, as after `| head`.
pub(crate) fn write(text: &str) -> Result<bool> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("write to standard output"),
    }
}

/// Writes facts as one line of JSON.
pub(crate) fn json_line(facts: &impl Serialize) -> Result<bool> {
    write(&format!("{}\n", serde_json::to_string(facts).context("write JSON")?))
}

/// Whether standard output may have colours: it is a terminal, and `NO_COLOR` is not set.
pub(crate) fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
