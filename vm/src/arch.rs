// SPDX-License-Identifier: MIT OR Apache-2.0
//! What depends on the processor architecture: one row for each.
//!
//! The build of the Rust object, the gates, the release archive and the virtual machines read these rows. Each row has a
//! line in `kernel/architectures.txt`, and a file `kernel/imports-NAME.txt` with the symbols that the Rust object may use.
//! A kernel without a row is refused, with the reason.
//!
//! For amd64 only, besides the first row:
//!
//! * the gates' patterns of calls, branches and stack frames (`xtask/src/gates.rs`), and the gate of ORC data;
//! * the build of the debug kernel, and its configuration;
//! * the lines of kernels (`kernels/lines.rs`), all of which name amd64;
//! * host packages that only amd64 has (`gcc-multilib`), and the path of nbdkit's plugins
//!   (`xtask/src/bench/peers.rs`);
//! * [`host`], and the time stamp counter (`sys.rs`).

/// An architecture.
#[derive(Debug, PartialEq, Eq)]
pub struct Arch {
    /// Debian's name of it.
    pub debian: &'static str,
    /// The configuration option that every kernel for it has, without `CONFIG_`.
    pub config: &'static str,
    /// Rust's target for programs in the virtual machine.
    pub guest_target: &'static str,
    /// What precedes the names of the programs of binutils.
    pub binutils: &'static str,
    /// How rustc makes the object.
    pub flags: Flags,
    /// What the gates look for in the object.
    pub object: Object,
    /// The objects that a release archive has.
    pub prebuilt: &'static [Prebuilt],
    /// The virtual machine.
    pub machine: Machine,
}

/// Flags of rustc.
#[derive(Debug, PartialEq, Eq)]
pub struct Flags {
    /// Always.
    pub always: &'static [&'static str],
    /// With a `core` that is compiled from source: a target that has neither floats nor a red zone.
    pub with_source: &'static [&'static str],
    /// With the metadata of the host's `core`.
    pub with_host: &'static [&'static str],
    /// What the kernel's configuration asks for.
    pub hardening: &'static [Hardening],
    /// The option with which functions are padded, and the one with the number of bytes.
    pub padding: (&'static str, &'static str),
}

/// An option that a kernel's configuration asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct Hardening {
    /// Configuration options that ask for it: the current name, then older ones.
    pub wanted_by: &'static [&'static str],
    /// Its spellings, newest compiler first.
    pub spellings: &'static [&'static [&'static str]],
    /// Whether the object works only in kernels that ask for it. Other options do no harm elsewhere.
    pub needs_kernel: bool,
}

/// What the gates look for.
#[derive(Debug, PartialEq, Eq)]
pub struct Object {
    /// Relocations that the module loader supports.
    pub relocations: &'static [&'static str],
    /// Registers for floats and vectors.
    pub float_registers: &'static [&'static str],
    /// How an instruction reads per-CPU data, as a stack protector does.
    pub per_cpu: &'static [&'static str],
    /// The stack pointer.
    pub stack_pointer: &'static str,
    /// The first instruction of a function that may be the target of an indirect branch, and the option that wants it.
    pub landing_pad: (&'static str, &'static str),
    /// The instruction that returns, and the options with which only the kernel's thunk may have it.
    pub plain_return: (&'static str, &'static [&'static str]),
}

/// An object of a release archive, and the kernels that it is for.
#[derive(Debug, PartialEq, Eq)]
pub struct Prebuilt {
    /// Name of the file, without its ending.
    pub name: &'static str,
    /// What a kernel must have: option (`NAME` or `NAME|OLDER_NAME`) and value, `n` if the option must be unset.
    pub conditions: &'static [(&'static str, &'static str)],
}

/// A virtual machine.
#[derive(Debug, PartialEq, Eq)]
pub struct Machine {
    /// The program.
    pub qemu: &'static str,
    /// The package that has the program.
    pub package: &'static str,
    /// Arguments that choose the machine.
    pub arguments: &'static [&'static str],
    /// The first serial port, as the kernel names it.
    pub console: &'static str,
    /// More of the kernel's command line.
    pub append: &'static str,
}

