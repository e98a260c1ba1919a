// SPDX-License-Identifier: MIT OR Apache-2.0
//! Faults as text, for command lines. Parsing the displayed text returns the same fault.

use crate::plan::{Action, Fault, Moment, When};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use zosbd2::{Errno, Operation};

/// The text is not a valid [`Fault`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("fault \"{fault}\": \"{part}\" {problem}")]
pub struct ParseFaultError {
    fault: String,
    part: String,
    problem: &'static str,
}

impl ParseFaultError {
    /// The invalid part, or all of the text if something is missing.
    #[must_use]
    pub fn part(&self) -> &str {
        &self.part
    }
}

/// What is wrong with a part.
type Problem = &'static str;

/// The errors that the block layer tells apart, and a few that it turns into `EIO`.
const ERRNOS: [(&str, Errno); 24] = [
    ("EIO", Errno::IO),
    ("ENOSPC", Errno::NOSPC),
    ("ETIMEDOUT", Errno::TIMEDOUT),
    ("EOPNOTSUPP", Errno::OPNOTSUPP),
    ("EINVAL", Errno::INVAL),
    ("ENOMEM", Errno::NOMEM),
    ("EAGAIN", Errno::AGAIN),
    ("EBUSY", Errno::BUSY),
    ("ENODEV", Errno::NODEV),
    ("ENOLINK", Errno::NOLINK),
    ("EREMOTEIO", Errno::REMOTEIO),
    ("EBADE", Errno::BADE),
    ("ENODATA", Errno::NODATA),
    ("EILSEQ", Errno::ILSEQ),
    ("EOVERFLOW", Errno::OVERFLOW),
    ("ETOOMANYREFS", Errno::TOOMANYREFS),
    ("EROFS", Errno::ROFS),
    ("EPERM", Errno::PERM),
    ("EACCES", Errno::ACCESS),
    ("ENXIO", Errno::NXIO),
    ("EFAULT", Errno::FAULT),
    ("EINTR", Errno::INTR),
    ("EPIPE", Errno::PIPE),
    ("EDQUOT", Errno::DQUOT),
];

const SIZES: [(&str, u32); 6] = [("E", 60), ("P", 50), ("T", 40), ("G", 30), ("M", 20), ("K", 10)];
const TIMES: [(&str, u128); 4] = [("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1000), ("ns", 1)];
const ANY: &str = "any";

const NO_ERRNO: Problem = "is not an error: use a name such as EIO, or a number from 1 to 4095";
const NO_MOMENT: Problem = "is not a moment: use before or after";
const NO_TIME: Problem = "is not a time: use a number and one of s, ms, us, ns";
const NO_SIZE: Problem = "is not a number of bytes: use a number, optionally with one of K, M, G, T, P, E";

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for operation in Operation::ALL {
            if self.operations & (1 << operation.number()) != 0 {
                write!(formatter, "{separator}{operation}")?;
                separator = "+";
            }
        }
        if self.operations == 0 {
            formatter.write_str(ANY)?;
        }
        if let Some((from, to)) = self.range {
            write!(formatter, ":{}-", Bytes(from))?;
            if to != u64::MAX {
                write!(formatter, "{}", Bytes(to))?;
            }
        }
        match self.when {
            When::Always => {}
            When::Nth(number) => write!(formatter, ":nth={number}")?,
            When::Share(share) => write!(formatter, ":share={share}")?,
        }
        write!(formatter, ":{}", self.action)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delay(time) => {
                let nanos = time.as_nanos();
                // The last unit divides every time.
                let fits = TIMES.into_iter().find(|(_, unit)| nanos % unit == 0);
                let (word, unit) = fits.unwrap_or(("ns", 1));
                write!(formatter, "delay={}{word}", nanos / unit)
            }
            Self::Errno(errno) => match ERRNOS.into_iter().find(|(_, known)| known == errno) {
                Some((word, _)) => write!(formatter, "errno={word}"),
                None => write!(formatter, "errno={}", errno.raw_os_error()),
            },
            Self::Short => formatter.write_str("short"),
            Self::Drop(Moment::Before) => formatter.write_str("drop"),
            Self::Drop(Moment::After) => formatter.write_str("drop=after"),
            Self::Duplicate => formatter.write_str("duplicate"),
            Self::Die(Moment::Before) => formatter.write_str("die"),
            Self::Die(Moment::After) => formatter.write_str("die=after"),
        }
    }
}

struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = *self;
        match SIZES.into_iter().find(|(_, shift)| bytes != 0 && bytes.trailing_zeros() >= *shift) {
            Some((word, shift)) => write!(formatter, "{}{word}", bytes >> shift),
            None => write!(formatter, "{bytes}"),
        }
    }
}

impl FromStr for Fault {
    type Err = ParseFaultError;

