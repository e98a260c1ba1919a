// SPDX-License-Identifier: MIT OR Apache-2.0
//! Settings of a disk in sysfs, and their effect on the device.

use std::time::Duration;

use rustix::io::Errno;
use zosbd2::v1::CreateOptions;

use super::super::support::{Disk as Disk1, read_in_thread};
use super::support::{Disk, by_hand, control, plain};
use crate::guest::{Context, Need, Test};

pub(super) const TESTS: &[Test] =
    &[Test::new("v2_io_timeout_of_sysfs_is_the_deadline", io_timeout).needs(&[Need::Module]).timeout(90)];

const MINUTES: Duration = Duration::from_mins(10);
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
    set("zosbd2!timed", "3000");
    assert_eq!(deadline("timed"), Some(SECONDS));
    assert_eq!(disk.server.status().expect("status").deadline, Some(SECONDS));
    let read = read_in_thread(disk.path(), 0, 4096);
    let _held = server.fetch_one();
    assert_eq!(read.join().expect("reader"), Err(Errno::IO), "it is late after 3 s, not after 10 min");
    assert_eq!(disk.server.stats(0).expect("stats").expired, 1);
    set("zosbd2!timed", "600000");
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
    set("zosbd2!none", "3000");
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
