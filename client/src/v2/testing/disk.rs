// SPDX-License-Identifier: MIT OR Apache-2.0
//! The block device as its users see it: blocking calls, and requests that are submitted and waited for later.
//!
//! An open [`Disk`] keeps its device from being destroyed without force. Any thread may call any function.

use super::device::{Device, Done};
use crate::Errno;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zosbd2_abi::v2;

/// How long an open waits for the start of the device.
const PATIENCE: Duration = Duration::from_secs(10);

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Io {
    op: u32,
    flags: u32,
    offset: u64,
    length: u64,
    data: Vec<u8>,
}

impl Io {
    fn new(op: u32, offset: u64, length: u64) -> Self {
        Self { op, flags: 0, offset, length, data: Vec::new() }
    }

    /// Reads bytes.
    #[must_use]
    pub fn read(offset: u64, length: u64) -> Self {
        Self::new(v2::OP_READ, offset, length)
    }

    /// Writes bytes.
    #[must_use]
    pub fn write(offset: u64, data: &[u8]) -> Self {
        Self { data: data.to_vec(), ..Self::new(v2::OP_WRITE, offset, data.len() as u64) }
    }

    /// Flushes.
    #[must_use]
    pub fn flush() -> Self {
        Self::new(v2::OP_FLUSH, 0, 0)
    }

    /// Discards bytes.
    #[must_use]
    pub fn discard(offset: u64, length: u64) -> Self {
        Self::new(v2::OP_DISCARD, offset, length)
    }

    /// Makes bytes zero.
    #[must_use]
    pub fn write_zeroes(offset: u64, length: u64) -> Self {
        Self::new(v2::OP_WRITE_ZEROES, offset, length)
    }

    /// Makes bytes unrecoverable.
    #[must_use]
    pub fn secure_erase(offset: u64, length: u64) -> Self {
        Self::new(v2::OP_SECURE_ERASE, offset, length)
    }

    /// The same; a write or zeros must be durable when they are answered.
    #[must_use]
    pub fn durable(mut self) -> Self {
        self.flags |= v2::REQUEST_FUA;
        self
    }

    /// The same; the space of zeros must stay allocated.
    #[must_use]
    pub fn allocated(mut self) -> Self {
        self.flags |= v2::REQUEST_NO_UNMAP;
        self
    }

    /// Its operation: one of the `OP_` numbers of [`abi`](crate::v2::abi).
    #[must_use]
    pub fn op(&self) -> u32 {
        self.op
    }

    /// First byte.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Length in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The data of a write.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Whether it must be durable.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.flags & v2::REQUEST_FUA != 0
    }
}

/// A submitted request.
#[derive(Debug)]
#[must_use = "the result may be an error"]
pub struct Pending {
    device: Arc<Device>,
    done: Done,
}

impl Pending {
    /// Whether the request has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done.get().is_some()
    }

    /// Waits for the end of the request, and returns the data of a read.
    pub fn wait(self) -> Result<Vec<u8>, Errno> {
        let mut state = self.device.lock();
        loop {
            if let Some(result) = self.done.get() {
                return result.clone();
            }
            state = self.device.wait(state);
        }
    }
}

/// An open block device.
#[derive(Debug)]
pub struct Disk {
    device: Arc<Device>,
    queue: u32,
}

impl Clone for Disk {
    fn clone(&self) -> Self {
        self.device.lock().raw.opens += 1;
        Self { device: self.device.clone(), queue: self.queue }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.device.lock().raw.opens -= 1;
    }
}

impl Disk {
    pub(super) fn open(device: Arc<Device>) -> Result<Self, Errno> {
        let until = Instant::now() + PATIENCE;
        let mut state = device.lock();
        while state.raw.state == v2::STATE_CREATED && Instant::now() < until {
            state = device.wait(state);
        }
        if matches!(state.raw.state, v2::STATE_CREATED | v2::STATE_DESTROYED) {
            return Err(Errno::NXIO);
        }
        state.raw.opens += 1;
        drop(state);
        Ok(Self { device, queue: 0 })
    }

    /// The same disk, used from a processor of this queue.
    ///
    /// # Panics
    ///
    /// If there is no such queue.
    #[must_use]
    pub fn on_queue(&self, queue: u32) -> Self {
        assert!(queue < self.raw().queues, "the device has no queue {queue}");
        let mut disk = self.clone();
        disk.queue = queue;
        disk
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.raw().size_bytes
    }

