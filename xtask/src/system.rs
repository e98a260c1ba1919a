// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask system`: boots a Debian system with systemd in QEMU, and tests the packages in it, step by step.
//!
//! The system comes from the cache ([`image`]). Each run starts on a fresh copy-on-write disk over it, in `target/system`,
//! and its steps ([`steps`], [`zosbd2`]) share the system, with its reboots. Every step prints one line; the last line has
//! the counts. The command succeeds only if no step failed.

mod chroot;
mod guest;
mod image;
mod steps;
mod zosbd2;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use zosbd2_vm::accel::Accel;
use zosbd2_vm::system::{AGENT, Disk, Setup};
use zosbd2_vm::{arch, kernels};

use crate::tally::Tally;
use crate::{command, lock, narrate, paths, setup};
use guest::Guest;
use image::{Image, Release};
use steps::Step;

/// Serial number of the empty disk.
const EMPTY: &str = "empty";

/// Where the packages under test are installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Install {
    /// In the running system, as a person would; DKMS compiles with an emulated processor
    Guest,
    /// In the image before the boot, in a chroot of this machine; needs root and loop devices
    Image,
}

/// Which steps are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Steps {
    /// Boot, commands, packages, reboots, power-off: what needs nothing of this project
    Base,
    /// The command and the packages of this project
    Zosbd2,
}

/// Arguments of the command.
#[derive(clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub(crate) struct Arguments {
    /// The Debian release
    #[arg(long, value_enum, default_value_t = Release::Trixie)]
    suite: Release,
    /// Only the steps of the short form, which boots once
    #[arg(long)]
    short: bool,
    /// Which steps
    #[arg(long, value_enum, default_value_t = Steps::Base)]
    steps: Steps,
    /// Folder with the packages under test (`cargo xtask deb`); by default target/deb
    #[arg(long)]
    debs: Option<PathBuf>,
    /// Where the packages under test are installed
    #[arg(long, value_enum, default_value_t = Install::Image)]
    install: Install,
    /// Then a shell on the system; without steps if none is named
    #[arg(long)]
    shell: bool,
    /// Keep the disks in target/system
    #[arg(long)]
    keep: bool,
    /// Make the system anew, with the newest packages
    #[arg(long)]
    update: bool,
    /// Only list the steps
    #[arg(long)]
    list: bool,
    /// Only these steps, and those that they need
    names: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let all: Vec<&Step> = match arguments.steps {
        Steps::Base => steps::FIRST.iter().chain(steps::LAST).collect(),
        Steps::Zosbd2 => steps::FIRST.iter().take(1).chain(zosbd2::STEPS).chain(steps::LAST).collect(),
    };
    let selected = select(&all, &arguments.names, arguments.short)?;
    if arguments.list {
        for step in selected {
            let needs = if step.needs.is_empty() {
                String::new()
            } else {
                format!("  after {}", step.needs.join(", "))
            };
            println!("{}{}{needs}", step.name, if step.short { "  (short)" } else { "" });
        }
        return Ok(());
    }
    let tally = test(arguments, &selected)?;
    if !arguments.shell || !arguments.names.is_empty() {
        tally.print();
    }
    ensure!(
        tally.failed.is_empty(),
        "steps failed; the console's log is in target/system/{}",
        arguments.suite.name()
    );
    Ok(())
}

/// The named steps with those that they need, or all; in the order of the list.
fn select<'a>(all: &[&'a Step], names: &[String], short: bool) -> Result<Vec<&'a Step>> {
    let mut wanted: Vec<&str> = Vec::new();
    let mut next: Vec<&str> = names.iter().map(String::as_str).collect();
    while let Some(name) = next.pop() {
        let Some(step) = all.iter().find(|step| step.name == name) else {
            bail!("unknown step {name}: `cargo xtask system --list` lists them");
        };
        if !wanted.contains(&name) {
            wanted.push(step.name);
            next.extend(step.needs);
        }
    }
    let take = |step: &&&Step| (names.is_empty() || wanted.contains(&step.name)) && (!short || step.short);
    Ok(all.iter().filter(take).copied().collect())
}

/// Runs the steps, and the shell.
fn test(arguments: &Arguments, selected: &[&Step]) -> Result<Tally> {
    setup::install_packages(&[
        (arch::host().machine.package, "boots the system"),
        ("qemu-utils", "makes copy-on-write disks"),
    ])?;
    let name = arguments.suite.name();
    let top = kernels::target().join("system");
    let _lock = lock::lock(&top.join(format!("{name}.lock")), "another system test")?;
    let agent = agent()?;
    let image = Image::open(arguments.suite, arguments.update)?;
    let folder = top.join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let debs = debs(arguments)?;
    let in_image = arguments.install == Install::Image && !debs.is_empty();
    let base = if in_image { chroot::install(&image.root(), &debs, &folder)? } else { image.root() };
    let setup = machine(arguments, &image, &base, &agent, &folder)?;
    let mut guest = Guest::new(setup, debs, in_image);
    let steps = if arguments.shell && arguments.names.is_empty() { &[] } else { selected };
    let tally = run_steps(&mut guest, steps);
    if arguments.shell {
        let size = terminal_size();
        println!("system: a shell; `exit` or Ctrl-a x ends it");
        guest.shell(size.0, size.1)?;
    }
    drop(guest);
    if arguments.keep {
        println!("system: the disks stay in {}", folder.display());
    } else {
        for disk in ["root.qcow2", "base.img", "root.img", "empty.img", "agent.img"] {
            let _ = fs::remove_file(folder.join(disk));
        }
    }
    Ok(tally)
}

/// Rows and columns of the person's terminal.
fn terminal_size() -> (u16, u16) {
    rustix::termios::tcgetwinsize(std::io::stdin()).map_or((24, 80), |size| (size.ws_row, size.ws_col))
}

