// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask vm --kernel 6.12 [TEST...]`: boots kernels in QEMU and runs tests in them, or a shell ([`session`]).
//!
//! Builds the module for each kernel, and the guest's programs, before the first boot. Several kernels run side by
//! side. Every test prints one line; the last line has the counts. The command succeeds only if no test failed.
//! Console logs stay in `target/vm`.

pub(crate) mod session;
pub(crate) mod session_test;

use crate::lock::lock;
use crate::narrate::{self, Doing};
use crate::tally::Tally;
use crate::{examples, fetch, kmod, paths};
use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Mutex, OnceLock};
use std::time::{Instant, SystemTime};
use zosbd2_vm::accel::Accel;
use zosbd2_vm::arch;
use zosbd2_vm::hardware::Hardware;
use zosbd2_vm::initramfs::Contents;
use zosbd2_vm::kernels::{self, Kernel, KernelName};
use zosbd2_vm::machine::{Machine, TestResult};
use zosbd2_vm::protocol::{Line, Outcome, Plan};
use zosbd2_vm::suite::{self, Report, TestInfo};

/// The variant of the module that users get.
const RELEASE: &str = "release";

/// Default memory of the machine, in MiB.
const MEMORY_MIB: u32 = 2048;

/// Arguments of the command.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Kernels, one run each; the names are those of `cargo xtask fetch --help`
    #[arg(long = "kernel", default_values = ["6.12"])]
    pub(crate) kernels: Vec<KernelName>,
    /// More arguments for the kernel
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) append: Vec<String>,
    /// Virtual processors
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) smp: u32,
    /// Memory; by default what each test wants, usually 2G, and twice as much for the debug kernel
    #[arg(long)]
    pub(crate) mem: Option<String>,
    /// Count instructions instead of time: for benchmarks
    #[arg(long)]
    pub(crate) icount: bool,
    /// Which module to build; by default the one that each test is for
    #[arg(long, value_enum)]
    pub(crate) variant: Option<kmod::Variant>,
    /// Use this zosbd2.ko instead of building one
    #[arg(long)]
    pub(crate) module: Option<PathBuf>,
    /// Run without a module: tests that need one are skipped
    #[arg(long, conflicts_with = "module")]
    pub(crate) no_module: bool,
    /// Seed of the tests' random numbers; by default a new one every time
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Multiply all deadlines; by default 1, and more where the guest is slow by nature
    #[arg(long)]
    pub(crate) slowness: Option<u32>,
    /// NAME=VALUE for tests that look for it
    #[arg(long = "set", value_parser = setting)]
    pub(crate) settings: Vec<String>,
    /// Virtual machines at a time
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) jobs: u32,
    /// Leave out these tests, by name or `BEGINNING*`
    #[arg(long)]
    pub(crate) without: Vec<String>,
    /// Only list the tests
    #[arg(long)]
    pub(crate) list: bool,
    #[command(flatten)]
    pub(crate) session: session::Options,
    /// More files and folders for the guest: path there, path here
    #[arg(skip)]
    pub(crate) files: Vec<(String, PathBuf)>,
    /// More modules of the kernel
    #[arg(skip)]
    pub(crate) kernel_modules: Vec<String>,
    /// More programs of the host, with their packages
    #[arg(skip)]
    pub(crate) tools: Vec<(String, String)>,
    /// Tests, by name or `BEGINNING*`; all if none is given
    pub(crate) tests: Vec<String>,
}

/// A setting for tests, if it has a name and a value.
fn setting(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((name, _)) if !name.is_empty() => Ok(text.to_owned()),
        _ => Err("it is not NAME=VALUE".to_owned()),
    }
}

/// The arguments of `cargo xtask vm WORDS...`, for other commands that run tests.
pub(crate) fn arguments(words: &[&str]) -> Arguments {
    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        arguments: Arguments,
    }
    let words = ["vm"].iter().chain(words);
    <Command as clap::Parser>::parse_from(words).arguments
}

