// SPDX-License-Identifier: MIT OR Apache-2.0
//! The flags of `rustc` for the target kernel's configuration.
//!
//! The needed options depend on the kernel's configuration alone, never on its release number. The spelling of an
//! option depends on the compiler, which a run that compiles nothing determines. An option without a spelling is
//! an error: an unhardened object would load, and weaken the kernel. In a kernel with KASAN the memory accesses of the
//! Rust object are checked, too.
//!
//! The table of `zosbd2_vm::arch` has the options of each architecture.
//!
//! There is one exception: the object has no stack protector, because rustc reads the canary at `%gs:40`, and newer
//! kernels keep it elsewhere, or in a variable that kernels do not have. A gate refuses an object with a stack protector.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use zosbd2_vm::arch::{self, Arch};

use crate::toolchain::Toolchain;

/// The target kernel's configuration, from `include/config/auto.conf`.
#[derive(Debug)]
pub(crate) struct Config(BTreeMap<String, String>);

impl Config {
    /// Reads the configuration of the kernel whose headers are in `kdir`.
    pub(crate) fn read(kdir: &Path) -> Result<Self> {
        let path = kdir.join("include/config/auto.conf");
        let text = fs::read_to_string(&path).with_context(|| {
            format!("read {}: {} are no configured kernel headers", path.display(), kdir.display())
        })?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let entries = text.lines().filter_map(|line| line.split_once('='));
        Self(entries.map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned())).collect())
    }

    /// Whether `CONFIG_name` is `y`.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.value(name) == Some("y")
    }

    /// Whether `CONFIG_name`, or the name it had in older kernels, is `y`.
    pub(crate) fn any_set(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.is_set(name))
    }

    /// The architecture, if it is supported.
    pub(crate) fn arch(&self) -> Result<&'static Arch> {
        arch::of_kernel(|name| self.is_set(name)).map_err(anyhow::Error::msg)
    }

    /// A configuration of these options.
    pub(crate) fn of<'a>(options: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        Self(options.map(|(name, value)| (format!("CONFIG_{name}"), value.to_owned())).collect())
    }

    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.0.get(&format!("CONFIG_{name}")).map(String::as_str)
    }
}

/// Which `core` the kernel part is compiled against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Core {
    /// Its source, compiled with the same flags.
    Source,
    /// The compiler's own `core`, which is for user space. Only its metadata is used, and all code is generated
    /// with the kernel's flags. The compiler warns about the mismatch, and the gates check the result.
    Host,
}

/// For the crates of the kernel part. `core` has another edition.
pub(crate) const EDITION: &str = "--edition=2024";

/// Flags for every architecture, every kernel and both kinds of `core`.
const COMMON: [&str; 14] = [
    "--crate-type=rlib",
    "--emit=obj,metadata",
    "-Cpanic=abort",
    "-Cembed-bitcode=n",
    "-Ccodegen-units=1",
    "-Copt-level=2",
    "-Csymbol-mangling-version=v0",
    "-Cforce-unwind-tables=n",
    "-Zfunction-sections=n",
    "-Crelocation-model=static",
    "-Cdebug-assertions=n",
    "-Coverflow-checks=n",
    "-Cdebuginfo=1",
    "--cfg=zosbd2_kernel",
];

/// Flags of this toolchain's rustc for every crate of the kernel part, and for its `core`.
pub(crate) fn flags(toolchain: &Toolchain, config: &Config, core: Core) -> Result<Vec<String>> {
    let arch = config.arch()?;
    let specific = match core {
        Core::Source => arch.flags.with_source,
        Core::Host => arch.flags.with_host,
    };
    let all = COMMON.iter().chain(arch.flags.always).chain(specific);
    let mut flags: Vec<String> = all.map(|&flag| flag.to_owned()).collect();
    ensure!(
        accepts(toolchain, &flags, &[EDITION])?,
        "rustc does not know one of {EDITION} {}: use rustc 1.85 or newer (RUSTC= names another than the one in PATH)",
        flags.join(" ")
    );
    for option in arch.flags.hardening.iter().filter(|option| config.any_set(option.wanted_by)) {
        let mut chosen = None;
        for spelling in option.spellings {
            if accepts(toolchain, &flags, spelling)? {
                chosen = Some(spelling);
                break;
            }
        }
        let chosen = chosen.with_context(|| {
            format!(
                "the target kernel has CONFIG_{}, for which rustc knows none of {:?}",
                option.wanted_by[0], option.spellings
            )
        })?;
        flags.extend(chosen.iter().map(|&flag| flag.to_owned()));
    }
    let (padding, length) = arch.flags.padding;
    if config.is_set(padding) {
        let bytes = config.value(length).with_context(|| format!("CONFIG_{length} is unset"))?;
        flags.push(format!("-Zpatchable-function-entry={bytes},{bytes}"));
    }
    if config.is_set("KASAN") {
        let more = kasan(config, core)?;
        let checked: Vec<&str> = more.iter().map(String::as_str).collect();
        ensure!(accepts(toolchain, &flags, &checked)?, "rustc does not know one of {}", more.join(" "));
        flags.extend(more);
    }
    Ok(flags)
}

