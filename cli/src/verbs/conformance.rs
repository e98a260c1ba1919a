// SPDX-License-Identifier: MIT OR Apache-2.0
//! `zosbd2 conformance NODE`: tests a block device, and so the server behind it. Overwrites its data.

use crate::control;
use crate::failure::{Code, Context as _, Failure, Result};
use crate::output;
use crate::signature;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use zosbd2_backends::conformance::{self, Disk, DiskError};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The block node
    node: PathBuf,
    /// Overwrite the first 16 MiB and the last block of the disk; nothing is tested without it
    #[arg(long)]
    yes_destroy_data: bool,
    /// Also test a disk that is not of zosbd2
    #[arg(long)]
    overwrite_any_disk: bool,
    /// Repeat the operations of an earlier run
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
}

pub(crate) fn run(arguments: &Arguments, control_node: Option<&Path>) -> Result<()> {
    let (path, node) = (&arguments.node, arguments.node.display());
    let refused = |why: String| Failure::usage(format!("test {node}: {why}"));
    if !arguments.overwrite_any_disk && !Disk::is_zosbd2(path).map_err(|error| failure(&error))? {
        // This says what is wrong with the module, if it cannot be asked.
        control::open(control_node)?;
        return Err(refused(
            "it is not a disk of zosbd2; --overwrite-any-disk tests it all the same".to_owned(),
        ));
    }
    // Opens it exclusively, so that nothing can be mounted meanwhile.
    let disk = Disk::open(path).map_err(|error| failure(&error))?;
    if !arguments.yes_destroy_data {
        let found = signature::find(path).context(format_args!("read {node}"))?;
        let found = found.map_or_else(String::new, |what| format!(", and it seems to have {what}"));
        return Err(refused(format!(
            "that overwrites its first 16 MiB and its last block{found}; --yes-destroy-data allows it"
        )));
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seed = arguments.seed.unwrap_or(now.as_secs());
    output::write(&format!("overwriting data of {node}, with --seed {seed}\n"))?;
    let mut made = 0;
    let report = conformance::run_each(&disk, seed, &mut |check| {
        let line = match check.skipped {
            None => format!("{} ... ok\n", check.name),
            Some(why) => format!("{} ... skipped: {why}\n", check.name),
        };
        made += usize::from(check.skipped.is_none());
        // Who does not read them gets the result all the same.
        let _ = output::write(&line);
    });
    let report = report.context(format_args!("test {node}"))?;
    let skipped = report.len() - made;
    output::write(&format!("{node} conforms: {made} checks passed, {skipped} do not apply\n")).map(drop)
}

/// A disk that cannot be tested.
fn failure(error: &DiskError) -> Failure {
    let code = match error {
        DiskError::InUse { .. } => Code::InUse,
        DiskError::NotBlock(_) | DiskError::TooSmall { .. } => Code::Usage,
        DiskError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Code::Missing,
        _ => Code::Failed,
    };
    Failure::new(code, zosbd2::Chain(error).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_disk_is_refused() {
        let run = |node: &str| {
            let arguments =
                Arguments { node: node.into(), yes_destroy_data: true, overwrite_any_disk: true, seed: None };
            run(&arguments, None).unwrap_err()
        };
        assert_eq!(run("/dev/null").code, Code::Usage);
        assert_eq!(run("/dev/nonexistent").code, Code::Missing);
    }
}
