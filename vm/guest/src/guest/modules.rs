// SPDX-License-Identifier: MIT OR Apache-2.0
//! Loading and unloading kernel modules.

use rustix::io::Errno;
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use zosbd2_vm_guest::protocol::{MODULE_LIST, MODULES};

/// From `asm-generic/fcntl.h`. Without it the kernel may wait for the last user of the module.
const O_NONBLOCK: i32 = 0o4000;

/// Whether the guest has this module of the kernel, loadable or built in.
pub(crate) fn available(name: &str) -> bool {
    files(name).is_some()
}

/// Loads a module of the kernel. The parameters go to that module, not to its dependencies.
#[track_caller]
pub(crate) fn load(name: &str, parameters: &str) {
    try_load(name, parameters).unwrap_or_else(|problem| panic!("{problem}"));
}

/// Like [`load`], or returns which file cannot be loaded, and why.
pub(crate) fn try_load(name: &str, parameters: &str) -> Result<(), String> {
    let files = files(name).ok_or_else(|| format!("the guest has no kernel module {name}"))?;
    for (index, file) in files.iter().enumerate() {
        let own = index + 1 == files.len();
        let path = format!("{MODULES}/{file}");
        match try_load_file(&path, if own { parameters } else { "" }) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(Errno::EXIST.raw_os_error()) => {}
            Err(error) => return Err(format!("load {path}: {error}")),
        }
    }
    Ok(())
}

/// The names of all modules of the kernel in the guest.
pub(crate) fn all_available() -> Vec<String> {
    let text = fs::read_to_string(MODULE_LIST).unwrap_or_default();
    text.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.to_owned()).collect()
}

/// Loads a module's file.
#[track_caller]
pub(crate) fn load_file(path: &str, parameters: &str) {
    try_load_file(path, parameters).unwrap_or_else(|error| panic!("load {path} {parameters}: {error}"));
}

/// Loads a module's file, or returns the kernel's error.
pub(crate) fn try_load_file(path: &str, parameters: &str) -> io::Result<()> {
    let file = File::open(path)?;
    let parameters = CString::new(parameters)?;
    rustix::system::finit_module(&file, &parameters, 0)?;
    Ok(())
}

/// Unloads a module, or returns the kernel's error.
pub(crate) fn try_unload(name: &str) -> io::Result<()> {
    let name = CString::new(name)?;
    rustix::system::delete_module(&name, O_NONBLOCK)?;
    Ok(())
}

/// Whether a module is loaded.
pub(crate) fn loaded(name: &str) -> bool {
    // Built-in modules have a folder, too, but no such file in it.
    Path::new("/sys/module").join(name).join("initstate").exists()
}

/// Loaded modules; a module comes before those it depends on.
pub(crate) fn all_loaded() -> Vec<String> {
    let text = fs::read_to_string("/proc/modules").unwrap_or_default();
    text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

fn files(name: &str) -> Option<Vec<String>> {
    let text = fs::read_to_string(MODULE_LIST).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.split_whitespace().map(str::to_owned).collect())
}