/// The kernels for which an object with the flags of this configuration is: options (`NAME` or `NAME|OLDER_NAME`) and their
/// values, `n` if the option must be unset.
pub(crate) fn conditions(config: &Config) -> Result<Vec<(String, String)>> {
    let arch = config.arch()?;
    let value = |name: &str| (name.to_owned(), config.value(name).unwrap_or("n").to_owned());
    let mut conditions = vec![value(arch.config)];
    for option in arch.flags.hardening {
        let is_set = config.any_set(option.wanted_by);
        // An object with an option that does no harm elsewhere fits kernels that do not ask for it, too.
        if !is_set || option.needs_kernel {
            let value = if is_set { "y" } else { "n" };
            conditions.push((option.wanted_by.join("|"), value.to_owned()));
        }
    }
    let (padding, length) = arch.flags.padding;
    conditions.push(value(padding));
    if config.is_set(padding) {
        conditions.push(value(length));
    }
    conditions.push(value("KASAN"));
    if config.is_set("KASAN") {
        conditions.extend(["KASAN_GENERIC", "KASAN_SHADOW_OFFSET", "KASAN_INLINE", "KASAN_STACK"].map(value));
    }
    Ok(conditions)
}

/// Conditions as `kernel/build.sh` reads them in the file beside an object.
pub(crate) fn conditions_text<'a>(conditions: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::from(
        "# The kernels that the object beside this file is for: option=value, n if the option is not set.\n",
    );
    for (names, value) in conditions {
        let _infallible = writeln!(text, "{names}={value}");
    }
    text
}

/// The flags that instrument memory accesses, the same as in `scripts/Makefile.kasan` for the kernel's own
/// Rust code.
fn kasan(config: &Config, core: Core) -> Result<Vec<String>> {
    ensure!(
        config.is_set("KASAN_GENERIC"),
        "the target kernel uses KASAN by tags, with which the Rust object was never tried"
    );
    ensure!(
        core == Core::Source,
        "the target kernel uses KASAN, which needs the source of core, and the source is not available"
    );
    let offset = config.value("KASAN_SHADOW_OFFSET").context("CONFIG_KASAN_SHADOW_OFFSET is unset")?;
    // Functions with more accesses than this call the kernel for each access.
    let threshold = if config.is_set("KASAN_INLINE") { "10000" } else { "0" };
    let stack =
        if config.is_set("KASAN_STACK") || config.value("KASAN_STACK") == Some("1") { "1" } else { "0" };
    let parameters = [
        ("asan-mapping-offset", offset),
        ("asan-instrumentation-with-call-threshold", threshold),
        ("asan-stack", stack),
        // Checked globals need constructors, and all globals of the object are constants.
        ("asan-globals", "0"),
        ("asan-constructor-kind", "none"),
        ("asan-kernel-mem-intrinsic-prefix", "1"),
    ];
    let parameters = parameters.into_iter().map(|(name, value)| format!("-Cllvm-args=-{name}={value}"));
    let switches = ["-Zsanitizer=kernel-address", "-Zsanitizer-recover=kernel-address"];
    Ok(switches.into_iter().map(str::to_owned).chain(parameters).collect())
}

