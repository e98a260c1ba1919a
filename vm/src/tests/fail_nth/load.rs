// SPDX-License-Identifier: MIT OR Apache-2.0
//! The module comes and goes, and its files in debugfs are read.

use std::fs::File;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::pread;
use zosbd2_vm::protocol::MODULE;

use super::{ERRORS, descriptors, each, started, test};
use crate::guest::{Context, FailNth, Test};
use crate::tests::v2::support::control;

pub(super) const TESTS: &[Test] = &[
    test("fail_nth_module_load", module_load).allows(LOADER_SAYS).timeout(1200),
    test("fail_nth_debugfs", debugfs),
];

/// What the kernel's own loader has to say. Its part for tracepoints, which runs before any code of ours, warns when it has no
/// memory for a field of an event, or for an event's folder, which it then puts once too often. kmemleak looks at all of
/// an object when it cannot note which part has pointers.
const LOADER_SAYS: &[&str] = &[
    "(error: -12 parent: ",
    " event_define_fields+",
    " event_file_put+",
    "kmemleak: Cannot allocate a scan area, scanning the full object",
];

const ROOT: &str = "/sys/kernel/debug/zosbd2";

/// A load that fails leaves nothing of the module; one that succeeds has all that it cannot do without.
fn module_load(context: &mut Context) {
    let faults = FailNth::new(context);
    let file = File::open(MODULE).expect("the module");
    let before = descriptors();
    each(context, &faults, "load", |round| {
        let result = round.call(|| rustix::system::finit_module(&file, c"", 0));
        round.check(&result, ERRORS);
        let there = |path: &str| Path::new(path).exists();
        if result.is_ok() {
            assert_eq!(control().info().version, 2);
            // debugfs is done without.
            assert!(round.failed() || there(ROOT));
            rustix::system::delete_module(c"zosbd2", 0).expect("unload");
        }
        for path in ["/sys/module/zosbd2", zosbd2_abi::CONTROL_PATH, "/sys/class/misc/zosbd2ctl", ROOT] {
            assert!(!there(path), "{path} is left");
        }
        assert_eq!(descriptors(), before);
    });
}

/// What is read is the truth, and a file that cannot be read now can be later.
fn debugfs(context: &mut Context) {
    context.load_module("");
    let faults = FailNth::new(context);
    let disk = started("shown");
    for file in ["stats", "latency", "requests"] {
        let path = format!("{ROOT}/zosbd2!shown/{file}");
        let text = std::fs::read(&path).expect("readable");
        let node = std::ffi::CString::new(path).expect("a path");
        let mut buffer = vec![0; 65536];
        each(context, &faults, &format!("open of {file}"), |round| {
            let result =
                round.call(|| open(&node, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map(drop));
            round.check(&result, ERRORS);
        });
        each(context, &faults, &format!("read of {file}"), |round| {
            let opened = open(&node, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).expect("open");
            let result = round.call(|| pread(&opened, &mut buffer[..], 0));
            round.check(&result, ERRORS);
            assert!(result.is_err() || buffer.starts_with(&text));
            assert_eq!(pread(&opened, &mut buffer[..], 0), Ok(text.len()));
            assert!(buffer.starts_with(&text));
        });
    }
    // A device that could not be shown is none the worse.
    disk.destroy(true);
    assert!(!Path::new(ROOT).join("zosbd2!shown").exists());
}
