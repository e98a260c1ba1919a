// SPDX-License-Identifier: MIT OR Apache-2.0
//! The disk /dev/zosbd2-slow, until Ctrl-C: 64 MiB of memory that answers after 100 ms, as a store behind a network does.
//! Hundreds of requests wait at the same time, on one thread.

use std::sync::{Arc, RwLock};
use std::time::Duration;
use zosbd2::{AsyncBackend, Builder, Errno};

const LATENCY: Duration = Duration::from_millis(100);
const SIZE: usize = 64 << 20;

struct Slow(RwLock<Vec<u8>>);

impl AsyncBackend for Slow {
    fn size(&self) -> u64 {
        SIZE as u64
    }

    async fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        tokio::time::sleep(LATENCY).await;
        let start = usize::try_from(offset).map_err(|_| Errno::IO)?;
        let memory = self.0.read().map_err(|_| Errno::IO)?;
        buffer.copy_from_slice(&memory[start..start + buffer.len()]);
        Ok(())
    }

    async fn write(&self, offset: u64, data: &mut [u8], _fua: bool) -> Result<(), Errno> {
        tokio::time::sleep(LATENCY).await;
        let start = usize::try_from(offset).map_err(|_| Errno::IO)?;
        let mut memory = self.0.write().map_err(|_| Errno::IO)?;
        memory[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // This thread carries out the requests.
    if let Err(error) = zosbd2::prepare_thread() {
        eprintln!("no I/O flusher, do not swap to this disk: {error}");
    }
    let slow = Arc::new(Slow(RwLock::new(vec![0; SIZE])));
    let ready = |path: std::path::PathBuf| println!("serving {}", path.display());
    if let Err(error) = Builder::new("slow").serve_tokio_then(slow, ready).await {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
