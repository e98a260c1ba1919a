// SPDX-License-Identifier: MIT OR Apache-2.0
//! The original's README, step by step, with both sample programs.

use std::path::Path;

use crate::guest::{Context, Mounted, Need, Test, drop_caches, run, wait_until};

pub(super) const TESTS: &[Test] = &[
    Test::new("readme_walkthrough", rust_sample)
        .needs(&[Need::Module, Need::Program("zosbd2_sample_ramdisk"), Need::Tool("mkfs.ext4")])
        .timeout(120),
    Test::new("readme_walkthrough_c", c_sample)
        .needs(&[Need::Module, Need::Program("zosbd2_ramdisk"), Need::Tool("mkfs.ext4")])
        .timeout(120),
    Test::new("sample_ends_cleanly_on_signals", signals)
        .needs(&[Need::Module, Need::Program("zosbd2_sample_ramdisk"), Need::Program("zosbd2_ramdisk")])
        .timeout(60),
    Test::new("sample_gives_memory_back", gives_memory_back)
        .needs(&[Need::Module, Need::Program("zosbd2_sample_ramdisk")])
        .timeout(60),
];

const NODE: &str = "/dev/zosbd2ramdisk";

fn rust_sample(context: &mut Context) {
    walk(context, "zosbd2_sample_ramdisk");
}

fn c_sample(context: &mut Context) {
    walk(context, "zosbd2_ramdisk");
}

fn walk(context: &mut Context, program: &str) {
    context.load_module("");
    context.load_kernel_module("ext4", "");
    for threads in ["1", "4"] {
        let mut server = context.spawn(program, &["-t", threads]);
        wait_until(20, "the server to print that it is ready", || server.stdout().contains("ready"));
        let size = std::fs::read_to_string("/sys/block/zosbd2ramdisk/size").expect("size");
        assert_eq!(size.trim(), "8388608", "4 GiB");
        run(60, "mkfs.ext4", &["-q", "-F", NODE]);
        let mounted = Mounted::new(NODE, "/mnt", "ext4", "");
        for index in 0..20_u8 {
            std::fs::write(format!("/mnt/{index}"), vec![index; 100_000 + usize::from(index)])
                .expect("write");
        }
        mounted.unmount();
        drop_caches();
        let mounted = Mounted::new(NODE, "/mnt", "ext4", "");
        for index in 0..20_u8 {
            let data = std::fs::read(format!("/mnt/{index}")).expect("read");
            assert!(data == vec![index; 100_000 + usize::from(index)], "file {index} differs");
        }
        run(30, "fstrim", &["/mnt"]);
        mounted.unmount();
        run(30, "e2fsck", &["-f", "-n", NODE]);
        run(30, program, &["-d"]);
        assert!(server.wait(20).success(), "the server did not exit with 0");
        assert!(!Path::new(NODE).exists());
    }
    // A destroy without devices is no error.
    run(30, program, &["-d"]);
}

fn signals(context: &mut Context) {
    context.load_module("");
    for program in ["zosbd2_sample_ramdisk", "zosbd2_ramdisk"] {
        for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
            let mut server = context.spawn(program, &["-t", "3"]);
            wait_until(20, "the server to print that it is ready", || server.stdout().contains("ready"));
            server.signal(signal);
            assert!(server.wait(20).success(), "{program} did not exit with 0 on {signal:?}");
            assert!(!Path::new(NODE).exists(), "{program} left its device");
        }
    }
}

/// Memory is allocated as it is written and freed by a discard.
fn gives_memory_back(context: &mut Context) {
    context.load_module("");
    let mut server = context.spawn("zosbd2_sample_ramdisk", &[]);
    wait_until(20, "the server to print that it is ready", || server.stdout().contains("ready"));
    let status = format!("/proc/{}/status", server.id());
    let resident = || {
        let text = std::fs::read_to_string(&status).expect("status");
        let line = text.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS").to_owned();
        line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("a number")
    };
    let before = resident();
    assert!(before < 100_000, "{before} KiB before anything was written");
    let node = super::support::open_direct(Path::new(NODE));
    let mut buffer = super::support::Aligned::new(1 << 20, 0);
    buffer.fill(1);
    for index in 0..200 {
        assert_eq!(rustix::io::pwrite(&node, buffer.bytes(), index << 20), Ok(1 << 20));
    }
    let full = resident();
    assert!(
        full > before + 190_000 && full < before + 260_000,
        "{before} KiB before, {full} KiB after 200 MiB"
    );
    super::support::discard(Path::new(NODE), 0, 200 << 20).expect("discard");
    let after = resident();
    assert!(after < before + 20_000, "{after} KiB after the discard, {before} KiB before the writes");
    drop(node);
    run(30, "zosbd2_sample_ramdisk", &["-d"]);
    assert!(server.wait(20).success());
}