/// One kernel with one set of kernel arguments.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) kernel: KernelName,
    pub(crate) append: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if arguments.session.asked()? {
        check_accel()?;
        return session::run(arguments).map(ExitCode::from);
    }
    run_tests(arguments).map(|()| ExitCode::SUCCESS)
}

fn run_tests(arguments: &Arguments) -> Result<()> {
    if arguments.list {
        for test in suite::list(&guest_programs()?.init)?.iter().filter(|test| !test.hidden) {
            let variant = if test.variant == RELEASE { "" } else { &test.variant };
            let kernel = if test.debug_only { "(debug kernel)" } else { "" };
            println!("{} {variant}{kernel} {}", test.name, test.hardware);
        }
        return Ok(());
    }
    let tally = tally(&reports(arguments, &runs(arguments))?);
    tally.print();
    ensure!(tally.failed.is_empty(), "tests failed; console logs are in target/vm");
    Ok(())
}

/// Runs `cargo xtask vm WORDS...`, and returns the counts.
pub(crate) fn results(words: &[&str]) -> Result<Tally> {
    let arguments = arguments(words);
    Ok(tally(&reports(&arguments, &runs(&arguments))?))
}

/// The runs for these arguments.
pub(crate) fn runs(arguments: &Arguments) -> Vec<Run> {
    let append = &arguments.append;
    arguments.kernels.iter().map(|kernel| Run { kernel: *kernel, append: append.clone() }).collect()
}

/// Test results of all runs.
pub(crate) fn tally(reports: &[(String, Report)]) -> Tally {
    let mut sum = Tally::default();
    for (label, report) in reports {
        let mut own = Tally::default();
        for result in &report.results {
            // The full reason was printed when the test ended.
            let named = |why: &str| format!("{}: {}", result.name, why.lines().next().unwrap_or_default());
            match &result.outcome {
                Outcome::Passed => own.passed += 1,
                Outcome::Failed(why) => own.failed.push(named(why)),
                Outcome::Skipped(why) => own.skipped.push(named(why)),
            }
        }
        sum.add(label, own);
    }
    sum
}

/// Runs the tests in every run, `jobs` at a time, and returns the reports with their labels. If a run could not be
/// completed, the error is returned after the other runs have ended.
pub(crate) fn reports(arguments: &Arguments, runs: &[Run]) -> Result<Vec<(String, Report)>> {
    check_accel()?;
    if let Some(module) = &arguments.module {
        ensure!(module.exists(), "there is no module {}: `make kmod KDIR=...` builds one", module.display());
    }
    // Two builds at once would write into the same folders.
    let building = lock(&kernels::target().join("vm/build.lock"), "the build of another run of VM tests")?;
    let programs = guest_programs()?;
    let gathering = narrate::doing("building the examples, and gathering Python");
    let cached = vec![examples::python()?, examples::build()?];
    drop(gathering);
    let all = suite::list(&programs.init)?;
    let without = match arguments.without.as_slice() {
        [] => Vec::new(),
        names => suite::select(&all, names, true)?,
    };
    let (mut prepared, mut complete) = (Vec::new(), Vec::new());
    for run in runs {
        let kernel = match fetch::to_test(run.kernel)? {
            Ok(kernel) => kernel,
            Err(reason) => {
                complete.push(skipped(run, reason));
                continue;
            }
        };
        let mut tests = suite::select(&all, &arguments.tests, run.kernel.is_debug())?;
        tests.retain(|test| !without.contains(test));
        for group in groups(arguments.variant, &tests)? {
            prepared.push(prepare(arguments, run, &kernel, &programs, &cached, group)?);
        }
    }
    drop(building);
    ensure!(
        !(prepared.is_empty() && complete.is_empty()),
        "no test is left: --without names all tests of this run"
    );
    prepared.reverse();
    let queue = Mutex::new(prepared);
    let reports = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("no thread panics with it").pop();
                    let Some(job) = next else { return };
                    let report = job.run();
                    reports.lock().expect("no thread panics with it").push((job.label.clone(), report));
                }
            });
        }
    });
    let mut broken = Vec::new();
    for (label, report) in reports.into_inner().expect("no thread panics with it") {
        match report {
            Ok(report) => complete.push((label, report)),
            Err(error) => broken.push(format!("{label}: {error:#}")),
        }
    }
    if !broken.is_empty() {
        bail!("{}", broken.join("\n"));
    }
    Ok(complete)
}

