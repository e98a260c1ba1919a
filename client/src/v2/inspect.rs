// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls that look at a device, for servers and observers.
//!
//! Nothing here changes the device, and nothing waits for servers or requests, so the calls also work on a
//! stuck device.

use super::control::failed;
use super::{Latency, Outstanding, Stats, Status, Users};
use crate::sys::ioctl2;
use crate::{Error, Result};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use zosbd2_abi::v2;

/// The right to look at a device of either version, from [`Control::observe`](super::Control::observe). An
/// observer does not keep the device alive and is no server.
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

    /// Properties and state of the device.
    pub fn status(&self) -> Result<Status> {
        status(self.fd.as_fd(), &self.name)
    }

    /// The counters of one queue.
    pub fn stats(&self, queue: u32) -> Result<Stats> {
        stats(self.fd.as_fd(), &self.name, queue)
    }

    /// The latency histograms of one queue.
    pub fn latency(&self, queue: u32) -> Result<Latency> {
        latency(self.fd.as_fd(), &self.name, queue)
    }

    /// The unanswered requests of one queue that were submitted at least `age` ago.
    pub fn requests(&self, queue: u32, age: Duration) -> Result<Vec<Outstanding>> {
        requests(self.fd.as_fd(), &self.name, queue, age)
    }

    /// What uses the disk, as far as this process can see. Takes half a second at most, and does no I/O on the disk.
    pub fn users(&self) -> Result<Users> {
        Ok(self.status()?.device_number.map(Users::of).unwrap_or_default())
    }

    /// The blob of the device.
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
    ioctl2::status(fd, &mut raw).map_err(|source| failed("get the status of device", name, source))?;
    Ok(Status::from(&raw))
}

pub(super) fn stats(fd: BorrowedFd<'_>, name: &str, queue: u32) -> Result<Stats> {
    let mut raw = v2::Stats { queue, ..v2::Stats::default() };
    ioctl2::stats(fd, &mut raw).map_err(|source| failed("get the counters of device", name, source))?;
    Ok(Stats::from(&raw))
}

pub(super) fn latency(fd: BorrowedFd<'_>, name: &str, queue: u32) -> Result<Latency> {
    let mut raw = v2::Latency { queue, ..v2::Latency::default() };
    ioctl2::latency(fd, &mut raw).map_err(|source| failed("get the latencies of device", name, source))?;
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
            .map_err(|source| failed("list the requests of device", name, source))?;
        if total <= room {
            return Ok(entries.iter().take(count).map(Outstanding::from).collect());
        }
        // Leaves room for requests that come between the two calls.
        room = total.saturating_add(128);
    }
}

pub(super) fn blob(fd: BorrowedFd<'_>, name: &str) -> Result<Vec<u8>> {
    let mut raw = v2::Blob::default();
    ioctl2::blob(fd, &mut raw).map_err(|source| failed("read the blob of device", name, source))?;
    Ok(raw.bytes.iter().take(raw.length as usize).copied().collect())
}

pub(super) fn set_blob(fd: BorrowedFd<'_>, name: &str, bytes: &[u8]) -> Result<()> {
    let mut raw = v2::Blob { flags: v2::BLOB_WRITE, ..v2::Blob::default() };
    let Some(place) = raw.bytes.get_mut(..bytes.len()) else {
        return Err(Error::Range {
            operation: "write the blob of",
            name: name.to_owned(),
            option: "number of bytes",
            value: bytes.len() as u64,
            min: 0,
            max: v2::BLOB_BYTES as u64,
        });
    };
    place.copy_from_slice(bytes);
    raw.length = u32::try_from(bytes.len()).unwrap_or(0);
    ioctl2::blob(fd, &mut raw).map_err(|source| failed("write the blob of device", name, source))
}
