// SPDX-License-Identifier: MIT OR Apache-2.0
//! What submitters may rely on, block by block, and whether a disk satisfies it.
//!
//! All words of a written block carry the seed, the block's number and a version. The versions of a block
//! increase, and only one thread writes it, so the check is "at least this version".

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::server::BLOCK;

/// Versions of one block; 0 is the initial content.
#[derive(Clone, Copy, Debug, Default)]
struct Versions {
    /// Newest version that was submitted.
    sent: u64,
    /// Newest version whose write succeeded.
    answered: u64,
    /// Newest version that is durable, by FUA or by a flush that began after the answer.
    durable: u64,
}

/// The account of all blocks.
#[derive(Debug)]
pub(super) struct Account {
    seed: u64,
    blocks: Mutex<Vec<Versions>>,
}

/// The answered versions at some time, which a flush submitted later covers.
pub(super) struct Covered(Vec<u64>);

/// Counts of a disk that satisfies the account.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kept {
    /// Blocks whose durable version is not 0.
    pub(super) durable: usize,
    /// Blocks whose answered version was not durable and is lost, which is allowed.
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

    /// The write of these blocks succeeded.
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

    /// The flush succeeded.
    pub(super) fn flushed(&self, covered: &Covered) {
        for (versions, answered) in self.blocks().iter_mut().zip(&covered.0) {
            versions.durable = versions.durable.max(*answered);
        }
    }

    /// Number of answers so far.
    pub(super) fn answers(&self) -> u64 {
        self.blocks().iter().map(|versions| versions.answered).sum()
    }

    /// Checks a disk. The error names the first wrong block.
    pub(super) fn check(&self, disk: &[u8]) -> Result<Kept, String> {
        let blocks = self.blocks();
        let mut kept = Kept::default();
        let size = usize::try_from(BLOCK).expect("small");
        if disk.len() != blocks.len() * size {
            return Err(format!("the disk has {} bytes", disk.len()));
        }
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

#[cfg(test)]
mod checks {
    use super::*;

    const SIZE: usize = 4096;

    /// Writes a block and stores it on the disk.
    fn write(account: &Account, disk: &mut [u8], block: u64) {
        let at = usize::try_from(block).unwrap() * SIZE;
        account.submit(block, 1, &mut disk[at..at + SIZE]);
        account.answered(block, 1, false);
    }

    /// Two blocks: the first has version 2, of which 1 is durable; the second has version 1, which is durable.
    fn written() -> (Account, [Vec<u8>; 3]) {
        let account = Account::new(7, 2);
        let mut disk = vec![0; 2 * SIZE];
        let empty = disk.clone();
        write(&account, &mut disk, 0);
        write(&account, &mut disk, 1);
        let durable = disk.clone();
        let covered = account.flush();
        // Too late for the flush.
        write(&account, &mut disk, 0);
        account.flushed(&covered);
        (account, [empty, durable, disk])
    }

    #[test]
    fn what_was_not_durable_may_be_lost() {
        let (account, [_, durable, newest]) = written();
        let counts = |disk: &[u8]| account.check(disk).map(|kept| (kept.durable, kept.forgotten));
        assert_eq!(counts(&newest), Ok((2, 0)));
        assert_eq!(counts(&durable), Ok((2, 1)));
    }

    #[test]
    fn what_was_durable_may_not() {
        let (account, [empty, durable, newest]) = written();
        account.check(&empty).unwrap_err();
        for block in 0..2 {
            let mut lost = newest.clone();
            lost[block * SIZE..][..SIZE].fill(0);
            let complaint = account.check(&lost).unwrap_err();
            assert!(complaint.contains(&format!("block {block} has version 0")), "{complaint}");
        }
        // FUA: the answer alone makes the version durable.
        account.answered(0, 1, true);
        account.check(&durable).unwrap_err();
        account.check(&newest).unwrap();
    }

    #[test]
    fn nothing_is_there_that_was_not_written() {
        let (account, [_, durable, newest]) = written();
        let complaint = |disk: &[u8]| account.check(disk).unwrap_err();
        // Half of one version, half of another; half of it missing; one word wrong.
        // Each third word is the version; the first and the last of them tell the versions apart.
        for edge in [24, 512, 2048, SIZE - 24] {
            let torn = [&newest[..edge], &durable[edge..]].concat();
            assert!(complaint(&torn).contains("torn"), "torn at {edge}");
            let mut gone = newest.clone();
            gone[edge..SIZE].fill(0);
            assert!(complaint(&gone).contains("torn"), "gone from {edge}");
        }
        let mut wrong = newest.clone();
        wrong[SIZE - 1] ^= 1;
        assert!(complaint(&wrong).contains("torn"));
        // A block in the wrong place, of another run, or of a future version, and a disk that is too short.
        let elsewhere = [&newest[..SIZE], &newest[..SIZE]].concat();
        assert!(complaint(&elsewhere).contains("block 1 is torn"));
        let (other, mut foreign) = (Account::new(8, 2), newest.clone());
        write(&other, &mut foreign, 0);
        assert!(complaint(&foreign).contains("torn"));
        let mut future = newest.clone();
        Account::new(7, 2).stamp(0, 3).zip(&mut future).for_each(|(byte, place)| *place = byte);
        assert!(complaint(&future).contains("block 0 has version 3"));
        assert!(complaint(&newest[..SIZE]).contains("4096 bytes"));
    }
}