fn check_accel() -> Result<()> {
    let accel = std::env::var("ZOSBD2_ACCEL").unwrap_or_default();
    ensure!(
        ["", "kvm", "tcg"].contains(&accel.as_str()),
        "ZOSBD2_ACCEL is {accel:?}: it can be kvm or tcg, or unset for a trial"
    );
    Ok(())
}

/// The report of a run whose kernel cannot be had.
fn skipped(run: &Run, reason: String) -> (String, Report) {
    println!("[{}] every test ... skipped: {reason}", run.kernel);
    narrate::said();
    let result =
        TestResult { name: "every test".to_owned(), outcome: Outcome::Skipped(reason), seconds: 0.0 };
    (run.kernel.to_string(), Report { results: vec![result], ..Report::default() })
}

/// Programs for the guest.
pub(crate) struct Programs {
    pub(crate) init: PathBuf,
    pub(crate) programs: Vec<PathBuf>,
}

/// Builds the guest's init and the project's programs, statically linked.
pub(crate) fn guest_programs() -> Result<Programs> {
    let _doing = narrate::doing("building the guest's programs");
    let target = kernels::target().join("guest");
    let mut cargo = guest_cargo(&target);
    cargo.args([
        "-p",
        "zosbd2-vm-guest",
        "-p",
        "zosbd2-examples",
        "-p",
        "zosbd2-backends",
        "-p",
        "zosbd2-cli",
        "--bins",
    ]);
    let status = cargo.status().context("run cargo")?;
    ensure!(status.success(), "building the guest's programs failed");
    let folder = target.join(arch::host().guest_target).join("release");
    let names = [
        "zosbd2_sample_ramdisk",
        "hello_disk",
        "slow_disk",
        "http_disk",
        "crypt_disk",
        "mirror_disk",
        "zosbd2-conformance",
        "zosbd2",
    ];
    let mut programs: Vec<PathBuf> = names.iter().map(|name| folder.join(name)).collect();
    programs.extend(c_programs(&target)?);
    Ok(Programs { init: folder.join("zosbd2-vm-guest"), programs })
}

/// A build of programs for guests, statically linked.
pub(crate) fn guest_cargo(target: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(paths::root())
        .args(["build", "--quiet", "--release", "--target", arch::host().guest_target, "--target-dir"])
        .arg(target)
        // Without debug information the initramfs is a tenth of the size.
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static -Cstrip=debuginfo");
    cargo
}

/// Builds the samples in C, statically linked.
fn c_programs(target: &Path) -> Result<Vec<PathBuf>> {
    let root = paths::root();
    let program = target.join("zosbd2_ramdisk");
    let status = Command::new("cc")
        .args(["-O2", "-static", "-pthread", "-I"])
        .arg(root.join("abi/include"))
        .arg(root.join("examples/c/zosbd2_ramdisk.c"))
        .arg("-o")
        .arg(&program)
        .status()
        .context("run cc (package gcc): `cargo xtask setup` installs it")?;
    ensure!(status.success(), "compiling examples/c/zosbd2_ramdisk.c failed");
    Ok(vec![program])
}

/// What runs the virtual machines: determined once, with the first kernel, and printed. `ZOSBD2_ACCEL=kvm` or
/// `tcg` decides without a trial.
pub(crate) fn accel_of(vmlinuz: &Path) -> Accel {
    static FOUND: OnceLock<Accel> = OnceLock::new();
    let find = || {
        let asked = std::env::var("ZOSBD2_ACCEL").unwrap_or_default();
        let accel = match asked.as_str() {
            "kvm" => Accel::Kvm,
            // Checked before.
            "tcg" => Accel::Tcg("ZOSBD2_ACCEL=tcg".to_owned()),
            _ => {
                let _doing = narrate::doing("trying whether KVM runs the guest");
                Accel::find(vmlinuz)
            }
        };
        narrate::tell(&accel.to_string());
        narrate::said();
        accel
    };
    FOUND.get_or_init(find).clone()
}

