// SPDX-License-Identifier: MIT OR Apache-2.0
//! A kernel in memory, to test backends, servers and layers with `cargo test`: no root and no module.
//!
//! ```
//! use std::sync::Arc;
//! use zosbd2::testing::{Io, Kernel};
//! use zosbd2::{Builder, ServeOptions, SparseMemory, TakeOver};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let kernel = Kernel::new(42);
//! let store = Arc::new(SparseMemory::new(1 << 20)?); // or a backend of your own
//! let builder = Builder::new("disk").for_backend(&*store);
//! let serving = kernel.create(&builder)?.spawn(store.clone(), ServeOptions::default());
//! let disk = kernel.disk("disk")?;
//! disk.write(4096, &[7; 4096])?;
//!
//! // The server dies. What is submitted now waits for the next one.
//! serving.kill();
//! let read = disk.submit(Io::read(4096, 512))?;
//! assert!(!read.is_done());
//! let serving = kernel.attach("disk", TakeOver::No)?.spawn(store, ServeOptions::default());
//! assert_eq!(read.wait()?, [7; 512]);
//!
//! drop(disk); // a disk in use is not destroyed
//! serving.stop()?;
//! # Ok(())
//! # }
//! ```
//!
//! | part | what it does |
//! |---|---|
//! | [`Kernel`] | creates, attaches, destroys |
//! | [`Server`] | the right to serve, a [`Channel`](super::Channel): by hand with `enter`, or with the library's lanes |
//! | [`Disk`] | reads, writes, flushes, ... as users of the block device do |
//! | [`contract`] | what the fake and the real kernel have in common, as test cases |
//!
//! It does what `docs/abi-v2.md` says of ENTER, of life and death, of take-overs and deadlines, and of caches. It differs
//! from the kernel in this: there are no partitions, merges, page cache and scheduler; [`Server::kill`] cannot end the
//! threads of a server, so [`Serving::kill`] waits for them; timers are looked at about every 10 ms, by threads that wait.
//! The seed decides the handles, and which calls that would sleep end as if a signal had come. All else depends only on the
//! order of calls, so a test with one thread at a time is the same each time.

mod cache;
pub mod contract;
mod device;
mod disk;
mod enter;
mod server;
#[cfg(test)]
mod tests;

use self::device::Device;
use super::control::failed;
use super::{Builder, Info, State, Status, TakeOver};
use crate::{Errno, Result};
pub use disk::{Disk, Io, Pending};
#[cfg(feature = "tokio")]
pub(in crate::v2) use server::Sleep;
pub use server::{Server, Serving};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use zosbd2_abi::v2;

/// A kernel in memory. Clones are the same kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    seed: u64,
    devices: Arc<Mutex<Vec<Arc<Device>>>>,
}

impl Kernel {
    /// A kernel without devices.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, devices: Arc::default() }
    }

    /// Creates a device, as [`Control::create`](super::Control::create) does.
    pub fn create(&self, builder: &Builder) -> Result<Server> {
        let create = builder.to_raw(&limits())?;
        let mut devices = self.lock();
        devices.retain(|device| device.status().state != State::Destroyed);
        if devices.iter().any(|device| device.name() == builder.name()) {
            return Err(failed("create device", builder.name(), Errno::EXIST));
        }
        let seed = self.seed.wrapping_add(devices.len() as u64);
        let device = Arc::new(Device::new(&create, seed));
        devices.push(device.clone());
        Ok(Server::new(device, 1))
    }

    /// Becomes the server of a device, as [`Control::attach`](super::Control::attach) does.
    pub fn attach(&self, name: &str, take_over: TakeOver) -> Result<Server> {
        let device = self.find("attach to device", name)?;
        let epoch = device.attach(take_over == TakeOver::Yes);
        epoch
            .map(|epoch| Server::new(device, epoch))
            .map_err(|source| failed("attach to device", name, source))
    }

    /// Opens a device. Waits up to 10 s for its start.
    pub fn disk(&self, name: &str) -> Result<Disk> {
        let device = self.find("open device", name)?;
        Disk::open(device).map_err(|source| failed("open device", name, source))
    }

    /// Destroys a device, also one that is in use with `force`.
    pub fn destroy(&self, name: &str, force: bool) -> Result<()> {
        let device = self.find("destroy device", name)?;
        device.destroy(force).map_err(|source| failed("destroy device", name, source))
    }

    /// Properties and state of a device.
    pub fn status(&self, name: &str) -> Result<Status> {
        Ok(self.find("get the status of device", name)?.status())
    }

    fn find(&self, operation: &'static str, name: &str) -> Result<Arc<Device>> {
        let devices = self.lock();
        let found = devices.iter().rev().find(|device| device.name() == name);
        let live = found.filter(|device| device.status().state != State::Destroyed);
        live.cloned().ok_or_else(|| failed(operation, name, Errno::NOENT))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Device>>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The limits of this kernel.
fn limits() -> Info {
    Info::from(&v2::Info {
        version: 2,
        max_devices: 1024,
        operations: (1 << v2::OPERATIONS) - 1,
        max_queues: 64,
        max_depth: v2::MAX_DEPTH,
        max_block_size: v2::MAX_BLOCK_SIZE,
        max_io_bytes: v2::MAX_IO_BYTES,
        max_batch: v2::MAX_BATCH,
        ..v2::Info::default()
    })
}
