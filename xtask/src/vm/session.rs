// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask vm --shell`, `--run` and `--conformance`: a stock kernel with the module, and a person's own programs.
//!
//! The guest has the shell and the tools of this machine, each with its libraries, and what a person adds.

use super::{MEMORY_MIB, accel_of, copy, guest_programs, lock, own_folder};
use crate::narrate;
use crate::{fetch, kmod};
use anyhow::{Context as _, Result, bail, ensure};
use std::fs;
use std::io::{IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use zosbd2_vm::initramfs::Contents;
use zosbd2_vm::kernels::{self, KernelName};
use zosbd2_vm::machine::{Ending, Machine};
use zosbd2_vm::modules;
use zosbd2_vm::programs::{Files, Pairs};
use zosbd2_vm::protocol::{Line, Plan};
use zosbd2_vm::session::{SHARE, Session, Work};
use zosbd2_vm::share::Share;

/// Programs of this machine for a shell, if they are installed. Those for tests are there, too.
const TOOLS: &str = "bash sh busybox [ awk base64 basename blkid blockdev btrfs cat chmod chown chrt clear cmp comm cp cut date \
    dd debugfs df diff dirname dmesg du dumpe2fs echo env expr fallocate false fdisk file find findmnt flock \
    free fsck grep gzip head hexdump htop id insmod ionice iostat kill less ln ls lsblk lsmod md5sum mkdir \
    mkfifo mkfs mkfs.btrfs mkfs.vfat mktemp modinfo more mount mv nano nice nohup nproc od parted partx pgrep \
    pkill printf ps pwd readlink realpath resize2fs rm rmdir rmmod script sed seq setsid sfdisk sha256sum shuf \
    sleep sort stat strace stty sync tail tar taskset tee test timeout top touch tr true truncate tty tune2fs \
    umount uname uniq vi watch wc wipefs xargs xfs_growfs xfs_io";

/// More modules of the kernel, if it has them. They are loaded when something asks for them.
const MODULES: &str = "btrfs dm_crypt dm_delay dm_flakey dm_integrity dm_log_writes dm_mirror dm_snapshot dm_thin_pool dm_verity \
    f2fs isofs nbd nls_ascii nls_cp437 nls_utf8 overlay raid0 raid10 raid456 squashfs vfat";

/// Files that the tools look for.
const DATA: [&str; 3] = ["/etc/mke2fs.conf", "/etc/group", "/etc/nsswitch.conf"];

/// Options of a session.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct Options {
    /// Run a shell in the guest, with the module loaded, instead of tests; Ctrl-a x ends the machine
    #[arg(long, help_heading = "A shell, or a program of your own")]
    pub(crate) shell: bool,
    /// Run this command of the shell instead of a shell for a person; its exit status is that of this command
    #[arg(
        long,
        value_name = "CMD",
        conflicts_with = "conformance",
        help_heading = "A shell, or a program of your own"
    )]
    pub(crate) run: Option<String>,
    /// Add a program with what it needs, a file or a folder: PATH, or PATH:PATH-IN-THE-GUEST. Programs are found by
    /// their name, and other files are in the shell's folder, /root
    #[arg(long, value_name = "PATH", help_heading = "A shell, or a program of your own")]
    pub(crate) add: Vec<String>,
    /// Copy this folder to /share, and back what was changed there
    #[arg(long, value_name = "FOLDER", help_heading = "A shell, or a program of your own")]
    pub(crate) share: Option<PathBuf>,
    /// Start this program, run the conformance suite on the device that it serves, and check that it ends well. It and
    /// its arguments are the rest of the line
    #[arg(long, num_args = 1.., allow_hyphen_values = true, value_names = ["PROGRAM", "ARGS"],
        conflicts_with = "shell", help_heading = "A shell, or a program of your own")]
    pub(crate) conformance: Vec<String>,
}

impl Options {
    /// Whether there is a session instead of tests.
    pub(crate) fn asked(&self) -> Result<bool> {
        let asked = self.shell || self.run.is_some() || !self.conformance.is_empty();
        ensure!(asked || self.add.is_empty(), "--add is for --shell, --run and --conformance");
        ensure!(asked || self.share.is_none(), "--share is for --shell, --run and --conformance");
        Ok(asked)
    }
}