fn run_steps(guest: &mut Guest, steps: &[&Step]) -> Tally {
    let mut tally = Tally::default();
    let mut passed: Vec<&str> = Vec::new();
    for step in steps {
        let name = step.name;
        // A step that was not selected is no reason to skip.
        let missing = step
            .needs
            .iter()
            .find(|need| !passed.contains(*need) && steps.iter().any(|step| step.name == **need));
        if let Some(missing) = missing {
            println!("system: {name} ... skipped: {missing} did not pass");
            tally.skipped.push(format!("{name}: {missing} did not pass"));
            continue;
        }
        let doing = narrate::doing(format!("system: {name}"));
        let start = Instant::now();
        let result = (step.run)(guest);
        let seconds = start.elapsed().as_secs_f64();
        drop(doing);
        match result {
            Ok(()) => {
                println!("system: {name} ... ok {seconds:.1}s");
                passed.push(name);
                tally.passed += 1;
            }
            Err(error) => {
                println!(
                    "system: {name} ... FAILED {seconds:.1}s\n    {}",
                    format!("{error:#}").replace('\n', "\n    ")
                );
                guest.explain();
                let first = format!("{error:#}").lines().next().unwrap_or_default().to_owned();
                tally.failed.push(format!("{name}: {first}"));
            }
        }
        narrate::said();
    }
    tally
}

/// The packages under test.
fn debs(arguments: &Arguments) -> Result<Vec<PathBuf>> {
    let folder = arguments.debs.clone().unwrap_or_else(|| paths::root().join("target/deb"));
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(_) if arguments.debs.is_none() && arguments.steps == Steps::Base => return Ok(Vec::new()),
        Err(error) => {
            return Err(error).with_context(|| {
                format!("read {} (`cargo xtask deb` makes the packages)", folder.display())
            });
        }
    };
    let mut found = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
    found.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
    found.sort();
    Ok(found)
}

/// Builds the agent, statically linked, as the other programs of guests.
fn agent() -> Result<PathBuf> {
    let _doing = narrate::doing("building the system's agent");
    let target = kernels::target().join("guest");
    let mut cargo = crate::vm::guest_cargo(&target);
    cargo.args(["-p", "zosbd2-vm-guest", "--bin", "zosbd2-vm-agent"]);
    let status = cargo.status().context("run cargo")?;
    ensure!(status.success(), "building the system's agent failed");
    Ok(target.join(arch::host().guest_target).join("release/zosbd2-vm-agent"))
}

/// The machine, with its disks in `folder`.
fn machine(arguments: &Arguments, image: &Image, base: &Path, agent: &Path, folder: &Path) -> Result<Setup> {
    // The cache's image may be replaced during the run, and a new machine must find this one.
    let own = folder.join("base.img");
    if fs::hard_link(base, &own).is_err() {
        command::finish(Command::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(base).arg(&own))?;
    }
    let root = folder.join("root.qcow2");
    let mut qemu_img = Command::new("qemu-img");
    qemu_img.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(&own).arg(&root);
    command::finish(&mut qemu_img)?;
    let empty = folder.join("empty.img");
    let made = File::create(&empty).and_then(|file| file.set_len(4 << 30));
    made.with_context(|| format!("create {}", empty.display()))?;
    // A disk has whole blocks.
    let disk = folder.join("agent.img");
    let length = fs::copy(agent, &disk).with_context(|| format!("copy {}", agent.display()))?;
    File::options().write(true).open(&disk)?.set_len(length.next_multiple_of(4096))?;
    let kernel = folder.join("vmlinuz");
    let initrd = folder.join("initrd.img");
    for (from, to) in [(image.kernel(), &kernel), (image.initrd(), &initrd)] {
        fs::copy(&from, to).with_context(|| format!("copy {}", from.display()))?;
    }
    let accel = crate::vm::accel_of(&kernel);
    if let Accel::Tcg(_) = accel {
        println!("system: the processor is emulated: a boot takes a minute or more");
    }
    Ok(Setup {
        accel,
        smp: 2,
        memory: "2G".to_owned(),
        kernel,
        initrd,
        disks: vec![
            Disk { path: root, format: "qcow2", serial: "root", read_only: false },
            Disk { path: disk, format: "raw", serial: AGENT, read_only: true },
            Disk { path: empty, format: "raw", serial: EMPTY, read_only: false },
        ],
        append: Vec::new(),
        folder: folder.to_owned(),
        terminal: arguments.shell,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_needs_come_before() {
        let all: Vec<&Step> = steps::FIRST.iter().chain(zosbd2::STEPS).chain(steps::LAST).collect();
        for (index, step) in all.iter().enumerate() {
            let before = &all[..index];
            assert!(before.iter().all(|other| other.name != step.name), "{}", step.name);
            for need in step.needs {
                let needed = before.iter().find(|other| other.name == *need);
                let needed = needed.unwrap_or_else(|| panic!("{} needs {need}", step.name));
                assert!(!step.short || needed.short, "the short form has {} without {need}", step.name);
            }
        }
    }

    #[test]
    fn named_steps_bring_what_they_need() {
        let all: Vec<&Step> = steps::FIRST.iter().collect();
        let names = |steps: Vec<&Step>| steps.iter().map(|step| step.name).collect::<Vec<_>>();
        let some = select(&all, &["new_machine_on_the_same_disk".to_owned()], false).unwrap();
        assert_eq!(names(some), ["boot", "reboot_keeps_files", "new_machine_on_the_same_disk"]);
        assert_eq!(names(select(&all, &[], true).unwrap()), ["boot", "commands", "install_a_package"]);
        assert!(select(&all, &["x".to_owned()], false).is_err());
    }
}
