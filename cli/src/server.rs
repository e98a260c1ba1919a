// SPDX-License-Identifier: MIT OR Apache-2.0
//! `zosbd2 serve NAME`: the server of one disk, in the foreground.
//!
//! It creates the device, or follows its last server, or takes over from a live one. It tells systemd when it is ready,
//! and standard error what happens. It ends when the device is gone or another server has taken over. SIGTERM asks
//! it to end as soon as nobody uses the disk, without force.

mod program;

use crate::config::{Disk, Kind};
use crate::control;
use crate::failure::{Code, Context as _, Failure, Result};
use crate::memory;
use crate::node;
use crate::notice;
use std::fs::File;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use zosbd2::{Backend, Builder, Control, End, HandOver, ServeOptions, Settings, StopToken};
use zosbd2_backends::{FileDisk, FileOptions, Null, Ram};
use zosbd2_faults::FaultPlan;

/// How long a successor waits for the lock of the store, after the older server has ended.
const LOCK: Duration = Duration::from_secs(10);

/// How a server comes to its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// It creates the device, or follows a server that is gone.
    Follow,
    /// It takes over from a live server.
    TakeOver,
}

/// Serves the disk until the device is gone, or another server has it. Calls `ready` with its node.
pub(crate) fn serve(name: &str, disk: &Disk, how: How, ready: impl FnOnce(&Path)) -> Result<()> {
    let control = control::open(None)?;
    let existing = Existing::find(&control, name);
    let identity = existing.as_ref().map(|existing| existing.identity.as_slice());
    let job = Job { name, disk, how, control: &control };
    match disk.backend {
        Kind::Null => {
            let size = disk.size.map_or(0, |size| size.0);
            job.run(&Null::new(size), "null", |_| Ok(()), ready).map(drop)
        }
        Kind::Ram => {
            let size = disk.size.map_or(0, |size| size.0);
            let server = existing.as_ref().and_then(|existing| existing.server);
            let memory = memory::find(name, identity, server).inspect_err(|failure| {
                if failure.code == Code::Lost {
                    // Waiting for the bytes is in vain.
                    let _ = control.set(name, &Settings::new().grace(Duration::ZERO));
                }
            })?;
            let ram =
                Ram::in_file(memory.file, size).context(format_args!("use the memory of disk {name}"))?;
            let result = job.run(&ram, &memory.identity, |_| Ok(()), ready);
            if matches!(result, Ok(End::Gone)) {
                memory::forget(name);
            }
            result.map(drop)
        }
        Kind::File => {
            let path = disk.path.as_deref().unwrap_or(Path::new(""));
            let mut options = FileOptions::default().direct(disk.direct).read_only(disk.read_only);
            if let Some(bytes) = disk.block_size {
                options = options.logical_block_size(bytes);
            }
            let file = options.successor(how == How::TakeOver).open(path).map_err(|error| {
                Failure::failed(format!("open the store of disk {name}: {}", zosbd2::Chain(&error)))
            })?;
            let lock =
                |file: &FileDisk| file.wait_for_lock(LOCK).context(format_args!("take over disk {name}"));
            job.run(&file, &file_identity(path)?, lock, ready).map(drop)
        }
        Kind::Exec => program::run(name, disk, &control, ready),
    }
}

/// What identifies a file or block device, as long as the device of the disk lives.
fn file_identity(path: &Path) -> Result<String> {
    let metadata = File::open(path)
        .and_then(|file| file.metadata())
        .context(format_args!("look at {}", path.display()))?;
    Ok(if metadata.file_type().is_block_device() {
        format!("device {:x}", metadata.rdev())
    } else {
        format!("file {:x}:{}", metadata.dev(), metadata.ino())
    })
}

/// A device that exists.
struct Existing {
    identity: Vec<u8>,
    /// The process that serves it.
    server: Option<u32>,
}

impl Existing {
    fn find(control: &Control, name: &str) -> Option<Self> {
        let status = control.status(name).ok()?;
        let identity = control.observe(name).and_then(|observer| observer.blob()).ok()?;
        Some(Self { identity, server: status.process })
    }
}

/// A disk to be served.
struct Job<'a> {
    name: &'a str,
    disk: &'a Disk,
    how: How,
    control: &'a Control,
}

impl Job<'_> {
    /// Serves with this backend. `prepare` runs after an older server has ended, and before this one serves.
    fn run<B: Backend>(
        &self,
        backend: &B,
        identity: &str,
        prepare: impl FnOnce(&B) -> Result<()>,
        ready: impl FnOnce(&Path),
    ) -> Result<End> {
        let name = self.name;
        let announce = |path: &Path| {
            node::prepare(path, self.disk);
            notice::ready(&format!("serving {}", path.display()));
            ready(path);
        };
        if self.how == How::Follow {
            let builder = self.builder(identity).serving(self.options());
            return builder.serve_then(backend, announce).map_err(Into::into);
        }
        self.same(backend, identity)?;
        // Before the older server ends: its end is that of the unit, unless the unit has another process.
        notice::main_process(std::process::id())?;
        let hand_over = HandOver::new().on_event(log);
        let server = Arc::new(hand_over.take_over(self.control, name, backend)?);
        prepare(backend)?;
        let path = server.path();
        Builder::with_signals(|stop: &StopToken| {
            server.serve_then(backend, &self.options(), stop, || announce(&path))
        })
        .map_err(Into::into)
    }

    fn builder(&self, identity: &str) -> Builder {
        self.disk.builder(self.name).identity(identity.as_bytes())
    }

    /// Options of serving.
    fn options(&self) -> ServeOptions {
        let mut options = ServeOptions::default().on_event(log);
        if let Some(threads) = self.disk.threads {
            options = options.threads_per_queue(threads);
        }
        let faults: Vec<_> = self.disk.fault.iter().filter_map(|words| words.parse().ok()).collect();
        if !faults.is_empty() {
            let plan =
                faults.into_iter().fold(FaultPlan::new(u64::from(std::process::id())), FaultPlan::with);
            options = options.layer(plan);
        }
        options
    }

    /// Fails if the device that is to be taken over is another disk.
    fn same(&self, backend: &impl Backend, identity: &str) -> Result<()> {
        let name = self.name;
        let status = control::status(self.control, name)?;
        let existing = self.control.observe(name)?.blob()?;
        let (size, wanted) = (status.size_bytes, backend.size());
        let problem = if existing != identity.as_bytes() {
            format!("its store is {:?}, not {identity:?}", String::from_utf8_lossy(&existing))
        } else if size != wanted {
            format!("it has {size} bytes, and its store {wanted}")
        } else {
            return Ok(());
        };
        Err(Failure::failed(format!("take over disk {name}: it is another one: {problem}")))
    }
}

/// Prints what an operator must know, and tells systemd the last sentence.
fn log(event: &zosbd2::Event) {
    tracing::warn!("{event}");
    notice::status(&event.to_string());
}
