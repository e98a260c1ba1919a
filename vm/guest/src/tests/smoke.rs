// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks that the guest works: it runs the right kernel, programs of the host, and the module.

use crate::guest::{Context, Need, Test, read_trimmed, run};
use std::path::Path;

pub(super) const TESTS: &[Test] = &[
    Test::new("smoke_boot", boot).timeout(30),
    Test::new("smoke_tools", tools).needs(&[Need::Tool("fio"), Need::KernelModule("brd")]).timeout(120),
    Test::new("insmod_rmmod", insmod_rmmod).needs(&[Need::Module]).timeout(60),
];

fn boot(context: &mut Context) {
    let release = read_trimmed("/proc/sys/kernel/osrelease");
    assert_eq!(Some(release.as_str()), context.setting("kernel_release"), "the host chose another kernel");
    context.say(&format!("kernel {release}, seed {}", context.seed()));
    run(10, "/init", &["--list"]);
    // The kernel uses the speed that the host told it, for its clock and for the delay loop that bogomips counts.
    let told = read_trimmed("/proc/cmdline");
    let told = told.split(' ').find_map(|word| word.strip_prefix("tsc_early_khz="));
    if let Some(told) = told.map(|khz| khz.parse::<f64>().expect("a number") / 1000.0) {
        let processors = read_trimmed("/proc/cpuinfo");
        let used = processors.lines().find_map(|line| line.strip_prefix("bogomips")?.split_once(": "));
        let used = used.expect("bogomips").1.parse::<f64>().expect("a number") / 2.0;
        assert!((used / told - 1.0).abs() < 0.001, "the host's counter makes {told} MHz, the guest's {used}");
    } else {
        context.say("the host did not tell the speed of its time stamp counter");
    }
}

fn tools(context: &mut Context) {
    context.load_kernel_module("brd", "rd_nr=1 rd_size=65536");
    run(30, "mkfs.ext4", &["-q", "/dev/ram0"]);
    run(30, "e2fsck", &["-fn", "/dev/ram0"]);
    let job = ["--name=smoke", "--filename=/dev/ram0", "--rw=randwrite", "--bs=4k", "--size=4m"];
    let output = run(60, "fio", &[&job[..], &["--direct=1", "--verify=crc32c"]].concat());
    assert!(output.stdout.contains("err= 0"), "fio said:\n{}", output.stdout);
}

fn insmod_rmmod(context: &mut Context) {
    for _ in 0..3 {
        context.load_module("");
        assert!(Path::new("/dev/zosbd2ctl").exists(), "the control node does not exist");
        context.unload_module();
        assert!(!Path::new("/dev/zosbd2ctl").exists(), "the control node still exists");
    }
}
