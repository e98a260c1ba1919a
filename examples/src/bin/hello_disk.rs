// SPDX-License-Identifier: MIT OR Apache-2.0
//! The disk /dev/zosbd2-hello: 64 MiB of memory, until Ctrl-C.

use std::sync::RwLock;
use zosbd2::{Backend, Builder, Errno};

struct Memory(RwLock<Vec<u8>>);

impl Backend for Memory {
    fn size(&self) -> u64 {
        64 << 20
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        let start = usize::try_from(offset).map_err(|_| Errno::IO)?;
        let memory = self.0.read().map_err(|_| Errno::IO)?;
        buffer.copy_from_slice(&memory[start..start + buffer.len()]);
        Ok(())
    }

    fn write(&self, offset: u64, data: &mut [u8], _fua: bool) -> Result<(), Errno> {
        let start = usize::try_from(offset).map_err(|_| Errno::IO)?;
        let mut memory = self.0.write().map_err(|_| Errno::IO)?;
        memory[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }
}

fn main() {
    let memory = Memory(RwLock::new(vec![0; 64 << 20]));
    let served = Builder::new("hello").serve_then(&memory, |path| println!("serving {}", path.display()));
    if let Err(error) = served {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