/// Runs the session. Its terminal's output goes to standard output.
pub(crate) fn run(arguments: &super::Arguments) -> Result<u8> {
    let typed = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    // Standard output is for what the guest prints.
    narrate::on_stderr();
    let options = &arguments.session;
    let person = options.run.is_none() && options.conformance.is_empty();
    ensure!(typed || !person, "--shell needs a terminal; --run CMD runs a command without one");
    run_into(arguments, typed, &mut std::io::stdout())
}

/// Runs the session of a person at a terminal (`typed`), or of a program, and returns its status.
pub(super) fn run_into(
    arguments: &super::Arguments,
    typed: bool,
    output: &mut (dyn Write + Send),
) -> Result<u8> {
    let [name] = arguments.kernels.as_slice() else { bail!("a session has one --kernel") };
    ensure!(arguments.tests.is_empty(), "a session runs no tests, and {} is one", arguments.tests.join(" "));
    let options = &arguments.session;
    // What is wrong with the command line is told before anything is downloaded or built.
    let added = Added::find(options)?;
    if let Some(folder) = &options.share {
        ensure!(folder.is_dir(), "--share {}: there is no such folder", folder.display());
    }
    let kernel = fetch::one(*name, false)?;
    let mut prepared = prepare(arguments, *name, &kernel, added, typed)?;
    let share =
        options.share.as_deref().map(|folder| Share::make(folder, &prepared.machine.folder)).transpose()?;
    prepared.session.share = share.is_some();
    let image = share.as_ref().map(|share| share.image().to_owned());
    let doing = narrate::doing(format!("booting Linux {}", kernel.release));
    let mut booting = Some(doing);
    let mut on_line = |line: &Line| match line {
        // From here on, the terminal belongs to the session.
        Line::Hello(_) => drop(booting.take()),
        Line::Say(text) => eprint!("{}\r\n", text.replace('\n', "\r\n")),
        _ => {}
    };
    let Prepared { machine, contents, plan, session, .. } = &prepared;
    let ended = machine.session(contents, plan, session, image.as_deref(), output, &mut on_line);
    // Also what a guest had written before it died.
    if let Some(share) = share {
        let changed = share.take_back().context("take back the shared folder")?;
        if !changed.is_empty() {
            eprintln!("changed in the guest, and copied back: {}", changed.join(", "));
        }
    }
    match ended? {
        Ending::Exit(status) => Ok(status),
        Ending::Quit => {
            eprintln!("the machine was ended");
            Ok(0)
        }
    }
}

struct Prepared {
    machine: Machine,
    contents: Contents,
    plan: Plan,
    session: Session,
    _lock: fs::File,
}

/// What a person adds.
struct Added {
    /// Paths in the guest.
    names: Vec<String>,
    library_path: Option<String>,
    files: Pairs,
    folders: Pairs,
    /// The program under test in the guest, with its arguments.
    conformance: Vec<String>,
}

impl Added {
    fn find(options: &Options) -> Result<Self> {
        let mut files = Files::new();
        for wanted in &options.add {
            files.add(wanted)?;
        }
        let mut conformance = options.conformance.clone();
        if let Some(program) = conformance.first_mut() {
            files.add(program)?;
            *program = files.names().last().cloned().context("the program has a name")?;
        }
        let (names, library_path) = (files.names().to_vec(), files.library_path());
        let (files, folders) = files.parts();
        Ok(Self { names, library_path, files, folders, conformance })
    }
}

