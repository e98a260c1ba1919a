// SPDX-License-Identifier: MIT OR Apache-2.0
//! Installs packages in a copy of a system's image, before it boots: DKMS then compiles at this machine's speed.
//!
//! The image is mounted in a mount namespace, through a loop device, and apt runs in a chroot, without network.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::{command, narrate, setup};

/// IMAGE MOUNTPOINT DEB...
const INSTALL: &str = include_str!("chroot.sh");

/// A copy of the image in `folder`, with these packages.
pub(super) fn install(image: &Path, debs: &[PathBuf], folder: &Path) -> Result<PathBuf> {
    ensure!(setup::is_root(), "--install image needs root: it mounts the image");
    let _doing = narrate::doing("installing the packages in the image");
    let start = Instant::now();
    let copy = folder.join("root.img");
    command::finish(Command::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(image).arg(&copy))?;
    let mount = folder.join("mount");
    std::fs::create_dir_all(&mount).with_context(|| format!("create {}", mount.display()))?;
    let mut install = Command::new("unshare");
    install.args([
        "--mount",
        "--pid",
        "--fork",
        "--propagation",
        "private",
        "--",
        "sh",
        "-euc",
        INSTALL,
        "install",
    ]);
    install.arg(&copy).arg(&mount).args(debs);
    let output = command::finish(&mut install).context("install the packages in the image")?;
    std::fs::write(folder.join("install.log"), &output.stdout)?;
    println!(
        "system: {} packages installed in the image in {:.0} s",
        debs.len(),
        start.elapsed().as_secs_f64()
    );
    Ok(copy)
}