    /// Submits one request; it is not split. Waits if the queue is full.
    ///
    /// # Errors
    ///
    /// What the block layer does not pass on: `EINVAL` for a range that does not consist of blocks or is too long,
    /// `EPERM` for writing to a read-only disk, `EOPNOTSUPP` for an operation that the device does not have, `EIO`
    /// beyond the end or if the device has failed.
    pub fn submit(&self, io: Io) -> Result<Pending, Errno> {
        let raw = self.raw();
        let cached = raw.create_flags & v2::CREATE_VOLATILE_CACHE != 0;
        let most = match io.op {
            v2::OP_READ | v2::OP_WRITE => raw.max_io_bytes,
            v2::OP_DISCARD => raw.max_discard_bytes,
            v2::OP_WRITE_ZEROES => raw.max_write_zeroes_bytes,
            v2::OP_SECURE_ERASE => raw.max_secure_erase_bytes,
            _ => u32::from(cached),
        };
        if most == 0 {
            return Err(Errno::OPNOTSUPP);
        }
        let block = u64::from(raw.logical_block_size);
        let flush = io.op == v2::OP_FLUSH;
        if !flush && (io.length == 0 || io.length > most.into() || (io.offset | io.length) % block != 0) {
            return Err(Errno::INVAL);
        }
        if io.op != v2::OP_READ && !flush && raw.create_flags & v2::CREATE_READ_ONLY != 0 {
            return Err(Errno::PERM);
        }
        let Io { op, offset, length, data, .. } = io;
        let fua = raw.create_flags & v2::CREATE_FUA != 0;
        let flags = io.flags & if fua { u32::MAX } else { !v2::REQUEST_FUA };
        let request = v2::Request { op, flags, offset, length, ..v2::Request::default() };
        let done = self.device.submit(self.queue, request, data)?;
        Ok(Pending { device: self.device.clone(), done })
    }

    /// Reads.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        let pieces = self.pieces(offset, buffer.len() as u64, self.raw().max_io_bytes);
        let all: Vec<_> =
            pieces.map(|(at, length)| self.submit(Io::read(at, length))).collect::<Result<_, _>>()?;
        let mut rest = buffer;
        for pending in all {
            let data = pending.wait()?;
            let (part, tail) = rest.split_at_mut(data.len());
            part.copy_from_slice(&data);
            rest = tail;
        }
        Ok(())
    }

    /// Writes.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.write_all(offset, data, false)
    }

    /// Writes, and makes it durable: with FUA if the device has it, otherwise with a flush.
    pub fn write_durably(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.write_all(offset, data, true)?;
        if self.raw().create_flags & v2::CREATE_FUA == 0 { self.flush() } else { Ok(()) }
    }

    fn write_all(&self, offset: u64, data: &[u8], durable: bool) -> Result<(), Errno> {
        let pieces = self.pieces(offset, data.len() as u64, self.raw().max_io_bytes);
        self.each(pieces, |at, length| {
            let start = usize::try_from(at - offset).unwrap_or(usize::MAX);
            let io = Io::write(at, &data[start..][..usize::try_from(length).unwrap_or(usize::MAX)]);
            if durable { io.durable() } else { io }
        })
    }

    /// Flushes. Without a volatile cache no request is needed.
    pub fn flush(&self) -> Result<(), Errno> {
        match self.submit(Io::flush()) {
            Ok(pending) => pending.wait().map(drop),
            Err(Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Discards.
    pub fn discard(&self, offset: u64, length: u64) -> Result<(), Errno> {
        let most = self.raw().max_discard_bytes;
        self.each(self.pieces(offset, length, most), Io::discard)
    }

    /// Makes bytes zero. If the device or its server cannot, zeros are written.
    pub fn write_zeroes(&self, offset: u64, length: u64) -> Result<(), Errno> {
        let (most, longest) = {
            let raw = self.raw();
            (raw.max_write_zeroes_bytes, raw.max_io_bytes)
        };
        match self.each(self.pieces(offset, length, most), Io::write_zeroes) {
            Err(Errno::OPNOTSUPP) => self.each(self.pieces(offset, length, longest), |at, length| {
                Io::write(at, &vec![0; usize::try_from(length).unwrap_or(0)])
            }),
            other => other,
        }
    }

    /// Makes bytes unrecoverable.
    pub fn secure_erase(&self, offset: u64, length: u64) -> Result<(), Errno> {
        let most = self.raw().max_secure_erase_bytes;
        self.each(self.pieces(offset, length, most), Io::secure_erase)
    }

    fn raw(&self) -> v2::Status {
        self.device.lock().raw
    }

    /// The requests for a range: offset and length of each.
    fn pieces(&self, offset: u64, length: u64, most: u32) -> impl Iterator<Item = (u64, u64)> + use<> {
        let block = u64::from(self.raw().logical_block_size);
        // Without a limit the request is refused when it is submitted.
        let step = (u64::from(most) / block * block).max(block);
        (0..length.div_ceil(step)).map(move |n| (offset + n * step, step.min(length - n * step)))
    }

    /// Submits all, and waits for all.
    fn each(
        &self,
        pieces: impl Iterator<Item = (u64, u64)>,
        io: impl Fn(u64, u64) -> Io,
    ) -> Result<(), Errno> {
        let all: Vec<_> = pieces.map(|(at, length)| self.submit(io(at, length))).collect();
        let waited: Vec<_> = all.into_iter().map(|pending| pending?.wait().map(drop)).collect();
        waited.into_iter().collect()
    }
}
