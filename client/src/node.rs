// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opens the control node, for both versions, and says what may be wrong if that fails.

use crate::{Errno, Error, Result};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use std::borrow::Cow;
use std::fs;
use std::path::Path;

const NOT_LOADED: &str = " (is the kernel module zosbd2 loaded?)";
const NOT_SIGNED: &str = " (is the kernel module zosbd2 loaded? This kernel loads only modules that are signed with a \
                          key it knows, as with Secure Boot: docs/building.md tells how to sign zosbd2.ko)";

const NOT_MADE: &str = " (the kernel module zosbd2 is loaded, but its node is not here: in a container or chroot, pass \
                        /dev/zosbd2ctl in)";
const NOT_ALLOWED: &str = " (only root may use zosbd2, are you root?)";
const NOT_ALLOWED_ROOT: &str =
    " (this process is root, but may not open the node: a container must allow this device)";

/// The node, opened for reading. The caller checks that it is the right one.
pub(crate) fn open(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|source| {
        let hint = match source {
            Errno::NOENT | Errno::NODEV | Errno::NXIO => missing(Path::new("/sys")),
            Errno::ACCESS | Errno::PERM if rustix::process::geteuid().is_root() => NOT_ALLOWED_ROOT,
            Errno::ACCESS | Errno::PERM => NOT_ALLOWED,
            _ => "",
        };
        Error::Open { path: path.to_owned(), hint: hint.into(), source }
    })
}

/// Why there is no node. `sys` is where sysfs is mounted.
fn missing(sys: &Path) -> &'static str {
    let names = |file: &str, words: &[&str]| {
        let text = fs::read_to_string(sys.join(file)).unwrap_or_default();
        words.iter().any(|word| text.contains(word))
    };
    if sys.join("module/zosbd2").exists() {
        return NOT_MADE;
    }
    let enforced = names("module/module/parameters/sig_enforce", &["Y"])
        || names("kernel/security/lockdown", &["[integrity]", "[confidentiality]"]);
    if enforced { NOT_SIGNED } else { NOT_LOADED }
}

/// The version of the loaded module, as far as sysfs tells.
pub(crate) fn module_version() -> Option<String> {
    let version = fs::read_to_string("/sys/module/zosbd2/version").ok()?;
    Some(version.trim().to_owned()).filter(|version| !version.is_empty())
}

/// What the user may do if the module does not know a call or a field: the versions of both sides.
pub(crate) fn older_module() -> Cow<'static, str> {
    let module = module_version().map_or_else(String::new, |version| format!(" {version}"));
    let own = env!("CARGO_PKG_VERSION");
    format!(" (the kernel module zosbd2{module} is older than this program, whose library is {own})").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loaded_module_without_a_node_is_not_called_missing() {
        let sys = tempfile::tempdir().expect("a folder");
        assert_eq!(missing(sys.path()), NOT_LOADED);
        fs::create_dir_all(sys.path().join("module/zosbd2")).expect("folders");
        assert_eq!(missing(sys.path()), NOT_MADE);
    }

    #[test]
    fn both_versions_are_named() {
        let said = older_module();
        assert!(
            said.contains("the kernel module zosbd2") && said.contains(env!("CARGO_PKG_VERSION")),
            "{said}"
        );
    }

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