    fn from_str(text: &str) -> Result<Self, ParseFaultError> {
        let wrong =
            |part: &str, problem| ParseFaultError { fault: text.to_owned(), part: part.to_owned(), problem };
        let mut parts = text.split(':');
        let mut operations = 0;
        let words = parts.next().unwrap_or_default();
        if words != ANY {
            for word in words.split('+') {
                let known = Operation::ALL.into_iter().find(|operation| operation.to_string() == word);
                operations |= 1 << known.ok_or_else(|| wrong(word, "is not an operation"))?.number();
            }
        }
        let (mut range, mut when, mut action) = (None, None, None);
        for part in parts {
            let (key, value) = match part.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (part, None),
            };
            let second = match (key, value) {
                ("nth" | "share", Some(value)) => when.replace(choice(key, value)).is_some(),
                (key, None) if key.starts_with(|first: char| first.is_ascii_digit()) => {
                    range.replace(bytes(part)).is_some()
                }
                (key, value) => action.replace(act(key, value)).is_some(),
            };
            if second {
                return Err(wrong(
                    part,
                    "is repeated: only one range, one choice and one action are allowed",
                ));
            }
            // Stored in order, so that the error names the first wrong part.
            let problem =
                range.and_then(Result::err).or(when.and_then(Result::err)).or(action.and_then(Result::err));
            if let Some(problem) = problem {
                return Err(wrong(part, problem));
            }
        }
        let action = action.and_then(Result::ok).ok_or_else(|| wrong(text, "has no action"))?;
        let range = range.and_then(Result::ok);
        let when = when.and_then(Result::ok).unwrap_or(When::Always);
        Ok(Self { operations, range, when, action })
    }
}

fn bytes(part: &str) -> Result<(u64, u64), Problem> {
    let (from, to) = part.split_once('-').ok_or("is not a range: use FROM-TO or FROM-")?;
    let from = size(from)?;
    let to = if to.is_empty() { u64::MAX } else { size(to)? };
    if from < to { Ok((from, to)) } else { Err("is an empty range") }
}

fn size(text: &str) -> Result<u64, Problem> {
    let unit = SIZES.into_iter().find_map(|(word, shift)| Some((text.strip_suffix(word)?, shift)));
    let (digits, shift) = unit.unwrap_or((text, 0));
    number(digits).and_then(|count: u64| count.checked_mul(1 << shift)).ok_or(NO_SIZE)
}

/// Accepts digits only.
fn number<T: FromStr>(digits: &str) -> Option<T> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then_some(())?;
    digits.parse().ok()
}

fn choice(key: &str, value: &str) -> Result<When, Problem> {
    if key == "nth" {
        let number = number(value).filter(|number| *number != 0);
        return number.map(When::Nth).ok_or("is not a request number: numbers start at 1");
    }
    let share = value.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.map(When::Share).ok_or("is not a share: use a number from 0 to 1")
}

fn act(key: &str, value: Option<&str>) -> Result<Action, Problem> {
    let moment = || match value {
        None | Some("before") => Ok(Moment::Before),
        Some("after") => Ok(Moment::After),
        Some(_) => Err(NO_MOMENT),
    };
    match (key, value) {
        ("delay", value) => time(value.unwrap_or_default()).map(Action::Delay),
        ("errno", value) => errno(value.unwrap_or_default()).map(Action::Errno),
        ("short", None) => Ok(Action::Short),
        ("duplicate", None) => Ok(Action::Duplicate),
        ("drop", _) => moment().map(Action::Drop),
        ("die", _) => moment().map(Action::Die),
        ("short" | "duplicate", Some(_)) => Err("takes no value"),
        _ => Err("is not a range, choice or action"),
    }
}

fn errno(text: &str) -> Result<Errno, Problem> {
    if let Some((_, errno)) = ERRNOS.into_iter().find(|(word, _)| *word == text) {
        return Ok(errno);
    }
    let raw = number(text).filter(|raw| (1..=4095).contains(raw));
    raw.map(Errno::from_raw_os_error).ok_or(NO_ERRNO)
}

