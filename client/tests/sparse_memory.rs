// SPDX-License-Identifier: MIT OR Apache-2.0
//! The sparse memory against a plain vector, with several threads, and against the system's memory
//! accounting.

use proptest::prelude::*;
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use zosbd2::{MemoryError, SparseMemory};

const MIB: usize = 1 << 20;
const SIZE: usize = 3 * MIB + 5000;

#[derive(Clone, Debug)]
enum Step {
    Read(usize, usize),
    Write(usize, usize, u8),
    Discard(usize, usize),
    Zeroes(usize, usize),
    /// A region for the kernel to write to.
    Region(usize, usize),
}

/// Ranges inside the memory. Many cross pages and the boundaries of the locks.
fn range() -> impl Strategy<Value = (usize, usize)> {
    let place =
        prop_oneof![0..SIZE, (1..4_usize, 0..9000_usize).prop_map(|(mib, near)| mib * MIB + near - 4500)];
    let length = prop_oneof![0..9000_usize, 0..2 * MIB];
    (place, length).prop_map(|(at, length)| (at.min(SIZE), length.min(SIZE - at.min(SIZE))))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        range().prop_map(|(at, length)| Step::Read(at, length)),
        (range(), any::<u8>()).prop_map(|((at, length), value)| Step::Write(at, length, value)),
        range().prop_map(|(at, length)| Step::Discard(at, length)),
        range().prop_map(|(at, length)| Step::Zeroes(at, length)),
        range().prop_map(|(at, length)| Step::Region(at, length)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn behaves_like_a_vector(steps in proptest::collection::vec(step(), 1..24), shared: bool) {
        let memory = if shared { in_file(SIZE as u64).1 } else { SparseMemory::new(SIZE as u64).expect("memory") };
        let mut model = vec![0_u8; SIZE];
        for step in steps {
            match step {
                Step::Read(at, length) => {
                    let mut bytes = vec![0xAA; length];
                    memory.read_at(at as u64, &mut bytes).expect("in range");
                    prop_assert!(bytes == model[at..at + length]);
                }
                Step::Write(at, length, value) => {
                    memory.write_at(at as u64, &vec![value; length]).expect("in range");
                    model[at..at + length].fill(value);
                }
                Step::Discard(at, length) => {
                    memory.discard(at as u64, length as u64).expect("in range");
                    model[at..at + length].fill(0);
                }
                Step::Zeroes(at, length) => {
                    memory.write_zeroes(at as u64, length as u64).expect("in range");
                    model[at..at + length].fill(0);
                }
                Step::Region(at, length) => {
                    prop_assert_eq!(memory.region(at as u64, length).expect("in range").length(), length);
                    let read = memory.read_region(at as u64, length).expect("in range");
                    prop_assert_eq!(read.map(|region| region.length()), Some(length), "it is there now");
                }
            }
        }
        let mut all = vec![0xAA; SIZE];
        memory.read_at(0, &mut all).expect("in range");
        prop_assert!(all == model);
    }
}

/// A memory in a file of its own, and the file.
fn in_file(bytes: u64) -> (File, SparseMemory) {
    let file = File::from(memfd_create("memory", MemfdFlags::CLOEXEC).expect("a file in memory"));
    let memory = SparseMemory::in_file(file.try_clone().expect("clone"), bytes).expect("memory");
    (file, memory)
}

#[test]
fn reading_a_file_takes_no_memory() {
    let (file, memory) = in_file(64 * MIB as u64);
    let blocks = || file.metadata().expect("metadata").blocks();
    let mut bytes = vec![1; 3 * MIB];
    memory.read_at(5 * MIB as u64 + 77, &mut bytes).expect("in range");
    assert!(bytes.iter().all(|byte| *byte == 0));
    assert!(memory.read_region(0, 4096).expect("in range").is_none(), "a hole has no bytes to name");
    memory.discard(512, 1024).expect("a part of a page that is not there");
    assert_eq!(blocks(), 0);
    memory.write_at(4096, &[7; 512]).expect("in range");
    assert!(memory.read_region(4096, 4096).expect("in range").is_some());
    assert!(memory.read_region(4096, 8192).expect("in range").is_none(), "one page is missing");
    assert_eq!(blocks(), 8);
    memory.region(8192, 4096).expect("there is room");
    assert_eq!(blocks(), 16, "what is named for a write is there");
    memory.discard(0, 16384).expect("in range");
    assert_eq!(blocks(), 0);
    assert!(memory.read_region(8192, 4096).expect("in range").is_none(), "it is a hole again");
}

#[test]
fn reading_names_zeros_where_nothing_was_written() {
    let memory = SparseMemory::new(64 * MIB as u64).expect("memory");
    let named = |at: usize, length| memory.read_region(at as u64, length).expect("in range").is_some();
    assert!(named(0, 32 * MIB) && named(40 * MIB + 512, 4096));
    assert!(!named(0, 33 * MIB), "longer than any request");
    memory.write_at(4 * MIB as u64, &[1; 512]).expect("in range");
    assert!(named(4 * MIB, 512) && named(5 * MIB, 4096) && named(2 * MIB, 4096));
    assert!(!named(3 * MIB, 2 * MIB), "partly written");
}

/// Access to a mapping beyond the end of its file would cause SIGBUS.
#[test]
fn a_file_that_becomes_shorter_is_an_error() {
    let (file, memory) = in_file(4 * MIB as u64);
    memory.write_at(0, &vec![7; 4 * MIB]).expect("in range");
    file.set_len(MIB as u64).expect("shorten");
    let mut bytes = [0; 8192];
    memory.read_at(0, &mut bytes).expect("this is left");
    assert_eq!(bytes, [7; 8192]);
    for at in [MIB - 4096, 2 * MIB] {
        let error = memory.read_at(at as u64, &mut bytes).expect_err("behind the end");
        assert_eq!(error.to_string(), "read the file of a memory of 4194304 bytes");
    }
    memory.discard(2 * MIB as u64, 4096).expect("nothing is there");
    // These calls extend the file again.
    memory.write_zeroes(2 * MIB as u64, 512).expect("in range");
    memory.write_at(3 * MIB as u64, &[8; 512]).expect("in range");
    memory.read_at(3 * MIB as u64, &mut bytes[..512]).expect("it is there");
    assert_eq!(bytes[..512], [8; 512]);
}

#[test]
fn a_file_of_another_size_is_refused() {
    let (file, memory) = in_file(8192);
    let again = SparseMemory::in_file(file.try_clone().expect("clone"), 4096).expect_err("another size");
    assert_eq!(again.to_string(), "find the same size in the file of a memory of 4096 bytes");
    memory.write_at(0, &[3; 16]).expect("in range");
    let again = SparseMemory::in_file(file, 8192).expect("the same size");
    let mut bytes = [0; 16];
    again.read_at(0, &mut bytes).expect("in range");
    assert_eq!(bytes, [3; 16]);
}

#[test]
fn ranges_outside_are_refused() {
    let memory = SparseMemory::new(8192).expect("memory");
    let mut page = [1; 4096];
    let error = memory.read_at(4097, &mut page).expect_err("one byte too far");
    assert_eq!(error.to_string(), "read of 4096 bytes at 4097 is not inside the memory of 8192 bytes");
    assert!(matches!(memory.write_at(u64::MAX, &page), Err(MemoryError::Bounds { .. })));
    assert!(matches!(memory.discard(1, u64::MAX), Err(MemoryError::Bounds { .. })));
    assert!(matches!(memory.discard(8192, 1), Err(MemoryError::Bounds { .. })));
    memory.read_at(8192, &mut []).expect("nothing at the end");
    assert_eq!(page, [1; 4096], "a refused read changes nothing");
}

#[test]
fn sizes_that_cannot_exist_are_refused() {
    assert!(matches!(SparseMemory::new(0), Err(MemoryError::Size(0))));
    assert!(matches!(SparseMemory::new(u64::MAX), Err(MemoryError::Size(u64::MAX))));
    assert!(matches!(SparseMemory::new(1 << 60), Err(MemoryError::Map { .. })));
}

/// Resident KiB of the mapping with this size.
fn resident_kib_of_mapping(size_kib: u64) -> u64 {
    let smaps = std::fs::read_to_string("/proc/self/smaps").expect("smaps");
    let number = |line: &str| line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok());
    let mut lines = smaps.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("Size:") && number(line) == Some(size_kib) {
            let rss = lines.find(|line| line.starts_with("Rss:")).expect("Rss follows Size");
            return number(rss).expect("a number");
        }
    }
    panic!("no mapping of {size_kib} KiB");
}

