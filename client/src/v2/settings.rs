// SPDX-License-Identifier: MIT OR Apache-2.0
//! Settings of a device that can be changed while it is in use.

use super::DeadlinePolicy;
use crate::{Error, Result};
use std::time::Duration;
use zosbd2_abi::v2;

/// New settings of a device, for [`Control::set`](super::Control::set) and [`Server::set`](super::Server::set).
/// What is not set stays as it is.
///
/// ```
/// # use std::time::Duration;
/// # use zosbd2::{Control, DeadlinePolicy, Settings};
/// # fn patient(control: &Control) -> zosbd2::Result<()> {
/// let settings = Settings::new().grace(Duration::from_secs(600)).deadline_policy(DeadlinePolicy::Requeue);
/// control.set("disk", &settings)
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    grace: Option<Duration>,
    deadline: Option<Duration>,
    no_deadline: bool,
    policy: Option<DeadlinePolicy>,
}

impl Settings {
    /// No change.
    #[must_use]
    pub const fn new() -> Self {
        Self { grace: None, deadline: None, no_deadline: false, policy: None }
    }

    /// How long I/O waits for a new server, up to one day. A device that waits now waits until this time after its
    /// server's death. Parts of a millisecond are rounded up.
    #[must_use]
    pub const fn grace(self, grace: Duration) -> Self {
        Self { grace: Some(grace), ..self }
    }

    /// Deadline of requests, 1 ms to one day. It counts for requests that are sent from then on: the others keep the
    /// deadline that they have, or wait without one.
    #[must_use]
    pub const fn deadline(self, deadline: Duration) -> Self {
        Self { deadline: Some(deadline), no_deadline: false, ..self }
    }

    /// Requests have no deadline, including those that were sent with one.
    #[must_use]
    pub const fn no_deadline(self) -> Self {
        Self { deadline: None, no_deadline: true, ..self }
    }

    /// What happens to late requests.
    #[must_use]
    pub const fn deadline_policy(self, policy: DeadlinePolicy) -> Self {
        Self { policy: Some(policy), ..self }
    }

    /// The argument, all but the device.
    pub(super) fn to_raw(self, device: &str) -> Result<v2::Settings> {
        let mut raw = v2::Settings::default();
        if let Some(grace) = self.grace {
            raw.flags |= v2::SETTINGS_GRACE;
            raw.grace_ms = milliseconds(OPERATION, device, "grace in milliseconds", grace, 0)?;
        }
        if self.no_deadline {
            raw.flags |= v2::SETTINGS_DEADLINE;
        }
        if let Some(deadline) = self.deadline {
            raw.flags |= v2::SETTINGS_DEADLINE;
            raw.deadline_ms = milliseconds(OPERATION, device, "deadline in milliseconds", deadline, 1)?;
        }
        if let Some(policy) = self.policy {
            raw.flags |= v2::SETTINGS_POLICY;
            raw.deadline_policy = policy.into();
        }
        Ok(raw)
    }
}

/// What the calls do, in messages.
const OPERATION: &str = "change settings of";

/// A time in whole milliseconds, rounded up, as the kernel takes it for `operation` on a device.
pub(super) fn milliseconds(
    operation: &'static str,
    device: &str,
    option: &'static str,
    time: Duration,
    min: u64,
) -> Result<u32> {
    let value = u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    let max = u64::from(v2::MAX_MILLISECONDS);
    if (min..=max).contains(&value) {
        return Ok(u32::try_from(value).unwrap_or(v2::MAX_MILLISECONDS));
    }
    Err(Error::Range { operation, name: device.to_owned(), option, value, min, max })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_set_is_changed() {
        let raw = |settings: Settings| settings.to_raw("disk").expect("valid");
        assert_eq!(raw(Settings::new()), v2::Settings::default());
        let all = Settings::new()
            .grace(Duration::ZERO)
            .deadline(Duration::from_micros(1))
            .deadline_policy(DeadlinePolicy::DeclareDead);
        assert_eq!(
            raw(all),
            v2::Settings {
                flags: v2::SETTINGS_FLAGS,
                deadline_ms: 1,
                deadline_policy: v2::DEADLINE_DECLARE_DEAD,
                ..v2::Settings::default()
            }
        );
        assert_eq!(raw(Settings::new().no_deadline()).flags, v2::SETTINGS_DEADLINE);
    }

    #[test]
    fn times_have_limits() {
        let day = Duration::from_secs(86_400);
        let more = day + Duration::from_nanos(1);
        for (settings, valid) in [
            (Settings::new().grace(day), true),
            (Settings::new().grace(more), false),
            (Settings::new().deadline(day), true),
            (Settings::new().deadline(more), false),
            (Settings::new().deadline(Duration::ZERO), false),
            (Settings::new().grace(Duration::MAX), false),
        ] {
            assert_eq!(settings.to_raw("disk").is_ok(), valid, "{settings:?}");
        }
        let error = Settings::new().grace(more).to_raw("disk").expect_err("too long");
        assert!(error.to_string().starts_with("change settings of device disk: grace"), "{error}");
    }
}
