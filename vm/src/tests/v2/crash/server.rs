// SPDX-License-Identifier: MIT OR Apache-2.0
//! A server that can die at any moment: a process of its own, with a disk in a file, and a volatile cache.
//!
//! What a write brings is in the cache until a flush, or FUA, puts it into the file; now and then something goes
//! there by itself, in any order. The file is what a disk has after a power failure.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Signal, getpid, kill_process};
use zosbd2::{
    Backend, Builder, Capabilities, Control, Errno, Error, ServeOptions, Server, StopToken, TakeOver,
};

use super::cache::Cache;
use crate::guest::Random;

/// Unit in which data goes to the file, in bytes.
pub(super) const BLOCK: u64 = 4096;

/// What kind of server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Does what a disk with a volatile cache has to.
    Honest,
    /// Says that it flushed, and did not.
    LiesAboutFlush,
    /// Takes a durable write for any other.
    LiesAboutFua,
    /// Does not hand its cache to the next server, who says that it has it.
    LosesCache,
    /// Does not hand its cache to the next server, and that one does not say so.
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
    /// One step on the way to the end.
    fn step(&self) {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            let _ = kill_process(getpid(), Signal::KILL);
            // Nothing more happens in this thread, dead or not.
            loop {
                std::thread::park();
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, (Cache, Random)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a block of the cache into the file. It is in one of them at any time.
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

    fn write(&self, offset: u64, data: &[u8], fua: bool) -> Result<(), Errno> {
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

/// What the guest program does as `--serve-mortal NAME FILE KIND SEED STEPS GRACE`: serves the file, and kills itself
/// after so many steps. Attaches to the device of that name if it is there; otherwise makes one that waits GRACE
/// seconds for another server when this one is dead, and with 0 goes with it. Where it waits, the cache has a copy in
/// FILE.cache, which all servers share. Prints `serving` when it does.
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
        control.attach_for(name, TakeOver::No, &mortal)?
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

/// Where the copy of the cache is.
pub(super) fn cache_of(file: &Path) -> PathBuf {
    file.with_extension("cache")
}

/// Makes the device, as soon as its name is free: it is, some time after its last bearer could be found.
fn create(control: &Control, builder: &Builder) -> zosbd2::Result<Server> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        match control.create(builder) {
            Err(Error::Control { source: Errno::EXIST, .. }) if Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(5));
            }
            made => return made,
        }
    }
}
