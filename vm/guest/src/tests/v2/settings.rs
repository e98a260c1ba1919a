// SPDX-License-Identifier: MIT OR Apache-2.0
//! Settings of a disk in sysfs, and their effect on the device.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use rustix::io::{Errno, pwrite};
use zosbd2::v1::CreateOptions;
use zosbd2_backends::Ram;

use super::super::support::{Aligned, Disk as Disk1, open_direct, read_in_thread};
use super::support::{Disk, by_hand, control, plain, threads};
use crate::guest::{Context, Mounted, Need, Test, read_trimmed, wait_until, write_text};

pub(super) const TESTS: &[Test] = &[
    Test::new("v2_io_timeout_of_sysfs_is_the_deadline", io_timeout).needs(&[Need::Module]).timeout(90),
    Test::new("v2_io_limit_is_lifted_before_a_destroy", io_limit)
        .needs(&[Need::Module, Need::Controller("blkio")])
        .timeout(60),
];

const GROUPS: &str = "/sys/fs/cgroup";

const MINUTES: Duration = Duration::from_secs(600);
const SECONDS: Duration = Duration::from_secs(3);

/// `queue/io_timeout` replaces the deadline of the device, and STATUS reports it.
fn io_timeout(context: &mut Context) {
    context.load_module("");
    let (disk, mut server) = by_hand(&plain("timed").deadline(MINUTES));
    let deadline = |name: &str| control().status(name).expect("status").deadline;
    let set = |folder: &str, ms: &str| {
        std::fs::write(format!("/sys/block/{folder}/queue/io_timeout"), ms).expect("set io_timeout");
    };
    assert_eq!((disk.setting("queue/io_timeout"), deadline("timed")), ("600000".to_owned(), Some(MINUTES)));
    set("zosbd2-timed", "3000");
    assert_eq!(deadline("timed"), Some(SECONDS));
    assert_eq!(disk.server.status().expect("status").deadline, Some(SECONDS));
    let read = read_in_thread(disk.path(), 0, 4096);
    let _held = server.fetch_one();
    assert_eq!(read.join().expect("reader"), Err(Errno::IO), "it is late after 3 s, not after 10 min");
    assert_eq!(disk.server.stats(0).expect("stats").expired, 1);
    set("zosbd2-timed", "600000");
    assert_eq!(deadline("timed"), Some(MINUTES));
    // The original deadline, whatever the block layer rounds it to.
    for ms in [1, 999, 1001] {
        let odd = Disk::create(&plain("odd").deadline(Duration::from_millis(ms)));
        assert_eq!(deadline("odd"), Some(Duration::from_millis(ms)));
        odd.server.start().expect("start");
        assert_eq!(deadline("odd"), Some(Duration::from_millis(ms)));
        odd.destroy(true);
    }
    disk.destroy(true);
    assert_eq!(disk.server.status().expect("status").deadline, Some(MINUTES), "it is gone");

    // A device without a deadline has none, whatever the setting.
    let (none, _server) = by_hand(&plain("none"));
    set("zosbd2-none", "3000");
    assert_eq!(deadline("none"), None);
    none.destroy(true);

    let one = Disk1::create_with(&CreateOptions::new("one", 1024).expect("options").timeout(MINUTES));
    assert_eq!(
        (deadline("one"), one.control.status(one.handle).expect("status").timeout),
        (Some(MINUTES), MINUTES)
    );
    set("one", "3000");
    assert_eq!(
        (deadline("one"), one.control.status(one.handle).expect("status").timeout),
        (Some(SECONDS), SECONDS)
    );
    one.destroy();
}

/// A write that `io.max` holds back keeps a disk from being deleted on 6.1. Once the limit is lifted, a destroy
/// ends.
fn io_limit(context: &mut Context) {
    context.load_module("");
    let _groups = Mounted::new("cgroup", GROUPS, "cgroup2", "");
    write_text(&format!("{GROUPS}/cgroup.subtree_control"), "+io");
    let group = format!("{GROUPS}/slow");
    std::fs::create_dir(&group).expect("make a group");
    let (disk, serving) =
        Disk::serve(&plain("limited"), &Arc::new(Ram::new(16 << 20).expect("RAM disk")), threads(1));
    let number = disk.setting("dev");
    write_text(&format!("{group}/io.max"), &format!("{number} wbps=4096"));
    write_text(&format!("{group}/cgroup.procs"), "0");
    let path = disk.path();
    let (tell, told) = mpsc::channel();
    let writer = std::thread::spawn(move || {
        let (file, data) = (open_direct(&path), Aligned::new(1 << 20, 0));
        tell.send(rustix::thread::gettid()).expect("listened to");
        pwrite(file, data.bytes(), 0)
    });
    // "PID (NAME) STATE ...": the thread sleeps until its write has ended.
    let stat = format!("/proc/self/task/{}/stat", told.recv().expect("the thread").as_raw_nonzero());
    wait_until(20, "the write to be held back", || read_trimmed(&stat).contains(") D "));
    assert_eq!(disk.server.stats(0).expect("stats").written_bytes, 0, "the write is not held back");
    write_text(&format!("{group}/io.max"), &format!("{number} wbps=max"));
    disk.destroy_and_join(serving);
    let written = writer.join().expect("writer");
    assert!(matches!(written, Ok(_) | Err(Errno::IO)), "{written:?}");
    write_text(&format!("{GROUPS}/cgroup.procs"), "0");
    std::fs::remove_dir(&group).expect("remove the group");
}