/// A run that is ready to boot.
struct Job {
    label: String,
    machine: Machine,
    contents: Contents,
    plan: Plan,
    /// Held while the folder is in use.
    _lock: File,
}

/// An empty folder in target/vm that no other run uses, with this name or with this name and a number.
fn own_folder(name: &str) -> Result<(PathBuf, File)> {
    let parent = kernels::target().join("vm");
    fs::create_dir_all(parent.join("locks")).with_context(|| format!("create {}", parent.display()))?;
    for number in 1.. {
        let own = if number == 1 { name.to_owned() } else { format!("{name}-{number}") };
        let lock_path = parent.join("locks").join(&own);
        let lock = File::create(&lock_path).with_context(|| format!("create {}", lock_path.display()))?;
        if lock.try_lock().is_ok() {
            let folder = parent.join(own);
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
            return Ok((folder, lock));
        }
    }
    bail!("no folder for {name}")
}

fn copy(file: &Path, folder: &Path) -> Result<PathBuf> {
    let to = folder.join(file.file_name().context("a file has a name")?);
    fs::copy(file, &to).with_context(|| format!("copy {} to {}", file.display(), to.display()))?;
    Ok(to)
}

/// Tests that can share a boot, because they need the same module and the same machine.
struct Group {
    variant: kmod::Variant,
    hardware: Hardware,
    tests: Vec<String>,
}

fn groups(forced: Option<kmod::Variant>, tests: &[TestInfo]) -> Result<Vec<Group>> {
    let mut groups: Vec<Group> = Vec::new();
    for test in tests {
        let own = || kmod::Variant::from_str(&test.variant, false).map_err(anyhow::Error::msg);
        let variant = forced.map_or_else(own, Ok)?;
        let hardware = test.hardware;
        let fits = |group: &&mut Group| group.variant == variant && group.hardware == hardware;
        match groups.iter_mut().find(fits) {
            Some(group) => group.tests.push(test.name.clone()),
            None => groups.push(Group { variant, hardware, tests: vec![test.name.clone()] }),
        }
    }
    Ok(groups)
}

