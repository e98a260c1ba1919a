// SPDX-License-Identifier: MIT OR Apache-2.0
//! In which properties an existing device differs from the one that a program would create.

use super::Wanted;
use crate::v2::{Status, name};
use std::fmt;
use zosbd2_abi::v2;

/// A property in which an existing device differs from what a program would create.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// The property.
    pub property: &'static str,
    /// Its value on the existing device.
    pub existing: String,
    /// The value that the program would give it.
    pub wanted: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its {} is {}, not {}", self.property, self.existing, self.wanted)
    }
}

/// The constant properties that matter for the data and for the backend, and in which the device differs.
///
/// Other properties only concern speed (queues, depth, optimal sizes), or what an operator may have changed (grace,
/// deadline).
pub(super) fn differences(wanted: &Wanted<'_>, status: &Status) -> Vec<Difference> {
    let create = &wanted.create;
    let mut found = Vec::new();
    let mut compare = |property, same: bool, existing: String, wanted: String| {
        if !same {
            found.push(Difference { property, existing, wanted });
        }
    };
    let bytes = |bytes: u64| format!("{bytes} bytes");
    let mut equal = |property, existing: u64, wanted: u64| {
        compare(property, existing == wanted, bytes(existing), bytes(wanted));
    };
    equal("size", status.size_bytes, create.size_bytes);
    equal("logical block", status.logical_block_size.into(), create.logical_block_size.into());
    let serial = name::text(&create.serial);
    compare("serial number", status.serial == serial, format!("{:?}", status.serial), format!("{serial:?}"));
    for (property, flag) in [
        ("read-only flag", v2::CREATE_READ_ONLY),
        ("volatile cache flag", v2::CREATE_VOLATILE_CACHE),
        ("FUA flag", v2::CREATE_FUA),
    ] {
        let (existing, wanted) = (status.create_flags & flag != 0, create.flags & flag != 0);
        let word = |set: bool| if set { "on" } else { "off" }.to_owned();
        compare(property, existing == wanted, word(existing), word(wanted));
    }
    // The kernel sends requests up to the limits of the existing device. The kernel may have lowered them.
    let limits = [
        (
            "longest request",
            status.max_io_bytes,
            if create.max_io_bytes == 0 { u32::MAX } else { create.max_io_bytes },
        ),
        ("longest discard", status.max_discard_bytes, create.max_discard_bytes),
        ("longest write-zeroes", status.max_write_zeroes_bytes, create.max_write_zeroes_bytes),
        ("longest secure erase", status.max_secure_erase_bytes, create.max_secure_erase_bytes),
    ];
    for (property, existing, most) in limits {
        let most_text = if most == 0 { "0 bytes".to_owned() } else { format!("at most {most} bytes") };
        compare(property, existing <= most, bytes(existing.into()), most_text);
    }
    if wanted.ephemeral {
        let (existing, wanted) = ("what its last server stored", "empty memory of this process");
        compare("content", false, existing.to_owned(), wanted.to_owned());
    }
    found
}

/// A blob for people: as text if it is text.
pub(super) fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok("") => "none".to_owned(),
        Ok(text) if text.chars().all(|letter| !letter.is_control()) => format!("{text:?}"),
        _ => bytes.iter().take(16).fold("0x".to_owned(), |text, byte| format!("{text}{byte:02x}")),
    }
}
