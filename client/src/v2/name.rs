// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names and serial numbers: checked before the kernel sees them, and decoded without trust.

use crate::{Error, Result};
use zosbd2_abi::v2;

/// The name field for a new device.
pub(super) fn new_field(name: &str) -> Result<[u8; v2::NAME_BYTES]> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+:".contains(&byte);
    let problem = if name.is_empty() {
        "is empty"
    } else if name.len() > v2::MAX_NAME_BYTES {
        "is longer than 24 bytes"
    } else if !name.bytes().all(allowed) {
        "has a character other than letters, digits and ._-+:"
    } else if !name.as_bytes()[0].is_ascii_alphanumeric() {
        "does not begin with a letter or digit"
    } else {
        return field(name);
    };
    Err(Error::Name { name: name.to_owned(), problem })
}

/// The name field of an existing device of either version.
pub(super) fn field(name: &str) -> Result<[u8; v2::NAME_BYTES]> {
    let problem = if name.is_empty() {
        "is empty"
    } else if name.contains('\0') {
        "contains a NUL byte"
    } else {
        match padded(name) {
            Some(field) => return Ok(field),
            None => "is longer than 31 bytes",
        }
    };
    Err(Error::Name { name: name.to_owned(), problem })
}

/// The NUL-padded text, if there is room for at least one NUL.
pub(super) fn padded<const BYTES: usize>(text: &str) -> Option<[u8; BYTES]> {
    let mut field = [0; BYTES];
    let place = field.get_mut(..text.len()).filter(|_| text.len() < BYTES)?;
    place.copy_from_slice(text.as_bytes());
    Some(field)
}

/// Decodes a field that the kernel filled. Bytes that are not UTF-8 become U+FFFD.
pub(super) fn text(field: &[u8]) -> String {
    let used = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..used]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_names_are_checked() {
        for good in ["a", "0", "my.disk_1-2+3:4", &"x".repeat(24)] {
            assert_eq!(text(&new_field(good).expect("good")), good);
        }
        for bad in ["", ".a", "-a", "a/b", "a b", "a\0", "ä", &"x".repeat(25)] {
            assert!(new_field(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_of_version_1_can_be_asked_for() {
        assert_eq!(text(&field(&"x".repeat(31)).expect("fits")), "x".repeat(31));
        let error = field(&"x".repeat(32)).expect_err("too long");
        assert!(error.to_string().ends_with("is longer than 31 bytes"), "{error}");
        assert!(field("").is_err() && field("a\0b").is_err());
    }
}
