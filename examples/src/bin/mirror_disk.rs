// SPDX-License-Identifier: MIT OR Apache-2.0
//! The disk /dev/zosbd2-mirror, until Ctrl-C: two files with the same bytes, one of which may fail.
//!
//!     mirror_disk create MIB ONE OTHER    makes two files
//!     mirror_disk ONE OTHER               serves them
//!     mirror_disk alone ONE               serves one, on your word that the other one is lost
//!
//! The last block of each leg has a record: the mirror, its size, a generation, and whether the leg is the only one
//! that has everything. Before a write that a leg missed is answered, the record of the other leg says that it is alone.
//! So a leg that missed a write is never read, after a restart either: it gets a copy of the other one at the
//! start, before the disk is served. So does a leg without a record, if the other leg is alone: a file or device that
//! ends with zeros replaces a lost leg.
//!
//! After a crash the legs may differ in writes that were not flushed, so the second leg gets a copy of the first one then,
//! too. A server that is killed and started again makes I/O wait for that copy: give a big mirror a long grace.
//! A crash together with a first leg that can no longer be read is too much for this mirror.

use Found::{Blank, Missing};
use anyhow::{Context as _, Result, bail, ensure};
use std::cmp::Ordering::{Equal, Greater, Less};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use zosbd2::{Backend, Builder, Capabilities, Errno};
use zosbd2_backends::{FileDisk, FileError, FileOptions};

/// Bytes at the end of a leg, for the record.
const TAIL: usize = 4096;
const PIECE: usize = 1 << 20;
const MAGIC: &[u8; 8] = b"zmirror1";

/// The last block of a leg.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Record {
    /// Tells mirrors apart.
    mirror: u64,
    /// Bytes of the disk.
    size: u64,
    /// Grows whenever the legs that have everything change.
    generation: u64,
    /// The other leg has missed writes.
    alone: bool,
    /// The mirror is being served, or its server has died.
    open: bool,
}

impl Record {
    /// Only the first sector is not zeros, and disks write a sector as a whole.
    fn to_bytes(self) -> [u8; TAIL] {
        let mut bytes = [0; TAIL];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&self.mirror.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.size.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.generation.to_le_bytes());
        bytes[32..34].copy_from_slice(&[self.alone.into(), self.open.into()]);
        bytes
    }

    /// `None` if there is no record.
    fn from_bytes(bytes: &[u8; TAIL]) -> Result<Option<Self>> {
        let number = |at| u64::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]));
        let (alone, open) = (bytes[32] == 1, bytes[33] == 1);
        let record = Self { mirror: number(8), size: number(16), generation: number(24), alone, open };
        match bytes {
            _ if *bytes == record.to_bytes() => Ok(Some(record)),
            _ if bytes.iter().all(|byte| *byte == 0) => Ok(None),
            _ => bail!("no leg of a mirror: its last 4096 bytes have something else"),
        }
    }
}

/// What is found of a leg.
#[derive(Clone, Copy, Debug)]
enum Found {
    Missing,
    /// It has no record.
    Blank,
    Leg(Record),
}

/// How a mirror begins.
#[derive(Debug, PartialEq, Eq)]
enum Start {
    /// Both legs have everything.
    Both,
    /// The leg has everything, and the other one gets a copy.
    CopyFrom(usize),
    /// The leg has everything, and the other one is missing.
    Alone(usize),
}

/// Decides by the records.
fn decide(legs: [Found; 2]) -> Result<Start> {
    match legs {
        [Found::Leg(one), Found::Leg(other)] => {
            ensure!(one.mirror == other.mirror, "the legs are of different mirrors");
            ensure!(
                !(one.alone && other.alone),
                "each leg was used without the other one: decide, and fill the last 4096 bytes of one with zeros"
            );
            Ok(match one.generation.cmp(&other.generation) {
                Less => Start::CopyFrom(1),
                Equal if !one.open && !other.open => Start::Both,
                Equal | Greater => Start::CopyFrom(0),
            })
        }
        [Found::Leg(one), other] | [other, Found::Leg(one)] => {
            ensure!(
                one.alone,
                "the other leg may have writes that this one missed; if it is lost, use `alone`"
            );
            let leg = usize::from(!matches!(legs[0], Found::Leg(_)));
            Ok(if let Missing = other { Start::Alone(leg) } else { Start::CopyFrom(leg) })
        }
        [Blank | Missing, Blank | Missing] => bail!("no leg has a record: use `create`"),
    }
}

struct Leg<B> {
    name: String,
    store: B,
}

impl<B: Backend> Leg<B> {
    fn tail(&self) -> u64 {
        let block = TAIL as u64;
        (self.store.size() / block * block).saturating_sub(block)
    }

    fn record(&self) -> Result<Option<Record>> {
        let mut bytes = [0; TAIL];
        self.store
            .read(self.tail(), &mut bytes)
            .with_context(|| format!("read the record of {}", self.name))?;
        Record::from_bytes(&bytes).with_context(|| self.name.clone())
    }

