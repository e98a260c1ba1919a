// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask session-test`: tests of sessions, each by the command that a person would type.
//!
//! One boot runs a command with a program, a script and a shared folder. Two boots run the commands of
//! docs/first-disk.md, on the program in it.

use crate::narrate;
use crate::paths;
use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;
use zosbd2_vm::kernels::{self, KernelName};

/// Arguments of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The kernel
    #[arg(long, default_value = "6.12")]
    kernel: KernelName,
    /// Only the document
    #[arg(long)]
    document: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let count = check(arguments.kernel, !arguments.document)?;
    println!("{count} passed, 0 failed, 0 skipped");
    Ok(())
}

/// Runs the tests on a kernel, and returns their number.
pub(crate) fn check(kernel: KernelName, all: bool) -> Result<usize> {
    if all {
        command_with_everything(kernel).context("a command with a program and a shared folder")?;
        println!("session: a command with a program and a shared folder ... ok");
        narrate::said();
    }
    first_disk(kernel).context("docs/first-disk.md")?;
    println!("session: docs/first-disk.md ... ok");
    narrate::said();
    Ok(if all { 2 } else { 1 })
}

/// An empty folder in the target folder, except for what `keep` names.
fn folder(name: &str, keep: &[&str]) -> Result<PathBuf> {
    let folder = kernels::target().join("session-test").join(name);
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if keep.iter().any(|name| path.ends_with(name)) {
            continue;
        }
        if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(&path)? } else { fs::remove_file(&path)? }
    }
    Ok(folder)
}

/// The time after which a command has hung. A session may last as long as its work, so nothing else would end the command.
const HUNG: Duration = Duration::from_mins(20);

/// Runs a command, and fails with what it printed unless its status is as expected. A command that hangs is killed, with
/// all processes that it has started.
fn expect(command: &mut Command, status: i32, what: &str) -> Result<Output> {
    let _doing = narrate::doing(what);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let child = command.spawn().with_context(|| format!("run {what}"))?;
    let group = Pid::from_child(&child);
    let (ended, end) = mpsc::channel::<()>();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || {
            if end.recv_timeout(HUNG) == Err(RecvTimeoutError::Timeout) {
                let _ = kill_process_group(group, Signal::KILL);
            }
        });
        let output = child.wait_with_output();
        drop(ended);
        output
    })
    .with_context(|| format!("wait for {what}"))?;
    let said =
        || format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(
        output.status.code() == Some(status),
        "{what}: {}, and not {status} (a command that hangs is killed after {HUNG:?})\n{}",
        output.status,
        said()
    );
    Ok(output)
}

const LIBRARY: &str = "#include <stdio.h>\nvoid own_speak(const char *text) { printf(\"%s\\n\", text); }\n";
const PROGRAM: &str = "void own_speak(const char *);\n\
                       int main(int count, char **words) { own_speak(count > 1 ? words[1] : \"?\"); return 0; }\n";
const SCRIPT: &str = "#!/usr/bin/env bash\nown \"from the program\"\necho \"from the script\" > /share/out\n";

/// A dynamic program with a library of its own, a script, a file, a folder in and out, a server that is left in the
/// background, and the status of the command.
fn command_with_everything(kernel: KernelName) -> Result<()> {
    let folder = folder("everything", &[])?;
    let path = |name: &str| folder.join(name);
    for (name, text) in
        [("own.c", LIBRARY), ("main.c", PROGRAM), ("script", SCRIPT), ("data", "from a file\n")]
    {
        fs::write(path(name), text)?;
    }
    fs::set_permissions(path("script"), fs::Permissions::from_mode(0o755))?;
    fs::create_dir(path("shared"))?;
    fs::write(path("shared/in"), "from the host\n")?;
    let cc = |words: &[&str]| {
        let mut cc = Command::new("cc");
        expect(cc.args(words).current_dir(&folder), 0, "cc")
    };
    cc(&["-shared", "-fPIC", "-o", "libown.so", "own.c"])?;
    cc(&["-o", "own", "main.c", "-L.", "-lown", &format!("-Wl,-rpath,{}", folder.display())])?;

    // The server is left in the background, and has to end by itself. It keeps the FIFO open, so that it can go on
    // speaking after the command has ended.
    let script = "script && cat data /share/in /share/out && modprobe dm-crypt || exit 1
        mkfifo said; exec 3<> said; hello_disk 2>&3 & read -t 300 -r served <&3 || exit 2
        echo \"$served\" | cut -c1-12
        exit 42";
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["vm", "--kernel", &kernel.to_string(), "--share", "shared"]).current_dir(&folder);
    for name in ["own", "script", "data"] {
        command.args(["--add", name]);
    }
    let output = expect(command.args(["--run", script]), 42, "cargo xtask vm --run")?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let wanted = "from the program\nfrom a file\nfrom the host\nfrom the script\nserving /dev\n";
    ensure!(printed == wanted, "the command printed {printed:?}, and not {wanted:?}");
    let complaints = String::from_utf8_lossy(&output.stderr);
    ensure!(complaints.contains("changed in the guest, and copied back: out\n"), "{complaints}");
    for word in ["the kernel said", "was left", "does not unload", "did not end"] {
        ensure!(!complaints.contains(word), "the end was not clean:\n{complaints}");
    }
    ensure!(fs::read_to_string(path("shared/out"))? == "from the script\n", "the new file did not come back");
    ensure!(fs::read_to_string(path("shared/in"))? == "from the host\n", "the old file has changed");
    Ok(())
}

