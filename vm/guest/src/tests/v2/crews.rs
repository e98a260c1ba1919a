// SPDX-License-Identifier: MIT OR Apache-2.0
//! Queues without a thread. A server that gets no thread for one of its queues does not start. A server that loses
//! the last thread of a queue leaves its device to the next server.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use zosbd2::{Backend, Builder, Capabilities, Error, State, TakeOver};
use zosbd2_backends::Ram;

use super::super::support::{read_in_thread, write_in_thread};
use super::support::{Disk, control, serve_role, threads};
use crate::guest::{Context, Mounted, Need, Test, sys, wait_until, write_text};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_queue_without_a_thread", queue_without_a_thread)
        .needs(&[Need::Module, Need::Path("/sys/fs/cgroup")])
        .timeout(60),
    Test::new("v2_queue_loses_its_last_thread", queue_loses_its_last_thread)
        .needs(&[Need::Module, Need::Path("/proc/sys/kernel/seccomp")])
        .timeout(120),
];

const MIB: u64 = 1 << 20;

/// The role `--serve-in-group FOLDER ...`: like `--serve-v2 ...`, in this control group.
pub(crate) fn group_role(folder: &str, arguments: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    std::fs::write(Path::new(folder).join("cgroup.procs"), "0")?;
    serve_role(arguments)
}

/// A server without a thread for one of its queues does not start: requests of that queue would wait for ever.
fn queue_without_a_thread(context: &mut Context) {
    context.load_module("");
    let _groups = Mounted::new("cgroup", "/sys/fs/cgroup", "cgroup2", "");
    write_text("/sys/fs/cgroup/cgroup.subtree_control", "+pids");
    std::fs::create_dir("/sys/fs/cgroup/few").expect("make a group");
    // Room for its first thread, and for one of the two serving threads.
    write_text("/sys/fs/cgroup/few/pids.max", "2");
    let words = ["--serve-in-group", "/sys/fs/cgroup/few", "ram", "few", "2", "1"];
    let mut server = context.spawn("/proc/self/exe", &words);
    assert!(!server.wait(20).success(), "it served");
    assert!(server.stderr().contains("thread"), "{}", server.stderr());
    assert_eq!(control().list().expect("list"), []);
    std::fs::remove_dir("/sys/fs/cgroup/few").expect("remove the group");
}

/// A read at this offset ends the thread that serves it.
const CUE: u64 = MIB;

/// A RAM disk with a volatile cache that outlives its server. If told so, the thread that reads at [`CUE`] makes
/// no more calls on a server.
#[derive(Debug)]
struct Deserter {
    ram: Arc<Ram>,
    ends: bool,
}

impl Backend for Deserter {
    fn size(&self) -> u64 {
        self.ram.size()
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.volatile_cache = true;
        capabilities.cache_survives = true;
        capabilities
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        if self.ends && offset == CUE {
            sys::fail_ioctls(Errno::IO).expect("make the thread's calls fail");
        }
        self.ram.read(offset, buffer)
    }

    fn write(&self, offset: u64, data: &mut [u8], fua: bool) -> Result<(), Errno> {
        self.ram.write(offset, data, fua)
    }

    fn flush(&self) -> Result<(), Errno> {
        Ok(())
    }
}

/// The kernel refuses all calls of one queue's only thread. The server leaves, the next server gets the request
/// that the thread held, and the cache does not count as lost.
fn queue_loses_its_last_thread(context: &mut Context) {
    context.load_module("");
    let ram = Arc::new(Ram::new(16 * MIB).expect("memory"));
    ram.write(CUE, &mut [3; 4096], false).expect("in memory");
    let deserter = Arc::new(Deserter { ram: Arc::clone(&ram), ends: true });
    let builder = Builder::new("left").queues(2).partition_scan(false).grace(Duration::from_secs(60));
    let (disk, serving) = Disk::serve(&builder, &deserter, threads(1));
    let (path, name) = (disk.path(), disk.name.clone());
    let observer = control().observe(&name).expect("observe");
    drop(disk);
    // Answered, and still in the cache.
    assert_eq!(write_in_thread(path.clone(), 0, 5, 4096).join().expect("writer"), Ok(4096));
    let read = read_in_thread(path.clone(), CUE, 4096);
    let error = serving.join().expect("the server panicked").expect_err("it served on");
    assert!(matches!(error, Error::Fetch { source: Errno::IO, .. }), "{error}");
    wait_until(20, "the device to be without a server", || {
        observer.status().expect("status").state == State::Orphaned
    });
    let other = read_in_thread(path.clone(), 8192, 4096);
    assert!(!read.is_finished(), "no server had answered the request");

    let next = Arc::new(Deserter { ram, ends: false });
    let server = control().attach_for(&name, TakeOver::No, &*next).expect("attach");
    let disk = Disk { server: Arc::new(server), name };
    assert!(!disk.server.status().expect("status").lost);
    let serving = disk.serve_with(&next, threads(1));
    assert_eq!(read.join().expect("reader"), Ok(vec![3; 4096]));
    assert_eq!(other.join().expect("reader"), Ok(vec![0; 4096]));
    std::fs::File::open(&path).and_then(|node| node.sync_all()).expect("flush");
    let failed = |queue| observer.stats(queue).expect("stats").failed;
    assert_eq!((failed(0), failed(1)), (0, 0));
    drop(observer);
    disk.destroy_and_join(serving);
}
