// SPDX-License-Identifier: MIT OR Apache-2.0
//! The counters of a disk at one moment, all queues together.

use crate::failure::Result;
use crate::latency::Histogram;
use zosbd2::v2::abi;
use zosbd2::{Control, Errno, Error, Which};

/// Counters since the disk was made, and what is in flight now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) name: String,
    /// Tells a disk from a later one of that name.
    pub(crate) handle: u32,
    /// Answered reads and writes.
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    /// Answered requests of other operations: discards, flushes, write-zeroes, secure erases.
    pub(crate) others: u64,
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
    /// Requests that the server failed.
    pub(crate) failed: u64,
    /// Requests that passed their deadline.
    pub(crate) late: u64,
    /// Answers that came too late.
    pub(crate) stale: u64,
    /// Requests that are not answered, now.
    pub(crate) in_flight: u64,
    pub(crate) waiting: Histogram,
    pub(crate) serving: Histogram,
    pub(crate) total: Histogram,
}

impl Sample {
    /// Looks at a device. `None` if it is gone.
    pub(crate) fn take(control: &Control, device: Which<'_>) -> Result<Option<Self>> {
        match Self::look(control, device) {
            Ok(sample) => Ok(Some(sample)),
            Err(Error::Control { source: Errno::NODEV | Errno::NOENT | Errno::STALE, .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn look(control: &Control, device: Which<'_>) -> zosbd2::Result<Self> {
        let observer = control.observe(device)?;
        let status = observer.status()?;
        let mut sample = Self { name: status.name, handle: status.handle, ..Self::default() };
        for queue in 0..status.queues {
            let counts = observer.stats(queue)?;
            for (operation, counts) in (0..).zip(counts.operations) {
                let sum = match operation {
                    abi::OP_READ => &mut sample.reads,
                    abi::OP_WRITE => &mut sample.writes,
                    _ => &mut sample.others,
                };
                *sum = sum.wrapping_add(counts.committed);
            }
            sample.read_bytes = sample.read_bytes.wrapping_add(counts.read_bytes);
            sample.written_bytes = sample.written_bytes.wrapping_add(counts.written_bytes);
            sample.failed = sample.failed.wrapping_add(counts.failed);
            sample.late = sample.late.wrapping_add(counts.expired);
            sample.stale = sample.stale.wrapping_add(counts.stale);
            sample.in_flight += u64::from(counts.queued) + u64::from(counts.held);
            let latency = observer.latency(queue)?;
            sample.waiting.add(&latency.waiting);
            sample.serving.add(&latency.serving);
            sample.total.add(&latency.total);
        }
        Ok(sample)
    }

    /// What was counted since an earlier sample of this disk. What is in flight is as it is now.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            name: self.name.clone(),
            handle: self.handle,
            reads: self.reads.wrapping_sub(earlier.reads),
            writes: self.writes.wrapping_sub(earlier.writes),
            others: self.others.wrapping_sub(earlier.others),
            read_bytes: self.read_bytes.wrapping_sub(earlier.read_bytes),
            written_bytes: self.written_bytes.wrapping_sub(earlier.written_bytes),
            failed: self.failed.wrapping_sub(earlier.failed),
            late: self.late.wrapping_sub(earlier.late),
            stale: self.stale.wrapping_sub(earlier.stale),
            in_flight: self.in_flight,
            waiting: self.waiting - earlier.waiting,
            serving: self.serving - earlier.serving,
            total: self.total - earlier.total,
        }
    }
}
