// SPDX-License-Identifier: MIT OR Apache-2.0
//! What each build root consists of.

use std::fs;
use std::path::Path;
use zosbd2_vm::kernels::lines::RootKind;
use zosbd2_vm::suites::{BOOKWORM, BOOKWORM_SECURITY, SID, Suite, TRIXIE, TRIXIE_SECURITY};

/// Packages of every root: what every Debian machine has.
const BASE: [&str; 16] = [
    "base-files",
    "bash",
    "coreutils",
    "dash",
    "debianutils",
    "diffutils",
    "dpkg",
    "findutils",
    "grep",
    "gzip",
    "hostname",
    "libc-bin",
    "mawk",
    "perl-base",
    "sed",
    "tar",
];

/// What kbuild needs besides a compiler, sparse for its gate, and flock (util-linux) for `kernel/build.sh`. The libraries
/// are those of kbuild's tools, which are in the kernel's own folder.
const KBUILD: [&str; 16] = [
    "binutils",
    "bzip2",
    "cpio",
    "dwarves",
    "gcc",
    "kmod",
    "libc6-dev",
    "libelf1t64",
    "libssl3t64",
    "make",
    "perl",
    "sparse",
    "util-linux",
    "xz-utils",
    "zlib1g",
    "zstd",
];

/// Contents of a root.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) kind: RootKind,
    pub(super) name: &'static str,
    /// Packages come from these suites. A suite that cannot be read is left out if there are others.
    pub(super) suites: &'static [&'static Suite],
    /// Its packages besides those of every root.
    pub(super) own: &'static [&'static [&'static str]],
    /// The headers' package of this line's current kernel is installed.
    pub(super) headers: Option<&'static str>,
}

const RECIPES: [Recipe; 6] = [
    Recipe {
        kind: RootKind::Bookworm,
        name: "bookworm",
        suites: &[&BOOKWORM],
        // The headers of its backports depend on pahole, which is in dwarves.
        own: &[&["dwarves", "gcc", "make"]],
        headers: None,
    },
    Recipe {
        kind: RootKind::Trixie,
        name: "trixie",
        suites: &[&TRIXIE],
        own: &[&KBUILD, &["gcc-14"]],
        headers: None,
    },
    Recipe { kind: RootKind::Sid, name: "sid", suites: &[&SID], own: &[&KBUILD, &["gcc-16"]], headers: None },
    Recipe {
        kind: RootKind::Rust,
        name: "rust",
        suites: &[&TRIXIE],
        own: &[&["binutils", "cargo", "gcc", "libc6-dev", "make", "rust-src", "rustc", "xz-utils"]],
        headers: None,
    },
    Recipe {
        kind: RootKind::StrangerTrixie,
        name: "stranger-trixie",
        suites: &[&TRIXIE_SECURITY, &TRIXIE],
        own: &[&["gcc", "make"]],
        headers: Some("6.12-trixie"),
    },
    Recipe {
        kind: RootKind::StrangerBookworm,
        name: "stranger-bookworm",
        suites: &[&BOOKWORM_SECURITY, &BOOKWORM],
        own: &[&["gcc", "make"]],
        headers: Some("6.1"),
    },
];

impl Recipe {
    pub(super) fn of(kind: RootKind) -> &'static Self {
        RECIPES.iter().find(|recipe| recipe.kind == kind).expect("every kind has a recipe")
    }

    /// The packages but for the headers. Everything that they depend on comes with them.
    pub(super) fn packages(&self) -> impl Iterator<Item = String> {
        BASE.iter().chain(self.own.iter().copied().flatten()).map(|name| (*name).to_owned())
    }

    /// Whether the root in this folder was made by this recipe.
    pub(super) fn made(&self, folder: &Path) -> bool {
        fs::read_to_string(folder.join("recipe")).is_ok_and(|text| text == self.text())
    }

    /// A text that changes whenever the recipe does.
    pub(super) fn text(&self) -> String {
        let suites = self.suites.iter().map(|suite| suite.name.to_owned());
        let words = suites.chain(self.packages()).chain(self.headers.map(str::to_owned));
        words.collect::<Vec<_>>().join("\n") + "\n"
    }
}

/// The root with this name.
pub(super) fn kind(name: &str) -> Result<RootKind, String> {
    let names = || RECIPES.each_ref().map(|recipe| recipe.name).join(", ");
    let recipe = RECIPES.iter().find(|recipe| recipe.name == name);
    recipe.map(|recipe| recipe.kind).ok_or_else(|| format!("the roots are {}", names()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zosbd2_vm::kernels::KernelName;
    use zosbd2_vm::kernels::lines::root_of;

    #[test]
    fn every_kind_has_a_recipe_and_a_name() {
        let kinds = [
            RootKind::Bookworm,
            RootKind::Trixie,
            RootKind::Sid,
            RootKind::Rust,
            RootKind::StrangerTrixie,
            RootKind::StrangerBookworm,
        ];
        for root in kinds.into_iter().chain(KernelName::all_stock().filter_map(root_of)) {
            assert_eq!(kind(Recipe::of(root).name), Ok(root));
        }
        assert!(kind("forky").is_err());
    }

    #[test]
    fn headers_are_those_of_a_line_in_the_same_suites() {
        for recipe in &RECIPES {
            if let Some(line) = recipe.headers {
                let line: KernelName = line.parse().unwrap();
                assert_eq!(line.suites(), recipe.suites, "{}", recipe.name);
            }
        }
    }
}
