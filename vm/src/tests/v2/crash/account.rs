// SPDX-License-Identifier: MIT OR Apache-2.0
//! What submitters may rely on, block by block, and whether a disk keeps to it.
//!
//! Every block that is written carries the seed, its own number and a version, in all of its words. Versions of a
//! block go up, and one thread writes it, so "at least this version" is all there is to demand.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::server::BLOCK;

/// Versions of one block; 0 is what was there before.
#[derive(Clone, Copy, Debug, Default)]
struct Versions {
    /// Last one that was submitted.
    sent: u64,
    /// Last one whose write was answered well.
    answered: u64,
    /// Last one that FUA, or a flush that began after the answer, has made durable.
    durable: u64,
}

/// The account of all blocks.
#[derive(Debug)]
pub(super) struct Account {
    seed: u64,
    blocks: Mutex<Vec<Versions>>,
}

/// The answers of a moment, which a flush that is submitted after it covers.
pub(super) struct Covered(Vec<u64>);

/// What a disk has that is as it should be.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Blocks whose durable version is not 0.
    pub(super) durable: usize,
    /// Blocks whose answered, not durable version is lost, as it may be.
    pub(super) forgotten: usize,
}

impl Account {
    pub(super) fn new(seed: u64, blocks: u64) -> Self {
        let blocks = vec![Versions::default(); usize::try_from(blocks).expect("small")];
        Self { seed, blocks: Mutex::new(blocks) }
    }

    fn blocks(&self) -> MutexGuard<'_, Vec<Versions>> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stamp(&self, block: u64, version: u64) -> impl Iterator<Item = u8> {
        let words = [self.seed, block, version];
        (0..BLOCK / 8).flat_map(move |at| words[usize::try_from(at % 3).expect("small")].to_le_bytes())
    }

    /// Begins to write `count` blocks: fills `data` with their next versions.
    pub(super) fn submit(&self, first: u64, count: u64, data: &mut [u8]) {
        let mut blocks = self.blocks();
        let mut places = data.iter_mut();
        for block in first..first + count {
            let versions = &mut blocks[usize::try_from(block).expect("small")];
            versions.sent += 1;
            for (byte, place) in self.stamp(block, versions.sent).zip(places.by_ref()) {
                *place = byte;
            }
        }
    }

    /// The write of these blocks was answered well.
    pub(super) fn answered(&self, first: u64, count: u64, durable: bool) {
        let mut blocks = self.blocks();
        for block in first..first + count {
            let versions = &mut blocks[usize::try_from(block).expect("small")];
            versions.answered = versions.sent;
            if durable {
                versions.durable = versions.sent;
            }
        }
    }

    /// Called before a flush is submitted.
    pub(super) fn flush(&self) -> Covered {
        Covered(self.blocks().iter().map(|versions| versions.answered).collect())
    }

    /// The flush was answered well.
    pub(super) fn flushed(&self, covered: &Covered) {
        for (versions, answered) in self.blocks().iter_mut().zip(&covered.0) {
            versions.durable = versions.durable.max(*answered);
        }
    }

    /// Answers so far.
    pub(super) fn answers(&self) -> u64 {
        self.blocks().iter().map(|versions| versions.answered).sum()
    }

    /// Looks at a disk; the error names the first block that is not as it must be.
    pub(super) fn check(&self, disk: &[u8]) -> Result<Kept, String> {
        let blocks = self.blocks();
        let mut kept = Kept::default();
        let size = usize::try_from(BLOCK).expect("small");
        for ((number, versions), data) in (0..).zip(blocks.iter()).zip(disk.chunks(size)) {
            let version = if data.iter().all(|byte| *byte == 0) {
                0
            } else {
                let found = u64::from_le_bytes(data[16..24].try_into().expect("8 bytes"));
                if !self.stamp(number, found).eq(data.iter().copied()) {
                    return Err(format!("block {number} is torn, or of another place: {:x?}", &data[..32]));
                }
                found
            };
            if !(versions.durable..=versions.sent).contains(&version) {
                return Err(format!("block {number} has version {version}: {versions:?}"));
            }
            kept.durable += usize::from(versions.durable != 0);
            kept.forgotten += usize::from(version < versions.answered);
        }
        Ok(kept)
    }
}
