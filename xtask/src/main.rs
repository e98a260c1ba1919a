// SPDX-License-Identifier: MIT OR Apache-2.0
//! Developer commands, run as `cargo xtask NAME`.
//!
//! One module per command, with its `Arguments` (clap) and its `run`, which returns `Ok` only if everything
//! succeeded. `main` prints an error once, with its causes, and exits with 1.

mod abi_gen;
mod apt;
mod bench;
mod client_test;
mod command;
mod core_lib;
mod deb;
mod debug_kernel;
mod demo;
mod dist;
mod examples;
mod fetch;
mod from_archive;
mod fuzz;
mod gates;
mod host_test;
mod install;
mod kmod;
mod lock;
mod narrate;
mod oldest_rust;
mod paths;
mod root;
mod rust_flags;
mod rust_object;
mod self_test;
mod setup;
mod sim;
mod system;
mod tally;
mod test;
mod test_all;
mod toolchain;
mod vm;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write abi/include/zosbd2.h from the abi crate
    AbiGen(abi_gen::Arguments),
    /// Check that the VM harness finds failures
    SelfTest(self_test::Arguments),
    /// Check shells, commands and foreign programs in a guest, and the commands of docs/first-disk.md
    SessionTest(vm::session_test::Arguments),
    /// Install the host packages that building and testing need
    Setup(setup::Arguments),
    /// Fetch kernel images, modules and headers into the cache
    Fetch(fetch::Arguments),
    /// Run a program in a folder with another Debian's compilers
    Root(root::Arguments),
    /// Build the kernel that watches itself, into the cache
    DebugKernel(debug_kernel::Arguments),
    /// Boot a kernel in QEMU and run tests, a shell, or the conformance suite on a program of your own in it
    Vm(Box<vm::Arguments>),
    /// Build zosbd2.ko for one kernel
    Kmod(kmod::Arguments),
    /// Make the source archive of a release, with Rust objects that are ready made
    Dist(dist::Arguments),
    /// Make Debian's packages
    Deb(deb::Arguments),
    /// Install the command and what belongs to it, for systems without the packages
    Install(install::Arguments),
    /// Build modules from the release archive, in roots without Rust
    FromArchive(from_archive::Arguments),
    /// Compile the kernel part's Rust into one object
    RustObject(rust_object::Arguments),
    /// Build both variants of the module and check what no compiler promises
    Gates(gates::Arguments),
    /// Run the glue's test on the host under Miri
    Miri,
    /// Run the library's outbox in all interleavings
    Loom,
    /// Run the library's tests of owned requests and futures with the thread sanitizer
    ThreadSanitizer,
    /// Measure instructions per I/O of this project's devices and of others
    Bench(bench::Arguments),
    /// Show the RAM disk at work, from insmod to rmmod
    Demo(demo::Arguments),
    /// Run the simulator, with the arguments that it takes
    Sim(sim::Arguments),
    /// Boot a Debian system with systemd in QEMU, and test the packages in it
    System(system::Arguments),
    /// Run a fuzz target, or all, one after the other
    Fuzz(fuzz::Arguments),
    /// Run every check, and the tests on stock kernels, closing with the counts
    Test(test::Arguments),
    /// Run the parts of the tests that take long
    TestAll(test_all::Arguments),
}

fn main() -> ExitCode {
    let error = match Arguments::parse().command {
        // A command in the guest has an exit status of its own.
        Command::Vm(arguments) => vm::run(&arguments),
        other => run(other).map(|()| ExitCode::SUCCESS),
    };
    let error = match error {
        Ok(code) => return code,
        Err(error) => error,
    };
    // The causes say where it happened. A backtrace would only push the error off the end of a log.
    eprintln!("Error: {error:#}");
    ExitCode::FAILURE
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::AbiGen(arguments) => abi_gen::run(&arguments),
        Command::SelfTest(arguments) => self_test::run(&arguments),
        Command::SessionTest(arguments) => vm::session_test::run(&arguments),
        Command::Setup(arguments) => setup::run(&arguments),
        Command::Fetch(arguments) => fetch::run(&arguments),
        Command::Root(arguments) => root::run(&arguments),
        Command::DebugKernel(arguments) => debug_kernel::run(&arguments),
        Command::Vm(arguments) => vm::run(&arguments).map(drop),
        Command::Kmod(arguments) => kmod::run(&arguments),
        Command::Dist(arguments) => dist::run(&arguments),
        Command::Deb(arguments) => deb::run(&arguments),
        Command::Install(arguments) => install::run(&arguments),
        Command::FromArchive(arguments) => from_archive::run(&arguments),
        Command::RustObject(arguments) => rust_object::run(&arguments),
        Command::Gates(arguments) => gates::run(&arguments),
        Command::Miri => host_test::run(),
        Command::Loom => client_test::loom(),
        Command::ThreadSanitizer => client_test::thread_sanitizer(),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Sim(arguments) => sim::run(&arguments),
        Command::System(arguments) => system::run(&arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::TestAll(arguments) => test_all::run(&arguments),
    }
}
