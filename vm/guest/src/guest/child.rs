// SPDX-License-Identifier: MIT OR Apache-2.0
//! A test's own process: runs the test, and leaves the reason of a failure where init finds it.

use super::{Context, step};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// File with the reason of a failure.
pub(crate) const REASON: &str = "/run/reason";

/// File with the reason of a skip.
pub(crate) const SKIPPED: &str = "/run/skipped";

/// Runs the named test. A panic makes this process fail.
pub(crate) fn run(name: &str) -> ExitCode {
    let Some(test) = crate::tests::all().find(|test| test.name == name) else {
        eprintln!("there is no test {name}");
        return ExitCode::from(2);
    };
    let mut context = Context::new();
    let unmet: Vec<String> = test.needs.iter().filter_map(|need| need.unmet(&context)).collect();
    if !unmet.is_empty() {
        return leave(SKIPPED, &unmet.join(", "), ExitCode::SUCCESS);
    }
    // A test that another test starts is no step of its own.
    if rustix::process::getppid().is_some_and(rustix::process::Pid::is_init) {
        step::record();
    }
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let formatted = payload.downcast_ref::<String>().map(String::as_str);
        let message = payload.downcast_ref::<&str>().copied().or(formatted);
        let message = message.unwrap_or("a panic without a message");
        let place = panic.location().map(|place| format!(" ({}:{})", place.file(), place.line()));
        let reason = format!("{message}{}", place.unwrap_or_default());
        eprintln!("test failed: {reason}");
        // The first reason counts: other threads may fail because of it.
        if !fs::exists(REASON).unwrap_or(false) {
            let _ = leave(REASON, &reason, ExitCode::FAILURE);
        }
    }));
    match catch_unwind(AssertUnwindSafe(|| (test.function)(&mut context))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn leave(path: &str, reason: &str, code: ExitCode) -> ExitCode {
    if let Err(error) = fs::write(path, reason) {
        eprintln!("write {path}: {error}");
        return ExitCode::FAILURE;
    }
    code
}
