// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages of the sample RAM disk without the kernel module. The tests that need the module run in
//! `vm/`.

use std::path::Path;
use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_zosbd2_sample_ramdisk")).args(arguments).output().expect("starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_missing_module_is_named_by_both_modes() {
    if Path::new("/dev/zosbd2ctl").exists() {
        // The module is loaded here, so the sample would create a device or destroy all devices.
        return;
    }
    for arguments in [&[][..], &["-d"], &["-d", "--name", "disk"], &["-d", "--all"], &["-t", "4"]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        let said = stderr(&output);
        assert!(said.contains("open /dev/zosbd2ctl (is the kernel module zosbd2 loaded?)"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn nonsense_on_the_command_line_is_refused_before_anything_happens() {
    for arguments in [
        &["-t", "0"][..],
        &["--size-mib", "3"],
        &["--timeout", "0"],
        &["--timeout", "1201"],
        &["-x"],
        // Everybody's devices only on demand.
        &["--all"],
        &["-d", "--all", "--name", "disk"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn a_name_that_cannot_be_is_refused() {
    let output = run(&["--name", "a-name-that-is-longer-than-31-bytes"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("is longer than 31 bytes"), "{}", stderr(&output));
}