/// x86-64.
pub static AMD64: Arch = Arch {
    debian: "amd64",
    config: "X86_64",
    guest_target: "x86_64-unknown-linux-gnu",
    binutils: "",
    flags: Flags {
        always: &[
            "-Ccode-model=kernel",
            "-Cno-redzone=y",
            "-Ctarget-cpu=x86-64",
            // Together these keep the object free of GOT relocations, which the module loader refuses.
            "-Zplt=yes",
            "-Zdirect-access-external-data=yes",
        ],
        with_source: &["--target=x86_64-unknown-none", "--sysroot=/dev/null"],
        with_host: &[
            "--target=x86_64-unknown-linux-gnu",
            "-Ctarget-feature=-sse4.2,-sse4.1,-ssse3,-sse3,-sse2,-sse,+soft-float",
            "-Cunsafe-allow-abi-mismatch=retpoline,retpoline-external-thunk,indirect-branch-cs-prefix",
        ],
        hardening: &[
            Hardening {
                wanted_by: &["X86_KERNEL_IBT"],
                spellings: &[&["-Zcf-protection=branch"]],
                needs_kernel: false,
            },
            // A jump table is an indirect branch without a landing pad, and bypasses the retpolines.
            Hardening {
                wanted_by: &["X86_KERNEL_IBT", "MITIGATION_RETPOLINE", "RETPOLINE"],
                spellings: &[&["-Cjump-tables=n"], &["-Zno-jump-tables"]],
                needs_kernel: false,
            },
            // The object has no indirect branch (a gate), so it needs no thunk of the kernel's.
            Hardening {
                wanted_by: &["MITIGATION_RETPOLINE", "RETPOLINE"],
                spellings: &[
                    &["-Zretpoline-external-thunk", "-Zindirect-branch-cs-prefix"],
                    &["-Ctarget-feature=+retpoline-external-thunk,+retpoline-indirect-branches,\
                         +retpoline-indirect-calls"],
                ],
                needs_kernel: false,
            },
            // The kernel must have the thunk.
            Hardening {
                wanted_by: &["MITIGATION_RETHUNK", "RETHUNK"],
                spellings: &[&["-Zfunction-return=thunk-extern"]],
                needs_kernel: true,
            },
            Hardening {
                wanted_by: &["MITIGATION_SLS", "SLS"],
                spellings: &[&["-Ctarget-feature=+harden-sls-ijmp,+harden-sls-ret"]],
                needs_kernel: false,
            },
            Hardening {
                wanted_by: &["FRAME_POINTER"],
                spellings: &[&["-Cforce-frame-pointers=y"]],
                needs_kernel: true,
            },
        ],
        padding: ("CALL_PADDING", "FUNCTION_PADDING_BYTES"),
    },
    object: Object {
        relocations: &["R_X86_64_64", "R_X86_64_32", "R_X86_64_32S", "R_X86_64_PC32", "R_X86_64_PLT32"],
        float_registers: &["%xmm", "%ymm", "%zmm", "%st", "%mm"],
        per_cpu: &["%gs:", "%fs:"],
        stack_pointer: "%rsp",
        landing_pad: ("endbr64", "X86_KERNEL_IBT"),
        plain_return: ("ret", &["MITIGATION_RETHUNK", "RETHUNK"]),
    },
    prebuilt: &[
        // Debian's 6.12 and newer.
        Prebuilt {
            name: "amd64-padded",
            conditions: &[
                ("X86_64", "y"),
                ("MITIGATION_RETHUNK|RETHUNK", "y"),
                ("CALL_PADDING", "y"),
                ("FUNCTION_PADDING_BYTES", "16"),
                ("FRAME_POINTER", "n"),
                ("KASAN", "n"),
                ("CFI|CFI_CLANG", "n"),
            ],
        },
        // Debian's 6.1.
        Prebuilt {
            name: "amd64-thunks",
            conditions: &[
                ("X86_64", "y"),
                ("MITIGATION_RETHUNK|RETHUNK", "y"),
                ("CALL_PADDING", "n"),
                ("FRAME_POINTER", "n"),
                ("KASAN", "n"),
                ("CFI|CFI_CLANG", "n"),
            ],
        },
        // Kernels without mitigations.
        Prebuilt {
            name: "amd64-plain",
            conditions: &[
                ("X86_64", "y"),
                ("MITIGATION_RETHUNK|RETHUNK", "n"),
                ("CALL_PADDING", "n"),
                ("FRAME_POINTER", "n"),
                ("KASAN", "n"),
                ("CFI|CFI_CLANG", "n"),
            ],
        },
    ],
    machine: Machine {
        qemu: "qemu-system-x86_64",
        package: "qemu-system-x86",
        arguments: &[],
        console: "ttyS0",
        // If the host pauses QEMU while the kernel checks its timer, the kernel panics; and a kernel that gives up its
        // clock source patches code that other processors execute, which QEMU's translator does not always survive.
        append: "tsc=reliable no_timer_check",
    },
};

