// SPDX-License-Identifier: MIT OR Apache-2.0
//! The disk /dev/zosbd2-hello: the file hello.img, until Ctrl-C. Started again after its death, it goes on.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use zosbd2::{Backend, Builder, Capabilities, Errno};

struct Image(File);

fn done(result: std::io::Result<()>) -> Result<(), Errno> {
    result.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

impl Backend for Image {
    fn size(&self) -> u64 {
        64 << 20
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.volatile_cache = true; // the page cache, until a flush;
        capabilities.cache_survives = true; // the death of this process does not empty it
        capabilities
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        done(self.0.read_exact_at(buffer, offset))
    }

    fn write(&self, offset: u64, data: &mut [u8], _fua: bool) -> Result<(), Errno> {
        done(self.0.write_all_at(data, offset))
    }

    fn flush(&self) -> Result<(), Errno> {
        done(self.0.sync_data())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = File::options().read(true).write(true).create(true).truncate(false).open("hello.img")?;
    file.set_len(64 << 20)?; // a hole, or what is there
    let inode = file.metadata()?.ino().to_le_bytes(); // another hello.img is another disk
    Builder::new("hello").identity(&inode).on_event(|event| eprintln!("{event}")).serve(&Image(file))?;
    Ok(())
}
