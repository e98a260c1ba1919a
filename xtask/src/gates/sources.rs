// SPDX-License-Identifier: MIT OR Apache-2.0
//! The gates of the sources: style and amount of the C code, and whether the C header for users is up to date.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::packages;
use crate::{apt, paths};

/// A gate: returns a summary, or an error.
type Gate = fn() -> Result<String>;

/// Every gate of the sources, by name.
pub(super) const GATES: [(&str, Gate); 4] =
    [("abi-header", abi_header), ("checkpatch", checkpatch), ("lines", lines), ("packages", packages::gate)];

/// Most C lines for each 100 Rust lines.
const MOST_C_PERCENT: usize = 60;
/// Path of `checkpatch.pl` in the kernel's source, and of the files that it reads.
const SCRIPTS: [&str; 3] =
    ["scripts/checkpatch.pl", "scripts/spelling.txt", "scripts/const_structs.checkpatch"];
/// The Debian package with the kernel's source. No smaller package has `checkpatch.pl`.
const PACKAGE: &str = "linux-source-6.12";

fn abi_header() -> Result<String> {
    let own = std::env::current_exe().context("find this program")?;
    let output = Command::new(own).args(["abi-gen", "--check"]).output().context("run abi-gen")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok("abi/include/zosbd2.h is up to date".to_owned())
}

/// The files below some folders with these endings.
fn files(folders: &[&str], endings: &[&str]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| paths::root().join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| endings.iter().any(|known| ending == *known)) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn checkpatch() -> Result<String> {
    let script = checkpatch_script()?;
    let files = files(&["kernel/shim", "kernel/compat"], &["c", "h"])?;
    let output = Command::new("perl")
        .arg(&script)
        .args(["--strict", "--no-tree", "--terse", "--no-summary", "--file"])
        .args(&files)
        .current_dir(paths::root())
        .output()
        .context("run perl (Debian: package perl)")?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && said.trim().is_empty(), "{}", said.trim());
    Ok(format!("{} files, nothing to say", files.len()))
}

/// `checkpatch.pl` in the cache. The first call downloads it with the kernel's source.
fn checkpatch_script() -> Result<PathBuf> {
    let folder = paths::cache().join("checkpatch");
    let script = folder.join(SCRIPTS[0]);
    if script.exists() {
        return Ok(script);
    }
    println!("fetching {PACKAGE} for its checkpatch.pl (150 MB)");
    let fetched = apt::fetch(PACKAGE, |_| true, &folder, unpack)?;
    fetched.with_context(|| format!("Debian has no {PACKAGE}"))?;
    ensure!(script.exists(), "{PACKAGE} has no {}", SCRIPTS[0]);
    Ok(script)
}

/// Unpacks the scripts from the source archive inside the package.
fn unpack(package: &Path, into: &Path) -> Result<()> {
    let names = SCRIPTS.map(|name| format!("{PACKAGE}/{name}")).join(" ");
    let pipe = format!(
        "set -o pipefail; dpkg-deb --fsys-tarfile \"$0\" | tar -xO ./usr/src/{PACKAGE}.tar.xz \
         | tar -xJ -C \"$1\" --strip-components=1 {names}"
    );
    let status = Command::new("bash").arg("-c").arg(pipe).arg(package).arg(into).status();
    ensure!(status.context("run bash")?.success(), "cannot unpack {}", package.display());
    Ok(())
}

/// Number of lines that are neither empty nor a comment.
fn code_lines(files: &[PathBuf]) -> Result<usize> {
    let mut count = 0;
    for path in files {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        count += code_lines_of(&text);
    }
    Ok(count)
}

fn code_lines_of(text: &str) -> usize {
    let (mut count, mut in_comment) = (0, false);
    for line in text.lines().map(str::trim) {
        let starts_comment = line.starts_with("/*");
        let is_code = !(line.is_empty() || in_comment || starts_comment || line.starts_with("//"));
        count += usize::from(is_code);
        in_comment = (in_comment || starts_comment) && !line.ends_with("*/");
    }
    count
}

/// Checks that the kernel part is Rust with a thin C shim.
fn lines() -> Result<String> {
    let c = code_lines(&files(&["kernel/shim", "kernel/compat"], &["c", "h"])?)?;
    let rust = code_lines(&files(&["engine/src", "kernel/glue/src"], &["rs"])?)?;
    if c * 100 > rust * MOST_C_PERCENT {
        bail!("{c} lines of C for {rust} lines of Rust: more than {MOST_C_PERCENT} %");
    }
    Ok(format!("{c} lines of C, {rust} lines of Rust"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_empty_lines_are_no_code() {
        assert_eq!(code_lines_of("// a\n/* b */\nint c; /* d */\n\n/*\n * e\n */\n#define F\n"), 2);
        assert_eq!(code_lines_of("//! a\n/// b\nfn c() {\n    // d\n}\n"), 2);
    }
}
