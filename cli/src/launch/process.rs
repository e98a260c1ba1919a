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
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitStatus, Stdio};

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
    let Some(status) = spawn(command(name, how)?.stderr(file), &doing)? else { return Ok(()) };
    let text = fs::read_to_string(&log).unwrap_or_default();
    let said = text.get(usize::try_from(before).unwrap_or_default()..).unwrap_or_default();
    let lines: Vec<_> = said.lines().rev().take(SHOWN).collect();
    let last = lines.iter().find_map(|line| line.strip_prefix("zosbd2: ")).map(str::to_owned);
    let said = last.unwrap_or_else(|| lines.into_iter().rev().collect::<Vec<_>>().join("; "));
    let said = if said.is_empty() { format!("it ended ({status})") } else { said };
    Err(Failure::of_server(status.code(), format!("{doing}: {said}")))
}

/// Starts a server that takes over, as one more process of this process's unit, and returns when it serves. It has said
/// itself why it failed.
pub(crate) fn replace(name: &str) -> Result<()> {
    let doing = format!("start another server of disk {name}");
    // The sign is for systemd-shutdown: see the unit.
    match spawn(command(name, How::TakeOver)?.arg0("@zosbd2"), &doing)? {
        None => Ok(()),
        Some(status) => Err(Failure::failed(format!("{doing}: it ended ({status})"))),
    }
}

fn command(name: &str, how: How) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("find this program")?);
    command.args(["serve", "--detach", name]);
    if how == How::TakeOver {
        command.arg("--take-over");
    }
    Ok(command)
}

/// Returns nothing if the server serves, and lives on without this process; or how it ended.
fn spawn(command: &mut Command, doing: &str) -> Result<Option<ExitStatus>> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context(doing)?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).context(doing)?;
    }
    if line.ends_with('\n') {
        return Ok(None);
    }
    child.wait().context(doing).map(Some)
}