    /// Makes durable what was written before, and then the record.
    fn set(&self, mut record: [u8; TAIL]) -> Result<(), Errno> {
        self.store.flush()?;
        self.store.write(self.tail(), &mut record, false)?;
        self.store.flush()
    }
}

struct State {
    record: Record,
    /// The legs that have everything.
    whole: [bool; 2],
    /// A leg has failed, and the record of the other one does not say so yet.
    unrecorded: bool,
    /// No leg could carry out a change, so they may differ.
    torn: bool,
}

struct Mirror<B> {
    legs: [Option<Leg<B>>; 2],
    size: u64,
    /// Locked for the whole of a write, so that both legs get overlapping writes in the same order.
    state: Mutex<State>,
}

impl<B: Backend> Mirror<B> {
    /// Begins as the records say, with a copy if one is needed.
    fn open(legs: [Option<Leg<B>>; 2]) -> Result<Self> {
        let find = |leg: &Option<Leg<B>>| {
            let Some(leg) = leg else { return Ok(Missing) };
            leg.record().map(|record| record.map_or(Blank, Found::Leg))
        };
        let found = [find(&legs[0])?, find(&legs[1])?];
        let start = decide(found)?;
        let first = if let Start::CopyFrom(leg) | Start::Alone(leg) = start { leg } else { 0 };
        let Found::Leg(mut record) = found[first] else { bail!("no record") };
        ensure!(
            legs.iter().flatten().all(|leg| leg.tail() >= record.size),
            "a leg is smaller than the mirror"
        );
        record.open = true;
        let mut whole = [true; 2];
        whole[1 - first] = start == Start::Both;
        let state = Mutex::new(State { record, whole, unrecorded: false, torn: false });
        let this = Self { legs, size: record.size, state };
        let begun = match start {
            Start::Both => this.record(&mut this.lock(), record),
            Start::Alone(leg) => {
                eprintln!("the mirror is degraded: only {} is used", this.name(leg));
                this.record(&mut this.lock(), record)
            }
            Start::CopyFrom(leg) => this.copy(&mut this.lock(), leg),
        };
        begun.context("write the records").map(|()| this)
    }

    fn name(&self, leg: usize) -> &str {
        self.legs[leg].as_ref().map_or("the missing leg", |leg| &leg.name)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store of a leg that has everything.
    fn whole(&self, state: &State, leg: usize) -> Option<&B> {
        self.legs[leg].as_ref().filter(|_| state.whole[leg]).map(|leg| &leg.store)
    }

    /// Writes the record of the legs that have everything.
    fn record(&self, state: &mut State, record: Record) -> Result<(), Errno> {
        for (leg, _) in self.legs.iter().zip(state.whole).filter(|(_, whole)| *whole) {
            leg.as_ref().map_or(Err(Errno::IO), |leg| leg.set(record.to_bytes()))?;
        }
        state.record = record;
        Ok(())
    }

    /// Copies everything to the other leg. A leg with a part of a copy has no record, and the source is alone meanwhile.
    fn copy(&self, state: &mut State, from: usize) -> Result<(), Errno> {
        let alone = Record { generation: state.record.generation + 1, alone: true, ..state.record };
        self.record(state, alone)?;
        let (Some(source), Some(target)) = (&self.legs[from], &self.legs[1 - from]) else {
            return Err(Errno::IO);
        };
        eprintln!("{} gets a copy of {}", target.name, source.name);
        let copy = || -> Result<(), Errno> {
            target.set([0; TAIL])?;
            let mut piece = vec![0; PIECE];
            for at in (0..self.size).step_by(PIECE) {
                let length = usize::try_from(self.size - at).unwrap_or(PIECE).min(PIECE);
                source.store.read(at, &mut piece[..length])?;
                target.store.write(at, &mut piece[..length], false)?;
            }
            // The target first: until the source has its record, the greater generation has everything.
            let both = Record { generation: alone.generation + 1, alone: false, ..alone };
            target.set(both.to_bytes())
        };
        if let Err(error) = copy() {
            eprintln!("the mirror is degraded: the copy failed ({error}), only {} is used", source.name);
            return Ok(());
        }
        state.whole = [true; 2];
        self.record(state, Record { generation: alone.generation + 1, alone: false, ..alone })
    }

    /// A leg has failed, and the other one has not: it is not used any more.
    fn drop_leg(&self, state: &mut State, leg: usize, what: &str, error: Errno) {
        let (bad, good) = (self.name(leg), self.name(1 - leg));
        eprintln!("the mirror is degraded: a {what} of {bad} failed ({error}), only {good} is used");
        state.whole[leg] = false;
        state.unrecorded = true;
    }

    /// After this, no start takes the failed leg for one that has everything.
    fn settle(&self, state: &mut State) -> Result<(), Errno> {
        if state.unrecorded {
            let generation = state.record.generation + 1;
            self.record(state, Record { generation, alone: true, ..state.record })?;
            state.unrecorded = false;
        }
        Ok(())
    }

    /// Does something to both legs. A leg fails if it could not do what the other one could.
    fn change(&self, what: &str, mut change: impl FnMut(&B) -> Result<(), Errno>) -> Result<(), Errno> {
        let state = &mut *self.lock();
        self.settle(state)?;
        let results = [0, 1].map(|leg| self.whole(state, leg).map(&mut change));
        match results {
            [Some(Err(error)), Some(Ok(()))] => self.drop_leg(state, 0, what, error),
            [Some(Ok(())), Some(Err(error))] => self.drop_leg(state, 1, what, error),
            [result, other] => {
                let result = result.or(other).unwrap_or(Err(Errno::IO));
                state.torn |= result.is_err();
                return result;
            }
        }
        self.settle(state)
    }

    /// The records, behind the end, are no part of the disk.
    fn inside(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let end = offset.checked_add(data.len() as u64).filter(|end| *end <= self.size);
        end.map(drop).ok_or(Errno::INVAL)
    }

    /// Ends a mirror that is no longer served: the next start needs no copy, unless the legs may differ.
    fn close(&self) -> Result<(), Errno> {
        let state = &mut *self.lock();
        self.settle(state)?;
        self.record(state, Record { open: state.torn, ..state.record })
    }
}

impl<B: Backend> Backend for Mirror<B> {
    fn size(&self) -> u64 {
        self.size
    }

