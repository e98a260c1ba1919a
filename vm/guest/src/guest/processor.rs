// SPDX-License-Identifier: MIT OR Apache-2.0
//! Binds threads to processors, and keeps other threads off a processor.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::thread::{CpuSet, sched_setaffinity};

use super::mount::{read_trimmed, write_text};

/// Share of the time for real-time threads.
const REAL_TIME_SHARE: &str = "/proc/sys/kernel/sched_rt_runtime_us";

/// What newer kernels (6.12) keep for ordinary threads of a processor, whatever real-time threads do.
fn ordinary_share(processor: usize) -> String {
    format!("/sys/kernel/debug/sched/fair_server/cpu{processor}/runtime")
}

/// Binds the calling thread to one processor.
pub(crate) fn bind(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor);
    sched_setaffinity(None, &set).unwrap_or_else(|errno| panic!("bind a thread to CPU {processor}: {errno}"));
}

/// Keeps a processor busy with a real-time thread: no ordinary thread that is bound to it runs until this
/// value is dropped.
#[derive(Debug)]
pub(crate) struct Hog {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// The setting that leaves time to other threads, and its value before.
    before: (String, String),
}

impl Hog {
    /// Returns when the processor is busy.
    pub(crate) fn on(processor: usize) -> Self {
        // Otherwise the kernel leaves other threads a twentieth of the time.
        let newer = ordinary_share(processor);
        let (path, share) = if std::path::Path::new(&newer).exists() {
            (newer, "0")
        } else {
            (REAL_TIME_SHARE.to_owned(), "-1")
        };
        let before = read_trimmed(&path);
        write_text(&path, share);
        let stop = Arc::new(AtomicBool::new(false));
        let (taken, is_taken) = std::sync::mpsc::channel();
        let until = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            bind(processor);
            be_real_time().expect("a real-time thread");
            taken.send(()).expect("listened to");
            while !until.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        is_taken.recv().expect("the thread runs");
        Self { stop, thread: Some(thread), before: (path, before) }
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        write_text(&self.before.0, &self.before.1);
    }
}

/// Makes the calling thread run before every ordinary thread.
fn be_real_time() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 10 };
    // SAFETY: the call reads the parameters, which live until it returns.
    let code = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
