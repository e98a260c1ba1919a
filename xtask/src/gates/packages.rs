// SPDX-License-Identifier: MIT OR Apache-2.0
//! The gate of the packages: those for users are ready for the registry.
//!
//! cargo makes all of them without the registry: a package finds the others of this workspace in a registry of its own.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use zosbd2_vm::kernels;

use crate::paths;

/// The packages, each after those that it depends on.
const PACKAGES: [&str; 4] = ["zosbd2-abi", "zosbd2", "zosbd2-backends", "zosbd2-faults"];
/// Files that every package has.
const FILES: [&str; 4] = ["README.md", "LICENSE-MIT", "LICENSE-APACHE", "src/lib.rs"];
/// Most keywords and categories, and the longest keyword, that the registry accepts.
const MOST_WORDS: usize = 5;
const LONGEST_WORD: usize = 20;

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

/// What cargo says about a package.
#[derive(Clone, Default, Deserialize)]
struct Package {
    name: String,
    description: Option<String>,
    license: Option<String>,
    readme: Option<String>,
    documentation: Option<String>,
    rust_version: Option<String>,
    keywords: Vec<String>,
    categories: Vec<String>,
    /// The registries that it may be put into; `None`: any.
    publish: Option<Vec<String>>,
    dependencies: Vec<Dependency>,
}

#[derive(Clone, Default, Deserialize)]
struct Dependency {
    name: String,
    req: String,
    kind: Option<String>,
    path: Option<String>,
}

pub(super) fn gate() -> Result<String> {
    for package in metadata()? {
        let wrong = faults(&package);
        ensure!(wrong.is_empty(), "package {}: {}", package.name, wrong.join("; "));
    }
    for name in PACKAGES {
        let list = cargo(&["package", "--offline", "--allow-dirty", "--list", "--package", name])?;
        for file in FILES {
            ensure!(list.lines().any(|own| own == file), "package {name} has no {file}");
        }
    }
    let mut words = vec!["package", "--offline", "--allow-dirty", "--no-verify"];
    words.extend(PACKAGES.iter().flat_map(|name| ["--package", name]));
    cargo(&words)?;
    // It depends on nothing, so that a stranger's build is quick.
    cargo(&["package", "--offline", "--allow-dirty", "--package", PACKAGES[0]])?;
    Ok(format!("{} can be put into the registry", PACKAGES.join(", ")))
}

fn metadata() -> Result<Vec<Package>> {
    let text = cargo(&["metadata", "--offline", "--no-deps", "--format-version", "1"])?;
    let metadata: Metadata = serde_json::from_str(&text).context("read what cargo metadata says")?;
    let found: Vec<Package> =
        metadata.packages.into_iter().filter(|package| PACKAGES.contains(&package.name.as_str())).collect();
    ensure!(found.len() == PACKAGES.len(), "the workspace lacks one of {}", PACKAGES.join(", "));
    Ok(found)
}

/// What the registry, or a reader of its page, would miss.
fn faults(package: &Package) -> Vec<String> {
    let mut faults = Vec::new();
    let texts = [
        ("description", &package.description),
        ("license", &package.license),
        ("readme", &package.readme),
        ("documentation", &package.documentation),
        ("rust-version", &package.rust_version),
    ];
    let empty = |text: &Option<String>| text.as_deref().unwrap_or_default().trim().is_empty();
    faults.extend(texts.iter().filter(|(_, text)| empty(text)).map(|(name, _)| format!("it has no {name}")));
    for (name, words) in [("keywords", &package.keywords), ("categories", &package.categories)] {
        if !(1..=MOST_WORDS).contains(&words.len()) {
            faults.push(format!("it has {} {name}, and 1 to {MOST_WORDS} are allowed", words.len()));
        }
    }
    let bad = |word: &&String| {
        word.len() > LONGEST_WORD
            || !word.starts_with(|c: char| c.is_ascii_alphanumeric())
            || word.contains(' ')
    };
    faults.extend(package.keywords.iter().filter(bad).map(|word| format!("{word:?} is no keyword")));
    if package.publish.as_ref().is_some_and(Vec::is_empty) {
        faults.push("it has `publish = false`".to_owned());
    }
    for dependency in package.dependencies.iter().filter(|one| one.kind.as_deref() != Some("dev")) {
        if dependency.req == "*" {
            faults.push(format!("its dependency {} has no version", dependency.name));
        }
        if dependency.path.is_some() && !PACKAGES.contains(&dependency.name.as_str()) {
            faults.push(format!("its dependency {} is not for the registry", dependency.name));
        }
    }
    faults
}

/// Runs cargo, with a target folder of its own, so that it waits for no other cargo.
fn cargo(words: &[&str]) -> Result<String> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(words)
        .current_dir(paths::root())
        .env("CARGO_TARGET_DIR", Path::new(&kernels::target()).join("packages"))
        .output()
        .context("run cargo")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cargo {} failed: {}", words.join(" "), complaint.trim());
    String::from_utf8(output.stdout).context("cargo printed something that is not text")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Package {
        let text = || Some("text".to_owned());
        Package {
            name: "x".to_owned(),
            description: text(),
            license: text(),
            readme: text(),
            documentation: text(),
            rust_version: text(),
            keywords: vec!["disk".to_owned()],
            categories: vec!["filesystem".to_owned()],
            ..Package::default()
        }
    }

    #[test]
    fn the_packages_are_ready() {
        for package in metadata().unwrap() {
            assert_eq!(faults(&package), [""; 0], "{}", package.name);
        }
    }

    #[test]
    fn what_is_missing_is_found() {
        assert_eq!(faults(&good()), [""; 0]);
        let dependency = |name: &str, req: &str, path: Option<&str>| Dependency {
            name: name.to_owned(),
            req: req.to_owned(),
            kind: None,
            path: path.map(str::to_owned),
        };
        let wrong = Package {
            readme: None,
            keywords: vec!["a word that is much too long".to_owned()],
            categories: Vec::new(),
            publish: Some(Vec::new()),
            dependencies: vec![
                dependency("zosbd2", "*", Some("/x")),
                dependency("zosbd2-engine", "^0.1", Some("/y")),
            ],
            ..good()
        };
        assert_eq!(
            faults(&wrong),
            [
                "it has no readme",
                "it has 0 categories, and 1 to 5 are allowed",
                "\"a word that is much too long\" is no keyword",
                "it has `publish = false`",
                "its dependency zosbd2 has no version",
                "its dependency zosbd2-engine is not for the registry",
            ]
        );
    }
}
