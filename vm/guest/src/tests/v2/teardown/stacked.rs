// SPDX-License-Identifier: MIT OR Apache-2.0
//! Forced destroys of disks that md and LVM use.
//!
//! md and LVM keep the disks open, and no file system or process would release them. The disks go all the same,
//! and md and LVM see failed disks, as if the disks had been pulled out.

use std::path::PathBuf;

use rustix::io::Errno;
use rustix::process::Signal;

use super::super::super::support::{read_in_thread, write_in_thread};
use super::{ROUNDS, destroy, destroy_all, ends, many, nobody_is_stuck, outstanding, path};
use crate::guest::{Context, Mounted, Need, Test, read_trimmed, run, wait_until};

pub(in super::super) const TESTS: &[Test] = &[
    Test::new("v2_teardown_under_mirrors", mirrors)
        .needs(&[Need::Module, Need::Tool("mdadm"), Need::KernelModule("raid1")])
        .timeout(240),
    Test::new("v2_teardown_under_lvm", volume)
        .needs(&[Need::Module, Need::Tool("lvm"), Need::Tool("mkfs.ext4"), Need::KernelModule("dm_mod")])
        .timeout(240),
];

/// Mirrors of two disks each: disk N and disk N + [`MIRRORS`].
const MIRRORS: usize = ROUNDS / 2;

fn mirror(index: usize) -> PathBuf {
    format!("/dev/md{index}").into()
}

fn text(path: PathBuf) -> String {
    path.into_os_string().into_string().expect("a plain path")
}

/// The first halves stop and are destroyed: the mirrors survive on the second halves, with all data. Then the
/// second halves go, too.
fn mirrors(context: &mut Context) {
    context.load_module("");
    context.load_kernel_module("raid1", "");
    let mut first = many(context, 0..MIRRORS, None);
    let mut second = many(context, MIRRORS..ROUNDS, None);
    for index in 0..MIRRORS {
        let node = text(mirror(index));
        let legs = [index, index + MIRRORS].map(|leg| text(path(leg)));
        let options = ["--create", &node, "--run", "--level=1", "--assume-clean", "--metadata=1.2"];
        let legs = ["--raid-devices=2", &legs[0], &legs[1]];
        run(60, "mdadm", &[&options[..], &legs].concat());
    }
    first.stop();
    let writes: Vec<_> =
        (0..MIRRORS).map(|index| write_in_thread(mirror(index), 0, index as u64, 4096)).collect();
    wait_until(60, "all writes", || (0..MIRRORS).all(|index| outstanding(index) > 0));
    destroy(0..MIRRORS);
    assert_eq!(ends(writes), [Ok(4096); MIRRORS], "the other half was written");
    for index in 0..MIRRORS {
        let read = read_in_thread(mirror(index), 0, 4096).join().expect("reader").expect("data");
        assert_eq!(read[..8], (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        let degraded = format!("/sys/block/md{index}/md/degraded");
        assert_eq!(read_trimmed(&degraded), "1");
    }
    first.signal(Signal::CONT);
    assert!(first.wait(60).success(), "{}", first.stderr());

    second.stop();
    let reads: Vec<_> = (0..MIRRORS).map(|index| read_in_thread(mirror(index), 0, 4096)).collect();
    wait_until(60, "all reads", || (MIRRORS..ROUNDS).all(|index| outstanding(index) > 0));
    destroy(MIRRORS..ROUNDS);
    for read in reads {
        assert_eq!(read.join().expect("reader"), Err(Errno::IO));
    }
    nobody_is_stuck();
    for index in 0..MIRRORS {
        run(60, "mdadm", &["--stop", &text(mirror(index))]);
    }
    second.signal(Signal::CONT);
    assert!(second.wait(60).success(), "{}", second.stderr());
}

/// A file system with dirty files on one volume that is striped over all disks, whose servers are stopped.
fn volume(context: &mut Context) {
    context.load_module("");
    context.load_kernel_module("dm_mod", "");
    context.load_kernel_module("ext4", "");
    let mut child = many(context, 0..ROUNDS, None);
    let disks: Vec<String> = (0..ROUNDS).map(|index| text(path(index))).collect();
    let words: Vec<&str> =
        ["vgcreate", "--quiet", "group"].into_iter().chain(disks.iter().map(String::as_str)).collect();
    lvm(&words);
    let stripes = ROUNDS.to_string();
    lvm(&[
        "lvcreate",
        "--quiet",
        "--wipesignatures",
        "n",
        "--stripes",
        &stripes,
        "--extents",
        "100%FREE",
        "--name",
        "volume",
        "group",
    ]);
    run(60, "mkfs.ext4", &["-q", VOLUME]);
    let mounted = Mounted::new(VOLUME, "/mnt/volume", "ext4", "");
    std::fs::write("/mnt/volume/file", vec![7; 32 << 20]).expect("write");
    child.stop();
    destroy_all();
    nobody_is_stuck();
    mounted.unmount();
    // LVM no longer finds a group that the volume belongs to.
    run(60, "dmsetup", &["remove", "group-volume"]);
    child.signal(Signal::CONT);
    assert!(child.wait(60).success(), "{}", child.stderr());
}

const VOLUME: &str = "/dev/mapper/group-volume";

/// A command of LVM, without udev, which the guest does not have.
fn lvm(words: &[&str]) {
    let config = "devices/obtain_device_list_from_udev=0 devices/scan=[\"/dev\"] activation/udev_sync=0 activation/udev_rules=0 \
                  activation/monitoring=0";
    let mut all = words.to_vec();
    all.extend(["--config", config]);
    run(120, "lvm", &all);
}
