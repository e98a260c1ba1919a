// SPDX-License-Identifier: MIT OR Apache-2.0
//! The volatile cache of a disk: blocks that were written and are not in the file yet.
//!
//! If a device outlives its servers, its cache must outlive them, too, as a disk's cache outlives the programs
//! that use the disk. Then the cache has a copy, which the next server finds. A power failure means that nobody
//! uses the copy.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Result;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::server::BLOCK;

#[derive(Debug, Default)]
pub(super) struct Cache {
    blocks: BTreeMap<u64, Vec<u8>>,
    copy: Option<Copy>,
}

/// All blocks at their offsets, followed by one byte per block that says whether the block is in the cache.
#[derive(Debug)]
struct Copy {
    file: File,
    marks: u64,
}

impl Cache {
    /// A cache with a copy in this file, which may be of an earlier server.
    pub(super) fn outliving(path: &Path, blocks: u64) -> Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let copy = Copy { file, marks: blocks * BLOCK };
        copy.file.set_len(copy.marks + blocks)?;
        let mut found = BTreeMap::new();
        for block in 0..blocks {
            let (mut mark, mut data) = ([0], vec![0; usize::try_from(BLOCK).expect("small")]);
            copy.file.read_exact_at(&mut mark, copy.marks + block)?;
            if mark != [0] {
                copy.file.read_exact_at(&mut data, block * BLOCK)?;
                found.insert(block, data);
            }
        }
        Ok(Self { blocks: found, copy: Some(copy) })
    }

    pub(super) fn get(&self, block: u64) -> Option<&[u8]> {
        self.blocks.get(&block).map(Vec::as_slice)
    }

    /// The blocks in the cache, in order.
    pub(super) fn list(&self) -> Vec<u64> {
        self.blocks.keys().copied().collect()
    }

    pub(super) fn put(&mut self, block: u64, data: &[u8]) -> Result<()> {
        if let Some(copy) = &self.copy {
            // Marked only when it is complete.
            copy.file.write_all_at(data, block * BLOCK)?;
            copy.file.write_all_at(&[1], copy.marks + block)?;
        }
        self.blocks.insert(block, data.to_vec());
        Ok(())
    }

    pub(super) fn forget(&mut self, block: u64) -> Result<()> {
        if let Some(copy) = &self.copy {
            copy.file.write_all_at(&[0], copy.marks + block)?;
        }
        self.blocks.remove(&block);
        Ok(())
    }
}
