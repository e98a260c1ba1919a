// SPDX-License-Identifier: MIT OR Apache-2.0
//! `zosbd2 set NAME KEY=VALUE...`: changes settings of a disk in use, and in its configuration.

use crate::config::{Disk, Kind, Policy};
use crate::control;
use crate::edit;
use crate::failure::{Failure, Result};
use crate::places::Places;
use crate::units::Time;
use clap::ValueEnum as _;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;
use zosbd2::{Settings, Which};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The disk
    #[arg(value_parser = crate::units::name)]
    name: String,
    /// grace=TIME, deadline=TIME (0: none) or policy=eio|requeue|dead
    #[arg(required = true, value_name = "KEY=VALUE")]
    settings: Vec<Setting>,
}

/// A setting and its new value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setting {
    Grace(Time),
    Deadline(Time),
    Policy(Policy),
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.split_once('=') {
            Some(("grace", value)) => value.parse().map(Self::Grace),
            Some(("deadline", value)) => value.parse().map(Self::Deadline),
            Some(("policy", value)) => Policy::from_str(value, false)
                .map(Self::Policy)
                .map_err(|_| format!("{value:?} is no policy: eio, requeue and dead are")),
            Some((key, _)) => {
                Err(format!("{key:?} cannot be set while the disk exists: grace, deadline and policy can"))
            }
            None => Err(format!("{text:?} is not KEY=VALUE, such as grace=30s")),
        }
    }
}

impl Setting {
    fn apply(self, settings: Settings) -> Settings {
        match self {
            Self::Grace(Time(grace)) => settings.grace(grace),
            Self::Deadline(Time(Duration::ZERO)) => settings.no_deadline(),
            Self::Deadline(Time(deadline)) => settings.deadline(deadline),
            Self::Policy(policy) => settings.deadline_policy(policy.into()),
        }
    }

    /// Its key and value in the configuration.
    fn words(self) -> (&'static str, String) {
        match self {
            Self::Grace(time) => ("grace", time.to_string()),
            Self::Deadline(time) => ("deadline", time.to_string()),
            Self::Policy(policy) => {
                let word = policy.to_possible_value().map(|word| word.get_name().to_owned());
                ("policy", word.unwrap_or_default())
            }
        }
    }
}

pub(crate) fn run(arguments: &Arguments, node: Option<&Path>) -> Result<()> {
    let (control, places, name) = (control::open(node)?, Places::system(), &arguments.name);
    let status = control::status(&control, name)?;
    if status.version == 1 {
        return Err(Failure::failed(format!(
            "change settings of disk {name}: its program uses interface version 1, which has none of them"
        )));
    }
    let settings = arguments.settings.iter().fold(Settings::new(), |all, setting| setting.apply(all));
    control.set(Which::from(&status), &settings)?;
    let keys: Vec<_> = arguments.settings.iter().map(|setting| setting.words()).collect();
    let files = places.configurations(name);
    for path in &files {
        edit::set(path, &keys).map_err(|failure| {
            Failure::failed(format!(
                "disk {name} has the new settings, but keeps them only until it is removed: {failure}"
            ))
        })?;
    }
    let foreign = files.is_empty() || Disk::find(&places, name).is_ok_and(|disk| disk.backend == Kind::Exec);
    if foreign {
        let program = if status.program.is_empty() { "its program" } else { &status.program };
        eprintln!(
            "disk {name} keeps the new settings until it is removed, also under another server; {program} decides \
             what a new disk of that name has"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_words() {
        let time = |text: &str| text.parse::<Time>().unwrap();
        for (text, setting) in [
            ("grace=90s", Setting::Grace(time("90s"))),
            ("deadline=0", Setting::Deadline(Time::default())),
            ("policy=requeue", Setting::Policy(Policy::Requeue)),
        ] {
            assert_eq!(text.parse(), Ok(setting));
            let (key, value) = setting.words();
            assert_eq!(format!("{key}={value}").parse(), Ok(setting));
        }
        for (text, wanted) in [
            ("grace", "is not KEY=VALUE"),
            ("grace=soon", "is no time"),
            ("policy=none", "is no policy"),
            ("queues=2", "cannot be set while the disk exists"),
        ] {
            let error = text.parse::<Setting>().unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn a_deadline_of_zero_is_none() {
        let settings = Setting::Deadline(Time::default()).apply(Settings::new());
        assert_eq!(settings, Settings::new().no_deadline());
    }
}