fn time(text: &str) -> Result<Duration, Problem> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, word) = text.split_at(split);
    let unit = TIMES.into_iter().find(|(known, _)| *known == word);
    let nanos = number::<u128>(digits).zip(unit).and_then(|(count, (_, unit))| count.checked_mul(unit));
    let second = 1_000_000_000;
    let parts = nanos
        .and_then(|nanos| Some((u64::try_from(nanos / second).ok()?, u32::try_from(nanos % second).ok()?)));
    parts.map(|(seconds, nanos)| Duration::new(seconds, nanos)).ok_or(NO_TIME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_and_calls_are_the_same() {
        let io = Action::Errno(Errno::IO);
        for (text, fault) in [
            ("read:0-1M:nth=3:errno=EIO", Fault::new(io).on(Operation::Read).range(0..1 << 20).nth(3)),
            ("any:duplicate", Fault::new(Action::Duplicate)),
            (
                "write+flush:share=0.01:delay=1500us",
                Fault::new(Action::Delay(Duration::from_micros(1500)))
                    .on(Operation::Flush)
                    .on(Operation::Write)
                    .share(0.01),
            ),
            ("discard:4K-:short", Fault::new(Action::Short).on(Operation::Discard).range(4096..)),
            ("write:die=after", Fault::new(Action::Die(Moment::After)).on(Operation::Write)),
            ("secure-erase:drop", Fault::new(Action::Drop(Moment::Before)).on(Operation::SecureErase)),
            ("write-zeroes:errno=4095", {
                Fault::new(Action::Errno(Errno::from_raw_os_error(4095))).on(Operation::WriteZeroes)
            }),
        ] {
            assert_eq!(text.parse(), Ok(fault), "{text}");
            assert_eq!(fault.to_string(), text);
        }
        // The same fault in other words and another order.
        let fault: Fault = "read+read:drop=before:nth=2:512-1024".parse().expect("a fault");
        assert_eq!(fault.to_string(), "read:512-1K:nth=2:drop");
    }

    #[test]
    fn the_part_that_is_wrong_is_named() {
        for (text, part, problem) in [
            ("", "", "is not an operation"),
            ("reed:short", "reed", "is not an operation"),
            ("read+any:short", "any", "is not an operation"),
            ("read", "read", "has no action"),
            ("read:0-1M:nth=3", "read:0-1M:nth=3", "has no action"),
            ("read::short", "", "is not a range, choice or action"),
            ("read:long", "long", "is not a range, choice or action"),
            ("read:5:short", "5", "is not a range: use FROM-TO or FROM-"),
            ("read:4K-1K:short", "4K-1K", "is an empty range"),
            ("read:0-1X:short", "0-1X", NO_SIZE),
            ("read:0-16E:short", "0-16E", NO_SIZE),
            ("read:nth=0:short", "nth=0", "is not a request number: numbers start at 1"),
            ("read:nth=+1:short", "nth=+1", "is not a request number: numbers start at 1"),
            ("read:share=1.5:short", "share=1.5", "is not a share: use a number from 0 to 1"),
            ("read:share=NaN:short", "share=NaN", "is not a share: use a number from 0 to 1"),
            ("read:errno=EWHAT", "errno=EWHAT", NO_ERRNO),
            ("read:errno=0", "errno=0", NO_ERRNO),
            ("read:errno", "errno", NO_ERRNO),
            ("read:delay=5", "delay=5", NO_TIME),
            ("read:delay=ms", "delay=ms", NO_TIME),
            ("read:delay=99999999999999999999s", "delay=99999999999999999999s", NO_TIME),
            ("read:die=never", "die=never", NO_MOMENT),
            ("read:short=5", "short=5", "takes no value"),
            ("read:short:drop", "drop", "is repeated: only one range, one choice and one action are allowed"),
            (
                "read:nth=1:share=0.5:drop",
                "share=0.5",
                "is repeated: only one range, one choice and one action are allowed",
            ),
        ] {
            let error = text.parse::<Fault>().expect_err(text);
            assert_eq!(error.part(), part, "{text}");
            assert_eq!(error.to_string(), format!("fault \"{text}\": \"{part}\" {problem}"));
        }
    }

    fn moments() -> impl Strategy<Value = Moment> {
        prop_oneof![Just(Moment::Before), Just(Moment::After)]
    }

    fn actions() -> impl Strategy<Value = Action> {
        prop_oneof![
            (any::<u64>(), 0..1_000_000_000_u32).prop_map(|(s, ns)| Action::Delay(Duration::new(s, ns))),
            (0..10_000_u64).prop_map(|ms| Action::Delay(Duration::from_millis(ms))),
            (1..=4095).prop_map(|raw| Action::Errno(Errno::from_raw_os_error(raw))),
            Just(Action::Short),
            Just(Action::Duplicate),
            moments().prop_map(Action::Drop),
            moments().prop_map(Action::Die),
        ]
    }

    fn whens() -> impl Strategy<Value = When> {
        prop_oneof![
            Just(When::Always),
            (1..=u64::MAX).prop_map(When::Nth),
            (0.0..=1.0_f64).prop_map(When::Share),
        ]
    }

    fn ranges() -> impl Strategy<Value = Option<(u64, u64)>> {
        let bytes = || prop_oneof![any::<u64>(), (0..1_u64 << 20).prop_map(|kilobytes| kilobytes << 10)];
        let pairs = (bytes(), bytes()).prop_map(|(a, b)| (a.min(b), a.max(b)));
        prop_oneof![
            Just(None),
            Just(Some((0, u64::MAX))),
            pairs.prop_map(|(from, to)| (from < to).then_some((from, to))),
        ]
    }

    proptest! {
        #[test]
        fn what_is_displayed_is_parsed(
            operations in 0..1_u32 << 6,
            range in ranges(),
            when in whens(),
            action in actions(),
        ) {
            let fault = Fault { operations, range, when, action };
            prop_assert_eq!(fault.to_string().parse(), Ok(fault), "{}", fault);
        }

        #[test]
        fn anything_is_parsed_or_refused(text in "[a-z0-9:=+\\-.KMs]{0,40}") {
            if let Ok(fault) = text.parse::<Fault>() {
                prop_assert_eq!(fault.to_string().parse(), Ok(fault));
            }
        }
    }
}
