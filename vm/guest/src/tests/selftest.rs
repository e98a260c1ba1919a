// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of the harness. Each misbehaves in a way that the harness must report; `xtask/src/self_test.rs` runs them
//! and has the expected reports.

use crate::guest::{Context, Step, Test, command, wait_until, write_text};
use std::process::Stdio;
use std::time::{Duration, Instant};

pub(super) const TESTS: &[Test] = &[
    Test::new("selftest_passes", |_| {}).hidden(),
    Test::new("selftest_panics", |_| panic!("as asked\nin two lines")).hidden(),
    Test::new("selftest_aborts", |_| std::process::abort()).hidden(),
    Test::new("selftest_hangs", |_| wait_until(600, "nothing", || false)).timeout(2).hidden(),
    Test::new("selftest_hangs_in_a_step", hangs_in_a_step).timeout(2).hidden(),
    Test::new("selftest_hangs_and_stays", hangs_and_stays).timeout(2).hidden(),
    Test::new("selftest_is_slow", is_slow).timeout(2).hidden(),
    Test::new("selftest_waits_slowly", waits_slowly).hidden(),
    Test::new("selftest_spins", spins).timeout(1).hidden(),
    Test::new("selftest_leaves_processes", leaves_processes).hidden(),
    Test::new("selftest_warns", |_| write_text("/dev/kmsg", "<4>WARNING: made up")).hidden(),
    Test::new("selftest_warns_allowed", |_| write_text("/dev/kmsg", "<4>WARNING: made up"))
        .allows(&["made up"])
        .hidden(),
    Test::new("selftest_crashes", |_| write_text("/proc/sysrq-trigger", "c")).hidden(),
    Test::new("selftest_powers_off", powers_off).hidden(),
    Test::new("selftest_last", |context| context.say("the last one")).hidden(),
];

fn hangs_in_a_step(_: &mut Context) {
    drop(Step::begin("the first step"));
    let step = Step::begin("the second step");
    step.tell("the second step: 3 of 7");
    loop {
        std::thread::park();
    }
}

/// Processes of the test remain, and hang as well.
fn hangs_and_stays(context: &mut Context) {
    leaves_processes(context);
    let _step = Step::begin("comparing");
    loop {
        std::thread::park();
    }
}

/// Works for this long.
fn work(time: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// Works for three times its limit.
fn is_slow(_: &mut Context) {
    work(Duration::from_secs(6));
}

/// The awaited condition takes three times its limit, while the test works.
fn waits_slowly(_: &mut Context) {
    let slow = std::thread::spawn(|| work(Duration::from_secs(6)));
    wait_until(2, "something slow", || slow.is_finished());
    slow.join().expect("it only works");
}

/// Works without end.
fn spins(_: &mut Context) {
    let _step = Step::begin("spinning");
    loop {
        std::hint::spin_loop();
    }
}

fn leaves_processes(_: &mut Context) {
    for _ in 0..3 {
        let mut child = command("/init", &["--test", "selftest_hangs"]);
        child.stdout(Stdio::null()).stderr(Stdio::null());
        #[expect(clippy::zombie_processes, reason = "the test must leave a running process")]
        child.spawn().expect("start /init");
    }
}

fn powers_off(_: &mut Context) {
    // Without a message to the host, and so without a verdict.
    write_text("/proc/sysrq-trigger", "o");
    wait_until(60, "the end", || false);
}
