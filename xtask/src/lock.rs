// SPDX-License-Identifier: MIT OR Apache-2.0
//! Locks of folders that only one command may use at a time.

use std::fs::{self, File, TryLockError};
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::narrate;

/// Takes the lock on the file `path`, which is created, until the returned file is dropped. If another command or
/// thread holds the lock, prints that this one waits for `holder`, such as "another build of the debug kernel". A
/// thread that holds a lock must not take it again.
pub(crate) fn lock(path: &Path, holder: &str) -> Result<File> {
    let folder = path.parent().context("a lock is in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("lock {}", path.display()));
        }
    }
    let waiting = format!("waiting for {holder}, which holds the lock {}", path.display());
    eprintln!("{waiting}");
    narrate::said();
    let _doing = narrate::doing(waiting);
    file.lock().with_context(|| format!("lock {}", path.display()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    #[test]
    fn the_second_waits_until_the_first_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/lock");
        let first = lock(&path, "nobody").unwrap();
        let (sender, receiver) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                let second = lock(&path, "the first").unwrap();
                sender.send(()).unwrap();
                drop(second);
            });
            assert!(receiver.recv_timeout(Duration::from_millis(200)).is_err(), "both hold the lock");
            drop(first);
            receiver.recv_timeout(Duration::from_secs(30)).expect("the lock was released");
        });
        drop(lock(&path, "nobody").unwrap());
    }

    #[test]
    fn a_lock_that_cannot_be_made_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = lock(&file.join("lock"), "nobody").unwrap_err();
        assert!(error.to_string().contains(&file.display().to_string()), "{error}");
        let error = lock(folder.path(), "nobody").unwrap_err();
        assert!(error.to_string().contains(&folder.path().display().to_string()), "{error}");
    }
}