/// Every architecture that is supported.
pub static ALL: [&Arch; 1] = [&AMD64];

/// Options of kernels that are refused, and why, a line each.
const REFUSED: &str = include_str!("../../kernel/refused.txt");

/// The architecture of the kernel in whose configuration `is_set` says which options are `y`.
pub fn of_kernel(is_set: impl Fn(&str) -> bool) -> Result<&'static Arch, String> {
    let refused =
        REFUSED.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(' '));
    if let Some((_, reason)) = refused.into_iter().find(|(option, _)| is_set(option)) {
        return Err(format!("this kernel is not supported: {reason}"));
    }
    ALL.into_iter().find(|arch| is_set(arch.config)).ok_or_else(|| {
        let known: Vec<&str> = ALL.iter().map(|arch| arch.debian).collect();
        format!(
            "this kernel is not supported: it is for none of the architectures that were tried ({})",
            known.join(", ")
        )
    })
}

/// The dynamic loader of this machine's programs.
pub(crate) const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";

/// The architecture of this program.
const HOST: &Arch = if cfg!(target_arch = "x86_64") {
    &AMD64
} else {
    panic!("the project's own commands run on amd64 only: vm/src/arch.rs has no row for this architecture")
};

/// The architecture of this program.
#[must_use]
pub const fn host() -> &'static Arch {
    HOST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_supported_is_refused_with_the_reason() {
        assert_eq!(of_kernel(|name| name == "X86_64").unwrap().debian, "amd64");
        for (options, reason) in [
            (&["X86_64", "CFI_CLANG"][..], "kCFI"),
            (&["X86_64", "CFI"], "kCFI"),
            (&["ARM64", "CPU_BIG_ENDIAN"], "big-endian"),
            (&["X86_32"], "i386"),
            (&["RISCV"], "none of the architectures"),
        ] {
            let error = of_kernel(|name| options.contains(&name)).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn the_lists_of_the_shell_are_those_of_the_rows() {
        let kernel = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("kernel");
        let text = std::fs::read_to_string(kernel.join("architectures.txt")).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines, ALL.map(|arch| format!("{} {}", arch.debian, arch.config)));
        for arch in ALL {
            let imports = kernel.join(format!("imports-{}.txt", arch.debian));
            assert!(std::fs::read_to_string(imports).unwrap().lines().any(|name| name == "memcpy"));
        }
    }

    #[test]
    fn conditions_name_every_option_that_the_object_depends_on() {
        for arch in ALL {
            for object in arch.prebuilt {
                let decided: Vec<&str> =
                    object.conditions.iter().flat_map(|(names, _)| names.split('|')).collect();
                let needed = arch.flags.hardening.iter().filter(|option| option.needs_kernel);
                for name in needed.flat_map(|option| option.wanted_by).chain(&["CFI", "CFI_CLANG", "KASAN"]) {
                    assert!(decided.contains(name), "{} says nothing of {name}", object.name);
                }
                assert!(decided.contains(&arch.config), "{} says nothing of {}", object.name, arch.config);
            }
        }
    }
}
