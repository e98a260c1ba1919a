// SPDX-License-Identifier: MIT OR Apache-2.0
//! Declaration of a test, and its requirements.

use super::{Context, disk, fail_nth, modules, read_trimmed};
use std::fs;
use std::path::Path;
use zosbd2_vm_guest::hardware::Hardware;
use zosbd2_vm_guest::protocol::MODULE;

/// Default time limit of a test, in seconds.
const TIMEOUT: u64 = 120;

/// A test.
#[derive(Debug)]
pub(crate) struct Test {
    pub(crate) name: &'static str,
    pub(crate) function: fn(&mut Context),
    pub(crate) needs: &'static [Need],
    pub(crate) seconds: u64,
    pub(crate) allowed: &'static [&'static str],
    pub(crate) hidden: bool,
}

impl Test {
    /// A test without needs and with the default time limit.
    pub(crate) const fn new(name: &'static str, function: fn(&mut Context)) -> Self {
        Self { name, function, needs: &[], seconds: TIMEOUT, allowed: &[], hidden: false }
    }

    /// Requirements. If one is not met, the test is skipped.
    pub(crate) const fn needs(mut self, needs: &'static [Need]) -> Self {
        self.needs = needs;
        self
    }

    /// Time limit in seconds, after which the test counts as hung.
    pub(crate) const fn timeout(mut self, seconds: u64) -> Self {
        self.seconds = seconds;
        self
    }

    /// A test of the harness rather than of the system: it only runs if it is named.
    pub(crate) const fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }

    /// Variant of the module that the test needs.
    pub(crate) fn variant(&self) -> &'static str {
        let named = self.needs.iter().find_map(|need| match need {
            Need::Variant(name) => Some(*name),
            _ => None,
        });
        named.unwrap_or("release")
    }

    /// Whether the test needs the debug kernel.
    pub(crate) fn debug_only(&self) -> bool {
        self.needs.contains(&Need::DebugKernel)
    }

    /// The machine that the test needs.
    pub(crate) fn hardware(&self) -> Hardware {
        let mut hardware = Hardware::default();
        for need in self.needs {
            match need {
                Need::Memory(mib) => hardware.memory_mib = Some(*mib),
                Need::Disk(gib) => hardware.disk_gib = Some(*gib),
                Need::SignedOnly => hardware.signed_only = true,
                _ => {}
            }
        }
        hardware
    }

    /// Suspicious kernel messages that are expected: lines that contain one of these texts.
    pub(crate) const fn allows(mut self, texts: &'static [&'static str]) -> Self {
        self.allowed = texts;
        self
    }
}

/// A requirement that not every guest meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// `zosbd2.ko`, of any variant.
    Module,
    /// The debug kernel, for its fault injection. On other kernels the test only runs if it is named.
    DebugKernel,
    /// This variant of `zosbd2.ko`. Such tests run in a separate guest.
    Variant(&'static str),
    /// A guest with only this many MiB of memory, twice as many with the debug kernel. Such tests run in a
    /// separate guest.
    Memory(u32),
    /// A disk of this many GiB, empty at each boot ([`disk`]). Such tests run in a separate guest.
    Disk(u32),
    /// A kernel that loads only modules that are signed with a key it knows. Such tests run in a separate guest.
    SignedOnly,
    /// A program of the host, by name.
    Tool(&'static str),
    /// A program of this project, by name.
    Program(&'static str),
    /// A module of the kernel, loadable or built in.
    KernelModule(&'static str),
    /// A file, such as a feature's under /sys.
    Path(&'static str),
    /// A controller of control groups, as /proc/cgroups names it.
    Controller(&'static str),
    /// This word on the kernel's command line.
    Argument(&'static str),
    /// This setting in the plan (`--set NAME=VALUE`).
    Setting(&'static str),
}

impl Need {
    /// Why the requirement is not met here; `None` if it is met.
    pub(crate) fn unmet(self, context: &Context) -> Option<String> {
        let (met, why) = match self {
            Self::Module => (Path::new(MODULE).exists(), "no zosbd2.ko was given".to_owned()),
            Self::DebugKernel => (fail_nth::available(), "needs the debug kernel".to_owned()),
            Self::Variant(name) => {
                (context.variant() == name, format!("needs the {name} variant of zosbd2.ko"))
            }
            Self::Memory(mib) => {
                (memory_mib() <= 2 * u64::from(mib), format!("needs a guest with {mib} MiB of memory"))
            }
            Self::Disk(gib) => (disk::attached(), format!("needs a guest with a disk of {gib} GiB")),
            Self::SignedOnly => {
                let enforced = fs::read_to_string("/sys/module/module/parameters/sig_enforce");
                (enforced.is_ok_and(|text| text.trim() == "Y"), "needs module.sig_enforce=1".to_owned())
            }
            Self::Tool(name) | Self::Program(name) => {
                let folders = ["/bin", "/sbin", "/usr/bin", "/usr/sbin"];
                let there = folders.iter().any(|folder| Path::new(folder).join(name).exists());
                (there, format!("{name} is not in the guest"))
            }
            Self::KernelModule(name) => {
                (modules::available(name), format!("the kernel's module {name} is not in the guest"))
            }
            Self::Path(path) => (Path::new(path).exists(), format!("{path} does not exist")),
            Self::Controller(name) => {
                let found =
                    read_trimmed("/proc/cgroups").lines().any(|line| line.starts_with(&format!("{name}\t")));
                (found, format!("the kernel has no control groups for {name}"))
            }
            Self::Argument(word) => (context.has_argument(word), format!("needs kernel argument {word}")),
            Self::Setting(name) => (context.setting(name).is_some(), format!("needs --set {name}=VALUE")),
        };
        (!met).then_some(why)
    }
}

/// MiB of memory that the kernel has.
pub(crate) fn memory_mib() -> u64 {
    let text = read_trimmed("/proc/meminfo");
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    total.and_then(|kib| kib.trim().parse::<u64>().ok()).expect("meminfo shows the amount of memory") / 1024
}
