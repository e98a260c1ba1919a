// SPDX-License-Identifier: GPL-2.0-only
//! What submitters may rely on: which values a block may have when it is read, and which must be on the disk.
//!
//! Every write of a block has a value of its own; zeros are value 0. Times are numbers of steps. A read may bring any
//! value that no later write, finished before the read began, has replaced. A write that failed may take effect at
//! any time, however late. The disk must have values at least as new as what a flush, or a write that asked for it,
//! has made durable.
//!
//! When a server's cache is lost so are the values that were in nothing else: older ones show again, which is
//! allowed, but a flush that was sent after the lost write was answered must not succeed before one has failed.

/// A value that was written.
#[derive(Clone, Copy, Debug)]
struct Written {
    block: usize,
    began: u64,
    /// `u64::MAX` while it is under way, and when it failed.
    ended: u64,
    answered: bool,
}

/// What is known of one block.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// When the last write began that has ended well.
    floor: u64,
    /// The same of those that are durable.
    durable: u64,
    /// When zeros were written last, and how often they may be written yet: by what is under way, or failed.
    zeroed: u64,
    zeroing: u32,
}

/// The account of a disk.
#[derive(Debug)]
pub(crate) struct Account {
    written: Vec<Written>,
    known: Vec<Known>,
    /// What is lost, and nobody was told of.
    lost: Vec<Lost>,
}

/// What a block had is lost: the values of writes that began from `above` to `until`. It matters to flushes that began at
/// `after` or later, and rely on one of those. A flush that fails tells of those that it relies on.
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
    /// A disk of so many blocks, all zeros.
    #[must_use]
    pub(crate) fn new(blocks: usize) -> Self {
        let known = Known { zeroed: 1, ..Known::default() };
        let none = Written { block: usize::MAX, began: 0, ended: 0, answered: false };
        Self { written: vec![none], known: vec![known; blocks], lost: Vec::new() }
    }

    /// A write of a new value begins. Returns the value.
    pub(crate) fn write_begins(&mut self, block: usize, now: u64) -> u64 {
        self.written.push(Written { block, began: now, ended: u64::MAX, answered: false });
        self.written.len() as u64 - 1
    }

    fn get(&mut self, value: u64) -> Option<&mut Written> {
        self.written.get_mut(usize::try_from(value).ok()?)
    }

    /// It ended well; `durable` if it asked for that.
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

    /// Zeros may be written from now on.
    pub(crate) fn zero_begins(&mut self, block: usize) {
        self.known[block].zeroing += 1;
    }

    /// They are, by a request that began then; `None`: or not, which is for the server to decide.
    pub(crate) fn zero_ends(&mut self, block: usize, began: Option<u64>, now: u64) {
        let known = &mut self.known[block];
        known.zeroing -= 1;
        known.zeroed = now;
        known.floor = known.floor.max(began.unwrap_or(0));
    }

    /// What a reader, or a flush, that begins now relies on.
    #[must_use]
    pub(crate) fn floors(&self) -> Vec<u64> {
        self.known.iter().map(|known| known.floor).collect()
    }

    /// Whether the block may have this value for who relies on `floor`.
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

    /// A read brought these values.
    pub(crate) fn check_read(&self, first: usize, values: &[u64], floors: &[u64]) -> Result<(), String> {
        let mut blocks = first..;
        values.iter().try_for_each(|value| {
            let block = blocks.next().unwrap_or_default();
            self.allows(block, *value, floors[block])
        })
    }

    /// The disk as it is now must have all that is durable.
    pub(crate) fn check_disk(&self, disk: &[u64]) -> Result<(), String> {
        disk.iter().enumerate().try_for_each(|(block, value)| {
            self.allows(block, *value, self.known[block].durable).map_err(|error| format!("on disk, {error}"))
        })
    }

    /// A flush ended well that began then, with these floors.
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

    /// The block's value is lost with a cache: what is on the disk shows again.
    pub(crate) fn lose(&mut self, block: usize, shows: u64, now: u64) {
        let Known { zeroed, zeroing, floor, .. } = self.known[block];
        let above = match self.get(shows) {
            _ if shows == 0 && zeroing > 0 => u64::MAX,
            _ if shows == 0 => zeroed,
            Some(written) => written.ended,
            None => 0,
        };
        // Otherwise nobody relies on more than what shows.
        if floor >= above {
            self.lost.push(Lost { block, above, until: floor, after: 0 });
        }
        self.shows(block, shows, now);
    }

    /// A value whose answer ended just now is nowhere; something else shows. Whoever was told before could not rely on it.
    pub(crate) fn answered_lost(&mut self, block: usize, value: u64, shows: u64, now: u64) {
        // Zeros are not told apart, so they have no beginning.
        if let Some(Written { answered: true, began, .. }) = self.get(value).copied() {
            self.lost.push(Lost { block, above: began, until: began, after: now });
        }
        self.shows(block, shows, now);
    }

    /// An older value may show again.
    fn shows(&mut self, block: usize, value: u64, now: u64) {
        if value == 0 {
            let zeroed = &mut self.known[block].zeroed;
            *zeroed = now.max(*zeroed);
        } else if let Some(written) = self.get(value) {
            written.ended = now.max(written.ended);
        }
    }
}
