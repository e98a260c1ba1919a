// SPDX-License-Identifier: MIT OR Apache-2.0
//! The module is loaded and unloaded, and its debugfs files are read.

use std::fs::File;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::pread;
use zosbd2_vm_guest::protocol::MODULE;

use super::{ERRORS, descriptors, each, started, test};
use crate::guest::{Context, FailNth, Test};
use crate::tests::v2::support::control;

pub(super) const TESTS: &[Test] = &[
    test("fail_nth_module_load", module_load).allows(LOADER_SAYS).timeout(1200),
    test("fail_nth_debugfs", debugfs),
];

/// Warnings of the kernel's own module loader. The code for tracepoints, which runs before any code of this
/// project, warns if it has no memory for a field or for the folder of an event, whose reference it then drops
/// once too often. kmemleak scans all of an object if it cannot record which part has pointers.
const LOADER_SAYS: &[&str] = &[
    "(error: -12 parent: ",
    " event_define_fields+",
    " event_file_put+",
    "kmemleak: Cannot allocate a scan area, scanning the full object",
];

const ROOT: &str = "/sys/kernel/debug/zosbd2";

/// A failed load leaves nothing of the module. After a successful one everything essential exists.
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
            // The module works without debugfs.
            assert!(round.failed() || there(ROOT));
            rustix::system::delete_module(c"zosbd2", 0).expect("unload");
        }
        for path in ["/sys/module/zosbd2", zosbd2_abi::CONTROL_PATH, "/sys/class/misc/zosbd2ctl", ROOT] {
            assert!(!there(path), "{path} is left");
        }
        assert_eq!(descriptors(), before);
    });
}

/// The files show correct data, and a file that cannot be read now can be read later.
fn debugfs(context: &mut Context) {
    context.load_module("");
    let faults = FailNth::new(context);
    let disk = started("shown");
    for file in ["stats", "latency", "requests"] {
        let path = format!("{ROOT}/zosbd2-shown/{file}");
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
    // The failure to show a device does not harm the device.
    disk.destroy(true);
    assert!(!Path::new(ROOT).join("zosbd2-shown").exists());
}
