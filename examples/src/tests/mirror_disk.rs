// SPDX-License-Identifier: MIT OR Apache-2.0
//! The mirror without a kernel: on two files, one of which fails on demand.

use super::*;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use zosbd2_backends::conformance;

const MIB: u64 = 1 << 20;

/// A file whose reads, writes, flushes, or writes to the second half of the data fail.
struct Fails {
    file: FileDisk,
    /// In this order.
    fails: Arc<[AtomicBool; 4]>,
}

impl Fails {
    fn check(&self, operation: usize) -> Result<(), Errno> {
        if self.fails[operation].load(Ordering::Relaxed) { Err(Errno::NOSPC) } else { Ok(()) }
    }
}

impl Backend for Fails {
    fn size(&self) -> u64 {
        self.file.size()
    }

    fn capabilities(&self) -> Capabilities {
        self.file.capabilities()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.check(0).and_then(|()| self.file.read(offset, buffer))
    }

    fn write(&self, offset: u64, data: &mut [u8], fua: bool) -> Result<(), Errno> {
        if (4 * MIB..8 * MIB).contains(&offset) {
            self.check(3)?;
        }
        self.check(1).and_then(|()| self.file.write(offset, data, fua))
    }

    fn flush(&self) -> Result<(), Errno> {
        self.check(2).and_then(|()| self.file.flush())
    }
}

struct Files {
    folder: tempfile::TempDir,
    fails: [Arc<[AtomicBool; 4]>; 2],
}

impl Files {
    fn new() -> Self {
        let files = Self { folder: tempfile::tempdir().unwrap(), fails: Default::default() };
        let (one, other) = (files.path(0), files.path(1));
        create("8", [one.to_str().unwrap(), other.to_str().unwrap()]).unwrap();
        files
    }

    fn path(&self, leg: usize) -> PathBuf {
        self.folder.path().join(["one", "other"][leg])
    }

    fn leg(&self, leg: usize) -> Leg<Fails> {
        let file = FileOptions::default().open(&self.path(leg)).unwrap();
        Leg { name: ["one", "other"][leg].to_owned(), store: Fails { file, fails: self.fails[leg].clone() } }
    }

    fn open(&self) -> Result<Mirror<Fails>> {
        Mirror::open([0, 1].map(|leg| Some(self.leg(leg))))
    }

    /// One leg is missing.
    fn open_one(&self, leg: usize) -> Result<Mirror<Fails>> {
        Mirror::open([0, 1].map(|number| (number == leg).then(|| self.leg(number))))
    }

    fn set(&self, leg: usize, operation: usize, fails: bool) {
        self.fails[leg][operation].store(fails, Ordering::Relaxed);
    }

    fn data(&self, leg: usize) -> Vec<u8> {
        let mut data = std::fs::read(self.path(leg)).unwrap();
        data.truncate(usize::try_from(8 * MIB).unwrap());
        data
    }
}

fn write(mirror: &Mirror<Fails>, block: u64, byte: u8) -> Result<(), Errno> {
    mirror.write(block * 4096, &mut [byte; 4096], false)
}

#[track_caller]
fn reads(mirror: &Mirror<Fails>, block: u64, byte: u8) {
    let mut buffer = [0; 4096];
    mirror.read(block * 4096, &mut buffer).unwrap();
    assert_eq!(buffer[0], byte);
    assert_eq!(buffer, [byte; 4096]);
}

#[test]
fn conforms_with_both_legs_and_with_one() {
    let files = Files::new();
    let mirror = files.open().unwrap();
    for degraded in [false, true] {
        files.set(0, 1, degraded);
        let report = conformance::run(&conformance::Direct::new(&mirror), degraded.into());
        let report = report.unwrap_or_else(|failure| panic!("{failure}"));
        let skipped: Vec<_> =
            report.iter().filter(|check| check.skipped.is_some()).map(|check| check.name).collect();
        assert_eq!(skipped, ["write_zeroes", "discard"]);
        assert_eq!(files.data(0) == files.data(1), !degraded);
    }
    assert_eq!(mirror.size(), 8 * MIB);
    assert!(mirror.capabilities().volatile_cache, "the legs have a cache");
}

