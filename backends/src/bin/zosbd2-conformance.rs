// SPDX-License-Identifier: MIT OR Apache-2.0
//! `zosbd2-conformance NODE`: runs the conformance suite on a block device, and so tests the server behind it.
//!
//! Prints a line for each check. Exits with 0 if the device conforms, with 1 if a check fails or the device cannot be
//! tested, and with 2 if the command line is wrong.
#![forbid(unsafe_code)]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use zosbd2_backends::conformance::{self, Disk};

const USAGE: &str = "usage: zosbd2-conformance [--seed N] [--overwrite-any-disk] NODE

Runs the conformance suite on a block device: every operation, sizes and offsets at their limits, and a thousand
random operations against a model. It overwrites the first 16 MiB and the last block.

  --seed N               repeat the operations of an earlier run
  --overwrite-any-disk   also test a disk that is not of zosbd2
";

#[derive(Debug, PartialEq, Eq)]
struct Arguments {
    node: PathBuf,
    seed: Option<u64>,
    any: bool,
}

/// Reads the command line. `Ok(None)` asks for help.
fn parse(words: impl IntoIterator<Item = String>) -> Result<Option<Arguments>, String> {
    let (mut node, mut seed, mut any) = (None, None, false);
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--help" | "-h" => return Ok(None),
            "--overwrite-any-disk" => any = true,
            "--seed" => {
                let number = words.next().ok_or("--seed needs a number")?;
                let number = number.parse().map_err(|_| format!("--seed: {number:?} is not a number"))?;
                seed = Some(number);
            }
            option if option.starts_with('-') => return Err(format!("unknown option {option}")),
            _ if node.is_some() => return Err(format!("one NODE at a time, and {word} is a second one")),
            _ => node = Some(PathBuf::from(word)),
        }
    }
    let node = node.ok_or("NODE is missing")?;
    Ok(Some(Arguments { node, seed, any }))
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprint!("zosbd2-conformance: {problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("zosbd2-conformance: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                eprint!(": {cause}");
                source = cause.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let node = arguments.node.display();
    if !arguments.any && !Disk::is_zosbd2(&arguments.node)? {
        return Err(foreign(&arguments.node).into());
    }
    let disk = Disk::open(&arguments.node)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seed = arguments.seed.unwrap_or(now.as_secs());
    println!("overwriting data of {node}, with --seed {seed}");
    let mut made = 0;
    let report = conformance::run_each(&disk, seed, &mut |check| match check.skipped {
        None => {
            println!("{} ... ok", check.name);
            made += 1;
        }
        Some(why) => println!("{} ... skipped: {why}", check.name),
    })?;
    println!("{node} conforms: {made} checks passed, {} do not apply", report.len() - made);
    Ok(())
}

/// Why a disk that does not seem to be of zosbd2 is not overwritten.
fn foreign(node: &Path) -> String {
    match zosbd2::Control::open() {
        Ok(_) => format!(
            "{} is not a disk of zosbd2, and its data would be overwritten: with --overwrite-any-disk it is tested",
            node.display()
        ),
        Err(error) => format!(
            "it is not known whether {} is a disk of zosbd2 ({error}), and its data would be overwritten: with \
             --overwrite-any-disk it is tested",
            node.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Option<Arguments>, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn command_lines_are_read_or_refused_with_the_reason() {
        let arguments = |seed, any| Arguments { node: "/dev/x".into(), seed, any };
        assert_eq!(parsed("/dev/x"), Ok(Some(arguments(None, false))));
        assert_eq!(parsed("--seed 7 /dev/x --overwrite-any-disk"), Ok(Some(arguments(Some(7), true))));
        assert_eq!(parsed("/dev/x --help"), Ok(None));
        for (line, problem) in [
            ("", "NODE is missing"),
            ("--seed", "--seed needs a number"),
            ("--seed x /dev/x", "--seed: \"x\" is not a number"),
            ("--force /dev/x", "unknown option --force"),
            ("/dev/x /dev/y", "one NODE at a time, and /dev/y is a second one"),
        ] {
            assert_eq!(parsed(line), Err(problem.to_owned()), "{line}");
        }
    }

    #[test]
    fn a_disk_that_is_not_of_zosbd2_needs_the_flag() {
        let text = foreign(Path::new("/dev/x"));
        assert!(text.contains("/dev/x") && text.contains("--overwrite-any-disk"), "{text}");
    }
}