#[test]
fn memory_is_taken_as_written_and_given_back() {
    // An unusual size, by which `/proc/self/smaps` shows the mapping.
    let kib = 64 * 1024 * 1024 + 4 * 1237;
    let memory = SparseMemory::new(kib * 1024).expect("map 64 GiB without using them");
    let block = [7; 4096];
    for index in 0..100_u64 {
        memory.write_at(index * 400 * MIB as u64, &block).expect("in range");
    }
    let used = resident_kib_of_mapping(kib);
    assert!((400..800).contains(&used), "{used} KiB for 100 blocks");
    memory.discard(0, kib * 1024).expect("in range");
    assert_eq!(resident_kib_of_mapping(kib), 0);
    let mut bytes = [1; 4096];
    memory.read_at(400 * MIB as u64, &mut bytes).expect("in range");
    assert_eq!(bytes, [0; 4096]);
}

#[test]
fn a_page_is_never_torn_between_threads() {
    const BLOCKS: u64 = 8;
    let memory = SparseMemory::new(BLOCKS * 4096).expect("memory");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (1..=3_u8)
            .map(|value| {
                let memory = &memory;
                scope.spawn(move || {
                    for round in 0..4000_u64 {
                        let at = (round * u64::from(value)) % BLOCKS * 4096;
                        if round % 5 == 0 {
                            memory.discard(at, 4096).expect("in range");
                        } else {
                            memory.write_at(at, &[value; 4096]).expect("in range");
                        }
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            let mut bytes = [0; 4096];
            while !done.load(Ordering::Relaxed) {
                for block in 0..BLOCKS {
                    memory.read_at(block * 4096, &mut bytes).expect("in range");
                    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "torn");
                }
            }
        });
        for writer in writers {
            writer.join().expect("writer");
        }
        done.store(true, Ordering::Relaxed);
    });
}
