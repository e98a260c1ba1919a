// SPDX-License-Identifier: MIT OR Apache-2.0
//! One thread of the fuzzer, and its way to make a call of version 2: with a valid argument that may be spoilt,
//! and with checks of the outcome.
//!
//! Each step has its own random numbers, which depend on the seed, the thread's number and the step's number.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use zosbd2::v2::abi;

use super::calls::Call;
use super::memory::{Memory, Place};
use super::process::{Node, Process};
use crate::guest::Random;
use crate::guest::raw::{self, PAGE, Plain};

#[derive(Debug)]
pub(super) struct Thread<'a> {
    pub(super) process: &'a Process,
    pub(super) slot: usize,
    pub(super) memory: Memory,
    /// Random numbers from which those of each step are derived.
    seed: Random,
    /// Random numbers of this step.
    pub(super) random: Random,
}

/// Properties of a call of version 2.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) call: Call,
    pub(super) command: u32,
    /// Offsets of words that must be 0.
    pub(super) reserved: &'static [usize],
    /// Offsets of addresses, which are not changed.
    pub(super) addresses: &'static [usize],
    /// Offset of the results that are valid even after an error; the bytes before it stay unchanged.
    pub(super) results: Option<usize>,
}

/// How long an idle thread rests.
const REST: Duration = Duration::from_millis(1);

/// Offset of `flags` in every argument.
const FLAGS: usize = 4;

/// How an argument was spoilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoilt {
    /// Not at all.
    No,
    /// The call must fail with this error.
    Must(Errno),
    /// The call must fail.
    Somehow,
    /// The call may have any outcome.
    Perhaps,
}

/// Outcome of a call of version 2.
#[derive(Debug)]
pub(super) struct Ended<T> {
    pub(super) result: Result<Option<OwnedFd>, Errno>,
    /// The argument afterwards; unchanged if it was in invalid memory.
    pub(super) after: T,
    /// Whether `after` was read back from the kernel's result.
    pub(super) seen: bool,
}

impl<T> Ended<T> {
    pub(super) fn well(&self) -> bool {
        self.result.is_ok() && self.seen
    }
}

impl<'a> Thread<'a> {
    pub(super) fn new(process: &'a Process, slot: usize, seed: u64) -> Self {
        let seed = Random::named(seed, &format!("ioctl_fuzz, thread {slot}"));
        Self { process, slot, memory: Memory::new(), random: seed.clone(), seed }
    }

    /// Begins the next step; returns its number.
    pub(super) fn begin_step(&mut self) -> u64 {
        let step = self.process.board.next_step(self.slot);
        self.random = self.seed.at(step);
        step
    }

    /// A disk that existed a moment ago.
    pub(super) fn some_node(&mut self, choose: fn(&mut Random) -> Node) -> Option<Node> {
        let found = (0..8).map(|_| choose(&mut self.random)).find(|node| node.path().exists());
        if found.is_none() {
            rest();
        }
        found
    }

    /// Records that a call begins.
    pub(super) fn begins(&self, call: Call) {
        self.process.board.begins(self.slot, call);
    }

    /// Counts the outcome of a call, which the documents must allow.
    pub(super) fn ends(&self, call: Call, result: Result<(), Errno>) {
        self.process.board.count(call, result);
        assert!(call.may_end(result), "{} is not to end with {result:?}", call.row().name);
    }

