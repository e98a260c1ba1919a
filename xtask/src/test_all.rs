// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask test-all`, behind `make test-all`: the tests that are too long for each run of `make test`,
//! in parts.
//!
//! A part takes at most 40 minutes on two idle processors. It first asks Debian's archive for newer releases of its stock
//! kernels, which `make test` does not. Each part ends with its row for the table of last
//! runs in docs/testing.md.

use std::fs;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use zosbd2_vm::kernels::KernelName;

use crate::tally::Tally;
use crate::{command, fetch, from_archive, fuzz, gates, narrate, paths, setup, sim, vm};

/// File with the table of last runs.
const TABLE: &str = "docs/testing.md";

/// Arguments of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only these parts; all, one after the other, if none is given
    #[arg(long = "part", value_delimiter = ',')]
    parts: Vec<String>,
    /// Only list the parts
    #[arg(long)]
    list: bool,
}

/// A part of the tests.
struct Part {
    name: &'static str,
    what: &'static str,
    work: Work,
}

/// The work of a part.
enum Work {
    /// `cargo xtask vm` with these arguments.
    Vm(&'static [&'static str]),
    /// The VM tests of `make test`, with these arguments.
    Suite(&'static [&'static str]),
    /// The gates and the VM tests of `make test`, for one kernel that the gates of `make test` may leave out.
    Newer(&'static str),
    /// All VM tests but the second list, with these arguments.
    Without(&'static [&'static str], &'static [&'static str]),
    /// These tests, which `make test` leaves out, on 6.1 and 6.12.
    Also(&'static [&'static str]),
    /// These tests on the debug kernel, without [`LONG`] and [`DATA`].
    Debug(&'static [&'static str]),
    /// All other tests on the debug kernel but [`LONG`] and [`DATA`].
    DebugRest,
    /// [`LONG`] and [`DATA`] on the debug kernel.
    DebugLong,
    /// Some tests with the release archive's module, on every kernel.
    Archive,
    /// The simulator, for this many steps.
    Sim(u64),
    /// Each fuzz target, for this many minutes.
    Fuzz(u64),
}

const fn part(name: &'static str, what: &'static str, work: Work) -> Part {
    Part { name, what, work }
}

const BOTH: [&str; 4] = ["--kernel", "6.1", "--kernel", "6.12"];

/// Name prefixes of the tests in the parts for the debug kernel. The last of these parts has all other tests.
const DEBUG_LIFE: &[&str] = &["v2_t*", "v2_d*", "v2_c*", "v2_a*", "v2_b*"];
const DEBUG_DEATHS: &[&str] = &["v2_k*", "v2_l*", "v2_fa*", "v2_fl*", "v2_s*"];
const DEBUG_FAILURES: &[&str] = &["fail_nth_*", "ioctl_fuzz", "kasan_*"];

/// VM tests that `make test` leaves out, because they take minutes. Part `long` has them.
const LONG: &[&str] = &[
    "v2_killed_200_times_file",
    "v2_killed_200_times_memory",
    "v2_memory_pressure",
    "v2_memory_pressure_direct",
    "v2_swap_on_a_raw_store",
    "v2_taken_over_200_times_file",
    "v2_taken_over_200_times_memory",
];

/// Likewise, in part `data`: they repeat what `make test` has, or move much data on kinds of stores that have a
/// sibling there. Part `dirty` has them, too.
const DATA: &[&str] = &[
    "churn_200_rounds",
    "command_100_disks",
    "insmod_rmmod_100",
    "names_of_every_length_and_byte",
    "v2_churn_keeps_no_memory",
    "v2_conformance_buffered",
    "v2_conformance_direct_file",
    "v2_conformance_of_4096_byte_blocks",
    "v2_crash_and_another_server",
    "v2_faulty_conformance",
    "v2_faulty_drop_and_requeue",
    "v2_shared_memory_full_of_writes",
    "v2_store_buffered_device_of_4096",
    "v2_store_direct_device_of_4096",
    "v2_store_direct_xfs_on_4096",
];

