// SPDX-License-Identifier: MIT OR Apache-2.0
//! The conformance suite: tests that every backend must pass.
//!
//! A [`Target`] is a backend that the suite calls directly ([`Direct`]), or a block device ([`Disk`]). [`run_backend`], [`run_async`],
//! [`run_requests`] and [`run_served`] serve a backend in a kernel in memory ([`zosbd2::testing`]). The suite
//! overwrites the data of the target. It stops at the first failed check and reports it. A check that does
//! not apply to a target is reported as skipped.
//!
//! ```
//! use zosbd2_backends::{Ram, conformance};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let ram = Ram::new(64 << 20)?;
//! let report = conformance::run(&conformance::Direct::new(&ram), 42)?;
//! assert!(report.iter().all(|check| check.skipped.is_none()));
//! # Ok(())
//! # }
//! ```

mod disk;
mod hosted;
mod target;

pub use disk::{Disk, DiskError};
pub use hosted::{run_async, run_backend, run_requests, run_served};
pub use target::{Direct, Target};

use zosbd2::Errno;

/// A defect of a target.
#[derive(Debug, thiserror::Error)]
#[error("{check}: {problem} (seed {seed})")]
pub struct Failure {
    /// The failed check.
    pub check: &'static str,
    /// What the target did wrong.
    pub problem: String,
    /// The seed of the run.
    pub seed: u64,
}

/// A check that was made or skipped.
#[derive(Clone, Debug)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// Why it was skipped; `None` if it was made.
    pub skipped: Option<&'static str>,
}

/// Result of a check: `Ok(Some(why))` if it does not apply.
type Outcome = Result<Option<&'static str>, String>;
/// A name and its value.
type Entry<'a, T> = (&'static str, fn(&mut Suite<'a, T>) -> Outcome);

/// Most bytes that the suite works on, at the start of the target. It also works on the last block.
const AREA: u64 = 16 << 20;
/// Blocks of the smallest target.
const MIN_BLOCKS: u64 = 64;
/// Threads that work at the same time.
const THREADS: u64 = 4;
/// Operations of the random part.
const RANDOM_OPERATIONS: usize = 1000;

/// Runs all checks. The same seed gives the same operations.
///
/// # Errors
///
/// The first failure.
pub fn run<T: Target>(target: &T, seed: u64) -> Result<Vec<Check>, Failure> {
    run_each(target, seed, &mut |_| ())
}

/// Like [`run`], and calls `each` after each check that was made or skipped.
///
/// # Errors
///
/// The first failure.
pub fn run_each<'a, T: Target>(
    target: &'a T,
    seed: u64,
    each: &mut dyn FnMut(&Check),
) -> Result<Vec<Check>, Failure> {
    let checks: [Entry<'a, T>; 12] = [
        ("geometry", Suite::geometry),
        ("what_is_written_is_read", Suite::what_is_written_is_read),
        ("both_ends", Suite::both_ends),
        ("neighbours_are_left_alone", Suite::neighbours_are_left_alone),
        ("every_length", Suite::every_length),
        ("largest_request", Suite::largest_request),
        ("fua_and_flush", Suite::fua_and_flush),
        ("write_zeroes", Suite::write_zeroes),
        ("discard", Suite::discard),
        ("outside", Suite::outside),
        ("threads", Suite::threads),
        ("random", Suite::random),
    ];
    let mut suite = Suite { target, random: Random(seed), block: 0, size: 0 };
    let mut report = Vec::new();
    for (name, check) in checks {
        let skipped = check(&mut suite).map_err(|problem| Failure { check: name, problem, seed })?;
        let done = Check { name, skipped };
        each(&done);
        report.push(done);
    }
    Ok(report)
}

struct Suite<'a, T> {
    target: &'a T,
    random: Random,
    block: u64,
    size: u64,
}

const READ_ONLY: Option<&str> = Some("it is read-only");

