// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask fuzz`: builds the fuzz targets of `fuzz/` for libFuzzer and runs them.
//!
//! The flags are those of `cargo fuzz`, as far as the stable compiler has them: coverage and comparisons are
//! instrumented. There is no sanitizer, because safe code does not need one. Failing inputs go to
//! `target/fuzz/found/`. With `--merge`, inputs that reach new code are added to `fuzz/corpus/`.

use crate::{command, narrate, paths, setup};
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};
use zosbd2_vm::arch;

/// Arguments of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Target to run; all by default
    target: Option<String>,
    /// How long to run each, in minutes
    #[arg(long, default_value_t = 1)]
    minutes: u64,
    /// Seed of the inputs; the time by default
    #[arg(long)]
    seed: Option<u32>,
    /// Keep in fuzz/corpus/ what reaches something new, and only that
    #[arg(long)]
    merge: bool,
}

const TARGETS: [&str; 2] = ["decode", "engine"];
const PACKAGES: [(&str, &str); 1] = [("g++", "compiles libFuzzer")];
const FLAGS: [&str; 7] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];

/// Runs every target for this many minutes, with a new seed.
pub(crate) fn all(minutes: u64) -> Result<()> {
    run(&Arguments { target: None, minutes, seed: None, merge: false })
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::install_packages(&PACKAGES)?;
    let wanted = |name: &&&str| arguments.target.as_deref().is_none_or(|target| target == **name);
    let targets: Vec<&str> = TARGETS.iter().filter(wanted).copied().collect();
    ensure!(
        !targets.is_empty(),
        "unknown target {}: the targets are {}",
        arguments.target.as_deref().unwrap_or_default(),
        TARGETS.join(", ")
    );
    build()?;
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.subsec_nanos() | 1);
    targets.into_iter().try_for_each(|name| fuzz(name, arguments, arguments.seed.unwrap_or(time)))
}

fn output() -> PathBuf {
    paths::root().join("target/fuzz")
}

fn build() -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // With `--target`, the flags do not apply to build scripts.
    command.current_dir(paths::root().join("fuzz")).args([
        "build",
        "--quiet",
        "--release",
        "--target",
        arch::host().guest_target,
    ]);
    command.arg("--target-dir").arg(output()).env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
    let _doing = narrate::doing("building the fuzz targets");
    let status = command.status().context("run cargo")?;
    ensure!(status.success(), "the fuzz targets do not build");
    Ok(())
}

fn fuzz(name: &str, arguments: &Arguments, seed: u32) -> Result<()> {
    let corpus = paths::root().join("fuzz/corpus").join(name);
    let (own, found) = (output().join("corpus").join(name), output().join("found"));
    for folder in [&corpus, &own, &found] {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    println!("== {name}, seed {seed}");
    let doing = narrate::doing(format!("fuzzing {name} for {} minutes", arguments.minutes));
    let program = output().join(arch::host().guest_target).join("release").join(name);
    let mut command = Command::new(&program);
    command.arg(format!("-seed={seed}")).arg(format!("-max_total_time={}", arguments.minutes * 60));
    command.arg(format!("-artifact_prefix={}/{name}-", found.display()));
    // libFuzzer writes new inputs into the first folder.
    command.args(["-max_len=512", "-print_final_stats=1", "-verbosity=0"]).arg(&own).arg(&corpus);
    let log = output().join(format!("{name}.log"));
    let file = fs::File::create(&log).with_context(|| format!("create {}", log.display()))?;
    let status = command.stderr(file).status().with_context(|| format!("run {}", program.display()))?;
    ensure!(status.success(), "{name} found something, see {} and {}", found.display(), log.display());
    let said = fs::read_to_string(&log).unwrap_or_default();
    for line in said.lines().filter_map(|line| line.strip_prefix("stat::")) {
        println!("{name}: {line}");
    }
    // Coverage of all known inputs.
    doing.next(format!("{name}: measuring coverage"));
    let smallest = output().join("merged").join(name);
    let _ = fs::remove_dir_all(&smallest);
    fs::create_dir_all(&smallest).with_context(|| format!("create {}", smallest.display()))?;
    let mut merge = Command::new(&program);
    merge.args(["-set_cover_merge=1", "-max_len=512"]).arg(&smallest).arg(&corpus).arg(&own);
    command::finish(&mut merge).with_context(|| format!("{name}: merge"))?;
    let covering = command::finish(Command::new(&program).arg("-runs=0").arg(&smallest))?;
    let said = String::from_utf8_lossy(&covering.stderr);
    let (covered, all) = coverage(&said).with_context(|| format!("{name}: no coverage in: {said}"))?;
    println!("{name}: {covered} of {all} edges covered");
    if arguments.merge {
        fs::remove_dir_all(&corpus).with_context(|| format!("remove {}", corpus.display()))?;
        fs::create_dir_all(&corpus).with_context(|| format!("create {}", corpus.display()))?;
        for entry in fs::read_dir(&smallest).context("list the merged corpus")? {
            let entry = entry?;
            fs::copy(entry.path(), corpus.join(entry.file_name())).context("keep an input")?;
        }
    }
    Ok(())
}

/// Number of edges that the inputs covered, and number of all edges. The output of a merge is no use: it counts
/// the edges that each input adds, in its own order.
fn coverage(said: &str) -> Option<(u32, u32)> {
    let after = |what: &str| said.split_once(what)?.1.split_whitespace().next()?.parse().ok();
    let all = said.split_once(" inline 8-bit counters)")?.0.rsplit_once('(')?.1.parse().ok()?;
    Some((after("INITED cov: ")?, all))
}

#[cfg(test)]
mod tests {
    use super::coverage;

    #[test]
    fn coverage_is_of_all_inputs() {
        let said = "INFO: Running with entropic power schedule (0xFF, 100).\n\
                    INFO: Loaded 1 modules   (984 inline 8-bit counters): 984 [0x1, 0x2), \n\
                    #403\tINITED cov: 434 ft: 2497 corp: 398/74Kb exec/s: 0 rss: 27Mb\n";
        assert_eq!(coverage(said), Some((434, 984)));
        assert_eq!(coverage("INFO: Loaded 1 modules   (984 inline 8-bit counters)"), None);
    }
}