const PARTS: [Part; 16] = [
    part(
        "dirty",
        "the VM tests on 6.1 and 6.12, with memory that the kernel does not zero",
        Work::Without(&["--kernel", "6.1", "--kernel", "6.12", "--append", "init_on_alloc=0"], LONG),
    ),
    part(
        "long",
        "what takes minutes: memory pressure, swap, 200 deaths and take-overs, on 6.1 and 6.12",
        Work::Also(LONG),
    ),
    part("data", "more kinds of stores, more data, more repetitions, on 6.1 and 6.12", Work::Also(DATA)),
    part(
        "generic",
        "the VM tests on the generic flavours of 6.1 and 6.12",
        Work::Suite(&["--kernel", "6.1-generic", "--kernel", "6.12-generic"]),
    ),
    part("trixie", "gates and VM tests on Debian 13's 6.12", Work::Newer("6.12-trixie")),
    part(
        "backports",
        "gates and VM tests on the newest kernel of Debian 13's backports",
        Work::Newer("backports"),
    ),
    part("sid", "gates and VM tests on the newest kernel of Debian's development", Work::Newer("sid")),
    part("archive", "the release archive's module, built without Rust, on every kernel", Work::Archive),
    part(
        "debug-life",
        "debug kernel: devices made, attached to, torn down; data; crashes",
        Work::Debug(DEBUG_LIFE),
    ),
    part("debug-deaths", "debug kernel: killed and late servers, faults, flushes", Work::Debug(DEBUG_DEATHS)),
    part(
        "debug-failures",
        "debug kernel: failing allocations and copies, ioctl fuzzer",
        Work::Debug(DEBUG_FAILURES),
    ),
    part("debug-rest", "debug kernel: version 1, and all others but those of the next part", Work::DebugRest),
    part("debug-long", "debug kernel: the tests of the parts long and data", Work::DebugLong),
    part(
        "ioctl-fuzz",
        "the ioctl fuzzer on 6.12 for 30 minutes",
        Work::Vm(&["--kernel", "6.12", "--set", "fuzz_minutes=30", "ioctl_fuzz_long"]),
    ),
    part("sim", "three thousand million steps of the simulator", Work::Sim(3_000_000_000)),
    part("fuzz", "each fuzz target for 15 minutes", Work::Fuzz(15)),
];

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let names = || PARTS.map(|part| part.name).join(", ");
    for wanted in &arguments.parts {
        ensure!(
            PARTS.iter().any(|part| part.name == wanted),
            "unknown part {wanted}: the parts are {}",
            names()
        );
    }
    let chosen =
        |part: &&Part| arguments.parts.is_empty() || arguments.parts.iter().any(|name| name == part.name);
    if arguments.list {
        let table = table()?;
        for part in PARTS.iter().filter(chosen) {
            println!("{:<15} {}", part.name, part.what);
            println!("{:<15} last run: {}", "", last_run(&table, part.name).unwrap_or("none"));
        }
        return Ok(());
    }
    setup::install()?;
    let (mut sum, mut rows) = (Tally::default(), Vec::new());
    for part in PARTS.iter().filter(chosen) {
        println!("== {}: {}", part.name, part.what);
        let start = Instant::now();
        let doing = narrate::doing(part.name);
        let (commit, today) = (commit()?, today()?);
        let tally = part.run().unwrap_or_else(|error| {
            println!("{error:#}");
            Tally::failed(format!("{error:#}").lines().next().unwrap_or_default().to_owned())
        });
        drop(doing);
        let minutes = start.elapsed().as_secs().div_ceil(60);
        rows.push(format!("| `{}` | {commit} | {today} | {tally}, {minutes} min |", part.name));
        sum.add(part.name, tally);
    }
    println!("== rows for the table in {TABLE}");
    for row in &rows {
        println!("{row}");
    }
    sum.print();
    ensure!(sum.failed.is_empty(), "not everything passed");
    Ok(())
}

