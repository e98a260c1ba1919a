// SPDX-License-Identifier: MIT OR Apache-2.0
//! A trace instance: buffers and events of its own, beside those of [`tracing`](super::tracing).

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::write_text;

/// A trace instance. Dropping the value removes it, and switches its events off.
#[derive(Debug)]
pub(super) struct Instance(PathBuf);

impl Instance {
    /// Makes the instance of this name, or takes the one that is there.
    pub(super) fn new(name: &str) -> Self {
        let path = Path::new("/sys/kernel/tracing/instances").join(name);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                panic!("make {}: {error}", path.display())
            }
            _ => Self(path),
        }
    }

    /// The folder of its files.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes one of its files.
    #[track_caller]
    pub(super) fn write(&self, file: &str, text: &str) {
        write_text(&self.0.join(file).to_string_lossy(), text);
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("remove {}: {error}", self.0.display());
        }
    }
}
