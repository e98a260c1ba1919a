// SPDX-License-Identifier: MIT OR Apache-2.0
//! The sample RAM disk: creates a device, serves it from memory, and ends when it is destroyed.
//!
//! Run it as root. A script can wait for the line `ready /dev/NAME` on standard output. The process
//! owns the disk's memory: the data is gone when the process ends. The exit code is 0 when the
//! device was destroyed (by `-d` in another terminal, by SIGINT or SIGTERM, or by another program),
//! 1 after an error, with a message, and 2 for an invalid command line. If the process is killed,
//! the device stays, its requests fail after their timeout, and `-d` removes it.

use anyhow::{Context, Result};
use clap::Parser;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::Write;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::Duration;
use zosbd2::v1::{Control, CreateOptions, Device, DeviceName, Handle, StopToken, serve};
use zosbd2::{Errno, Error, SparseMemory};

/// How long udev may take to make the block node accessible.
const PATIENCE: Duration = Duration::from_secs(5);
const BLOCKS_PER_MIB: u64 = 256;

/// A RAM disk /dev/zosbd2ramdisk of 4 GiB that takes memory only as it is written.
#[derive(Parser)]
struct Arguments {
    /// Destroy the device zosbd2ramdisk (or the one given by --name) instead, even when in use
    #[arg(short, long)]
    destroy: bool,
    /// With --destroy: destroy all devices of version 1, whoever made them, even when in use
    #[arg(long, requires = "destroy", conflicts_with = "name")]
    all: bool,
    /// Threads that serve requests
    #[arg(short, long, default_value = "1", value_name = "N")]
    threads: NonZeroUsize,
    /// Name of the device
    #[arg(long)]
    name: Option<String>,
    /// Size of the device in MiB, 4 to 12582912
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u64).range(4..=12_582_912))]
    size_mib: u64,
    /// Seconds until an unanswered request fails, 1 to 1200
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=1200))]
    timeout: u64,
}

impl Arguments {
    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("zosbd2ramdisk")
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = if arguments.destroy { destroy(&arguments) } else { run(&arguments) };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("zosbd2_sample_ramdisk: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a line for the user or a script. A closed pipe is no error.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn destroy(arguments: &Arguments) -> Result<()> {
    let name = DeviceName::new(arguments.name())?;
    let control = Control::open()?;
    if arguments.all {
        let count = control.list()?.len();
        control.destroy_all(true)?;
        say(&format!("destroyed {count}"));
        return Ok(());
    }
    match control.destroy_by_name(&name, true) {
        Ok(()) => say(&format!("destroyed {name}")),
        Err(Error::Control { source: Errno::NOENT, .. }) => say(&format!("there is no device {name}")),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn run(arguments: &Arguments) -> Result<()> {
    let name = arguments.name();
    let options = CreateOptions::new(name, arguments.size_mib * BLOCKS_PER_MIB)?
        .timeout(Duration::from_secs(arguments.timeout));
    let control = Control::open()?;
    let memory = SparseMemory::new(options.size_bytes()).context("get memory for the disk")?;

    // Created before the device, so that no signal can leave the device behind.
    let stop = StopToken::new();
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("catch signals")?;
    let handle_of_signals = signals.handle();
    let token = stop.clone();
    let watcher = std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for _ in signals.forever() {
            token.request();
        }
    });
    let watcher = watcher.context("start the thread that waits for signals")?;

    let device = control.create(&options)?;
    let served = serve_device(&control, device, &memory, arguments.threads, &stop);
    if served.is_err() {
        // Without a server the device is useless. It may be gone already; the first error is the
        // one to report.
        let _ = control.destroy(device, true);
    }
    handle_of_signals.close();
    let joined = watcher.join();
    served?;
    joined.map_err(|_| anyhow::anyhow!("the thread that waits for signals panicked"))?;
    say(&format!("{name} was destroyed"));
    Ok(())
}

/// Serves the device until it is gone.
fn serve_device(
    control: &Control,
    handle: Handle,
    memory: &SparseMemory,
    threads: NonZeroUsize,
    stop: &StopToken,
) -> Result<()> {
    let device = Device::open(control, handle, PATIENCE)?;
    say(&format!("ready {}", device.path().display()));
    Ok(serve(control, &device, memory, threads, stop)?)
}
