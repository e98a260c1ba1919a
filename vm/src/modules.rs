// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finds the files of a kernel module and of its dependencies, and decompresses them.
//!
//! Reads `modules.dep` and `modules.builtin` of the kernel in the cache. A module that is neither loadable nor
//! built in is an error that names kernel and module.

use crate::error::file;
use crate::kernels::Kernel;
use crate::{Error, Result, command};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Modules that a module requests at run time, and that `modules.dep` does not list.
const RUNTIME: [(&str, &str); 3] =
    [("xfs", "crc32c_generic"), ("ext4", "crc32c_generic"), ("btrfs", "crc32c_generic")];

/// For every module the files to load, in order, relative to the modules folder. Empty for built-in modules.
pub fn resolve(kernel: &Kernel, wanted: &[&str]) -> Result<BTreeMap<String, Vec<String>>> {
    let read = |name: &str| {
        let path = kernel.modules.join(name);
        fs::read_to_string(&path).map_err(file("read", &path))
    };
    let dependencies = parse_dep(&read("modules.dep")?);
    let builtin = read("modules.builtin")?;
    let builtin: BTreeSet<String> = builtin.lines().map(module_name).collect();
    let mut found = BTreeMap::new();
    for name in wanted {
        let mut files = Vec::new();
        let runtime = RUNTIME.iter().filter(|(module, _)| module == name).map(|(_, needs)| *needs);
        for (part, required) in runtime.map(|part| (part, false)).chain([(*name, true)]) {
            if builtin.contains(part) {
                continue;
            }
            match dependencies.get(part) {
                Some(closure) => {
                    for path in closure {
                        if !files.contains(path) {
                            files.push(path.clone());
                        }
                    }
                }
                None if required => {
                    return Err(Error::NoModule { release: kernel.release.clone(), module: part.to_owned() });
                }
                None => {}
            }
        }
        found.insert((*name).to_owned(), files);
    }
    Ok(found)
}

/// The names that this kernel has modules for, loadable or built in.
#[must_use]
pub fn available<'a>(kernel: &Kernel, names: &[&'a str]) -> Vec<&'a str> {
    names.iter().copied().filter(|name| resolve(kernel, &[name]).is_ok()).collect()
}

/// Other names by which the kernel asks for these modules, a line `ALIAS NAME` each, without patterns.
pub fn aliases(kernel: &Kernel, wanted: &[&str]) -> Result<String> {
    let path = kernel.modules.join("modules.alias");
    let text = fs::read_to_string(&path).map_err(file("read", &path))?;
    Ok(parse_aliases(&text, wanted))
}

fn parse_aliases(text: &str, wanted: &[&str]) -> String {
    let mut found = String::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        if let (Some("alias"), Some(alias), Some(name)) = (words.next(), words.next(), words.next())
            && wanted.contains(&name)
            && !alias.contains(['*', '?', '['])
        {
            let _ = writeln!(found, "{alias} {name}");
        }
    }
    found
}

/// The contents of a module's file, decompressed.
pub fn contents(path: &Path) -> Result<Vec<u8>> {
    let (program, package) = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => ("xz", "xz-utils"),
        Some("gz") => ("gzip", "gzip"),
        Some("zst") => ("zstd", "zstd"),
        _ => return fs::read(path).map_err(file("read", path)),
    };
    command::output(Command::new(program).arg("-dc").arg(path), package)
}

/// Maps a module's name to the files to load for it, its own file last.
fn parse_dep(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    for line in text.lines() {
        let Some((path, needs)) = line.split_once(':') else { continue };
        // The file lists the nearest dependency first.
        let mut files: Vec<String> = needs.split_whitespace().rev().map(str::to_owned).collect();
        files.push(path.to_owned());
        all.insert(module_name(path), files);
    }
    all
}

/// `kernel/fs/xfs/xfs.ko.xz` is `xfs`. The kernel replaces dashes by underscores.
#[must_use]
pub fn module_name(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.split(".ko").next().unwrap_or(name).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_loaded_first() {
        let all = parse_dep("kernel/a.ko.xz: kernel/b.ko.xz kernel/c-d.ko.xz\nkernel/c-d.ko.xz:\n");
        assert_eq!(all["a"], ["kernel/c-d.ko.xz", "kernel/b.ko.xz", "kernel/a.ko.xz"]);
        assert_eq!(all["c_d"], ["kernel/c-d.ko.xz"]);
    }

    #[test]
    fn aliases_of_wanted_modules_are_kept() {
        let text = "# Aliases\nalias fs-ext4 ext4\nalias pci:v*d* e1000\nalias x?y ext4\nalias fs-xfs xfs\n";
        assert_eq!(parse_aliases(text, &["ext4", "e1000"]), "fs-ext4 ext4\n");
    }
}
