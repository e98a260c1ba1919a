// SPDX-License-Identifier: MIT OR Apache-2.0
//! The disk /dev/zosbd2-slow, until Ctrl-C: 64 MiB of memory that answers after 100 ms, as a store behind a network does.
//! Hundreds of requests wait at the same time, on one thread.
//! The memory goes with the program, so the disk does, too, if the program is killed.

use std::sync::{Arc, RwLock};
use std::time::Duration;
use zosbd2::{AsyncBackend, Builder, Capabilities, Errno};

const LATENCY: Duration = Duration::from_millis(100);
const SIZE: usize = 64 << 20;

struct Slow(RwLock<Vec<u8>>);

impl AsyncBackend for Slow {
    fn size(&self) -> u64 {
        SIZE as u64
    }

    fn capabilities(&self) -> Capabilities {
        // The next process has other memory: it must not go on with the disk of this one.
        Capabilities::default().ephemeral(true)
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
async fn main() -> zosbd2::Result<()> {
    // This thread carries out the requests.
    if let Err(error) = zosbd2::prepare_thread() {
        eprintln!("no I/O flusher, do not swap to this disk: {error}");
    }
    let slow = Arc::new(Slow(RwLock::new(vec![0; SIZE])));
    let builder = Builder::new("slow").auto_destroy(true).grace(Duration::ZERO);
    builder.on_event(|event| eprintln!("{event}")).serve_tokio(slow).await?;
    Ok(())
}
