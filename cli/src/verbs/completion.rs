// SPDX-License-Identifier: MIT OR Apache-2.0
//! `zosbd2 completion SHELL`: what a shell reads to complete the command's words.

use crate::failure::Result;
use crate::output;
use clap::CommandFactory as _;
use clap_complete::{Shell, generate};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    output::write(&text(arguments.shell)).map(drop)
}

fn text(shell: Shell) -> String {
    let mut text = Vec::new();
    generate(shell, &mut crate::arguments::Arguments::command(), "zosbd2", &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shells_know_the_verbs() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let once = text(shell);
            assert_eq!(once, text(shell), "{shell}: it is the same every time");
            for word in ["add", "recover", "resize", "histogram"] {
                assert!(once.contains(word), "{shell}: {word}");
            }
        }
    }

    #[test]
    fn bash_accepts_its_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text(Shell::Bash)).unwrap();
        if let Ok(output) = std::process::Command::new("bash").arg("-n").arg(file.path()).output() {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
