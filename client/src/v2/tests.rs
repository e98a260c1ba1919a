// SPDX-License-Identifier: MIT OR Apache-2.0
//! The serve loop against a fake kernel: what the tests share.

mod allocations;
mod asynchronous;
mod blocking;
mod builder;
mod declared;
#[cfg(feature = "tokio")]
mod executor;
mod life;
mod memory;
mod model;
mod owned;
mod owned_held;

use super::fake::{Answer, Fake, Spec, Step};
use super::geometry::{Geometry, Wanted};
use super::serve::serve_with;
use super::{
    Answers, Backend, Builder, Capabilities, End, Event, Identity, Info, Region, ServeOptions, ThreadModel,
    UNLIMITED, Zero,
};
use crate::{BadRequest, Errno, Error, Result, SparseMemory, StopToken};
use proptest::prelude::*;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use zosbd2_abi::v2;

const SIZE: u64 = 1 << 20;
const MAX_IO: u32 = 16384;
const EIO: i64 = -5;

/// Serves until the script ends.
fn serve(fake: &Fake, backend: &impl Backend) -> Result<End> {
    serve_in_batches(fake, backend, 32)
}

fn serve_in_batches(fake: &Fake, backend: &impl Backend, batch: usize) -> Result<End> {
    let options = ServeOptions::default().batch(batch);
    serve_with(fake, backend, &options, &StopToken::new(), || Ok(()), |_| panic!("no stop was requested"))
}

fn requests(specs: &[Spec]) -> Step {
    Step::Requests(specs.to_vec())
}

/// A store without regions that records its calls.
struct Plain {
    bytes: Mutex<Vec<u8>>,
    diary: Mutex<Vec<String>>,
}

impl Plain {
    fn new() -> Self {
        Self { bytes: Mutex::new(vec![0; 1 << 20]), diary: Mutex::new(Vec::new()) }
    }

    fn note(&self, entry: String) {
        self.diary.lock().expect("diary").push(entry);
    }

    fn diary(&self) -> Vec<String> {
        self.diary.lock().expect("diary").clone()
    }

    fn range(offset: u64, length: usize) -> std::ops::Range<usize> {
        let offset = usize::try_from(offset).expect("offset");
        offset..offset + length
    }
}

impl Backend for Plain {
    fn size(&self) -> u64 {
        SIZE
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        buffer.copy_from_slice(&self.bytes.lock().expect("bytes")[Self::range(offset, buffer.len())]);
        Ok(())
    }

    fn write(&self, offset: u64, data: &mut [u8], fua: bool) -> Result<(), Errno> {
        self.note(format!("write {offset} {} {fua}", data.len()));
        self.bytes.lock().expect("bytes")[Self::range(offset, data.len())].copy_from_slice(data);
        Ok(())
    }

    fn flush(&self) -> Result<(), Errno> {
        self.note("flush".to_owned());
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), Errno> {
        self.note(format!("discard {offset} {length}"));
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, length: u64, zero: Zero) -> Result<(), Errno> {
        self.note(format!("zero {offset} {length} {} {}", zero.unmap, zero.fua));
        let length = usize::try_from(length).expect("length");
        self.bytes.lock().expect("bytes")[Self::range(offset, length)].fill(0);
        Ok(())
    }
}

/// Offers a region for the first half only, and a too long one at 4096.
struct Half {
    memory: SparseMemory,
    writes: AtomicUsize,
}

impl Backend for Half {
    fn size(&self) -> u64 {
        SIZE
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        self.memory.read_at(offset, buffer).map_err(|_| Errno::IO)
    }

    fn write(&self, offset: u64, data: &mut [u8], _: bool) -> Result<(), Errno> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.memory.write_at(offset, data).map_err(|_| Errno::IO)
    }

    fn region(&self, offset: u64, length: usize) -> Option<Region<'_>> {
        let extra = usize::from(offset == 4096);
        let region = self.memory.region(offset, length + extra).ok();
        region.filter(|_| offset < SIZE / 2)
    }
}

/// Destroys the fake as a `Control` does: it fails while the device is open.
fn busy(device: &str) -> Error {
    Error::Control {
        operation: "destroy device",
        object: device.to_owned(),
        hint: "".into(),
        source: Errno::BUSY,
    }
}
