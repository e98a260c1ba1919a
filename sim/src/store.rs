// SPDX-License-Identifier: GPL-2.0-only
//! Where servers keep data: one disk, and caches that servers may share. A block is a value of the
//! account.

/// A cache: blocks that are not on the disk.
pub(crate) type Cache = Vec<Option<u64>>;

/// The disk and the caches.
#[derive(Debug)]
pub(crate) struct Store {
    /// The data that survives a power failure.
    pub(crate) disk: Vec<u64>,
    /// Caches by number.
    pub(crate) caches: Vec<Cache>,
    /// A process took the disk without the cache of the one before it, and the kernel does not know of the loss.
    pub(crate) unreported: bool,
}

impl Store {
    /// A store of zeros.
    #[must_use]
    pub(crate) fn new(blocks: usize) -> Self {
        Self { disk: vec![0; blocks], caches: Vec::new(), unreported: false }
    }

    /// Adds an empty cache. Returns its number.
    pub(crate) fn add_cache(&mut self) -> usize {
        self.caches.push(vec![None; self.disk.len()]);
        self.caches.len() - 1
    }

    /// The value of a block.
    #[must_use]
    pub(crate) fn read(&self, cache: usize, block: usize) -> u64 {
        self.caches[cache][block].unwrap_or(self.disk[block])
    }

    /// Writes a block into the cache, or through it to the disk.
    pub(crate) fn write(&mut self, cache: usize, block: usize, value: u64, through: bool) {
        if through {
            self.caches[cache][block] = None;
            self.disk[block] = value;
        } else {
            self.caches[cache][block] = Some(value);
        }
    }

    /// Writes the content of the cache to the disk.
    pub(crate) fn flush(&mut self, cache: usize) {
        for (disk, cached) in self.disk.iter_mut().zip(&mut self.caches[cache]) {
            if let Some(value) = cached.take() {
                *disk = value;
            }
        }
    }
}