impl Part {
    /// The stock kernels that it boots.
    fn kernels(&self) -> Vec<KernelName> {
        let named = |words: &[&str]| {
            let kernels = vm::arguments(words).kernels.into_iter();
            kernels.filter(|name| !name.is_debug()).collect()
        };
        match self.work {
            Work::Vm(words) | Work::Suite(words) | Work::Without(words, _) => named(words),
            Work::Newer(name) => named(&["--kernel", name]),
            Work::Also(_) => named(&BOTH),
            Work::Archive => KernelName::all_stock().collect(),
            Work::Debug(_) | Work::DebugRest | Work::DebugLong | Work::Sim(_) | Work::Fuzz(_) => Vec::new(),
        }
    }

    /// Asks for newer releases of its kernels, and runs it.
    fn run(&self) -> Result<Tally> {
        for name in self.kernels() {
            fetch::renew(name)?;
        }
        match self.work {
            Work::Vm(words) => vm::results(words),
            Work::Suite(words) => suite(words),
            Work::Newer(name) => {
                let mut sum = Tally::default();
                sum.add("gates", gates_of(name.parse()?)?);
                sum.add("VM tests", suite(&["--kernel", name])?);
                Ok(sum)
            }
            Work::Without(words, names) => without(words, names),
            Work::Also(tests) => vm::results(&[&BOTH, tests].concat()),
            Work::Debug(tests) => suite(&[&["--kernel", "debug"], tests].concat()),
            Work::DebugRest => {
                let others = PARTS.iter().flat_map(|part| match part.work {
                    Work::Debug(tests) => tests,
                    _ => &[],
                });
                let without = others.flat_map(|name| ["--without", name]);
                suite(&["--kernel", "debug"].into_iter().chain(without).collect::<Vec<_>>())
            }
            Work::DebugLong => vm::results(&[&["--kernel", "debug"], LONG, DATA].concat()),
            Work::Archive => from_archive::boots(),
            Work::Sim(steps) => sim::steps(steps).map(|()| Tally::passed(1)),
            Work::Fuzz(minutes) => fuzz::all(minutes).map(|()| Tally::passed(1)),
        }
    }
}

/// The gates of one kernel's modules, which count as one test.
fn gates_of(name: KernelName) -> Result<Tally> {
    let Ok(kernel) = fetch::to_test(name)? else {
        // The VM tests count it as skipped.
        return Ok(Tally::default());
    };
    let _doing = narrate::doing(format!("gates of {}", kernel.release));
    Ok(match gates::of_kernel(&kernel) {
        Ok(skipped) => Tally { skipped, ..Tally::passed(1) },
        Err(error) => Tally::failed(format!("{error:#}")),
    })
}

/// All VM tests but [`LONG`] and [`DATA`], with these arguments.
pub(crate) fn suite(words: &[&str]) -> Result<Tally> {
    without(words, &[LONG, DATA].concat())
}

/// All VM tests but these, with these arguments.
fn without(words: &[&str], names: &[&str]) -> Result<Tally> {
    let names = names.iter().flat_map(|name| ["--without", name]);
    vm::results(&words.iter().copied().chain(names).collect::<Vec<_>>())
}

fn table() -> Result<String> {
    fs::read_to_string(paths::root().join(TABLE)).with_context(|| format!("read {TABLE}"))
}

/// The rows of the table of last runs. Other tables of the file have rows of the same names, of kernels.
fn rows(text: &str) -> impl Iterator<Item = &str> {
    let table = text.lines().skip_while(|line| *line != "| part | commit | date | result |").skip(2);
    table.take_while(|line| line.starts_with('|'))
}

/// The row of a part: commit, date, result.
fn last_run<'a>(text: &'a str, part: &str) -> Option<&'a str> {
    let start = format!("| `{part}` | ");
    rows(text).find_map(|line| line.strip_prefix(start.as_str())?.strip_suffix(" |"))
}

/// The checked-out commit; with a plus if there are uncommitted changes.
fn commit() -> Result<String> {
    let more = if command::has_changes()? { "+" } else { "" };
    Ok(command::git(&["rev-parse", "--short", "HEAD"])?.trim().to_owned() + more)
}

