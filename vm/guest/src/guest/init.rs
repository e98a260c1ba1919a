// SPDX-License-Identifier: MIT OR Apache-2.0
//! Process 1: sets the guest up, runs the plan's tests one by one or a session, sends the verdict, and powers off.
//!
//! A panic in here ends process 1, and with it the kernel, which the host notices.

use super::kmsg::Kmsg;
use super::{Context, kmemleak, mount, report, supervise, sys};
use rustix::mount::MountFlags;
use rustix::system::RebootCommand;
use std::fs;
use std::process::ExitCode;
use std::time::Instant;
use zosbd2_vm_guest::protocol::{Line, Outcome};

/// File systems to mount, and where.
const MOUNTS: [(&str, &str); 8] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/dev/shm"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
    ("debugfs", "/sys/kernel/debug"),
    ("tracefs", "/sys/kernel/tracing"),
];

/// Settings of the kernel. A missing setting means that the kernel lacks that check.
const SETTINGS: [(&str, &str); 4] = [
    // Tests drop caches often; the kernel should not log it.
    ("/proc/sys/vm/drop_caches", "4"),
    ("/proc/sys/kernel/hung_task_check_interval_secs", "5"),
    ("/proc/sys/kernel/hung_task_warnings", "-1"),
    // From here on the console shows messages down to "info".
    ("/proc/sys/kernel/printk", "7"),
];

/// How long a task may stay in D state, in seconds, multiplied like deadlines.
const HUNG_TASK: (&str, u32) = ("/proc/sys/kernel/hung_task_timeout_secs", 30);

/// The name under which leaks are reported.
const LEAKS: &str = "kmemleak";

/// Runs as process 1.
pub(crate) fn run() -> ExitCode {
    set_up();
    let context = Context::new();
    set(HUNG_TASK.0, &(HUNG_TASK.1 * context.slowness()).to_string());
    if let Some(session) = crate::shell::session() {
        return crate::shell::run(&session);
    }
    let release = mount::read_trimmed("/proc/sys/kernel/osrelease");
    report::send(&Line::Hello(release));
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    let mut kmsg = Kmsg::new();
    let (mut events, mut cut, mut traced) = (0, 0, 0);
    let mut leaks = kmemleak::Watch::new();
    for name in &context.plan().tests {
        let test = crate::tests::all().find(|test| test.name == name);
        let test = test.unwrap_or_else(|| panic!("there is no test {name}"));
        let limit = test.seconds * u64::from(context.slowness());
        report::send(&Line::Start(name.clone(), limit));
        mount::write_text("/dev/kmsg", &format!("<5>test {name}: begin\n"));
        if let Some(leaks) = &mut leaks {
            leaks.begins(name);
        }
        let judged = supervise::run(test, &context, &mut kmsg);
        eprintln!("test {name}: {:?}", judged.outcome);
        events += judged.followed.events;
        traced += u32::from(judged.followed.events > 0);
        cut += u32::from(judged.followed.cut);
        match judged.outcome {
            Outcome::Passed => passed += 1,
            Outcome::Failed(_) => failed += 1,
            Outcome::Skipped(_) => skipped += 1,
        }
        report::send(&Line::Test(name.clone(), judged.outcome, judged.seconds));
        if !judged.sound {
            break;
        }
    }
    if traced > 0 {
        let text =
            format!("tracepoints: {events} events of {traced} tests followed the model; {cut} were cut");
        report::send(&Line::Say(text));
    }
    if let Some(leaks) = leaks {
        match look_for_leaks(&leaks, &context) {
            Outcome::Failed(_) => failed += 1,
            _ => passed += 1,
        }
    }
    report::send(&Line::Verdict { passed, failed, skipped });
    let failure = rustix::system::reboot(RebootCommand::PowerOff);
    panic!("power off: {failure:?}");
}

/// Reports the leaks of all tests of this boot as a separate result.
fn look_for_leaks(leaks: &kmemleak::Watch, context: &Context) -> Outcome {
    report::send(&Line::Start(LEAKS.to_owned(), 60 * u64::from(context.slowness())));
    let start = Instant::now();
    let outcome = match leaks.leaks() {
        Ok(found) if found.is_empty() => Outcome::Passed,
        // Repeated leaks look alike, so a few examples suffice.
        Ok(found) => {
            let some = found.iter().take(5).cloned().collect::<String>();
            Outcome::Failed(format!("{} leaks, such as\n{some}", found.len()))
        }
        Err(error) => Outcome::Failed(format!("the kernel does not look for leaks: {error}")),
    };
    eprintln!("{LEAKS}: {outcome:?}");
    report::send(&Line::Test(LEAKS.to_owned(), outcome.clone(), start.elapsed().as_secs_f64()));
    outcome
}

fn set_up() {
    for (kind, place) in MOUNTS {
        let _ = fs::create_dir_all(place);
        let mounted = rustix::mount::mount(kind, place, kind, MountFlags::empty(), None);
        // A kernel may lack these two; all others always exist.
        let optional = ["debugfs", "tracefs"].contains(&kind);
        assert!(mounted.is_ok() || optional, "mount {place}: {mounted:?}");
    }
    for (path, value) in SETTINGS {
        set(path, value);
    }
    sys::loopback_up().unwrap_or_else(|error| panic!("switch lo on: {error}"));
    let _ = rustix::system::sethostname(b"guest");
}

/// Makes a setting of the kernel, if it exists.
fn set(path: &str, value: &str) {
    if fs::exists(path).unwrap_or(false) {
        mount::write_text(path, value);
    }
}