/// A leg that missed a write is not read, gets a copy at the next start, and can then be used alone.
#[test]
fn a_leg_that_missed_a_write_gets_a_copy() {
    for (bad, operation) in [(0, 1), (1, 1), (0, 2), (1, 2)] {
        let files = Files::new();
        let mirror = files.open().unwrap();
        write(&mirror, 3, 1).unwrap();
        files.set(bad, operation, true);
        write(&mirror, 3, 2).unwrap();
        mirror.flush().unwrap();
        // It works again, and is not used all the same.
        files.set(bad, operation, false);
        write(&mirror, 4, 3).unwrap();
        reads(&mirror, 3, 2);
        assert_ne!(files.data(0), files.data(1));
        // The server dies: nobody closes the mirror.
        drop(mirror);
        assert!(
            files.open_one(bad).is_err_and(|said| format!("{said:#}").contains("`alone`")),
            "a stale leg was used"
        );
        let mirror = files.open_one(1 - bad).unwrap();
        reads(&mirror, 4, 3);
        write(&mirror, 5, 4).unwrap();
        mirror.close().unwrap();
        drop(mirror);
        let mirror = files.open().unwrap();
        assert_eq!(mirror.lock().whole, [true; 2]);
        reads(&mirror, 5, 4);
        assert!(files.data(0) == files.data(1), "leg {bad} got no copy");
    }
}

#[test]
fn a_failed_read_is_answered_by_the_other_leg() {
    let files = Files::new();
    let mirror = files.open().unwrap();
    write(&mirror, 3, 1).unwrap();
    files.set(0, 0, true);
    reads(&mirror, 3, 1);
    assert_eq!(mirror.lock().whole, [false, true]);
    write(&mirror, 3, 2).unwrap();
    reads(&mirror, 3, 2);
    // The last leg is not dropped.
    files.set(1, 0, true);
    assert_eq!(mirror.read(0, &mut [0; 512]), Err(Errno::NOSPC));
    files.set(1, 0, false);
    reads(&mirror, 3, 2);
}

/// A write that no leg took is an error, and drops none.
#[test]
fn a_write_that_fails_on_both_legs_is_an_error() {
    let files = Files::new();
    let mirror = files.open().unwrap();
    files.set(0, 1, true);
    files.set(1, 1, true);
    assert_eq!(write(&mirror, 0, 1), Err(Errno::NOSPC));
    assert_eq!(mirror.lock().whole, [true; 2]);
    files.set(0, 1, false);
    files.set(1, 1, false);
    write(&mirror, 0, 2).unwrap();
    assert!(files.data(0) == files.data(1));
    // A part of the write may be in one leg only.
    mirror.close().unwrap();
    assert!(mirror.legs[0].as_ref().unwrap().record().unwrap().unwrap().open);
}

/// If the record cannot say that the other leg has missed a write, the write is not answered.
#[test]
fn no_write_is_answered_before_the_record_knows() {
    let files = Files::new();
    let mirror = files.open().unwrap();
    write(&mirror, 0, 1).unwrap();
    files.set(0, 1, true);
    files.set(1, 2, true);
    assert_eq!(write(&mirror, 0, 2), Err(Errno::NOSPC));
    assert_eq!(write(&mirror, 0, 3), Err(Errno::NOSPC));
    files.set(1, 2, false);
    write(&mirror, 0, 4).unwrap();
    reads(&mirror, 0, 4);
    drop(mirror);
    assert!(files.open_one(0).is_err());
}

/// After a crash the second leg gets a copy. If that ends early, the leg is none.
#[test]
fn a_part_of_a_copy_is_no_leg() {
    let files = Files::new();
    write(&files.open().unwrap(), 3, 1).unwrap();
    files.set(1, 3, true);
    let mirror = files.open().unwrap();
    assert_eq!(mirror.lock().whole, [true, false]);
    write(&mirror, 3, 2).unwrap();
    drop(mirror);
    assert_eq!(files.leg(1).record().unwrap(), None);
    assert!(make_alone(&files.leg(1)).is_err());
    files.set(1, 3, false);
    let mirror = files.open().unwrap();
    assert_eq!(mirror.lock().whole, [true; 2]);
    reads(&mirror, 3, 2);
    assert!(files.data(0) == files.data(1));
}

