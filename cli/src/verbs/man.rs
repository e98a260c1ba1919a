// SPDX-License-Identifier: MIT OR Apache-2.0
//! `zosbd2 man [DIR]`: the manual pages, from the same words as `--help`.

use crate::failure::{Context as _, Result};
use crate::output;
use clap::{Command, CommandFactory as _};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use std::fs;
use std::io;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Write zosbd2.8 and a page for each verb into this folder, instead of printing zosbd2.8
    folder: Option<PathBuf>,
}

const EXIT_STATUS: [(&str, &str); 5] = [
    ("0", "Success."),
    ("1", "It failed; standard error says why."),
    ("2", "The command line or a configuration is wrong."),
    ("3", "There is no such device."),
    ("4", "The device, or its name, is in use."),
];

const FILES: [(&str, &str); 6] = [
    ("/etc/zosbd2/NAME.toml", "A persistent disk, which comes back at boot."),
    ("/run/zosbd2/NAME.toml", "A disk until the reboot. It wins over the persistent file of that name."),
    ("/run/zosbd2/NAME.log", "What the server says, where systemd does not run."),
    ("/dev/shm/zosbd2-NAME", "The bytes of a RAM disk, where systemd does not run."),
    ("/dev/zosbd2ctl", "The control node of the kernel module."),
    ("/dev/zosbd2-NAME", "The block node of a disk."),
];

const ENVIRONMENT: [(&str, &str); 3] = [
    ("NO_COLOR", "If it is set and not empty, there are no colours, on a terminal either."),
    ("RUST_LOG", "What servers log, such as debug; by default warn."),
    ("ZOSBD2_NAME", "Set for the program of an exec disk: the name of the disk that it is to serve."),
];

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let doing = "make the manual pages";
    let pages = pages().context(doing)?;
    let Some(folder) = &arguments.folder else {
        return output::write(&pages.into_iter().next().map(|(_, text)| text).unwrap_or_default()).map(drop);
    };
    fs::create_dir_all(folder).context(format_args!("make {}", folder.display()))?;
    for (name, text) in pages {
        let path = folder.join(name);
        fs::write(&path, text).context(format_args!("write {}", path.display()))?;
    }
    Ok(())
}

/// All pages with their file names, `zosbd2.8` first.
fn pages() -> io::Result<Vec<(String, String)>> {
    let mut command = crate::arguments::Arguments::command();
    command.build();
    let mut pages = vec![("zosbd2.8".to_owned(), page(command.clone())?)];
    let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help");
    for verb in verbs {
        pages.extend(of_verb(verb, &format!("zosbd2-{}", verb.get_name()))?);
    }
    Ok(pages)
}

/// The page of a verb, and pages of its kinds, such as those of `add`.
fn of_verb(verb: &Command, name: &str) -> io::Result<Vec<(String, String)>> {
    let title: &'static str = name.to_owned().leak();
    let mut pages = vec![(format!("{name}.8"), page(verb.clone().name(title))?)];
    for kind in verb.get_subcommands().filter(|kind| !kind.is_hide_set() && kind.get_name() != "help") {
        pages.extend(of_verb(kind, &format!("{name}-{}", kind.get_name()))?);
    }
    Ok(pages)
}

/// A page.
fn page(command: Command) -> io::Result<String> {
    let verbs = command.has_subcommands();
    let version = env!("CARGO_PKG_VERSION");
    let man = Man::new(command).section("8").source(format!("zosbd2 {version}")).manual("zosbd2");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if verbs {
        man.render_subcommands_section(&mut text)?;
    }
    let mut roff = Roff::new();
    section(&mut roff, "EXIT STATUS", &EXIT_STATUS);
    section(&mut roff, "FILES", &FILES);
    section(&mut roff, "ENVIRONMENT", &ENVIRONMENT);
    roff.to_writer(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn section(roff: &mut Roff, title: &str, entries: &[(&str, &str)]) {
    roff.control("SH", [title]);
    for (word, text) in entries {
        roff.control("TP", []);
        roff.text([bold(*word)]);
        roff.text([roman(*text)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_page_with_all_sections() {
        let pages = pages().unwrap();
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names[0], "zosbd2.8");
        for verb in ["add", "add-file", "list", "stat", "gc", "man"] {
            assert!(names.contains(&format!("zosbd2-{verb}.8").as_str()), "{verb}: {names:?}");
        }
        assert!(!names.iter().any(|name| name.contains("serve")), "a hidden verb has no page");
        for (name, text) in &pages {
            for section in ["NAME", "SYNOPSIS", "OPTIONS", "EXIT STATUS", "FILES", "ENVIRONMENT"] {
                assert!(
                    text.contains(&format!(".SH {section}\n"))
                        || text.contains(&format!(".SH \"{section}\"\n")),
                    "{name}: {section}\n{text}"
                );
            }
        }
        assert_eq!(pages, super::pages().unwrap(), "they are the same every time");
    }

    #[test]
    fn groff_accepts_the_pages() {
        let folder = tempfile::tempdir().unwrap();
        run(&Arguments { folder: Some(folder.path().join("man")) }).unwrap();
        for entry in fs::read_dir(folder.path().join("man")).unwrap() {
            let path = entry.unwrap().path();
            let mut lint = std::process::Command::new("groff");
            let Ok(output) = lint.args(["-man", "-Tutf8", "-ww", "-z"]).arg(&path).output() else { return };
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.is_empty(), "{}: {said}", path.display());
        }
    }
}
