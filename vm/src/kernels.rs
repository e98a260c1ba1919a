// SPDX-License-Identifier: MIT OR Apache-2.0
//! Debian kernels, by short name, in a cache folder: stock kernels, and a debug kernel built from the same source.
//!
//! [`lines`] has the table of names. [`fetch`] downloads image, modules and headers of the newest version that has
//! all three and unpacks them side by side, never onto the host. [`find`] only looks. The cache is shared: a file
//! lock serialises runs, and a kernel appears by a rename, complete or not at all. Cached kernels are used offline,
//! do not expire, and are never removed, because Debian's archive drops the headers of superseded series; `update` asks
//! Debian's archive for a newer version. `cargo xtask debug-kernel` builds the debug kernel, which [`find`] accepts only
//! if it was built with the current configuration.

mod cache;
pub mod lines;
mod search;
mod unpack;

pub use cache::{
    Kernel, cache, cached, choose, exchange, find, find_release, free_mib, lock, named_cache, require_free,
    target,
};
pub use lines::{DEBUG_CONFIG, KernelName, debug_release};
pub use search::newest_headers;

use crate::error::file;
use crate::packages::Archive;
use crate::{Error, Result};
use std::fs;

/// Free MiB needed to unpack a kernel.
const NEED: u64 = 2048;

/// A stock kernel. Downloads it if it is not in the cache, or if `update` is set and a newer version exists.
pub fn fetch(name: KernelName, update: bool) -> Result<Kernel> {
    if name.is_debug() {
        return Err(Error::NotBuilt);
    }
    let _lock = lock()?;
    let cached = find(name).ok();
    if let (false, Some(kernel)) = (update, &cached) {
        return Ok(kernel.clone());
    }
    let cache = cache();
    fs::create_dir_all(&cache).map_err(file("create", &cache))?;
    require_free(&cache, NEED)?;
    let (archive, found) = search::newest(name, |suite| Archive::open(suite, name.architecture().debian))?;
    // The suite with the newest release may be out of order today.
    if let Some(kernel) = cached
        && !search::newer(name, &found.release, &kernel.release)
    {
        return Ok(kernel);
    }
    if !cache.join(&found.release).exists() {
        unpack::unpack(&archive, &cache, &found.release, &found.packages)?;
    }
    choose(name, &found.release)?;
    find(name)
}
