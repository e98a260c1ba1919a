// SPDX-License-Identifier: MIT OR Apache-2.0
//! The sparse memory against a plain vector, with several threads, and against the system's memory
//! accounting.

use proptest::prelude::*;
use std::sync::atomic::{AtomicBool, Ordering};
use zosbd2::{MemoryError, SparseMemory};

const MIB: usize = 1 << 20;
const SIZE: usize = 3 * MIB + 5000;

#[derive(Clone, Debug)]
enum Step {
    Read(usize, usize),
    Write(usize, usize, u8),
    Discard(usize, usize),
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
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn behaves_like_a_vector(steps in proptest::collection::vec(step(), 1..24)) {
        let memory = SparseMemory::new(SIZE as u64).expect("memory");
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
            }
        }
        let mut all = vec![0xAA; SIZE];
        memory.read_at(0, &mut all).expect("in range");
        prop_assert!(all == model);
    }
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
