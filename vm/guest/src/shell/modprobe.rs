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

/// The module of this name or alias. The kernel treats dashes and underscores of a name as the same.
fn resolve(name: &str, aliases: &str) -> String {
    let found = aliases.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    found.map_or_else(|| name.replace('-', "_"), str::to_owned)
}

#[cfg(test)]
mod checks {
    use super::*;

    #[test]
    fn aliases_and_dashes_are_resolved() {
        let aliases = "fs-ext3 ext4\nfs-ext4 ext4\n";
        assert_eq!(resolve("fs-ext4", aliases), "ext4");
        assert_eq!(resolve("fs-ext", aliases), "fs_ext");
        assert_eq!(resolve("dm-crypt", aliases), "dm_crypt");
    }
}
