// SPDX-License-Identifier: GPL-2.0-only
//! The bodies of the fuzz targets. Each takes arbitrary bytes and panics if it finds a defect.
//!
//! `fuzz/` builds them for libFuzzer; `tests/corpus.rs` runs them over the stored inputs.

mod decode;
mod engine;

pub use decode::decode;
pub use engine::engine;

/// A target: its name and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 2] = [("decode", decode), ("engine", engine)];

/// Takes numbers from bytes, and zeros when the bytes are used up.
#[derive(Debug)]
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn array<const COUNT: usize>(&mut self) -> [u8; COUNT] {
        let mut array = [0; COUNT];
        let (now, rest) = self.0.split_at(COUNT.min(self.0.len()));
        array[..now.len()].copy_from_slice(now);
        self.0 = rest;
        array
    }

    fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A number below `end`.
    fn below(&mut self, end: u8) -> u8 {
        self.u8() % end
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::from(self.u8()) % of.len()]
    }

    const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
