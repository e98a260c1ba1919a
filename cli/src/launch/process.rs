// SPDX-License-Identifier: MIT OR Apache-2.0
//! Servers as processes of their own, where no systemd keeps them.
//!
//! The server has a session of its own and its log in a file. It prints its node when it serves. Nobody starts it again
//! after its death: that is `zosbd2 recover`.

use crate::failure::{Context as _, Failure, Result};
use crate::places::Places;
use crate::server::How;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

/// Most of the log that an error shows.
const SHOWN: usize = 3;

/// Starts the server, and returns when it serves.
pub(super) fn start(places: &Places, name: &str, how: How) -> Result<()> {
    let doing = format!("start the server of disk {name}");
    let log = places.log(name);
    fs::create_dir_all(&places.run).context(format_args!("make {}", places.run.display()))?;
    let file = fs::File::options().create(true).append(true).open(&log);
    let file = file.context(format_args!("open the log {}", log.display()))?;
    let before = file.metadata().map(|metadata| metadata.len()).unwrap_or_default();
    let mut command = Command::new(std::env::current_exe().context("find this program")?);
    command.args(["serve", "--detach", name]);
    if how == How::TakeOver {
        command.arg("--take-over");
    }
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file).spawn().context(&doing)?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).context(&doing)?;
    }
    if line.ends_with('\n') {
        // It lives on without this process.
        return Ok(());
    }
    let status = child.wait().context(&doing)?;
    let text = fs::read_to_string(&log).unwrap_or_default();
    let said = text.get(usize::try_from(before).unwrap_or_default()..).unwrap_or_default();
    let lines: Vec<_> = said.lines().rev().take(SHOWN).collect();
    let last = lines.iter().find_map(|line| line.strip_prefix("zosbd2: ")).map(str::to_owned);
    let said = last.unwrap_or_else(|| lines.into_iter().rev().collect::<Vec<_>>().join("; "));
    let said = if said.is_empty() { format!("it ended ({status})") } else { said };
    Err(Failure::failed(format!("{doing}: {said}")))
}
