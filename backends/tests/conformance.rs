// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every backend against the suite, and the suite against backends that do something wrong.

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use zosbd2::{Backend, Capabilities, Errno, Zero};
use zosbd2_backends::conformance::{Check, Direct, Failure, run};
use zosbd2_backends::{FileDisk, FileError, FileOptions, Null, Ram};

const SIZE: u64 = 32 << 20;
/// How long to wait for a lock that will not become free.
const SHORT: Duration = Duration::from_millis(50);

fn seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(now.subsec_nanos().into());
    println!("SEED={seed}");
    seed
}

fn skipped(report: &[Check]) -> Vec<&'static str> {
    report.iter().filter(|check| check.skipped.is_some()).map(|check| check.name).collect()
}

fn check<B: Backend>(backend: &B) -> Vec<Check> {
    run(&Direct::new(backend), seed()).unwrap_or_else(|failure| panic!("{failure}"))
}

fn file(folder: &Path, bytes: u64, options: FileOptions) -> FileDisk {
    let path = folder.join("disk");
    std::fs::File::create(&path).expect("create").set_len(bytes).expect("size");
    options.open(&path).expect("open")
}

#[test]
fn ram_conforms() {
    assert_eq!(skipped(&check(&Ram::new(SIZE).expect("memory"))), [""; 0]);
}

/// Memory that refuses what is not in whole blocks, as block devices do.
struct Aligned(Ram);

impl Aligned {
    fn check(offset: u64, length: usize) -> Result<(), Errno> {
        if offset % 512 == 0 && length % 512 == 0 { Ok(()) } else { Err(Errno::INVAL) }
    }
}

impl Backend for Aligned {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        Self::check(offset, buffer.len())?;
        self.0.read(offset, buffer)
    }

    fn write(&self, offset: u64, data: &mut [u8], fua: bool) -> Result<(), Errno> {
        Self::check(offset, data.len())?;
        self.0.write(offset, data, fua)
    }

    fn write_zeroes(&self, offset: u64, length: u64, zero: Zero) -> Result<(), Errno> {
        self.0.write_zeroes(offset, length, zero)
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), Errno> {
        self.0.discard(offset, length)
    }
}

/// From the smallest disk on, the suite asks only for whole blocks.
#[test]
fn small_disks_conform() {
    for size in [64 * 512, 65 * 512, 1 << 20, 8 << 20] {
        check(&Aligned(Ram::new(size).expect("memory")));
    }
}

#[test]
fn shared_ram_conforms_and_outlives_its_server() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("folder");
    let path = folder.path().join("disk");
    let ram = Ram::shared(&path, SIZE).expect("memory");
    assert_eq!(skipped(&check(&ram)), [""; 0]);
    ram.write(4096, &mut [7; 4096], false).expect("write");
    let next = Ram::shared(&path, SIZE).expect("the same memory");
    drop(ram);
    let mut buffer = [0; 4096];
    next.read(4096, &mut buffer).expect("read");
    assert_eq!(buffer, [7; 4096]);
    next.discard(4096, 4096).expect("discard");
    next.read(4096, &mut buffer).expect("read");
    assert_eq!(buffer, [0; 4096]);
    assert!(matches!(Ram::shared(&path, 2 * SIZE), Err(FileError::Memory { .. })), "another size");
    assert!(matches!(Ram::shared(folder.path(), SIZE), Err(FileError::Io { operation: "open", .. })));
}

#[test]
fn a_successor_has_the_file_next() {
    let folder = tempfile::tempdir().expect("folder");
    let old = file(folder.path(), SIZE, FileOptions::default());
    let path = folder.path().join("disk");
    let next = FileOptions::default().successor(true).open(&path).expect("beside the old one");
    old.write(0, &mut [7; 512], false).expect("write");
    let mut buffer = [0; 512];
    next.read(0, &mut buffer).expect("read");
    assert_eq!(buffer, [7; 512]);
    let refused = next.wait_for_lock(SHORT).expect_err("the old one has it");
    assert!(matches!(refused, FileError::Locked { .. }), "{refused}");
    drop(old);
    next.wait_for_lock(Duration::from_secs(10)).expect("nobody has it");
    assert_eq!(next.size(), SIZE);
    assert!(
        matches!(FileOptions::default().patience(SHORT).open(&path), Err(FileError::Locked { .. })),
        "it has the lock now"
    );
}

#[test]
fn file_conforms() {
    let folder = tempfile::tempdir().expect("folder");
    assert_eq!(skipped(&check(&file(folder.path(), SIZE, FileOptions::default()))), [""; 0]);
}

#[test]
fn file_with_large_blocks_conforms() {
    let folder = tempfile::tempdir().expect("folder");
    let options = FileOptions::default().logical_block_size(4096);
    let disk = file(folder.path(), SIZE + 1234, options);
    assert_eq!(disk.size(), SIZE, "what is no whole block is not there");
    assert_eq!(skipped(&check(&disk)), [""; 0]);
}

#[test]
fn null_keeps_nothing_and_says_nothing() {
    let null = Null::new(SIZE);
    let failure = run(&Direct::new(&null), 1).expect_err("it keeps nothing");
    assert_eq!(failure.check, "what_is_written_is_read");
}

#[test]
fn read_only_file_conforms_in_what_is_left() {
    let folder = tempfile::tempdir().expect("folder");
    let report = check(&file(folder.path(), SIZE, FileOptions::default().read_only(true)));
    assert_eq!(report.len() - skipped(&report).len(), 3, "geometry, both_ends, outside: {report:?}");
}