/// A piece of a document in another language.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    language: String,
    /// The file that it is.
    path: Option<String>,
    text: String,
}

/// The pieces of a document in other languages: "```LANGUAGE [PATH]" up to "```".
fn blocks(document: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut open = false;
    for line in document.lines() {
        match line.strip_prefix("```") {
            Some(_) if open => open = false,
            Some(info) => {
                let mut words = info.split_whitespace().map(str::to_owned);
                let language = words.next().unwrap_or_default();
                found.push(Block { language, path: words.next(), text: String::new() });
                open = true;
            }
            None => {
                if let Some(block) = found.last_mut().filter(|_| open) {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
            }
        }
    }
    found
}

/// Runs `cargo xtask vm` of the document as this program, on this kernel.
const PRELUDE: &str = "
cargo() {
    if [ \"$1 $2\" = 'xtask vm' ]; then shift 2; \"$XTASK\" vm --kernel \"$KERNEL\" \"$@\"; else command cargo \"$@\"; fi
}
";

/// Writes the files of docs/first-disk.md, runs its commands, and compares what they print.
fn first_disk(kernel: KernelName) -> Result<()> {
    let document = fs::read_to_string(paths::root().join("docs/first-disk.md"))?;
    let folder = folder("document", &["first-disk"])?;
    // What cargo has built stays.
    let project = self::folder("document/first-disk", &["target"])?;
    // A folder with the parts of the repository: `..` of a link would be beside the repository.
    let repository = self::folder("document/zosbd2", &[])?;
    for entry in fs::read_dir(paths::root())? {
        let entry = entry?;
        if entry.file_name() != "target" {
            symlink(entry.path(), repository.join(entry.file_name()))?;
        }
    }
    // The same versions as here, without a look into the registry.
    fs::copy(paths::root().join("Cargo.lock"), project.join("Cargo.lock"))?;
    let (mut script, mut printed) = (PRELUDE.to_owned(), Vec::new());
    for block in blocks(&document) {
        match (block.language.as_str(), block.path) {
            (_, Some(path)) => {
                let file = folder.join(path);
                ensure!(file.starts_with(&project), "{} is not in the project", file.display());
                fs::create_dir_all(file.parent().context("a file is in a folder")?)?;
                fs::write(&file, block.text)?;
            }
            ("sh", None) => script.push_str(&block.text),
            ("text", None) => printed.extend(block.text.lines().map(str::to_owned)),
            // What a person sees or does elsewhere.
            ("console", None) => {}
            (language, None) => bail!("a block of {language:?} is neither a file nor a command"),
        }
    }
    ensure!(
        script.contains("--conformance") && script.contains("--run"),
        "the document has lost its commands"
    );
    let mut shell = Command::new("sh");
    shell
        .args(["-ec", &script])
        .current_dir(&folder)
        .env("XTASK", std::env::current_exe()?)
        .env("KERNEL", kernel.to_string())
        .env("ZOSBD2_CACHE", kernels::cache())
        .env_remove("CARGO_TARGET_DIR");
    let output = expect(&mut shell, 0, "the commands of docs/first-disk.md")?;
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    all_printed(&said, &printed)?;
    ensure!(project.join("share/store").is_file(), "the store did not come back");
    fs::remove_dir_all(project.join("share"))?;
    Ok(())
}

/// Fails unless the lines that a document shows are in the output. A line may go on there.
fn all_printed(said: &str, wanted: &[String]) -> Result<()> {
    for line in wanted {
        ensure!(
            said.lines().any(|own| own.trim_end().starts_with(line.as_str())),
            "nothing printed {line:?}, as the document says:\n{said}"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_with_their_files() {
        let text = "a\n```rust x/main.rs\nfn main() {}\n```\nb\n```sh\nls\n\nls\n```\n";
        let block = |language: &str, path: Option<&str>, text: &str| Block {
            language: language.into(),
            path: path.map(str::to_owned),
            text: text.into(),
        };
        assert_eq!(
            blocks(text),
            [block("rust", Some("x/main.rs"), "fn main() {}\n"), block("sh", None, "ls\n\nls\n")]
        );
    }

    #[test]
    fn the_document_has_a_program_and_commands() {
        let found = blocks(&fs::read_to_string(paths::root().join("docs/first-disk.md")).unwrap());
        let files: Vec<&str> = found.iter().filter_map(|block| block.path.as_deref()).collect();
        assert_eq!(files, ["first-disk/Cargo.toml", "first-disk/src/main.rs"]);
        assert!(found.iter().filter(|block| block.language == "sh").count() >= 3);
    }

    #[test]
    fn what_a_document_shows_must_be_printed() {
        let wanted = ["serving".to_owned(), "done".to_owned()];
        assert!(all_printed("serving x\r\ndone\n", &wanted).is_ok());
        assert!(all_printed("serving x\n", &wanted).unwrap_err().to_string().contains("\"done\""));
    }
}
