// SPDX-License-Identifier: GPL-2.0-only
//! Numbers that the shim's header and the engine must agree on.

use zosbd2_engine::deadline::NONE_MS;
use zosbd2_engine::queue::{LOOK_MS, MOST_WAKES};

/// The value of a macro in the header.
fn defined(name: &str) -> u32 {
    let header = include_str!("../../shim/zosbd2.h");
    let start = format!("#define {name} ");
    let value = header.lines().find_map(|line| line.strip_prefix(start.as_str()));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("{name} is not in zosbd2.h"))
}

#[test]
fn the_header_has_the_numbers_of_the_engine() {
    assert_eq!(defined("ZOSBD2_MOST_WAKES"), MOST_WAKES);
    assert_eq!(defined("ZOSBD2_LOOK_MS"), LOOK_MS);
    assert_eq!(defined("ZOSBD2_NO_DEADLINE_MS"), NONE_MS);
}