fn prepare(
    arguments: &super::Arguments,
    name: KernelName,
    kernel: &kernels::Kernel,
    added: Added,
    typed: bool,
) -> Result<Prepared> {
    let options = &arguments.session;
    let Added { names, library_path, files, folders, conformance } = added;

    let building = lock(&kernels::target().join("vm/build.lock"), "the build of another run of VM tests")?;
    let programs = guest_programs()?;
    let variant = arguments.variant.unwrap_or(kmod::Variant::Release);
    // The lock on the module's folder ends with `built`, when the module has been copied.
    let built = if arguments.module.is_none() && !arguments.no_module {
        Some(kmod::build(&kernel.headers, &kmod::How::plain(variant))?)
    } else {
        None
    };
    let (folder, run_lock) = own_folder(&format!("{name}-session"))?;
    let module = arguments.module.as_deref().or_else(|| built.as_ref().map(kmod::Module::path));
    let module = module.map(|module| copy(module, &folder)).transpose()?;
    drop(built);
    let init = copy(&programs.init, &folder)?;
    let own = programs.programs.iter().map(|program| copy(program, &folder)).collect::<Result<_>>()?;
    drop(building);

    let gathering = narrate::doing("gathering the tools of this machine");
    let mut tools = Files::new();
    for tool in TOOLS.split(' ') {
        tools.tool(tool)?;
    }
    for path in DATA {
        tools.optional(Path::new(path));
    }
    // bash complains without the data of the locale.
    for folder in ["/usr/lib/locale/C.utf8", "/usr/lib/locale/C.utf8/LC_MESSAGES"] {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            tools.optional(&entry.path());
        }
    }
    let term = std::env::var("TERM").unwrap_or_else(|_| "dumb".to_owned());
    if let Some(letter) = term.chars().next() {
        for folder in ["/etc/terminfo", "/lib/terminfo", "/usr/share/terminfo"] {
            tools.optional(&Path::new(folder).join(letter.to_string()).join(&term));
        }
    }
    let (tools, _) = tools.parts();
    drop(gathering);

    let work = match &options.run {
        _ if !conformance.is_empty() => Work::Conformance(conformance),
        Some(command) => Work::Run(command.clone()),
        None => Work::Shell,
    };
    let mut environment = vec![format!("TERM={term}"), "LC_ALL=C.UTF-8".to_owned()];
    environment.extend(library_path.map(|path| format!("LD_LIBRARY_PATH={path}")));
    let greeting = if work == Work::Shell { greeting(&kernel.release, &names, options) } else { Vec::new() };
    let wanted: Vec<&str> = MODULES.split(' ').collect();
    let extra = modules::available(kernel, &wanted).into_iter().map(str::to_owned).collect();
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let slowness = arguments.slowness.unwrap_or(if name.is_debug() { 10 } else { 1 });
    let machine = Machine {
        kernel: kernel.clone(),
        smp: arguments.smp,
        memory: arguments.mem.clone().unwrap_or_else(|| format!("{MEMORY_MIB}M")),
        disk_gib: None,
        accel: accel_of(&kernel.vmlinuz),
        icount: false,
        append: arguments.append.clone(),
        folder,
    };
    Ok(Prepared {
        machine,
        contents: Contents {
            init,
            module,
            programs: own,
            files: folders,
            cached: vec![tools, files],
            kernel_modules: extra,
            tools: Vec::new(),
        },
        plan: Plan {
            tests: Vec::new(),
            seed: arguments.seed.unwrap_or(seconds),
            variant: variant.name().to_owned(),
            slowness,
            settings: arguments.settings.clone(),
        },
        session: Session { work, typed, share: false, environment, greeting },
        _lock: run_lock,
    })
}

/// What a person is told at the beginning.
fn greeting(release: &str, added: &[String], options: &Options) -> Vec<String> {
    let mut lines = vec![format!("Linux {release}, zosbd2.ko is loaded.")];
    if !added.is_empty() {
        lines.push(format!("Added: {}", added.join(" ")));
    }
    if let Some(folder) = &options.share {
        lines.push(format!("{SHARE} is {}; what changes there is copied back at the end.", folder.display()));
    }
    lines.push("`exit` or `poweroff` ends the machine, Ctrl-a x ends it at once.".to_owned());
    lines
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_program_under_test_takes_the_rest_of_the_line() {
        let words = ["--add", "/x", "--conformance", "disk", "--size", "1G", "--add"];
        let options = super::super::arguments(&words).session;
        assert_eq!(options.conformance, ["disk", "--size", "1G", "--add"]);
        assert_eq!(options.add, ["/x"]);
        assert!(options.asked().unwrap());
    }

    #[test]
    fn options_of_a_session_need_one() {
        let asked = |words: &[&str]| super::super::arguments(words).session.asked();
        assert!(!asked(&["smoke_boot"]).unwrap());
        assert!(asked(&["--shell"]).unwrap() && asked(&["--run", "true"]).unwrap());
        let error = asked(&["--share", "/tmp"]).unwrap_err();
        assert_eq!(error.to_string(), "--share is for --shell, --run and --conformance");
    }
}
