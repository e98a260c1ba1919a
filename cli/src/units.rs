// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sizes and times as people write and read them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Checks the name of a disk on the command line, before it becomes a part of a path: like the library does.
pub(crate) fn name(text: &str) -> Result<String, String> {
    const MOST: usize = 24;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+:".contains(&byte);
    if text.is_empty() || text.len() > MOST {
        return Err(format!("a name has 1 to {MOST} characters"));
    }
    if !text.bytes().all(allowed) || !text.as_bytes()[0].is_ascii_alphanumeric() {
        return Err("a name has letters, digits and ._-+: and begins with a letter or digit".to_owned());
    }
    Ok(text.to_owned())
}

/// Letters of binary units, smallest first.
const LETTERS: &str = "KMGTPE";

/// A number of bytes: `4096`, `64K`, `10G` or `10GiB`. Units are powers of 1024.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no size: write bytes, or a number with K, M, G, T, P or E, such as 10G");
        let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let unit = unit.strip_suffix("iB").unwrap_or(unit);
        let power = match unit {
            "" => 0,
            _ => {
                1 + LETTERS.find(&unit.to_ascii_uppercase()).filter(|_| unit.len() == 1).ok_or_else(wrong)?
            }
        };
        let bytes = 1_u64.checked_shl(10 * u32::try_from(power).map_err(|_| wrong())?).ok_or_else(wrong)?;
        number
            .checked_mul(bytes)
            .map(Self)
            .ok_or_else(|| format!("{text:?} is more bytes than a disk can have"))
    }
}

/// The exact size with the largest unit that divides it: `10G`, `1000`.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut power = 0;
        while power < LETTERS.len() && self.0 != 0 && self.0 % (1 << (10 * (power + 1))) == 0 {
            power += 1;
        }
        let letter = power.checked_sub(1).and_then(|index| LETTERS.get(index..=index)).unwrap_or("");
        write!(f, "{}{letter}", self.0 >> (10 * power))
    }
}

/// A size for a table: at most five characters, rounded down to a digit after the point.
pub(crate) fn short(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let power = (u64::BITS - 1 - bytes.leading_zeros()) / 10;
    let tenths = (u128::from(bytes) * 10) >> (10 * power);
    let letter = LETTERS.chars().nth(power as usize - 1).unwrap_or('?');
    if tenths % 10 == 0 || tenths >= 1000 {
        format!("{}{letter}", tenths / 10)
    } else {
        format!("{}.{}{letter}", tenths / 10, tenths % 10)
    }
}

/// A time: `30s`, `100ms`, `1h 5m`; `0` and `0s` are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) Duration);

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "0" {
            return Ok(Self::default());
        }
        let wrong = |error| format!("{text:?} is no time, such as 30s or 100ms: {error}");
        humantime::parse_duration(text).map(Self).map_err(wrong)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// Lets serde read and write a type as its text.
macro_rules! as_text {
    ($($type:ty)*) => {
        $(impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        })*
    };
}

as_text!(Size Time);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_no_paths() {
        for good in ["a", "a-b+c.d:e_f", "0123456789abcdefghijklmn"] {
            assert_eq!(name(good), Ok(good.to_owned()));
        }
        for bad in ["", "a/b", "..", ".a", "-a", "a b", "\u{e4}", "0123456789abcdefghijklmno"] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes) in
            [("0", 0), ("512", 512), ("1k", 1024), ("10G", 10 << 30), ("3MiB", 3 << 20), ("15E", 15 << 60)]
        {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
            assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
        }
        assert_eq!(Size(10 << 30).to_string(), "10G");
        assert_eq!(Size(1025).to_string(), "1025");
        for text in ["", "G", "1GB", "-1", "1.5G", "16E", "1KK", "18446744073709551616"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_fit_a_column() {
        let table = [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1K"),
            (1536, "1.5K"),
            (10 << 30, "10G"),
            (1023 << 20, "1023M"),
        ];
        for (bytes, text) in table {
            assert_eq!(short(bytes), text);
        }
        assert!(short(u64::MAX).len() <= 5);
    }

    #[test]
    fn times_are_read_and_written() {
        assert_eq!("0".parse(), Ok(Time::default()));
        assert_eq!("90s".parse::<Time>().map(|time| time.to_string()), Ok("1m 30s".to_owned()));
        assert!("30".parse::<Time>().is_err() && "soon".parse::<Time>().is_err());
    }
}
