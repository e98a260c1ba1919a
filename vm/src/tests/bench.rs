// SPDX-License-Identifier: MIT OR Apache-2.0
//! The benchmark of `cargo xtask bench`: fio over every device in one boot. Not a test: it only runs when named.
//!
//! Each row goes to the host as `DEVICE RW BS QD IOPS KIB_PER_S`. A region of each device is written once before
//! it is measured, so that no row pays for first touches.

use std::path::Path;

use crate::guest::{Context, Mounted, Need, Test, run, wait_until};

pub(super) const TESTS: &[Test] = &[Test::new("bench", bench)
    .needs(&[Need::Module, Need::Tool("fio"), Need::Tool("losetup"), Need::Program("zosbd2_sample_ramdisk")])
    .timeout(600)
    .hidden()];

/// What is measured: fio's name, block size in bytes, depth.
const WORKLOADS: [(&str, u32, u32); 6] = [
    ("randread", 4096, 1),
    ("randread", 4096, 32),
    ("randwrite", 4096, 1),
    ("randwrite", 4096, 32),
    ("read", 1 << 20, 4),
    ("write", 1 << 20, 4),
];

fn bench(context: &mut Context) {
    let _shm = Mounted::new("shm", "/dev/shm", "tmpfs", "");
    let wanted = |device: &str| context.setting("device").is_none_or(|only| device.starts_with(only));
    let (kernel, loops, brd) = (wanted("null_blk"), wanted("loop"), wanted("brd"));
    if kernel {
        context.load_kernel_module(
            "null_blk",
            "nr_devices=1 queue_mode=2 irqmode=0 gb=4 submit_queues=1 hw_queue_depth=256",
        );
        measure(context, "null_blk", "/dev/nullb0");
    }
    if brd {
        context.load_kernel_module("brd", "rd_nr=1 rd_size=262144");
        measure(context, "brd", "/dev/ram0");
    }
    if loops {
        context.load_kernel_module("loop", "");
        let store = Mounted::new("store", "/run/store", "tmpfs", "");
        std::fs::write("/run/store/file", "").expect("make the loop's file");
        run(
            10,
            "fio",
            &["--name=size", "--filename=/run/store/file", "--size=256m", "--rw=write", "--bs=1m"],
        );
        run(10, "losetup", &["/dev/loop0", "/run/store/file"]);
        measure(context, "loop", "/dev/loop0");
        run(10, "losetup", &["-d", "/dev/loop0"]);
        drop(store);
    }
    context.load_module("");
    for threads in ["1", "4", "16"] {
        let device = format!("v1-{threads}");
        if context.setting("device").is_some_and(|only| !device.starts_with(only)) {
            continue;
        }
        let mut server = context.spawn("zosbd2_sample_ramdisk", &["-t", threads]);
        wait_until(20, "the server to say that it is ready", || server.stdout().contains("ready"));
        measure(context, &device, "/dev/zosbd2ramdisk");
        run(20, "zosbd2_sample_ramdisk", &["-d"]);
        assert!(server.wait(20).success());
    }
}

fn measure(context: &Context, device: &str, node: &str) {
    wait_until(20, "the node", || Path::new(node).exists());
    let file = format!("--filename={node}");
    let common = [
        "--name=bench",
        "--ioengine=libaio",
        "--direct=1",
        "--size=200m",
        "--thread",
        "--norandommap",
        &file,
    ];
    run(60, "fio", &[&common[..], &["--rw=write", "--bs=1m", "--iodepth=4"]].concat());
    for (rw, bytes, depth) in WORKLOADS {
        let (rw_word, bs_word) = (format!("--rw={rw}"), format!("--bs={bytes}"));
        let depth_word = format!("--iodepth={depth}");
        let timing =
            ["--time_based", "--runtime=1", "--ramp_time=0.2", "--output-format=terse", "--terse-version=3"];
        let own = [rw_word.as_str(), &bs_word, &depth_word];
        let output = run(60, "fio", &[&common[..], &timing, &own].concat()).stdout;
        let line = output.lines().find(|line| line.starts_with("3;")).expect("fio's terse line");
        let fields: Vec<&str> = line.split(';').collect();
        let number = |at: usize| fields[at].parse::<u64>().expect("a number in fio's terse line");
        // Reads, and 41 fields on the same of writes.
        let (bandwidth, iops) = (number(6) + number(47), number(7) + number(48));
        assert!(iops > 0, "{device} {rw}: fio did nothing:\n{output}");
        context.data(&format!("{device} {rw} {bytes} {depth} {iops} {bandwidth}"));
        context.say(&format!("{device} {rw} {bytes} at depth {depth}: {iops} IOPS"));
    }
}
