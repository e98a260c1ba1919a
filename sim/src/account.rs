// SPDX-License-Identifier: GPL-2.0-only
//! What submitters may rely on: which values a read of a block may return, and which values must be on the
//! disk.
//!
//! Every write of a block has its own value; zeros are value 0. Times are numbers of steps. A read may return
//! any value that no later write, ended before the read began, has replaced. A failed write may take effect
//! at any time, however late. The disk must have values at least as new as those that a flush, or a FUA
//! write, has made durable.
//!
//! When a server's cache is lost, values that were only in the cache are lost, and older values are visible
//! again. That is allowed, but a flush that was sent after the lost write was answered must not succeed
//! before one has failed.

/// A written value.
#[derive(Clone, Copy, Debug)]
struct Written {
    block: usize,
    began: u64,
    /// `u64::MAX` while the write is in flight, and after it failed.
    ended: u64,
    answered: bool,
}

/// The known facts about one block.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// When the newest successful write began.
    floor: u64,
    /// When the newest durable write began.
    durable: u64,
    /// When zeros were last written, and how many requests may still write zeros: those in flight, or failed.
    zeroed: u64,
    zeroing: u32,
}

/// The account of a disk.
#[derive(Debug)]
pub(crate) struct Account {
    written: Vec<Written>,
    known: Vec<Known>,
    /// Losses that no flush has reported.
    lost: Vec<Lost>,
}

/// A block lost the values of writes that began from `above` to `until`. The loss concerns flushes that began
/// at `after` or later and rely on one of these values. A failed flush reports the losses on which it relies.
#[derive(Clone, Copy, Debug)]
struct Lost {
    block: usize,
    above: u64,
    until: u64,
    after: u64,
}

impl Lost {
    fn matters(&self, floors: &[u64], began: u64) -> bool {
        floors[self.block] >= self.above && began >= self.after
    }
}

impl Account {
    /// The account of a disk with this many zeroed blocks.
    #[must_use]
    pub(crate) fn new(blocks: usize) -> Self {
        let known = Known { zeroed: 1, ..Known::default() };
        let none = Written { block: usize::MAX, began: 0, ended: 0, answered: false };
        Self { written: vec![none], known: vec![known; blocks], lost: Vec::new() }
    }

    /// Begins a write of a new value. Returns the value.
    pub(crate) fn write_begins(&mut self, block: usize, now: u64) -> u64 {
        self.written.push(Written { block, began: now, ended: u64::MAX, answered: false });
        self.written.len() as u64 - 1
    }

    fn get(&mut self, value: u64) -> Option<&mut Written> {
        self.written.get_mut(usize::try_from(value).ok()?)
    }

    /// The write succeeded; `durable` if it was a FUA write.
    pub(crate) fn write_ends(&mut self, value: u64, now: u64, durable: bool) {
        let Some(written) = self.get(value) else { return };
        written.ended = now;
        written.answered = true;
        let Written { block, began, .. } = *written;
        let known = &mut self.known[block];
        known.floor = known.floor.max(began);
        if durable {
            known.durable = known.durable.max(began);
        }
    }

    /// From now on a request may write zeros.
    pub(crate) fn zero_begins(&mut self, block: usize) {
        self.known[block].zeroing += 1;
    }

    /// A request that began at step `began` has written zeros. `None`: the server may or may not have written
    /// them.
    pub(crate) fn zero_ends(&mut self, block: usize, began: Option<u64>, now: u64) {
        let known = &mut self.known[block];
        known.zeroing -= 1;
        known.zeroed = now;
        known.floor = known.floor.max(began.unwrap_or(0));
    }

    /// The values on which a read or flush that begins now relies.
    #[must_use]
    pub(crate) fn floors(&self) -> Vec<u64> {
        self.known.iter().map(|known| known.floor).collect()
    }

    /// Whether a reader that relies on `floor` may see this value of the block.
    fn allows(&self, block: usize, value: u64, floor: u64) -> Result<(), String> {
        if value == 0 {
            let Known { zeroed, zeroing, .. } = self.known[block];
            return if zeroing > 0 || zeroed > floor {
                Ok(())
            } else {
                Err(format!("block {block} is zero, as before step {zeroed}; step {floor} counts"))
            };
        }
        let written = usize::try_from(value).ok().and_then(|value| self.written.get(value));
        match written {
            Some(written) if written.block == block && written.ended > floor => Ok(()),
            Some(written) => {
                Err(format!("block {block} has value {value}, {written:?}, but step {floor} counts"))
            }
            None => Err(format!("block {block} has value {value}, which nobody wrote")),
        }
    }

    /// Checks the values that a read returned.
    pub(crate) fn check_read(&self, first: usize, values: &[u64], floors: &[u64]) -> Result<(), String> {
        let mut blocks = first..;
        values.iter().try_for_each(|value| {
            let block = blocks.next().unwrap_or_default();
            self.allows(block, *value, floors[block])
        })
    }

    /// Checks that the disk has all durable values.
    pub(crate) fn check_disk(&self, disk: &[u64]) -> Result<(), String> {
        disk.iter().enumerate().try_for_each(|(block, value)| {
            self.allows(block, *value, self.known[block].durable).map_err(|error| format!("on disk, {error}"))
        })
    }

    /// A flush that began then, with these floors, succeeded.
    pub(crate) fn flushed(&mut self, floors: &[u64], began: u64) -> Result<(), String> {
        if let Some(lost) = self.lost.iter().find(|lost| lost.matters(floors, began)) {
            return Err(format!("a flush of step {began} succeeded, but {lost:?}, and nobody was told"));
        }
        for (known, floor) in self.known.iter_mut().zip(floors) {
            known.durable = known.durable.max(*floor);
        }
        Ok(())
    }

    /// A flush that began then, with these floors, failed because writes were lost.
    pub(crate) fn told(&mut self, floors: &[u64], began: u64) {
        for lost in self.lost.iter_mut().filter(|lost| lost.matters(floors, began)) {
            lost.above = floors[lost.block] + 1;
        }
        self.lost.retain(|lost| lost.above <= lost.until);
    }

    /// The block's value is lost with a cache: the value on the disk is visible again.
    pub(crate) fn lose(&mut self, block: usize, shows: u64, now: u64) {
        let Known { zeroed, zeroing, floor, .. } = self.known[block];
        let above = match self.get(shows) {
            _ if shows == 0 && zeroing > 0 => u64::MAX,
            _ if shows == 0 => zeroed,
            Some(written) => written.ended,
            None => 0,
        };
        // Otherwise readers rely on nothing newer than the visible value.
        if floor >= above {
            self.lost.push(Lost { block, above, until: floor, after: 0 });
        }
        self.shows(block, shows, now);
    }

    /// An answered write, which just ended, is stored nowhere, and another value is visible. Requests that
    /// ended before could not rely on it.
    pub(crate) fn answered_lost(&mut self, block: usize, value: u64, shows: u64, now: u64) {
        // Zeros have no values of their own, so their beginning is unknown.
        if let Some(Written { answered: true, began, .. }) = self.get(value).copied() {
            self.lost.push(Lost { block, above: began, until: began, after: now });
        }
        self.shows(block, shows, now);
    }

    /// An older value may be visible again.
    fn shows(&mut self, block: usize, value: u64, now: u64) {
        if value == 0 {
            let zeroed = &mut self.known[block].zeroed;
            *zeroed = now.max(*zeroed);
        } else if let Some(written) = self.get(value) {
            written.ended = now.max(written.ended);
        }
    }
}
