// SPDX-License-Identifier: MIT OR Apache-2.0
//! A server that can die at any moment: a separate process, with a disk in a file, and a volatile cache.
//!
//! Written data stays in the cache until a flush, or FUA, puts it into the file. Now and then a block goes into
//! the file by itself, in any order. The file is what the disk has after a power failure.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use zosbd2::{
    Backend, Builder, Capabilities, Control, Errno, Error, ServeOptions, Server, StopToken, TakeOver,
};

use super::cache::Cache;
use crate::guest::{Patience, Random};

/// Unit in which data goes into the file, in bytes.
pub(super) const BLOCK: u64 = 4096;

/// Behaviour of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Behaves as a disk with a volatile cache must.
    Honest,
    /// Answers flushes without flushing.
    LiesAboutFlush,
    /// Treats a FUA write like any other write.
    LiesAboutFua,
    /// Does not pass its cache on, but its successor states that the cache survived.
    LosesCache,
    /// Does not pass its cache on, and its successor states so.
    OwnCache,
    /// Has no cache.
    WriteThrough,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::Honest,
        Self::LiesAboutFlush,
        Self::LiesAboutFua,
        Self::LosesCache,
        Self::OwnCache,
        Self::WriteThrough,
    ];

    /// Whether the next server finds the cache.
    const fn shares_cache(self) -> bool {
        !matches!(self, Self::LosesCache | Self::OwnCache)
    }

    pub(super) fn word(self) -> String {
        format!("{self:?}")
    }
}

#[derive(Debug)]
struct Mortal {
    file: File,
    size: u64,
    kind: Kind,
    state: Mutex<(Cache, Random)>,
    /// Steps until the process kills itself.
    left: AtomicU64,
}

impl Mortal {
    /// Counts one step. The last one kills the process.
    fn step(&self) {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            let _ = kill_process(getpid(), Signal::KILL);
            // This thread does nothing more, whether or not the signal has arrived.
            loop {
                std::thread::park();
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, (Cache, Random)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a block of the cache into the file. At any time the block is in the cache or in the file.
    fn write_out(&self, cache: &mut Cache, block: u64) -> Result<(), Errno> {
        self.step();
        if let Some(data) = cache.get(block) {
            self.file.write_all_at(data, block * BLOCK).map_err(errno)?;
        }
        self.step();
        cache.forget(block).map_err(errno)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err wants")]
fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

fn blocks(offset: u64, data: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    (offset / BLOCK..).zip(data.chunks(usize::try_from(BLOCK).expect("small")))
}

impl Backend for Mortal {
    fn size(&self) -> u64 {
        self.size
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.logical_block_size = u32::try_from(BLOCK).expect("small");
        capabilities.volatile_cache = self.kind != Kind::WriteThrough;
        capabilities.cache_survives = self.kind != Kind::OwnCache;
        capabilities.write_through = !capabilities.volatile_cache;
        capabilities.fua = capabilities.volatile_cache;
        capabilities
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        let state = self.state();
        let step = usize::try_from(BLOCK).expect("small");
        for (block, place) in (offset / BLOCK..).zip(buffer.chunks_mut(step)) {
            match state.0.get(block) {
                Some(data) => place.copy_from_slice(data),
                None => self.file.read_exact_at(place, block * BLOCK).map_err(errno)?,
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &mut [u8], fua: bool) -> Result<(), Errno> {
        self.step();
        let mut state = self.state();
        let (cache, random) = &mut *state;
        let through = self.kind == Kind::WriteThrough || (fua && self.kind != Kind::LiesAboutFua);
        for (block, data) in blocks(offset, data) {
            cache.put(block, data).map_err(errno)?;
            if through {
                self.write_out(cache, block)?;
            }
        }
        // Any block may go to the disk at any time.
        if random.below(8) == 0 {
            let mut cached = cache.list();
            random.shuffle(&mut cached);
            if let Some(block) = cached.first() {
                self.write_out(cache, *block)?;
            }
        }
        drop(state);
        self.step();
        Ok(())
    }

    fn flush(&self) -> Result<(), Errno> {
        self.step();
        if self.kind != Kind::LiesAboutFlush {
            let mut state = self.state();
            let (cache, random) = &mut *state;
            let mut order = cache.list();
            random.shuffle(&mut order);
            for block in order {
                self.write_out(cache, block)?;
            }
        }
        self.step();
        Ok(())
    }
}

/// The role `--serve-mortal NAME FILE KIND SEED STEPS GRACE`: serves the file, and kills itself after STEPS steps.
/// Attaches to the device of that name, or creates it. A created device waits GRACE seconds for another server
/// when this one is dead; with 0 it is destroyed with the server. If it waits, FILE.cache has a copy of the cache,
/// which all servers share. Prints `serving` when it serves.
pub(crate) fn role(arguments: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    let [name, file, kind, seed, steps, grace] = arguments else {
        return Err("usage: --serve-mortal NAME FILE KIND SEED STEPS GRACE".into());
    };
    let kind = Kind::ALL.into_iter().find(|known| known.word() == **kind).ok_or("no such kind")?;
    let path = Path::new(file);
    let file = File::options().read(true).write(true).open(path)?;
    let size = file.metadata()?.len();
    let grace: u64 = grace.parse()?;
    let cache = if grace != 0 && kind.shares_cache() {
        Cache::outliving(&cache_of(path), size / BLOCK)?
    } else {
        Cache::default()
    };
    let mortal = Mortal {
        size,
        file,
        kind,
        state: Mutex::new((cache, Random::named(seed.parse()?, "server"))),
        left: AtomicU64::new(steps.parse()?),
    };
    let control = Control::open()?;
    let server = if control.status(name).is_ok() {
        control.attach_for(*name, TakeOver::No, &mortal)?
    } else {
        let builder = Builder::new(name)
            .for_backend(&mortal)
            .partition_scan(false)
            .grace(Duration::from_secs(grace))
            .auto_destroy(grace == 0);
        create(&control, &builder)?
    };
    let options = ServeOptions::default().threads_per_queue(2).batch(4);
    server.serve_then(&mortal, &options, &StopToken::new(), || println!("serving"))?;
    Ok(())
}

/// Path of the copy of the cache.
pub(super) fn cache_of(file: &Path) -> PathBuf {
    file.with_extension("cache")
}

/// Creates the device when its name is free. A device is no longer found some time before its name is free.
fn create(control: &Control, builder: &Builder) -> zosbd2::Result<Server> {
    let mut patience = Patience::seconds(20);
    loop {
        match control.create(builder) {
            Err(Error::Control { source: Errno::EXIST, .. }) if !patience.over() => {
                std::thread::sleep(Duration::from_millis(5));
            }
            made => return made,
        }
    }
}
