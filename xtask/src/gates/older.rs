// SPDX-License-Identifier: MIT OR Apache-2.0
//! Compiles the C part against headers that are made to look like those of kernels that cannot be had.
//!
//! Each [`ChangedHeaders`] changes a few lines of a header of a kernel that is there, and has the compiler include the
//! changed copy first. The gate checks that the probes notice the change, and that the C part compiles without a
//! warning. It shows that those branches of `kernel/compat` compile, and no more: no such kernel was booted.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use zosbd2_vm::kernels::{self, Kernel};

use super::Report;
use crate::toolchain::Toolchain;
use crate::{kmod, narrate, paths};

/// Headers that are changed to look like those of older kernels.
struct ChangedHeaders {
    /// The kernels whose headers look so.
    kernels: &'static str,
    /// The kernel whose headers are changed.
    base: &'static str,
    /// Each changed header, below `include/linux`; a header that another one includes comes first.
    headers: &'static [Header],
    /// What the probes must find.
    has: &'static [&'static str],
    /// What the probes must not find.
    lacks: &'static [&'static str],
}

/// A changed header: its name, and each text, which must occur, with what takes its place.
type Header = (&'static str, &'static [(&'static str, &'static str)]);

const CHANGED: [ChangedHeaders; 2] = [
    ChangedHeaders {
        kernels: "5.19",
        base: "6.1",
        headers: &[
            (
                "blkdev.h",
                &[("void put_disk(struct gendisk *disk);", "void blk_cleanup_disk(struct gendisk *disk);")],
            ),
            ("blk-mq.h", &[("(*timeout)(struct request *);", "(*timeout)(struct request *, bool);")]),
        ],
        has: &["TIMEOUT_RESERVED", "CLEANUP_DISK"],
        lacks: &["QUEUE_LIMITS_ARGUMENT"],
    },
    ChangedHeaders {
        kernels: "6.9 and 6.10",
        base: "6.12",
        headers: &[(
            "blkdev.h",
            &[
                ("blk_queue_write_cache(", "blk_queue_has_write_cache("),
                ("limits.features", "limits.other_features"),
                ("\tblk_features_t\t\tfeatures;", "\tblk_features_t\t\tother_features;"),
                (
                    "void put_disk(struct gendisk *disk);",
                    "void put_disk(struct gendisk *disk);\n\
                     void blk_queue_write_cache(struct request_queue *q, bool enabled, bool fua);\n\
                     #define QUEUE_FLAG_NONROT QUEUE_FLAG_MAX\n\
                     #define QUEUE_FLAG_ADD_RANDOM QUEUE_FLAG_MAX",
                ),
            ],
        )],
        has: &["QUEUE_LIMITS_ARGUMENT"],
        lacks: &["QUEUE_LIMITS_FEATURES"],
    },
];

/// Compiles against each set of changed headers whose base is in the cache. The others are reported.
pub(super) fn run(report: &mut Report) {
    for changed in &CHANGED {
        let base = changed.base.parse().and_then(kernels::find);
        match base {
            Ok(kernel) => report.gate("older headers", changed.kernels, compile(changed, &kernel)),
            Err(error) => report.skip("older headers", changed.kernels, error),
        }
    }
}

fn compile(set: &ChangedHeaders, kernel: &Kernel) -> Result<String> {
    let _doing =
        narrate::doing(format!("compiling the C part against headers like those of {}", set.kernels));
    let name = set.kernels.replace(' ', "-");
    let folder = paths::root().join("target/older").join(name);
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let mut first = String::new();
    for (name, changes) in set.headers {
        let changed = folder.join(name);
        fs::write(&changed, header(&kernel.headers, name, changes)?)
            .with_context(|| format!("write {}", changed.display()))?;
        let _infallible = write!(first, " -include {}", changed.display());
    }
    let variables = [
        format!("O={}", folder.display()),
        "VARIANT=shim".to_owned(),
        "ZOSBD2_RUST=none".to_owned(),
        "W=1".to_owned(),
        format!("KCFLAGS={first}"),
    ];
    kmod::make(&Toolchain::Host, &paths::root(), &kernel.headers, &variables)?;
    let probed = folder.join("compat/compat_probed.h");
    let probed = fs::read_to_string(&probed).with_context(|| format!("read {}", probed.display()))?;
    let found = |name: &&str| probed.lines().any(|line| line == format!("#define HAVE_{name} 1"));
    if let Some(missing) = set.has.iter().find(|name| !found(name)) {
        bail!("the probe {missing} does not notice the change");
    }
    if let Some(surplus) = set.lacks.iter().find(|name| found(name)) {
        bail!("the probe {surplus} compiles in spite of the change");
    }
    Ok(format!("compiles, with {}", set.has.join(", ")))
}

/// The changed text of a header.
fn header(headers: &Path, name: &str, changes: &[(&str, &str)]) -> Result<String> {
    // Debian's headers of one flavour leave the common ones in a folder beside them.
    let own = headers.join("include/linux").join(name);
    let path = if own.exists() { own } else { common(headers)?.join("include/linux").join(name) };
    let mut text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    for (from, to) in changes {
        ensure!(text.contains(from), "{} has no {from:?}: the gate must be adapted", path.display());
        text = text.replace(from, to);
    }
    Ok(text)
}

/// The folder of common headers that a flavour's Makefile includes.
fn common(headers: &Path) -> Result<PathBuf> {
    let sources = headers.parent().context("headers without a folder")?;
    for entry in fs::read_dir(sources).with_context(|| format!("read {}", sources.display()))? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with("-common") {
            return Ok(path);
        }
    }
    bail!("there are no common headers beside {}", headers.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use zosbd2_vm::kernels::KernelName;

    #[test]
    fn each_base_is_a_line_that_make_test_fetches() {
        for changed in &CHANGED {
            assert!(KernelName::STOCK.contains(&changed.base.parse().unwrap()), "{}", changed.base);
        }
    }
}