fn prepare(
    arguments: &Arguments,
    run: &Run,
    kernel: &Kernel,
    programs: &Programs,
    cached: &[Vec<(String, PathBuf)>],
    group: Group,
) -> Result<Job> {
    let Group { variant, hardware, tests } = group;
    let built = if arguments.module.is_none() && !arguments.no_module {
        Some(kmod::build(&kernel.headers, &kmod::How::plain(variant))?)
    } else {
        None
    };
    let variant = format!("{variant:?}").to_lowercase();
    let special = if variant == RELEASE { Vec::new() } else { vec![variant.clone()] };
    let machine = hardware.to_string();
    let special = special.into_iter().chain(Some(machine.clone()).filter(|words| !words.is_empty()));
    let words = std::iter::once(run.kernel.to_string()).chain(run.append.iter().cloned()).chain(special);
    let label = words.collect::<Vec<_>>().join(" ");
    let what = match (tests.as_slice(), arguments.tests.is_empty()) {
        ([only], _) => only.clone(),
        (_, true) => "all".to_owned(),
        (_, false) => "some".to_owned(),
    };
    let append = run.append.join("-").replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let words = [run.kernel.to_string(), append, variant.clone(), machine, what];
    let words: Vec<String> = words.into_iter().filter(|word| !word.is_empty()).collect();
    let (folder, lock) = own_folder(&words.join("-"))?;
    // The next build may replace the files while this run waits for its turn.
    let module = arguments.module.as_deref().or(built.as_ref().map(kmod::Module::path));
    let module = module.map(|module| copy(module, &folder)).transpose()?;
    drop(built);
    let init = copy(&programs.init, &folder)?;
    let own = programs.programs.iter().map(|program| copy(program, &folder)).collect::<Result<_>>()?;
    // Counting instructions runs all processors on one host thread, and the guest sees more time pass. The debug
    // kernel checks every memory access.
    let slow = arguments.icount || run.kernel.is_debug();
    let slowness = arguments.slowness.unwrap_or(if slow { 10 } else { 1 });
    // KASAN uses an eighth of the memory, and freed memory is kept for a while.
    let factor = if run.kernel.is_debug() { 2 } else { 1 };
    let memory = || format!("{}M", factor * hardware.memory_mib.unwrap_or(MEMORY_MIB));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("the clock is before 1970")?;
    let seed = arguments.seed.unwrap_or(now.as_secs());
    let mut settings = arguments.settings.clone();
    settings.push(format!("kernel_release={}", kernel.release));
    Ok(Job {
        label,
        machine: Machine {
            smp: arguments.smp,
            memory: arguments.mem.clone().unwrap_or_else(memory),
            disk_gib: hardware.disk_gib,
            accel: if arguments.icount {
                Accel::Tcg("instructions are counted".to_owned())
            } else {
                accel_of(&kernel.vmlinuz)
            },
            icount: arguments.icount,
            append: run.append.iter().cloned().chain(hardware.append().map(str::to_owned)).collect(),
            kernel: kernel.clone(),
            folder,
        },
        contents: Contents {
            init,
            module,
            programs: own,
            files: arguments.files.clone(),
            cached: cached.to_vec(),
            kernel_modules: arguments.kernel_modules.clone(),
            tools: arguments.tools.clone(),
        },
        plan: Plan { tests, seed, variant, slowness, settings },
        _lock: lock,
    })
}

impl Job {
    fn run(&self) -> Result<Report> {
        let start = Instant::now();
        let (label, folder) = (&self.label, self.machine.folder.display());
        let doing = narrate::doing(format!("[{label}] booting"));
        let mut on_line = |line: &Line| {
            print(label, line);
            tell(&doing, label, line);
        };
        let report = suite::run(&self.machine, &self.contents, &self.plan, &mut on_line)
            .inspect_err(|error| println!("[{label}] {error}"))?;
        let boots: Vec<String> =
            report.boots.iter().map(|time| format!("{:.1} s", time.as_secs_f64())).collect();
        let total = start.elapsed().as_secs_f64();
        println!("[{label}] {total:.1} s; boots: {}; console log: {folder}/console.log", boots.join(", "));
        Ok(report)
    }
}

fn print(label: &str, line: &Line) {
    match line {
        Line::Hello(release) => println!("[{label}] running {release}"),
        Line::Test(name, Outcome::Passed, seconds) => println!("[{label}] test {name} ... ok {seconds:.2}s"),
        Line::Test(name, Outcome::Failed(why), seconds) => {
            println!("[{label}] test {name} ... FAILED {seconds:.2}s\n    {}", why.replace('\n', "\n    "));
        }
        Line::Test(name, Outcome::Skipped(why), _) => println!("[{label}] test {name} ... skipped: {why}"),
        Line::Say(text) => println!("[{label}] {text}"),
        Line::Start(..) | Line::Going(..) | Line::Data(_) | Line::Exit(_) | Line::Verdict { .. } => return,
    }
    narrate::said();
}

/// Updates the description of the machine's work after this line.
fn tell(doing: &Doing, label: &str, line: &Line) {
    match line {
        Line::Hello(_) => doing.next(format!("[{label}] preparing the first test")),
        Line::Start(name, _) => doing.next(format!("[{label}] {name}")),
        Line::Going(_, _, step) => doing.detail(step.as_str()),
        Line::Test(name, ..) => doing.next(format!("[{label}] after {name}: cleaning up, or booting again")),
        Line::Verdict { .. } => doing.next(format!("[{label}] powering off, or booting again")),
        Line::Say(_) | Line::Data(_) | Line::Exit(_) => {}
    }
}
