// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opens the control node, for both versions, and says what may be wrong if that fails.

use crate::{Errno, Error, Result};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use std::fs;
use std::path::Path;

const NOT_LOADED: &str = " (is the kernel module zosbd2 loaded?)";
const NOT_SIGNED: &str = " (is the kernel module zosbd2 loaded? This kernel loads only modules that are signed with a \
                          key it knows, as with Secure Boot: docs/building.md tells how to sign zosbd2.ko)";

/// The node, opened for reading. The caller checks that it is the right one.
pub(crate) fn open(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|source| {
        let hint = match source {
            Errno::NOENT | Errno::NODEV | Errno::NXIO => missing(Path::new("/sys")),
            Errno::ACCESS | Errno::PERM => " (only root may use zosbd2, are you root?)",
            _ => "",
        };
        Error::Open { path: path.to_owned(), hint, source }
    })
}

/// Why there is no node. `sys` is where sysfs is mounted.
fn missing(sys: &Path) -> &'static str {
    let names = |file: &str, words: &[&str]| {
        let text = fs::read_to_string(sys.join(file)).unwrap_or_default();
        words.iter().any(|word| text.contains(word))
    };
    let enforced = names("module/module/parameters/sig_enforce", &["Y"])
        || names("kernel/security/lockdown", &["[integrity]", "[confidentiality]"]);
    if enforced { NOT_SIGNED } else { NOT_LOADED }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_wants_signatures_is_recognised() {
        let sys = tempfile::tempdir().expect("a folder");
        let write = |file: &str, text: &str| {
            let path = sys.path().join(file);
            fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
            fs::write(path, text).expect("write");
        };
        assert_eq!(missing(sys.path()), NOT_LOADED);
        write("module/module/parameters/sig_enforce", "N\n");
        write("kernel/security/lockdown", "[none] integrity confidentiality\n");
        assert_eq!(missing(sys.path()), NOT_LOADED);
        write("kernel/security/lockdown", "none [integrity] confidentiality\n");
        assert_eq!(missing(sys.path()), NOT_SIGNED);
        write("kernel/security/lockdown", "[none] integrity confidentiality\n");
        write("module/module/parameters/sig_enforce", "Y\n");
        assert_eq!(missing(sys.path()), NOT_SIGNED);
    }
}