#[test]
fn a_new_file_replaces_a_lost_leg() {
    let files = Files::new();
    let mirror = files.open().unwrap();
    write(&mirror, 7, 9).unwrap();
    mirror.close().unwrap();
    drop(mirror);
    let new = || File::create(files.path(1)).unwrap().set_len(8 * MIB + TAIL as u64).unwrap();
    new();
    assert!(files.open().is_err_and(|said| format!("{said:#}").contains("`alone`")));
    make_alone(&files.leg(0)).unwrap();
    assert!(!files.open_one(0).unwrap().lock().whole[1]);
    drop(files.open().unwrap());
    assert!(files.data(0) == files.data(1));
    File::create(files.path(1)).unwrap().set_len(4 * MIB).unwrap();
    assert!(files.open().is_err());
    std::fs::write(files.path(1), vec![7; 9 << 20]).unwrap();
    assert!(files.open().is_err_and(|said| format!("{said:#}").contains("no leg of a mirror")));
    // A file that exists is never made new.
    let path = files.path(1);
    assert!(create("8", [path.to_str().unwrap(), "/dev/null"]).is_err());
}

#[test]
fn a_closed_mirror_starts_without_a_copy() {
    let files = Files::new();
    for _ in 0..2 {
        let mirror = files.open().unwrap();
        assert_eq!(mirror.lock().record.generation, 1);
        mirror.close().unwrap();
    }
    let mirror = files.open().unwrap();
    drop(mirror);
    assert_eq!(files.open().unwrap().lock().record.generation, 3);
}

#[test]
fn records_decide() {
    let record = |generation, alone, open| Found::Leg(Record { mirror: 1, size: 0, generation, alone, open });
    let other = Found::Leg(Record { mirror: 2, ..Record::default() });
    let whole = record(5, false, false);
    for (legs, start) in [
        ([whole, whole], Ok(Start::Both)),
        ([whole, record(5, false, true)], Ok(Start::CopyFrom(0))),
        ([record(6, true, true), whole], Ok(Start::CopyFrom(0))),
        ([whole, record(6, true, false)], Ok(Start::CopyFrom(1))),
        // After a copy, before the record of the source.
        ([record(7, false, true), record(6, true, true)], Ok(Start::CopyFrom(0))),
        ([record(6, true, false), record(9, true, false)], Err("each leg was used without")),
        ([whole, other], Err("different mirrors")),
        ([record(6, true, false), Blank], Ok(Start::CopyFrom(0))),
        ([Blank, record(6, true, false)], Ok(Start::CopyFrom(1))),
        ([record(6, true, false), Missing], Ok(Start::Alone(0))),
        ([Missing, record(6, true, true)], Ok(Start::Alone(1))),
        ([whole, Missing], Err("if it is lost")),
        ([Missing, whole], Err("if it is lost")),
        ([whole, Blank], Err("if it is lost")),
        ([Blank, Blank], Err("no leg has a record")),
        ([Missing, Blank], Err("no leg has a record")),
        ([Missing, Missing], Err("no leg has a record")),
    ] {
        match (decide(legs), start) {
            (Err(said), Err(wanted)) => assert!(said.to_string().contains(wanted), "{legs:?}: {said}"),
            (decided, start) => assert_eq!(decided.ok(), start.ok(), "{legs:?}"),
        }
    }
}

#[test]
fn a_record_survives_its_bytes() {
    let record = Record { mirror: u64::MAX - 1, size: 1 << 40, generation: 77, alone: true, open: false };
    let mut bytes = record.to_bytes();
    assert_eq!(Record::from_bytes(&bytes).unwrap(), Some(record));
    assert_eq!(Record::from_bytes(&[0; TAIL]).unwrap(), None);
    bytes[500] = 1;
    assert!(Record::from_bytes(&bytes).is_err());
}