    /// The system caches the writes to the legs, and a server that follows finds them there.
    fn capabilities(&self) -> Capabilities {
        let blocks = self.legs.iter().flatten().map(|leg| leg.store.capabilities().logical_block_size);
        let block = blocks.max().unwrap_or(512);
        Capabilities::default().volatile_cache(true).cache_survives(true).logical_block_size(block)
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        let state = &mut *self.lock();
        self.inside(offset, buffer)?;
        let mut failed = None;
        for leg in 0..2 {
            match self.whole(state, leg).map(|store| store.read(offset, buffer)) {
                Some(Err(error)) => failed = failed.or(Some((leg, error))),
                Some(Ok(())) => {
                    // It has missed no write, so nothing needs its record before the next write.
                    if let Some((bad, error)) = failed {
                        self.drop_leg(state, bad, "read", error);
                    }
                    return Ok(());
                }
                None => {}
            }
        }
        Err(failed.map_or(Errno::IO, |(_, error)| error))
    }

    /// The legs are files, which do not change the data.
    fn write(&self, offset: u64, data: &mut [u8], _fua: bool) -> Result<(), Errno> {
        self.inside(offset, data)?;
        self.change("write", |store| store.write(offset, data, false))
    }

    fn flush(&self) -> Result<(), Errno> {
        self.change("flush", Backend::flush)
    }
}

/// A leg, or `None` if there is no such file or device, or it cannot be opened.
fn open_leg(name: &str) -> Result<Option<Leg<FileDisk>>, FileError> {
    match FileOptions::default().open(Path::new(name)) {
        Ok(store) => Ok(Some(Leg { name: name.to_owned(), store })),
        Err(error @ FileError::Io { .. }) => {
            eprintln!("{error}");
            Ok(None)
        }
        // In use by another process, for example.
        Err(error) => Err(error),
    }
}

fn create(mib: &str, names: [&str; 2]) -> Result<()> {
    let size = mib.parse::<u64>()? << 20;
    let mut random = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    let record = Record { mirror: u64::from_le_bytes(random), size, generation: 1, ..Record::default() };
    for name in names {
        let file = File::create_new(name).with_context(|| name.to_owned())?;
        file.set_len(size + TAIL as u64)?;
        file.write_all_at(&record.to_bytes(), size)?;
        file.sync_all()?;
    }
    Ok(())
}

/// Makes a leg alone, whatever it knows of the other one.
fn make_alone<B: Backend>(leg: &Leg<B>) -> Result<()> {
    let record = leg.record()?.with_context(|| format!("{} has no record", leg.name))?;
    if !record.alone {
        leg.set(Record { generation: record.generation + 1, alone: true, ..record }.to_bytes())?;
    }
    Ok(())
}

fn serve(legs: [Option<Leg<FileDisk>>; 2]) -> Result<()> {
    let mirror = Mirror::open(legs)?;
    let identity = format!("mirror {:016x}", mirror.lock().record.mirror);
    let builder = Builder::new("mirror").identity(identity.as_bytes()).on_event(|event| eprintln!("{event}"));
    builder.serve(&mirror)?;
    Ok(mirror.close()?)
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match *words.iter().map(String::as_str).collect::<Vec<_>>() {
        ["create", mib, one, other] => create(mib, [one, other]),
        ["alone", one] => {
            let leg = open_leg(one)?.context("the leg is missing")?;
            make_alone(&leg)?;
            serve([Some(leg), None])
        }
        [one, other] => serve([open_leg(one)?, open_leg(other)?]),
        _ => bail!("usage: mirror_disk ONE OTHER | create MIB ONE OTHER | alone ONE"),
    }
}

#[cfg(test)]
#[path = "../tests/mirror_disk.rs"]
mod tests;
