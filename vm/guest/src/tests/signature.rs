// SPDX-License-Identifier: MIT OR Apache-2.0
//! A kernel that loads only signed modules, as with Secure Boot: what people are told.

use rustix::io::Errno;
use zosbd2::v2::Control;

use crate::guest::{Context, Kmsg, Need, Test};

pub(super) const TESTS: &[Test] =
    &[Test::new("unsigned_module_is_refused", refused).needs(&[Need::Module, Need::SignedOnly]).timeout(60)];

/// The kernel refuses the unsigned module with an error and a line in its log. A program that then looks for the control
/// node says why the module is not there, and what to do.
fn refused(context: &mut Context) {
    let mut log = Kmsg::new();
    let error = context.try_load_module("").expect_err("the kernel loads an unsigned module");
    assert_eq!(error.raw_os_error(), Some(Errno::KEYREJECTED.raw_os_error()), "{error}");
    let lines = log.lines();
    assert!(lines.iter().any(|line| line.contains("unsigned module is rejected")), "{lines:?}");
    let error = Control::open().expect_err("there is a control node").to_string();
    for part in ["/dev/zosbd2ctl", "loads only modules that are signed", "docs/building.md"] {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
}
