// SPDX-License-Identifier: MIT OR Apache-2.0
//! Other projects' devices in the benchmark, and which of them are available on this machine.
//!
//! Missing programs are installed here, for the benchmark only: Debian's packages, and `rublk` by cargo into
//! `target/tools`. A device whose programs cannot be installed is left out, and the report says why.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use zosbd2_vm::arch;
use zosbd2_vm::kernels::{self, Kernel};
use zosbd2_vm::modules;

use crate::{paths, setup, vm};

/// Version of `rublk` for which the figures are valid.
const RUBLK: &str = "0.2.15";
const RUBLK_PACKAGES: [(&str, &str); 1] = [("libclang1-14", "builds rublk, ublk's server")];
const NBD_PACKAGES: [(&str, &str); 2] = [("nbdkit", "nbd's server"), ("nbd-client", "nbd's client")];
/// nbd's programs, and the plugin of nbdkit that serves memory.
const NBD_TOOLS: [(&str, &str); 3] = [
    ("/usr/bin/nbdkit", "nbdkit"),
    ("/usr/lib/x86_64-linux-gnu/nbdkit/plugins/nbdkit-memory-plugin.so", "nbdkit"),
    ("/sbin/nbd-client", "nbd-client"),
];

/// A device that is not measured, with the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) device: String,
    pub(super) reason: String,
}

impl Missing {
    /// Parses a line of the guest.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let (device, reason) = line.strip_prefix("missing ")?.split_once(' ')?;
        Some(Self { device: device.to_owned(), reason: reason.to_owned() })
    }
}

/// Adds the programs that `devices` need to the guest.
pub(super) fn provide(
    options: &mut vm::Arguments,
    kernel: &Kernel,
    wanted: &dyn Fn(&str) -> bool,
) -> Vec<Missing> {
    let mut missing = Vec::new();
    let mut note = |devices: &[&str], provided: Result<()>| {
        if let Err(error) = provided {
            let reason = format!("{error:#}");
            let of = |device: &&str| Missing { device: (*device).to_owned(), reason: reason.clone() };
            missing.extend(devices.iter().map(of));
        }
    };
    let ublk = ["ublk-null", "ublk-loop"];
    if ublk.into_iter().any(wanted) {
        note(&ublk, provide_ublk(options, kernel));
    }
    if wanted("nbd") {
        note(&["nbd"], provide_nbd(options, kernel));
    }
    missing
}

fn provide_ublk(options: &mut vm::Arguments, kernel: &Kernel) -> Result<()> {
    require_module(kernel, "ublk_drv")?;
    let rublk = rublk()?;
    options.kernel_modules.push("ublk_drv".to_owned());
    options.files.push(("bin/rublk".to_owned(), rublk));
    Ok(())
}

fn provide_nbd(options: &mut vm::Arguments, kernel: &Kernel) -> Result<()> {
    require_module(kernel, "nbd")?;
    setup::install_packages(&NBD_PACKAGES)?;
    options.kernel_modules.push("nbd".to_owned());
    options.tools.extend(NBD_TOOLS.map(|(path, package)| (path.to_owned(), package.to_owned())));
    Ok(())
}

fn require_module(kernel: &Kernel, name: &str) -> Result<()> {
    modules::resolve(kernel, &[name]).map(|_| ()).with_context(|| format!("Linux {}", kernel.release))
}

/// The program `rublk`, statically linked like the guest's other programs.
fn rublk() -> Result<PathBuf> {
    let root = kernels::target().join("tools");
    let program = root.join("bin/rublk");
    let version = Command::new(&program).arg("--version").output();
    let wanted = format!("rublk {RUBLK}");
    if version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim() == wanted) {
        return Ok(program);
    }
    setup::install_packages(&RUBLK_PACKAGES).context("rublk cannot be built")?;
    println!("installing {wanted} into {}", root.display());
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(paths::root())
        // Its default feature stores data in a graphics card's memory, and needs that card's library.
        .args(["install", "rublk", "--version", RUBLK, "--locked", "--no-default-features", "--force"])
        .args(["--quiet", "--target", arch::host().guest_target, "--root"])
        .arg(&root)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static");
    let status = cargo.status().context("run cargo")?;
    ensure!(status.success(), "{wanted} did not install");
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_from_rows() {
        let missing = Missing::parse("missing nbd nbdkit is not in the guest").unwrap();
        assert_eq!((missing.device.as_str(), missing.reason.as_str()), ("nbd", "nbdkit is not in the guest"));
        assert_eq!(Missing::parse("nbd randread 4096 1 1 2 100 400"), None);
    }
}
