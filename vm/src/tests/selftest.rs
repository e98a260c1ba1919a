// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of the harness. Each misbehaves in a way that the harness must report; `xtask/src/self_test.rs` runs them
//! and has the expected reports.

use crate::guest::{Context, Test, command, wait_until, write_text};
use std::process::Stdio;

pub(super) const TESTS: &[Test] = &[
    Test::new("selftest_passes", |_| {}).hidden(),
    Test::new("selftest_panics", |_| panic!("as asked\nin two lines")).hidden(),
    Test::new("selftest_aborts", |_| std::process::abort()).hidden(),
    Test::new("selftest_hangs", |_| wait_until(600, "nothing", || false)).timeout(2).hidden(),
    Test::new("selftest_leaves_processes", leaves_processes).hidden(),
    Test::new("selftest_warns", |_| write_text("/dev/kmsg", "<4>WARNING: made up")).hidden(),
    Test::new("selftest_warns_allowed", |_| write_text("/dev/kmsg", "<4>WARNING: made up"))
        .allows(&["made up"])
        .hidden(),
    Test::new("selftest_crashes", |_| write_text("/proc/sysrq-trigger", "c")).hidden(),
    Test::new("selftest_powers_off", powers_off).hidden(),
    Test::new("selftest_last", |context| context.say("the last one")).hidden(),
];

fn leaves_processes(_: &mut Context) {
    for _ in 0..3 {
        let mut child = command("/init", &["--test", "selftest_hangs"]);
        child.stdout(Stdio::null()).stderr(Stdio::null());
        #[expect(clippy::zombie_processes, reason = "what is left running is the point")]
        child.spawn().expect("start /init");
    }
}

fn powers_off(_: &mut Context) {
    // Without a message to the host, and so without a verdict.
    write_text("/proc/sysrq-trigger", "o");
    wait_until(60, "the end", || false);
}
