// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask fetch [KERNEL...]`: downloads kernel images, modules and headers into the cache.
//!
//! Needs the network only for kernels that are not in the cache. Prints the paths of each kernel's parts for
//! scripts. The debug kernel is not downloaded but built, which takes long.

use crate::{debug_kernel, narrate};
use anyhow::{Context as _, Result};
use std::time::Instant;
use zosbd2_vm::kernels::{self, Kernel, KernelName};

/// Arguments of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Kernels: 6.1, 6.12, 6.12-trixie, backports or newest, sid (cloud flavour), 6.1-generic, 6.12-generic, debug
    #[arg(default_values = ["6.1", "6.12"])]
    kernels: Vec<KernelName>,
    /// Ask the archive for newer versions of what is in the cache
    #[arg(long)]
    update: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    for name in &arguments.kernels {
        print(&one(*name, arguments.update)?);
    }
    Ok(())
}

/// Prints the paths of a kernel's parts.
pub(crate) fn print(kernel: &Kernel) {
    println!("{}: {}", kernel.name, kernel.release);
    println!("  image:   {}", kernel.vmlinuz.display());
    println!("  modules: {}", kernel.modules.display());
    println!("  KDIR:    {}", kernel.headers.display());
}

/// A kernel from the cache, or from the network with a message.
pub(crate) fn one(name: KernelName, update: bool) -> Result<Kernel> {
    if name.is_debug() {
        return debug_kernel::one(update);
    }
    if !update && let Ok(kernel) = kernels::find(name) {
        return Ok(kernel);
    }
    let start = Instant::now();
    eprintln!("fetching kernel {name} into {}", kernels::cache().display());
    let _doing = narrate::doing(format!("fetching kernel {name}"));
    let kernel = kernels::fetch(name, update).with_context(|| format!("fetch kernel {name}"))?;
    eprintln!("fetched {} in {:.0?}", kernel.release, start.elapsed());
    Ok(kernel)
}
