// SPDX-License-Identifier: MIT OR Apache-2.0
//! `core` for the kernel part: finds or downloads its source, compiles it with the kernel's flags, and caches the
//! result.
//!
//! The source must belong to the exact version of `rustc`. It is searched in this order: rustup's `rust-src`,
//! Debian's installed `rust-src` package, and that package downloaded into the cache through a private apt
//! configuration. The host's apt sources stay unchanged and nothing is installed. If the source is not available,
//! or if `ZOSBD2_CORE=host` forbids the search, the metadata of the compiler's own `core` is used.

use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::toolchain::Toolchain;
use crate::{apt, narrate, paths, rust_object};

/// A folder with the metadata of `core` and `compiler_builtins`, compiled from this source with these flags. It is below
/// `cores`, or in the cache.
pub(crate) fn metadata(
    toolchain: &Toolchain,
    flags: &[String],
    source: &Path,
    cores: Option<&Path>,
) -> Result<PathBuf> {
    let version = rust_object::rustc_version(toolchain)?;
    let mut hasher = DefaultHasher::new();
    flags.hash(&mut hasher);
    rust_object::rustc_identity(toolchain)?.hash(&mut hasher);
    let cores = cores.map_or_else(paths::cache, Path::to_owned);
    let folder = cores.join(format!("core-{version}-{:016x}", hasher.finish()));
    if folder.join("done").exists() {
        return Ok(folder);
    }
    let unfinished = folder.with_extension(format!("new{}", std::process::id()));
    fs::create_dir_all(&unfinished).with_context(|| format!("create {}", unfinished.display()))?;
    let _doing = narrate::doing(format!("compiling core {version} for this kernel's flags"));
    rust_object::build_core(toolchain, flags, source, &unfinished)?;
    fs::write(unfinished.join("done"), "")?;
    // Another process may have been faster. Then its folder serves as well.
    if fs::rename(&unfinished, &folder).is_err() {
        fs::remove_dir_all(&unfinished)?;
        ensure!(folder.join("done").exists(), "cannot put core into {}", folder.display());
    }
    Ok(folder)
}

/// The folder that contains `core/src/lib.rs`, as the toolchain's programs see it.
pub(crate) fn source(toolchain: &Toolchain) -> Result<PathBuf> {
    ensure!(env::var_os("ZOSBD2_CORE").is_none_or(|value| value != "host"), "ZOSBD2_CORE=host");
    let version = &rust_object::rustc_version(toolchain)?;
    let fetched = paths::cache().join(format!("rust-src-{version}"));
    let candidates = [
        rust_object::sysroot(toolchain)?.join("lib/rustlib/src/rust/library"),
        PathBuf::from(format!("/usr/src/rustc-{version}/library")),
        fetched.join(format!("usr/src/rustc-{version}/library")),
    ];
    let there = |folder: &&PathBuf| toolchain.outside(&folder.join("core/src/lib.rs")).exists();
    let found = || candidates.iter().find(there).cloned();
    if let Some(folder) = found() {
        return Ok(folder);
    }
    fetch(version, &fetched)?;
    found().with_context(|| {
        format!("rust-src {version} was fetched, but has no core/src/lib.rs at {}", candidates[2].display())
    })
}

/// The edition of `core`, from its `Cargo.toml`: 2021 up to Rust 1.86, 2024 since then.
pub(crate) fn edition(toolchain: &Toolchain, source: &Path) -> Result<String> {
    let path = toolchain.outside(&source.join("core/Cargo.toml"));
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let value = text.lines().find_map(|line| line.strip_prefix("edition")?.trim().strip_prefix('='));
    let edition = value.with_context(|| format!("{} names no edition", path.display()))?;
    Ok(edition.trim().trim_matches('"').to_owned())
}

fn fetch(version: &str, into: &Path) -> Result<()> {
    println!("fetching rust-src {version} (source of core, 45 MB)");
    let _doing = narrate::doing(format!("fetching rust-src {version}"));
    let fits = |found: &str| found.starts_with(&format!("{version}+"));
    let fetched = apt::fetch("rust-src", fits, into, |package, folder| {
        // The package has all of Rust's sources. `core` and the files that it includes are in the library folders.
        let pipe = "set -o pipefail; dpkg-deb --fsys-tarfile \"$0\" | tar -x -C \"$1\" --wildcards './usr/src/*/library'";
        let status = Command::new("bash").args(["-c", pipe]).arg(package).arg(folder).status();
        ensure!(status.context("run bash")?.success(), "cannot unpack {}", package.display());
        Ok(())
    })?;
    fetched.with_context(|| {
        format!(
            "Debian has no rust-src {version}: install it with `rustup component add rust-src`, or use a rustc \
             whose version Debian carries"
        )
    })
}