impl<T: Target> Suite<'_, T> {
    fn geometry(&mut self) -> Outcome {
        self.size = self.target.size();
        self.block = self.target.block_size().into();
        if !self.block.is_power_of_two() || !(512..=4096).contains(&self.block) {
            return Err(format!("logical block size {}", self.block));
        }
        if self.size % self.block != 0 {
            return Err(format!("size {} is not a multiple of the block size {}", self.size, self.block));
        }
        if self.size < MIN_BLOCKS * self.block {
            return Err(format!("size {} is less than {MIN_BLOCKS} blocks of {}", self.size, self.block));
        }
        Ok(None)
    }

    fn what_is_written_is_read(&mut self) -> Outcome {
        if self.target.read_only() {
            return Ok(READ_ONLY);
        }
        let blocks = self.area() / self.block;
        for _ in 0..64 {
            let offset = self.random.below(blocks) * self.block;
            let data = self.random.bytes(self.block);
            self.write(offset, &data)?;
            self.expect(offset, &data)?;
            // Write over it again.
            let data = self.random.bytes(self.block);
            self.write(offset, &data)?;
            self.expect(offset, &data)?;
        }
        Ok(None)
    }

    fn both_ends(&mut self) -> Outcome {
        if self.target.read_only() {
            self.read(0, self.block)?;
            self.read(self.size - self.block, self.block)?;
            return Ok(None);
        }
        let (first, last) = (self.random.bytes(self.block), self.random.bytes(self.block));
        self.write(0, &first)?;
        self.write(self.size - self.block, &last)?;
        self.expect(0, &first)?;
        self.expect(self.size - self.block, &last)?;
        Ok(None)
    }

    fn neighbours_are_left_alone(&mut self) -> Outcome {
        if self.target.read_only() {
            return Ok(READ_ONLY);
        }
        let around = self.random.bytes(16 * self.block);
        self.write(0, &around)?;
        let inner = self.random.bytes(3 * self.block);
        self.write(5 * self.block, &inner)?;
        let mut wanted = around;
        let at = index(5 * self.block);
        wanted[at..at + inner.len()].copy_from_slice(&inner);
        self.expect(0, &wanted)?;
        Ok(None)
    }

    fn every_length(&mut self) -> Outcome {
        if self.target.read_only() {
            return Ok(READ_ONLY);
        }
        let most = (self.area() / self.block).min(80);
        for blocks in 1..=most {
            let offset = self.random.below(self.area() / self.block - blocks + 1) * self.block;
            let data = self.random.bytes(blocks * self.block);
            self.write(offset, &data)?;
            self.expect(offset, &data)?;
        }
        Ok(None)
    }

    fn largest_request(&mut self) -> Outcome {
        if self.target.read_only() {
            return Ok(READ_ONLY);
        }
        let length = (4 << 20).min(self.area());
        let data = self.random.bytes(length);
        self.write(0, &data)?;
        self.expect(0, &data)?;
        Ok(None)
    }

    fn fua_and_flush(&mut self) -> Outcome {
        if self.target.read_only() {
            return Ok(READ_ONLY);
        }
        let data = self.random.bytes(2 * self.block);
        self.target.write(0, &data, true).map_err(failed("write with FUA", 0, data.len()))?;
        self.expect(0, &data)?;
        let data = self.random.bytes(self.block);
        self.write(self.block, &data)?;
        self.target.flush().map_err(failed("flush", 0, 0))?;
        self.expect(self.block, &data)?;
        Ok(None)
    }

    fn write_zeroes(&mut self) -> Outcome {
        if self.target.read_only() {
            return Ok(READ_ONLY);
        }
        if !self.target.can_write_zeroes() {
            return Ok(Some("it has no write-zeroes"));
        }
        for unmap in [false, true] {
            self.clear(|target, offset, length| target.write_zeroes(offset, length, unmap), true)?;
        }
        Ok(None)
    }

    fn discard(&mut self) -> Outcome {
        if self.target.read_only() {
            return Ok(READ_ONLY);
        }
        if !self.target.can_discard() {
            return Ok(Some("it has no discard"));
        }
        self.clear(T::discard, false)?;
        Ok(None)
    }

    /// Clears ranges of several sizes. Bytes around a range must stay. The range must read as zeros if
    /// `zeros` is set, and must be readable and writable in any case.
    fn clear(
        &mut self,
        clear: impl Fn(&T, u64, u64) -> Result<(), Errno>,
        zeros: bool,
    ) -> Result<(), String> {
        let block = self.block;
        let around = self.random.bytes((8 << 20).min(self.area() / 2) / block * block);
        for (start, blocks) in [(1, 1), (8, 8), (3, 17), (100, 2048), (0, 4096 / block + 1)] {
            let (offset, length) = (start * block, blocks * block);
            if offset + length > around.len() as u64 {
                continue;
            }
            self.write(0, &around)?;
            clear(self.target, offset, length).map_err(failed("clear", offset, index(length)))?;
            let (from, to) = (index(offset), index(offset + length));
            self.expect(0, &around[..from])?;
            self.expect(offset + length, &around[to..])?;
            let read = self.read(offset, length)?;
            if zeros && read.iter().any(|byte| *byte != 0) {
                return Err(format!("{length} bytes at {offset} do not read as zeros"));
            }
            self.write(offset, &around[from..to])?;
            self.expect(0, &around)?;
        }
        Ok(())
    }

    fn outside(&mut self) -> Outcome {
        if !self.target.sees_the_outside() {
            return Ok(Some("the block layer refuses requests outside the device"));
        }
        let mut buffer = vec![0; index(2 * self.block)];
        for offset in [self.size - self.block, self.size, u64::MAX - 2 * self.block + 1] {
            if self.target.read(offset, &mut buffer).is_ok() {
                return Err(format!("a read at {offset} was not refused, beyond the size of {}", self.size));
            }
            if !self.target.read_only() && self.target.write(offset, &buffer, false).is_ok() {
                return Err(format!("a write at {offset} was not refused, beyond the size of {}", self.size));
            }
        }
        if self.target.size() != self.size {
            return Err("a write outside changed the size".to_owned());
        }
        Ok(None)
    }

    /// Several threads, each in its own part, at once.
    fn threads(&mut self) -> Outcome {
        if self.target.read_only() {
            return Ok(READ_ONLY);
        }
        if !self.target.any_thread() {
            return Ok(Some("it allows only one thread"));
        }
        let part = self.area() / THREADS / self.block * self.block;
        let (target, block) = (self.target, self.block);
        let seeds: Vec<u64> = (0..THREADS).map(|_| self.random.next()).collect();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .zip(seeds)
                .map(|(index, seed)| {
                    scope.spawn(move || -> Result<(), String> {
                        let mut own = Suite { target, random: Random(seed), block, size: 0 };
                        for _ in 0..64 {
                            let blocks = own.random.below((part / block).min(16)) + 1;
                            let offset = index * part + own.random.below(part / block - blocks + 1) * block;
                            let data = own.random.bytes(blocks * block);
                            own.write(offset, &data)?;
                            own.expect(offset, &data)?;
                        }
                        Ok(())
                    })
                })
                .collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().unwrap_or_else(|_| Err("it panicked".to_owned())))
        })?;
        Ok(None)
    }

    /// Random operations against a model that knows the required content of each block, if there is one.
    fn random(&mut self) -> Outcome {
        if self.target.read_only() {
            return Ok(READ_ONLY);
        }
        let blocks = (self.area() / self.block).min(2048);
        let zeros = vec![0_u8; index(blocks * self.block)];
        self.write(0, &zeros)?;
        let mut model = zeros;
        let mut known = vec![true; index(blocks)];
        for _ in 0..RANDOM_OPERATIONS {
            let count = self.random.below(32.min(blocks)) + 1;
            let start = self.random.below(blocks - count + 1);
            let (offset, length) = (start * self.block, count * self.block);
            let range = index(offset)..index(offset + length);
            let places = index(start)..index(start + count);
            match self.random.below(10) {
                0..=3 => {
                    let data = self.random.bytes(length);
                    let fua = self.random.below(8) == 0;
                    self.target.write(offset, &data, fua).map_err(failed("write", offset, data.len()))?;
                    model[range].copy_from_slice(&data);
                    known[places].fill(true);
                }
                4 if self.target.can_write_zeroes() => {
                    let unmap = self.random.below(2) == 0;
                    let written = self.target.write_zeroes(offset, length, unmap);
                    written.map_err(failed("write zeroes", offset, index(length)))?;
                    model[range].fill(0);
                    known[places].fill(true);
                }
                5 if self.target.can_discard() => {
                    self.target.discard(offset, length).map_err(failed("discard", offset, index(length)))?;
                    known[places].fill(false);
                }
                6 => self.target.flush().map_err(failed("flush", 0, 0))?,
                _ => {
                    let read = self.read(offset, length)?;
                    let unit = index(self.block);
                    let blocks = read.chunks(unit).zip(model[range].chunks(unit)).zip(&known[places]);
                    for (number, ((read, wanted), known)) in (start..).zip(blocks) {
                        if *known && read != wanted {
                            return Err(format!("block {number} does not hold what was written last"));
                        }
                    }
                }
            }
        }
        Ok(None)
    }

    /// Bytes to work on: a multiple of the block, without the last block.
    fn area(&self) -> u64 {
        AREA.min(self.size - self.block) / self.block * self.block
    }

    fn read(&self, offset: u64, length: u64) -> Result<Vec<u8>, String> {
        // Not zeros, so that unfilled bytes are noticed.
        let mut buffer = vec![0xa5; index(length)];
        self.target.read(offset, &mut buffer).map_err(failed("read", offset, buffer.len()))?;
        Ok(buffer)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), String> {
        self.target.write(offset, data, false).map_err(failed("write", offset, data.len()))
    }

    fn expect(&self, offset: u64, wanted: &[u8]) -> Result<(), String> {
        let read = self.read(offset, wanted.len() as u64)?;
        match read.iter().zip(wanted).position(|(read, wanted)| read != wanted) {
            None => Ok(()),
            Some(place) => Err(format!(
                "byte {place} of {} at {offset} is {:#04x}, not {:#04x}",
                wanted.len(),
                read[place],
                wanted[place]
            )),
        }
    }
}

fn failed(operation: &'static str, offset: u64, length: usize) -> impl Fn(Errno) -> String {
    move |errno| format!("{operation} of {length} bytes at {offset}: {errno}")
}

/// All ranges of the suite are within 16 MiB.
fn index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("fits the address space")
}

/// `SplitMix64`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn bytes(&mut self, length: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(index(length) + 8);
        while bytes.len() < index(length) {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(index(length));
        bytes
    }
}