    /// Makes a call of version 2 with this argument or a spoilt one.
    pub(super) fn issue<T: Plain>(&mut self, fd: BorrowedFd<'_>, shape: &Shape, good: &T) -> Ended<T> {
        let known = size_of::<T>();
        let mut bytes = raw::bytes_of(good);
        bytes[..4].copy_from_slice(&u32::try_from(known).expect("a size").to_ne_bytes());
        let (mut spoilt, mut place) = (Spoilt::No, None);
        match self.random.below(100) {
            0..70 => {}
            70..80 => spoilt = self.spoil(shape, &mut bytes),
            80..90 => {
                self.change_a_word(shape, &mut bytes);
                spoilt = Spoilt::Perhaps;
            }
            90..93 => {
                for at in (4..known / 4 * 4).step_by(4).filter(|at| !shape.is_address(*at)) {
                    let word = self.random.next().to_ne_bytes();
                    bytes[at..at + 4].copy_from_slice(&word[..4]);
                }
                spoilt = Spoilt::Perhaps;
            }
            _ => {
                let (address, kind) = self.memory.bad(&mut self.random, bytes.len());
                spoilt = if kind == Place::Unmapped { Spoilt::Somehow } else { Spoilt::Perhaps };
                place = Some(address);
            }
        }
        let own = self.memory.argument.at_end(bytes.len());
        self.memory.argument.put(own, &bytes);
        let at = place.unwrap_or(own);
        self.begins(shape.call);
        let result = match shape.command {
            abi::IOCTL_CREATE | abi::IOCTL_ATTACH => {
                raw::ioctl_for_descriptor(fd, shape.command, at).map(Some)
            }
            _ => raw::ioctl(fd, shape.command, at).map(|_| None),
        };
        let told = || format!("{shape:x?} with {bytes:02x?} at {at:#x}, {spoilt:?}: {result:?}");
        let ended = result.as_ref().map(|_| ()).map_err(|errno| *errno);
        self.process.board.count(shape.call, ended);
        assert!(shape.call.may_end(ended), "not to end so: {}", told());
        match spoilt {
            Spoilt::No | Spoilt::Perhaps => {}
            Spoilt::Somehow => assert!(ended.is_err(), "{}", told()),
            // An observer may not make this call, whatever its argument.
            Spoilt::Must(errno) => {
                assert!(ended == Err(errno) || ended == Err(Errno::PERM), "{}", told());
            }
        }
        let seen = place.is_none();
        if seen {
            let after = self.memory.argument.get(own, bytes.len());
            if ended.is_err() && ended != Err(Errno::FAULT) {
                let same = shape.results.unwrap_or(bytes.len()).min(bytes.len());
                assert!(after[..same] == bytes[..same], "a failed call changed its argument: {}", told());
            }
            if ended.is_ok() {
                for at in shape.reserved {
                    assert_eq!(after[*at..at + 4], [0; 4], "a reserved field, at {at}: {}", told());
                }
            }
            bytes = after;
        }
        Ended { result, after: raw::value_of(&bytes[..known]), seen }
    }

    /// Spoils an argument in a way that the kernel must notice.
    fn spoil(&mut self, shape: &Shape, bytes: &mut Vec<u8>) -> Spoilt {
        let known = bytes.len();
        let set_size = |bytes: &mut Vec<u8>, size: usize| {
            bytes[..4].copy_from_slice(&u32::try_from(size).expect("a size").to_ne_bytes());
        };
        let first = usize::try_from(shape.command >> 16 & 0x3fff).expect("a size");
        match self.random.below(5) {
            0 => {
                set_size(bytes, self.random.pick(&[0, 1, 4, first - 1]));
                Spoilt::Must(Errno::INVAL)
            }
            // A shorter one, of an older program.
            1 if first < known && self.random.chance(50) => {
                set_size(bytes, self.random.pick(&[first, first + 4, known - 1]));
                Spoilt::No
            }
            // A longer argument that is still valid.
            1 => {
                let size = known + self.random.pick(&[1, 8, 100]);
                bytes.resize(size, 0);
                set_size(bytes, size);
                Spoilt::No
            }
            2 => {
                let size = self.random.pick(&[known + 8, PAGE, PAGE + 8]);
                bytes.resize(size, 0);
                bytes[size - 1] = 1;
                set_size(bytes, size);
                Spoilt::Must(Errno::TOOBIG)
            }
            3 => {
                bytes[FLAGS + 1 + usize::try_from(self.random.below(3)).expect("small")] = 0x40;
                Spoilt::Must(Errno::INVAL)
            }
            _ if !shape.reserved.is_empty() => {
                let at = self.random.pick(shape.reserved);
                bytes[at..at + 4].copy_from_slice(&self.random.pick(&[1_u32, 1 << 31]).to_ne_bytes());
                Spoilt::Must(Errno::INVAL)
            }
            _ => Spoilt::No,
        }
    }

    /// Changes one word of an argument to a special value, or flips a bit of it.
    fn change_a_word(&mut self, shape: &Shape, bytes: &mut [u8]) {
        let words = (bytes.len() / 4) as u64;
        let at = usize::try_from(1 + self.random.below(words - 1)).expect("a word") * 4;
        if shape.is_address(at) {
            return;
        }
        let old = u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let bit = 1 << self.random.below(32);
        let new = self.random.pick(&[
            0,
            1,
            2,
            u32::MAX,
            1 << 31,
            4096,
            old ^ bit,
            old ^ bit,
            old.wrapping_add(1),
            old.wrapping_sub(1),
        ]);
        bytes[at..at + 4].copy_from_slice(&new.to_ne_bytes());
    }
}

/// There is nothing to do: yield to other threads.
pub(super) fn rest() {
    std::thread::sleep(REST);
}

impl Shape {
    fn is_address(&self, at: usize) -> bool {
        self.addresses.iter().any(|address| (*address..address + 8).contains(&at))
    }
}
