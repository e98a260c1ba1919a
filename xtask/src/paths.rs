// SPDX-License-Identifier: MIT OR Apache-2.0
//! Folders of the project.

use std::path::{Path, PathBuf};
use zosbd2_vm::kernels;

/// The top folder of the project.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// Folder for downloads and expensive results that can be made again: `target/cache`, or `$ZOSBD2_CACHE`.
pub(crate) fn cache() -> PathBuf {
    kernels::named_cache().unwrap_or_else(|| root().join("target/cache"))
}
