// SPDX-License-Identifier: MIT OR Apache-2.0
//! `modprobe` of a session: loads the modules of the kernel that the host has packed. The kernel calls it, too, for
//! example when a file system is mounted.

use crate::guest::modules;
use std::error::Error;
use std::fs;
use zosbd2_vm_guest::protocol::MODULE_ALIASES;

/// `modprobe [-q] [-r] [--] NAME [PARAMETER...]`
pub(crate) fn role(arguments: &[&str]) -> Result<(), Box<dyn Error>> {
    let (options, words): (Vec<&str>, Vec<&str>) = arguments.iter().partition(|word| word.starts_with('-'));
    let [name, parameters @ ..] = words.as_slice() else { return Err("no module is named".into()) };
    let name = resolve(name, &fs::read_to_string(MODULE_ALIASES).unwrap_or_default());
    if options.contains(&"-r") {
        modules::try_unload(&name).map_err(|error| format!("unload {name}: {error}"))?;
    } else if modules::available(&name) {
        modules::try_load(&name, &parameters.join(" "))?;
    } else if !modules::loaded(&name) {
        let known = modules::all_available().join(", ");
        return Err(format!("the guest has no module {name}, only {known}").into());
    }
    Ok(())
}

/// Nodes whose first use loads a module, such as `/dev/loop-control`: paths in `/dev`, and major and minor numbers.
pub(crate) fn nodes() -> Vec<(String, u32, u32)> {
    static_nodes(&fs::read_to_string(MODULE_ALIASES).unwrap_or_default())
}

/// A module with a static node has two aliases: `devname:PATH` and `char-major-MAJOR-MINOR`.
fn static_nodes(aliases: &str) -> Vec<(String, u32, u32)> {
    let pairs: Vec<(&str, &str)> = aliases.lines().filter_map(|line| line.split_once(' ')).collect();
    let node = |(alias, module): &(&str, &str)| {
        let path = alias.strip_prefix("devname:")?;
        pairs.iter().filter(|(_, other)| other == module).find_map(|(alias, _)| {
            let (major, minor) = alias.strip_prefix("char-major-")?.split_once('-')?;
            Some((path.to_owned(), major.parse().ok()?, minor.parse().ok()?))
        })
    };
    pairs.iter().filter_map(node).collect()
}

/// The module of this name or alias. The kernel treats dashes and underscores of a name as the same.
fn resolve(name: &str, aliases: &str) -> String {
    let found = aliases.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    found.map_or_else(|| name.replace('-', "_"), str::to_owned)
}

#[cfg(test)]
mod checks {
    use super::*;

    #[test]
    fn nodes_have_a_path_and_a_number() {
        let aliases = "char-major-10-237 loop\ndevname:loop-control loop\ndevname:x y\nfs-ext4 ext4\n\
                       char-major-10-236 dm_mod\ndevname:mapper/control dm_mod\n";
        let wanted = [("loop-control", 237), ("mapper/control", 236)];
        assert_eq!(static_nodes(aliases), wanted.map(|(path, minor)| (path.to_owned(), 10, minor)));
    }

    #[test]
    fn aliases_and_dashes_are_resolved() {
        let aliases = "fs-ext3 ext4\nfs-ext4 ext4\n";
        assert_eq!(resolve("fs-ext4", aliases), "ext4");
        assert_eq!(resolve("fs-ext", aliases), "fs_ext");
        assert_eq!(resolve("dm-crypt", aliases), "dm_crypt");
    }
}