fn today() -> Result<String> {
    let output = command::finish(Command::new("date").args(["-u", "+%F"]))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if text.is_empty() {
        bail!("`date` prints nothing");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_a_row_in_the_table_and_no_other() {
        let table = table().unwrap();
        for part in &PARTS {
            let row =
                last_run(&table, part.name).unwrap_or_else(|| panic!("{} has no row in {TABLE}", part.name));
            assert_eq!(row.split(" | ").count(), 3, "{}: commit, date, result: {row}", part.name);
        }
        assert_eq!(rows(&table).count(), PARTS.len());
    }

    #[test]
    fn rows_of_other_tables_do_not_count() {
        let text = "| name | release |\n|---|---|\n| `sid` | 7.2 | sid | root |\n\n\
                    | part | commit | date | result |\n|---|---|---|---|\n| `sid` | abc | today | passed |\n\n\
                    | `late` | x | y | z |\n";
        assert_eq!(last_run(text, "sid"), Some("abc | today | passed"));
        assert_eq!(last_run(text, "late"), None);
    }

    /// Each row of README's table with a run names a part that boots this kernel with a module from there, and has the
    /// commit and the date that the table of last runs has.
    #[test]
    fn runs_in_readme_are_those_of_the_table_of_last_runs() {
        let (readme, table) = (include_str!("../../README.md"), table().unwrap());
        let start = readme.find("| kernel (Debian, amd64) |").expect("the table of kernels");
        let rows = readme[start..].lines().skip(2).take_while(|line| line.starts_with('|'));
        let mut runs = 0;
        for row in rows {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            let [kernel, from, _, tests, run] = cells[..] else { panic!("{row}") };
            let archive = from == "release archive";
            let tests_of_archive = format!("{} tests", from_archive::BOOTS.len());
            assert_eq!(tests == tests_of_archive, archive, "{row}");
            assert!(archive || tests.starts_with("whole suite"), "{row}");
            if run == "not run yet" {
                continue;
            }
            runs += 1;
            let words: Vec<&str> = run.split([',', ';']).map(str::trim).collect();
            let [name, commit, date, ..] = words[..] else { panic!("{row}") };
            let part = PARTS.iter().find(|part| format!("`{}`", part.name) == name);
            let part = part.unwrap_or_else(|| panic!("{row}: no such part"));
            let last = last_run(&table, part.name).unwrap();
            assert!(last.starts_with(&format!("{commit} | {date} | ")), "{row}\n  and {TABLE}: {last}");
            let line = KernelName::all_stock().find(|name| name.row() == Some(kernel)).unwrap();
            assert!(part.kernels().contains(&line), "{row}: the part does not boot it");
            assert_eq!(matches!(part.work, Work::Archive), archive, "{row}");
        }
        assert!(runs > 0);
    }

    #[test]
    fn every_test_in_a_list_exists() {
        fn read(folder: &std::path::Path, text: &mut String) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    read(&path, text);
                } else {
                    text.push_str(&fs::read_to_string(&path).unwrap());
                }
            }
        }
        let mut sources = String::new();
        read(&paths::root().join("vm/guest/src/tests"), &mut sources);
        let lists = crate::test::LISTS.into_iter().chain([&from_archive::BOOTS[..], LONG, DATA]);
        for name in lists.flatten() {
            assert!(sources.contains(&format!("\"{name}\"")), "{name}");
        }
    }

    #[test]
    fn names_are_unique() {
        for (index, part) in PARTS.iter().enumerate() {
            assert!(PARTS[..index].iter().all(|other| other.name != part.name), "{}", part.name);
        }
    }

    #[test]
    fn words_are_those_of_the_vm_command() {
        for part in &PARTS {
            match part.work {
                Work::Vm(words) => assert!(!vm::arguments(words).kernels.is_empty()),
                Work::Newer(name) => assert_eq!(name.parse::<KernelName>().unwrap().to_string(), name),
                _ => {}
            }
        }
    }
}