/// Whether the compiler accepts these flags. Compiles nothing.
fn accepts(toolchain: &Toolchain, flags: &[String], more: &[&str]) -> Result<bool> {
    let mut command = toolchain.rustc();
    command.args(flags).args(more).arg("--print=cfg").stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command.status().context("run rustc: is Rust installed?")?.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(names: &[&str]) -> Config {
        let lines = names.iter().map(|name| format!("CONFIG_{name}=y\n"));
        Config::parse(&lines.chain(["CONFIG_X86_64=y\n".to_owned()]).collect::<String>())
    }

    #[test]
    fn older_names_ask_for_the_same() {
        let old = flags(&Toolchain::Host, &with(&["RETPOLINE", "RETHUNK", "SLS"]), Core::Source).unwrap();
        let names = ["MITIGATION_RETPOLINE", "MITIGATION_RETHUNK", "MITIGATION_SLS"];
        assert_eq!(old, flags(&Toolchain::Host, &with(&names), Core::Source).unwrap());
        assert!(old.iter().any(|flag| flag == "-Zfunction-return=thunk-extern"));
    }

    #[test]
    fn padding_is_as_long_as_the_kernel_says() {
        let config =
            Config::parse("CONFIG_X86_64=y\nCONFIG_CALL_PADDING=y\nCONFIG_FUNCTION_PADDING_BYTES=11\n");
        let flags = flags(&Toolchain::Host, &config, Core::Source).unwrap();
        assert_eq!(flags.last().unwrap(), "-Zpatchable-function-entry=11,11");
    }

    #[test]
    fn what_was_never_tried_is_refused() {
        assert!(flags(&Toolchain::Host, &with(&["CFI_CLANG"]), Core::Source).is_err());
        assert!(flags(&Toolchain::Host, &Config::parse("CONFIG_ARM64=y\n"), Core::Source).is_err());
    }

    #[test]
    fn a_kernel_that_checks_memory_checks_the_rust_object() {
        let config = "CONFIG_X86_64=y\nCONFIG_KASAN=y\nCONFIG_KASAN_GENERIC=y\nCONFIG_KASAN_INLINE=y\n\
                      CONFIG_KASAN_STACK=y\nCONFIG_KASAN_SHADOW_OFFSET=0xdffffc0000000000\n";
        let all = flags(&Toolchain::Host, &Config::parse(config), Core::Source).unwrap().join(" ");
        for wanted in [
            "-Zsanitizer=kernel-address",
            "-asan-mapping-offset=0xdffffc0000000000",
            "-call-threshold=10000",
            "-asan-stack=1",
        ] {
            assert!(all.contains(wanted), "{wanted} is not in {all}");
        }
        let outline = config.replace("KASAN_INLINE", "KASAN_OUTLINE").replace("CONFIG_KASAN_STACK=y", "");
        let all = flags(&Toolchain::Host, &Config::parse(&outline), Core::Source).unwrap().join(" ");
        assert!(all.contains("-call-threshold=0") && all.contains("-asan-stack=0"), "{all}");
        let without = flags(&Toolchain::Host, &with(&[]), Core::Source).unwrap().join(" ");
        assert!(!without.contains("asan"), "{without}");
        assert!(flags(&Toolchain::Host, &Config::parse(config), Core::Host).is_err());
        assert!(flags(&Toolchain::Host, &with(&["KASAN", "KASAN_SW_TAGS"]), Core::Source).is_err());
    }

    #[test]
    fn an_object_is_for_the_kernels_whose_options_it_has() {
        let text = |config: &Config| {
            let conditions = conditions(config).unwrap();
            conditions_text(conditions.iter().map(|(names, value)| (names.as_str(), value.as_str())))
        };
        let lines = |config: &Config| text(config).lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
        let bare = [
            "X86_64=y",
            "X86_KERNEL_IBT=n",
            "X86_KERNEL_IBT|MITIGATION_RETPOLINE|RETPOLINE=n",
            "MITIGATION_RETPOLINE|RETPOLINE=n",
            "MITIGATION_RETHUNK|RETHUNK=n",
            "MITIGATION_SLS|SLS=n",
            "FRAME_POINTER=n",
            "CALL_PADDING=n",
            "KASAN=n",
        ];
        assert_eq!(lines(&with(&[])), bare);
        let config = "CONFIG_X86_64=y\nCONFIG_X86_KERNEL_IBT=y\nCONFIG_RETPOLINE=y\nCONFIG_RETHUNK=y\nCONFIG_SLS=y\n\
                      CONFIG_CALL_PADDING=y\nCONFIG_FUNCTION_PADDING_BYTES=11\nCONFIG_FRAME_POINTER=y\n\
                      CONFIG_KASAN=y\nCONFIG_KASAN_GENERIC=y\nCONFIG_KASAN_SHADOW_OFFSET=0x7\n";
        let full = [
            "X86_64=y",
            "MITIGATION_RETHUNK|RETHUNK=y",
            "FRAME_POINTER=y",
            "CALL_PADDING=y",
            "FUNCTION_PADDING_BYTES=11",
            "KASAN=y",
            "KASAN_GENERIC=y",
            "KASAN_SHADOW_OFFSET=0x7",
            "KASAN_INLINE=n",
            "KASAN_STACK=n",
        ];
        assert_eq!(lines(&Config::parse(config)), full);
        assert!(conditions(&Config::parse("CONFIG_ARM64=y\n")).is_err());
    }

    #[test]
    fn unknown_options_are_noticed() {
        assert!(!accepts(&Toolchain::Host, &[], &["-Zno-such-option"]).unwrap());
        assert!(!accepts(&Toolchain::Host, &[], &["-Cno-such-option=n"]).unwrap());
    }
}
