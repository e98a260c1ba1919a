// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask fetch [KERNEL...]`: downloads kernel images, modules and headers into the cache.
//!
//! Needs the network only for kernels that are not in the cache. Prints the paths of each kernel's parts for
//! scripts. The debug kernel is not downloaded but built, which takes long.

use crate::{debug_kernel, narrate};
use anyhow::{Context as _, Error, Result};
use std::time::Instant;
use zosbd2_vm::kernels::{self, Kernel, KernelName};

/// Arguments of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Kernels: 6.1, 6.12, 6.12-trixie, backports or newest, sid (cloud flavour), 6.1-generic, 6.12-generic, debug
    #[arg(default_values = ["6.1", "6.12"])]
    kernels: Vec<KernelName>,
    /// Ask Debian's archive for newer versions of what is in the cache
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

/// A kernel to test, or the reason why its tests are skipped: the cache has none, and Debian's archive does not deliver
/// one. That is an error for a kernel that README claims.
pub(crate) fn to_test(name: KernelName) -> Result<Result<Kernel, String>> {
    match one(name, false) {
        Ok(kernel) => Ok(Ok(kernel)),
        Err(error) => reason_to_skip(name.row(), error).map(Err),
    }
}

/// Asks Debian's archive for a newer release of a stock kernel. If it does not deliver, the cached one stays in use.
pub(crate) fn renew(name: KernelName) -> Result<()> {
    println!("{}", renewed(name, one(name, true).map(|kernel| kernel.release))?);
    Ok(())
}

/// What to say about an attempt to renew a kernel.
fn renewed(name: KernelName, result: Result<String>) -> Result<String> {
    match result {
        Ok(release) => Ok(format!("kernel {name}: the newest is {release}")),
        Err(error) if is_absence(&error) => {
            let reason = format!("{error:#}");
            Ok(format!("kernel {name} is not renewed: {}", reason.lines().next().unwrap_or_default()))
        }
        Err(error) => Err(error),
    }
}

/// Whether Debian's archive did not deliver.
fn is_absence(error: &Error) -> bool {
    error.downcast_ref().is_some_and(zosbd2_vm::Error::is_absence)
}

/// `row` is the kernel's row in README's table.
fn reason_to_skip(row: Option<&str>, error: Error) -> Result<String> {
    let absent = is_absence(&error);
    match row {
        None if absent => Ok(format!("{error:#}").lines().next().unwrap_or_default().to_owned()),
        Some(row) if absent => Err(error.context(format!("README claims {row}, and the cache has no copy"))),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_cannot_be_renewed_is_used_as_it_is() {
        let name = KernelName::NEWEST;
        assert_eq!(renewed(name, Ok("7.4".to_owned())).unwrap(), "kernel backports: the newest is 7.4");
        let absent = Error::from(zosbd2_vm::Error::NoVersion { kernel: "x".into(), suites: "y".into() });
        let line = renewed(name, Err(absent.context("fetch kernel x"))).unwrap();
        assert!(line.starts_with("kernel backports is not renewed: fetch kernel x: no release"), "{line}");
        let full = zosbd2_vm::Error::DiskSpace { path: "/".into(), free: 1, need: 2 };
        assert!(renewed(name, Err(full.into())).is_err());
    }

    #[test]
    fn only_kernels_that_readme_does_not_claim_are_skipped() {
        let absent = || Error::from(zosbd2_vm::Error::NoVersion { kernel: "x".into(), suites: "y".into() });
        let fault = || Error::from(zosbd2_vm::Error::NotBuilt);
        let reason = reason_to_skip(None, absent().context("fetch kernel x")).unwrap();
        assert!(reason.starts_with("fetch kernel x: no release of kernel x"), "{reason}");
        assert!(reason_to_skip(None, fault()).is_err());
        let error = reason_to_skip(Some("6.1 cloud"), absent()).unwrap_err();
        assert!(error.to_string().contains("README claims 6.1 cloud"), "{error}");
        assert!(reason_to_skip(Some("6.1 cloud"), fault()).is_err());
    }
}
