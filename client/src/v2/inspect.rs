// SPDX-License-Identifier: MIT OR Apache-2.0
//! Looking at a device: what servers, and those who only look on, can ask of a descriptor.
//!
//! Nothing here changes anything, and nothing waits for servers or requests: it works on a device that is stuck, too.

use super::control::failed;
use super::{Latency, Outstanding, Stats, Status};
use crate::sys::ioctl2;
use crate::{Error, Result};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use zosbd2_abi::v2;

/// The right to look at a device of either version, from [`Control::observe`](super::Control::observe). It keeps no
/// device, and is no server: when all servers are gone, it does not matter.
#[derive(Debug)]
pub struct Observer {
    fd: OwnedFd,
    name: String,
}

impl Observer {
    pub(super) fn new(fd: OwnedFd, name: &str) -> Self {
        Self { fd, name: name.to_owned() }
    }

    /// Name of the device.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the device is and how it is.
    pub fn status(&self) -> Result<Status> {
        status(self.fd.as_fd(), &self.name)
    }

    /// The counters of one queue.
    pub fn stats(&self, queue: u32) -> Result<Stats> {
        stats(self.fd.as_fd(), &self.name, queue)
    }

    /// How long the requests of one queue took.
    pub fn latency(&self, queue: u32) -> Result<Latency> {
        latency(self.fd.as_fd(), &self.name, queue)
    }

    /// The requests of one queue that are not answered and came at least so long ago.
    pub fn requests(&self, queue: u32, age: Duration) -> Result<Vec<Outstanding>> {
        requests(self.fd.as_fd(), &self.name, queue, age)
    }

    /// What is kept for the device's servers.
    pub fn blob(&self) -> Result<Vec<u8>> {
        blob(self.fd.as_fd(), &self.name)
    }
}

impl AsFd for Observer {
    /// For calls that this library does not make.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

pub(super) fn status(fd: BorrowedFd<'_>, name: &str) -> Result<Status> {
    let mut raw = v2::Status::default();
    ioctl2::status(fd, &mut raw).map_err(|source| failed("ask for the status of device", name, source))?;
    Ok(Status::from(&raw))
}

pub(super) fn stats(fd: BorrowedFd<'_>, name: &str, queue: u32) -> Result<Stats> {
    let mut raw = v2::Stats { queue, ..v2::Stats::default() };
    ioctl2::stats(fd, &mut raw).map_err(|source| failed("ask for the counters of device", name, source))?;
    Ok(Stats::from(&raw))
}

pub(super) fn latency(fd: BorrowedFd<'_>, name: &str, queue: u32) -> Result<Latency> {
    let mut raw = v2::Latency { queue, ..v2::Latency::default() };
    ioctl2::latency(fd, &mut raw)
        .map_err(|source| failed("ask for the latencies of device", name, source))?;
    Ok(Latency::from(&raw))
}

pub(super) fn requests(
    fd: BorrowedFd<'_>,
    name: &str,
    queue: u32,
    age: Duration,
) -> Result<Vec<Outstanding>> {
    let age_ms = u32::try_from(age.as_millis()).unwrap_or(u32::MAX);
    let mut room = 128;
    loop {
        let mut entries = vec![v2::Outstanding::default(); room];
        let (count, total) = ioctl2::requests(fd, queue, age_ms, &mut entries)
            .map_err(|source| failed("ask for the requests of device", name, source))?;
        if total <= room {
            return Ok(entries.iter().take(count).map(Outstanding::from).collect());
        }
        // More may come while we ask again.
        room = total.saturating_add(128);
    }
}

pub(super) fn blob(fd: BorrowedFd<'_>, name: &str) -> Result<Vec<u8>> {
    let mut raw = v2::Blob::default();
    ioctl2::blob(fd, &mut raw)
        .map_err(|source| failed("read what is kept for the servers of device", name, source))?;
    Ok(raw.bytes.iter().take(raw.length as usize).copied().collect())
}

pub(super) fn set_blob(fd: BorrowedFd<'_>, name: &str, bytes: &[u8]) -> Result<()> {
    let mut raw = v2::Blob { flags: v2::BLOB_WRITE, ..v2::Blob::default() };
    let Some(place) = raw.bytes.get_mut(..bytes.len()) else {
        return Err(Error::Range {
            operation: "keep bytes for the servers of",
            name: name.to_owned(),
            option: "number of bytes",
            value: bytes.len() as u64,
            min: 0,
            max: v2::BLOB_BYTES as u64,
        });
    };
    place.copy_from_slice(bytes);
    raw.length = u32::try_from(bytes.len()).unwrap_or(0);
    ioctl2::blob(fd, &mut raw).map_err(|source| failed("keep bytes for the servers of device", name, source))
}