#[test]
fn a_file_that_grows_and_shrinks_is_noticed() {
    let folder = tempfile::tempdir().expect("folder");
    let disk = file(folder.path(), SIZE, FileOptions::default());
    let other = std::fs::File::options().write(true).open(folder.path().join("disk")).expect("open");
    other.set_len(2 * SIZE).expect("grow");
    assert_eq!(disk.size(), 2 * SIZE);
    other.set_len(SIZE / 2).expect("shrink");
    assert_eq!(disk.size(), SIZE / 2);
    let mut buffer = [0; 512];
    assert!(disk.read(SIZE / 2, &mut buffer).is_err(), "beyond the end");
}

#[test]
fn discard_gives_the_space_back() {
    use std::os::unix::fs::MetadataExt as _;
    let folder = tempfile::tempdir().expect("folder");
    let disk = file(folder.path(), SIZE, FileOptions::default());
    let blocks = || std::fs::metadata(folder.path().join("disk")).expect("metadata").blocks();
    disk.write(0, &mut vec![1; 1 << 20], false).expect("write");
    disk.flush().expect("flush");
    let full = blocks();
    disk.discard(0, 1 << 20).expect("discard");
    disk.flush().expect("flush");
    assert!(blocks() < full / 2, "{} of {full} blocks are left", blocks());
}

#[test]
fn what_cannot_be_a_disk_is_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let open = |path: &Path| FileOptions::default().open(path);
    let path = folder.path().join("disk");
    assert!(matches!(open(&path), Err(FileError::Io { operation: "open", .. })));
    std::fs::write(&path, [0; 511]).expect("write");
    assert!(matches!(open(&path), Err(FileError::Empty { block: 512, .. })));
    std::fs::write(&path, [0; 4096]).expect("write");
    let block = FileOptions::default().logical_block_size(1000).open(&path);
    assert!(matches!(block, Err(FileError::BlockSize { block: 1000, .. })));
    let kept = open(&path).expect("open");
    let second = FileOptions::default().patience(SHORT).open(&path).expect_err("two servers of one file");
    let FileError::Locked { holders, .. } = &second else { panic!("{second:?}") };
    assert_eq!(holders.iter().map(|holder| holder.pid).collect::<Vec<_>>(), [std::process::id()]);
    assert!(
        second.to_string().contains(&format!("is in use by process {} (", std::process::id())),
        "{second}"
    );
    drop(kept);
    assert!(open(&path).is_ok());
    assert!(matches!(open(Path::new("/dev/null")), Err(FileError::Kind { .. })));
    let refused = FileOptions::default().read_only(true).open(folder.path());
    assert!(matches!(refused, Err(FileError::Kind { .. })), "{refused:?}");
}

/// A RAM disk with a fault.
struct Faulty {
    inner: Ram,
    fault: Fault,
    writes: Mutex<u64>,
}

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    LosesOneWrite,
    ShortRead,
    WritesOneBlockFurther,
    ZeroesTooLittle,
    DiscardsTooMuch,
    FlushFails,
    AcceptsTheOutside,
}

impl Faulty {
    fn new(fault: Fault) -> Self {
        Self { inner: Ram::new(SIZE).expect("memory"), fault, writes: Mutex::new(0) }
    }
}

impl Backend for Faulty {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.inner.capabilities();
        capabilities.volatile_cache = self.fault == Fault::FlushFails;
        capabilities
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        let length = buffer.len();
        match self.fault {
            Fault::ShortRead if length > 4096 => self.inner.read(offset, &mut buffer[..length - 512]),
            Fault::AcceptsTheOutside => self.inner.read(offset, buffer).or(Ok(())),
            _ => self.inner.read(offset, buffer),
        }
    }

    fn write(&self, offset: u64, data: &mut [u8], fua: bool) -> Result<(), Errno> {
        let mut writes = self.writes.lock().expect("lock");
        *writes += 1;
        match self.fault {
            Fault::LosesOneWrite if *writes == 100 => Ok(()),
            Fault::WritesOneBlockFurther if data.len() == 1536 => {
                self.inner.write(offset, &mut [&*data, &[0; 512]].concat(), fua)
            }
            Fault::AcceptsTheOutside => self.inner.write(offset, data, fua).or(Ok(())),
            _ => self.inner.write(offset, data, fua),
        }
    }

    fn flush(&self) -> Result<(), Errno> {
        Err(Errno::IO)
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), Errno> {
        let more = if self.fault == Fault::DiscardsTooMuch { 512 } else { 0 };
        self.inner.write_zeroes(offset, length + more, Zero::default())
    }

    fn write_zeroes(&self, offset: u64, length: u64, zero: Zero) -> Result<(), Errno> {
        let less = if self.fault == Fault::ZeroesTooLittle { 512 } else { 0 };
        self.inner.write_zeroes(offset, length - less, zero)
    }
}

#[test]
fn faults_are_found() {
    let seed = seed();
    for (fault, check) in [
        (Fault::LosesOneWrite, "what_is_written_is_read"),
        (Fault::ShortRead, "neighbours_are_left_alone"),
        (Fault::WritesOneBlockFurther, "neighbours_are_left_alone"),
        (Fault::ZeroesTooLittle, "write_zeroes"),
        (Fault::DiscardsTooMuch, "discard"),
        (Fault::FlushFails, "fua_and_flush"),
        (Fault::AcceptsTheOutside, "outside"),
    ] {
        let Failure { check: found, .. } = run(&Direct::new(&Faulty::new(fault)), seed).expect_err("a fault");
        assert_eq!(found, check);
    }
}
