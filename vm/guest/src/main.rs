// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/init` of the guest, and the tests that run in it: one static program.
//!
//! As process 1 it sets the guest up and runs the plan's tests. Each test is a separate process: this program with
//! `--test NAME`. With `--list` it prints the names of all tests, also outside the guest. If the host describes a session,
//! it runs a shell, a command or a foreign program instead of tests ([`shell`]).
//!
//! # Adding tests
//!
//! Make `src/tests/TOPIC.rs` with a `TESTS` table, and name it in `src/tests.rs`:
//!
//! ```ignore
//! use crate::guest::{Context, Need, Test, run, wait_until};
//!
//! pub(super) const TESTS: &[Test] = &[
//!     Test::new("topic_does_this", does_this).needs(&[Need::Module, Need::Tool("fio")]).timeout(60),
//!     Test::new("topic_survives_a_warning", survives).needs(&[Need::Module]).allows(&["zosbd2: expected"]),
//! ];
//!
//! fn does_this(context: &mut Context) {
//!     context.load_module("");
//!     let mut server = context.spawn("zosbd2_sample_ramdisk", &["-t", "4"]);
//!     wait_until(10, "the device to appear", || Path::new("/dev/zosbd2ramdisk").exists());
//!     run(30, "fio", &["--filename=/dev/zosbd2ramdisk", "..."]);
//!     run(10, "zosbd2_sample_ramdisk", &["-d"]);
//!     assert!(server.wait(10).success());
//! }
//! ```
//!
//! A test asserts the expected behaviour. Its panic message is the reason of the failure. Its name is unique and
//! begins with its topic. It starts without the module. At its end the harness kills its remaining processes,
//! removes its mounts and unloads the module. The test fails, even without a panic, if the module does not unload or
//! if the kernel logged something suspicious (see `guest::kmsg`). All numbers of seconds are multiplied by the plan's
//! slowness. Never sleep instead of waiting for a condition: use [`wait_until`](guest::wait_until).

#[allow(
    dead_code,
    unused_imports,
    clippy::unused_self,
    reason = "a tool kit: a helper stays even if no test uses it at present"
)]
mod guest;
mod shell;
mod tests;

use std::process::ExitCode;

/// Runs a role and returns its exit code.
fn role(operation: &str, result: Result<(), Box<dyn std::error::Error>>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    eprint!("{operation}: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        eprint!(": {cause}");
        source = cause.source();
    }
    eprintln!();
    ExitCode::FAILURE
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let program = std::env::args().next().unwrap_or_default();
    if let Some(own) = shell::role_of(&program) {
        return role(&program, own(&arguments));
    }
    match arguments.as_slice() {
        ["--list"] => {
            for test in tests::all() {
                let hidden = if test.hidden { "hidden" } else { "shown" };
                let kernel = if test.debug_only() { "debug" } else { "any" };
                println!("{} {} {hidden} {kernel} {}", test.name, test.variant(), test.hardware().words());
            }
            ExitCode::SUCCESS
        }
        ["--test", name] => guest::child::run(name),
        // Roles: the guest program as a process that a session or a test starts.
        ["--work", "now"] => role("session", shell::worker()),
        ["--conformance", words @ ..] => shell::conformance::role(words),
        ["--serve", name, threads, file] => match tests::support::serve_role(name, threads, file) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("serve {name}: {error}");
                ExitCode::FAILURE
            }
        },
        ["--serve-v2", arguments @ ..] => role("serve", tests::v2::support::serve_role(arguments)),
        ["--serve-gate", form] => role("serve", tests::v2::in_flight::role(form)),
        ["--serve-again", arguments @ ..] => role("serve", tests::v2::again::role(arguments)),
        ["--serve-in-group", group, arguments @ ..] => {
            role("serve", tests::v2::crews::group_role(group, arguments))
        }
        ["--serve-and-fork"] => role("serve", tests::v2::unserved::serve_and_fork()),
        ["--enter-until-superseded"] => role("enter", tests::v2::server_process::enter_until_superseded()),
        ["--serve-passed"] => role("serve", tests::v2::serving::passed_role()),
        ["--serve-mortal", arguments @ ..] => role("serve", tests::v2::crash::server::role(arguments)),
        ["--serve-many", arguments @ ..] => role("serve", tests::v2::teardown::role(arguments)),
        ["--serve-next", arguments @ ..] => role("serve", tests::v2::recovery::role(arguments)),
        ["--serve-form", arguments @ ..] => role("serve", tests::v2::forms::role(arguments)),
        ["--serve-late", arguments @ ..] => role("serve", tests::v2::late::role(arguments)),
        ["--serve-faulty", arguments @ ..] => role("serve", tests::v2::faulty::role(arguments)),
        ["--fetch-long", arguments @ ..] => role("fetch", tests::v2::commits::fetch_role(arguments)),
        ["--copy-long", arguments @ ..] => role("copy", tests::v2::commits::role(arguments)),
        ["--call-control", arguments @ ..] => role("call", tests::v2::hostile::role(arguments)),
        ["--serve-limited", arguments @ ..] => role("serve", tests::v2::limits::role(arguments)),
        ["--swapper", mib, rounds] => role("swap", tests::v2::pressure::swapper_role(mib, rounds)),
        ["--hog", left] => role("hog", tests::v2::pressure::hog_role(left)),
        ["--fuzz", arguments @ ..] => role("fuzz", tests::ioctl_fuzz::role::role(arguments)),
        ["--hold", way, name] => role("hold", tests::bench::hold::role(way, name)),
        ["--destroy-v2", name] => role("destroy", tests::v2::support::destroy_role(name)),
        ["--demo", module, trees @ ..] => {
            tests::demo::native(module, trees);
            ExitCode::SUCCESS
        }
        ["--keep"] => loop {
            std::thread::park();
        },
        ["--read", path] => {
            let mut buffer = [0; 4096];
            let read = std::fs::File::open(path)
                .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut buffer));
            if read.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        _ if std::process::id() == 1 => guest::init::run(),
        _ => {
            eprintln!("usage: zosbd2-vm-guest --list (all other arguments only work in the guest)");
            ExitCode::from(2)
        }
    }
}
